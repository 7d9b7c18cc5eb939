"""The standard module ``subprocess`` on the C core: change one import, and nothing else.

    from fastproc import subprocess

    subprocess.run(["make"], capture_output=True, text=True, timeout=600, check=True)

All names of the standard module are here. Constants, results and exceptions are its own objects, ``Popen`` is a
subclass of its class, and what is not said otherwise is as its documentation says. `run` and its relatives are
one call into C: start, feed, read, reap. What is different on purpose is listed, with a switch for each that
gives the old behaviour, in `differences`; see docs/reference/subprocess.md.

Six keywords are new in Popen and all that is built upon it: `limits`, `grace`, `idle_timeout`, `no_new_privs`,
`cpu_affinity` and `nice`.
"""

import subprocess as _standard
import sys as _sys
import time as _time
import typing as _typing

# What code finds in the standard module beside its public names is here as well: some programs, and its own
# tests, look at it.
from subprocess import (  # type: ignore[attr-defined]
    DEVNULL,
    PIPE,
    STDOUT,
    CalledProcessError,
    CompletedProcess,
    SubprocessError,
    TimeoutExpired,
    _active as _active,
    _args_from_interpreter_flags as _args_from_interpreter_flags,
    _can_fork_exec as _can_fork_exec,
    _cleanup as _cleanup,
    _fork_exec as _fork_exec,
    _mswindows as _mswindows,
    _optim_args_from_interpreter_flags as _optim_args_from_interpreter_flags,
    _PopenSelector as _PopenSelector,
    _text_encoding as _text_encoding,
    _USE_POSIX_SPAWN as _USE_POSIX_SPAWN,
    _USE_VFORK as _USE_VFORK,
    _use_posix_spawn as _use_posix_spawn,
    builtins as builtins,
    contextlib as contextlib,
    errno as errno,
    fcntl as fcntl,
    io as io,
    list2cmdline as list2cmdline,
    locale as locale,
    os as os,
    select as select,
    selectors as selectors,
    signal as signal,
    sys as sys,
    threading as threading,
    time as time,
    types as types,
    warnings as warnings,
)

from ._native import solo as _solo
from ._native.clock import grace_ns as _grace_ns, length_ns as _length_ns
from ._native.crew import StartFailed as _StartFailed
from ._popen import arguments as _arguments
from ._popen.differences import Differences, differences
from ._popen.popen import IdleTimeoutExpired, Popen

__all__ = [
    "DEVNULL",
    "PIPE",
    "STDOUT",
    "CalledProcessError",
    "CompletedProcess",
    "Differences",
    "IdleTimeoutExpired",
    "Popen",
    "StatusUnknown",
    "SubprocessError",
    "TimeoutExpired",
    "call",
    "check_call",
    "check_output",
    "differences",
    "getoutput",
    "getstatusoutput",
    "run",
]

_Any = _typing.Any
_OurPopen = Popen
_StandardPopen = _standard.Popen

# The keywords that a run in one call understands. `close_fds` and the like are rare enough for the long way.
_IN_ONE_CALL = frozenset(
    {
        "stdin", "stdout", "stderr", "shell", "cwd", "env", "executable", "text", "encoding", "errors",
        "universal_newlines", "args", *_arguments.EXTRAS,
    }
)  # fmt: skip
_PLAIN_BYTES = (bytes, bytearray)
_SIGINT_PATIENCE_NS = 250_000_000
_NULL_CELL = _solo.ffi.NULL


class StatusUnknown(CalledProcessError):
    """`check` was asked for, and the exit status was taken by other code of this program."""

    def __str__(self) -> str:
        return f"Command {self.cmd!r} has ended, and its exit status was taken by other code of this program."


