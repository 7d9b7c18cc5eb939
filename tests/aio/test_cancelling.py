"""Whoever is cancelled while he waits for a process takes it with him: with grace, before that is raised."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest
from tests.aio.conftest import Run, line_of
from tests.programs import Programs
from tests.watch import can, is_alive, state_of

from fastproc import aio
from fastproc.status import ExitReason


@pytest.mark.parametrize("how", ["wait", "communicate", "wait with a time-out"])
def test_a_cancelled_wait_ends_the_process_before_it_raises(run: Run, programs: Programs, how: str) -> None:
    """It had its grace to clean up, and nothing of it is left."""

    async def main() -> None:
        process = await aio.create_subprocess_exec(*programs.cleans_up(0.2, 4), stdout=aio.PIPE)
        await line_of(process)
        ways = {
            "wait": process.wait,
            "communicate": process.communicate,
            "wait with a time-out": lambda: process.wait(timeout=20),
        }
        waiting = asyncio.create_task(ways[how]())  # type: ignore[operator]
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert process.returncode == 4
        assert process.status is not None
        assert process.status.reason is ExitReason.CANCELLED
        assert process._flight.over

    run(main())


def test_the_whole_group_is_ended(run: Run, programs: Programs) -> None:
    """With SIGKILL after the grace, as they all ignore SIGTERM."""

    async def main() -> None:
        process = await aio.create_subprocess_exec(
            *programs.forks_a_tree(2, 2, ignore=True), stdout=aio.PIPE, grace=0.1
        )
        while not (await line_of(process)).startswith("ready"):
            pass
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await process.wait()
        assert process.returncode == -signal.SIGKILL
        assert programs.running() == []

    run(main())


@pytest.mark.parametrize("times", [2, 10])
def test_to_be_cancelled_more_than_once_changes_nothing(run: Run, programs: Programs, times: int) -> None:
    """The grace is granted all the same, and one CancelledError comes out."""

    async def main() -> None:
        process = await aio.create_subprocess_exec(*programs.cleans_up(2), stdout=aio.PIPE)
        await line_of(process)
        waiting = asyncio.create_task(process.wait())
        await asyncio.sleep(0)
        waiting.cancel()
        assert await line_of(process) == "cleaning"
        for _ in range(times - 1):
            waiting.cancel()
            await asyncio.sleep(0.01)
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert process.returncode == 0
        assert waiting.cancelling() == times

    run(main())


def test_a_task_group_that_fails_takes_its_processes_with_it(run: Run, programs: Programs) -> None:
    """One task raises, the others are cancelled; when the group is left nothing runs."""

    async def main() -> None:
        async def one() -> None:
            process = await aio.create_subprocess_exec(*programs.ready_then_sleep())
            await process.wait()

        async def another() -> None:
            await aio.run(programs.ready_then_sleep(), capture_output=True)

        async def bad() -> None:
            while len(programs.running()) < 20:
                await asyncio.sleep(0.01)
            raise ZeroDivisionError

        with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012 - a block is what it is about
            async with asyncio.TaskGroup() as group:
                for _ in range(10):
                    group.create_task(one())
                    group.create_task(another())
                group.create_task(bad())
        assert caught.group_contains(ZeroDivisionError)
        assert programs.running() == []

    run(main())


def test_a_start_that_is_called_off_in_the_same_turn_never_happens(run: Run, tmp_path: Path) -> None:
    """It waits for the end of the turn, to be handed over with all others."""

    async def main() -> None:
        start = asyncio.create_task(aio.create_subprocess_exec("touch", tmp_path / "file"))
        await asyncio.sleep(0)
        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start
        assert await aio.run(["true"])
        assert not (tmp_path / "file").exists()

    run(main())


@pytest.mark.parametrize("turns", range(1, 5))
def test_a_start_that_is_called_off_leaves_nothing(run: Run, programs: Programs, turns: int) -> None:
    """Queued, being born, or born already: at whatever point that comes."""

    async def main() -> None:
        for _ in range(10):
            starts = [
                asyncio.create_task(
                    aio.create_subprocess_exec(*programs.ready_then_sleep(), stdin=aio.PIPE, stdout=aio.PIPE)
                )
                for _ in range(8)
            ]
            for _ in range(turns):
                await asyncio.sleep(0)
            for start in starts:
                start.cancel()
            ended = await asyncio.gather(*starts, return_exceptions=True)
            for one in ended:
                if isinstance(one, aio.Process):
                    await one.stop()
                else:
                    assert isinstance(one, asyncio.CancelledError)
            assert programs.running() == []

    run(main())


def test_thousands_that_are_cancelled_at_once_all_end(run: Run, programs: Programs) -> None:
    """One ladder each, in the engine; the loop has only to listen."""

    async def main() -> None:
        # A loop that debugs itself takes ten times as long for each, and so does a start that is a fork.
        is_slow = asyncio.get_running_loop().get_debug() or not (can("clone3") or can("clone"))
        count = 400 if is_slow else 2000

        async def one() -> None:
            await (await aio.create_subprocess_exec(*programs.ready_then_sleep(), stdout=aio.DEVNULL)).wait()

        tasks = [asyncio.create_task(one()) for _ in range(count)]
        # Looking for them costs more than all else here, and is not to hold them up.
        while len(programs.running()) < count:
            await asyncio.sleep(0.5)
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(one, asyncio.CancelledError) for one in ended)
        assert programs.running() == []

    run(main())


def test_shield_keeps_the_process(run: Run, programs: Programs) -> None:
    """The way to give up waiting without giving up the process."""

    async def main() -> None:
        async with await aio.create_subprocess_exec(*programs.ready_then_sleep()) as process:
            waiting = asyncio.ensure_future(process.wait())
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await asyncio.shield(waiting)
            assert process.returncode is None
        assert await waiting == -signal.SIGTERM

    run(main())


def test_a_cancelled_run_ends_the_program(run: Run, programs: Programs) -> None:
    """Five seconds of grace, though a time-out of run() kills at once."""

    async def main() -> None:
        running = asyncio.create_task(aio.run(programs.cleans_up(0.2), stdout=aio.PIPE, timeout=60))
        while not programs.running():
            await asyncio.sleep(0.01)
        (pid,) = programs.running()
        while state_of(pid) != "S":
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        running.cancel()
        begun = asyncio.get_running_loop().time()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert asyncio.get_running_loop().time() - begun > 0.15
        assert not is_alive(pid)

    run(main())


def test_leaving_a_block_while_being_cancelled_still_ends_all(run: Run, programs: Programs) -> None:
    """The cancellation comes while __aexit__ waits."""

    async def main() -> None:
        async def block() -> None:
            async with await aio.create_subprocess_exec(*programs.cleans_up(0.2), stdout=aio.PIPE) as process:
                await line_of(process)
                started.set_result(process)

        started: asyncio.Future[aio.Process] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(block())
        process = await started
        await line_of(process)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert process.returncode == 0

    run(main())


def test_a_stubborn_grandchild_does_not_hold_a_cancelled_wait_for_ever(run: Run, programs: Programs) -> None:
    """It has left the session and holds the pipe: where there is no cgroup it is not found."""

    async def main() -> None:
        process = await aio.create_subprocess_exec(
            *programs.daemonizes(keep=True, stay=True), stdout=aio.PIPE, grace=0.2, containment="session"
        )
        daemon = int((await line_of(process)).split()[1])
        begun = asyncio.get_running_loop().time()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await process.communicate()
        assert asyncio.get_running_loop().time() - begun < 10
        assert process.returncode == -signal.SIGTERM
        if is_alive(daemon):
            os.kill(daemon, signal.SIGKILL)

    run(main())
