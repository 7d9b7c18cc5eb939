"""Starts that fail: what the error says, that nothing of it is left, and that the manager goes on."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from tests.conftest import eventually
from tests.integration import fresh, seccomp
from tests.integration.seccomp import Gate, Rule
from tests.programs import Programs
from tests.watch import can, is_alive, state_of

import fastproc
from fastproc import (
    PIPE,
    DuplicateTask,
    Limits,
    ManagerClosed,
    NotActive,
    Process,
    ProcessManager,
    SpawnError,
)

Start = Callable[..., Process]

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
with_filters = pytest.mark.skipif(not seccomp.is_available(), reason="needs seccomp filters")


def leaves() -> list[Path]:
    """The cgroups that this program has made for its children."""
    directory = str(fastproc.capabilities()["cgroup_dir"])
    return [*Path(directory).glob(f"fastproc-{os.getpid()}-*/*/")] if directory else []


def populated_leaves() -> list[Path]:
    """Those of them that somebody lives in."""
    return [leaf for leaf in leaves() if "populated 1" in (leaf / "cgroup.events").read_text()]


@pytest.fixture
def manager(manager: ProcessManager) -> Iterator[ProcessManager]:
    """A manager that after the test has nothing left of it, and goes on."""
    yield manager
    # Without cgroups it takes a look at /proc to know that nothing is left of a task.
    assert eventually(lambda: manager.active() == [])
    assert manager.start_process("goes on", ["true"]).wait(20).ok
    assert populated_leaves() == []


@pytest.fixture(params=["start_process", "start_many", "die_with_parent"])
def start(request: pytest.FixtureRequest, manager: ProcessManager) -> Start:
    """Each way to start a program: in the caller's thread, and in one of a supervisor."""

    def start_process(args: Any, **options: Any) -> Process:
        return manager.start_process("x", args, **options)

    def start_many(args: Any, **options: Any) -> Process:
        (found,) = manager.start_many([("x", fastproc.Command(args, **options))])
        if isinstance(found, SpawnError):
            raise found
        return found

    def die_with_parent(args: Any, **options: Any) -> Process:
        return manager.start_process("x", args, die_with_parent=True, **options)

    ways = {"start_process": start_process, "start_many": start_many, "die_with_parent": die_with_parent}
    return ways[request.param]


def error_of(start: Start, args: Any, **options: Any) -> SpawnError:
    """The error that a start fails with."""
    with pytest.raises(SpawnError) as caught:
        start(args, **options)
    return caught.value


def outcome_of(start: Callable[[], Process]) -> Process | SpawnError:
    """What comes of a start that may fail."""
    try:
        return start()
    except SpawnError as error:
        return error


def executable(path: Path, content: str | bytes, mode: int = 0o755) -> str:
    """A file of that content, which may be executed."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    path.chmod(mode)
    return str(path)


# ---- the program ----


def test_a_program_that_is_missing_is_named(start: Start) -> None:
    """Known before the start returns, and caught by whoever catches FileNotFoundError."""
    error = error_of(start, ["/no/such/program", "argument"])

    assert isinstance(error, FileNotFoundError)
    assert (error.errno, error.stage, error.filename) == (errno.ENOENT, "exec", "/no/such/program")
    assert "no such program" in str(error)
    assert not error.retryable


def test_a_program_that_no_directory_of_path_has_is_told_as_such(start: Start, tmp_path: Path) -> None:
    """The PATH that counts is that of the child's own environment."""
    error = error_of(start, ["no-such-program"])
    assert (error.errno, error.stage, error.filename) == (errno.ENOENT, "exec", "no-such-program")
    assert "PATH" in str(error)

    error = error_of(start, ["true"], env={"PATH": str(tmp_path)})
    assert (error.errno, error.filename) == (errno.ENOENT, "true")


def test_a_script_whose_interpreter_is_missing_is_told_from_one_that_is_missing(
    start: Start, tmp_path: Path
) -> None:
    """To the kernel both are ENOENT."""
    script = executable(tmp_path / "script", "#!/no/such/interpreter -x\n")

    error = error_of(start, [script])

    assert isinstance(error, FileNotFoundError)
    assert (error.errno, error.stage, error.filename) == (errno.ENOENT, "exec", script)
    assert "'/no/such/interpreter'" in str(error)


def test_a_program_whose_loader_is_missing_is_told_as_such(start: Start, tmp_path: Path) -> None:
    """The loader that an ELF file names is found in it."""
    binary = Path(shutil.which("true") or "/bin/true").read_bytes()
    named = re.search(rb"/lib[^\0]*/ld-[^\0]*\.so[^\0]*(?=\0)", binary)
    if named is None:
        pytest.skip("true(1) is linked statically")
    missing = b"/no/such/loader".ljust(len(named.group()), b"_")
    program = executable(tmp_path / "program", binary.replace(named.group(), missing))

    error = error_of(start, [program])

    assert (error.errno, error.stage, error.filename) == (errno.ENOENT, "exec", program)
    assert f"loader {missing.decode()!r} is missing" in str(error)


def test_what_must_not_be_executed_is_denied_and_the_reason_told(start: Start, tmp_path: Path) -> None:
    """A file without x in its mode, and a directory, are both EACCES to the kernel."""
    plain = executable(tmp_path / "plain", "#!/bin/sh\n", mode=0o644)

    error = error_of(start, [plain])
    assert isinstance(error, PermissionError)
    assert (error.errno, error.stage, error.filename) == (errno.EACCES, "exec", plain)
    assert "not executable" in str(error)

    error = error_of(start, [tmp_path])
    assert isinstance(error, PermissionError)
    assert (error.errno, error.stage) == (errno.EACCES, "exec")
    assert os.fspath(error.filename) == str(tmp_path)
    assert "is a directory" in str(error)

    script = executable(tmp_path / "script", f"#!{plain}\n")
    error = error_of(start, [script])
    assert (error.errno, error.filename) == (errno.EACCES, script)
    assert "interpreter" in str(error)


