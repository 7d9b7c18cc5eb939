"""Plain starts and waits go through ledger.c, all others through Python: nobody can tell by the outcome."""

from __future__ import annotations

import copy
import errno
import gc
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from tests.conftest import eventually
from tests.integration.names import Name
from tests.programs import Programs

import fastproc
from fastproc import Command, DuplicateTask, ExitReason, ProcessManager, SpawnError
from fastproc._native import _direct, ledger

SLEEP = ["/bin/sleep", "100"]


@contextmanager
def holding_the_lock_of(manager: ProcessManager) -> Iterator[None]:
    """Another thread is in the roster."""
    held, enough = threading.Event(), threading.Event()

    def hold() -> None:
        with manager._roster.lock:
            held.set()
            enough.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(10)
    threading.Timer(0.05, enough.set).start()
    try:
        yield
    finally:
        enough.set()
        thread.join()


def is_short(process: fastproc.Process) -> bool:
    """Whether the process has been started by ledger.c; to be asked before anything else."""
    return type(process._source).__name__ == "Cell"


@pytest.fixture
def warm(manager: ProcessManager, programs: Programs) -> ProcessManager:
    """The first start of a manager connects it with the engine, which is not plain."""
    manager.start_process("first", programs.exits_with(0)).wait(10)
    return manager


def test_a_plain_start_takes_the_short_way(warm: ProcessManager, programs: Programs) -> None:
    process = warm.start_process("plain", programs.exits_with(7))

    assert is_short(process)
    assert process.wait().code == 7
    assert warm.active() == []
    assert warm.get("plain") is process


@pytest.mark.parametrize("name", [Name("own"), ("a", "tuple"), None])
def test_other_names_take_the_long_way(warm: ProcessManager, programs: Programs, name: object) -> None:
    process = warm.start_process(name, programs.exits_with(7))

    assert not is_short(process)
    assert process.wait().code == 7
    assert warm.active() == []


def test_a_name_that_equals_a_string_is_the_same_name(warm: ProcessManager, programs: Programs) -> None:
    first = warm.start_process(Name("same"), SLEEP)
    with pytest.raises(DuplicateTask):
        warm.start_process("same", programs.exits_with(0))

    first.kill()
    first.wait()


def test_both_ways_tell_the_same(warm: ProcessManager, programs: Programs) -> None:
    args = programs.exits_with(3)
    short, long = warm.start_process("short", args), warm.start_process("long", Command(args))
    assert is_short(short)
    assert not is_short(long)

    statuses = [short.wait(), long.wait()]

    assert statuses[0] == statuses[1]
    for status in statuses:
        assert status.reason is ExitReason.EXITED
        assert status.ended >= status.started > 0
        assert status.rusage.max_rss > 0
    assert short.args == long.args == tuple(args)
    assert short.command == long.command
    assert short.pid > 0


def test_a_signal_is_told_by_the_short_way(warm: ProcessManager, programs: Programs) -> None:
    process = warm.start_process("killed", SLEEP)
    assert is_short(process)
    os.kill(process.pid, signal.SIGUSR1)

    status = process.wait()

    assert status.signal == signal.SIGUSR1
    assert status.code is None
    assert status.reason is ExitReason.SIGNALED


def test_a_failure_is_told_and_leaves_nothing(warm: ProcessManager) -> None:
    with pytest.raises(SpawnError) as caught:
        warm.start_process("missing", ["/no/such/program"])

    assert caught.value.errno == errno.ENOENT
    assert warm._roster.by_token == {}
    assert warm.active() == []
    assert warm.metrics().failed_to_start == 1


def test_a_name_in_use_is_refused(warm: ProcessManager, programs: Programs) -> None:
    first = warm.start_process("twice", SLEEP)
    with pytest.raises(DuplicateTask):
        warm.start_process("twice", programs.exits_with(0))

    assert warm.get("twice") is first
    first.kill()
    first.wait()


def test_who_is_in_the_roster_is_waited_for(warm: ProcessManager, programs: Programs) -> None:
    running = warm.start_process("running", programs.exits_with(5))
    with holding_the_lock_of(warm):
        process = warm.start_process("late", programs.exits_with(6))
    with holding_the_lock_of(warm):
        assert running.wait().code == 5
    assert process.wait().code == 6
    assert warm.active() == []
    assert warm._roster.by_token == {}


def test_what_is_entered_is_not_entered_twice(warm: ProcessManager, programs: Programs) -> None:
    process = warm.start_process("seen", programs.exits_with(4))
    eventually(lambda: process.poll() is not None)

    assert process.wait().code == 4
    assert warm._roster.finished.unheard == {}
    assert warm.metrics().exited == 2


