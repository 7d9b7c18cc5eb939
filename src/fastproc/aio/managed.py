"""ManagedProcess: a process of a manager, as a coroutine sees it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from asyncio import CancelledError
from collections.abc import AsyncIterator, Callable, Generator
from functools import partial
from typing import Any, Self

from .._checks import callback, optional_seconds, time_left
from .._engine.flight import Flight, stop_shielded
from .._engine.lines import LineCutter
from .._engine.stopping import result_of, tell_to_end, verdict_seconds
from .._native.records import STATE_DONE, STATE_EXITED
from .._native.tap import Scratch, Tap
from ..command import Arg, Command
from ..errors import SpawnError, TaskId, WaitTimeout
from ..process import Process, Stream
from ..status import ExitStatus, StopResult


class ManagedProcess:
    """A started program. The twin of fastproc.Process: what would block is awaited.

    Made by aio.ProcessManager. Its plain methods may be called from any thread, the others in its loop.

    Attributes:
        task_id: what the manager calls it.
        command: what was asked for, with its `tags`.
        error: why it could not be started, for a process of map() that could not; else None.
    """

    __slots__ = ("__weakref__", "_flight", "_process", "_readers")

    def __init__(self, process: Process, flight: Flight | None) -> None:
        self._process = process
        # None for one of map(), and for one that was over before anybody asked for it here.
        self._flight = flight
        self._readers: list[Lines] = []

    # ---- what is known ----

    @property
    def task_id(self) -> TaskId:
        return self._process.task_id

    @property
    def command(self) -> Command:
        return self._process.command

    @property
    def error(self) -> SpawnError | None:
        return self._process.error

    @property
    def args(self) -> tuple[Arg, ...]:
        """The program and its arguments."""
        return self._process.args

    @property
    def pid(self) -> int:
        """Its process id, also when it has ended; 0 if it was never started."""
        return self._process.pid

    @property
    def started(self) -> float:
        """When it was started, on the monotonic clock."""
        return self._process.started

    @property
    def status(self) -> ExitStatus | None:
        """How it ended, as far as is known; None while it runs."""
        return self._process.status

    @property
    def returncode(self) -> int | None:
        """The exit code, or the signal as a negative number; None if not known (yet)."""
        return self._process.returncode

    @property
    def running(self) -> bool:
        """Whether the program itself has not ended."""
        return self._process.running

    @property
    def stdout_bytes(self) -> bytes:
        """What it has written to a captured standard output so far: the beginning and the end."""
        return self._process.stdout_bytes

    @property
    def stderr_bytes(self) -> bytes:
        """The same of standard error; with ``stderr=STDOUT`` it is in `stdout_bytes`."""
        return self._process.stderr_bytes

    @property
    def output_truncated(self) -> bool:
        """Whether something in the middle of a captured stream was dropped."""
        return self._process.output_truncated

    @property
    def output_complete(self) -> bool:
        """Whether each captured stream has come to its end: nobody can write to it any more."""
        return self._process.output_complete

    def __repr__(self) -> str:
        return repr(self._process).replace("<Process", "<ManagedProcess", 1)

    def __reduce__(self) -> str | tuple[Any, ...]:
        return self._process.__reduce__()

    # ---- its end ----

    async def wait(self, timeout: float | None = None) -> ExitStatus:
        """Wait until it has ended, and say how. Descendants and output may remain; they are looked after.

        To be cancelled here stops it, with grace; the cancellation is raised after that.

        Raises:
            WaitTimeout: it has not ended within `timeout` seconds. Nothing is done to it.
            SpawnError: it was never started (only a process of map()).
        """
        timeout = time_left("timeout", timeout)
        if self._process._status is None and self._process.error is None:
            try:
                ended = await self.until(STATE_EXITED, timeout)
            except CancelledError:
                await self.stop_shielded()
                raise
            if not ended and self._process.poll() is None:
                assert timeout is not None
                raise WaitTimeout(f"task {self.task_id!r}", timeout)
        # What is known is told without blocking, and counts as heard.
        return self._process.wait()

    def __await__(self) -> Generator[Any, None, ExitStatus]:
        """The same as wait()."""
        return self.wait().__await__()

    def poll(self) -> ExitStatus | None:
        """Ask the kernel, without blocking: how it ended, or None while it runs."""
        return self._process.poll()

    def add_done_callback(self, fn: Callable[[ManagedProcess], object]) -> None:
        """Have `fn` called in the loop with this process once nothing of it is left."""
        self.when_over(partial(callback("fn", fn), self))

    async def until(self, state: int, seconds: float | None = None) -> bool:
        """Wait until it is in `state`, EXITED or DONE, for so many seconds at most; whether it is."""
        if self._flight is not None:
            return await self._flight.until(state, seconds)
        loop = asyncio.get_running_loop()
        reached = loop.create_future()

        def tell(_process: Process) -> None:
            # RuntimeError: the loop has been closed meanwhile, nobody waits any more.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_resolve, reached)

        roster = self._process._roster
        roster.add_callback(self._process, state, tell)
        try:
            async with asyncio.timeout(seconds):
                await reached
        except TimeoutError:
            return False
        finally:
            roster.remove_callback(self._process, tell)
        return True

    def when_over(self, call: Callable[[], object]) -> None:
        """Have `call` called in the loop once nothing of it is left."""
        flight = self._flight
        if flight is None:
            tell = partial(asyncio.get_running_loop().call_soon_threadsafe, call)
            self._process._roster.add_callback(self._process, STATE_DONE, lambda _process: tell())
        elif flight.over:
            asyncio.get_running_loop().call_soon(call)
        elif flight.on_over is None:
            flight.on_over = [call]
        else:
            flight.on_over.append(call)

    # ---- signals ----

    def send_signal(self, sig: int, *, group: bool = False) -> bool:
        """Send it a signal, or with `group` its whole process group. False if it has ended.

        As Process.send_signal(), which says what is refused.
        """
        return self._process.send_signal(sig, group=group)

    def terminate(self, timeout: float | None = None) -> Stopping:
        """Ask it and all it has started to end, and kill what has not after `timeout` seconds.

        That begins here and now; awaiting the result waits for the end, and gives a StopResult. `timeout`
        None is the grace of its command. To be cancelled meanwhile changes nothing, and is raised after that.
        """
        timeout = optional_seconds("timeout", timeout)
        self._process._roster.check_usable()
        began = time.monotonic()
        grace = tell_to_end(self._process, timeout)
        return Stopping(self, began, began + verdict_seconds(self._process._roster, grace))

    def kill(self) -> bool:
        """Kill it and all it has started, now and without waiting. False if nothing was left."""
        return self._process.kill()

    def fileno(self) -> int:
        """Its pidfd. Borrowed: do not close it."""
        return self._process.fileno()

    async def stop_shielded(self) -> None:
        """Whoever waited for it was cancelled."""
        if self._flight is not None:
            await stop_shielded([self._flight])
        else:
            await self.terminate()

    # ---- output ----

    def lines(
        self,
        stream: Stream = "stdout",
        *,
        encoding: str = "utf-8",
        errors: str = "replace",
        max_line: int = 1 << 20,
    ) -> Lines:
        """Iterate by ``async for`` over the lines of a captured stream while it runs, without their newline.

        As Process.lines(): from this call on nothing is lost, and a process that is faster than the reader
        waits.

        Raises:
            ValueError: that stream is not captured.
            RuntimeError: it was started by map(), whose processes are for those who want them when they are
                done.
        """
        number, cutter = self._process._lines_of(stream, encoding, errors, max_line)
        if self._flight is None and self._process._token in self._process._roster.by_token:
            raise RuntimeError(f"the lines of {self.task_id!r} cannot be followed: it was started by map()")
        lines = Lines(self, number, cutter)
        self._readers.append(lines)
        if self._flight is not None and not self._flight.over:
            self._flight.on_news = self.tell_readers
        return lines

    def tell_readers(self) -> None:
        """There may be more to read."""
        for reader in self._readers:
            reader.wake()

    def forget_reader(self, reader: Lines) -> None:
        """It is closed."""
        if reader in self._readers:
            self._readers.remove(reader)


class Stopping:
    """An end that is under way. Awaiting it gives the StopResult."""

    __slots__ = ("_began", "_process", "until")

    def __init__(self, process: ManagedProcess, began: float, until: float) -> None:
        self._process = process
        self._began = began
        self.until = until

    def __await__(self) -> Generator[Any, None, StopResult]:
        return self._end().__await__()

    async def _end(self) -> StopResult:
        cancelled = await verdict([self._process], self.until)
        if cancelled is not None:
            raise cancelled
        return result_of(self._process._process, self._began)


async def verdict(processes: list[ManagedProcess], until: float) -> CancelledError | None:
    """Wait until nothing is left of them, or they are unkillable. Returns what came in between."""
    cancelled = None
    for process in processes:
        while process.error is None and (left := until - time.monotonic()) > 0:
            try:
                if await process.until(STATE_DONE, left):
                    break
            except CancelledError as error:
                cancelled = cancelled or error
        child = process._process
        if child.error is None and child._born:
            child._roster.hear_and_tell(child, child._handle.stand())
    return cancelled


class Lines(AsyncIterator[str]):
    """An async iterator over lines, see ManagedProcess.lines(). Closed or forgotten: it writes on unread."""

    __slots__ = ("_cutter", "_ended", "_process", "_ready", "_scratch", "_tap", "_waiter")

    def __init__(self, process: ManagedProcess, number: int, cutter: LineCutter) -> None:
        self._process: ManagedProcess | None = process
        self._cutter = cutter
        self._tap = Tap(process._process._handle, number)
        self._scratch = Scratch()
        self._ready: list[str] = []
        self._ended = False
        self._waiter: asyncio.Future[None] | None = None
        self._tap.follow(on=True)

    def wake(self) -> None:
        """There may be more."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            _resolve(waiter)

    def __aiter__(self) -> Lines:
        return self

    async def __anext__(self) -> str:
        while not self._ready:
            if self._ended or self._process is None:
                raise StopAsyncIteration
            piece = self._tap.read(self._scratch, 65536)
            if piece is None:
                self._waiter = waiter = asyncio.get_running_loop().create_future()
                await waiter
                continue
            self._ready = self._cutter.feed(piece) if piece else self._cutter.finish()
            self._ready.reverse()
            if not piece:
                self._ended = True
                await self.aclose()
        return self._ready.pop()

    async def aclose(self) -> None:
        """Stop following the stream. What was read already can still be taken."""
        process, self._process = self._process, None
        if process is not None:
            self._tap.follow(on=False)
            process.forget_reader(self)
            self.wake()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exception: object) -> None:
        self._ready.clear()
        await self.aclose()


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
