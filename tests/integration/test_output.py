"""Captured output: bounded, counted, never waited for beyond its time, and no burden on the child."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.conftest import eventually
from tests.programs import Programs
from tests.watch import first_line, held, in_threads, is_alive, let_go, run_script

from fastproc import PIPE, STDOUT, ExitReason, ProcessManager
from fastproc.command import Containment

HEAD, TAIL = 64 * 1024, 192 * 1024


# ---- a descendant that holds the pipe ----


@pytest.mark.parametrize("setsid", [False, True])
def test_a_held_pipe_holds_up_nobody(
    manager: ProcessManager, programs: Programs, containment: Containment, setsid: bool
) -> None:
    """The status is there at once; reading ends after a tenth of a second of silence."""
    took = []
    try:
        for number in range(3):
            process = manager.start_process(
                number,
                programs.holds_the_pipe(setsid=setsid),
                stdout=PIPE,
                leftovers="keep",
                containment=containment,
            )
            status = process.wait(20)
            assert status.ok

            (line,) = process.lines()

            took.append(time.monotonic() - status.ended)
            assert is_alive(int(line.removeprefix("leader done ")))
            assert not process.output_complete
            assert not process.output_truncated
            assert process.stdout_bytes == line.encode() + b"\n"
            if took[-1] < 1:
                break
    finally:
        programs.end_all()
    assert 0.09 < min(took) < 1.5


def test_a_descendant_that_goes_on_writing_is_listened_to_for_a_while_only(
    manager: ProcessManager, programs: Programs
) -> None:
    """Never silent, it would hold a reader for ever: two seconds after the exit the pipe is closed."""
    for number in range(5):
        process = manager.start_process(
            number, programs.holds_the_pipe(chatter=True), stdout=PIPE, leftovers="keep"
        )
        status = process.wait(20)
        lines = list(process.lines())
        took = time.monotonic() - status.ended
        # Where it got no CPU for 0.1 s it was silent indeed: once more.
        if took >= 1.9:
            break
        assert process.terminate(10).stopped

    assert 1.9 <= took < 15
    assert lines.count("still here") > 1
    assert not process.output_complete
    assert is_alive(int(next(line for line in lines if line.startswith("leader")).split()[2]))
    assert process.terminate(10).stopped


def test_what_still_comes_after_the_exit_is_taken(manager: ProcessManager) -> None:
    """A slow one among the descendants is not cut off while it writes on: any byte renews the patience."""
    script = "(for i in 1 2 3 4 5 6; do sleep 0.04; echo late $i; done) & echo early; exit 0"
    for number in range(5):
        process = manager.start_process(number, ["sh", "-c", script], stdout=PIPE, leftovers="keep")
        assert process.wait(20).ok

        lines = list(process.lines())

        assert lines[0] == "early"
        assert process.output_complete == (lines[-1] == "late 6")
        # Where it got no CPU for 0.1 s, that was taken for silence: once more.
        if len(lines) > 1:
            break

    assert len(lines) > 1


def test_leftovers_that_are_stopped_let_go_of_the_pipe(
    manager: ProcessManager, programs: Programs, containment: Containment
) -> None:
    """Then the stream comes to its true end."""
    for number in range(5):
        process = manager.start_process(
            number, programs.holds_the_pipe(), stdout=PIPE, containment=containment
        )
        assert process.wait(20).ok
        assert all(done is process for done in manager.as_completed(20))  # none, if it is done already
        assert not is_alive(int(process.stdout_bytes.split()[2]))
        # Where it got no CPU to die in for 0.1 s of silence, the pipe was closed before: once more.
        if process.output_complete:
            break

    assert process.output_complete


def test_the_last_words_of_an_exiting_process_are_there_when_it_has_ended(
    manager: ProcessManager, containment: Containment
) -> None:
    """Whoever hears of the end finds all that was written before it."""
    for number in range(60):
        process = manager.start_process(
            number,
            ["sh", "-c", "echo out; echo err >&2; exit 3"],
            stdout=PIPE,
            stderr=PIPE,
            containment=containment,
        )
        assert process.wait(20).code == 3
        assert (process.stdout_bytes, process.stderr_bytes) == (b"out\n", b"err\n")


def test_a_killed_process_leaves_what_it_had_written(
    manager: ProcessManager, programs: Programs, containment: Containment
) -> None:
    process = manager.start_process("dies", programs.reports_signals(), stdout=PIPE, containment=containment)
    ready = first_line(process)
    assert process.kill()

    assert process.wait(20).signal == 9
    assert process.stdout_bytes == ready.encode() + b"\n"


# ---- much of it ----


def test_memory_stays_flat_however_much_comes(manager: ProcessManager, programs: Programs) -> None:
    """Of three hundred million bytes head and tail are kept."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    process = manager.start_process("spams", programs.spams(300_000_000, lines=True), stdout=PIPE)

    assert process.wait(50).ok

    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < 8 << 20
    assert process.output_truncated
    assert process.output_complete
    kept = process.stdout_bytes
    assert len(kept) == HEAD + TAIL
    assert kept[:64].startswith(b"000000000000000 ")
    assert kept[-64:].startswith(b"%015d " % (300_000_000 // 64 - 1))


@pytest.mark.parametrize("limit", [1, 2, 10, 1000, 100_000])
def test_max_output_says_how_much_is_kept(manager: ProcessManager, programs: Programs, limit: int) -> None:
    """A quarter from the beginning and the rest from the end, of each stream; a single byte is the last."""
    process = manager.start_process("cut", programs.spams(200_000, lines=True), stdout=PIPE, max_output=limit)
    assert process.wait(20).ok
    whole = subprocess.run(programs.spams(200_000, lines=True), capture_output=True, check=True).stdout
    head = 0 if limit == 1 else max(1, limit // 4)
    tail = limit - head

    assert process.stdout_bytes == whole[:head] + whole[-tail:]
    assert process.output_truncated
    assert process.output_complete


def test_output_that_fits_is_whole(manager: ProcessManager, programs: Programs) -> None:
    process = manager.start_process("fits", programs.spams(256 * 1024, lines=True), stdout=PIPE)
    assert process.wait(20).ok

    assert not process.output_truncated
    assert len(process.stdout_bytes) == 256 * 1024


def test_one_that_prints_too_much_is_stopped_if_asked(
    manager: ProcessManager, programs: Programs, containment: Containment
) -> None:
    """Both streams count together, and what was kept stays within the bound."""
    for stderr in (False, True):
        process = manager.start_process(
            stderr,
            programs.spams(0, stderr=stderr),
            stdout=PIPE,
            stderr=PIPE,
            max_output=100_000,
            on_max_output="stop",
            containment=containment,
        )

        status = process.wait(20)

        assert status.reason is ExitReason.OUTPUT_LIMIT
        assert status.signal == 15
        assert len(process.stdout_bytes) + len(process.stderr_bytes) == 100_000
        assert process.output_truncated


def test_one_that_stays_within_the_limit_is_not_stopped(manager: ProcessManager, programs: Programs) -> None:
    process = manager.start_process(
        "fits", programs.spams(100_000), stdout=PIPE, max_output=100_000, on_max_output="stop"
    )

    assert process.wait(20).ok
    assert len(process.stdout_bytes) == 100_000


def test_one_that_cannot_stop_printing_is_killed(manager: ProcessManager) -> None:
    """The limit of output leads to the same ladder as all others."""
    script = 'trap "" TERM; while :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done'
    process = manager.start_process(
        "spams", ["sh", "-c", script], stdout=PIPE, max_output=1000, on_max_output="stop", grace=0.2
    )

    status = process.wait(20)

    assert (status.reason, status.signal, status.escalated) == (ExitReason.OUTPUT_LIMIT, 9, True)


# ---- two streams ----


BOTH = """
import os
for _ in range(32):
    for stream, letter in ((1, b"o"), (2, b"e")):
        left = letter * 65536
        while left:
            left = left[os.write(stream, left):]
"""


def test_a_full_stderr_does_not_hold_up_who_reads_stdout(manager: ProcessManager) -> None:
    """Two megabytes each in turn, one of them followed: both are taken, in one loop."""
    process = manager.start_process("both", held([sys.executable, "-c", BOTH]), stdout=PIPE, stderr=PIPE)
    lines = process.lines(max_line=65536)
    let_go(process)

    out = "".join(lines)

    assert out == "o" * (2 << 20)
    assert process.wait(20).ok
    assert process.stderr_bytes == b"e" * (HEAD + TAIL)


def test_both_streams_may_be_followed_by_a_thread_each(manager: ProcessManager) -> None:
    process = manager.start_process("both", held([sys.executable, "-c", BOTH]), stdout=PIPE, stderr=PIPE)
    readers = process.lines("stdout"), process.lines("stderr")
    let_go(process)

    out, err = in_threads(lambda: sum(map(len, readers[0])), lambda: sum(map(len, readers[1])))

    assert (out, err) == (2 << 20, 2 << 20)
    assert process.wait(20).ok


def test_merged_streams_keep_their_order(manager: ProcessManager) -> None:
    process = manager.start_process(
        "merged",
        ["sh", "-c", "for i in 1 2 3 4 5; do echo o$i; echo e$i >&2; done"],
        stdout=PIPE,
        stderr=STDOUT,
    )
    process.wait(20)

    assert process.stdout_bytes.split() == [word % n for n in range(1, 6) for word in (b"o%d", b"e%d")]


def test_many_talk_at_once_and_none_is_mixed_up(manager: ProcessManager, programs: Programs) -> None:
    """Forty that print a megabyte each."""
    processes = [
        manager.start_process(number, ["sh", "-c", f"yes {number} | head -c 1000000"], stdout=PIPE)
        for number in range(40)
    ]
    manager.wait_all(40)

    for number, process in enumerate(processes):
        assert eventually(lambda: process.output_complete, 10)
        assert set(process.stdout_bytes[: HEAD // 2].split()) == {b"%d" % number}
        assert process.output_truncated


# ---- the pipes themselves ----


def test_the_childs_streams_block_as_programs_expect(manager: ProcessManager) -> None:
    """Only our ends are non-blocking: O_NONBLOCK belongs to the open file, see open(2), and may not leak."""
    process = manager.start_process(
        "flags",
        ["sh", "-c", "grep flags /proc/self/fdinfo/0 /proc/self/fdinfo/1 /proc/self/fdinfo/2; exec cat"],
        input=b"rest\n",
        stdout=PIPE,
        stderr=PIPE,
    )
    assert process.wait(20).ok

    *flags, rest = process.stdout_bytes.split(b"\n")[:-1]
    assert rest == b"rest"
    assert len(flags) == 3
    assert [int(line.split()[1], 8) & 0o4000 for line in flags] == [0, 0, 0]


def test_pipes_of_one_page_are_enough() -> None:
    """Beyond pipe-user-pages-soft a user's pipes shrink, and F_SETPIPE_SZ is refused, see pipe(7)."""
    script = """
import fcntl, os, resource
import fastproc
with fastproc.ProcessManager(containment="session") as manager:
    manager.start_process("first", ["true"], stdout=fastproc.PIPE).wait()
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
if os.geteuid() == 0:
    os.setgroups([])
    os.setresgid(54321, 54321, 54321)
    os.setresuid(54321, 54321, 54321)
pipes = []
while len(pipes) < 3000:
    pipes.append(os.pipe())
    if fcntl.fcntl(pipes[-1][0], fcntl.F_GETPIPE_SZ) < 65536:
        break
small = fcntl.fcntl(os.pipe()[0], fcntl.F_GETPIPE_SZ) < 65536
try:
    fcntl.fcntl(pipes[-1][0], fcntl.F_SETPIPE_SZ, 1 << 20)
    refused = False
except PermissionError:
    refused = True
print(small and refused)
with fastproc.ProcessManager(containment="session") as manager:
    process = manager.start_process(
        "prints", ["/bin/sh", "-c", "head -c 5000000 /dev/zero; cat >&2"],
        input=b"i" * 200000, stdout=fastproc.PIPE, stderr=fastproc.PIPE,
    )
    print(process.wait(30).ok, len(process.stdout_bytes), len(process.stderr_bytes))
    print(process.output_complete)
"""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    soft_pages = int(Path("/proc/sys/fs/pipe-user-pages-soft").read_text())
    if not 0 < soft_pages <= 16384 or (hard != resource.RLIM_INFINITY and hard < 4096):
        pytest.skip("a user's share of pipe pages cannot be used up here")

    said = run_script(script)

    assert said == ["True", f"True {HEAD + TAIL} 200000", "True"]


def test_output_may_be_looked_at_while_it_runs(manager: ProcessManager, programs: Programs) -> None:
    """What is there so far, without following it; and after the end it stays."""
    process = manager.start_process("talks", programs.ready_then_sleep(), stdout=PIPE)
    assert eventually(lambda: process.stdout_bytes == b"ready %d\n" % process.pid, 10)
    assert not process.output_complete

    assert process.terminate(10).stopped

    assert process.output_complete
    assert process.stdout_bytes == b"ready %d\n" % process.pid


def test_streams_that_go_elsewhere_are_not_ours_to_read(manager: ProcessManager, tmp_path: Path) -> None:
    """A file is written by the child itself, at full speed and without us."""
    file = tmp_path / "log"
    process = manager.start_process(
        "logs", ["sh", "-c", "echo one; echo two >&2"], stdout=file, stderr=STDOUT
    )
    assert process.wait(20).ok

    assert file.read_bytes() == b"one\ntwo\n"
    assert process.stdout_bytes == b""
    assert process.output_complete
    with pytest.raises(ValueError, match="not captured"):
        process.lines()
