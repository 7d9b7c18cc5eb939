"""The standard module ``subprocess`` on the C core: change one import, and nothing else.

    from fastproc import subprocess

    subprocess.run(["make"], capture_output=True, text=True, timeout=600, check=True)

All names of the standard module are here. Constants, results and exceptions are its own objects, ``Popen``
is a subclass of its class, and what is not said otherwise is as its documentation says. `run` and its
relatives are one call into C: start, feed, read, reap. What is different on purpose is listed, with a switch
for each that gives the old behaviour, in `differences`; see docs/reference/subprocess.md.

Six keywords are new in Popen and in all that is built upon it: `limits`, `grace`, `idle_timeout`,
`no_new_privs`, `cpu_affinity` and `nice`.
"""

import contextlib
import operator as _operator
import subprocess as _standard
import sys as _sys
import typing as _typing
from subprocess import (
    DEVNULL,
    PIPE,
    STDOUT,
    CalledProcessError,
    CompletedProcess,
    SubprocessError,
    TimeoutExpired,
)

from ._native import solo as _solo
from ._native.clock import grace_ns as _grace_ns, length_ns as _length_ns
from ._native.crew import StartFailed as _StartFailed
from ._popen import arguments as _arguments, popen as _popen
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

# What programs, and the tests of the standard module, find in it beside its public names is here as well.
globals().update({name: value for name, value in vars(_standard).items() if name not in globals()})

for _each in (Popen, IdleTimeoutExpired, Differences):
    _each.__module__ = __name__

_Any = _typing.Any
_OurPopen = Popen
_StandardPopen = _standard.Popen
# What run() calls of a Popen. Who has put another function in the place of one of them is to find it called:
# then nothing goes the short way. To compare all of them costs 0.5 us behind a start, as the caches are cold.
# So what our class overrides is compared, and what it inherits shows by one more name in its dictionary.
_methods = _operator.attrgetter("__init__", "__enter__", "__exit__", "communicate", "wait", "poll", "kill")
_METHODS = _methods(_OurPopen)
_INIT, _COMMUNICATE = _OurPopen.__init__, _OurPopen.communicate
_KILL, _WAIT = _OurPopen.kill, _OurPopen.wait
_own = vars(_OurPopen)
_own_size = len(_own)
_active: list[_Any] = vars(_standard)["_active"]
_cleanup: _Any = vars(_standard)["_cleanup"]

# The keywords that a run in one call understands. `close_fds` and the like are rare enough for the long way.
_EXTRAS = frozenset(_arguments.EXTRAS)
_STREAMS = ("stdin", "stdout", "stderr")
_TEXT = ("text", "encoding", "errors", "universal_newlines")
_PLAIN = frozenset(_STREAMS)
_IN_ONE_CALL = frozenset({*_STREAMS, *_TEXT, *_EXTRAS, "shell", "cwd", "env", "executable", "args"})
_run_plain = _solo.run_plain
_spare = _solo.spare
_SPARE_AT_MOST = _solo.SPARE_AT_MOST
_STOPPED = (_solo.TIMED_OUT, _solo.WAS_SILENT)
_SIGINT_PATIENCE_NS = 250_000_000
_Text = tuple[str, str]


