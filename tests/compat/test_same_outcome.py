"""The same call to subprocess and to the drop-in: what comes back, or what is raised, is the same."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess as standard
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings, strategies as st

import fastproc
from fastproc import subprocess as ours

PYTHON = sys.executable
SHOW = (
    "import os, sys; print(sorted(k for k in os.environ if k.startswith('FP_')), os.getcwd(), sys.argv[1:])"
)
Call = Callable[[ModuleType], object]


def outcome(call: Call, module: ModuleType) -> tuple[object, ...]:
    """What a call returns, raises and warns of, as far as it can be compared."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            answer = ("returned", shown(call(module)))
        except Exception as error:
            filename = getattr(error, "filename", None)
            answer = ("raised", type(error), shown(error), filename)
    return answer, sorted((warning.category.__name__, str(warning.message)) for warning in said)


def shown(value: object) -> object:
    """A value without what differs from run to run."""
    if isinstance(value, standard.CompletedProcess):
        return value.args, value.returncode, value.stdout, value.stderr
    if isinstance(value, standard.CalledProcessError):
        return type(value), str(value), value.cmd, value.output, value.stderr
    if isinstance(value, standard.TimeoutExpired):
        # The standard module tells what was left of it when the last wait began.
        return type(value), round(value.timeout, 1), value.cmd, value.output, value.stderr
    if isinstance(value, Exception):
        return str(value)
    return value


def in_context(arguments: Any, **options: Any) -> Call:
    """Start, communicate, and tell what the object says in the end."""

    def call(module: ModuleType) -> object:
        data = options.get("data")
        rest = {name: value for name, value in options.items() if name != "data"}
        with module.Popen(arguments, **rest) as process:
            output = process.communicate(data)
        return output, process.returncode, process.poll(), process.wait(), process.args, repr(process)

    return call


def run(*arguments: Any, **options: Any) -> Call:
    """A call of run()."""
    return lambda module: module.run(*arguments, **options)


def call(function: str, *arguments: Any, **options: Any) -> Call:
    """A call of another function."""
    return lambda module: getattr(module, function)(*arguments, **options)


class Unread:
    """Looks like a path, and like nothing else."""

    def __fspath__(self) -> str:
        return "true"


