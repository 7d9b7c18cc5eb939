"""What is done with many processes in one call, see many.c: no more and no less than is done with one."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable

import pytest
from tests.conftest import eventually
from tests.integration.names import Name
from tests.programs import Programs

import fastproc
from fastproc import Command, ExitReason, NotActive, Process, ProcessManager, SpawnError
from fastproc._engine import starting
from fastproc._engine.finished import Finished
from fastproc._native import _direct, ledger
from fastproc._native.crew import wait_started
from fastproc._native.environment import Snapshot
from fastproc._native.records import STATE_DONE

SLEEP = ["/bin/sleep", "100"]


def code_of(started: Process | SpawnError) -> int | None:
    assert isinstance(started, Process)
    return started.wait(20).code


def test_each_kind_of_end_is_told_in_a_batch(manager: ProcessManager, programs: Programs) -> None:
    """Those that are entered many at a time and those that are seen to one by one; all are counted once."""
    shell = "/bin/sh"
    items: list[tuple[object, Command | list[str]]] = [(n, programs.exits_with(n)) for n in range(100)]
    items += [(f"signal-{n}", [shell, "-c", "kill -9 $$"]) for n in range(20)]
    items += [(Name(f"name-{n}"), programs.exits_with(5)) for n in range(20)]
    items += [(f"said-{n}", Command([shell, "-c", "echo hello"], stdout=fastproc.PIPE)) for n in range(20)]
    items += [(f"missing-{n}", ["/no/such/program"]) for n in range(10)]

    started = manager.start_many(items)
    assert eventually(lambda: manager.active_count() == 0, 20)

    assert [code_of(process) for process in started[:100]] == list(range(100))
    killed = [process for process in started[100:120] if isinstance(process, Process)]
    assert [(p.wait().signal, p.wait().reason) for p in killed] == [(9, ExitReason.SIGNALED)] * 20
    assert [code_of(process) for process in started[120:140]] == [5] * 20
    assert [p.stdout_bytes for p in started[140:160] if isinstance(p, Process)] == [b"hello\n"] * 20
    assert all(isinstance(error, SpawnError) for error in started[160:])
    metrics = manager.metrics()
    assert (metrics.started, metrics.exited, metrics.signaled, metrics.failed_to_start) == (160, 140, 20, 10)
    assert manager.get(7) is started[7]
    assert manager._roster.by_token == {}
    assert manager._roster.finished._bytes == 20 * len("hello\n")


def test_who_has_a_callback_is_called_once(manager: ProcessManager) -> None:
    """Whoever reads the news of its end: the thread that calls, or one that asks who is active."""
    heard: list[int] = []
    started = manager.start_many([(n, ["/bin/sleep", "0.1"]) for n in range(40)])
    for number, process in enumerate(started):
        assert isinstance(process, Process)
        process.add_done_callback(lambda _process, number=number: heard.append(number))  # type: ignore[misc]
    while manager.active_count():
        pass

    assert eventually(lambda: sorted(heard) == list(range(40)), 10)


def test_each_end_of_a_batch_is_heard_once(manager: ProcessManager, programs: Programs) -> None:
    """wait_all() tells of those that were entered while nobody waited, and of each of them only once."""
    manager.start_many([(n, programs.exits_with(n)) for n in range(50)])
    assert eventually(lambda: manager.active_count() == 0, 10)

    assert [status.code for status in manager.wait_all(10)] == list(range(50))
    assert manager.wait_all(10) == []
    assert manager._roster.finished.unheard == {}


def test_an_end_is_told_of_while_somebody_keeps_the_process(
    manager: ProcessManager, programs: Programs
) -> None:
    """Also if so many have ended after it that its name is forgotten."""
    manager.start_process("first", programs.nop()).wait()
    manager._roster.finished = Finished(5)
    kept = manager.start_many([(number, programs.exits_with(number)) for number in range(20)])
    assert eventually(lambda: manager.active_count() == 0, 10)
    assert code_of(kept[3]) == 3

    assert [status.code for status in manager.wait_all(10)] == [n for n in range(20) if n != 3]
    assert manager.wait_all(10) == []
    manager.start_many([(number, programs.exits_with(number)) for number in range(20)])
    assert eventually(lambda: manager.active_count() == 0, 10)
    assert len(manager.wait_all(10)) == 5


def test_ends_that_nobody_will_ask_for_take_no_memory(
    manager: ProcessManager, programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody keeps these, so that they were evicted is all that there is of them, for a while."""
    monkeypatch.setattr("fastproc._engine.finished.COUNT_AT_MOST", 20)
    manager.start_process("first", programs.nop()).wait()
    finished = manager._roster.finished = Finished(5)
    for _ in range(12):
        manager.start_many([(number, programs.nop()) for number in range(25)])
        assert eventually(lambda: manager.active_count() == 0, 10)

    assert 0 < len(finished._older) < 100
    assert len(finished.all_unheard()) == 5


