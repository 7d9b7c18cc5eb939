"""One place reaps: every end is heard once, truly, and nobody else's child is touched."""

from __future__ import annotations

import os
import re
import resource
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.integration import fresh
from tests.programs import Programs
from tests.watch import can, first_line

import fastproc
from fastproc import PIPE, Command, ExitReason, Limits, ProcessManager

# What these do by default is nothing, or to stop: no process ends by them.
_NOT_DEADLY = {
    signal.SIGCHLD,
    signal.SIGURG,
    signal.SIGWINCH,
    signal.SIGCONT,
    signal.SIGSTOP,
    signal.SIGTSTP,
    signal.SIGTTIN,
    signal.SIGTTOU,
}


def test_every_exit_code_is_told_as_it_was(manager: ProcessManager, programs: Programs) -> None:
    """137 is a code, and not SIGKILL; 255 and 128 are codes like any other."""
    commands = [programs.exits_with(code) for code in range(256)]

    statuses = [process.wait(10) for process in manager.map(commands, concurrency=8, ordered=True)]

    assert [status.code for status in statuses] == list(range(256))
    assert {(status.signal, status.reason, status.core_dumped) for status in statuses} == {
        (None, ExitReason.EXITED, False)
    }
    assert [status.returncode for status in statuses] == list(range(256))
    assert [status.ok for status in statuses] == [True] + [False] * 255


def test_every_deadly_signal_is_told_as_it_was(manager: ProcessManager, programs: Programs) -> None:
    """The two that the C library keeps for itself, and those for real-time use, are among them."""
    numbers = [number for number in range(1, signal.NSIG) if number not in _NOT_DEADLY]
    commands = [programs.dies_by(number) for number in numbers]

    statuses = [process.wait(10) for process in manager.map(commands, concurrency=8, ordered=True)]

    assert [status.signal for status in statuses] == numbers
    assert {status.code for status in statuses} == {None}
    # Only the kernel sends SIGXCPU, unless somebody imitates it.
    reasons = {status.signal: status.reason for status in statuses}
    # Not CPU_LIMIT: nobody has set one.
    assert reasons.pop(signal.SIGXCPU) is ExitReason.SIGNALED
    assert set(reasons.values()) == {ExitReason.SIGNALED}
    assert [status.returncode for status in statuses] == [-number for number in numbers]
    assert manager.metrics().signaled == len(numbers)


@pytest.mark.parametrize("number", [signal.SIGCHLD, signal.SIGURG, signal.SIGWINCH, signal.SIGCONT])
def test_a_signal_that_means_nothing_ends_nothing(
    manager: ProcessManager, programs: Programs, number: signal.Signals
) -> None:
    """Its process lives on, and is not taken for one that has ended."""
    process = manager.start_process("lives", programs.ready_then_sleep(), stdout=PIPE)
    first_line(process)

    assert process.send_signal(number)

    assert process.poll() is None
    assert process.terminate().stopped


def test_a_core_dump_is_told_apart(manager: ProcessManager, programs: Programs, tmp_path: Path) -> None:
    """The flag says what waitid(2) says, for a process that may leave a core file and one that may not."""
    if resource.getrlimit(resource.RLIMIT_CORE)[1] != resource.RLIM_INFINITY:
        pytest.skip("the hard limit of core files is not unlimited here")
    args = programs.dies_by(signal.SIGSEGV, core=True)
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    other = subprocess.Popen(
        args, cwd=tmp_path, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, unlimited)
    )
    expected = bool(os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT).si_code == os.CLD_DUMPED)  # type: ignore[union-attr]
    other.wait()

    dumps = manager.start_process("dumps", args, cwd=tmp_path, limits=Limits(core=unlimited)).wait(10)
    plain = manager.start_process("plain", args, cwd=tmp_path, limits=Limits(core=0)).wait(10)

    assert dumps.signal == plain.signal == signal.SIGSEGV
    assert dumps.core_dumped == expected
    assert not plain.core_dumped


def test_children_of_others_are_left_to_them(manager: ProcessManager, programs: Programs) -> None:
    """A hundred children of subprocess end among two hundred of ours; all codes are right on both sides."""
    others = []
    ours = []
    for number in range(100):
        others.append(subprocess.Popen(programs.exits_with(number + 1)))
        ours += manager.start_many([((number, turn), programs.exits_with(number + 101)) for turn in range(2)])

    statuses = manager.wait_all(30)

    assert [other.wait(10) for other in others] == list(range(1, 101))
    assert len(ours) == 200
    assert [status.code for status in statuses] == [number + 101 for number in range(100) for _ in range(2)]
    assert not any(status.foreign for status in statuses)


def test_nobody_is_waited_for_by_a_wait_for_all(programs: Programs, tmp_path: Path) -> None:
    """strace(1) sees no wait for any child or group, and nobody sets the disposition of SIGCHLD."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    trace = tmp_path / "trace"
    script = f"""
import fastproc
with fastproc.ProcessManager(reap_orphans=True) as manager:
    for number in range(3):
        manager.start_process(number, {programs.exits_with(3)!r}).wait()
    manager.start_many([(number, {programs.exits_with(3)!r}) for number in range(3)])
    manager.start_process("leaves", {programs.leaves_a_child()!r}, stdout=fastproc.PIPE)
    list(manager.as_completed(30))