def test_a_process_outlives_its_manager(programs: Programs) -> None:
    manager = ProcessManager()
    manager.start_process("first", programs.exits_with(0)).wait()
    process = manager.start_process("kept", programs.exits_with(9))
    assert is_short(process)
    status = process.wait()
    manager.close()
    del manager
    gc.collect()

    assert copy.copy(status).code == 9
    assert process.pid > 0
    assert status.rusage.max_rss > 0
    assert process.wait(0) is status
    assert not process.kill()


def test_a_status_outlives_its_process(warm: ProcessManager, programs: Programs) -> None:
    status = warm.start_process("gone", programs.exits_with(2)).wait()
    warm._roster.finished.by_task.clear()
    warm._roster.finished.in_order.clear()
    gc.collect()

    assert status.reason is ExitReason.EXITED
    assert status.rusage.max_rss > 0


def test_circles_of_processes_are_garbage(warm: ProcessManager, programs: Programs) -> None:
    freed = []

    class Tied(fastproc.Process):
        __slots__ = ("itself",)

        def __del__(self) -> None:
            freed.append(self.pid)

    entry = Tied(warm._roster, "tied", programs.exits_with(1))
    assert ledger.start_entry(entry)
    # False is said as well when it is time to look for signals.
    assert ledger.hear_entry(entry, None) or entry.wait(20)
    entry.itself = entry
    pid = entry.pid
    warm._roster.finished.by_task.clear()
    warm._roster.finished.in_order.clear()
    del entry
    gc.collect()

    assert freed == [pid]


@pytest.mark.parametrize(
    ("timeout", "is_short"), [(None, True), (20, True), (20.0, True), (float("inf"), False), (1e300, False)]
)
def test_a_wait_with_a_timeout_takes_the_short_way_too(
    warm: ProcessManager,
    programs: Programs,
    timeout: float | None,
    is_short: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Unless it lasts until signals are looked for, or longer than anybody waits."""
    long_ones = []
    await_exit = type(warm._roster).await_exit

    def noted(roster: Any, child: Any, until: float | None) -> bool:
        long_ones.append(until)
        return await_exit(roster, child, until)

    monkeypatch.setattr(type(warm._roster), "await_exit", noted)
    for _ in range(20):
        process = warm.start_process("nop", programs.nop())
        assert process.wait(timeout).code == 0
    assert len(long_ones) < 20 if is_short else len(long_ones) == 20


@pytest.mark.parametrize("timeout", [0, 0.0, 0.01, 0.2])
def test_a_wait_that_is_over_is_told_in_time(warm: ProcessManager, timeout: float) -> None:
    process = warm.start_process("slow", SLEEP)
    began = time.monotonic()
    with pytest.raises(fastproc.WaitTimeout):
        process.wait(timeout)
    assert timeout <= time.monotonic() - began < timeout + 5
    assert process.running
    process.kill()
    assert process.wait(10).signal == signal.SIGKILL


@pytest.mark.parametrize("timeout", ["1", b"", object(), [1]])
def test_a_timeout_that_is_no_number_is_refused(warm: ProcessManager, timeout: Any) -> None:
    process = warm.start_process("slow", SLEEP)
    with pytest.raises(TypeError):
        process.wait(timeout)
    assert process.running
    process.kill()


def test_what_is_no_entry_is_refused() -> None:
    with pytest.raises(TypeError):
        _direct.start_entry(object())
    with pytest.raises(TypeError):
        _direct.hear_entry(object(), None)


def test_an_entry_of_no_roster_is_left_alone(programs: Programs) -> None:
    entry = _direct.Entry(None, "nobody's", programs.exits_with(0))

    assert not _direct.start_entry(entry)
    assert not _direct.hear_entry(entry, None)
    assert not entry._born


def test_a_change_of_the_environment_reaches_the_next_child(
    warm: ProcessManager, programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    for code in (3, 4):
        monkeypatch.setenv("FASTPROC_TEST_CODE", str(code))
        process = warm.start_process("env", ["/bin/sh", "-c", "exit $FASTPROC_TEST_CODE"])
        assert is_short(process)
        assert process.wait().code == code


def test_ends_in_two_threads_are_entered_once_each(warm: ProcessManager, programs: Programs) -> None:
    def many(name: str) -> None:
        for _ in range(100):
            assert warm.start_process(name, programs.exits_with(7)).wait().code == 7

    before = warm.metrics().exited
    threads = [threading.Thread(target=many, args=(name,)) for name in ("a", "b", "c")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert warm.metrics().exited - before == 300
    assert warm.active() == []
    assert warm._roster.by_token == {}


def test_an_end_that_nobody_waits_for_frees_its_name(warm: ProcessManager, programs: Programs) -> None:
    warm.start_process("again", programs.exits_with(0))
    until = time.monotonic() + 10
    while "again" in [process.task_id for process in warm.active()] and time.monotonic() < until:
        time.sleep(0.001)

    assert warm.start_process("again", programs.exits_with(8)).wait().code == 8
