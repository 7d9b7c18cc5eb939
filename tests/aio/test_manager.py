"""aio.ProcessManager, as far as a loop makes a difference; all else is in tests/contract."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import threading

import pytest
from tests.aio.conftest import Run
from tests.conftest import eventually
from tests.programs import Programs

import fastproc
from fastproc import aio
from fastproc.errors import ManagerClosed, SpawnError
from fastproc.events import Event
from fastproc.status import ExitReason, StopResult


async def cancelled_in(task: asyncio.Task[object], seconds: float = 0.05) -> None:
    """Cancel it, once it waits."""
    await asyncio.sleep(seconds)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("verb", ["wait", "await", "manager.wait"])
def test_whoever_is_cancelled_while_waiting_takes_his_process_with_him(
    run: Run, programs: Programs, verb: str
) -> None:
    """And no other one."""

    async def main() -> None:
        async with aio.ProcessManager() as manager:
            process = await manager.start_process("mine", programs.ready_then_sleep())
            other = await manager.start_process("other", programs.ready_then_sleep())

            async def wait() -> object:
                match verb:
                    case "wait":
                        return await process.wait()
                    case "await":
                        return await process
                    case _:
                        return await manager.wait("mine")

            await cancelled_in(asyncio.create_task(wait()))
            assert process.status is not None
            assert process.status.reason is ExitReason.CANCELLED
            assert not manager.is_active("mine")
            assert other.running

    run(main())


@pytest.mark.parametrize("verb", ["wait_all", "as_completed"])
def test_waiting_for_all_and_being_cancelled_ends_all(run: Run, programs: Programs, verb: str) -> None:
    """At once, not one after the other."""

    async def main() -> None:
        async with aio.ProcessManager() as manager:
            for number in range(5):
                await manager.start_process(number, programs.cleans_up(1), stdout=aio.PIPE)

            async def wait() -> object:
                if verb == "wait_all":
                    return await manager.wait_all()
                return [process async for process in manager.as_completed()]

            begun = asyncio.get_running_loop().time()
            await cancelled_in(asyncio.create_task(wait()), 0.2)
            # One after the other they would take five seconds.
            assert asyncio.get_running_loop().time() - begun < 3.5
            assert manager.active_count() == 0

    run(main())


@pytest.mark.parametrize("verb", ["terminate_process", "terminate_all", "close", "terminate"])
def test_an_end_that_is_cancelled_is_brought_to_its_end(run: Run, programs: Programs, verb: str) -> None:
    """The cancellation is raised after that."""

    async def main() -> None:
        async with aio.ProcessManager() as manager:
            process = await manager.start_process("x", programs.cleans_up(0.3, 3), stdout=aio.PIPE)
            async with process.lines() as lines:
                await anext(lines)

            async def end() -> object:
                match verb:
                    case "terminate":
                        return await process.terminate()
                    case "terminate_process":
                        return await manager.terminate_process("x")
                    case "close":
                        return await manager.close()
                    case _:
                        return await manager.terminate_all()

            await cancelled_in(asyncio.create_task(end()))
            assert process.returncode == 3
            assert not manager.is_active("x")

    run(main())


def test_terminate_begins_at_once_and_may_be_awaited(run: Run, programs: Programs) -> None:
    """Whoever forgets the await does not forget the end."""

    async def main() -> None:
        async with aio.ProcessManager() as manager:
            process = await manager.start_process("x", programs.ready_then_sleep())
            process.terminate()
            assert (await process.wait()).reason is ExitReason.TERMINATED
            process = await manager.start_process("y", programs.ready_then_sleep())
            result = await process.terminate(1)
            assert isinstance(result, StopResult)
            assert result.stopped

    run(main())


def test_what_waits_for_its_start_is_taken_back_when_all_are_stopped(run: Run, programs: Programs) -> None:
    """Its start raises a SpawnError that says so."""

    async def main() -> None:
        async with aio.ProcessManager() as manager:
            starts = [
                asyncio.create_task(manager.start_process(n, programs.ready_then_sleep())) for n in range(50)
            ]
            await asyncio.sleep(0)
            await manager.terminate_all(1)
            ended = await asyncio.gather(*starts, return_exceptions=True)
            assert all(isinstance(one, (SpawnError, aio.ManagedProcess)) for one in ended)
            assert any(isinstance(one, SpawnError) for one in ended)
            await manager.terminate_all(1)
            assert programs.running() == []

    run(main())


def test_the_name_of_a_start_that_was_called_off_is_free(run: Run, programs: Programs) -> None:
    """In the same turn, or later."""

    async def main() -> None:
        async with aio.ProcessManager() as manager:
            for turns in range(6):
                start = asyncio.create_task(manager.start_process("x", programs.ready_then_sleep()))
                for _ in range(turns):
                    await asyncio.sleep(0)
                start.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await (await start).terminate()
                assert not manager.is_active("x")
            many = asyncio.create_task(
                manager.start_many((n, programs.ready_then_sleep()) for n in range(50))
            )
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            many.cancel()
            with pytest.raises(asyncio.CancelledError):
                await many
            assert manager.active_count() == 0

    run(main())


def test_leaving_a_map_early_stops_what_runs(run: Run, programs: Programs) -> None:
    """With aclosing() that is done when the block is left."""

    async def main() -> None:
        async with aio.ProcessManager() as manager:
            taken = 0

            def commands() -> object:
                nonlocal taken
                yield programs.nop()
                while True:
                    taken += 1
                    yield programs.ready_then_sleep()

            mapped = manager.map(commands(), concurrency=3)  # type: ignore[arg-type]
            async with contextlib.aclosing(mapped) as ended:  # type: ignore[type-var]
                async for process in ended:
                    assert process.returncode == 0
                    break
            assert programs.running() == []
            assert manager.active_count() == 0
            assert taken < 1000

    run(main())


def test_a_map_that_is_cancelled_stops_what_runs(run: Run, programs: Programs) -> None:
    """Before that is raised."""

    async def main() -> None:
        async with aio.ProcessManager() as manager:

            async def collect() -> list[object]:
                return [p async for p in manager.map([programs.ready_then_sleep()] * 10, concurrency=5)]

            task = asyncio.create_task(collect())
            while manager.active_count() < 5:
                await asyncio.sleep(0.01)
            await cancelled_in(task, 0)
            assert programs.running() == []

    run(main())


def test_all_that_is_mapped_ends_with_terminate_all(run: Run, programs: Programs) -> None:
    """What is left is given back, and nothing more is taken."""

    async def main() -> None:
        async with aio.ProcessManager() as manager:

            async def collect() -> list[aio.ManagedProcess]:
                return [p async for p in manager.map([programs.ready_then_sleep()] * 300, concurrency=5)]

            task = asyncio.create_task(collect())
            while manager.active_count() < 5:
                await asyncio.sleep(0.01)
            assert await manager.terminate_all(5)
            ended = await task
            assert {process.returncode for process in ended if process.error is None} == {-signal.SIGTERM}

    run(main())


def test_a_process_of_a_map_can_be_waited_for_by_others(run: Run, programs: Programs) -> None:
    """Its news come to the map, and are handed on."""

    async def main() -> None:
        async with aio.ProcessManager() as manager:
            task = asyncio.create_task(_all(manager.map([programs.exits_with(4, 0.3)])))
            while not manager.active():
                await asyncio.sleep(0.01)
            (process,) = manager.active()
            assert (await process.wait(20)).code == 4
            assert (await manager.wait(process.task_id)).code == 4
            assert [one.returncode for one in await task] == [4]

    run(main())


async def _all(iterator: object) -> list[aio.ManagedProcess]:
    return [item async for item in iterator]  # type: ignore[attr-defined]


def test_it_belongs_to_one_loop(programs: Programs) -> None:
    """Unless that is gone; after the close to none."""
    manager = aio.ProcessManager()
    first = asyncio.new_event_loop()

    async def start(name: str) -> aio.ManagedProcess:
        return await manager.start_process(name, programs.exits_with(0))

    first.run_until_complete(start("a"))
    with pytest.raises(RuntimeError, match="another event loop"):
        asyncio.run(start("b"))
    first.close()

    async def again() -> None:
        assert (await (await start("c")).wait()).ok
        await manager.close()
        with pytest.raises(ManagerClosed):
            await start("d")

    asyncio.run(again())


def test_its_plain_methods_may_be_called_from_other_threads(run: Run, programs: Programs) -> None:
    """They do not disturb the loop, which hears all the same."""

    async def main() -> None:
        async with aio.ProcessManager() as manager:
            over = threading.Event()

            def ask() -> None:
                while not over.is_set():
                    manager.active_count()
                    manager.is_active(3)
                    manager.metrics()

            asking = asyncio.create_task(asyncio.to_thread(ask))
            try:
                for number in range(200):
                    process = await manager.start_process(number, programs.exits_with(number % 100))
                    assert (await process.wait(20)).code == number % 100
            finally:
                over.set()
                await asking

    run(main())


def test_observers_are_called_in_the_loop(run: Run, programs: Programs) -> None:
    """All events, in order, all before the close is over."""
    heard: list[tuple[str, int]] = []

    def observe(event: Event) -> None:
        heard.append((type(event).__name__, threading.get_ident()))

    async def main() -> None:
        async with aio.ProcessManager(on_event=observe) as manager:
            await (await manager.start_process("x", programs.nop())).wait()

    run(main())
    assert [name for name, _thread in heard] == ["Started", "Exited", "Done"]
    assert {thread for _name, thread in heard} == {threading.get_ident()}


def test_what_is_forgotten_idle_is_gone_and_what_is_forgotten_busy_warns(programs: Programs) -> None:
    """As with the manager that blocks; the loop ends what runs."""

    async def main() -> None:
        manager = aio.ProcessManager()
        await (await manager.start_process("x", programs.nop())).wait()
        while manager.active_count():
            await asyncio.sleep(0.01)
        roster = manager._roster
        del manager
        gc.collect()
        assert roster.closed
        manager = aio.ProcessManager()
        await manager.start_process("x", programs.ready_then_sleep(), stdout=aio.DEVNULL)
        with pytest.warns(ResourceWarning, match="forgotten with 1 active"):  # noqa: PT031 - it goes here
            del manager
            gc.collect()

    asyncio.run(main())
    assert eventually(lambda: programs.running() == [])


def test_lines_of_two_streams_are_followed_at_once(run: Run) -> None:
    """Each by its own task, and more than is kept."""
    count = 20_000

    async def main() -> None:
        async with aio.ProcessManager() as manager:
            script = f"seq {count} & seq {count} >&2; wait"
            process = await manager.start_process(
                "x", ["sh", "-c", f"read _; {script}"], stdout=aio.PIPE, stderr=aio.PIPE, input=b"\n"
            )
            out, err = await asyncio.gather(_all(process.lines()), _all(process.lines("stderr")))
            assert out[-1] == err[-1] == str(count)  # type: ignore[comparison-overlap]

    run(main())


def test_a_time_limit_of_the_wait_leaves_the_process(run: Run, programs: Programs) -> None:
    """asyncio.timeout() does not: it cancels."""

    async def main() -> None:
        async with aio.ProcessManager() as manager:
            process = await manager.start_process("x", programs.ready_then_sleep())
            with pytest.raises(fastproc.WaitTimeout):
                await process.wait(0.01)
            assert process.running
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await process.wait()
            assert not process.running

    run(main())
