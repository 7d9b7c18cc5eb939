"""Process: one started program, as a caller sees it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal, Self

from ._checks import callback, optional_seconds, signal_number, time_left
from ._engine.child import HEARD, Child
from ._engine.lines import LineCutter
from ._engine.stopping import stop_one
from ._native.handle import NeverStarted, Reader
from ._native.ledger import hear_entry
from ._native.records import REASON_TERMINATED, STARTED_NS, STATE_DONE, STATE_EXITED
from .command import Arg
from .errors import WaitTimeout
from .status import ExitStatus, StopResult

if TYPE_CHECKING:
    from asyncio import Future

Stream = Literal["stdout", "stderr"]
_STREAMS = {"stdout": 1, "stderr": 2}


class Process(Child):
    """A started program. Safe from any thread; all who wait hear the same answer.

    Made by a ProcessManager. It may be kept as long as one likes after the end, and forgotten at any
    time: the manager goes on looking after what runs.

    Attributes:
        task_id: what the manager calls it.
        command: what was asked for, with its `tags`.
        error: why it could not be started, for a process of map() that could not; else None.
    """

    __slots__ = ()

    @property
    def args(self) -> tuple[Arg, ...]:
        """The program and its arguments."""
        what = self._what
        return what if isinstance(what, tuple) else tuple(what.args)

    @property
    def pid(self) -> int:
        """Its process id, also when it has ended; 0 if it was never started."""
        return self._pid if self.error is None else 0

    @property
    def started(self) -> float:
        """When it was started, on the monotonic clock."""
        if self._status is not None:
            return self._status.started
        return 0.0 if self.error is not None else self._handle.known()[STARTED_NS] / 1e9

    @property
    def status(self) -> ExitStatus | None:
        """How it ended, as far as is known; None while it runs. Does not ask the kernel: see poll()."""
        if self._status is None and self.error is None:
            self._roster.check_usable()
            self._roster.hear(self, self._handle.stand())
        return self._status

    @property
    def returncode(self) -> int | None:
        """As in subprocess: the exit code, or the signal as a negative number; None if not known (yet)."""
        status = self.status
        return None if status is None else status.returncode

    @property
    def running(self) -> bool:
        """Whether the program itself has not ended."""
        return self.poll() is None and self.error is None

    def __repr__(self) -> str:
        if self.error is not None:
            state = f"not started: {self.error}"
        elif self._status is not None:
            state = self._status.explain()
        else:
            state = f"pid {self.pid}"
        return f"<Process {self.task_id!r}: {state}>"

    def __reduce__(self) -> str | tuple[Any, ...]:
        raise TypeError("a Process cannot be pickled: it belongs to the program that started it")

    # ---- its end ----

    def wait(self, timeout: float | None = None) -> ExitStatus:
        """Block until it has ended, and say how. Descendants and output may remain; they are looked after.

        Ctrl-C interrupts it, and it may then be called again.

        Raises:
            WaitTimeout: it has not ended within `timeout` seconds. Nothing is done to it.
            SpawnError: it was never started (only a process of map()).
        """
        if self._status is None:
            began = 0.0 if timeout is None else monotonic()
            if not hear_entry(self, timeout):
                self._wait_on(began, timeout)
        else:
            if timeout is not None:
                time_left("timeout", timeout)
            if not self._flags & HEARD:
                self._roster.mark_heard(self)
        return self._status  # type: ignore[return-value]

    def _wait_on(self, began: float, timeout: float | None) -> None:
        # Here and not before: the short way takes nothing that would be refused.
        timeout = time_left("timeout", timeout)
        until = None if timeout is None else began + timeout
        try:
            in_time = self._roster.await_exit(self, until)
        except NeverStarted:
            raise self._start_error() from None
        if not in_time:
            assert timeout is not None
            raise WaitTimeout(f"task {self.task_id!r}", timeout)

    def poll(self) -> ExitStatus | None:
        """Ask the kernel, without blocking: how it ended, or None while it runs."""
        if self._status is None and self.error is None:
            self._roster.check_usable()
            try:
                stand = self._handle.look(STATE_EXITED)
            except NeverStarted:
                return None
            if stand:
                self._roster.hear_and_tell(self, stand)
        elif not self._flags & HEARD and self.error is None:
            self._roster.mark_heard(self)
        return self._status

    def add_done_callback(self, fn: Callable[[Process], object]) -> None:
        """Have `fn` called with this process once nothing of it is left: it, its descendants, its output.

        That happens in a thread of the engine, one call after the other, so it must be quick; it may use all
        of this package. At once and in this thread if it is done already. What it raises is logged,
        or said on standard error where nobody listens to the log.
        """
        callback("fn", fn)
        self._roster.check_usable()
        self._roster.add_callback(self, STATE_DONE, fn)

    def __await__(self) -> Generator[Any, None, ExitStatus]:
        """Wait for its end in an event loop. Cancelling that forgets the waiter; the process goes on."""
        if self.poll() is None:
            yield from self._end_in_loop().__await__()
        return self.wait()

    async def _end_in_loop(self) -> None:
        from asyncio import get_running_loop

        loop = get_running_loop()
        ended: Future[None] = loop.create_future()

        def wake() -> None:
            if not ended.done():
                ended.set_result(None)

        def call(_process: Process) -> None:
            # RuntimeError: the loop has been closed meanwhile, nobody waits any more.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(wake)

        self._roster.add_callback(self, STATE_EXITED, call)
        try:
            await ended
        finally:
            self._roster.remove_callback(self, call)

    def _start_error(self) -> BaseException:
        self._roster.drain()
        return self.error if self.error is not None else RuntimeError("its start was withdrawn")

    # ---- signals ----

    def send_signal(self, sig: int, *, group: bool = False) -> bool:
        """Send it a signal, or with `group` its whole process group. False if it has ended.

        Never hits another process that got the same pid: it is named by its pidfd, see pidfd_send_signal(2).

        Args:
            sig: a signal such as signal.SIGTERM, or its number; 0 only asks whether one could be sent.
            group: to all of its process group, also when it has ended itself and others of it have not.

        Raises:
            ValueError: there is no such signal; or `group` for one that was started with ``start_new=None``
                and so leads no group of its own: it is in ours.
        """
        number = signal_number("sig", sig)
        what = self._what
        if group and not isinstance(what, tuple) and what.start_new is None:
            raise ValueError(
                f"task {self.task_id!r} leads no process group, it was started with start_new=None and is in "
                "ours: leave group out to signal it alone, or start it with start_new='group' or 'session'"
            )
        self._roster.check_usable()
        return self.error is None and self._handle.signal(number, group=group)

    def terminate(self, timeout: float | None = None) -> StopResult:
        """Ask it and all it has started to end, kill what has not after `timeout` seconds, and report.

        `timeout` None is the grace of its command. More than one may call this at the same time: it is asked
        once. One that has ended by itself keeps its true status.
        """
        timeout = optional_seconds("timeout", timeout)
        self._roster.check_usable()
        return stop_one(self._roster, self, timeout)

    def kill(self) -> bool:
        """Kill it and all it has started, now and without waiting. False if nothing was left."""
        self._roster.check_usable()
        return self.error is None and self._handle.stop(REASON_TERMINATED, -1)

    def fileno(self) -> int:
        """Its pidfd, for poll(2) and the like: readable once it has ended. Borrowed: do not close it.

        Raises:
            OSError: EBADF, it is done, or this kernel has no pidfds.
        """
        self._roster.check_usable()
        return self._handle.pidfd

    # ---- output ----

    @property
    def stdout_bytes(self) -> bytes:
        """What it has written to a captured standard output so far: the beginning and the end."""
        return b"" if self.error is not None else self._handle.output_bytes(1)

    @property
    def stderr_bytes(self) -> bytes:
        """The same of standard error; with ``stderr=STDOUT`` it is in `stdout_bytes`."""
        return b"" if self.error is not None else self._handle.output_bytes(2)

    @property
    def output_truncated(self) -> bool:
        """Whether something in the middle of a captured stream was dropped."""
        return any(total > kept for total, kept, _ended, _complete in self._outputs())

    @property
    def output_complete(self) -> bool:
        """Whether each captured stream has come to its end: nobody can write to it any more."""
        return all(ended and complete for _total, _kept, ended, complete in self._outputs())

    def _outputs(self) -> list[tuple[int, int, bool, bool]]:
        if self.error is not None:
            return []
        outputs = (self._handle.output(1), self._handle.output(2))
        return [output for output in outputs if output is not None]

    def lines(
        self,
        stream: Stream = "stdout",
        *,
        encoding: str = "utf-8",
        errors: str = "replace",
        max_line: int = 1 << 20,
    ) -> Lines:
        """Iterate over the lines of a captured stream while it runs, without their newline.

        From this call on nothing is lost: a process that is faster than the reader waits, as with a pipe of
        its own, so read on or close() the iterator; of several readers it waits for the slowest. What came
        before is there as far as it is kept, and all of it for the first reader of a command that was started
        with ``on_max_output="wait"``. A line longer than `max_line` bytes comes in pieces.

        Raises:
            ValueError: that stream is not captured.
        """
        number, cutter = self._lines_of(stream, encoding, errors, max_line)
        return Lines(Reader(self._handle, number), cutter)

    def _lines_of(self, stream: str, encoding: str, errors: str, max_line: int) -> tuple[int, LineCutter]:
        """The number of a stream whose lines are asked for, and what cuts them; for both faces."""
        number = _STREAMS.get(stream)
        if number is None:
            raise ValueError(f"stream must be 'stdout' or 'stderr', not {stream!r}")
        self._roster.check_usable()
        cutter = LineCutter(encoding, errors, max_line)
        if self.error is not None or self._handle.output(number) is None:
            raise ValueError(
                f"{stream} of task {self.task_id!r} is not captured: start it with {stream}=PIPE"
            )
        return number, cutter


class Lines:
    """An iterator over lines, see Process.lines(). Closed or forgotten: the process writes on unread."""

    __slots__ = ("_cutter", "_reader", "_ready")

    def __init__(self, reader: Reader, cutter: LineCutter) -> None:
        self._cutter = cutter
        self._reader: Reader | None = reader
        # Reversed: the next one is taken from the end.
        self._ready: list[str] = []

    def __iter__(self) -> Lines:
        return self

    def __next__(self) -> str:
        while not self._ready:
            if self._reader is None:
                raise StopIteration
            piece = self._reader.read()
            self._ready = self._cutter.feed(piece) if piece else self._cutter.finish()
            self._ready.reverse()
            if not piece:
                self.close()
        return self._ready.pop()

    def close(self) -> None:
        """Stop following the stream. What was read already can still be taken."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._ready.clear()
        self.close()