class StatusUnknown(CalledProcessError):
    """`check` was asked for, and the exit status was taken by other code of this program.

    `returncode` is None.
    """

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

    A time-out stops the command and its descendants, as far as they can be found (in its cgroup, or else
    from /proc), and returns within a second of it, whoever holds the pipes. With ``grace=`` they get SIGTERM
    first.

    Blocks the calling thread, and only it; Ctrl-C interrupts it.

    Raises:
        TimeoutExpired: after `timeout` seconds, with the output so far, as str in text mode;
            IdleTimeoutExpired after `idle_timeout` seconds without output.
        CalledProcessError: with `check`, the returncode is not 0.
        OSError, ValueError, TypeError: it could not be started, see Popen.
    """
    if timeout is None and input is None and len(popenargs) == 1 and (not kwargs or kwargs.keys() <= _PLAIN):
        done = _run_plainly(popenargs[0], kwargs, capture_output)
        if done is not None:
            if check:
                _check(done)
            return done

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
    short = _is_whole(popen) and kwargs.keys() <= _IN_ONE_CALL and (timeout is None or _can_time_out(timeout))
    if short and len(popenargs) + ("args" in kwargs) == 1:
        done = _run_in_one_call(popenargs[0] if popenargs else kwargs["args"], kwargs, input, timeout)
        if done is not None:
            if check:
                _check(done)
            return done
    return _run_with(popen, popenargs, kwargs, input, timeout, check)


def _check(done: "CompletedProcess[_Any]") -> None:
    returncode: int | None = done.returncode
    if returncode:
        raise CalledProcessError(returncode, done.args, output=done.stdout, stderr=done.stderr)
    if returncode is None:
        raise StatusUnknown(None, done.args, output=done.stdout, stderr=done.stderr)  # type: ignore[arg-type]


def _popen_class() -> _Any:
    """What to start with: our class, or what somebody has put in its place, here or there."""
    standard = _standard.Popen
    return Popen if standard is _StandardPopen or standard is _OurPopen else standard


def _is_whole(popen: _Any) -> bool:
    """Whether it is our class as we have made it, so that nobody would notice that no Popen is made."""
    global _own_size
    if popen is not _OurPopen or _methods(popen) != _METHODS:
        return False
    # Something else was put there, or what was replaced has been put back.
    _own_size = len(_own)
    return True


def _function(name: str) -> _Any:
    """One of our functions, or what somebody has put in its place, here or there."""
    standard = getattr(_standard, name)
    theirs, ours = _KNOWN[name]
    return globals()[name] if standard is theirs or standard is ours else standard


# ---- one call into C ----


def _run_plainly(args: _Any, kwargs: dict[str, _Any], both: bool) -> "CompletedProcess[_Any] | None":
    """The shortest way, of what most calls say: a list of str, and perhaps streams. None as below.

    It calls hardly anything: behind a start each function takes a microsecond, as the caches are cold.
    """
    # As _popen_class() has it.
    standard = _standard.Popen
    if (
        _run_plain is None
        or Popen is not _OurPopen
        or (standard is not _StandardPopen and standard is not _OurPopen)
        # As _is_whole() has it.
        or len(_own) != _own_size
        or Popen.__init__ is not _INIT
        or Popen.communicate is not _COMMUNICATE
    ):
        return None
    if _active:
        _cleanup()
    try:
        filled = _spare.pop()
    except IndexError:
        filled = _solo.berth()
    filled.inherits = False
    try:
        ended = _run_plain(filled.pointers, args, kwargs, both)
    except BaseException as trouble:
        _give_up(filled, isinstance(trouble, KeyboardInterrupt))
        raise
    if ended is None:
        _solo.give_back(filled)
        return None
    if ended is False:
        raise _arguments.start_error(_solo.why_not_started(filled), args[0], None)
    returncode, _, stdout, stderr = ended
    if returncode is None:
        returncode = _unknown(filled.result.exit.pid, args)
    if filled.usual and len(_spare) < _SPARE_AT_MOST:
        _spare.append(filled)
    return CompletedProcess(args, returncode, stdout, stderr)  # type: ignore[arg-type]


def _run_in_one_call(
    args: _Any, kwargs: dict[str, _Any], data: _Any, timeout: float | None
) -> "CompletedProcess[_Any] | None":
    """The short way. None if only the long way knows what is asked for; nothing has been started then."""
    text: _Any = None
    extras = env = cwd = executable = shell = None
    if kwargs:
        text = _text_mode(kwargs)
        if text is False:
            return None
        if not _EXTRAS.isdisjoint(kwargs):
            extras = _arguments.Extras.of({name: kwargs.get(name) for name in _EXTRAS})
        env, cwd = kwargs.get("env"), kwargs.get("cwd")
        executable, shell = kwargs.get("executable"), kwargs.get("shell")
    if data is not None and (data := _encoded(data, text)) is None:
        return None
    filled = _solo.berth()
    captures = _set_streams(filled, kwargs)
    if captures is None:
        return None
    arguments, program = _arguments.command_line(args, executable, shell)
    _sys.audit("subprocess.Popen", program, arguments, cwd, env)
    _arguments.set_command(filled, arguments, program, cwd, env)
    if data:
        _solo.set_input(filled, data)
    if timeout is not None or extras is not None:
        _set_limits(filled, extras, timeout, bool(captures))
    if _active:
        _cleanup()

    try:
        returncode, reason, out, err = _solo.run(filled)
    except _StartFailed as failed:
        raise _arguments.start_error(failed.failure, program, cwd) from None
    except BaseException as trouble:
        _give_up(filled, isinstance(trouble, KeyboardInterrupt))
        raise
    if reason in _STOPPED:
        raise _expired(filled, args, timeout, extras, (out, err), captures, text)
    if returncode is None:
        returncode = _unknown(filled.result.exit.pid, args)
    _solo.give_back(filled)
    stdout: _Any = out if out is None or not text else _arguments.translated(out, *text)
    stderr: _Any = err if err is None or not text else _arguments.translated(err, *text)
    return CompletedProcess(args, returncode, stdout, stderr)  # type: ignore[arg-type]


def _text_mode(kwargs: dict[str, _Any]) -> _Text | bool | None:
    """Encoding and errors; None for bytes, False if the long way has to judge."""
    get = kwargs.get
    encoding, errors = get("encoding"), get("errors")
    if not (encoding or errors or get("text") or get("universal_newlines")):
        return None
    if encoding is None:
        if _sys.flags.warn_default_encoding or ("text" in kwargs and "universal_newlines" in kwargs):
            return False
        encoding = _arguments.text_encoding()
    elif not _arguments.is_text_encoding(encoding) or "16" in encoding or "32" in encoding:
        # UTF-16 without a mark of its byte order: a stream refuses it, and two streams do not.
        return False
    return encoding, errors or "strict"


def _encoded(data: _Any, text: _Any) -> _Any:
    """What is fed, as bytes. None if it does not fit the mode: the long way raises what is to be raised."""
    if text:
        return data.encode(*text) if isinstance(data, str) else None
    return data if isinstance(data, (bytes, bytearray)) else None


def _can_time_out(timeout: _Any) -> bool:
    return (
        isinstance(timeout, (int, float))
        and timeout > 0
        and not (differences.spared_descendants or differences.endless_pipes)
    )


def _set_streams(filled: _solo.Berth, kwargs: dict[str, _Any]) -> int | None:
    """Fill in the standard streams. Bits 0 and 1: output and error are captured; None: the long way knows."""
    captures = 0
    if not kwargs and filled.inherits:
        return 0
    filled.inherits = not kwargs
    for number, stream in enumerate(filled.streams):
        value = kwargs.get(_STREAMS[number])
        if value is None:
            stream.kind = _solo.INHERIT
        elif value == PIPE:
            stream.kind = _solo.CAPTURED
            captures |= number
        elif value == DEVNULL:
            stream.kind = _solo.NULL_DEVICE
        elif value == STDOUT:
            if number != 2 or kwargs.get("stdout") is None:
                return None
            stream.kind = _solo.WITH_OUTPUT
        else:
            descriptor = value if isinstance(value, int) else value.fileno()
            if descriptor < 0:
                return None
            stream.kind = _solo.DESCRIPTOR
            stream.fd = descriptor
    return captures


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


def _expired(
    filled: _solo.Berth,
    args: _Any,
    timeout: float | None,
    extras: _arguments.Extras | None,
    outputs: tuple[bytes | None, bytes | None],
    captures: int,
    text: _Any,
) -> TimeoutExpired:
    """The exception for a run that was stopped, with what has come so far.

    Who hangs in the kernel, killed, is left in the berth, and reaped one day.
    """
    expired: _Any
    if filled.result.exit.reason == _solo.TIMED_OUT:
        expired = TimeoutExpired(args, timeout)  # type: ignore[arg-type]
    else:
        expired = IdleTimeoutExpired(args, extras.idle_timeout)  # type: ignore[union-attr, arg-type]
    expired.output, expired.stderr = (
        None if not captures & bit
        else _arguments.so_far(data or b"", *text) if text and not differences.bytes_in_timeouts
        else data or None
        for bit, data in zip((1, 2), outputs, strict=True)
    )  # fmt: skip
    return expired  # type: ignore[no-any-return]


def _unknown(pid: int, args: _Any) -> int | None:
    if differences.invented_status:
        return 0
    _arguments.warn_of_lost_status(pid, args)
    return None


def _give_up(filled: _solo.Berth, interrupted: bool) -> None:
    """An exception has come out of a signal handler: kill the child, as subprocess.run does, and reap it."""
    # Ctrl-C has reached the child as well, which is given a moment for its own end.
    _popen.give_up(_solo.rescue(filled), _SIGINT_PATIENCE_NS if interrupted else 0)


# ---- the long way ----


def _run_with(
    popen: _Any,
    popenargs: tuple[_Any, ...],
    kwargs: dict[str, _Any],
    data: _Any,
    timeout: float | None,
    check: bool,
) -> "CompletedProcess[_Any]":
    """A Popen, a conversation with it, and its end: as the standard module does it."""
    if popen is _OurPopen and timeout is not None:
        _arguments.point_in_time(timeout)  # before anything is started for what makes no sense
    if popen is _OurPopen and (timeout is not None or kwargs.get("idle_timeout") is not None):
        process = _timed_popen(popenargs, kwargs)
    else:
        process = popen(*popenargs, **kwargs)
    # A test double gives the process only here.
    with process as process:
        try:
            stdout, stderr = process.communicate(data, timeout=timeout)
        except TimeoutExpired:
            _end(process)
            raise
        except:
            # Also KeyboardInterrupt, for which communicate() has waited a moment. __exit__ waits for it.
            process.kill()
            raise
        returncode: _Any = process.poll()
    done: CompletedProcess[_Any] = CompletedProcess(process.args, returncode, stdout, stderr)
    # A test double may have no returncode at all, which passes the check of the standard module.
    if check and (returncode is not None or getattr(process, "_lost", False) is True):
        _check(done)
    return done


def _timed_popen(popenargs: tuple[_Any, ...], kwargs: dict[str, _Any]) -> _Any:
    """One that gets a cgroup for its descendants, where one can be had."""
    process: _Any = _OurPopen.__new__(_OurPopen)
    process._timed = not differences.spared_descendants
    process.__init__(*popenargs, **kwargs)
    return process


def _end(process: _Any) -> None:
    """Its time is over: it, and its descendants, as far as they can be found."""
    if differences.spared_descendants or not isinstance(process, _OurPopen):
        process.kill()
        process.wait()
        return
    replaced = type(process).kill is not _KILL or type(process).wait is not _WAIT
    if replaced:
        process.kill()
    # Who hangs in the kernel even then is reaped when that lets him go.
    with contextlib.suppress(TimeoutExpired):
        process.stop(kill_timeout=_solo.KILL_TIMEOUT_NS / 1e9)
    if replaced:
        process.wait()


# ---- what is built upon it ----


def call(*popenargs: _Any, timeout: float | None = None, **kwargs: _Any) -> int:
    """Run a command and return its returncode, as ``subprocess.call`` does; time-outs are those of run()."""
    streams = kwargs.get("stdin"), kwargs.get("stdout"), kwargs.get("stderr")
    popen = _popen_class()
    if _is_whole(popen) and PIPE not in streams and kwargs.keys() <= _IN_ONE_CALL:
        # Not what somebody has put in its place: the standard module does not call it here.
        returncode: int = _our_run(*popenargs, timeout=timeout, **kwargs).returncode
        return returncode
    if popen is _OurPopen and timeout is not None:
        process = _timed_popen(popenargs, kwargs)
    else:
        process = popen(*popenargs, **kwargs)
    with process as process:
        try:
            returncode = process.wait(timeout=timeout)
        except TimeoutExpired:
            _end(process)
            raise
        except:
            process.kill()
            raise
    return returncode


def check_call(*popenargs: _Any, **kwargs: _Any) -> int:
    """Run a command and return 0, or raise CalledProcessError, as ``subprocess.check_call`` does."""
    returncode = _function("call")(*popenargs, **kwargs)
    cmd: _Any = popenargs[0] if popenargs else kwargs.get("args")
    _check(CompletedProcess(cmd, returncode))
    return 0


def check_output(*popenargs: _Any, timeout: float | None = None, **kwargs: _Any) -> _Any:
    """Run a command and return its output, or raise, as ``subprocess.check_output`` does."""
    for keyword in ("stdout", "check"):
        if keyword in kwargs:
            raise ValueError(f"{keyword} argument not allowed, it will be overridden.")
    if "input" in kwargs and kwargs["input"] is None:
        # To give None explicitly means to give nothing to read.
        text = any(kwargs.get(name) for name in ("universal_newlines", "text", "encoding", "errors"))
        kwargs["input"] = "" if text else b""
    return _function("run")(*popenargs, stdout=PIPE, timeout=timeout, check=True, **kwargs).stdout


def getstatusoutput(cmd: _Any, *, encoding: str | None = None, errors: str | None = None) -> tuple[int, str]:
    """Run a command in a shell and return (returncode, output), as ``subprocess.getstatusoutput`` does.

    The returncode is None if nobody can know it, which is warned of.
    """
    try:
        output: str = _function("check_output")(
            cmd, shell=True, text=True, stderr=STDOUT, encoding=encoding, errors=errors
        )
        returncode = 0
    except CalledProcessError as error:
        output = error.output
        returncode = error.returncode
    return returncode, output.removesuffix("\n")


def getoutput(cmd: _Any, *, encoding: str | None = None, errors: str | None = None) -> str:
    """Run a command in a shell, and return its output, as ``subprocess.getoutput`` does."""
    output: str = _function("getstatusoutput")(cmd, encoding=encoding, errors=errors)[1]
    return output


_our_run = run
_KNOWN = {
    name: (getattr(_standard, name), globals()[name])
    for name in ("run", "call", "check_output", "getstatusoutput")
}
