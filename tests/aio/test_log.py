"""What the log hears of processes that have no name."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

import pytest
from tests.aio.conftest import Run, line_of
from tests.programs import Programs

import fastproc
from fastproc import aio

PATIENCE = 20.0


def eventually(true: Callable[[], bool]) -> bool:
    """Whether it becomes true: the log is written in another thread."""
    until = time.monotonic() + PATIENCE
    while not true() and time.monotonic() < until:
        time.sleep(0.01)
    return true()


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """What we have logged until now, with its level; asyncio's debug mode has a log too."""
    ours = [record for record in list(caplog.records) if record.name == "fastproc"]
    return [(record.levelname, record.getMessage()) for record in ours]


def test_starts_and_ends_are_logged_with_their_pid(
    run: Run, programs: Programs, caplog: pytest.LogCaptureFixture
) -> None:
    """In this order, at INFO, the end with its code; by run() as well."""

    async def main() -> int:
        process = await aio.create_subprocess_exec(*programs.exits_with(3))
        await process.wait()
        await aio.run(programs.exits_with(4))
        await aio.run(["true"], stdout=aio.PIPE)
        return process.pid

    with caplog.at_level(logging.INFO, "fastproc"):
        pid = run(main())
        assert eventually(lambda: caplog.text.count("process ended") == 3)

    said = [message for level, message in lines(caplog) if level == "INFO"]
    of_the_first = [message for message in said if f"pid {pid}" in message]
    assert [message.partition(",")[0] for message in of_the_first] == [
        f"process started: pid {pid}",
        f"process ended: pid {pid}",
    ]
    assert "code 3" in of_the_first[1]
    assert caplog.text.count("process started") == 3
    assert "code 4" in caplog.text


def test_a_start_is_logged_when_it_happens(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """Also that of a run(), which nobody else waits for."""

    async def main() -> bool:
        running = asyncio.create_task(aio.run(["sleep", "60"]))
        told = await asyncio.to_thread(eventually, lambda: "process started" in caplog.text)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return told

    with caplog.at_level(logging.INFO, "fastproc"):
        assert run(main())


def test_failed_starts_are_logged(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """Those that the crew finds out about, and those that are refused before."""

    async def main() -> None:
        with pytest.raises(FileNotFoundError):
            await aio.create_subprocess_exec("/no/such/program")
        token = fastproc.CancelToken()
        token.cancel()
        with pytest.raises(fastproc.SpawnError):
            await aio.create_subprocess_exec("true", cancel=token)

    with caplog.at_level(logging.INFO, "fastproc"):
        run(main())
        assert eventually(lambda: caplog.text.count("process could not be started") == 2)


def test_an_escalation_is_a_warning_whatever_the_level(
    run: Run, programs: Programs, caplog: pytest.LogCaptureFixture
) -> None:
    """Once, and no arguments with it."""

    async def main() -> int:
        process = await aio.create_subprocess_exec(
            *programs.ignores_sigterm(), "sesame", stdout=aio.PIPE, grace=0.1
        )
        await line_of(process)
        await process.stop()
        return process.pid

    assert not logging.getLogger("fastproc").isEnabledFor(logging.INFO)
    pid = run(main())
    assert eventually(lambda: "SIGKILL sent" in caplog.text)
    time.sleep(0.05)

    said = f"process did not end within its grace: pid {pid}, SIGKILL sent"
    assert lines(caplog) == [("WARNING", said)]


def test_without_a_listener_nothing_is_said(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """And one that ends while somebody listens is told from its start on."""

    async def main() -> None:
        await aio.run(["true"])
        sleeper = await aio.create_subprocess_exec("sleep", "60")
        with caplog.at_level(logging.INFO, "fastproc"):
            await sleeper.stop()
            await asyncio.to_thread(eventually, lambda: "process ended" in caplog.text)

    run(main())

    assert [message.partition(":")[0] for _level, message in lines(caplog)] == [
        "process started",
        "process ended",
    ]


def test_a_log_that_blocks_does_not_hold_the_loop(run: Run) -> None:
    """It is written in the thread that tells observers."""
    log = logging.getLogger("fastproc")

    class Slow(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            time.sleep(0.5)

    async def main() -> float:
        begun = time.monotonic()
        for _ in range(4):
            await aio.run(["true"])
        return time.monotonic() - begun

    handler, level = Slow(), log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        taken = run(main())
    finally:
        log.removeHandler(handler)
        log.setLevel(level)

    # Eight lines are four seconds.
    assert taken < 3
