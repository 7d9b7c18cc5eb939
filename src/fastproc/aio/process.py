"""Process, as asyncio.subprocess has it, and what starts one."""

from __future__ import annotations

import asyncio
import signal
import sys
from asyncio import CancelledError
from typing import Any, Self

from .._engine.child import Child
from .._engine.flight import PLAIN, Flight, stop_shielded
from .._engine.loops import mail_of
from .._native.ledger import args_block
from .._native.records import REASON_TERMINATED, STATE_EXITED
from .._native.tap import Tap
from ..cancel import CancelToken
from ..command import PIPE, Arg, Command
from ..errors import WaitTimeout
from ..status import ExitStatus
from .options import drop_text, refuse_nameless, refuse_text, shell_args, split
from .streams import Pipe, StreamReader, StreamWriter

_LIMIT = 2**16


class Process(asyncio.subprocess.Process):
    """A started program, with the attributes and methods of asyncio.subprocess.Process.

    Made by create_subprocess_exec() and create_subprocess_shell(). A subclass of it in name: nothing of it is
    used, as there is no transport. An async context manager: leaving the
    block ends it and all that it has started. Belongs to the thread of its loop.

    Attributes:
        stdin: a StreamWriter, or None.
        stdout, stderr: a StreamReader each, or None.
    """

    __slots__ = ("_flight", "stderr", "stdin", "stdout")

    stdin: StreamWriter | None
    stdout: StreamReader | None
    stderr: StreamReader | None

    def __init__(self, flight: Flight) -> None:
        self._flight = flight
        self.stdin = None
        self.stdout = None
        self.stderr = None

    # Of the standard class, which sets it; nobody else does.
    @property
    def pid(self) -> int:  # type: ignore[override]
        """Its process id, also when it has ended."""
        return self._flight.child._pid

    @property
    def returncode(self) -> int | None:
        """The exit code, or the signal as a negative number; None while it runs, or if nobody can know it."""
        status = self.status
        return None if status is None else status.returncode

    @property
    def status(self) -> ExitStatus | None:
        """How it ended, in full; None while it runs."""
        child = self._flight.child
        if self._flight.status is None and not self._flight.over:
            child._roster.check_usable()
            child._roster.hear(child, child._handle.stand())
        return child._status

    def __repr__(self) -> str:
        return f"<Process {self.pid}>"

    # ---- its end ----

    async def wait(self, timeout: float | None = None) -> int | None:  # type: ignore[override]
        """Wait for its exit, and return its returncode. Not for its output, which others may hold open.

        To be cancelled here stops it, with grace, and all that it has started; the cancellation is raised
        after that. With `timeout` nothing is done to it.

        Raises:
            WaitTimeout: it has not ended within `timeout` seconds. A TimeoutError.
        """
        flight = self._flight
        if not flight.reached(STATE_EXITED):
            if timeout is None:
                # All that until_or_stopped() does, in one coroutine less.
                try:
                    await flight.waiter(STATE_EXITED)
                except CancelledError:
                    await stop_shielded([flight])
                    raise
                except RuntimeError as error:
                    raise self._elsewhere(error) from None
            elif not await flight.until_or_stopped(STATE_EXITED, max(timeout, 0.0)):
                raise WaitTimeout(f"process {self.pid}", timeout)
        return flight.returncode

    async def communicate(  # type: ignore[override]
        self,
        input: bytes | bytearray | memoryview | None = None,  # noqa: A002 - its name in asyncio
    ) -> tuple[bytes | None, bytes | None]:
        """Feed `input` to it, read all that it writes, and wait for its exit. Returns its two outputs.

        If somebody else holds its output open, that is waited for until nothing has come for 0.1 s, and no
        longer than 2 s after its exit. To be cancelled here stops it, as in wait(). What had come until then
        is not
        lost: communicate() may be called again.
        """
        try:
            if self.stdin is not None:
                if input is not None:
                    self.stdin.write(input)
                self.stdin.close()
            elif input:
                raise ValueError("input cannot be given: start it with stdin=PIPE")
            readers = [reader for reader in (self.stdout, self.stderr) if reader is not None]
            for reader in readers:
                reader.want_all(True)
            try:
                for reader in readers:
                    await reader.wait_eof()
                await self._flight.until(STATE_EXITED)
            finally:
                for reader in readers:
                    reader.want_all(False)
        except CancelledError:
            await stop_shielded([self._flight])
            raise
        except RuntimeError as error:
            raise self._elsewhere(error) from None
        if self.stdin is not None:
            self.stdin.transport.abort()
        out = None if self.stdout is None else self.stdout.take_all()
        err = None if self.stderr is None else self.stderr.take_all()
        return out, err

    def _elsewhere(self, error: RuntimeError) -> RuntimeError:
        """In words that help, if it is what a loop says of the futures of another one."""
        if asyncio.get_running_loop() is self._flight.feed.mail.loop:
            return error
        return RuntimeError(
            f"process {self.pid} belongs to another event loop, that which has started it: await it there"
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self.stop()

    async def stop(self) -> ExitStatus | None:
        """End it and all that it has started, with grace, and wait until nothing is left. Harmless later.

        To be cancelled here changes nothing, and is raised after that.
        """
        if not self._flight.over:
            cancelled = await stop_shielded([self._flight], REASON_TERMINATED)
            if cancelled is not None:
                raise cancelled
        return self.status

    # ---- signals ----

    def send_signal(self, signal: int) -> None:
        """Send it a signal, to it alone. Does nothing if it has ended.

        Never hits another process that got the same pid, see pidfd_send_signal(2).
        """
        self._flight.child._handle.signal(int(signal), group=False)

    def terminate(self) -> None:
        """Send it SIGTERM. See stop() for an end that is certain."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send it SIGKILL."""
        self.send_signal(signal.SIGKILL)

    # ---- news ----

    def _on_news(self) -> None:
        if self.stdout is not None:
            self.stdout.fetch()
        if self.stderr is not None:
            self.stderr.fetch()
        if self._flight.over and self.stdin is not None:
            # Nobody is left who could read it.
            self.stdin.transport.lose()


async def create_subprocess_exec(
    program: Arg,
    *args: Arg,
    stdin: Any = None,
    stdout: Any = None,
    stderr: Any = None,
    limit: int = _LIMIT,
    cancel: CancelToken | None = None,
    **options: Any,
) -> Process:
    """Start a program; it runs on return. The loop has run meanwhile. Signature and meaning as in asyncio.

    Args:
        program, args: str, bytes or PathLike; a program without a slash is looked for in PATH.
        stdin, stdout, stderr: None for ours, PIPE for a stream, DEVNULL, a file or a descriptor; for stderr
            STDOUT as well. For stdout and stderr also a path or LogFile, to append to.
        limit: bytes that a StreamReader fetches ahead.
        cancel: stops it when cancelled; its deadline counts as a time limit.
        **options: those of Popen that have a meaning here, see the documentation; and those of Command:
            timeout, idle_timeout, grace, limits, containment, leftovers, ... As in asyncio, what it leaves
            when it ends runs on, until the loop ends (``leftovers="keep"``).

    To be cancelled here calls the start off; if it has happened already, the process is stopped, with grace,
    before the cancellation is raised.

    Raises:
        SpawnError: it could not be started: FileNotFoundError, PermissionError, NotADirectoryError, OSError.
        TypeError, ValueError: a wrong argument, or text was asked for; found before anything is started.
    """
    if not options and stdin is None and stdout is None and stderr is None and cancel is None:
        words = (program, *args)
        block = args_block(words)
        if block is not None:
            # All that _prepare() and Flight.begin() do, in two coroutines less.
            feed = mail_of(asyncio.get_running_loop()).loose
            sys.audit("subprocess.Popen", program, words, None, None)
            child = Child(feed.roster, None, words)
            flight = Flight(feed, child, block=block)
            start = feed.queue(flight)
            try:
                await start
            except CancelledError:
                await feed.call_off([flight])
                raise
            if child.error is not None:
                raise child.error from None
            return Process(flight)
    if options:
        refuse_text(options)
        if options.pop("shell", False):
            raise ValueError("shell must be False")
        refuse_nameless((program,), options)
    else:
        refuse_nameless((program,), {})
    process = _prepare([program, *args], stdin, stdout, stderr, limit, cancel, options)
    await process._flight.begin()
    return process


async def create_subprocess_shell(
    cmd: str | bytes,
    stdin: Any = None,
    stdout: Any = None,
    stderr: Any = None,
    limit: int = _LIMIT,
    cancel: CancelToken | None = None,
    **options: Any,
) -> Process:
    """Have a shell carry out `cmd`. All else is as in create_subprocess_exec()."""
    refuse_text(options)
    if not options.pop("shell", True):
        raise ValueError("shell must be True")
    process = _prepare(shell_args(cmd, options), stdin, stdout, stderr, limit, cancel, options)
    await process._flight.begin()
    return process


def _prepare(
    args: list[Arg],
    stdin: Any,
    stdout: Any,
    stderr: Any,
    limit: int,
    cancel: CancelToken | None,
    options: dict[str, Any],
) -> Process:
    """All but the start."""
    mail = mail_of(asyncio.get_running_loop())
    extras = PLAIN
    pipe_bytes = -1
    if options:
        drop_text(options)
        options, extras, pipe_bytes = split(options)
        if options.get("max_output") is not None and options.get("on_max_output") != "stop":
            raise ValueError(
                "max_output would keep a part of what these streams bring in full; say on_max_output='stop'"
            )
    if stdout is not None:
        options["stdout"] = stdout
    if stderr is not None:
        options["stderr"] = stderr
    reads = PIPE in (stdout, stderr)
    if reads:
        if limit <= 0:
            raise ValueError("Limit cannot be <= 0")
        extras = extras._replace(follow=True)
    pipe = None
    if stdin is not None:
        if stdin == PIPE:
            pipe = Pipe(mail.loop, pipe_bytes)
            stdin = pipe.theirs.fd
        options["stdin"] = stdin
    command = Command.coerce(args, options)
    sys.audit("subprocess.Popen", command.args[0], command.args, command.cwd, command.env)
    feed = mail.loose
    child = Child(feed.roster, None, command)
    flight = Flight(feed, child, extras, cancel)
    process = Process(flight)
    if reads or pipe is not None:
        flight.on_news = process._on_news
        if pipe is not None:
            flight.lent = pipe.theirs
            process.stdin = StreamWriter(pipe.ours, mail.loop)
        if command.stdout == PIPE:
            process.stdout = StreamReader(Tap(child._handle, 1), mail.room(), limit, mail.loop)
        if command.stderr == PIPE:
            process.stderr = StreamReader(Tap(child._handle, 2), mail.room(), limit, mail.loop)
    return process