def run(
    *popenargs: _Any,
    input: _Any = None,  # noqa: A002
    capture_output: bool = False,
    timeout: float | None = None,
    check: bool = False,
    **kwargs: _Any,
) -> "CompletedProcess[_Any]":
    """Run a command to its end and return a CompletedProcess, as ``subprocess.run`` does.

    A time-out stops the command and its descendants, as far as they can be found (in its cgroup, or else from
    /proc), and returns within a second of it, whoever holds the pipes. With ``grace=`` they get SIGTERM first.

    Blocks the calling thread, and only it; Ctrl-C interrupts it.

    Raises:
        TimeoutExpired: after `timeout` seconds, with the output so far, as str in text mode;
            IdleTimeoutExpired after `idle_timeout` seconds without output.
        CalledProcessError: with `check`, the returncode is not 0.
        OSError, ValueError, TypeError: it could not be started, see Popen.
    """
    if input is not None:
        if kwargs.get("stdin") is not None:
            raise ValueError("stdin and input arguments may not both be used.")
        kwargs["stdin"] = PIPE
    if capture_output:
        if kwargs.get("stdout") is not None or kwargs.get("stderr") is not None:
            raise ValueError("stdout and stderr arguments may not be used with capture_output.")
        kwargs["stdout"] = PIPE
        kwargs["stderr"] = PIPE

    popen = _popen_class()
    if popen is _OurPopen and kwargs.keys() <= _IN_ONE_CALL and len(popenargs) + ("args" in kwargs) == 1:
        done = _run_in_one_call(popenargs[0] if popenargs else kwargs["args"], kwargs, input, timeout)
        if done is not None:
            if check:
                _check(done)
            return done
    done = _run_with(popen, popenargs, kwargs, input, timeout)
    if check:
        _check(done)
    return done


def _check(done: "CompletedProcess[_Any]") -> None:
    if done.returncode:
        raise CalledProcessError(done.returncode, done.args, output=done.stdout, stderr=done.stderr)
    if done.returncode is None and not isinstance(done.args, type(None)):
        raise StatusUnknown(None, done.args, output=done.stdout, stderr=done.stderr)  # type: ignore[arg-type]


def _popen_class() -> _Any:
    """The class to start with: ours, or what somebody has put in its place, here or in the standard module."""
    standard = _standard.Popen
    return Popen if standard is _StandardPopen or standard is _OurPopen else standard


# ---- one call into C ----


def _run_in_one_call(
    args: _Any, kwargs: dict[str, _Any], data: _Any, timeout: float | None
) -> "CompletedProcess[_Any] | None":
    """The short way. None if something is asked for that goes the long way; then nothing has been started."""
    get = kwargs.get
    encoding, errors = get("encoding"), get("errors")
    text_mode = encoding or errors or get("text") or get("universal_newlines")
    if text_mode:
        if encoding is None:
            if _sys.flags.warn_default_encoding or ("text" in kwargs and "universal_newlines" in kwargs):
                return None
            encoding = _arguments.text_encoding()
        elif not _arguments.is_text_encoding(encoding):
            return None
    if data is not None:
        if not text_mode:
            if not isinstance(data, _PLAIN_BYTES):
                return None
        elif isinstance(data, str):
            data = data.encode(encoding, errors or "strict")
        else:
            return None
    extras = None
    if len(kwargs) > 3:
        extras = _arguments.Extras.of({name: get(name) for name in _arguments.EXTRAS})
    if timeout is not None and (differences.spared_descendants or differences.endless_pipes or timeout <= 0):
        return None

    filled = _solo.berth()
    captures = _set_streams(filled, get("stdin"), get("stdout"), get("stderr"))
    if captures is None:
        return None
    executable, cwd, env = get("executable"), get("cwd"), get("env")
    arguments, program = _arguments.command_line(args, executable, get("shell"))
    _sys.audit("subprocess.Popen", program, arguments, cwd, env)
    _arguments.set_command(filled, arguments, program, cwd, env)
    if data:
        _solo.set_input(filled, data)
    if timeout is not None or extras is not None:
        _set_limits(filled, extras, timeout, bool(captures))
    if _standard._active:  # type: ignore[attr-defined]
        _cleanup()

    try:
        ended = _solo.run(filled)
    except _StartFailed as failed:
        raise _arguments.start_error(failed.failure, program, cwd) from None
    except BaseException as trouble:
        _give_up(filled, args, isinstance(trouble, KeyboardInterrupt))
        raise
    returncode, reason, out, err = ended
    if reason == _solo.TIMED_OUT or reason == _solo.WAS_SILENT:
        if (left := _solo.rescue(filled)) is not None:
            _active.append(_leftover(left, args))
        if reason == _solo.TIMED_OUT:
            expired: _Any = TimeoutExpired(args, timeout)  # type: ignore[arg-type]
        else:
            expired = IdleTimeoutExpired(args, get("idle_timeout"))
        expired.output = _so_far(out, captures & 1, encoding, errors) if text_mode else out or None
        expired.stderr = _so_far(err, captures & 2, encoding, errors) if text_mode else err or None
        raise expired
    pid = 0
    if returncode is None:
        pid = filled.result.exit.pid
    _solo.give_back(filled)
    if returncode is None:
        if differences.invented_status:
            returncode = 0
        else:
            _arguments.warn_of_lost_status(pid, args)
    stdout: _Any = None
    stderr: _Any = None
    if captures & 1:
        stdout = _arguments.translated(out, encoding, errors) if text_mode else out
    if captures & 2:
        stderr = _arguments.translated(err, encoding, errors) if text_mode else err
    return CompletedProcess(args, returncode, stdout, stderr)  # type: ignore[arg-type]


