"""A Command is checked in full before any process exists."""

from __future__ import annotations

import dataclasses
import errno
import grp
import io
import math
import os
import pickle
import pwd
import signal
import subprocess
import sys
import typing
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hypothesis import given, strategies as st

from fastproc.command import (
    DEVNULL,
    PIPE,
    STDOUT,
    Command,
    CommandOptions,
    Ids,
    LogFile,
    resolve_ids,
)
from fastproc.errors import SpawnError
from fastproc.limits import Limits


def test_a_plain_command_has_the_documented_defaults() -> None:
    command = Command(["true"])

    assert command.args == ("true",)
    assert command.args_block == b"true\0"
    assert (command.stdin, command.stdout, command.stderr) == (DEVNULL, None, None)
    assert (command.timeout, command.idle_timeout, command.grace) == (None, None, 5.0)
    assert command.stop_signal == signal.SIGTERM
    assert (command.start_new, command.containment, command.leftovers) == ("session", "auto", "stop")
    assert (command.env, command.env_block, command.tags) == (None, None, {})
    assert (command.head_bytes, command.tail_bytes) == (64 * 1024, 192 * 1024)


def test_the_stream_constants_are_those_of_the_standard_library() -> None:
    assert (PIPE, STDOUT, DEVNULL) == (subprocess.PIPE, subprocess.STDOUT, subprocess.DEVNULL)


def test_options_dict_and_fields_name_the_same_options() -> None:
    fields = {item.name for item in dataclasses.fields(Command) if item.init}

    assert set(typing.get_type_hints(CommandOptions)) == fields - {"args"}


# ---- arguments ----


@pytest.mark.parametrize("args", ["ls -l", b"ls -l"])
def test_a_string_is_refused_with_a_hint(args: Any) -> None:
    with pytest.raises(TypeError, match=r"list.*shlex\.split"):
        Command(args)


@pytest.mark.parametrize(
    "args",
    [
        Path("/bin/true"),
        5,
        None,
        {"ls": 1},
        {"ls"},
        pytest.param(iter(["ls"]), id="an iterator"),
        bytearray(b"ls"),
    ],
    ids=repr,
)
def test_what_is_no_sequence_is_refused(args: Any) -> None:
    with pytest.raises(TypeError, match="must be a list"):
        Command(args)


@pytest.mark.parametrize("args", [[], (), [""], [b""], ["", "x"]])
def test_empty_arguments_and_an_empty_program_are_refused(args: Any) -> None:
    with pytest.raises(ValueError, match="must name a program"):
        Command(args)


def test_an_empty_argument_is_an_argument() -> None:
    assert Command(["printf", ""]).args_block == b"printf\0\0"


@pytest.mark.parametrize("args", [["a\0b"], ["a", b"b\0"], ["a", PurePosixPath("b\0")], ["a", "x", "\0"]])
def test_a_nul_byte_is_refused_and_its_place_named(args: Any) -> None:
    place = next(index for index, arg in enumerate(args) if b"\0" in os.fsencode(arg))
    with pytest.raises(ValueError, match=rf"args\[{place}\] has a NUL"):
        Command(args)


def test_an_argument_of_another_type_is_refused_and_its_place_named() -> None:
    with pytest.raises(TypeError, match=r"args\[1\] must be str, bytes or PathLike, not int; write '5'"):
        Command(["sleep", 5])  # type: ignore[list-item]


def test_what_is_nothing_is_not_called_empty() -> None:
    with pytest.raises(TypeError, match=r"args\[0\] must be str, bytes or PathLike, not NoneType"):
        Command([None])  # type: ignore[list-item]


def test_a_time_beyond_all_floats_is_for_ever() -> None:
    assert Command(["true"], timeout=10**400).timeout is None


def test_bytes_and_paths_and_surrogates_pass_unchanged() -> None:
    command = Command([Path("/bin/echo"), b"\xff\xfe", "caf\udce9", "é"])

    assert command.args_block == b"/bin/echo\0\xff\xfe\0caf\xe9\0\xc3\xa9\0"


