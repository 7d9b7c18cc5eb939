"""wait_all, as_completed, get and await: each end is heard once, by whoever asks."""

from __future__ import annotations

import asyncio
import resource
import signal
import subprocess
import sys
import threading

import pytest
from tests.programs import Programs
from tests.watch import in_threads

import fastproc
from fastproc import NotActive, Process, ProcessManager, WaitTimeout
from fastproc._native.mailbox import Mailbox
from fastproc._native.records import NewsRecord


def test_what_one_has_waited_for_is_not_waited_for_again(programs: Programs) -> None:
    """Also when the thread that tells of events has heard of the end at the same moment."""
    events = []
    with ProcessManager(on_event=events.append, grace=1) as manager:
        for number in range(100):
            process = manager.start_process(number, programs.nop())
            assert process.wait(10).ok
            sleeper = manager.start_process("sleeper", programs.ready_then_sleep(), stdout=fastproc.PIPE)
            assert sleeper.terminate().stopped
            assert manager.wait_all() == []
    assert len(events) == 6 * 100


def test_wait_all_is_in_the_order_of_the_starts(manager: ProcessManager, programs: Programs) -> None:
    """The slow one that was started first comes first, whoever has ended before."""
    manager.start_process("slow", programs.exits_with(1, after=0.2))
    for number in range(2, 12):
        manager.start_process(number, programs.exits_with(number))

    assert [status.code for status in manager.wait_all(10)] == list(range(1, 12))
    assert manager.wait_all() == []


def test_wait_all_keeps_its_limit_of_time(manager: ProcessManager, programs: Programs) -> None:
    """It names who is late, does nothing to him, and may be called again."""
    manager.start_process("done", programs.exits_with(1))
    sleeper = manager.start_process("sleeper", programs.ready_then_sleep(), stdout=fastproc.PIPE)

    with pytest.raises(WaitTimeout, match="sleeper"):
        manager.wait_all(0.1)

    assert sleeper.poll() is None
    assert sleeper.terminate().stopped


def test_as_completed_yields_each_when_it_is_done(manager: ProcessManager, programs: Programs) -> None:
    """Those that ended unheard before it was called are among them; later starts are not."""
    manager.start_process("slow", programs.exits_with(1, after=0.4))
    manager.start_process("unheard", programs.exits_with(2))
    manager.start_process("heard", programs.exits_with(3)).wait(10)
    found = manager.as_completed(20)
    manager.start_process("later", programs.exits_with(4)).wait(10)

    processes = list(found)

    assert [process.task_id for process in processes] == ["unheard", "slow"]
    assert [process.status.code for process in processes if process.status] == [2, 1]
    assert list(manager.as_completed(0)) == []


def test_as_completed_may_be_left_early(manager: ProcessManager, programs: Programs) -> None:
    """The others run on as if nobody had asked."""
    manager.start_process("quick", programs.nop())
    others = [
        manager.start_process(number, programs.ready_then_sleep(), stdout=fastproc.PIPE)
        for number in range(5)
    ]

    assert next(manager.as_completed(10)).task_id == "quick"

    assert [process.poll() for process in others] == [None] * 5
    assert manager.terminate_all()


def test_a_name_means_the_last_one_that_bore_it(manager: ProcessManager, programs: Programs) -> None:
    """get() and wait() find what has ended, until the name is used again."""
    for code in (3, 4):
        process = manager.start_process("again", programs.exits_with(code))
        assert manager.get("again") is process
        assert manager.wait("again", 10).code == code
        assert manager.get("again") is process
        assert manager.wait("again").code == code
        assert not manager.is_active("again")
    with pytest.raises(NotActive, match="nobody"):
        manager.wait("nobody")
    with pytest.raises(NotActive):
        manager.tree("again")
    with pytest.raises(NotActive):
        manager.terminate_process("again")


def test_a_wait_of_no_time_asks_once(manager: ProcessManager, programs: Programs) -> None:
    """wait(0) and poll() agree; a negative time, what is left of one that is over, is no time."""
    process = manager.start_process("sleeper", programs.ready_then_sleep(), stdout=fastproc.PIPE)
    for timeout in (0, 0.0, -1, -0.5):
        with pytest.raises(WaitTimeout):
            process.wait(timeout)
    assert process.poll() is None
    assert process.kill()
    assert process.wait(10).signal == 9
    assert process.wait(0) is process.poll()


def test_many_await_one_and_one_awaits_many(manager: ProcessManager, programs: Programs) -> None:
    """In one loop and in loops of several threads at once, all get the same status."""
    process = manager.start_process("slow", programs.exits_with(9, after=0.3))
    quick = [manager.start_process(number, programs.exits_with(number)) for number in range(20)]

    async def wait_for_it() -> fastproc.ExitStatus:
        statuses = await asyncio.gather(*(_end_of(process) for _ in range(10)))
        assert len({id(status) for status in statuses}) == 1
        assert [status.code for status in await asyncio.gather(*map(_end_of, quick))] == list(range(20))
        return statuses[0]

    statuses = in_threads(*[lambda: asyncio.run(wait_for_it())] * 3)

    assert [status.code for status in statuses] == [9] * 3
    assert all(status is process.wait() for status in statuses)


