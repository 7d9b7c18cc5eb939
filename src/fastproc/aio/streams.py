"""The streams of a process in an event loop, with the names and the manners of asyncio.streams.

What a process writes is read by the engine, which keeps up to a quarter of a megabyte for us and lets the
process wait when that is full; news in the mailbox of the loop say that there is more. So a reader has no
descriptor and no transport, and nothing of it can be left open. A writer has a descriptor, and asks the loop
for help only when the pipe is full.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import io
import os
from asyncio import AbstractEventLoop, Future, IncompleteReadError
from collections import deque
from collections.abc import Iterable
from typing import Any

from .._native.tap import Scratch, Tap
from ..errors import FastprocError

_HIGH_WATER = 64 * 1024
_ITERATION_BYTES = 1 << 20
_F_SETPIPE_SZ = 1031


class StreamReader(asyncio.StreamReader):
    """Reads one stream of a process. Its methods are those of asyncio.StreamReader.

    A line, or what readuntil() looks for, may be of any length: there is no LimitOverrunError. `limit` is how
    much
    is fetched ahead of a reader who does not read: twice as much at most, and what the engine keeps.

    Belongs to its loop's thread, and to one coroutine at a time.
    """

    def __init__(self, tap: Tap, scratch: Scratch, limit: int, loop: AbstractEventLoop) -> None:
        # Not that of asyncio.StreamReader: all that it would set up is done otherwise here.
        if limit <= 0:
            raise ValueError("Limit cannot be <= 0")
        self._loop = loop
        self._limit = limit
        self._tap = tap
        self._scratch = scratch
        self._buffer = bytearray()
        self._eof = False
        self._exception: BaseException | None = None
        self._waiter: Future[None] | None = None
        self._again: asyncio.Handle | None = None
        # How much may be waiting in the buffer.
        self._most = 2 * limit
        self._wants_all = False

    def __repr__(self) -> str:
        words = ["StreamReader", f"{len(self._buffer)} bytes"]
        if self._eof:
            words.append("eof")
        if self._exception is not None:
            words.append(f"exception={self._exception!r}")
        return f"<{' '.join(words)}>"

    # ---- from the engine ----

    def fetch(self) -> None:
        """Take what there is, as far as there is room. Called at news, and when there is room again."""
        if self._again is not None:
            self._again.cancel()
            self._again = None
        fetched = 0
        while not self._eof:
            room = _ITERATION_BYTES if self._wants_all else self._most - len(self._buffer)
            if room <= 0:
                break
            if fetched >= _ITERATION_BYTES:
                # Others want their turn as well.
                self._again = self._loop.call_soon(self.fetch)
                break
            piece = self._tap.read(self._scratch, room)
            if piece is None:
                break
            if piece:
                self._buffer += piece
                fetched += len(piece)
            else:
                self._eof = True
        if fetched or self._eof:
            self._wake()

    def feed_data(self, data: Iterable[Any]) -> None:
        """For those who put words into its mouth, in tests for one."""
        self._buffer += bytes(data)
        self._wake()

    def feed_eof(self) -> None:
        """Nothing more will come."""
        self._eof = True
        self._wake()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # ---- for whoever reads ----

    def at_eof(self) -> bool:
        """Whether all has been read, and nothing more will come."""
        return self._eof and not self._buffer

    def exception(self) -> BaseException | None:  # type: ignore[override]
        """What was set by set_exception()."""
        return self._exception

    def set_exception(self, exc: BaseException) -> None:
        """Have all further reading raise this."""
        self._exception = exc
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_exception(exc)

    async def _more(self, who: str, at_least: int = 0) -> None:
        """Wait for more than there is; make room for it if there is none."""
        if self._waiter is not None:
            raise RuntimeError(f"{who}() called while another coroutine is already waiting for incoming data")
        size = len(self._buffer)
        if self._most <= max(size, at_least):
            # Twice as much each time: else a long line would be looked through again and again.
            self._most = max(size, at_least) + max(size, self._limit)
        self.fetch()
        if self._eof or len(self._buffer) > size:
            return
        self._waiter = waiter = self._loop.create_future()
        try:
            await waiter
        finally:
            if self._waiter is waiter:
                self._waiter = None

    def _take(self, count: int) -> bytes:
        if count >= len(self._buffer):
            taken = bytes(self._buffer)
            self._buffer.clear()
        else:
            taken = bytes(memoryview(self._buffer)[:count])
            del self._buffer[:count]
        self._most = max(2 * self._limit, len(self._buffer))
        if not self._eof and len(self._buffer) <= self._limit:
            self.fetch()
        return taken

    def _check(self) -> None:
        if self._exception is not None:
            raise self._exception

    async def read(self, n: int = -1) -> bytes:
        """Up to `n` bytes, as soon as there are any; all until the end if `n` is negative. b"" at the end.

        To be cancelled loses nothing: what has come stays for the next who reads.
        """
        self._check()
        if n == 0:
            return b""
        if n < 0:
            self.want_all(True)
            try:
                await self.wait_eof()
            finally:
                self.want_all(False)
            return self.take_all()
        while not self._buffer and not self._eof:
            await self._more("read")
            self._check()
        return self._take(n)

    def want_all(self, on: bool) -> None:
        """Keep all that comes, however much that is; or no more."""
        self._wants_all = on
        if on:
            self.fetch()

    async def wait_eof(self) -> None:
        """Wait for the end, and take nothing."""
        while not self._eof:
            await self._more("read")
            self._check()

    def take_all(self) -> bytes:
        """All that is there."""
        return self._take(len(self._buffer))

    async def readexactly(self, n: int) -> bytes:
        """`n` bytes.

        Raises:
            asyncio.IncompleteReadError: the stream has ended before; `partial` has what came.
        """
        if n < 0:
            raise ValueError("readexactly size can not be less than zero")
        self._check()
        while len(self._buffer) < n:
            if self._eof:
                raise IncompleteReadError(self._take(len(self._buffer)), n)
            await self._more("readexactly", n)
            self._check()
        return self._take(n)

    async def readline(self) -> bytes:
        """A line with its newline, however long; without it at the end of the stream. b"" behind the end."""
        try:
            return await self.readuntil(b"\n")
        except IncompleteReadError as error:
            return error.partial

    async def readuntil(self, separator: bytes | tuple[bytes, ...] = b"\n") -> bytes:  # type: ignore[override]
        """All up to the separator, and with it; the earliest end counts if there are several separators.

        Raises:
            asyncio.IncompleteReadError: the stream has ended before; `partial` has what came.
        """
        separators = sorted(separator, key=len) if isinstance(separator, tuple) else [separator]
        if not separators:
            raise ValueError("Separator should contain at least one element")
        if not separators[0]:
            raise ValueError("Separator should be at least one-byte string")
        self._check()
        longest = len(separators[-1])
        searched = 0
        while True:
            ends = [at + len(one) for one in separators if (at := self._buffer.find(one, searched)) >= 0]
            if ends:
                return self._take(min(ends))
            if self._eof:
                raise IncompleteReadError(self._take(len(self._buffer)), None)
            searched = max(0, len(self._buffer) + 1 - longest)
            await self._more("readuntil")
            self._check()

    def __aiter__(self) -> StreamReader:
        return self

    async def __anext__(self) -> bytes:
        line = await self.readline()
        if not line:
            raise StopAsyncIteration
        return line


class InputClosed(FastprocError, BrokenPipeError, ConnectionResetError):
    """Standard input takes no more: it was closed, or nobody reads it.

    asyncio raises now one, now the other of the two classes.
    """


class PipeTransport(asyncio.WriteTransport):
    """Our end of the standard input of a process. What the pipe does not take waits here.

    Its descriptor is closed by close(), when the process is gone, or when this object is: never by the loop,
    and nothing has to be said to a loop that is closed.
    """

    def __init__(self, fd: int, loop: AbstractEventLoop) -> None:
        super().__init__()
        self._fd = fd
        # Made when somebody asks for it; it has the descriptor then, which is not closed twice.
        self._file: io.FileIO | None = None
        self._loop = loop
        self._pieces: deque[memoryview] = deque()
        self._size = 0
        self._writing = False
        self._closing = False
        self._error: BaseException | None = None
        self._high = _HIGH_WATER
        self._low = _HIGH_WATER // 4
        self._drainers: list[Future[None]] = []
        self._closers: list[Future[None]] = []

    def __repr__(self) -> str:
        state = "closed" if self._fd < 0 else "closing" if self._closing else "open"
        return f"<PipeTransport {state} fd={self._fd} bufsize={self._size}>"

    def __del__(self) -> None:
        self._give_back()

    # ---- the pipe ----

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write it now as far as the pipe takes it, and the rest when it does. Does not block."""
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data must be bytes, bytearray or memoryview, not {type(data).__name__}")
        if self._closing or not data:
            return
        # A bytearray may be changed by its owner, who has no reason to wait.
        piece = memoryview(bytes(data) if isinstance(data, bytearray) else data).cast("B")
        if not self._pieces:
            piece = self._write_some(piece)
            if not piece or self._closing:
                return
        self._pieces.append(piece)
        self._size += len(piece)
        if not self._writing:
            self._writing = True
            self._loop.add_writer(self._fd, self._write_ready)

    def _write_some(self, piece: memoryview) -> memoryview:
        """What is left of it."""
        try:
            return piece[os.write(self._fd, piece) :]
        except (BlockingIOError, InterruptedError):
            return piece
        except OSError as error:
            self.lose(error)
            return piece[:0]

    def _write_ready(self) -> None:
        while self._pieces and not self._error:
            piece = self._pieces[0]
            rest = self._write_some(piece)
            if self._error:
                return
            self._size -= len(piece) - len(rest)
            if rest:
                self._pieces[0] = rest
                break
            self._pieces.popleft()
        if self._size <= self._low:
            _release(self._drainers)
        if not self._pieces:
            self._stop_writing()
            if self._closing:
                self._close_fd()

    def _stop_writing(self) -> None:
        if self._writing:
            self._writing = False
            # uvloop raises when it is closed, asyncio does nothing.
            with contextlib.suppress(RuntimeError):
                self._loop.remove_writer(self._fd)

    def _close_fd(self) -> None:
        self._give_back()
        _release(self._closers)

    def _give_back(self) -> None:
        fd, self._fd = self._fd, -1
        if self._file is not None:
            self._file.close()
        elif fd >= 0:
            os.close(fd)

    def lose(self, error: BaseException | None = None) -> None:
        """Nobody reads any more: what has not been written is dropped."""
        if self._fd < 0:
            return
        lost = bool(self._pieces)
        self._stop_writing()
        self._closing = True
        self._pieces.clear()
        self._size = 0
        if isinstance(error, BrokenPipeError) or (error is None and lost):
            error = InputClosed(errno.EPIPE, "nobody reads the standard input of the process any more")
        self._error = error
        _release(self._drainers, self._error)
        self._close_fd()

    # ---- what asyncio.StreamWriter asks of its transport and of its protocol ----

    async def drain(self) -> None:
        """Wait until there is room again."""
        if self._error is not None:
            raise self._error
        if self._closing and self._fd < 0:
            raise InputClosed(errno.EPIPE, "the standard input of the process is closed")
        if self._size <= self._high:
            return
        await _added(self._drainers, self._loop)

    async def wait_closed(self) -> None:
        """Wait until all is written and the pipe is closed."""
        if self._fd >= 0:
            await _added(self._closers, self._loop)
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Close it once all is written."""
        if not self._closing:
            self._closing = True
            if not self._pieces:
                self._close_fd()

    def abort(self) -> None:
        """Close it now."""
        self._pieces.clear()
        self._size = 0
        self.lose()

    def is_closing(self) -> bool:
        """Whether close() was called, or nobody reads any more."""
        return self._closing

    def can_write_eof(self) -> bool:
        """The end of a pipe is its closing."""
        return True

    def write_eof(self) -> None:
        """The same as close()."""
        self.close()

    def get_write_buffer_size(self) -> int:
        """How many bytes wait here."""
        return self._size

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """From how much on drain() waits, and down to how much."""
        return self._low, self._high

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """As in asyncio."""
        if high is None:
            high = _HIGH_WATER if low is None else 4 * low
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
        self._high, self._low = high, low

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Of "pipe": our end of it, as a file that has the descriptor. It is closed with this transport."""
        if name != "pipe":
            return default
        if self._file is None and self._fd >= 0:
            self._file = io.FileIO(self._fd, "wb")
        return self._file or default