def _set_streams(filled: _solo.Berth, stdin: _Any, stdout: _Any, stderr: _Any) -> int | None:
    """Fill in the standard streams. Bits 0 and 1: output and error are captured; None: the long way knows."""
    captures = 0
    first, second, third = filled.streams
    if stdin is None:
        first.kind = _solo.INHERIT
    elif not _set_stream(first, stdin):
        return None
    if stdout is None:
        second.kind = _solo.INHERIT
    elif stdout == PIPE:
        second.kind = _solo.CAPTURED
        captures = 1
    elif not _set_stream(second, stdout):
        return None
    if stderr is None:
        third.kind = _solo.INHERIT
    elif stderr == PIPE:
        third.kind = _solo.CAPTURED
        captures |= 2
    elif stderr == STDOUT:
        if stdout is None:
            return None
        third.kind = _solo.WITH_OUTPUT
    elif not _set_stream(third, stderr):
        return None
    return captures


def _set_stream(stream: _Any, value: _Any) -> bool:
    if value == PIPE:
        stream.kind = _solo.CAPTURED
        return True
    if value == DEVNULL:
        stream.kind = _solo.NULL_DEVICE
        return True
    if not isinstance(value, int):
        value = value.fileno()
    if value < 0:
        return False
    stream.kind = _solo.DESCRIPTOR
    stream.fd = value
    return True


def _set_limits(
    filled: _solo.Berth, extras: _arguments.Extras | None, timeout: float | None, captures: bool
) -> None:
    idle = None
    if extras is not None:
        idle = extras.idle_timeout
        if idle is not None and not captures:
            raise ValueError("idle_timeout counts from the last byte: it needs stdout=PIPE or stderr=PIPE")
        if extras.names:
            _solo.set_extras(filled, extras.command, extras.names)
        if extras.grace is not None:
            filled.spec.grace_ns = _grace_ns(extras.grace)
    _solo.set_timeouts(filled, _length_ns(timeout), _length_ns(idle))


def _so_far(data: bytes, captured: int, encoding: str, errors: str | None) -> _Any:
    if not captured:
        return None
    if differences.bytes_in_timeouts:
        return data or None
    return _arguments.so_far(data, encoding, errors)


def _give_up(filled: _solo.Berth, args: _Any, interrupted: bool) -> None:
    """An exception has come out of a signal handler: kill the child, as subprocess.run does, and reap it."""
    left = _solo.rescue(filled)
    if left is None:
        return
    try:
        # Ctrl-C has reached the child as well, which is given a moment for its own end.
        if interrupted and left.wait(_SIGINT_PATIENCE_NS) is not None:
            return
        left.signal(signal.SIGKILL)
        left.wait(_solo.KILL_TIMEOUT_NS)
    finally:
        if left.wait(0) is None:
            _active.append(_leftover(left, args))


def _leftover(left: _solo.Solo, args: _Any) -> _Any:
    """What _cleanup() reaps one day."""
    process: _Any = _OurPopen.__new__(_OurPopen)
    process.args, process.pid, process.returncode = args, left.pid, None
    process._solo, process._lost = left, True
    return process