def test_an_await_that_is_cancelled_leaves_the_process_alone(
    manager: ProcessManager, programs: Programs
) -> None:
    """The waiter is forgotten, the process goes on, and one may await it again."""
    process = manager.start_process("slow", programs.ready_then_sleep(), stdout=fastproc.PIPE)

    async def story() -> None:
        task = asyncio.ensure_future(_end_of(process))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(_end_of(process), 0.05)
        assert process.poll() is None
        process.kill()
        assert (await process).signal == 9

    asyncio.run(story())
    assert not process._callbacks


def test_a_loop_that_is_closed_before_the_end_is_no_trouble(
    manager: ProcessManager, programs: Programs, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever awaited there is gone with it; the end is entered all the same."""
    process = manager.start_process("slow", programs.exits_with(3, after=0.3))
    loop = asyncio.new_event_loop()
    task = loop.create_task(_end_of(process))
    with pytest.raises(TimeoutError):
        loop.run_until_complete(asyncio.wait_for(asyncio.shield(task), 0.05))
    task.cancel()
    loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
    loop.close()

    assert process.wait(10).code == 3
    manager.close()
    assert caplog.records == []


def test_an_event_loop_is_not_held_while_it_awaits(manager: ProcessManager, programs: Programs) -> None:
    """Other tasks of the loop run on; the end comes in by itself."""
    process = manager.start_process("slow", programs.exits_with(0, after=0.3))

    async def story() -> int:
        ticks = 0
        waiting = asyncio.ensure_future(_end_of(process))
        while not waiting.done():
            ticks += 1
            await asyncio.sleep(0.01)
        return ticks

    assert asyncio.run(story()) > 5
    assert not [thread for thread in threading.enumerate() if "asyncio" in thread.name]


async def _end_of(process: Process) -> fastproc.ExitStatus:
    return await process


# ---- many ----


def test_who_waits_for_many_is_not_woken_for_each(manager: ProcessManager, programs: Programs) -> None:
    """The end of a child that a supervisor has made sends SIGCHLD to nobody who has no use for it."""
    nop = programs.nop()
    manager.start_process("first", nop).wait(10)
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
    started = manager.start_many([(number, nop) for number in range(300)])
    woken = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw - before

    assert all(isinstance(process, Process) and process.wait(30).ok for process in started)
    assert woken < 100
    assert signal.SIGCHLD not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_map_reads_news_when_it_would_be_woken_for_them(
    manager: ProcessManager, programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each read takes a CPU from the starts, so it is patient, and never only looks whether there are any."""
    patient: list[bool] = []
    take = Mailbox.take

    def noted(mailbox: Mailbox, timeout_ns: int, **how: bool) -> list[NewsRecord] | None:
        patient.append(timeout_ns != 0 and how.get("patient", False))
        return take(mailbox, timeout_ns, **how)

    monkeypatch.setattr(Mailbox, "take", noted)
    ended = sum(process.wait().ok for process in manager.map([programs.nop()] * 300, concurrency=4))

    assert ended == 300
    assert patient.count(False) < 10


_HANDLED = """
import signal, threading, time
import fastproc

heard = threading.Event()
manager = fastproc.ProcessManager()

def end_one_of_another_manager():
    # The kernel may choose any thread that does not block it.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    # What is to be ended at last has to be there.
    while not manager.active_count():
        time.sleep(0.001)
    with fastproc.ProcessManager() as other:
        other.start_many([("nop", NOP)])
        print(heard.wait(20))
    manager.terminate_all(5)

signal.signal(signal.SIGCHLD, lambda *_: heard.set())
threading.Thread(target=end_one_of_another_manager).start()
print(len(list(manager.map([["sleep", "60.0982"]]))))
"""


def test_a_handler_of_the_host_hears_while_it_waits_for_others(programs: Programs) -> None:
    """What is held back is only what nobody handles."""
    script = f"NOP = {programs.nop()!r}\n{_HANDLED}"
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )

    assert (ran.stdout, ran.stderr) == ("True\n1\n", "")


def test_an_end_is_heard_while_the_next_one_runs_on(manager: ProcessManager, programs: Programs) -> None:
    """News are kept for others to join them, for some milliseconds and not until those have ended."""
    nop = programs.nop()
    ended = manager.map([nop, nop, nop, ["sleep", "60.0981"], nop], concurrency=1)
    first = in_threads(lambda: [next(ended) for _ in range(3)])

    assert [process.wait(10).ok for process in first[0]] == [True] * 3
    ended.close()  # type: ignore[attr-defined]
    assert manager.active_count() == 0