CASES: dict[str, Call] = {
    # statuses
    "code 0": run(["true"]),
    "code 3": run("exit 3", shell=True),
    "signal": run("kill -9 $$", shell=True),
    "check passes": run(["true"], check=True),
    "check fails": run("echo out; echo err >&2; exit 3", shell=True, check=True, capture_output=True),
    "check of a signal": run("kill -15 $$", shell=True, check=True),
    "call": call("call", ["sh", "-c", "exit 4"]),
    "call, args by name": call("call", args=["sh", "-c", "exit 4"]),
    "check_call": call("check_call", ["true"]),
    "check_call fails": call("check_call", ["false"]),
    "check_call fails, args by name": call("check_call", args=["false"]),
    "check_output": call("check_output", ["echo", "hello"]),
    "check_output fails": call("check_output", "echo hello; exit 2", shell=True),
    "check_output with stdout": call("check_output", ["true"], stdout=1),
    "check_output with check": call("check_output", ["true"], check=False),
    "check_output, input None": call("check_output", ["cat"], input=None),
    "check_output, input None, text": call("check_output", ["cat"], input=None, text=True),
    "getoutput": call("getoutput", "echo one; echo two"),
    "getstatusoutput": call("getstatusoutput", "echo one; echo two >&2; exit 5"),
    "getstatusoutput of a signal": call("getstatusoutput", "kill $$"),
    "getoutput with encoding": call("getoutput", "printf '\\351'", encoding="latin-1"),
    # arguments
    "a str is a program": run("true"),
    "a str with blanks is one name": run("true a b"),
    "bytes": run(b"true"),
    "a path": run(Path("/bin/true")),
    "a path in the list": run([Path("/bin/echo"), Path("x")], capture_output=True),
    "a path-like without a slash": run(Unread()),
    "a tuple": run(("echo", "x"), capture_output=True),
    "a generator": lambda module: module.run((word for word in ("echo", "x")), stdout=module.PIPE).stdout,
    "bytes and str mixed": run([b"echo", "x"], capture_output=True),
    "undecodable": run(["echo", os.fsdecode(b"\xff")], capture_output=True),
    "empty argument": run(["printf", "%s|", "", "x"], capture_output=True),
    "no arguments at all": run([]),
    "empty name": run(""),
    "empty name in a list": run(["", "x"]),
    "None": run(None),
    "a number": run(5),
    "a number in the list": run(["echo", 5]),
    "a NUL": run(["echo", "a\0b"]),
    "a NUL in bytes": run([b"echo", b"a\0b"]),
    "a NUL alone": run("\0"),
    "unknown keyword": run(["true"], no_such_keyword=1),
    "no command": run(),
    "two commands": run(["true"], -1, None, None),
    "args twice": run(["true"], args=["false"]),
    "a very long argument": run(["echo", "x" * 200_000]),
    "very many arguments": lambda module: len(module.run(["echo", *["x"] * 20_000], stdout=-1).stdout),
    # programs
    "missing": run(["no-such-program"]),
    "missing, with a path": run(["/no/such/program"]),
    "missing, in the shell": run("no-such-program 2>/dev/null", shell=True),
    "a directory": run(["/"]),
    "not executable": run(["/etc/passwd"]),
    "a file for a directory": run(["/etc/passwd/x"]),
    "name too long": run(["x" * 300]),
    "executable": run(["other-name", "-c", "echo $0"], executable="/bin/sh", capture_output=True),
    "executable, bytes": run(["x", "-c", "echo $0"], executable=b"/bin/sh", capture_output=True),
    "executable, missing": run(["true"], executable="/no/such/program"),
    "executable, a name": run(["x", "-c", "echo $0"], executable="sh", capture_output=True),
    "executable, empty": run(["true"], executable=""),
    "executable with a NUL": run(["true"], executable="a\0b"),
    # the shell
    "shell": run("echo $((1 + 2))", shell=True, capture_output=True),
    "shell, bytes": run(b"echo x", shell=True, capture_output=True),
    "shell, a list": run(["echo $0 $1", "a", "b"], shell=True, capture_output=True),
    "shell, a path": run(Path("/bin/true"), shell=True),
    "shell, another": run("echo $0", shell=True, executable="/bin/bash", capture_output=True),
    "shell, empty": run("", shell=True),
    # environment
    "env": run([PYTHON, "-c", SHOW], env={"FP_A": "1", "FP_B": "2"}, cwd="/", capture_output=True),
    "env, bytes": run([PYTHON, "-c", SHOW], env={b"FP_A": b"1"}, cwd="/", capture_output=True),
    "env, empty": run(["/usr/bin/env"], env={}, capture_output=True),
    "env, path-like": run(["/usr/bin/env"], env={"FP_A": Path("/x")}, capture_output=True),
    "env, '=' in a name": run(["true"], env={"A=B": "1"}),
    "env, '=' in a value": run(["/usr/bin/env"], env={"A": "=B="}, capture_output=True),
    "env, empty name": run(["/usr/bin/env"], env={"": "x"}, capture_output=True),
    "env, NUL in a name": run(["true"], env={"A\0": "1"}),
    "env, NUL in a value": run(["true"], env={"A": "1\0"}),
    "env, a number": run(["true"], env={"A": 1}),
    "env, PATH of the child": run(["nothing-here"], env={"PATH": "/no/such/directory"}),
    "env, PATH twice": run(["true"], env={"PATH": "/bin", b"PATH": b"/bin"}),
    "env, no PATH": run(["env"], env={}, capture_output=True),
    "env, empty PATH": run(["true"], env={"PATH": ""}),
    # directory
    "cwd": run(["pwd"], cwd="/usr", capture_output=True),
    "cwd, a path": run(["pwd"], cwd=Path("/usr"), capture_output=True),
    "cwd, bytes": run(["pwd"], cwd=b"/usr", capture_output=True),
    "cwd, missing": run(["true"], cwd="/no/such/directory"),
    "cwd, a file": run(["true"], cwd="/etc/passwd"),
    "cwd, a NUL": run(["true"], cwd="a\0b"),
    "cwd, a number": run(["true"], cwd=5),
    "cwd, and a missing program": run(["/no/such/program"], cwd="/usr"),
    "cwd, relative program": run(["bin/echo", "x"], cwd="/usr", capture_output=True),
    # streams
    "stdout": run("echo out; echo err >&2", shell=True, stdout=-1, stderr=-3),
    "stderr": run("echo out; echo err >&2", shell=True, stderr=-1, stdout=-3),
    "stderr to stdout": run("echo out; echo err >&2", shell=True, stdout=-1, stderr=-2),
    "stderr to stdout, discarded": run("echo out; echo err >&2", shell=True, stdout=-3, stderr=-2),
    "all discarded": run("echo out; cat", shell=True, stdin=-3, stdout=-3, stderr=-3),
    "stdin is a pipe, no input": run(["cat"], stdin=-1, stdout=-1),
    "capture_output and stdout": run(["true"], capture_output=True, stdout=-1),
    "capture_output and stderr": run(["true"], capture_output=True, stderr=-1),
    "stdin and input": run(["true"], stdin=-3, input=b""),
    "no such descriptor": run(["true"], stdout=12345),
    "no descriptor": run(["true"], stdout=-7),
    "no file": run(["true"], stdout=object()),
    "a str for a stream": run(["true"], stdin="name"),
    # input
    "input": run(["cat"], input=b"abc", capture_output=True),
    "input, empty": run(["cat"], input=b"", capture_output=True),
    "input, long": run(["cat"], input=b"x" * 300_000, stdout=-1),
    "input, bytearray": run(["cat"], input=bytearray(b"abc"), stdout=-1),
    "input, memoryview": run(["cat"], input=memoryview(b"abc"), stdout=-1),
    "input that nobody reads": run(["true"], input=b"x" * 300_000, capture_output=True),
    "input, only": run("read x; exit 7", shell=True, input=b"x\n"),
    "input, str for bytes": run(["cat"], input="abc", stdout=-1),
    "input, str for bytes, two pipes": run(["cat"], input="abc", capture_output=True),
    "input, a number": run(["cat"], input=5, capture_output=True),
    # text
    "text": run(["cat"], input="ä\n", text=True, capture_output=True),
    "text, universal_newlines": run(["printf", "a\\r\\nb\\rc\\n"], universal_newlines=True, stdout=-1),
    "text, newlines of all kinds": run(["printf", "a\\r\\nb\\rc\\n\\r"], text=True, capture_output=True),
    "text, False": run(["echo", "x"], text=False, capture_output=True),
    "text and universal_newlines alike": run(["echo", "x"], text=True, universal_newlines=True, stdout=-1),
    "text and universal_newlines at odds": run(["true"], text=True, universal_newlines=False),
    "text, encoding": run(["cat"], input="é", encoding="latin-1", capture_output=True),
    "text, utf-16": run(["cat"], input="é\n", encoding="utf-16", capture_output=True),
    "text, errors": run(["printf", "\\377"], errors="replace", stdout=-1),
    "text, errors, strict": run(["printf", "\\377"], encoding="ascii", stdout=-1),
    "text, errors of input": run(["cat"], input="é", encoding="ascii", errors="xmlcharrefreplace", stdout=-1),
    "text, no such encoding": run(["true"], encoding="no-such-encoding", stdout=-1),
    "text, no text encoding": run(["true"], encoding="hex", stdout=-1),
    "text, bytes for str": run(["cat"], input=b"abc", text=True, stdout=-1),
    "text, bytes for str, two pipes": run(["cat"], input=b"abc", text=True, capture_output=True),
    "text, not captured": run(["true"], text=True),
    # time
    "a time-out that is not reached": run(["echo", "x"], timeout=60, capture_output=True),
    "a time-out, an int": run(["true"], timeout=60),
    "a time-out, infinite": run(["true"], timeout=float("inf")),
    "a time-out, not a number": run(["true"], timeout="soon"),
    "time-out": run(["sleep", "30"], timeout=0.2),
    "time-out of call": call("call", ["sleep", "30"], timeout=0.2),
    "time-out of nothing": run(["sleep", "30"], timeout=0),
    "time-out, negative": run(["sleep", "30"], timeout=-1),
    "time-out with output": run([PYTHON, "-c", "import time; print(1, flush=True); time.sleep(30)"],
                                stdout=-1, timeout=1.5),
    # what Popen is told beside
    "close_fds": run(["true"], close_fds=False),
    "restore_signals": run("trap", shell=True, restore_signals=False),
    "start_new_session": run(
        [PYTHON, "-c", "import os; print(os.getsid(0) == os.getpid())"], start_new_session=True, stdout=-1
    ),
    "process_group": run(
        [PYTHON, "-c", "import os; print(os.getpgid(0) == os.getpid())"], process_group=0, stdout=-1
    ),
    "process_group, nobody's": run(["true"], process_group=2**22),
    "process_group, negative": run(["true"], process_group=-5),
    "umask": run("umask", shell=True, umask=0o027, stdout=-1),
    "user": run(["id", "-u"], user=os.getuid(), stdout=-1),
    "user, unknown": run(["true"], user="no-such-user"),
    "user, negative": run(["true"], user=-1),
    "user, too large": run(["true"], user=2**64),
    "user, a list": run(["true"], user=[]),
    "group": run(["id", "-g"], group=os.getgid(), stdout=-1),
    "group, unknown": run(["true"], group="no-such-group"),
    "extra_groups, a str": run(["true"], extra_groups="x"),
    "extra_groups, too large": run(["true"], extra_groups=[2**64]),
    "pass_fds, closed": run(["true"], pass_fds=[12345]),
    "pass_fds, negative": run(["true"], pass_fds=[-1]),
    "pass_fds, not a number": run(["true"], pass_fds=["x"]),
    "pass_fds, standard": run(["true"], pass_fds=[0, 1, 2]),
    "pass_fds without close_fds": run(["true"], pass_fds=[1], close_fds=False),
    "bufsize": run(["echo", "x"], bufsize=0, stdout=-1),
    "bufsize, a str": run(["true"], bufsize="x"),
    "bufsize 1 in binary": in_context(["cat"], bufsize=1, stdin=-1, stdout=-1),
    "pipesize": run(["echo", "x"], pipesize=8192, stdout=-1),
    "pipesize, a str": run(["true"], pipesize="x"),
    "startupinfo": run(["true"], startupinfo=object()),
    "creationflags": run(["true"], creationflags=1),
    # Popen
    "Popen": in_context(["true"]),
    "Popen, both": in_context(
        "cat; echo err >&2; exit 3", shell=True, stdin=-1, stdout=-1, stderr=-1, data=b"in"
    ),
    "UTF-16, no byte order mark": run(["printf", "ab"], stdout=-1, encoding="utf-16"),
    "UTF-16, no byte order mark, two": run(["printf", "ab"], capture_output=True, encoding="utf-16"),
    "UTF-32, checked": call("check_output", ["printf", "abcd"], encoding="UTF-32"),
    "Popen, text": in_context(["cat"], stdin=-1, stdout=-1, text=True, data="ä\n"),
    "Popen, text, alone": in_context(["printf", "a\\r\\nb"], stdout=-1, text=True),
    "Popen, str for bytes": in_context(["cat"], stdin=-1, stdout=-1, data="abc"),
    "Popen, unbuffered": in_context(["cat"], stdin=-1, stdout=-1, bufsize=0, data=b"abc"),
    "Popen, stdin alone": in_context(["cat"], stdin=-1, stdout=-3, data=b"abc"),
    "Popen, stderr alone": in_context("echo x >&2", shell=True, stderr=-1),
    "Popen, nothing": in_context(None),
    "Popen, a long repr": in_context(["true", "x" * 100]),
}  # fmt: skip
if sys.version_info >= (3, 13):
    # There it depends on the way in which the standard module starts the child.
    del CASES["env, empty name"]
