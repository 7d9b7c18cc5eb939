"""run(): a program from its start to its end, in one await."""

from __future__ import annotations

import asyncio
import io
import sys
from collections.abc import Sequence
from subprocess import CalledProcessError, CompletedProcess, SubprocessError, TimeoutExpired
from typing import Any

from .._engine.child import Child
from .._engine.flight import Flight, stop_shielded
from .._engine.loops import mail_of
from .._native.ledger import args_block
from .._native.records import REASON_CANCELLED, STATE_DONE, STATE_EXITED
from .._native.tap import Tap
from .._popen.arguments import so_far, text_encoding
from ..cancel import CancelToken
from ..command import PIPE, Arg, Command
from ..status import ExitReason, ExitStatus
from ..subprocess import IdleTimeoutExpired, StatusUnknown
from .options import refuse_nameless, split

# All that is written is kept: it is for the caller to say max_output.
_ALL = 1 << 60
_CANCEL_GRACE = 5.0
_CLEAR_SECONDS = 1.0


async def run(
    args: str | bytes | Arg | Sequence[Arg],
    *,
    stdin: Any = None,
    input: Any = None,  # noqa: A002 - its name in subprocess.run()
    stdout: Any = None,
    stderr: Any = None,
    capture_output: bool = False,
    shell: bool = False,
    timeout: float | None = None,
    check: bool = False,
    encoding: str | None = None,
    errors: str | None = None,
    text: bool | None = None,
    universal_newlines: bool | None = None,
    grace: float | None = None,
    cancel: CancelToken | None = None,
    **options: Any,
) -> CompletedProcess[Any]:
    """Start a program, wait for its end, and say what came of it: subprocess.run() in an event loop.

    One start and one piece of news: output is collected and input is fed by the engine, whatever the loop
    does. If somebody else holds the output open after the exit, that is waited for until nothing has come for
    0.1 s, and no longer than 2 s.

    To be cancelled here stops it and all that it has started, with grace, before the cancellation is raised.

    Args:
        args: a list of arguments, or one program; with `shell` a command line.
        stdin, input, stdout, stderr, capture_output, check, encoding, errors, text: as in subprocess.run().
            Here text can be had, since all of it is there before it is decoded.
        timeout: seconds from its start until it and all that it has started are ended: killed, or with
            `grace` asked first. Kept by the engine, also while the loop is held up.
        grace: seconds from SIGTERM to SIGKILL. Unless said, there is no SIGTERM at the time-out, as in
            subprocess.run() and fastproc.run(), and 5 seconds when this is cancelled.
        cancel: stops it when cancelled, which the returncode alone tells then: that of the signal, and
            `cancel.cancelled`. Its deadline is a time-out, and TimeoutExpired tells how long it ran.
        **options: those of create_subprocess_exec(). With `max_output` only so much of a stream is kept, its
            beginning and its end.

    Raises:
        TimeoutExpired: after `timeout`, with what had come; IdleTimeoutExpired of fastproc.subprocess after
            `idle_timeout` without a byte on a captured stream. All as fastproc.run() has it.
        CalledProcessError: with `check`, if the returncode is not 0; StatusUnknown of fastproc.subprocess if
            nobody can know it.
        SubprocessError: `text` and `universal_newlines` differ.
        IndexError: `args` is empty.
        SpawnError, TypeError, ValueError: as in create_subprocess_exec().
    """
    streams = stdin is None and input is None and stdout is None and stderr is None and not capture_output
    limits = timeout is None and grace is None and cancel is None
    codecs = encoding is None and errors is None and text is None and universal_newlines is None
    if (
        streams and limits and codecs and not shell and not options
        and (block := args_block(args)) is not None
    ):  # fmt: skip
        return await _run_plain(args, tuple(args), block, check)  # type: ignore[arg-type]
    if text is not None and universal_newlines is not None and bool(text) != bool(universal_newlines):
        raise SubprocessError(
            "text and universal_newlines are two names of one thing, and differ: pass one of them"
        )
    words, command, extras, codec = _asked(
        args, stdin, input, stdout, stderr, capture_output, shell, timeout, grace, options,
        (encoding, errors, text or universal_newlines),
    )  # fmt: skip
    feed = mail_of(asyncio.get_running_loop()).quiet
    sys.audit("subprocess.Popen", command.args[0], command.args, command.cwd, command.env)
    flight = Flight(feed, Child(feed.roster, None, command), extras, cancel)
    try:
        await _to_its_end(flight)
    except asyncio.CancelledError:
        await stop_shielded([flight], REASON_CANCELLED, _CANCEL_GRACE if grace is None else None)
        raise
    return _result(words, flight, codec, timeout, check)


Codec = tuple[str | None, str | None, bool | None]


def _asked(
    args: Any,
    stdin: Any,
    fed: Any,
    stdout: Any,
    stderr: Any,
    capture_output: bool,
    shell: bool,
    timeout: float | None,
    grace: float | None,
    options: dict[str, Any],
    codec: Codec,
) -> tuple[Any, Command, Any, Codec | None]:
    if fed is not None and stdin is not None:
        raise ValueError("stdin and input arguments may not both be used.")
    if capture_output:
        if stdout is not None or stderr is not None:
            raise ValueError("stdout and stderr arguments may not be used with capture_output.")
        stdout = stderr = PIPE
    words = _words(args, shell, options)
    options.pop("bufsize", None)  # of pipes that nobody sees
    said, extras, _pipe_bytes = split(options)
    if any(codec):
        if isinstance(fed, str):
            fed = _encoded(fed, codec)
        elif fed is not None:
            raise TypeError(f"input must be str in text mode, not {type(fed).__name__}")
    elif isinstance(fed, str) and not fed:
        fed = b""  # nothing to feed is nothing to encode
    if fed is not None:
        said["input"] = fed
    elif stdin is not None:
        # Nobody could write to it: as in subprocess.run() it is at its end.
        said["input" if stdin == PIPE else "stdin"] = b"" if stdin == PIPE else stdin
    if stdout is not None:
        said["stdout"] = stdout
    if stderr is not None:
        said["stderr"] = stderr
    if PIPE in (stdout, stderr):
        said.setdefault("max_output", _ALL)
        said["max_output"] = said["max_output"] or _ALL
    if timeout is not None:
        # As in subprocess.run(): what has no time left is started all the same, and stopped.
        said["timeout"] = max(timeout, 0.0)
    said["grace"] = 0.0 if grace is None else grace
    command = Command.coerce(words, said)
    return args, command, extras, codec if any(codec) else None