@as_root
def test_a_mount_without_execution_is_named_as_the_reason(programs: Programs, tmp_path: Path) -> None:
    """In a mount namespace of the scenario's own, see mount_namespaces(7)."""
    said = fresh.run(
        f"""
        import ctypes
        libc = ctypes.CDLL(None, use_errno=True)
        place = {os.fsencode(tmp_path)!r}
        if libc.unshare(0x00020000) or libc.mount(b"none", b"/", None, 0x44000, None):
            print("skip")
        elif libc.mount(b"none", place, b"tmpfs", 8, None):
            print("skip")
        else:
            program = Path({str(tmp_path)!r}) / "program"
            program.write_text("#!/bin/sh\\n")
            program.chmod(0o755)
            with ProcessManager() as manager:
                try:
                    manager.start_process("x", [program])
                except PermissionError as error:
                    print(error.errno == errno.EACCES, error.stage, "noexec" in str(error))
                print(manager.start_process("x", ["true"]).wait(20).ok)
        """,
        programs,
    )
    if said == "skip\n":
        pytest.skip("no mount namespace can be had")

    assert said.split() == ["True", "exec", "True", "True"]


def test_a_sandbox_that_forbids_execution_is_a_denial(manager: ProcessManager) -> None:
    """Landlock of Linux 5.13 has no word for the reason, but the errno and the culprit are there."""
    libc = ctypes.CDLL(None, use_errno=True)
    no_new_privs, execute = 38, 1
    handled = ctypes.c_uint64(execute)

    def forbid_and_start() -> Process:
        ruleset = libc.syscall(444, ctypes.byref(handled), 8, 0)  # landlock_create_ruleset
        if ruleset < 0:
            pytest.skip("no Landlock in this kernel")
        libc.prctl(no_new_privs, 1, 0, 0, 0)
        assert libc.syscall(446, ruleset, 0) == 0  # landlock_restrict_self, for this thread
        os.close(ruleset)
        return manager.start_process("x", ["/bin/true"])

    with pytest.raises(SpawnError) as caught:
        seccomp.in_a_thread(forbid_and_start)

    assert isinstance(caught.value, PermissionError)
    assert (caught.value.errno, caught.value.stage) == (errno.EACCES, "exec")
    assert caught.value.filename == "/bin/true"


def test_what_is_wrong_with_a_path_is_told_exactly(start: Start, tmp_path: Path) -> None:
    """Not one errno for all: a part that is no directory, a loop of links, a name that is too long."""
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    wrong = {
        str(tmp_path / "file" / "program"): errno.ENOTDIR,
        str(tmp_path / "loop"): errno.ELOOP,
        str(tmp_path / ("n" * 300)): errno.ENAMETOOLONG,
        "/" + "p/" * 2500: errno.ENAMETOOLONG,
    }
    for path, number in wrong.items():
        error = error_of(start, [path])
        assert (error.errno, error.stage, error.filename) == (number, "exec", path)
        assert isinstance(error, NotADirectoryError) == (number == errno.ENOTDIR)


@pytest.mark.parametrize("content", ["", "echo this is a program for nobody\n", "\x7fELF broken"])
def test_what_is_no_program_is_not_given_to_a_shell(start: Start, tmp_path: Path, content: str) -> None:
    """execvp(3) would try /bin/sh, which may do anything with it."""
    witness = tmp_path / "witness"
    program = executable(tmp_path / "program", content and f"{content}touch {witness}\n")

    error = error_of(start, [program])

    assert (error.errno, error.stage, error.filename) == (errno.ENOEXEC, "exec", program)
    assert "format" in str(error) or "empty" in str(error)
    assert not witness.exists()


def test_a_program_that_is_being_written_is_busy(start: Start, tmp_path: Path) -> None:
    """It is tried for a moment, then told."""
    program = executable(tmp_path / "program", "#!/bin/sh\n")
    with open(program, "r+b"):
        error = error_of(start, [program])

    assert (error.errno, error.stage, error.filename) == (errno.ETXTBSY, "exec", program)
    assert "open for writing" in str(error)


def test_a_writer_who_lets_go_in_a_moment_is_waited_for(manager: ProcessManager, tmp_path: Path) -> None:
    """As a forked sibling does, which holds every descriptor until its own execve(2)."""
    program = executable(tmp_path / "program", "#!/bin/sh\n")

    def start_while_it_is_written() -> bool:
        with open(program, "r+b") as writer:
            timer = threading.Timer(0.005, writer.close)
            timer.start()
            outcome = outcome_of(lambda: manager.start_process("x", [program]))
            timer.join()
        if isinstance(outcome, Process):
            return outcome.wait(20).ok
        assert outcome.errno == errno.ETXTBSY
        return False

    # The writer may not get the processor in time.
    assert any(start_while_it_is_written() for _ in range(20))


def test_a_string_that_is_too_long_is_named(start: Start) -> None:
    """The kernel takes 128 KiB, NUL included, and says only E2BIG; see execve(2), MAX_ARG_STRLEN."""
    most = 32 * mmap.PAGESIZE
    assert start(["true", "x" * (most - 1)]).wait(20).ok

    error = error_of(start, ["true", "short", "x" * most])
    assert (error.errno, error.stage, error.filename) == (errno.E2BIG, "request", "args[2]")
    assert "argument 2" in str(error)

    error = error_of(start, ["true"], env={"PATH": os.environ["PATH"], "LONG": "x" * most})
    assert (error.errno, error.stage, error.filename) == (errno.E2BIG, "request", "LONG")
    assert "environment" in str(error)
    assert "xxx" not in str(error)


def test_strings_that_are_too_much_together_are_told_as_such(start: Start) -> None:
    """Each is short enough, all are more than a quarter of the stack or 6 MiB, see execve(2)."""
    error = error_of(start, ["true", *(["x" * 100_000] * 70)])

    assert (error.errno, error.stage, error.filename) == (errno.E2BIG, "exec", "true")
    assert "together" in str(error)


# ---- what is used up ----