ONLY_NEWER = {
    # Before 3.13 standard output could be sent to itself.
    "stdout to stdout": run(["true"], stdout=-2),
}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", CASES)
def test_a_call_has_the_same_outcome(name: str) -> None:
    """Result, exception with its words and file name, and warnings."""
    assert outcome(CASES[name], ours) == outcome(CASES[name], standard)


@pytest.mark.skipif(sys.version_info < (3, 13), reason="subprocess checks that since 3.13")
@pytest.mark.parametrize("name", ONLY_NEWER)
def test_a_call_has_the_same_outcome_as_in_newer_versions(name: str) -> None:
    """What has been added later."""
    assert outcome(ONLY_NEWER[name], ours) == outcome(ONLY_NEWER[name], standard)


WRONG: dict[str, dict[str, Any]] = {
    "umask, wider than a number of C": {"umask": 2**40},
    "umask, whose low bits make sense": {"umask": 2**32 + 0o77},
    "umask, far below zero": {"umask": -(2**40)},
    "umask, a str": {"umask": "x"},
    "umask, a float": {"umask": 2.0},
    "extra_groups, more than the kernel takes": {"extra_groups": [0] * 70_000},
}


@pytest.mark.parametrize("name", WRONG)
def test_what_makes_no_sense_is_refused_with_the_same_class(name: str) -> None:
    """In words of our own, which name the culprit."""
    raised = []
    for module in (ours, standard):
        with pytest.raises(Exception) as caught:
            module.run(["true"], **WRONG[name])
        raised.append(type(caught.value))
    assert raised[0] is raised[1]