"""
    calls = "trace=wait4,waitpid,waitid,rt_sigaction,clone,clone3,vfork,fork"
    ran = subprocess.run(
        [strace, "-f", "-qq", "-o", str(trace), "-e", calls, sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
    )
    if ran.returncode != 0 and "ptrace" in ran.stderr:
        pytest.skip("ptrace(2) is not allowed here")
    assert ran.returncode == 0, ran.stderr

    lines = _lines_of_the_program(trace.read_text())
    waits = [line for line in lines if re.search(r"\bwait(4|id|pid)\(", line)]
    assert len([line for line in waits if re.search(r"waitid\(P_PID(FD)?,", line)]) >= 7
    assert [line for line in waits if re.search(r"wait(4|pid)\((-|0,)|P_ALL|P_PGID", line)] == []
    assert [line for line in lines if "rt_sigaction(SIGCHLD, {" in line] == []


def _lines_of_the_program(trace: str) -> list[str]:
    """The system calls of the program and its threads, without those of its children."""
    ours = {trace.split(maxsplit=1)[0]}
    making_a_thread = set()
    lines = []
    for line in trace.splitlines():
        pid = line.split()[0]
        if pid not in ours:
            continue
        lines.append(line)
        if "CLONE_THREAD" in line:
            making_a_thread.add(pid)
        made = re.search(r"\bclone3?\b.* = (\d+)$", line)
        if made and pid in making_a_thread:
            making_a_thread.discard(pid)
            ours.add(made[1])
    return lines


@pytest.mark.parametrize("count", [400, pytest.param(5_000, marks=pytest.mark.slow)])
def test_all_are_heard_of_when_many_end_at_once(
    manager: ProcessManager, programs: Programs, count: int
) -> None:
    """They all wait for the same pipe to close; the engine works in batches and forgets nobody."""
    reading, writing = os.pipe()
    command = Command(programs.reads_stdin_slowly(), stdin=reading, stdout=fastproc.DEVNULL)
    manager.start_many([(number, command) for number in range(count)])
    os.close(reading)
    assert manager.active_count() == count

    os.close(writing)

    statuses = manager.wait_all(40)
    assert [status.code for status in statuses] == [0] * count
    assert manager.metrics().exited == count


def test_a_program_whose_first_thread_ends_is_still_running(
    manager: ProcessManager, programs: Programs
) -> None:
    """/proc shows a zombie, but the end is that of the last thread; nobody turns in circles until then."""
    process = manager.start_process("threads", programs.leader_thread_exits(0.6, 5), stdout=PIPE)
    if next(process.lines(), None) is None and process.wait(10).code == 111 and not can("clone3"):
        pytest.skip("a filter refuses clone3, by which the C library makes threads")
    used = time.process_time()

    assert process.poll() is None
    status = process.wait(10)

    assert (status.code, status.reason) == (5, ExitReason.EXITED)
    assert status.duration >= 0.55
    assert time.process_time() - used < 0.3


def test_after_its_end_one_that_is_asked_never_says_running(
    manager: ProcessManager, programs: Programs
) -> None:
    """The pidfd is readable first; poll() then always knows the end, without waiting."""
    if not can("pidfd"):
        pytest.skip("there are no pidfds here")
    for number in range(100):
        process = manager.start_process(number, programs.exits_with(number))
        watch = select.poll()
        try:
            watch.register(process.fileno(), select.POLLIN)
        except OSError:
            pass  # it is done already, and its pidfd closed
        else:
            assert watch.poll(10_000)
        status = process.poll()
        assert status is not None
        assert status.code == number


def test_a_handle_that_nobody_keeps_is_reaped_all_the_same(
    manager: ProcessManager, programs: Programs
) -> None:
    """The Process objects are forgotten at once; all ends are counted and no zombie is left."""
    for number in range(50):
        manager.start_process(number, programs.exits_with(1))

    assert len(manager.wait_all(10)) == 50
    assert manager.metrics().exited == 50


def test_waits_resume_after_signals(programs: Programs) -> None:
    """A timer interrupts every call a thousand times a second, and nothing comes early, late or twice."""
    fresh.run(
        """
        ticks = 0
        def tick(*_):
            global ticks
            ticks += 1
        signal.signal(signal.SIGALRM, tick)
        signal.siginterrupt(signal.SIGALRM, True)
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        with ProcessManager(grace=0.2) as manager:
            for number in range(60):
                process = manager.start_process(number, programs.exits_with(number), stdout=PIPE)
                assert process.wait(20).code == number
            tells = programs.spams(1_000_000, lines=True)
            # However late the reader is, it waits for him.
            process = manager.start_process("tells", tells, stdout=PIPE, on_max_output="wait")
            assert len(set(process.lines())) == 1_000_000 // 64
            assert process.wait(20).ok
            process = manager.start_process("sleeps", programs.ready_then_sleep(), stdout=DEVNULL)
            began = time.monotonic()
            try:
                process.wait(0.3)
            except fastproc.WaitTimeout:
                assert 0.3 <= time.monotonic() - began < 5
            else:
                raise AssertionError
            assert process.terminate().stopped
            many = manager.start_many((number, programs.exits_with(7)) for number in range(50))
            assert [status.code for status in manager.wait_all(20)] == [7] * 50
            assert manager.start_process("in", ["wc", "-c"], input=b"x" * 300_000, stdout=PIPE).wait(20).ok
            assert manager.get("in").stdout_bytes.strip() == b"300000"
        signal.setitimer(signal.ITIMER_REAL, 0)
        assert ticks > 20
        """,
        programs,
    )