@as_root
def test_the_limit_of_processes_is_told_and_may_be_tried_again(programs: Programs) -> None:
    """Root is exempt from RLIMIT_NPROC, see setrlimit(2): the scenario becomes somebody else."""
    said = fresh.run(
        """
        manager = ProcessManager()
        manager.start_process("first", ["true"]).wait(20)
        os.setgroups([])
        os.setresgid(54321, 54321, 54321)
        os.setresuid(54321, 54321, 54321)
        resource.setrlimit(resource.RLIMIT_NPROC, (1, 1000))
        for options in ({}, {"stdout": PIPE}):
            try:
                manager.start_process("x", ["true"], **options)
            except fastproc.SpawnError as error:
                told = "process limit" in str(error)
                print(error.errno == errno.EAGAIN, error.stage, error.retryable, told)
        print(manager.active_count(), children())
        resource.setrlimit(resource.RLIMIT_NPROC, (1000, 1000))
        print(manager.start_process("x", ["true"]).wait(20).ok)
        manager.close()
        """,
        programs,
    )

    assert said.splitlines() == ["True clone True True"] * 2 + ["0 []", "True"]


def _pids_cgroup() -> Path | None:
    """A directory of the pids controller, of either version, that we may write to."""
    for point in (Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup")):
        place = point / f"fastproc-test-{os.getpid()}"
        try:
            place.mkdir()
        except OSError:
            continue
        if (place / "pids.max").exists():
            return place
        place.rmdir()
    return None


def test_a_full_cgroup_is_told_and_may_be_tried_again(programs: Programs) -> None:
    """The limit is that of the manager's own cgroup: `pids.max` of the job's does not hinder its start."""
    place = _pids_cgroup()
    if place is None:
        pytest.skip("no pids controller that we may write to")
    try:
        said = fresh.run(
            f"""
            place = Path({str(place)!r})
            (place / "cgroup.procs").write_text("0")
            with ProcessManager(containment="session") as manager:
                manager.start_process("first", ["true"]).wait(20)
                (place / "pids.max").write_text((place / "pids.current").read_text())
                try:
                    manager.start_process("x", ["true"])
                except fastproc.SpawnError as error:
                    words = str(error)
                    print(error.errno == errno.EAGAIN, error.stage, error.retryable, "cgroup" in words)
                print(manager.active_count(), children())
                (place / "pids.max").write_text("max")
                print(manager.start_process("x", ["true"]).wait(20).ok)
            """,
            programs,
        )
    finally:
        place.rmdir()

    assert said.splitlines() == ["True clone True True", "0 []", "True"]


def test_without_a_free_descriptor_nothing_is_started_and_all_else_works(programs: Programs) -> None:
    """Those that run are heard of, stopped and reaped; with the first free descriptor it goes on."""
    said = fresh.run(
        """
        resource.setrlimit(resource.RLIMIT_NOFILE, (120, 120))
        with ProcessManager() as manager:
            manager.start_process("first", ["true"]).wait(20)
            talker = manager.start_process("talks", programs.ready_then_sleep(), stdout=PIPE)
            first_line(talker)
            stubborn = manager.start_process("deaf", programs.ignores_sigterm(), stdout=PIPE)
            first_line(stubborn)
            threads = threading.active_count()
            hoard = []
            try:
                while True:
                    hoard.append(os.dup(0))
            except OSError:
                pass
            alive = 2
            # A child that shares our memory needs no descriptor where it gets neither a pidfd nor a leaf.
            can = fastproc.capabilities()
            piped = {"stdout": PIPE} if not can["pidfd"] and (can["clone3"] or can["clone"]) else {}
            session = {"stdin": os.devnull, "containment": "session", **piped}
            for options in (piped, {"stdout": PIPE}, session):
                try:
                    manager.start_process("x", ["true"], **options)
                except fastproc.SpawnError as error:
                    print(error.errno == errno.EMFILE, error.stage in ("clone", "pipe"), error.retryable)
            for result in manager.start_many([("y", fastproc.Command(["true"], **piped))]):
                print(result.errno == errno.EMFILE, result.stage in ("clone", "pipe"), result.retryable)
            manager.terminate_process("talks")
            result = manager.terminate_process("deaf", timeout=0.1)
            print(talker.wait(20).signal == signal.SIGTERM, result.stopped, stubborn.wait(20).escalated)
            for descriptor in hoard:
                os.close(descriptor)
            until = time.monotonic() + 20
            while manager.active_count() > 0 and time.monotonic() < until:
                time.sleep(0.005)
            print(manager.active_count(), manager.start_process("x", ["true"]).wait(20).ok)
        """,
        programs,
    )

    assert said.splitlines() == ["True True True"] * 5 + ["0 True"]


@with_filters
@pytest.mark.parametrize(("number", "words"), [(errno.ENFILE, "the system"), (errno.ENOMEM, "no memory")])
def test_what_the_system_has_run_out_of_is_told_and_may_be_tried_again(
    manager: ProcessManager, number: int, words: str
) -> None:
    """The kernel says so when the child is made; by a filter, since to use it up would hurt everybody."""
    if not can("clone3"):
        pytest.skip("no clone3")
    rule = Rule(call="clone3", answer=number, not_from_libc=True)

    with pytest.raises(SpawnError) as caught:
        seccomp.in_a_filtered_thread([rule], lambda: manager.start_process("x", ["true"]))

    assert (caught.value.errno, caught.value.stage) == (number, "clone")
    assert caught.value.retryable
    assert words in str(caught.value)


@with_filters
@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_a_pipe_that_cannot_be_made_is_told_as_such(manager: ProcessManager, number: int) -> None:
    """And the other pipe of the same start is closed again."""
    rule = Rule(call="pipe2", answer=number)

    with pytest.raises(SpawnError) as caught:
        seccomp.in_a_filtered_thread([rule], lambda: manager.start_process("x", ["true"], stdout=PIPE))

    assert (caught.value.errno, caught.value.stage) == (number, "pipe")
    assert caught.value.retryable


# ---- where it starts, and as whom ----


def test_a_directory_that_cannot_be_entered_is_not_taken_for_the_program(
    start: Start, tmp_path: Path
) -> None:
    """Missing, removed a moment ago, no directory at all."""
    removed = tmp_path / "removed"
    removed.mkdir()
    removed.rmdir()
    file = tmp_path / "file"
    file.touch()

    error = error_of(start, ["true"], cwd=removed)
    assert isinstance(error, FileNotFoundError)
    assert (error.errno, error.stage, os.fspath(error.filename)) == (errno.ENOENT, "cwd", str(removed))
    assert "working directory" in str(error)

    error = error_of(start, ["true"], cwd=str(file))
    assert isinstance(error, NotADirectoryError)
    assert (error.errno, error.stage, error.filename) == (errno.ENOTDIR, "cwd", str(file))


@as_root
def test_without_privileges_what_is_not_allowed_is_not_done(programs: Programs, tmp_path: Path) -> None:
    """A closed directory, another user, more than the hard limit, a higher priority: each is named."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    limits = ("cpu", "address_space", "data", "file_size", "core", "stack", "processes", "locked_memory")
    said = fresh.run(
        f"""
        import pwd, grp, encodings.idna
        manager = ProcessManager()
        manager.start_process("first", ["true"]).wait(20)
        for name in ("CPU", "AS", "DATA", "FSIZE", "CORE", "STACK", "NOFILE", "NPROC", "MEMLOCK"):
            number = getattr(resource, "RLIMIT_" + name)
            soft, hard = resource.getrlimit(number)
            most = 2**30 if hard == -1 else hard
            resource.setrlimit(number, (min(soft, most) if soft != -1 else most, most))
        os.setgroups([])
        os.setresgid(54321, 54321, 54321)
        os.setresuid(54321, 54321, 54321)

        def try_to(**options):
            try:
                manager.start_process("x", ["true"], **options).wait(20)
            except PermissionError as error:
                print(errno.errorcode[error.errno], error.stage, error.filename)
            else:
                print("started")

        try_to(cwd={str(closed)!r})
        try_to(user=0)
        try_to(user="root", group="root")
        try_to(group=0)
        try_to(extra_groups=[0])
        try_to(nice=-5)
        for name in {limits}:
            try_to(limits=fastproc.Limits(**{{name: (1, 2**40)}}))
        try_to(limits=fastproc.Limits(open_files=(100, resource.getrlimit(resource.RLIMIT_NOFILE)[1] + 1)))
        print(manager.active_count(), children(), manager.start_process("x", ["true"]).wait(20).ok)
        manager.close()
        """,
        programs,
    )

    assert said.splitlines() == [
        f"EACCES cwd {closed}",
        "EPERM ids 0",
        "EPERM ids root",
        "EPERM ids 0",
        "EPERM ids None",
        "EACCES nice None",
        *[f"EPERM rlimit {name}" for name in limits],
        "EPERM rlimit open_files",
        "0 [] True",
    ]


def test_a_directory_of_ours_that_is_gone_is_in_nobodys_way(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a relative path needs it, and then the error is about that path."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()

    assert start(["true"]).wait(20).ok
    error = error_of(start, ["./program"])

    assert (error.errno, error.stage, error.filename) == (errno.ENOENT, "exec", "./program")


def test_users_and_groups_that_do_not_exist_are_named(start: Start) -> None:
    """Found before a process exists."""
    error = error_of(start, ["true"], user="no-such-user")
    assert (error.errno, error.stage, error.filename) == (errno.EINVAL, "ids", "no-such-user")
    assert "no such user" in str(error)

    error = error_of(start, ["true"], group="no-such-group")
    assert (error.errno, error.stage, error.filename) == (errno.EINVAL, "ids", "no-such-group")

    error = error_of(start, ["true"], extra_groups=["no-such-group"])
    assert (error.errno, error.stage, error.filename) == (errno.EINVAL, "ids", "no-such-group")


@as_root
def test_a_user_with_too_many_processes_starts_none_and_is_not_left_as_root(
    manager: ProcessManager,
) -> None:
    """The kernel takes the change of user and refuses execve(2), see setreuid(2), EAGAIN."""
    first = manager.start_process("first", ["sleep", "100"], user=54321, group=54321)

    with pytest.raises(SpawnError) as caught:
        manager.start_process("x", ["true"], user=54321, group=54321, limits=Limits(processes=0))
    assert first.terminate().stopped

    assert (caught.value.errno, caught.value.stage) == (errno.EAGAIN, "exec")
    assert "process limit" in str(caught.value)
    assert caught.value.retryable


@as_root
@with_filters
@pytest.mark.parametrize("call", ["setgroups", "setresuid"])
def test_a_change_of_ids_that_the_kernel_only_pretends_is_found_out(
    manager: ProcessManager, tmp_path: Path, call: str
) -> None:
    """A filter answers success and does nothing: the program must not run with what is left."""
    witness = tmp_path / "witness"
    options: Any = {"user": 54321, "group": 54321, "extra_groups": [54322]}
    rule = Rule(call=call, answer=0)

    with pytest.raises(PermissionError) as caught:
        seccomp.in_a_filtered_thread(
            [rule], lambda: manager.start_process("x", ["touch", str(witness)], **options)
        )

    assert isinstance(caught.value, SpawnError)
    assert (caught.value.errno, caught.value.stage) == (errno.EPERM, "ids")
    assert caught.value.filename == "54321"
    assert not witness.exists()


@as_root
@with_filters
def test_a_user_change_that_fails_for_want_of_room_is_told(manager: ProcessManager) -> None:
    """Kernels before 3.1 said so here, see setuid(2), EAGAIN; the old user must not go on."""
    rule = Rule(call="setresuid", answer=errno.EAGAIN)

    with pytest.raises(SpawnError) as caught:
        seccomp.in_a_filtered_thread([rule], lambda: manager.start_process("x", ["true"], user=54321))

    assert (caught.value.errno, caught.value.stage) == (errno.EAGAIN, "ids")
    assert caught.value.filename == "54321"


@as_root
def test_privileges_that_could_be_had_back_are_not_good_enough(manager: ProcessManager) -> None:
    """With SECBIT_NO_SETUID_FIXUP of capabilities(7) the right to become root again survives setresuid(2)."""
    libc = ctypes.CDLL(None, use_errno=True)

    def start_with_securebits() -> Process:
        assert libc.prctl(28, 1 << 2, 0, 0, 0) == 0  # PR_SET_SECUREBITS, for this thread
        return manager.start_process("x", ["true"], user=54321, group=54321)

    with pytest.raises(PermissionError) as caught:
        seccomp.in_a_thread(start_with_securebits)

    assert isinstance(caught.value, SpawnError)
    assert (caught.value.errno, caught.value.stage) == (errno.EPERM, "ids")


@as_root
def test_groups_that_may_not_be_dropped_stop_the_start(programs: Programs) -> None:
    """In a user namespace whose `setgroups` is denied, see user_namespaces(7)."""
    said = fresh.run(
        """
        import ctypes
        if ctypes.CDLL(None, use_errno=True).unshare(0x10000000):
            print("skip")
        else:
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text("0 0 1")
            Path("/proc/self/gid_map").write_text("0 0 1")
            with ProcessManager() as manager:
                try:
                    manager.start_process("x", ["true"], extra_groups=[])
                except PermissionError as error:
                    print(errno.errorcode[error.errno], error.stage)
                print(manager.start_process("x", ["true"]).wait(20).ok)
        """,
        programs,
    )
    if said == "skip\n":
        pytest.skip("no user namespace can be had")

    assert said.splitlines() == ["EPERM ids", "True"]


# ---- what it may use ----


def test_limits_do_not_hinder_the_start_itself(manager: ProcessManager, programs: Programs) -> None:
    """They are set when the descriptors are in place; 0 is a limit like any other."""
    with open(os.devnull, "rb") as file:
        high = os.dup(file.fileno())
        try:
            process = manager.start_process(
                "x", programs.nop(), pass_fds=[high], limits=Limits(open_files=3, core=0, file_size=0)
            )
        finally:
            os.close(high)
    assert process.wait(20).ok

    process = manager.start_process("x", programs.nop(), limits=Limits(open_files=0))
    assert process.wait(20).ok


def test_a_limit_that_leaves_no_room_for_the_program_is_an_error_of_it(manager: ProcessManager) -> None:
    """Refused by execve(2), or killed by the kernel as soon as it runs; never left half started."""
    limits = Limits(address_space=4096)
    outcome = outcome_of(lambda: manager.start_process("x", ["true"], limits=limits))

    if isinstance(outcome, Process):
        assert not outcome.wait(20).ok
    else:
        assert outcome.stage == "exec"


def test_an_impossible_processor_is_told_as_such(start: Start) -> None:
    """None of those asked for may be used here."""
    error = error_of(start, ["true"], cpu_affinity=[8000])

    assert (error.errno, error.stage) == (errno.EINVAL, "affinity")
    assert "CPU" in str(error)


def test_a_limit_that_needs_a_cgroup_is_kept_or_refused(start: Start) -> None:
    """Refused means: before anything is started, and with the words what is missing."""
    wished = {"memory": Limits(memory=2**28), "pids": Limits(pids=50), "cpus": Limits(cpus=0.5)}
    for name, limits in wished.items():
        outcome = outcome_of(partial(start, ["true"], limits=limits))
        if isinstance(outcome, Process):
            assert outcome.wait(20).ok
            continue
        assert outcome.stage == "cgroup"
        assert "cgroup" in str(outcome)
        # Where there is no directory at all, no controller is looked for.
        assert outcome.filename == (name if can("cgroup") else None)
        assert name.removesuffix("s") in str(outcome)


def test_without_cgroups_what_needs_one_is_refused_in_words(programs: Programs) -> None:
    """And "auto" goes on with the session, which is what proves the end then."""
    said = fresh.run(
        """
        with ProcessManager() as manager:
            for options in (
                {"limits": fastproc.Limits(memory=2**28)},
                {"limits": fastproc.Limits(pids=5)},
                {"limits": fastproc.Limits(cpus=1)},
                {"containment": "cgroup"},
            ):
                try:
                    manager.start_process("x", ["true"], **options)
                except fastproc.SpawnError as error:
                    print(error.stage, "cgroup" in str(error), manager.active_count(), children())
            process = manager.start_process("x", programs.ready_then_sleep(), stdout=PIPE)
            first_line(process)
            print(process.terminate().proof)
        """,
        programs,
        disable="cgroup",
    )

    assert said.splitlines() == ["cgroup True 0 []"] * 4 + ["session"]


def test_what_is_not_in_this_version_is_refused_in_words(start: Start) -> None:
    """The guard comes later."""
    error = error_of(start, ["true"], containment="guard")

    assert (error.errno, error.stage) == (errno.ENOTSUP, "cgroup")
    assert "not available" in str(error)


def test_a_cgroup_that_vanished_is_in_nobodys_way(programs: Programs) -> None:
    """Somebody has tidied up: "auto" goes on at once, who insists on a cgroup hears of it at most once."""
    if not can("cgroup"):
        pytest.skip("no writable directory of cgroup v2")
    said = fresh.run(
        """
        def tidy_up():
            directory = Path(fastproc.capabilities()["cgroup_dir"])
            found = [*directory.glob(f"fastproc-{os.getpid()}-*/*/")]
            for leaf in found:
                leaf.rmdir()
            return found

        def insist():
            try:
                return manager.start_process("insists", ["true"], containment="cgroup").wait(20).ok
            except fastproc.SpawnError as error:
                return error.stage == "cgroup" and manager.active_count() == 0 and children() == []

        with ProcessManager() as manager:
            for _ in range(4):
                manager.start_process("first", ["true"]).wait(20)
                vanished = len(tidy_up())
                print(manager.start_process("auto", ["true"]).wait(20).ok)
            print(all(insist() for _ in range(8)))
            print(manager.start_process("insists", ["true"], containment="cgroup").wait(20).ok)
            tidy_up()
            print(all(insist() for _ in range(8)))
            for leaf in tidy_up():
                leaf.parent.rmdir()
            print(insist(), manager.start_process("auto", ["true"]).wait(20).ok)
            process = manager.start_process("x", programs.ignores_sigterm(), stdout=PIPE)
            first_line(process)
            print(process.terminate(0.1).stopped)
        """,
        programs,
    )

    assert said.splitlines() == ["True"] * 7 + ["True True", "True"]


@with_filters
@pytest.mark.parametrize("number", [errno.EACCES, errno.EBUSY, errno.ENODEV, errno.EOPNOTSUPP])
def test_a_cgroup_that_lets_nobody_in_is_told_to_who_insists(manager: ProcessManager, number: int) -> None:
    """Whoever insists on a cgroup gets the error, see clone(2), CLONE_INTO_CGROUP."""
    if not can("cgroup", "into_cgroup"):
        pytest.skip("no CLONE_INTO_CGROUP")
    # The first word of struct clone_args cannot be seen by a filter, so all of clone3(2) is refused.
    rule = Rule(call="clone3", answer=number, not_from_libc=True)

    with pytest.raises(SpawnError) as caught:
        seccomp.in_a_filtered_thread(
            [rule], lambda: manager.start_process("x", ["true"], containment="cgroup")
        )

    assert (caught.value.errno, caught.value.stage) == (number, "cgroup")


def test_failed_starts_leave_no_cgroup(manager: ProcessManager) -> None:
    """The leaf of one that was not born serves the next."""
    for _ in range(3):
        manager.start_process("x", ["true"]).wait(20)
    before = len(leaves())
    for number in range(30):
        with pytest.raises(SpawnError):
            manager.start_process(number, ["/no/such/program"])

    # Each supervisor has leaves of its own, the second perhaps had none yet.
    assert len(leaves()) <= before + 2


@pytest.mark.parametrize(
    "options", ["containment='cgroup'", "limits=fastproc.Limits(memory=1 << 30)"], ids=lambda words: words[:8]
)
def test_a_place_for_cgroups_that_is_none_is_named(programs: Programs, options: str) -> None:
    """Whoever has set the variable wonders where it went."""
    said = fresh.run(
        f"""
        os.environ["FASTPROC_CGROUP"] = "/no/such/place"
        try:
            ProcessManager().start_process("x", ["true"], {options})
        except fastproc.SpawnError as error:
            print(error.stage, error.strerror)
        """,
        programs,
    )

    assert said.startswith("cgroup ")
    assert "FASTPROC_CGROUP=/no/such/place is not one" in said


# ---- descriptors ----


def test_a_descriptor_that_is_not_open_is_named(start: Start) -> None:
    """Whether it is to be a stream or to be passed on; nothing that we open may be taken for it."""
    closed = os.dup(0)
    os.close(closed)

    # The first start of a manager opens a mailbox, which gets that number.
    error = error_of(start, ["true"], pass_fds=[closed])
    assert (error.errno, error.stage, error.filename) == (errno.EBADF, "fds", f"fd {closed}")

    closed = max(map(int, os.listdir("/proc/self/fd"))) + 100
    for name in ("stdin", "stdout", "stderr"):
        error = error_of(start, ["true"], **{name: closed})
        assert (error.errno, error.stage, error.filename) == (errno.EBADF, "fds", f"fd {closed}")
        assert f"descriptor {closed}, given as {name}, is not open" in str(error)


def test_a_file_that_was_closed_since_is_told_as_such(manager: ProcessManager) -> None:
    """The Command was right when it was made; a file object says ValueError, which a start never does."""
    with open(os.devnull, "rb") as file:
        command = fastproc.Command(["true"], stdin=file)

    (error,) = manager.start_many([("y", command)])
    with pytest.raises(SpawnError) as caught:
        manager.start_process("x", command)

    assert isinstance(error, SpawnError)
    for found in (error, caught.value):
        assert (found.errno, found.stage, found.filename) == (errno.EBADF, "fds", "fd 0")


def test_a_stream_that_cannot_be_opened_is_named(start: Start, tmp_path: Path) -> None:
    """By the path, not by the number."""
    error = error_of(start, ["true"], stdin=str(tmp_path / "missing"))
    assert isinstance(error, FileNotFoundError)
    assert (error.errno, error.stage, error.filename) == (errno.ENOENT, "fds", str(tmp_path / "missing"))
    assert "standard input" in str(error)

    error = error_of(start, ["true"], stdout=tmp_path)
    assert (error.errno, error.stage, os.fspath(error.filename)) == (errno.EISDIR, "fds", str(tmp_path))

    error = error_of(start, ["true"], stderr=str(tmp_path / "no" / "directory"))
    assert (error.errno, error.stage) == (errno.ENOENT, "fds")
    assert "standard error" in str(error)


# ---- between clone and execve ----


@with_filters
def test_a_child_that_is_killed_before_it_is_a_program_was_never_started(manager: ProcessManager) -> None:
    """SIGKILL hits it while it is held at setsid(2): there is no errno, and it must not be called running."""
    gate = Gate("setsid", lambda: manager.start_process("x", ["true"]))
    _, pid = gate.arrival()
    assert not gate.is_open
    os.kill(pid, signal.SIGKILL)

    with pytest.raises(SpawnError) as caught:
        gate.result()

    assert (caught.value.stage, caught.value.signal) == ("pre-exec", signal.SIGKILL)
    assert "SIGKILL" in str(caught.value)
    assert state_of(pid) == ""


@with_filters
def test_a_child_that_a_filter_kills_before_it_is_a_program_was_never_started(programs: Programs) -> None:
    """By SIGSYS, see seccomp(2), SECCOMP_RET_KILL_PROCESS."""
    said = fresh.run(
        """
        from tests.integration import seccomp
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        rule = seccomp.Rule(call="setsid", answer=seccomp.KILL)
        with ProcessManager() as manager:
            manager.start_process("first", ["true"]).wait(20)
            try:
                seccomp.in_a_filtered_thread([rule], lambda: manager.start_process("x", ["true"]))
            except fastproc.SpawnError as error:
                print(error.stage, signal.Signals(error.signal).name, manager.active_count(), children())
            print(manager.start_process("x", ["true"]).wait(20).ok)
        """,
        programs,
    )

    assert said.splitlines() == ["pre-exec SIGSYS 0 []", "True"]


@with_filters
def test_a_child_that_is_stopped_before_it_is_a_program_is_set_going_again(manager: ProcessManager) -> None:
    """SIGSTOP cannot be blocked, and until execve(2) the child holds the thread that made it."""
    if not can("procfs"):
        pytest.skip("procfs is hidden: who is stopped cannot be seen")
    gate = Gate("setsid", lambda: manager.start_process("x", ["true"]))
    _, pid = gate.arrival()
    os.kill(pid, signal.SIGSTOP)

    # Stopped it has left the call; set going it comes to it again.
    try:
        ticket, again = gate.arrival()
    except AssertionError:
        os.kill(pid, signal.SIGKILL)
        raise
    assert again == pid
    gate.let_go(ticket)

    assert gate.result().wait(20).ok


@with_filters
def test_other_signals_wait_until_the_child_is_on_its_own(manager: ProcessManager) -> None:
    """All are blocked in it; one that came meanwhile is let in right before execve(2), and told."""
    gate = Gate("setsid", lambda: manager.start_process("x", ["true"]))
    ticket, pid = gate.arrival()
    os.kill(pid, signal.SIGTERM)
    # Nothing tells that a signal has no effect.
    time.sleep(0.05)
    assert is_alive(pid)
    assert not gate.is_open
    gate.let_go(ticket)

    with pytest.raises(SpawnError) as caught:
        gate.result()

    assert (caught.value.stage, caught.value.signal) == ("pre-exec", signal.SIGTERM)


@with_filters
def test_no_start_succeeds_before_the_program_is_known_to_run(manager: ProcessManager) -> None:
    """While execve(2) is held the start has not returned; what it then says is what the start says."""
    gate = Gate("execve", lambda: manager.start_process("x", ["/bin/true"]))
    ticket, pid = gate.arrival()
    gate_is_open = gate.is_open
    assert is_alive(pid)
    gate.refuse(ticket, errno.EIO)

    with pytest.raises(SpawnError) as caught:
        gate.result()

    assert not gate_is_open
    assert (caught.value.errno, caught.value.stage) == (errno.EIO, "exec")
    assert caught.value.filename == "/bin/true"


@with_filters
def test_a_start_that_hangs_holds_up_nobody_else(manager: ProcessManager, programs: Programs) -> None:
    """Others are started, waited for and stopped meanwhile, as on a file system that does not answer."""
    gate = Gate("execve", lambda: manager.start_process("hangs", ["/bin/true"]))
    ticket, _ = gate.arrival()

    assert manager.start_process("other", programs.exits_with(3)).wait(20).code == 3
    late = manager.start_process("late", programs.ready_then_sleep(), timeout=0.1)
    assert late.wait(20).signal == signal.SIGTERM
    assert not gate.is_open

    gate.let_go(ticket)
    assert gate.result().wait(20).ok


def test_a_program_that_is_replaced_all_the_time_is_one_or_the_other(
    manager: ProcessManager, programs: Programs, tmp_path: Path
) -> None:
    """It is looked up once, by execve(2): there is no check before that could be about another file."""
    place = tmp_path / "program"
    one, two = programs.exits_with(11)[0], programs.nop()[0]
    place.symlink_to(one)
    stop = threading.Event()

    def replace_it() -> None:
        fresh_link = tmp_path / "next"
        while not stop.is_set():
            for target in (two, one):
                fresh_link.symlink_to(target)
                fresh_link.replace(place)

    thread = threading.Thread(target=replace_it)
    thread.start()
    try:
        codes = {manager.start_process("x", [place, "11", "0"]).wait(20).code for _ in range(100)}
    finally:
        stop.set()
        thread.join()

    assert codes <= {0, 11}


# ---- wrong arguments ----


@pytest.mark.parametrize(
    ("args", "options", "kind", "words"),
    [
        ("ls -l", {}, TypeError, "shlex.split"),
        (b"ls", {}, TypeError, "list"),
        (None, {}, TypeError, "list"),
        (["true", 7], {}, TypeError, "args[1]"),
        ([], {}, ValueError, "empty"),
        ([""], {}, ValueError, "empty"),
        ([b""], {}, ValueError, "empty"),
        (["tr\0ue"], {}, ValueError, "NUL"),
        (["true", b"a\0"], {}, ValueError, "NUL"),
        (["true"], {"cwd": "a\0b"}, ValueError, "NUL"),
        (["true"], {"cwd": ""}, ValueError, "empty"),
        (["true"], {"stdout": "a\0b"}, ValueError, "NUL"),
        (["true"], {"env": {"A=B": "c"}}, ValueError, "="),
        (["true"], {"env": {"": "c"}}, ValueError, "empty"),
        (["true"], {"env": {"A": "b\0"}}, ValueError, "NUL"),
        (["true"], {"env": {"A\0": "b"}}, ValueError, "NUL"),
        (["true"], {"env": {"A": "b", b"A": "c"}}, ValueError, "twice"),
        (["true"], {"env": ["A=b"]}, TypeError, "mapping"),
        (["true"], {"input": "text"}, TypeError, "bytes"),
        (["true"], {"stdin": PIPE}, ValueError, "input"),
        (["true"], {"pass_fds": [-1]}, ValueError, "descriptor"),
        (["true"], {"pass_fds": [1]}, ValueError, "stdout"),
        (["true"], {"timeout": -1}, ValueError, "timeout"),
        (["true"], {"stop_signal": 99}, ValueError, "signal"),
        (["true"], {"nice": 20}, ValueError, "nice"),
        (["true"], {"umask": 0o1000}, ValueError, "umask"),
        (["true"], {"cpu_affinity": []}, ValueError, "CPU"),
        (["true"], {"user": ""}, ValueError, "user"),
        (["true"], {"shell": True}, TypeError, "shell"),
    ],
)
def test_wrong_arguments_are_refused_before_any_process_exists(
    manager: ProcessManager, args: Any, options: Any, kind: type[Exception], words: str
) -> None:
    """With the value and the way out in the message, and by an exception that is no OSError."""
    for start in (
        lambda: manager.start_process("x", args, **options),
        lambda: manager.start_many([("fine", ["true"]), ("x", fastproc.Command(args, **options))]),
    ):
        with pytest.raises(kind, match=re.escape(words)) as caught:
            start()
        assert not isinstance(caught.value, OSError)
        assert manager.active_count() == 0
    assert manager.metrics().started == 0


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    before=st.binary(max_size=5).filter(lambda string: b"\0" not in string),
    after=st.binary(max_size=5),
    where=st.sampled_from(["program", "argument", "cwd", "name", "value", "stream"]),
)
def test_a_nul_byte_is_refused_wherever_it_is(
    manager: ProcessManager, before: bytes, after: bytes, where: str
) -> None:
    """The kernel would take what stands before it for the whole."""
    string = before + b"\0" + after
    args: list[bytes] = [b"true"]
    options: Any = {}
    if where == "program":
        args = [string]
    elif where == "argument":
        args.append(string)
    elif where == "name":
        options["env"] = {string: b"value"}
    elif where == "value":
        options["env"] = {b"NAME": string}
    else:
        options["cwd" if where == "cwd" else "stdin"] = string

    with pytest.raises(ValueError, match=r"NUL|'='"):
        manager.start_process("x", args, **options)

    assert manager.metrics().started == 0


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    arguments=st.lists(st.binary(max_size=20).filter(lambda string: b"\0" not in string), max_size=5),
    as_text=st.booleans(),
)
def test_bytes_that_are_no_text_arrive_as_they_are(
    manager: ProcessManager, programs: Programs, arguments: list[bytes], as_text: bool
) -> None:
    """As bytes, and as the surrogates that os.fsdecode() makes of them."""
    given_as: list[Any] = [os.fsdecode(argument) for argument in arguments] if as_text else [*arguments]
    process = manager.start_process("x", [*programs.prints_args(), *given_as], stdout=PIPE)
    process.wait(20)

    assert process.stdout_bytes.split(b"\0")[1:-1] == arguments


def test_names_and_directories_that_are_no_text_are_used_as_they_are(
    manager: ProcessManager, programs: Programs, tmp_path: Path
) -> None:
    """A program, a directory, a variable and a log whose names are not UTF-8; and the error about one."""
    place = os.fsencode(tmp_path) + b"/d\xff\xfe"
    os.mkdir(place)
    shutil.copy(programs.prints_env()[0], place + b"/p\xff")
    process = manager.start_process(
        "x", [place + b"/p\xff"], cwd=place, env={b"N\xff": b"v\xfe"}, stdout=place + b"/log\xff"
    )

    assert process.wait(20).ok
    with open(place + b"/log\xff", "rb") as log:
        assert log.read() == b"N\xff=v\xfe\0"
    with pytest.raises(SpawnError) as caught:
        manager.start_process("x", [place + b"/missing\xff"])
    assert caught.value.filename == place + b"/missing\xff"
    assert "missing" in str(caught.value)


# ---- wrong times and places ----


def test_a_task_that_is_unknown_or_has_ended_is_not_active(manager: ProcessManager) -> None:
    """A KeyError would not say so; a LookupError it is all the same."""
    manager.start_process("ended", ["true"]).wait(20)

    for name in ("unknown", "ended"):
        with pytest.raises(NotActive, match=name) as caught:
            manager.terminate_process(name)
        assert isinstance(caught.value, LookupError)
    with pytest.raises(NotActive):
        manager.wait("unknown")
    with pytest.raises(NotActive):
        manager.tree("unknown")


def test_a_closed_manager_says_so(programs: Programs) -> None:
    """And what it started before is ended."""
    manager = ProcessManager(grace=1.0)
    process = manager.start_process("x", programs.ready_then_sleep())
    assert manager.close()
    assert process.returncode is not None

    starts: list[Callable[[], object]] = [
        lambda: manager.start_process("y", ["true"]),
        lambda: manager.start_many([("y", ["true"])]),
        lambda: list(manager.map([["true"]])),
    ]
    for start in starts:
        with pytest.raises(ManagerClosed) as caught:
            start()
        assert isinstance(caught.value, RuntimeError)
    assert manager.active_count() == 0


def test_a_name_whose_start_has_failed_is_free(manager: ProcessManager, programs: Programs) -> None:
    """In the registry as in the counters a failed start leaves nothing but its count."""
    for _ in range(3):
        with pytest.raises(SpawnError):
            manager.start_process("x", ["/no/such/program"])
        assert not manager.is_active("x")
        with pytest.raises(NotActive):
            manager.get("x")
    process = manager.start_process("x", programs.ready_then_sleep())
    with pytest.raises(DuplicateTask):
        manager.start_process("x", ["/no/such/program"])

    assert manager.get("x") is process
    assert (manager.metrics().failed_to_start, manager.metrics().started) == (3, 1)
    assert process.terminate().stopped


def test_errors_can_be_handed_to_another_process(manager: ProcessManager) -> None:
    """A pool of workers sends them home by pickle."""
    import pickle

    with pytest.raises(SpawnError) as caught:
        manager.start_process("x", ["/no/such/program"])
    again = pickle.loads(pickle.dumps(caught.value))

    assert type(again) is type(caught.value)
    assert (again.errno, again.stage, again.filename) == (errno.ENOENT, "exec", "/no/such/program")
    assert str(again) == str(caught.value)


def test_a_hundred_failures_cost_no_descriptor_and_no_process(
    manager: ProcessManager, tmp_path: Path
) -> None:
    """Every stage in turn, with pipes open: the count of descriptors after it is that before."""
    wrong: list[dict[str, Any]] = [
        {"args": ["/no/such/program"]},
        {"args": ["true"], "cwd": "/no/such/directory"},
        {"args": ["true"], "stderr": str(tmp_path / "no" / "log")},
        {"args": ["true"], "cpu_affinity": [8000]},
        {"args": ["true"], "pass_fds": [999_999]},
        {"args": ["true", "x" * 200_000]},
    ]
    manager.start_process("first", ["true"], stdout=PIPE, input=b"x").wait(20)
    before = len(os.listdir("/proc/self/fd"))
    for number in range(102):
        options = dict(wrong[number % len(wrong)])
        with pytest.raises(SpawnError):
            manager.start_process("x", options.pop("args"), stdout=PIPE, input=b"x", **options)

    # A leaf of a cgroup that is kept for the next may have been made meanwhile, with two descriptors.
    assert len(os.listdir("/proc/self/fd")) <= before + 6
    assert manager.metrics().failed_to_start == 102