def test_a_time_that_is_not_a_number_is_refused() -> None:
    """The standard module takes it, and waits for ever; nothing is started for it."""
    nan = float("nan")
    for call_it in (ours.run, ours.call, ours.check_output):
        with pytest.raises(ValueError, match="NaN"):
            call_it(["touch", "started"], timeout=nan)
    with ours.Popen(["true"], stdout=-1) as process:
        with pytest.raises(ValueError, match="NaN"):
            process.wait(timeout=nan)
        with pytest.raises(ValueError, match="NaN"):
            process.communicate(timeout=nan)
    assert not os.path.exists("started")


METHODS = ("__init__", "__enter__", "__exit__", "communicate", "wait", "poll", "kill")
CALLERS: dict[str, Call] = {
    "run": run(["true"]),
    "run, captured": run(["true"], capture_output=True),
    "run, text": run(["true"], stdout=-1, text=True),
    "run, in time": run(["true"], timeout=60),
    "run, too late": run(["sleep", "9"], timeout=0.05),
    "call": call("call", ["true"]),
    "call, too late": call("call", ["sleep", "9"], timeout=0.05),
    "check_call": call("check_call", ["true"]),
    "check_output": call("check_output", ["true"]),
    "getoutput": call("getoutput", "true"),
}  # fmt: skip