# ---- the long way ----


def _run_with(
    popen: _Any, popenargs: tuple[_Any, ...], kwargs: dict[str, _Any], data: _Any, timeout: float | None
) -> "CompletedProcess[_Any]":
    """A Popen, a conversation with it, and its end: as the standard module does it."""
    if popen is _OurPopen and (timeout is not None or kwargs.get("idle_timeout") is not None):
        process = popen.__new__(popen)
        process._timed = not differences.spared_descendants
        process.__init__(*popenargs, **kwargs)
    else:
        process = popen(*popenargs, **kwargs)
    with process:
        try:
            stdout, stderr = process.communicate(data, timeout=timeout)
        except TimeoutExpired:
            _end(process)
            raise
        except:
            # Also KeyboardInterrupt, for which communicate() has waited a moment; __exit__ waits for the rest.
            process.kill()
            raise
        returncode = process.poll()
    return CompletedProcess(process.args, returncode, stdout, stderr)


def _end(process: _Any) -> None:
    """Its time is over: it, and its descendants, as far as they can be found."""
    if differences.spared_descendants or not isinstance(process, _OurPopen):
        process.kill()
        process.wait()
        return
    try:
        process.stop(kill_timeout=_solo.KILL_TIMEOUT_NS / 1e9)
    except TimeoutExpired:
        pass  # somebody hangs in the kernel, and is reaped when that lets him go


# ---- what is built upon it ----


def call(*popenargs: _Any, timeout: float | None = None, **kwargs: _Any) -> int:
    """Run a command and return its returncode, as ``subprocess.call`` does; time-outs are those of run()."""
    streams = kwargs.get("stdin"), kwargs.get("stdout"), kwargs.get("stderr")
    popen = _popen_class()
    if popen is _OurPopen and PIPE not in streams and kwargs.keys() <= _IN_ONE_CALL:
        done = run(*popenargs, timeout=timeout, **kwargs)
        return done.returncode
    if popen is _OurPopen and timeout is not None:
        process = popen.__new__(popen)
        process._timed = not differences.spared_descendants
        process.__init__(*popenargs, **kwargs)
    else:
        process = popen(*popenargs, **kwargs)
    with process:
        try:
            returncode: int = process.wait(timeout=timeout)
        except TimeoutExpired:
            _end(process)
            raise
        except:
            process.kill()
            raise
    return returncode


def check_call(*popenargs: _Any, **kwargs: _Any) -> int:
    """Run a command and return 0, or raise CalledProcessError, as ``subprocess.check_call`` does."""
    returncode = call(*popenargs, **kwargs)
    _check(CompletedProcess(popenargs[0] if popenargs else kwargs.get("args"), returncode))
    return 0


def check_output(*popenargs: _Any, timeout: float | None = None, **kwargs: _Any) -> _Any:
    """Run a command and return its output, or raise CalledProcessError, as ``subprocess.check_output`` does."""
    for keyword in ("stdout", "check"):
        if keyword in kwargs:
            raise ValueError(f"{keyword} argument not allowed, it will be overridden.")
    if "input" in kwargs and kwargs["input"] is None:
        # To give None explicitly means to give nothing to read.
        text = any(kwargs.get(name) for name in ("universal_newlines", "text", "encoding", "errors"))
        kwargs["input"] = "" if text else b""
    return run(*popenargs, stdout=PIPE, timeout=timeout, check=True, **kwargs).stdout


def getstatusoutput(cmd: _Any, *, encoding: str | None = None, errors: str | None = None) -> tuple[int, str]:
    """Run a command in a shell, and return its returncode and output, as ``subprocess.getstatusoutput`` does."""
    try:
        output: str = check_output(cmd, shell=True, text=True, stderr=STDOUT, encoding=encoding, errors=errors)
        returncode = 0
    except CalledProcessError as error:
        output = error.output
        returncode = error.returncode
    return returncode, output.removesuffix("\n")


def getoutput(cmd: _Any, *, encoding: str | None = None, errors: str | None = None) -> str:
    """Run a command in a shell, and return its output, as ``subprocess.getoutput`` does."""
    return getstatusoutput(cmd, encoding=encoding, errors=errors)[1]