def test_a_string_that_cannot_be_encoded_is_a_value_error() -> None:
    with pytest.raises(ValueError, match=r"args\[1\] cannot be encoded"):
        Command(["echo", "\ud800"])


@given(st.lists(st.one_of(st.text(), st.binary()), min_size=1))
def test_the_block_is_what_fsencode_makes_of_each_argument(args: list[str | bytes]) -> None:
    try:
        expected = [os.fsencode(arg) for arg in args]
    except UnicodeEncodeError:
        expected = [b"\0"]
    if not args[0] or any(b"\0" in arg for arg in expected):
        with pytest.raises(ValueError):
            Command(args)
    else:
        assert Command(args).args_block == b"".join(arg + b"\0" for arg in expected)


def test_changing_the_list_later_changes_nothing() -> None:
    args = ["true"]
    command = Command(args)

    args.append("x")

    assert command.args == ("true",)


# ---- environment ----


def test_an_environment_becomes_a_block() -> None:
    assert Command(["env"], env={}).env_block == b""
    assert Command(["env"], env={"A": "1", "B": ""}).env_block == b"A=1\0B=\0"
    assert Command(["env"], env={"A": "x=y"}).env_block == b"A=x=y\0"
    assert Command(["env"], env={b"A": Path("/x"), "É": "\udcff"}).env_block == b"A=/x\0\xc3\x89=\xff\0"