def calls_of(method: str, caller: Call, module: ModuleType) -> bool:
    """Whether a method that somebody has put into Popen is called."""
    called = []
    original = getattr(module.Popen, method)

    def instead(self: Any, *args: Any, **kwargs: Any) -> Any:
        called.append(method)
        return original(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.Popen, method, instead)
        with contextlib.suppress(standard.TimeoutExpired):
            caller(module)
    return bool(called)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", CALLERS)
def test_who_replaces_a_method_of_popen_finds_it_called(method: str, name: str) -> None:
    """By the functions that do not need a Popen otherwise."""
    if calls_of(method, CALLERS[name], standard):
        assert calls_of(method, CALLERS[name], ours)
        with fastproc.install():
            assert calls_of(method, CALLERS[name], standard)


def test_what_a_replaced_method_answers_counts() -> None:
    """And when it has been put back, the short way is taken again."""
    for _ in range(2):
        with mock.patch.object(ours.Popen, "communicate", lambda self, *_, **__: (b"%d" % self.wait(), None)):
            assert ours.check_output(["true"]) == b"0"
        with mock.patch.object(ours.Popen, "communicate", return_value=(b"said", None)):
            assert ours.check_output("true; sleep 0.1", shell=True) == b"said"  # though nobody has waited
        with mock.patch.object(ours.Popen, "poll", return_value=43):
            assert ours.run(["true"]).returncode == 43
    ours.run(["true"], timeout=60)
    with mock.patch.object(ours, "_run_with") as long_way:
        assert ours.run(["true"], stdout=-1).stdout == b""
        assert ours.run(["true"], timeout=60).returncode == 0
    long_way.assert_not_called()