def _words(args: Any, shell: bool, options: dict[str, Any]) -> list[Any]:
    words = [args] if isinstance(args, (str, bytes)) or hasattr(args, "__fspath__") else list(args)
    if shell:
        words = [options.pop("executable", None) or "/bin/sh", "-c", *words]
    if not words:
        raise IndexError("args is empty: it must name a program")
    refuse_nameless(words, options)
    return words


async def _run_plain(args: Any, words: tuple[Arg, ...], block: bytes, check: bool) -> CompletedProcess[Any]:
    """One of which nothing is said but its arguments."""
    feed = mail_of(asyncio.get_running_loop()).quiet
    sys.audit("subprocess.Popen", words[0], words, None, None)
    flight = Flight(feed, Child(feed.roster, None, words), block=block)
    start = feed.queue(flight)
    try:
        await flight.waiter(STATE_EXITED)
    except asyncio.CancelledError:
        await feed.call_off([flight])
        raise
    # What has kept it from being handed over is raised there.
    start.result()
    if flight.child.error is not None:
        raise flight.child.error
    returncode = flight.returncode
    if check and returncode != 0:
        raise _failure(args, returncode, None, None)
    return CompletedProcess(args, returncode, None, None)  # type: ignore[arg-type]


async def _to_its_end(flight: Flight) -> None:
    """Until it has ended, and its output as well."""
    start = flight.feed.queue(flight)
    await flight.until(STATE_EXITED)
    start.result()
    handle = flight.child._handle
    if flight.child.error is not None:
        raise flight.child.error
    streams = [number for number in (1, 2) if not flight.over and handle.output(number) is not None]
    for number in streams:
        # Somebody else holds it open. Of what is followed we are told when it ends.
        Tap(handle, number).follow(True)
    while not flight.over and not all(_has_ended(flight, number) for number in streams):
        await flight.news()
    status = flight.status
    if status is not None and status.reason in (ExitReason.TIMEOUT, ExitReason.IDLE_TIMEOUT):
        # All of it has been killed. Soon nothing will be left.
        await flight.until(STATE_DONE, _CLEAR_SECONDS)


def _has_ended(flight: Flight, number: int) -> bool:
    output = flight.child._handle.output(number)
    return output is None or output[2]


def _result(
    args: Any, flight: Flight, codec: Codec | None, timeout: float | None, check: bool
) -> CompletedProcess[Any]:
    status = flight.status
    assert status is not None
    handle = flight.child._handle
    outputs = [None if handle.output(number) is None else handle.output_bytes(number) for number in (1, 2)]
    if status.reason in (ExitReason.TIMEOUT, ExitReason.IDLE_TIMEOUT):
        deadline = flight.cancel is not None and flight.cancel.deadline is not None
        raise _expired(args, status, flight.child.command, timeout, outputs, codec, deadline)
    out, err = (None if output is None else _decoded(output, codec) for output in outputs)
    if check and status.returncode != 0:
        raise _failure(args, status.returncode, out, err)
    return CompletedProcess(args, status.returncode, out, err)  # type: ignore[arg-type]


def _failure(args: Any, returncode: int | None, out: Any, err: Any) -> CalledProcessError:
    if returncode is None:
        return StatusUnknown(None, args, output=out, stderr=err)  # type: ignore[arg-type]
    return CalledProcessError(returncode, args, output=out, stderr=err)


def _expired(
    args: Any,
    status: ExitStatus,
    command: Command,
    timeout: float | None,
    outputs: list[bytes | None],
    codec: Codec | None,
    deadline: bool,
) -> TimeoutExpired:
    """The exception for a run that was stopped, as the drop-in has it: half a character may have come."""
    said = [
        None if output is None
        else so_far(output, codec[0] or text_encoding(), codec[1]) if codec is not None
        else output or None
        for output in outputs
    ]  # fmt: skip
    if status.reason is ExitReason.IDLE_TIMEOUT:
        return IdleTimeoutExpired(args, command.idle_timeout or 0.0, output=said[0], stderr=said[1])
    if timeout is None or (deadline and status.duration < timeout):
        # It was the deadline of a token.
        timeout = status.duration
    return TimeoutExpired(args, timeout, output=said[0], stderr=said[1])


def _decoded(output: bytes, codec: Codec | None) -> str | bytes:
    if codec is None:
        return output
    # As subprocess does: universal newlines, and the encoding of the locale if none is named.
    with io.TextIOWrapper(io.BytesIO(output), encoding=codec[0] or "locale", errors=codec[1]) as reader:
        return reader.read()


def _encoded(text: str, codec: Codec) -> bytes:
    buffer = io.BytesIO()
    with io.TextIOWrapper(buffer, encoding=codec[0] or "locale", errors=codec[1], newline="\n") as writer:
        writer.write(text)
        writer.flush()
        return buffer.getvalue()
