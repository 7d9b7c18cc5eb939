"""Programs in unusual places: as PID 1, without /proc, on a terminal, without privileges, after execve(2)."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import pytest
from tests.conftest import eventually
from tests.integration import fresh
from tests.programs import Programs
from tests.watch import can, first_line

from fastproc import PIPE, Command, ProcessManager

_NEWNS, _NEWPID, _NEWTIME = 0x00020000, 0x20000000, 0x00000080


def _may_unshare(flags: int) -> bool:
    pid = os.fork()
    if pid == 0:
        os._exit(1 if ctypes.CDLL(None).unshare(flags) else 0)
    return os.waitpid(pid, 0)[1] == 0


# Its mounts are its own from here on; see mount_namespaces(7).
_OWN_MOUNTS = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
assert libc.unshare(0x00020000) == 0, os.strerror(ctypes.get_errno())
assert libc.mount(b"none", b"/", None, 0x44000, None) == 0, os.strerror(ctypes.get_errno())
def mount(kind, where, options=None):
    assert libc.mount(b"none", where, kind, 0, options) == 0, os.strerror(ctypes.get_errno())
"""

# What every host must be able to do, whatever it sees of the world.
_STORY = """
with ProcessManager(grace=0.3) as manager:
    assert manager.start_process("code", programs.exits_with(7)).wait(20).code == 7
    assert manager.start_process("signal", programs.dies_by(9)).wait(20).signal == 9
    late = manager.start_process("late", programs.ignores_sigterm(), timeout=0.2, stdout=PIPE)
    assert first_line(late).startswith("ready")
    assert late.wait(20).reason is ExitReason.TIMEOUT
    family = manager.start_process("family", programs.forks_a_tree(2, 2, ignore=True), stdout=PIPE)
    with family.lines() as lines:
        assert [line for line in lines if line.startswith("pid") or lines.close()]
    result = manager.terminate_process("family", timeout=0.2)
    assert result.stopped and result.escalated, result
    assert [process.wait(20).code for process in manager.map([programs.exits_with(3)] * 20)] == [3] * 20
    try:
        manager.start_process("missing", ["/no/such/program"])
    except FileNotFoundError:
        pass
    sleeper = manager.start_process("sleeper", programs.ready_then_sleep(), stdout=DEVNULL)
    manager.health(), str(manager.tree()), manager.metrics()
assert sleeper.wait(20).signal == signal.SIGTERM
print("well")
"""


@pytest.mark.skipif(not _may_unshare(_NEWNS), reason="no mount namespace may be made")
@pytest.mark.parametrize(
    "hide",
    [
        pytest.param('mount(b"tmpfs", b"/proc")', id="no-proc"),
        pytest.param('mount(b"proc", b"/proc", b"hidepid=2")', id="hidepid"),
        pytest.param('mount(b"proc", b"/proc", b"subset=pid")', id="subset-pid"),
    ],
)
def test_all_goes_on_without_proc_or_with_a_part_of_it(programs: Programs, hide: str) -> None:
    """Starts, ends, deadlines and stops do not depend on it; health() and tree() tell what they can see."""
    assert fresh.run(f"{_OWN_MOUNTS}\n{hide}\n{_STORY}", programs) == "well\n"


@pytest.mark.skipif(not _may_unshare(_NEWPID | _NEWNS), reason="no pid namespace may be made")
def test_the_first_process_of_a_container_is_a_host_like_any_other(programs: Programs) -> None:
    """Orphans of all the container come to it; it reaps those of its own jobs on request, and no others."""
    out = fresh.run(
        f"""
{_OWN_MOUNTS}
assert libc.unshare(0x20000000) == 0
pid = os.fork()
if pid:
    os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
assert os.getpid() == 1
mount(b"proc", b"/proc")
# An orphan of somebody else's child is not ours to reap.
if os.fork() == 0:
    if os.fork() == 0:
        os._exit(9)
    os._exit(8)
with ProcessManager(reap_orphans=True, containment="session") as manager:
    for number in range(3):
        manager.start_process(number, programs.leaves_a_child(), stdout=DEVNULL).wait(20)
    until = time.monotonic() + 20
    while manager.metrics().orphans_reaped < 3 and time.monotonic() < until:
        time.sleep(0.01)
    print(manager.metrics().orphans_reaped)
print(sorted(os.waitstatus_to_exitcode(os.waitpid(-1, 0)[1]) for _ in range(2)), children())
{_STORY}
sys.stdout.flush()
os._exit(0)
""",
        programs,
    )
    assert out.splitlines() == ["3", "[8, 9] []", "well"]