def test_only_the_last_are_remembered(manager: ProcessManager, programs: Programs) -> None:
    """By whichever way they were entered, and whether or not one of them keeps output."""
    manager.start_process("first", programs.nop()).wait()
    finished = manager._roster.finished = Finished(5)
    for number in range(4):
        manager.start_process(number, programs.exits_with(0)).wait()
    manager.start_many([(number, programs.exits_with(0)) for number in range(4, 12)])
    assert eventually(lambda: manager.active_count() == 0, 10)

    assert sorted(finished.by_task) == sorted(child.task_id for child in finished.in_order)
    assert len(finished.in_order) == 5
    assert len(finished.unheard) <= 5
    with pytest.raises(NotActive):
        manager.get(0)

    said = manager.start_process("said", Command(["/bin/echo", "x"], stdout=fastproc.PIPE))
    assert said.wait().ok
    assert eventually(lambda: manager.active_count() == 0, 10)
    for number in range(12, 20):
        manager.start_process(number, programs.exits_with(0)).wait()
    assert len(finished.in_order) == 5
    assert (finished._sizes, finished._bytes) == ({}, 0)


def test_a_name_of_two_that_have_ended_is_that_of_the_later(
    manager: ProcessManager, programs: Programs
) -> None:
    manager.start_process("first", programs.nop()).wait()
    manager._roster.finished = Finished(3)
    for _ in range(2):
        later = manager.start_process("same", programs.nop())
        later.wait()
    for number in range(2):
        manager.start_process(number, programs.nop()).wait()

    # The first of that name has been forgotten, the second has not.
    assert manager.get("same") is later


def test_bytes_that_are_no_text_are_arguments_too(manager: ProcessManager) -> None:
    odd = os.fsdecode(b"\xff\xfe")
    args = ["/bin/sh", "-c", 'test "$1" = "$(printf \'\\377\\376\')"', "sh", odd]

    assert [code_of(process) for process in manager.start_many([("a", args), ("b", tuple(args))])] == [0, 0]
    assert [process.returncode for process in manager.map([args, args])] == [0, 0]


