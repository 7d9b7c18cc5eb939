"""The faces of the manager: called directly, from other threads, and in an event loop.

A case is written once. What it calls goes through `face`, which blocks, hands over to a thread, or awaits.
"""

from __future__ import annotations

import asyncio
import importlib.util
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from inspect import isawaitable
from typing import Any

import pytest

import fastproc
from fastproc import aio

SECONDS = 30


class Direct:
    """fastproc.ProcessManager, called by the test itself."""

    manager_class: Any = fastproc.ProcessManager

    def __call__(self, call: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """What the call returns or raises."""
        return call(*args, **options)

    def list(self, call: Callable[..., Any], *args: Any, **options: Any) -> list[Any]:
        """All that the iterator gives which the call returns."""
        return self(lambda: list(call(*args, **options)))

    def manager(self, **options: Any) -> AbstractContextManager[Any]:
        """A manager, in a block of its own."""
        return self.manager_class(**{"grace": 2.0, "kill_timeout": 2.0} | options)

    def close(self) -> None:
        """Nothing is to be closed."""


class InThreads(Direct):
    """The same, each call from another thread."""

    def __call__(self, call: Callable[..., Any], *args: Any, **options: Any) -> Any:
        results: list[Any] = []
        errors: list[BaseException] = []

        def work() -> None:
            try:
                results.append(call(*args, **options))
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join(SECONDS)
        assert not thread.is_alive(), f"{call} is still under way"
        if errors:
            raise errors[0]
        return results[0]


class InLoop(Direct):
    """fastproc.aio.ProcessManager, in a loop that turns while something is awaited."""

    manager_class = aio.ProcessManager

    def __init__(self, factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
        self._runner = asyncio.Runner(loop_factory=factory)

    def __call__(self, call: Callable[..., Any], *args: Any, **options: Any) -> Any:
        async def work() -> Any:
            async with asyncio.timeout(SECONDS):
                result = call(*args, **options)
                return await result if isawaitable(result) and call.__name__ not in PLAIN else result

        return self._runner.run(work())

    def list(self, call: Callable[..., Any], *args: Any, **options: Any) -> list[Any]:
        async def collect() -> list[Any]:
            iterator: AsyncIterator[Any] = call(*args, **options)
            return [item async for item in iterator]

        return self(collect)

    def manager(self, **options: Any) -> AbstractContextManager[Any]:
        return _Block(self, self.manager_class(**{"grace": 2.0, "kill_timeout": 2.0} | options))

    def close(self) -> None:
        self._runner.close()


# What returns a process, which can be awaited and is not meant to be.
PLAIN = {"get"}


class _Block:
    """``async with``, as a block."""

    def __init__(self, face: InLoop, manager: aio.ProcessManager) -> None:
        self._face = face
        self._manager = manager

    def __enter__(self) -> aio.ProcessManager:
        return self._face(self._manager.__aenter__)  # type: ignore[no-any-return]

    def __exit__(self, *exception: object) -> None:
        self._face(self._manager.__aexit__, *exception)


@pytest.fixture(scope="session", autouse=True)
def _first_loop(_engine: None) -> None:
    """What is made once for all loops is made before the first test counts descriptors."""
    asyncio.run(aio.run(["true"]))
    if importlib.util.find_spec("uvloop") is not None:
        import uvloop

        uvloop.run(asyncio.sleep(0))


@pytest.fixture(params=["direct", "threads", "asyncio", "uvloop"])
def face(request: pytest.FixtureRequest) -> Iterator[Direct]:
    """One after the other."""
    made: Direct
    match request.param:
        case "direct":
            made = Direct()
        case "threads":
            made = InThreads()
        case "asyncio":
            made = InLoop(asyncio.new_event_loop)
        case _:
            if importlib.util.find_spec("uvloop") is None:
                pytest.skip("uvloop is not installed: pip install fastproc[test]")
            import uvloop

            made = InLoop(uvloop.new_event_loop)
    yield made
    made.close()


@pytest.fixture
def manager(face: Direct) -> Iterator[Any]:
    """A manager that is closed after the test."""
    with ExitStack() as stack:
        yield stack.enter_context(face.manager())