def test_a_host_that_executes_another_program_hands_nothing_on(programs: Programs) -> None:
    """As in an upgrade in place: its children are those of the new program, its descriptors are closed."""
    after = """
import os, sys
print(sorted(int(name) for name in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{name}")))
pid = int(sys.argv[1])
os.kill(pid, 9)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    out = fresh.run(
        f"""
manager = ProcessManager()
process = manager.start_process("sleeper", programs.ready_then_sleep(), stdout=PIPE, input=b"x" * (1 << 20))
first_line(process)
sys.stdout.flush()
os.execv(sys.executable, [sys.executable, "-c", {after!r}, str(process.pid)])
""",
        programs,
    )
    assert out.splitlines() == ["[0, 1, 2]", "-9"]


def test_a_host_that_is_a_subreaper_for_its_own_reasons_keeps_its_orphans(programs: Programs) -> None:
    """Without reap_orphans we wait for none of those that come to it."""
    out = fresh.run(
        """
        import ctypes
        assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0  # PR_SET_CHILD_SUBREAPER
        with ProcessManager() as manager:
            process = manager.start_process("d", programs.leaves_a_child(3), stdout=PIPE, leftovers="keep")
            orphan = int(first_line(process).split()[1])
            assert process.wait(20).code == 3
            os.kill(orphan, signal.SIGKILL)
            print(os.waitstatus_to_exitcode(os.waitpid(orphan, 0)[1]))
            assert manager.terminate_all(5)
            print(manager.metrics().orphans_reaped)
        """,
        programs,
    )
    assert out.split() == ["-9", "0"]


def test_threads_with_little_stack_may_start(programs: Programs) -> None:
    """The child borrows its stack from ours."""
    out = fresh.run(
        """
        threading.stack_size(128 << 10)
        codes = []
        def start(number):
            command = fastproc.Command(programs.exits_with(number), stdout=PIPE, input=b"x", umask=0o77)
            codes.append(manager.start_process(number, command).wait(20).code)
        with ProcessManager() as manager:
            for number in range(20):
                thread = threading.Thread(target=start, args=(number,))
                thread.start()
                thread.join()
        print(codes == list(range(20)))
        """,
        programs,
    )
    assert out == "True\n"


def test_without_a_thread_to_be_had_the_first_start_fails_and_says_so(programs: Programs) -> None:
    """And once there is one, the next start makes the engine."""
    out = fresh.run(
        """
        real = threading.Thread.start
        def refuse(thread):
            raise RuntimeError("can't start new thread")
        threading.Thread.start = refuse
        before = sorted(os.listdir("/proc/self/fd"))
        with ProcessManager() as manager:
            try:
                manager.start_process("x", programs.nop())
            except fastproc.SpawnError as error:
                print(error.stage, error.errno == errno.EAGAIN, error.retryable, "thread" in str(error))
            print(sorted(os.listdir("/proc/self/fd")) == before, manager.active_count())
            threading.Thread.start = real
            print(manager.start_process("x", programs.nop()).wait(20).ok)
        """,
        programs,
    )
    assert out.splitlines() == ["supervisor True True True", "True 0", "True"]


# ---- other interpreters, machines and libraries ----

# Its children live on a machine that has slept for a day: CLOCK_MONOTONIC stood still, CLOCK_BOOTTIME and the
# start times of processes did not. See time_namespaces(7).
_SLEPT_FOR_A_DAY = """
import ctypes
assert ctypes.CDLL(None).unshare(0x80) == 0
Path("/proc/self/timens_offsets").write_text("boottime 86400 0\\n")
pid = os.fork()
if pid:
    os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
