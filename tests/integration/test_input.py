"""Feeding standard input: whole, without waiting for it, and without harm when nobody reads."""

from __future__ import annotations

import signal
import time

from tests.programs import Programs
from tests.watch import first_line, held, let_go, run_script

from fastproc import PIPE, ExitReason, ProcessManager
from fastproc.command import Containment

MUCH = b"i" * 10_000_000


def test_a_slow_reader_gets_all_of_it(manager: ProcessManager, programs: Programs) -> None:
    process = manager.start_process(
        "slow", programs.reads_stdin_slowly(65536, 0.002), input=MUCH, stdout=PIPE
    )

    assert process.wait(40).ok
    assert process.stdout_bytes == b"%d\n" % len(MUCH)


def test_what_goes_in_may_come_out_at_the_same_time(manager: ProcessManager) -> None:
    """Neither side waits for the other to be through."""
    process = manager.start_process("cat", held(["cat"]), input=MUCH, stdout=PIPE)
    lines = process.lines(max_line=65536)
    let_go(process)

    count = sum(len(line) for line in lines)

    assert count == len(MUCH)
    assert process.wait(20).ok


def test_no_input_is_an_end_of_file_at_once(manager: ProcessManager) -> None:
    assert manager.start_process("empty", ["cat"], input=b"", stdout=PIPE).wait(20).ok


def test_a_reader_that_stops_early_is_no_error(manager: ProcessManager) -> None:
    """The rest is dropped: its exit is what counts."""
    for number, script in enumerate(("head -c 1", "exec <&-; echo x", "exit 0")):
        process = manager.start_process(number, ["sh", "-c", script], input=MUCH, stdout=PIPE)

        assert process.wait(20).ok
        assert process.stdout_bytes in {b"i", b"x\n", b""}


def test_one_that_closes_its_input_lives_on(manager: ProcessManager, programs: Programs) -> None:
    command = ["sh", "-c", 'exec "$0" <&-', *programs.reports_signals()]
    process = manager.start_process("closes", command, input=MUCH, stdout=PIPE)
    first_line(process)
    time.sleep(0.1)
    assert process.running

    assert process.terminate(0.1).stopped
    assert b"got 13" not in process.stdout_bytes


def test_a_broken_pipe_does_not_end_the_host() -> None:
    """SIGPIPE has its default action there, and we neither change that nor send it any."""
    script = """
import fastproc, signal
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
with fastproc.ProcessManager() as manager:
    for number in range(20):
        process = manager.start_process(number, ["sh", "-c", "exec <&-; sleep 0.01"], input=bytes(1_000_000))
        print(process.wait(20).code)
print(signal.getsignal(signal.SIGPIPE) is signal.SIG_DFL)
"""
    assert run_script(script) == ["0"] * 20 + ["True"]


def test_one_that_never_reads_can_be_stopped(
    manager: ProcessManager, programs: Programs, containment: Containment
) -> None:
    """The start returns at once, and what is still to be fed is no obstacle to an end."""
    began = time.monotonic()
    process = manager.start_process(
        "deaf", programs.never_reads_stdin(), input=MUCH, stdout=PIPE, containment=containment
    )
    first_line(process)
    assert time.monotonic() - began < 10

    result = process.terminate(20)

    assert result.stopped
    assert result.status is not None
    assert (result.status.signal, result.escalated) == (signal.SIGTERM, False)


def test_one_that_never_reads_has_its_time_limit(manager: ProcessManager, programs: Programs) -> None:
    process = manager.start_process(
        "deaf", programs.never_reads_stdin(), input=MUCH, stdout=PIPE, timeout=0.3
    )

    assert process.wait(20).reason is ExitReason.TIMEOUT


def test_one_that_was_stopped_goes_on_reading(manager: ProcessManager, programs: Programs) -> None:
    """A full pipe waits as long as it has to."""
    process = manager.start_process(
        "held", programs.reads_stdin_slowly(65536, 0.001), input=MUCH, stdout=PIPE
    )
    assert process.send_signal(signal.SIGSTOP)
    time.sleep(0.1)
    assert process.send_signal(signal.SIGCONT)

    assert process.wait(40).ok
    assert process.stdout_bytes == b"%d\n" % len(MUCH)


def test_leftovers_may_not_keep_the_feeding_going(manager: ProcessManager, containment: Containment) -> None:
    """A descendant that holds the other end of the input holds up nobody."""
    process = manager.start_process(
        "left", ["sh", "-c", "sleep 1000 & exit 0"], input=MUCH, stdout=PIPE, containment=containment
    )

    assert process.wait(20).ok
    assert all(done is process for done in manager.as_completed(20))  # none, if it is done already
    assert not manager.is_active("left")
