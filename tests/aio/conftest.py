"""Loops to run coroutines in."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from fastproc import aio

Run = Callable[[Coroutine[Any, Any, Any]], Any]
PATIENCE = 50.0


@pytest.fixture(scope="session", autouse=True)
def _first_loop(_engine: None) -> None:
    """What is made once for all loops is made before the first test counts descriptors."""
    asyncio.run(aio.run(["true"]))
    if importlib.util.find_spec("uvloop") is not None:
        import uvloop

        # libuv has a pipe of its own for signals.
        uvloop.run(asyncio.sleep(0))


@pytest.fixture(params=["asyncio", "debug", "uvloop"])
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    """Runs a coroutine in a loop of its own, as asyncio.run() does, for PATIENCE seconds at most."""
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    if request.param == "uvloop":
        if importlib.util.find_spec("uvloop") is None:
            pytest.skip("uvloop is not installed: pip install fastproc[test]")
        import uvloop

        factory = uvloop.new_event_loop

    def run_in_it(coroutine: Coroutine[Any, Any, Any]) -> Any:
        async def bounded() -> Any:
            async with asyncio.timeout(PATIENCE):
                return await coroutine

        with asyncio.Runner(debug=request.param == "debug", loop_factory=factory) as runner:
            return runner.run(bounded())

    yield run_in_it
    # What was forgotten speaks now or never.
    gc.collect()


async def line_of(process: aio.Process) -> str:
    """Its next line, without the newline."""
    assert process.stdout is not None
    return (await process.stdout.readline()).decode().rstrip("\n")