def test_the_class_of_popen_is_an_ordinary_one() -> None:
    """Nobody who looks at it meets a metaclass."""
    assert type(ours.Popen) is type


@pytest.mark.parametrize("installed", [False, True])
def test_functions_go_through_each_other_as_in_the_standard_module(installed: bool) -> None:
    """Whoever replaces one of them replaces it for those that are built upon it."""
    module: Any = standard if installed else ours
    with contextlib.ExitStack() as stack:
        if installed:
            stack.enter_context(fastproc.install())
        with mock.patch.object(module, "run") as double:
            double.return_value.stdout = "said\n"
            assert module.check_output(["no-such-program"]) == "said\n"
            assert module.getoutput("exit 3") == "said"
            assert module.call(["true"]) == 0  # which is not built upon run()
        with mock.patch.object(module, "check_output", return_value="said\n"):
            assert module.getoutput("exit 3") == "said"
            assert module.getstatusoutput("exit 3") == (0, "said")
        with mock.patch.object(module, "getstatusoutput", return_value=(5, "said")):
            assert module.getoutput("exit 3") == "said"
        with mock.patch.object(module, "call", return_value=6), pytest.raises(ours.CalledProcessError):
            module.check_call(["true"])


words = st.text(st.characters(blacklist_categories=["Cs"]), max_size=20)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(words, max_size=5), st.one_of(st.none(), st.dictionaries(words.filter(bool), words, max_size=3))
)
def test_any_arguments_and_environment_come_through_alike(
    arguments: list[str], env: dict[str, str] | None
) -> None:
    """Or are refused alike."""
    program = ["/usr/bin/printf", "%s|", *arguments]

    def call_it(module: ModuleType) -> object:
        return module.run(program, env=env, capture_output=True)

    assert outcome(call_it, ours) == outcome(call_it, standard)


@settings(max_examples=25, deadline=None)
@given(st.binary(max_size=200_000), st.sampled_from([None, "utf-8", "latin-1", "utf-16"]), st.booleans())
def test_any_bytes_are_read_alike(data: bytes, encoding: str | None, both: bool) -> None:
    """As bytes, as text, and as what cannot be text."""

    def call_it(module: ModuleType) -> object:
        with module.Popen(
            ["cat"], stdin=-1, stdout=-1, stderr=-1 if both else None, encoding=encoding, errors=None
        ) as process:
            if encoding is None:
                return process.communicate(data)
            feed = data.decode("latin-1") if encoding == "latin-1" else "x\r\n"
            return process.communicate(feed)

    assert outcome(call_it, ours) == outcome(call_it, standard)


def test_the_names_are_those_of_the_standard_module() -> None:
    """All of them, and the objects themselves where they are not ours by purpose."""
    replaced = {"Popen", "run", "call", "check_call", "check_output", "getoutput", "getstatusoutput"}

    assert set(standard.__all__) <= set(ours.__all__)
    for name in set(standard.__all__) - replaced:
        assert getattr(ours, name) is getattr(standard, name), name
    assert {name for name in vars(standard) if name not in vars(ours) and not name.startswith("__")} == set()
    for name in (*replaced, "PIPE", "STDOUT", "DEVNULL", "CompletedProcess", "CalledProcessError"):
        assert getattr(fastproc, name) is getattr(ours, name)
    assert (fastproc.TimeoutExpired, fastproc.SubprocessError) == (
        standard.TimeoutExpired,
        standard.SubprocessError,
    )


def test_popen_is_a_popen() -> None:
    """For isinstance(), for annotations, and for those who derive from it."""

    class Derived(ours.Popen[bytes]):
        pass

    with Derived(["true"]) as process:
        assert isinstance(process, standard.Popen)
        assert isinstance(process, ours.Popen)
    assert ours.Popen[bytes].__origin__ is ours.Popen


