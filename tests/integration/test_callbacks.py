"""Callbacks and observers may raise, block and call anything: nobody else is held up by it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import pytest
from tests.conftest import eventually
from tests.integration import fresh
from tests.programs import Programs
from tests.watch import first_line

import fastproc
from fastproc import PIPE, CancelToken, ManagerClosed, Process, ProcessManager
from fastproc._engine import dispatcher
from fastproc.events import Done, Escalated, Event, Exited, OrphanReaped, Refused, Started, Unkillable


@pytest.mark.parametrize("wrong", [RuntimeError, SystemExit, KeyboardInterrupt, GeneratorExit])
def test_what_a_callback_raises_is_logged_and_harms_no_other(
    manager: ProcessManager,
    programs: Programs,
    caplog: pytest.LogCaptureFixture,
    wrong: type[BaseException],
) -> None:
    """The callbacks after it are called, and the ends after it are heard."""
    called: list[str] = []

    def fails(_process: Process) -> None:
        called.append("fails")
        raise wrong("on purpose")

    for name in ("first", "second"):
        process = manager.start_process(name, programs.exits_with(1, after=0.05), on_exit=fails)
        process.add_done_callback(lambda _process: called.append("after"))
        assert process.wait(10).code == 1
    manager.close()

    assert called == ["fails", "after"] * 2
    assert [record.levelno for record in caplog.records if "callback" in record.message] == [
        logging.ERROR
    ] * 2
    assert "on purpose" in caplog.text


def test_what_an_observer_raises_is_logged_and_harms_no_other(
    programs: Programs, caplog: pytest.LogCaptureFixture
) -> None:
    """All events are told, though each is answered by an exception."""
    told: list[str] = []

    def observe(event: Event) -> None:
        told.append(type(event).__name__)
        raise ValueError("on purpose")

    with ProcessManager(on_event=observe) as manager:
        assert manager.start_process("a", programs.exits_with(1)).wait(10).code == 1

    assert told == ["Started", "Exited", "Done"]
    assert caplog.text.count("ValueError: on purpose") == 3


@pytest.mark.parametrize("heard", [False, True])
def test_a_mistake_in_a_callback_is_said_where_nobody_listens_to_the_log(
    programs: Programs, heard: bool
) -> None:
    """On standard error, as of any logger without a handler; ordinary events stay silent."""
    begun = fresh.begin(
        f"""
        import io, logging
        kept = io.StringIO()
        if {heard}:
            logging.getLogger("fastproc").addHandler(logging.StreamHandler(kept))

        def fails(process):
            raise ValueError(f"about {{process.task_id}}")

        with ProcessManager() as manager:
            manager.start_process("one", programs.exits_with(1), on_exit=fails).wait()
        token = fastproc.CancelToken()
        token.add_callback(lambda: fails(manager))
        token.cancel()
        print(kept.getvalue().count("Traceback"))
        """,
        programs,
    )
    out, err = begun.communicate(timeout=60)
    assert out == ("2\n" if heard else "0\n")
    if heard:
        assert err == ""
    else:
        assert "ValueError: about one" in err
        assert err.count("Traceback") == 2
        assert "a callback failed" in err
        assert "a callback of a CancelToken failed" in err


def test_a_callback_for_one_that_is_done_is_called_at_once_and_logged_too(
    manager: ProcessManager, programs: Programs, caplog: pytest.LogCaptureFixture
) -> None:
    """In the thread that asks; what it raises stays out of there."""
    process = manager.start_process("done", programs.nop())
    assert process.wait(10).ok
    assert eventually(lambda: not manager.is_active("done"))
    threads = []

    def fails(_process: Process) -> None:
        threads.append(threading.current_thread())
        raise RuntimeError("on purpose")

    process.add_done_callback(fails)

    assert threads == [threading.current_thread()]
    assert "on purpose" in caplog.text


def test_a_callback_that_blocks_holds_up_callbacks_only(manager: ProcessManager, programs: Programs) -> None:
    """Meanwhile children are reaped, deadlines kept, stops carried out and waits answered."""
    entered = threading.Event()
    go_on = threading.Event()
    called = []

    def blocks(_process: Process) -> None:
        entered.set()
        go_on.wait(30)

    try:
        manager.start_process("first", programs.nop(), on_exit=blocks)
        assert entered.wait(10)
        began = time.monotonic()
        for number in range(20):
            process = manager.start_process(number, programs.exits_with(number), on_exit=called.append)
            assert process.wait(10).code == number
        late = manager.start_process("late", programs.ready_then_sleep(), timeout=0.1, stdout=PIPE)
        assert late.wait(10).reason is fastproc.ExitReason.TIMEOUT
        stubborn = manager.start_process("stubborn", programs.ignores_sigterm(), stdout=PIPE)
        first_line(stubborn)
        assert stubborn.terminate(0.1).stopped
        assert manager.active_count() == 0
        assert time.monotonic() - began < 10
        assert called == []
    finally:
        go_on.set()
    manager.close()
    assert [process.task_id for process in called] == list(range(20))


def test_a_callback_may_use_all_of_the_package(programs: Programs) -> None:
    """It starts, waits, asks, stops others, and closes the manager in the end."""
    told: list[object] = []
    finished = threading.Event()

    def first_ended(process: Process) -> None:
        assert process.status is not None
        second = manager.start_process("second", programs.exits_with(2))
        told.append((process.status.code, second.wait(10).code))
        assert manager.start_process("first", programs.nop()).wait(10).ok
        sleeper = manager.start_process("sleeper", programs.ready_then_sleep(), stdout=PIPE)
        told.append(manager.is_active("sleeper"))
        sleeper.add_done_callback(sleeper_ended)
        told.append(manager.terminate_process("sleeper").stopped)
        told.append([one.wait(10).code for one in manager.map([programs.exits_with(3)] * 3)])
        told.append(bool(manager.terminate_all()))

    def sleeper_ended(_process: Process) -> None:
        told.append(manager.active_count())
        told.append(bool(manager.close()))
        with pytest.raises(ManagerClosed):
            manager.start_process("third", programs.nop())
        finished.set()

    manager = ProcessManager()
    manager.start_process("first", programs.exits_with(1), on_exit=first_ended)

    assert finished.wait(20)
    assert told == [(1, 2), True, True, [3, 3, 3], True, 0, True]


def test_chains_of_callbacks_do_not_grow_the_stack(manager: ProcessManager, programs: Programs) -> None:
    """Each end starts the next one, three hundred times."""
    finished = threading.Event()
    left = 300

    def start_next(_process: Process) -> None:
        nonlocal left
        left -= 1
        if left:
            manager.start_process(left, programs.nop(), on_exit=start_next)
        else:
            finished.set()

    manager.start_process("first", programs.nop(), on_exit=start_next)

    assert finished.wait(20)


def wake_ups(threads: Iterable[threading.Thread]) -> int:
    """How often these threads have been woken, see proc_pid_status(5)."""
    count = 0
    for thread in threads:
        status = Path(f"/proc/self/task/{thread.native_id}/status").read_text()
        count += int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])
    return count


def tellers() -> list[threading.Thread]:
    """The threads that call callbacks."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("fastproc-news-")]