def test_the_environment_of_a_batch_is_that_of_its_call(
    manager: ProcessManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    for code in (3, 4):
        monkeypatch.setenv("FASTPROC_TEST_CODE", str(code))
        args = ["/bin/sh", "-c", "exit $FASTPROC_TEST_CODE"]
        assert [code_of(process) for process in manager.start_many([("a", args), ("b", args)])] == [code] * 2


def test_batches_of_several_threads_do_not_mix(manager: ProcessManager, programs: Programs) -> None:
    wrong: list[object] = []

    def mapped(code: int) -> None:
        wrong.extend(p for p in manager.map([programs.exits_with(code)] * 150) if p.returncode != code)

    def started(code: int) -> None:
        for turn in range(3):
            batch = manager.start_many([((code, turn, n), programs.exits_with(code)) for n in range(50)])
            wrong.extend(process for process in batch if code_of(process) != code)

    calls: list[tuple[Callable[[int], None], int]] = [(mapped, 3), (started, 4), (mapped, 5), (started, 6)]
    threads = [threading.Thread(target=call, args=(code,)) for call, code in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert wrong == []
    assert manager.metrics().exited == 600
    assert manager._roster.by_token == {}
    assert manager.active() == []


def test_a_map_goes_on_beside_a_log_and_after_the_close(programs: Programs) -> None:
    """What may not be entered in one go is entered one by one."""
    events: list[object] = []
    with ProcessManager(on_event=events.append) as manager:
        assert [p.returncode for p in manager.map([programs.exits_with(2)] * 40)] == [2] * 40
        mapped = manager.map([programs.exits_with(2)] * 5 + [SLEEP] * 5, concurrency=4)
        assert next(mapped).returncode == 2
    rest = list(mapped)

    assert all(process.status is not None or process.error is not None for process in rest)
    assert len([event for event in events if isinstance(event, fastproc.events.Done)]) >= 41


def test_a_start_wakes_one_supervisor(manager: ProcessManager, programs: Programs) -> None:
    """One that is queued alone: the others would find nothing to do."""
    for _ in manager.map([programs.nop()] * 10):
        pass
    engine = [thread for thread in threading.enumerate() if thread.name.startswith("fastproc-supervisor-")]
    if len(engine) < 2:
        pytest.skip("with one CPU there is one supervisor")

    def woken(thread: threading.Thread) -> int:
        with open(f"/proc/self/task/{thread.native_id}/status", encoding="ascii") as status:
            return int(status.read().partition("\nvoluntary_ctxt_switches:")[2].split()[0])

    before = [woken(thread) for thread in engine]
    for number in range(60):
        assert code_of(manager.start_many([(number, programs.exits_with(0))])[0]) == 0
    after = [woken(thread) for thread in engine]

    counts = sorted(now - then for now, then in zip(after, before, strict=True))
    # Unless one was still awake from the start before.
    assert counts[0] < 30
    assert counts[-1] >= 60


# ---- what may come between ----


def test_a_name_that_runs_code_may_enter_the_end_that_is_being_entered(programs: Programs) -> None:
    """A name with the hash of another is compared with it, in the middle of all: nothing is entered twice."""

    class Meddler(Name):
        """Its owner is closed when it is compared for the first time that counts."""

        counts = False

        def __eq__(self, other: object) -> bool:
            if isinstance(other, str) and Meddler.counts:
                Meddler.counts = False
                manager.close()
            return self is other

        __hash__ = Name.__hash__

    with ProcessManager() as manager:
        for number in range(20):
            manager.start_process(Meddler(f"n{number}"), SLEEP)
        started = manager.start_many([(f"n{number}", programs.exits_with(3)) for number in range(20)])
        assert all(isinstance(process, Process) for process in started)
        time.sleep(0.05)
        Meddler.counts = True
        manager.active_count()
        Meddler.counts = False

    assert [code_of(process) for process in started] == [3] * 20
    in_order = list(map(id, manager._roster.finished.in_order))
    assert len(in_order) == len(set(in_order)) == 40
    assert (manager.metrics().started, manager.metrics().exited) == (40, 20)
    assert manager._roster.by_token == {}


def test_garbage_may_hear_of_the_end_that_is_being_entered(
    manager: ProcessManager, programs: Programs
) -> None:
    """A collection may run when a status is made, and with it whatever asks how a process stands."""

    class Asks:
        def __init__(self, process: Process) -> None:
            self.process = process
            self.me = self

        def __del__(self) -> None:
            self.process.poll()

    manager.start_process("first", programs.nop()).wait()
    before = gc.get_threshold()
    gc.disable()
    try:
        for turn in range(1, 40):
            gc.collect()
            started = manager.start_many([(f"{turn}-{number}", programs.nop()) for number in range(8)])
            time.sleep(0.02)
            for process in started:
                assert isinstance(process, Process)
                Asks(process)
            gc.set_threshold(gc.get_count()[0] + turn, 1000, 1000)
            gc.enable()
            manager.active_count()
            gc.disable()
    finally:
        gc.set_threshold(*before)
        gc.enable()
    assert eventually(lambda: manager.active_count() == 0, 10)

    in_order = list(map(id, manager._roster.finished.in_order))
    assert len(in_order) == len(set(in_order)) == 313
    assert (manager.metrics().started, manager.metrics().exited) == (313, 313)


def test_those_that_somebody_lets_go_of_are_no_mistake(manager: ProcessManager, programs: Programs) -> None:
    manager.start_process("first", programs.nop()).wait()
    manager._roster.finished = Finished(5)
    kept = manager.start_many([(number, programs.nop()) for number in range(400)])
    assert eventually(lambda: manager.active_count() == 0, 10)
    thread = threading.Thread(target=kept.clear)
    thread.start()
    while len(manager._roster.awaited()) > 5:
        pass
    thread.join()

    assert len(manager.wait_all(10)) == 5


def test_the_environment_is_not_that_which_another_thread_has_packed_before(
    manager: ProcessManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that packs it is held up, and goes on when another has packed a later one."""
    args = ["/bin/sh", "-c", "exit ${FASTPROC_TEST_CODE:-0}"]
    manager.start_process("first", args).wait()
    packed, go_on = threading.Event(), threading.Event()
    pair = Snapshot.pair

    def held(snapshot: Snapshot) -> tuple[object, dict[bytes, bytes]]:
        made = pair(snapshot)
        if threading.current_thread() is slow and not packed.is_set():
            packed.set()
            go_on.wait(10)
        return made

    monkeypatch.setattr(Snapshot, "pair", held)
    monkeypatch.setenv("FASTPROC_TEST_OTHER", "1")
    slow = threading.Thread(target=lambda: manager.start_process("slow", args).wait())
    slow.start()
    assert packed.wait(10)
    monkeypatch.setenv("FASTPROC_TEST_CODE", "7")
    assert code_of(manager.start_many([("before", args)])[0]) == 7
    go_on.set()
    slow.join()

    assert code_of(manager.start_many([("after", args)])[0]) == 7
    assert [process.returncode for process in manager.map([args])] == [7]
    assert manager.start_process("alone", args).wait().code == 7


@pytest.mark.parametrize("ordered", [False, True])
def test_the_last_of_a_map_are_given_back_whoever_has_read_of_them(
    manager: ProcessManager, programs: Programs, ordered: bool
) -> None:
    """Another thread reads the news after the map has looked whether anything is ready."""

    class Flying(dict[int, Process]):
        """All are done, and heard of elsewhere, when it is asked whether any are left."""

        asked = False

        def __bool__(self) -> bool:
            if self.keys() and not self.asked:
                self.asked = True
                assert eventually(self.are_heard_of, 10)
            return len(self) > 0

        def are_heard_of(self) -> bool:
            reader = threading.Thread(target=manager.active_count)
            reader.start()
            reader.join()
            return len(self) == 0

    feed = manager._feed(iter([programs.exits_with(3)] * 3), 2, ordered)
    feed._flying = Flying()
    assert [process.returncode for process in feed.finished()] == [3] * 3


def test_an_interrupted_batch_leaves_no_end_unheard(
    manager: ProcessManager, programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its news may have been taken by another thread, too early for that to enter them."""

    def interrupted(children: list[Process]) -> int:
        assert wait_started(children) == 0
        assert eventually(lambda: all(child._handle.stand() & 7 == STATE_DONE for child in children), 10)
        mailbox = manager._roster._mailbox
        assert mailbox is not None
        assert mailbox.take(0)
        raise KeyboardInterrupt

    manager.start_process("first", programs.nop()).wait()
    monkeypatch.setattr(starting, "wait_started", interrupted)
    with pytest.raises(KeyboardInterrupt):
        manager.start_many([(number, programs.nop()) for number in range(5)])

    assert eventually(lambda: manager.active_count() == 0, 10)


def test_any_number_may_run_at_a_time(manager: ProcessManager, programs: Programs) -> None:
    for number in (2**32 - 1, 2**32, 2**40 + 1):
        began = time.monotonic()
        assert len(list(manager.map([["/bin/sleep", "1"]] * 8, concurrency=number))) == 8
        # One at a time takes eight seconds, one for each of two CPUs four.
        assert time.monotonic() - began < 3.5
    with pytest.raises(OverflowError):
        _direct.queue_entries(0, [], [], 2**32)


# ---- the functions themselves ----


def test_what_does_not_belong_there_is_refused(manager: ProcessManager, programs: Programs) -> None:
    entry = _direct.Entry(manager._roster, "x", tuple(programs.nop()))

    assert _direct.plain_block("no list") is None
    assert _direct.plain_block(["a", "b\0c"]) is None
    assert _direct.plain_block([]) is None
    assert _direct.plain_block(["a", "é"]) == b"a\0\xc3\xa9\0"
    assert _direct.plain_entry(Process, manager._roster, "x", ["", "a"]) is None
    with pytest.raises(TypeError, match="Entry"):
        _direct.queue_entries(0, [object()], [b"a\0"], 1)  # type: ignore[list-item]
    with pytest.raises(TypeError, match="blocks"):
        _direct.queue_entries(0, [entry], [], 1)
    with pytest.raises(TypeError):
        _direct.queue_entries(0, [entry], ["a"], 1)  # type: ignore[list-item]
    with pytest.raises(ValueError, match="not been queued"):
        _direct.await_starts([_direct.Entry(None, "y", ())])
    with pytest.raises(TypeError, match="Ledger"):
        _direct.enter_ends(object(), 1, 0, None, None)  # type: ignore[arg-type]
    assert not entry._born


def test_arguments_are_as_python_makes_them() -> None:
    for args in (
        ["true"],
        ["a", "b c", ""],
        ("é", os.fsdecode(b"\xff")),
        [],
        ["\0"],
        ["", "x"],
        "text",
        [b"x"],
    ):
        assert ledger.args_block(args) == fastproc.command.plain_block(args)