def test_the_signature_is_that_of_the_standard_class_and_six_more() -> None:
    """In the same order, with the same defaults."""
    import inspect

    theirs = inspect.signature(standard.Popen.__init__).parameters
    mine = inspect.signature(ours.Popen.__init__).parameters
    assert [(it.name, it.kind, it.default) for it in list(mine.values())[: len(theirs)]] == [
        (it.name, it.kind, it.default) for it in theirs.values()
    ]
    assert list(mine)[len(theirs) :] == [
        "limits",
        "grace",
        "idle_timeout",
        "no_new_privs",
        "cpu_affinity",
        "nice",
    ]
    for name in ("call", "check_call", "check_output", "getoutput", "getstatusoutput", "run"):
        expected = inspect.signature(getattr(standard, name)).parameters
        got = inspect.signature(getattr(ours, name)).parameters
        assert [(it.name, it.kind, it.default) for it in got.values()] == [
            (it.name, it.kind, it.default) for it in expected.values()
        ]


def test_exceptions_can_be_pickled() -> None:
    """Those of the standard module as before, and ours."""
    for error in (
        ours.CalledProcessError(3, ["x"], output=b"o", stderr=b"e"),
        ours.TimeoutExpired(["x"], 1.5, output="o"),
        ours.IdleTimeoutExpired(["x"], 1.5, output="o"),
        ours.StatusUnknown(None, ["x"], output="o"),  # type: ignore[arg-type]
    ):
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert again.cmd == ["x"]
        assert again.output == error.output
        assert getattr(again, "returncode", None) == getattr(error, "returncode", None)


def test_the_audit_event_is_raised() -> None:
    """Once for each start, with what the standard module tells."""
    program = (
        "import json, sys\n"
        "import subprocess as standard\n"
        "from fastproc import subprocess as ours\n"
        "seen = []\n"
        "def note(event, args):\n"
        "    if event == 'subprocess.Popen': seen.append(repr(args))\n"
        "sys.addaudithook(note)\n"
        "for module in (standard, ours):\n"
        "    module.run(['true', 'a'])\n"
        "    module.run('true', shell=True, cwd='/', env={'A': '1'}, capture_output=True)\n"
        "    module.Popen(('true',), executable='/bin/true').wait()\n"
        "    module.call(['true'], close_fds=False)\n"
        "    try:\n"
        "        module.run(['no-such-program'])\n"
        "    except OSError:\n"
        "        pass\n"
        "print(json.dumps(seen))\n"
    )
    done = standard.run([PYTHON, "-c", program], capture_output=True, text=True, check=True)
    import json

    seen = json.loads(done.stdout)
    assert len(seen) == 10
    assert seen[:5] == seen[5:]


def test_a_refusing_audit_hook_prevents_the_start() -> None:
    """Nothing is started, and its exception comes out."""
    program = (
        "import sys, os\n"
        "from fastproc import subprocess\n"
        "def refuse(event, args):\n"
        "    if event == 'subprocess.Popen': raise PermissionError('no')\n"
        "sys.addaudithook(refuse)\n"
        "for call in (lambda: subprocess.run(['touch', 'x']), lambda: subprocess.Popen(['touch', 'x'])):\n"
        "    try:\n"
        "        call()\n"
        "    except PermissionError as error:\n"
        "        print(error, os.path.exists('x'))\n"
    )
    done = standard.run([PYTHON, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "no False\nno False\n"


def test_the_encoding_warning_names_the_caller() -> None:
    """And not a file of ours."""
    program = (
        "from fastproc.subprocess import *\n"
        "run('echo hello', shell=True, text=True)\n"
        "check_output('echo hello', shell=True, text=True)\n"
        "Popen('echo hello', shell=True, text=True).wait()\n"
    )
    done = standard.run(
        [PYTHON, "-X", "warn_default_encoding", "-c", program], capture_output=True, text=True, check=True
    )
    lines = [line for line in done.stderr.splitlines() if "EncodingWarning" in line]
    assert [line.split(": ")[0] for line in lines] == ["<string>:2", "<string>:3", "<string>:4"]


def test_a_child_that_is_forgotten_is_warned_of_and_reaped_later() -> None:
    """As the standard module does."""
    process = ours.Popen(["sleep", "30"])
    pid = process.pid
    with pytest.warns(ResourceWarning, match=f"subprocess {pid} is still running"):
        del process
    assert pid in [each.pid for each in standard._active]

    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    with ours.Popen(["true"]):
        pass
    assert pid not in [each.pid for each in standard._active]