assert time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic() > 80000
"""

_LIMITS = """
with ProcessManager() as manager:
    began = time.monotonic()
    sleep = programs.ready_then_sleep()
    long = manager.start_process("long", sleep, stdout=PIPE, timeout=3600, idle_timeout=3600)
    late = manager.start_process("late", sleep, stdout=DEVNULL, timeout=0.5)
    idle = manager.start_process("idle", sleep, stdout=PIPE, idle_timeout=0.5)
    assert late.wait(20).reason is ExitReason.TIMEOUT
    assert 0.4 < time.monotonic() - began < 15
    assert idle.wait(20).reason is ExitReason.IDLE_TIMEOUT
    # Without /proc one that has left the session is not found.
    if fastproc.capabilities()["procfs"]:
        fugitive = ["sh", "-c", "setsid sleep 100 & echo ready; wait"]
        family = manager.start_process("family", fugitive, stdout=PIPE, containment="session")
        assert first_line(family) == "ready"
        assert manager.terminate_process("family", timeout=1).stopped
    assert manager.active_count() == 1
assert long.wait(20).signal == signal.SIGTERM
"""


@pytest.mark.skipif(not _may_unshare(_NEWTIME), reason="no time namespace may be made")
def test_a_machine_that_has_slept_ends_nobody_for_that(programs: Programs) -> None:
    """Time limits count what has been awake; processes are told apart by start times that count it all."""
    assert fresh.run(f"{_SLEPT_FOR_A_DAY}\n{_LIMITS}\n{_STORY}", programs) == "well\n"


_ALLOCATORS = sorted(
    path
    for name in ("jemalloc", "mimalloc", "tcmalloc")
    for path in Path("/usr/lib").glob(f"**/lib{name}*.so.*")
)


@pytest.mark.skipif(not _ALLOCATORS, reason="no other allocator is installed, as libjemalloc2")
@pytest.mark.parametrize("allocator", _ALLOCATORS, ids=lambda path: path.name)
def test_all_goes_on_with_another_allocator(programs: Programs, allocator: Path) -> None:
    """Where a child is made nothing is allocated; see LD_PRELOAD in ld.so(8)."""
    assert fresh.run(_STORY, programs, preload=str(allocator)) == "well\n"


_EMULATOR = shutil.which(f"qemu-{platform.machine()}-static") or shutil.which(f"qemu-{platform.machine()}")


@pytest.mark.skipif(_EMULATOR is None, reason="needs the user mode of QEMU: qemu-user-static")
@pytest.mark.timeout(200)
def test_all_goes_on_under_an_emulator(programs: Programs) -> None:
    """It has no clone3(2), and vfork(2) of it shares no memory: so starts are forks there."""
    assert fresh.run(_STORY, programs, emulator=str(_EMULATOR), seconds=180) == "well\n"


def test_a_subinterpreter_starts_nothing_and_says_so(programs: Programs) -> None:
    """It may have no threads that live on: it could not be ended then, and would take the program along."""
    out = fresh.run(
        """
        import importlib
        try:
            interpreters, isolation = importlib.import_module("_interpreters"), {"config": "legacy"}
        except ImportError:
            interpreters, isolation = importlib.import_module("_xxsubinterpreters"), {"isolated": False}
        code = (
            "import fastproc, os\\n"
            "try:\\n    fastproc.ProcessManager().start_process('x', ['true'])\\n"
            "except fastproc.SpawnError as error:\\n"
            "    os.write(1, (error.stage + ': ' + error.strerror).encode())\\n"
        )
        with ProcessManager() as manager:
            assert manager.start_process("before", ["true"]).wait(20).ok
            other = interpreters.create(**isolation)
            failed = interpreters.run_string(other, code)
            interpreters.destroy(other)
            assert manager.start_process("after", ["true"]).wait(20).ok
        print(failed)
        """,
        programs,
    )
    assert out.startswith("supervisor: a subinterpreter has no supervisor")
    assert out.endswith("None\n")


# ---- what a child finds at its streams ----


def on_a_terminal(source: str, programs: Programs) -> str:
    """Run a scenario whose terminal this is, in the foreground; what it prints."""
    for name in ("ready_then_sleep", "exits_with"):
        programs.path(name)
    ours, theirs = os.openpty()
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            import fcntl
            import termios

            fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)
            for number in range(3):
                os.dup2(theirs, number)
            script = Path(programs.directory) / "on_a_terminal.py"
            script.write_text(fresh._PRELUDE + source)
            environment = dict(os.environ, PYTHONPATH=str(fresh.ROOT))
            os.execve(sys.executable, [sys.executable, str(script), str(programs.directory)], environment)
        finally:
            os._exit(127)
    os.close(theirs)
    said = b""
    try:
        while piece := os.read(ours, 4096):
            said += piece
    except OSError:
        pass  # EIO: nobody has the terminal open any more
    finally:
        os.close(ours)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code == 0, said.decode()
    return said.decode().replace("\r\n", "\n")


def test_nobody_is_stopped_for_reading_from_a_terminal_that_is_not_his(programs: Programs) -> None:
    """Standard input is the null device; and in a session of its own a child has no terminal at all."""
    out = on_a_terminal(
        """
