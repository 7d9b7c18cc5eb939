"""CancelToken trees with real processes: one switch for many, and no more than those below it."""

from __future__ import annotations

import signal
import threading
import time
from contextlib import suppress

import pytest
from tests.programs import Programs
from tests.watch import alive, first_line, lines_until, nobody_left, pids_until

from fastproc import DEVNULL, PIPE, CancelToken, Command, ExitReason, Process, ProcessManager, SpawnError
from fastproc.command import Containment


def test_a_token_in_the_middle_ends_what_is_below_it_and_nothing_else(
    manager: ProcessManager, programs: Programs
) -> None:
    root = CancelToken()
    left, right = CancelToken(parent=root), CancelToken(parent=root)
    below = [CancelToken(parent=left), CancelToken(parent=left)]
    deepest = CancelToken(parent=below[0])
    tokens = {"root": root, "left": left, "right": right, "a": below[0], "b": below[1], "deepest": deepest}
    processes = {
        name: manager.start_process(name, programs.ready_then_sleep(), stdout=PIPE, cancel=token)
        for name, token in tokens.items()
    }

    assert left.cancel("no longer needed")

    ended = {name for name in processes if name in {"left", "a", "b", "deepest"}}
    for name in ended:
        status = processes[name].wait(20)
        assert (status.reason, status.signal) == (ExitReason.CANCELLED, signal.SIGTERM)
    assert {name for name, process in processes.items() if process.running} == {"root", "right"}

    assert root.cancel()

    assert processes["root"].wait(20).reason is ExitReason.CANCELLED
    assert processes["right"].wait(20).reason is ExitReason.CANCELLED


def test_a_cancelled_family_goes_whole_and_the_stubborn_are_killed(
    manager: ProcessManager, programs: Programs, containment: Containment
) -> None:
    """The ladder is that of the command."""
    token = CancelToken()
    process = manager.start_process(
        "family",
        programs.forks_a_tree(2, 2, ignore=True),
        stdout=PIPE,
        grace=0.3,
        cancel=token,
        containment=containment,
    )
    pids = pids_until(process, "ready")
    began = time.monotonic()

    token.cancel()
    assert time.monotonic() - began < 5  # it does not wait for the end

    status = process.wait(20)
    assert (status.reason, status.signal, status.escalated) == (ExitReason.CANCELLED, signal.SIGKILL, True)
    assert status.ended - began >= 0.3
    assert process.terminate().stopped
    assert alive(pids) == []


def test_the_deadline_above_counts_for_those_below(manager: ProcessManager, programs: Programs) -> None:
    parent = CancelToken(timeout=0.3)
    child = CancelToken(timeout=60, parent=parent)
    began = time.monotonic()
    process = manager.start_process("late", programs.ready_then_sleep(), stdout=PIPE, cancel=child)

    status = process.wait(20)

    assert status.reason is ExitReason.TIMEOUT
    assert 0.29 <= status.ended - began < 5
    assert child.cancelled
    assert child.reason == "deadline"


def test_the_earlier_of_time_limit_and_deadline_counts(manager: ProcessManager, programs: Programs) -> None:
    early = manager.start_process(
        "a", programs.ready_then_sleep(), stdout=PIPE, timeout=0.2, cancel=CancelToken(timeout=60)
    )
    late = manager.start_process(
        "b", programs.ready_then_sleep(), stdout=PIPE, timeout=60, cancel=CancelToken(timeout=0.2)
    )

    assert early.wait(20).reason is ExitReason.TIMEOUT
    assert late.wait(20).reason is ExitReason.TIMEOUT


def test_many_are_cancelled_at_once(manager: ProcessManager, programs: Programs) -> None:
    """Fifty under one token, cancelled by two threads: each is asked once."""
    token = CancelToken()
    processes = [
        manager.start_process(number, programs.reports_signals(), stdout=PIPE, grace=60, cancel=token)
        for number in range(50)
    ]
    for process in processes:
        first_line(process)

    threads = [threading.Thread(target=token.cancel) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    # On a busy machine it takes its time until each has got it.
    for process in processes:
        lines_until(process, "got 15")
    for process in processes:
        process.kill()

    statuses = manager.wait_all(20)
    assert {status.reason for status in statuses} == {ExitReason.CANCELLED}
    assert [process.stdout_bytes.count(b"got 15") for process in processes] == [1] * 50


def test_under_a_cancelled_token_nothing_is_started(manager: ProcessManager, programs: Programs) -> None:
    """Also when its time was up before."""
    cancelled = CancelToken()
    cancelled.cancel("too late")
    for token in (cancelled, CancelToken(parent=cancelled), CancelToken(timeout=0)):
        with pytest.raises(SpawnError):
            manager.start_process("never", programs.ready_then_sleep(), cancel=token)
    assert manager.active_count() == 0
    assert programs.end_all() == []


def test_what_ended_by_itself_is_not_touched_by_a_late_cancel(
    manager: ProcessManager, programs: Programs
) -> None:
    token = CancelToken()
    process = manager.start_process("quick", programs.exits_with(6), cancel=token)
    status = process.wait(20)

    token.cancel()

    assert (status.code, status.reason) == (6, ExitReason.EXITED)
    assert process.wait() is status


def test_a_cancel_that_races_with_starts_leaves_nobody(manager: ProcessManager, programs: Programs) -> None:
    """Each start is either refused or cancelled, whenever the cancel comes."""
    command = Command(programs.ready_then_sleep(), stdout=DEVNULL)
    with nobody_left(programs):
        for _ in range(10):
            token = CancelToken()
            started: list[Process] = []
            canceller = threading.Timer(0.005, token.cancel)
            canceller.start()
            with suppress(SpawnError):
                while True:
                    started.append(manager.start_process(len(started), command, cancel=token))
            canceller.join(20)

            assert {process.wait(20).reason for process in started} <= {ExitReason.CANCELLED}
            assert manager.terminate_all(20)