def test_a_callback_of_earlier_costs_later_waits_nothing(manager: ProcessManager, programs: Programs) -> None:
    """The thread that called it is not woken for each child, though it is still there for the next wish."""
    called = threading.Event()
    manager.start_process("with", programs.nop(), on_exit=lambda _process: called.set())
    assert called.wait(10)
    # It listens a little longer. That it stops is seen from outside: nobody is told.
    assert eventually(lambda: woken_for_one(manager, programs) == 0, 10)

    began = wake_ups(tellers())
    for number in range(50):
        assert manager.start_process(number, programs.nop()).wait(10).ok

    assert wake_ups(tellers()) - began <= 5


def woken_for_one(manager: ProcessManager, programs: Programs) -> int:
    """How often the tellers are woken for one child, whose end somebody waits for."""
    began = wake_ups(tellers())
    assert manager.start_process("probe", programs.nop()).wait(10).ok
    time.sleep(0.01)
    return wake_ups(tellers()) - began


@pytest.mark.parametrize("pause", [0, 0.01, 0.05, 0.2, 1.1])
def test_a_callback_is_called_however_long_the_last_one_is_past(
    manager: ProcessManager, programs: Programs, pause: float
) -> None:
    """The thread that calls it listens, rests, or has gone."""
    for number in range(5):
        called = threading.Event()
        manager.start_process(number, programs.nop(), on_exit=lambda _process, called=called: called.set())
        assert called.wait(10)
        time.sleep(pause)
        assert manager.start_process("plain", programs.nop()).wait(10).ok