signal.alarm(40)
with ProcessManager(grace=0.3) as manager:
    print(manager.start_process("default", ["cat"]).wait(10).code)
    opens = ["sh", "-c", "(: </dev/tty) 2>/dev/null && exit 1; exit 0"]
    print(manager.start_process("session", opens).wait(10).code)
    # In the background of the same session it is stopped by SIGTTIN; its time limit ends that as well.
    reads = manager.start_process("group", ["cat"], stdin=None, start_new="group", timeout=0.3)
    print(reads.wait(10).reason is ExitReason.TIMEOUT)
print("end")
""",
        programs,
    )
    assert out.splitlines() == ["0", "0", "True", "end"]


def test_a_full_disk_is_the_childs_to_see(manager: ProcessManager) -> None:
    """It writes to the file itself: neither do we fail nor is anything said in its place."""
    process = manager.start_process(
        "full", ["sh", "-c", "echo x; echo $? >&2"], stdout="/dev/full", stderr=PIPE
    )
    assert process.wait(20).ok
    assert process.stderr_bytes.strip().endswith(b"1")


# ---- cgroups ----


def _leaf_of(pid: int) -> Path:
    """The directory of the cgroup of a process."""
    line = next(
        line for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines() if line.startswith("0::")
    )
    mounts = (words.split() for words in Path("/proc/self/mountinfo").read_text().splitlines())
    root = next(words[4] for words in mounts if words[words.index("-") + 1] == "cgroup2")
    return Path(root + line[3:])


def _leaves_of(pid: int) -> list[Path]:
    """All leaves that our supervisors have made, from the one that `pid` is in."""
    own = f"fastproc-{os.getpid()}-"
    return [
        leaf
        for directory in _leaf_of(pid).parent.parent.glob(f"{own}*")
        for leaf in directory.iterdir()
        if leaf.is_dir()
    ]


needs_cgroup = pytest.mark.skipif(not can("cgroup"), reason="no writable directory of cgroup v2")


@needs_cgroup
def test_one_that_was_frozen_can_be_ended(manager: ProcessManager, programs: Programs) -> None:
    """The freezer of v2 holds back handlers of SIGTERM, and lets SIGKILL through."""
    process = manager.start_process("frozen", programs.cleans_up(), stdout=PIPE, containment="cgroup")
    first_line(process)
    (_leaf_of(process.pid) / "cgroup.freeze").write_text("1")
    assert eventually(lambda: "frozen 1" in (_leaf_of(process.pid) / "cgroup.events").read_text(), 10)

    result = process.terminate(0.2)

    assert (result.stopped, result.escalated, result.proof) == (True, True, "cgroup")
    assert process.wait(1).signal == signal.SIGKILL


@needs_cgroup
def test_a_leaf_that_somebody_has_frozen_holds_up_no_start(
    manager: ProcessManager, programs: Programs
) -> None:
    """One that has ended in it leaves it to nobody; one that is born into it is let go on."""
    process = manager.start_process("ends", programs.ready_then_sleep(), stdout=PIPE, containment="cgroup")
    first_line(process)
    (_leaf_of(process.pid) / "cgroup.freeze").write_text("1")
    # The leaf gets empty without having been killed.
    assert process.send_signal(signal.SIGKILL)
    assert process.wait(20).signal == signal.SIGKILL
    assert eventually(lambda: manager.active_count() == 0, 10)
    for number in range(4):
        assert manager.start_process(number, programs.exits_with(0), containment="cgroup").wait(20).ok
    # Each supervisor keeps empty leaves for those that come: all of them are frozen now.
    sleeper = manager.start_process("sleeper", programs.ready_then_sleep(), stdout=PIPE, containment="cgroup")
    leaves = set(_leaves_of(sleeper.pid)) - {_leaf_of(sleeper.pid)}
    for leaf in leaves:
        (leaf / "cgroup.freeze").write_text("1")
    try:
        for number in range(4):
            assert manager.start_process(number, programs.exits_with(0), containment="cgroup").wait(20).ok
    finally:
        # The engine is that of all tests here: nobody after this one shall meet a frozen leaf.
        for leaf in leaves:
            with contextlib.suppress(OSError):
                (leaf / "cgroup.freeze").write_text("0")


@needs_cgroup
def test_every_leaf_may_be_frozen_when_all_supervisors_start_at_once(programs: Programs) -> None:
    """None of them could help another then: who watches over starts makes none."""
    count = 4 * max(2, len(os.sched_getaffinity(0)))
    sleepers = [(n, Command(programs.ready_then_sleep(), stdout=PIPE)) for n in range(count)]
    with ProcessManager(containment="cgroup") as manager:
        # As many leaves as that, spread over the supervisors, get idle without having been killed.
        processes = manager.start_many(sleepers)
        for process in processes:
            first_line(process)
        leaves = {_leaf_of(process.pid) for process in processes}
        for process in processes:
            process.send_signal(signal.SIGKILL)
        assert all(process.wait(20).signal == signal.SIGKILL for process in processes)
        assert eventually(lambda: manager.active_count() == 0, 10)
        idle = [leaf for leaf in leaves if leaf.is_dir()]
        assert idle
        try:
            for leaf in idle:
                (leaf / "cgroup.freeze").write_text("1")
            started = manager.start_many((n, programs.exits_with(0)) for n in range(count))
            assert all(process.wait(30).ok for process in started)
        finally:
            for leaf in idle:
                with contextlib.suppress(OSError):
                    (leaf / "cgroup.freeze").write_text("0")


@needs_cgroup
def test_no_leaf_stays_behind(programs: Programs) -> None:
    """A leaf that was killed cannot be removed at once: it is when its last process is gone."""
    with ProcessManager(containment="cgroup") as manager:
        bombs = [manager.start_process(n, programs.fork_bomb(60, setsid=True), stdout=PIPE) for n in range(4)]
        for bomb in bombs:
            first_line(bomb)
        leaves = [_leaf_of(bomb.pid) for bomb in bombs]
        assert all(map(Path.is_dir, leaves))
        assert all(bomb.kill() for bomb in bombs)
        assert manager.terminate_all(5)
        assert eventually(lambda: not any(map(Path.exists, leaves)), 10)


# ---- privileges ----


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a program that becomes root")
def test_who_may_not_be_signalled_is_reported_in_bounded_time(programs: Programs) -> None:
    """A host without privileges has started one that has gained some: it says who lives on."""
    directory = Path(tempfile.mkdtemp(prefix="fastproc-test-"))
    try:
        if os.statvfs(directory).f_flag & os.ST_NOSUID:
            pytest.skip("the temporary directory is mounted nosuid")
        os.chmod(directory, 0o755)
        path = shutil.copy(programs.becomes_root()[0], directory)
        os.chmod(path, 0o4755)
        program = fresh.begin(
            f"""
            # What an unprivileged host may not read any more.
            import fastproc.health, fastproc.tree, asyncio
            os.setgroups([]), os.setgid(54321), os.setuid(54321)
            manager = ProcessManager(kill_timeout=0.3, containment="session")
            process = manager.start_process("root", [{path!r}], stdout=PIPE)
            assert first_line(process).startswith("ready")
            began = time.monotonic()
            result = manager.terminate_process("root", timeout=0.2)
            print(result.stopped, result.survivors == [process.pid], time.monotonic() - began < 10)
            print([report.level.value for report in manager.health()])
            print(process.pid, flush=True)
            assert process.wait(20).signal == signal.SIGKILL
            print(manager.terminate_all(1).survivors)
            """,
            programs,
        )
        assert program.stdout is not None
        said = [program.stdout.readline().strip() for _ in range(3)]
        if said[2].isdigit():
            os.kill(int(said[2]), signal.SIGKILL)
        code, out, err = fresh.finish(program)
        assert (code, err) == (0, ""), said
        assert said[:2] == ["False True True", "['unkillable']"]
        assert out == "[]\n"
    finally:
        shutil.rmtree(directory)