class Lent:
    """A descriptor that goes with the last reference to this."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self) -> None:
        os.close(self.fd)


class Pipe:
    """A pipe to the standard input of a process that is about to be started.

    `theirs` has to be there until that has happened: a start that is queued names the descriptor, and takes
    it when its turn comes.
    """

    __slots__ = ("ours", "theirs")

    def __init__(self, loop: AbstractEventLoop, pipe_bytes: int = -1) -> None:
        theirs, ours = os.pipe2(os.O_CLOEXEC)
        self.theirs = Lent(theirs)
        self.ours = PipeTransport(ours, loop)
        os.set_blocking(ours, False)
        if pipe_bytes > 0:
            fcntl.fcntl(ours, _F_SETPIPE_SZ, pipe_bytes)


class StreamWriter(asyncio.StreamWriter):
    """Writes to the standard input of a process. Its methods are those of asyncio.StreamWriter.

    write() never blocks; drain() waits while much is unwritten, and may be cancelled. One that is forgotten
    is closed, without a warning.
    """

    _transport: PipeTransport

    def __init__(self, transport: PipeTransport, loop: AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop

    @property
    def transport(self) -> PipeTransport:
        """The pipe."""
        return self._transport

    def __repr__(self) -> str:
        return f"<StreamWriter transport={self._transport!r}>"

    def __del__(self, *_: object) -> None:
        """Nothing to warn of: the transport closes itself."""

    async def drain(self) -> None:
        """Wait while more than 64 KiB are unwritten.

        Raises:
            InputClosed: it was closed, or nobody reads any more; both a BrokenPipeError and a
                ConnectionResetError.
        """
        await self._transport.drain()

    async def wait_closed(self) -> None:
        """Wait until all is written and the pipe is closed."""
        await self._transport.wait_closed()

    async def start_tls(self, *_: Any, **__: Any) -> None:
        """There is none on a pipe."""
        raise NotImplementedError("a pipe has no TLS")


async def _added(waiters: list[Future[None]], loop: AbstractEventLoop) -> None:
    future = loop.create_future()
    waiters.append(future)
    try:
        await future
    finally:
        with contextlib.suppress(ValueError):
            waiters.remove(future)


def _release(waiters: list[Future[None]], error: BaseException | None = None) -> None:
    for future in waiters:
        if not future.done():
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)
    waiters.clear()