def test_a_callback_is_called_in_time_though_others_read_the_news(
    manager: ProcessManager, programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who reads them must not take the wake-up of the thread that is to listen again."""
    # So long that what is found only when the rest is over is late for certain.
    monkeypatch.setattr(dispatcher, "_LINGER_NS", 8 * 10**9)
    for number in range(3):
        called = threading.Event()
        manager.start_process("first", programs.nop(), on_exit=lambda _process, called=called: called.set())
        assert called.wait(10)
        time.sleep(0.05)
        called.clear()
        process = manager.start_process(number, programs.exits_with(1, after=0.05))
        process.add_done_callback(lambda _process, called=called: called.set())
        began = time.monotonic()
        while not called.is_set() and time.monotonic() - began < 10:
            manager.active_count()
            time.sleep(0.001)
        assert time.monotonic() - began < 4


def test_logging_that_is_switched_on_while_nobody_listens_is_done(
    manager: ProcessManager, programs: Programs, caplog: pytest.LogCaptureFixture
) -> None:
    """From the next start on."""
    called = threading.Event()
    manager.start_process("with", programs.nop(), on_exit=lambda _process: called.set())
    assert called.wait(10)
    assert eventually(lambda: woken_for_one(manager, programs) == 0, 10)

    with caplog.at_level(logging.INFO, "fastproc"):
        assert manager.start_process("told", programs.nop()).wait(10).ok
        assert eventually(lambda: "'told' ended" in caplog.text, 10)


def test_an_observer_may_stop_what_has_just_started(programs: Programs) -> None:
    """Events come in a thread of the engine, and calls from there are as good as from anywhere."""
    stopped = threading.Event()

    def observe(event: Event) -> None:
        if isinstance(event, Started):
            stopped.set() if manager.terminate_process(event.task_id).stopped else None

    with ProcessManager(on_event=observe) as manager:
        manager.start_process("sleeper", programs.ready_then_sleep(), stdout=PIPE)
        assert stopped.wait(10)
        assert manager.wait("sleeper", 10).reason is fastproc.ExitReason.TERMINATED


def test_events_tell_each_story_in_order(programs: Programs) -> None:
    """Started, perhaps Escalated, Exited, Done; with times that grow and the status that waiters hear."""
    events: list[Event] = []
    with ProcessManager(on_event=events.append, grace=0.1) as manager:
        stubborn = manager.start_process("stubborn", programs.ignores_sigterm(), stdout=PIPE)
        first_line(stubborn)
        manager.start_many([(number, programs.exits_with(number)) for number in range(20)])
        with pytest.raises(fastproc.SpawnError):
            manager.start_process("missing", ["/no/such/program"])
        list(manager.map([programs.nop()] * 5))
        stubborn.terminate(0.1)
        manager.wait_all(10)

    stories: dict[object, list[Event]] = {}
    for event in events:
        stories.setdefault(event.task_id, []).append(event)
    kinds = {task: [type(event) for event in story] for task, story in stories.items()}
    assert kinds.pop("stubborn") == [Started, Escalated, Exited, Done]
    assert kinds.pop("missing") == [Refused]
    assert len(kinds) == 25
    assert list(kinds.values()) == [[Started, Exited, Done]] * 25
    for story in stories.values():
        # Of an escalation it is known when it was heard of.
        times = [event.at for event in story if not isinstance(event, Escalated)]
        assert times == sorted(times)
    for number in range(20):
        exited = stories[number][1]
        assert isinstance(exited, Exited)
        assert exited.status is manager.wait(number)
    assert not any(isinstance(event, (OrphanReaped, Unkillable)) for event in events)


def test_the_log_has_levels_and_no_secrets(
    programs: Programs, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Starts and ends at INFO, escalations at WARNING; neither arguments nor environment at any level."""
    monkeypatch.setenv("A_SECRET", "sesame")
    with caplog.at_level(logging.DEBUG, "fastproc"), ProcessManager() as manager:
        manager.start_process("plain", [*programs.exits_with(3), "sesame"], env={"KEY": "sesame"}).wait(10)
        with pytest.raises(fastproc.SpawnError):
            manager.start_process("missing", ["/no/such/sesame", "sesame"])
        stubborn = manager.start_process("stubborn", [*programs.ignores_sigterm(), "sesame"], stdout=PIPE)
        first_line(stubborn)
        stubborn.terminate(0.1)

    logged = [(record.levelname, record.message.split(":")[0]) for record in caplog.records]
    assert all(record.name.startswith("fastproc") for record in caplog.records)
    assert ("INFO", "task 'plain' started") in logged
    assert ("INFO", "task 'plain' ended") in logged
    assert ("INFO", "task 'missing' could not be started") in logged
    assert ("WARNING", "task 'stubborn' did not end within its grace") in logged
    assert "code 3" in caplog.text
    assert "signal 9" in caplog.text
    assert "sesame" not in caplog.text


def test_without_a_listener_nothing_is_logged_below_warning(
    manager: ProcessManager, programs: Programs, caplog: pytest.LogCaptureFixture
) -> None:
    """The level of the logger decides, also when it changes while the manager lives."""
    log = logging.getLogger("fastproc")
    manager.start_process("quiet", programs.nop()).wait(10)
    with caplog.at_level(logging.INFO, "fastproc"):
        manager.start_process("loud", programs.nop()).wait(10)
        assert eventually(lambda: "task 'loud' ended" in caplog.text, 10)
    assert not log.isEnabledFor(logging.INFO)
    manager.close()

    assert "quiet" not in caplog.text
    assert "task 'loud' started" in caplog.text


def test_a_token_may_be_cancelled_by_a_callback(manager: ProcessManager, programs: Programs) -> None:
    """The end of one task stops the others of its token."""
    token = CancelToken()
    others = [
        manager.start_process(number, programs.ready_then_sleep(), cancel=token, stdout=PIPE)
        for number in range(5)
    ]
    manager.start_process("first", programs.exits_with(1, after=0.1), on_exit=lambda _process: token.cancel())

    assert {process.wait(10).reason for process in others} == {fastproc.ExitReason.CANCELLED}