@pytest.mark.parametrize(
    ("env", "error", "words"),
    [
        ({"": "x"}, ValueError, "empty"),
        ({b"": "x"}, ValueError, "empty"),
        ({"A=B": "x"}, ValueError, "'='"),
        ({"A": "x", b"A=": b""}, ValueError, "'='"),
        ({"A\0": "x"}, ValueError, "NUL"),
        ({"A": "x\0B=y"}, ValueError, "NUL"),
        ({"A": "x\0", "B": "y"}, ValueError, "NUL"),
        ({"A": "1", b"A": b"2"}, ValueError, "twice"),
        ({"é": "1", "\udcc3\udca9": "2"}, ValueError, "twice"),
        ({"A": 5}, TypeError, "write '5'"),
        ({5: "A"}, TypeError, "int"),
        ({"A": None}, TypeError, "NoneType"),
        ([("A", "1")], TypeError, "mapping"),
    ],
)
def test_a_wrong_environment_is_refused(env: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Command(["env"], env=env)


@given(st.dictionaries(st.text(), st.text(), max_size=4))
def test_the_quick_way_to_the_environment_block_agrees_with_the_slow_one(env: dict[str, str]) -> None:
    as_bytes: dict[bytes, bytes] | None
    try:
        as_bytes = {os.fsencode(name): os.fsencode(value) for name, value in env.items()}
        slow = Command(["env"], env=as_bytes).env_block
    except ValueError:
        with pytest.raises(ValueError):
            Command(["env"], env=env)
    else:
        if len(as_bytes) == len(env):
            assert Command(["env"], env=env).env_block == slow


def test_the_environment_is_copied() -> None:
    env = {"A": "1"}
    command = Command(["env"], env=env)

    env["B"] = "2"

    assert command.env == {"A": "1"}


# ---- streams ----


def test_a_path_becomes_a_log_file() -> None:
    command = Command(["true"], stdout="out.log", stderr=LogFile(Path("err.log"), append=False))

    assert command.stdout == LogFile("out.log", append=True)
    assert command.stderr == LogFile(Path("err.log"), append=False)


def test_files_and_descriptors_are_taken() -> None:
    with open(os.devnull, "rb") as file:
        command = Command(["cat"], stdin=file, stdout=file.fileno(), stderr=sys.__stderr__)

        assert command.stdin is file
        assert command.stdout == file.fileno()


def test_input_makes_standard_input_a_pipe() -> None:
    assert Command(["cat"], input=b"x").stdin == PIPE
    assert Command(["cat"], input=bytearray(b"x"), stdin=PIPE).input == b"x"  # type: ignore[arg-type]
    assert Command(["cat"], input=b"").stdin == PIPE
    assert Command(["cat"], input=None).stdin == DEVNULL


def test_a_closed_file_is_refused() -> None:
    with open(os.devnull, "rb") as file:
        pass
    with pytest.raises(ValueError, match="stdin"):
        Command(["true"], stdin=file)


def test_stderr_may_follow_stdout() -> None:
    command = Command(["true"], stdout=PIPE, stderr=STDOUT)

    assert command.stderr == STDOUT
    assert command.captures
    assert not Command(["true"]).captures


@pytest.mark.parametrize("path", ["", b"", "a\0b"])
def test_a_log_file_without_a_name_is_refused(path: Any) -> None:
    with pytest.raises(ValueError, match="path"):
        LogFile(path)


# ---- the other options ----


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"stdin": PIPE}, ValueError, "pass the bytes as input="),
        ({"stdin": None, "input": b"x"}, ValueError, "leave stdin out"),
        ({"stdin": "file", "input": b"x"}, ValueError, "leave stdin out"),
        ({"input": "text"}, TypeError, r"text\.encode\(\)"),
        ({"input": 5}, TypeError, "bytes"),
        ({"stdin": STDOUT}, ValueError, "stderr only"),
        ({"stdout": STDOUT}, ValueError, "stderr only"),
        ({"stdin": LogFile("x")}, TypeError, "LogFile"),
        ({"stdout": True}, TypeError, "stdout"),
        ({"stderr": -7}, ValueError, "not a descriptor"),
        ({"stdin": 10**20}, ValueError, "not a descriptor"),
        ({"stdout": 1.5}, TypeError, "stdout"),
        ({"stdout": io.BytesIO()}, ValueError, "use PIPE"),
        ({"stdout": ""}, ValueError, "empty path"),
        ({"stdin": "a\0b"}, ValueError, "NUL"),
        ({"cwd": ""}, ValueError, "cwd is an empty path"),
        ({"cwd": "a\0b"}, ValueError, "cwd has a NUL"),
        ({"cwd": 5}, TypeError, "cwd"),
        ({"timeout": -1}, ValueError, "timeout must be 0 or more"),
        ({"timeout": math.nan}, ValueError, "timeout"),
        ({"timeout": True}, TypeError, "timeout"),
        ({"timeout": "5"}, TypeError, "timeout"),
        ({"idle_timeout": -0.1}, ValueError, "idle_timeout"),
        ({"grace": None}, TypeError, "grace"),
        ({"grace": -1}, ValueError, "grace"),
        ({"stop_signal": 0}, ValueError, "no signal 0"),
        ({"stop_signal": 65}, ValueError, "no signal 65"),
        ({"stop_signal": "TERM"}, TypeError, "stop_signal"),
        ({"limits": {"cpu": 5}}, TypeError, "Limits"),
        ({"nice": 20}, ValueError, "from -20 to 19"),
        ({"nice": 1.5}, TypeError, "nice"),
        ({"umask": 0o1000}, ValueError, "0o777"),
        ({"umask": -1}, ValueError, "umask"),
        ({"user": -1}, ValueError, "user"),
        ({"user": 2**32 - 1}, ValueError, "user"),
        ({"user": ""}, ValueError, "user"),
        ({"group": True}, TypeError, "group"),
        ({"extra_groups": "wheel"}, TypeError, "extra_groups"),
        ({"extra_groups": [None]}, TypeError, "extra_groups: None is neither the name nor the number"),
        ({"extra_groups": [0, True]}, TypeError, "extra_groups: True is neither"),
        ({"extra_groups": [0] * 65537}, ValueError, "extra_groups has 65537 groups, .* takes 65536"),
        ({"cpu_affinity": []}, ValueError, "cpu_affinity is empty"),
        ({"cpu_affinity": [-1]}, ValueError, "cpu_affinity"),
        ({"cpu_affinity": 1}, TypeError, "cpu_affinity"),
        ({"cpu_affinity": [0.5]}, TypeError, "cpu_affinity: 0.5 is not the number of a CPU"),
        ({"no_new_privs": 1}, TypeError, "True or False"),
        ({"pass_fds": [1]}, ValueError, "use stdout="),
        ({"pass_fds": [-1]}, ValueError, "pass_fds"),
        ({"pass_fds": 3}, TypeError, "pass_fds"),
        ({"pass_fds": [True]}, TypeError, "pass_fds: True is not the number of a descriptor"),
        ({"pass_fds": [3, "a"]}, TypeError, "pass_fds: 'a' is not the number of a descriptor"),
        ({"start_new": "terminal"}, ValueError, "'session' or 'group' or None"),
        ({"containment": "jail"}, ValueError, "'cgroup'"),
        ({"containment": None}, ValueError, "containment"),
        ({"leftovers": "kill"}, ValueError, "'stop' or 'keep'"),
        ({"die_with_parent": "yes"}, TypeError, "die_with_parent"),
        ({"max_output": 0}, ValueError, "max_output"),
        ({"max_output": 2**63}, ValueError, r"from 1 to 2\*\*62 bytes"),
        ({"on_max_output": "drop"}, ValueError, "'truncate' or 'stop' or 'wait'"),
        ({"tags": {"a": 1}}, TypeError, "tags"),
        ({"tags": "a"}, TypeError, "tags"),
    ],
)
def test_a_wrong_option_is_refused_by_name(
    options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        Command(["true"], **options)


def test_right_options_are_kept_in_one_form() -> None:
    command = Command(
        ["true"],
        timeout=5,
        idle_timeout=math.inf,
        stop_signal=signal.SIGINT,
        extra_groups=["root", 7],
        cpu_affinity=range(2),
        pass_fds=[9, 4, 9],
        limits=Limits(cpu=1),
        tags={"team": "a"},
        max_output=1000,
        start_new=None,
        die_with_parent=True,
    )

    assert command.timeout == 5.0
    assert command.idle_timeout is None
    assert command.stop_signal == 2
    assert command.extra_groups == ("root", 7)
    assert command.cpu_affinity == frozenset({0, 1})
    assert command.pass_fds == (4, 9)
    assert command.tags == {"team": "a"}
    assert (command.head_bytes, command.tail_bytes) == (250, 750)
    assert command.start_new is None


@pytest.mark.parametrize("most", [*range(1, 12), 1000, None])
def test_no_byte_more_is_kept_than_was_asked_for(most: int | None) -> None:
    command = Command(["true"], max_output=most)

    assert command.head_bytes + command.tail_bytes == (256 * 1024 if most is None else most)
    assert command.head_bytes >= 0
    assert command.tail_bytes >= 1


@pytest.mark.parametrize(
    "options",
    [
        {"idle_timeout": 5},
        {"on_max_output": "stop"},
        {"on_max_output": "stop", "max_output": 9, "stdout": DEVNULL},
    ],
    ids=repr,
)
def test_options_about_output_need_a_pipe_when_it_is_started(options: dict[str, Any]) -> None:
    command = Command(["true"], **options)

    with pytest.raises(ValueError, match=f"{next(iter(options))}.* needs stdout=PIPE or stderr=PIPE"):
        command.check_output()
    command.replace(stdout=PIPE).check_output()
    command.replace(stderr=PIPE).check_output()
    # What only bounds what is kept asks for nothing.
    Command(["true"], max_output=100).check_output()
    Command(["true"], on_max_output="wait").check_output()


def test_a_closed_file_is_told_as_such(tmp_path: Path) -> None:
    with open(tmp_path / "file", "w") as file:
        pass
    for name in ("stdin", "stdout", "stderr"):
        with pytest.raises(ValueError, match=f"{name}: .* is closed"):
            Command(["true"], **{name: file})  # type: ignore[arg-type]


def test_every_default_passes_its_own_check() -> None:
    defaults = {
        item.name: item.default
        for item in dataclasses.fields(Command)
        if item.init and item.name not in ("args", "tags")
    }

    assert Command(["true"], **typing.cast("Any", defaults)) == Command(["true"])


# ---- values ----


def test_a_command_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Command(["true"]).timeout = 5  # type: ignore[misc]


def test_equal_commands_are_equal() -> None:
    assert Command(["true"], timeout=5) == Command(("true",), timeout=5.0)
    assert Command(["true"], timeout=5) != Command(["true"])
    assert hash(Command(["true"], timeout=5)) == hash(Command(["true"], timeout=5))
    assert isinstance(hash(Command(["true"], env={"A": "1"}, tags={"a": "b"})), int)


def test_a_command_can_be_pickled() -> None:
    command = Command(["cat"], input=b"x", env={"A": "1"}, timeout=5, stdout="log")

    again = pickle.loads(pickle.dumps(command))

    assert again == command
    assert (again.args_block, again.env_block) == (command.args_block, command.env_block)
    assert again.given("timeout")
    assert not again.given("grace")


def test_repr_shows_what_was_said_but_no_secrets() -> None:
    command = Command(["cat"], input=b"hunter2", env={"PASSWORD": "hunter2"}, timeout=5, stdout=PIPE)

    assert "hunter2" not in repr(command)
    assert repr(Command(["true", "x"])) == "Command(['true', 'x'])"
    assert "timeout=5.0" in repr(command)
    assert "env=<1 names>" in repr(command)
    assert "grace" not in repr(command)


def test_no_tags_are_empty_tags() -> None:
    """Said or not, a command without them is equal to one with none; an unknown name is still an error."""
    plain, empty = Command(["true"]), Command(["true"], tags={})
    assert plain.tags == empty.tags == {}
    assert plain == empty
    assert not plain.given("tags")
    assert not empty.given("tags")
    assert plain.replace(timeout=1).tags == {}
    assert Command(["true"], tags={"a": "b"}).replace(timeout=1).tags == {"a": "b"}
    with pytest.raises(AttributeError, match="has no attribute 'tag'"):
        plain.tag  # type: ignore[attr-defined]  # noqa: B018


# ---- coerce, replace, given ----


def test_a_sequence_and_options_make_a_command() -> None:
    assert Command.coerce(["true"], {"timeout": 5}) == Command(["true"], timeout=5)


def test_a_command_without_options_is_taken_as_it_is() -> None:
    command = Command(["true"])

    assert Command.coerce(command, {}) is command


def test_options_change_a_copy_of_a_command() -> None:
    command = Command(["cat"], timeout=5, input=b"x")

    changed = Command.coerce(command, {"timeout": 7, "cwd": "/"})

    assert (changed.timeout, changed.cwd, changed.input, changed.args) == (7.0, "/", b"x", ("cat",))
    assert command.timeout == 5.0
    assert Command.coerce(command, {"input": None}).stdin == DEVNULL
    assert command.replace(args=["tac"]).args_block == b"tac\0"


def test_what_was_said_before_stays_and_what_is_said_anew_is_checked() -> None:
    command = Command(["true"], input=None, env={"A": "1"}, tags={"of": "mine"})

    changed = command.replace(timeout=1)

    assert (changed.timeout, changed.stdin, changed.env_block) == (1.0, DEVNULL, b"A=1\0")
    assert changed == Command(["true"], input=None, env={"A": "1"}, tags={"of": "mine"}, timeout=1)
    assert changed.tags is not command.tags
    assert command.replace(env=None).env_block is None
    assert command.replace(env={"B": "2"}).env_block == b"B=2\0"
    other = command.replace(args=["false"])
    assert (other.args, other.args_block, other.env_block) == (("false",), b"false\0", b"A=1\0")
    assert not other.plain
    assert Command(["true"]).replace().plain
    assert Command(["true"]).replace(args=["false"]) == Command(["false"])
    with pytest.raises(ValueError, match="timeout"):
        command.replace(timeout=-1)
    with pytest.raises(ValueError, match="input needs standard input"):
        Command(["cat"], input=b"x").replace(stdin=DEVNULL)
    with pytest.raises(ValueError, match="nothing to feed it"):
        command.replace(stdin=PIPE)


@pytest.mark.parametrize("command", [["true"], Command(["true"])])
def test_an_unknown_option_names_the_nearest_one(command: Any) -> None:
    with pytest.raises(TypeError, match=r"no option 'timout'; did you mean 'timeout'\?"):
        Command.coerce(command, {"timout": 5})
    with pytest.raises(TypeError, match=r"no option 'zzz'$"):
        Command(["true"], zzz=5)  # type: ignore[call-arg]


def test_a_command_remembers_what_was_said() -> None:
    command = Command(["true"], grace=5.0)

    assert command.given("grace")
    assert not command.given("containment")
    assert not command.given("tags")
    assert command.replace(cwd="/").given("grace")
    assert not command.replace(cwd="/").given("containment")
    with pytest.raises(AttributeError):
        command.given("args_block")


def test_dataclasses_replace_works_too() -> None:
    command = Command(["cat"], input=b"x", timeout=5)

    assert dataclasses.replace(command, timeout=6.0) == Command(["cat"], input=b"x", timeout=6)


# ---- users and groups ----


def test_a_command_without_ids_needs_no_look_up() -> None:
    assert resolve_ids(Command(["true"])) is None


def test_names_become_numbers() -> None:
    me = pwd.getpwuid(os.geteuid())
    group = grp.getgrgid(os.getegid())

    ids = resolve_ids(
        Command(["true"], user=me.pw_name, group=group.gr_name, extra_groups=[group.gr_name, 7])
    )

    assert ids == Ids(me.pw_uid, group.gr_gid, (group.gr_gid, 7))


def test_our_own_user_changes_nothing_else() -> None:
    assert resolve_ids(Command(["true"], user=os.geteuid())) == Ids(os.geteuid(), None, None)


def other_user() -> pwd.struct_passwd:
    entry = next((entry for entry in pwd.getpwall() if entry.pw_uid != os.geteuid()), None)
    if entry is None:
        pytest.skip("the user database knows nobody but us")
    return entry


def test_another_user_brings_its_own_groups() -> None:
    other = other_user()

    ids = resolve_ids(Command(["true"], user=other.pw_name))

    groups = tuple(os.getgrouplist(other.pw_name, other.pw_gid))
    assert ids == Ids(other.pw_uid, other.pw_gid, groups)
    assert resolve_ids(Command(["true"], user=other.pw_name), complete=False) == Ids(other.pw_uid, None, None)
    assert resolve_ids(Command(["true"], user=other.pw_uid, group=0, extra_groups=[])) == Ids(
        other.pw_uid, 0, ()
    )


def test_a_number_that_the_user_database_does_not_know_gets_no_groups() -> None:
    stranger = max((entry.pw_uid for entry in pwd.getpwall() if entry.pw_uid < 2**31), default=1) + 12345

    assert resolve_ids(Command(["true"], user=stranger)) == Ids(stranger, None, ())


@pytest.mark.parametrize(
    "options", [{"user": "no-such-user"}, {"group": "no-such-user"}, {"extra_groups": ["no-such-user"]}]
)
def test_an_unknown_name_is_a_spawn_error_and_named(options: dict[str, Any]) -> None:
    command = Command(["true"], **options)

    with pytest.raises(SpawnError) as caught:
        resolve_ids(command)

    assert (caught.value.stage, caught.value.filename) == ("ids", "no-such-user")
    assert caught.value.errno == errno.EINVAL
