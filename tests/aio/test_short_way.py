"""Starts of which nothing is said but their arguments: the short way does what the long one does."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.aio.conftest import Run
from tests.programs import Programs

from fastproc import aio
from fastproc._engine.flight import Flight
from fastproc._engine.loopfeed import LoopFeed

# One string may have 128 KiB, see execve(2).
TOO_LONG = "x" * 200_000


def is_alive(pid: int) -> bool:
    """Whether it runs; what nobody reaps does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


async def told(start: Any) -> int | None:
    """A returncode, or the errno of what went wrong, negative."""
    try:
        started = await start
        if isinstance(started, aio.Process):
            return await started.wait()
        returncode: int | None = started.returncode
        return returncode
    except OSError as error:
        return -(error.errno or 0)


@pytest.mark.parametrize("name", ["create_subprocess_exec", "run"])
def test_one_bad_start_of_a_turn_does_not_spoil_the_others(run: Run, programs: Programs, name: str) -> None:
    """All are handed over in one call; the long way tells which of them is wrong, and starts the others."""
    good = programs.exits_with(7)

    def start(*args: Any) -> Any:
        return aio.run(list(args)) if name == "run" else aio.create_subprocess_exec(*args)

    async def main() -> list[int | None]:
        return await asyncio.gather(
            told(start(*good)),
            told(start("/bin/true", TOO_LONG)),
            told(start("/no/such/program")),
            told(start(*[word.encode() for word in good])),
            told(start(Path("/bin/true"))),
            told(start(*good)),
        )

    answers = run(main())

    assert answers == [7, -errno.E2BIG, -errno.ENOENT, 7, 0, 7]


@pytest.mark.parametrize("options", [{}, {"stdout": aio.PIPE}])
def test_what_keeps_starts_from_being_handed_over_is_raised(
    run: Run, programs: Programs, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    """To each who wanted one, and nobody waits for ever."""

    def hand_over(_feed: LoopFeed, _flights: list[Flight]) -> None:
        raise MemoryError("no room")

    async def main() -> None:
        with monkeypatch.context() as patched:
            patched.setattr(LoopFeed, "_hand_over", hand_over)
            starts = (aio.run(["true"], **options), aio.create_subprocess_exec("true", **options))
            answers = await asyncio.gather(*starts, return_exceptions=True)
        assert [type(answer) for answer in answers] == [MemoryError, MemoryError]
        assert (await aio.run(["true"], **options)).returncode == 0

    run(main())


@pytest.mark.parametrize("args", [[], [""], ["a\0b"], ["true", 3], ["true", None]])
def test_what_is_wrong_is_found_before_anything_is_started(run: Run, args: list[Any]) -> None:
    """By run() as by create_subprocess_exec(), as in the standard library."""

    async def main() -> None:
        with pytest.raises((TypeError, ValueError, IndexError, PermissionError)) as expected:
            subprocess.run(args, check=False)
        with pytest.raises(expected.type):
            await aio.run(args)
        if args:
            with pytest.raises(expected.type):
                await aio.create_subprocess_exec(*args)

    run(main())


def test_standard_input_and_leftovers_are_as_the_long_way_has_them(
    run: Run, programs: Programs, tmp_path: Path
) -> None:
    """Input is inherited, and what it leaves runs on until the loop ends."""
    (tmp_path / "input").write_text("from us\n")
    script = f'read line; echo "$line" > {tmp_path}/short; sleep 60 & echo $! > {tmp_path}/left'
    saved = os.dup(0)
    fd = os.open(tmp_path / "input", os.O_RDONLY)

    async def main() -> int:
        assert (await aio.run(["sh", "-c", script])).returncode == 0
        left = int((tmp_path / "left").read_text())
        await asyncio.sleep(0.2)
        assert is_alive(left)
        return left

    try:
        os.dup2(fd, 0)
        left = run(main())
    finally:
        os.dup2(saved, 0)
        os.close(saved)
        os.close(fd)
    assert (tmp_path / "short").read_text() == "from us\n"
    assert not is_alive(left)


def test_a_run_that_is_cancelled_in_the_turn_of_its_start_leaves_nobody(run: Run, programs: Programs) -> None:
    """Before it is handed over, and right after."""

    async def main() -> None:
        for turns in range(6):
            running = [asyncio.create_task(aio.run(programs.ready_then_sleep())) for _ in range(3)]
            for _ in range(turns):
                await asyncio.sleep(0)
            for one in running:
                one.cancel()
            ended = await asyncio.gather(*running, return_exceptions=True)
            assert all(isinstance(one, asyncio.CancelledError) for one in ended)
            assert programs.running() == []

    run(main())


def test_two_loops_of_one_thread_do_not_get_the_mail_of_each_other(programs: Programs) -> None:
    """The mail that was asked for last is remembered for a thread, not for a loop."""
    with asyncio.Runner() as one, asyncio.Runner() as other:
        for _ in range(3):
            for runner in (one, other):
                assert runner.run(told(aio.create_subprocess_exec(*programs.exits_with(3)))) == 3
    with asyncio.Runner() as later:
        assert later.run(told(aio.run(programs.exits_with(4)))) == 4


def test_who_is_woken_starts_the_next_in_the_same_turn(programs: Programs) -> None:
    """One turn for the news, one for those who are woken and for what they start; none in between."""
    turns = 0
    loop = asyncio.new_event_loop()
    select = loop._selector.select  # type: ignore[attr-defined]

    def counted(timeout: float | None) -> Any:
        nonlocal turns
        turns += 1
        return select(timeout)

    async def main() -> int:
        await aio.run(programs.nop())
        begun = turns
        for _ in range(100):
            await aio.run(programs.nop())
        return turns - begun

    loop._selector.select = counted  # type: ignore[attr-defined]
    try:
        taken = loop.run_until_complete(main())
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()

    assert taken < 250
