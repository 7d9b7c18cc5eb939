"""Popen on the C core: the standard class, with its start, its waiting and its signals replaced."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import time
import warnings
from typing import TYPE_CHECKING, Any, AnyStr

from .._native import solo
from .._native.clock import grace_ns, length_ns, nanoseconds, timeout_ns
from .._native.crew import StartFailed
from .._native.statuses import status_of_record
from ..status import ExitStatus
from .arguments import (
    Extras,
    command_line,
    kept_descriptors,
    point_in_time,
    refuse_wide,
    set_command,
    so_far,
    start_error,
    text_encoding,
    translated,
    warn_of_lost_status,
)
from .differences import differences

PIPE = subprocess.PIPE
_READERS = {type(None), io.BufferedReader, io.FileIO, io.TextIOWrapper}
_WRITERS = {type(None), io.BufferedWriter, io.FileIO, io.TextIOWrapper}
_start_plain = solo.start_plain
_warned_of_preexec_fn = False


class IdleTimeoutExpired(subprocess.TimeoutExpired):
    """Nothing came on a captured stream for `idle_timeout` seconds."""

    def __str__(self) -> str:
        return f"Command '{self.cmd}' wrote nothing for {self.timeout} seconds"


class Popen(subprocess.Popen[AnyStr]):
    """A child process, as with ``subprocess.Popen``: the same arguments, attributes, methods and errors.

    It is started by the C library in the calling thread: without a copy of this process, in the caller's
    session and group. It is not ended when the interpreter exits, and its descendants outlive it. Every
    method may be called from any thread; two threads in communicate() at a time are one too many.

    Args:
        limits: a ``fastproc.Limits``, set before the program is executed.
        grace: seconds from SIGTERM to SIGKILL in stop(), and for run() after a time-out. None: no SIGTERM.
        idle_timeout: communicate() raises IdleTimeoutExpired when no byte comes for so many seconds on a
            captured stream. As with its `timeout`, the child runs on.
        no_new_privs: neither it nor its descendants gain privileges by execve(2), see PR_SET_NO_NEW_PRIVS.
        cpu_affinity: the CPUs it may run on.
        nice: its priority, from -20 to 19, not relative to ours.

    Raises:
        OSError: as subprocess does, FileNotFoundError and the like, with `filename`; ``fastproc.SpawnError``
            for what only the extra arguments can bring about.
        ValueError, TypeError: the arguments make no sense, or an extra one is combined with `preexec_fn`.
    """

    _solo: solo.Solo | None = None
    _lost: bool = False
    _extras: Extras | None = None
    _timed = False
    _has_ended: bool = False
    _killed: bool = False

    if TYPE_CHECKING:
        # Of the standard class, which keeps them to itself.
        text_mode: Any
        _input: Any
        _save_input: Any
        _close_pipe_fds: Any
        _communication_started: bool
        _sigint_wait_secs: float

    def __init__(
        self,
        args: Any,
        bufsize: Any = -1,
        executable: Any = None,
        stdin: Any = None,
        stdout: Any = None,
        stderr: Any = None,
        preexec_fn: Any = None,
        close_fds: Any = True,
        shell: Any = False,
        cwd: Any = None,
        env: Any = None,
        universal_newlines: Any = None,
        startupinfo: Any = None,
        creationflags: Any = 0,
        restore_signals: Any = True,
        start_new_session: Any = False,
        pass_fds: Any = (),
        *,
        user: Any = None,
        group: Any = None,
        extra_groups: Any = None,
        encoding: Any = None,
        errors: Any = None,
        text: Any = None,
        umask: Any = -1,
        pipesize: Any = -1,
        process_group: Any = None,
        limits: Any = None,
        grace: Any = None,
        idle_timeout: Any = None,
        no_new_privs: Any = False,
        cpu_affinity: Any = None,
        nice: Any = None,
    ) -> None:
        # Most have none of these, and a start is a matter of microseconds.
        if (
            limits is not None
            or grace is not None
            or idle_timeout is not None
            or no_new_privs
            or cpu_affinity is not None
            or nice is not None
        ):
            self._extras = Extras.of(
                {
                    "limits": limits,
                    "grace": grace,
                    "idle_timeout": idle_timeout,
                    "no_new_privs": no_new_privs,
                    "cpu_affinity": cpu_affinity,
                    "nice": nice,
                }
            )
            if self._extras is not None and self._extras.names and preexec_fn is not None:
                raise ValueError(
                    f"preexec_fn cannot be combined with {', '.join(self._extras.names)}: it makes the "
                    "standard library start the child, which does not know these"
                )
            if idle_timeout is not None and PIPE not in (stdout, stderr):
                raise ValueError(
                    "idle_timeout counts from the last byte: it needs stdout=PIPE or stderr=PIPE"
                )
        if sys.flags.warn_default_encoding and encoding is None and (errors or text or universal_newlines):
            encoding = text_encoding()
        try:
            super().__init__(
                args,
                bufsize,
                executable,
                stdin,
                stdout,
                stderr,
                preexec_fn,
                close_fds,
                shell,
                cwd,
                env,
                universal_newlines,
                startupinfo,
                creationflags,
                restore_signals,
                start_new_session,
                pass_fds,
                user=user,
                group=group,
                extra_groups=extra_groups,
                encoding=encoding,
                errors=errors,
                text=text,
                umask=umask,
                pipesize=pipesize,
                process_group=process_group,
            )
        except BaseException:
            give_up(self._solo)
            raise

    # ---- the start ----

    def _execute_child(
        self,
        args: Any,
        executable: Any,
        preexec_fn: Any,
        close_fds: Any,
        pass_fds: Any,
        cwd: Any,
        env: Any,
        startupinfo: Any,
        creationflags: Any,
        shell: Any,
        p2cread: int,
        p2cwrite: int,
        c2pread: int,
        c2pwrite: int,
        errread: int,
        errwrite: int,
        restore_signals: Any,
        gid: int | None,
        gids: list[int] | None,
        uid: int | None,
        umask: int,
        start_new_session: Any,
        process_group: int,
    ) -> None:
        """Start the program; called by the constructor of the standard class."""
        if preexec_fn is not None:
            _warn_of_preexec_fn()
            # fmt: off
            super()._execute_child(  # type: ignore[misc]
                args, executable, preexec_fn, close_fds, pass_fds, cwd, env, startupinfo, creationflags,
                shell, p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite, restore_signals, gid, gids,
                uid, umask, start_new_session, process_group,
            )
            # fmt: on
            if self.returncode is None:
                self._solo = solo.adopt(self.pid, leads=bool(start_new_session) or process_group == 0)
            return

        usual_descriptors = close_fds and not pass_fds and restore_signals
        usual_standing = (
            not start_new_session and process_group < 0
            and uid is None and gid is None and gids is None and umask == -1
        )  # fmt: skip
        usual = usual_descriptors and usual_standing
        filled = solo.berth()
        filled.inherits = False
        try:
            if (
                usual and self._extras is None and not self._timed
                and not shell and executable is None and cwd is None and env is None
                and _start_plain is not None
            ):  # fmt: skip
                pid = _start_plain(filled.pointers, args, p2cread, c2pwrite, errwrite)
                if pid is False:
                    raise start_error(solo.why_not_started(filled), args[0], None)
                if pid:
                    self._enter_start(solo.started(filled), pid)
                    self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)
                    return

            args, executable = command_line(args, executable, shell)
            sys.audit("subprocess.Popen", executable, args, cwd, env)
            set_command(filled, args, executable, cwd, env)
            for stream, fd in zip(filled.streams, (p2cread, c2pwrite, errwrite)):  # noqa: B905 - the check costs
                if fd == -1:
                    stream.kind = solo.INHERIT
                else:
                    stream.kind = solo.DESCRIPTOR
                    stream.fd = fd
            if not usual:
                refuse_wide(umask, gids)
                solo.set_options(
                    filled,
                    inherit_fds=not close_fds,
                    pass_fds=kept_descriptors(pass_fds),
                    restore_signals=bool(restore_signals),
                    new_session=bool(start_new_session),
                    process_group=process_group,
                    uid=uid,
                    gid=gid,
                    groups=gids,
                    umask=umask,
                )
            if self._extras is not None and self._extras.names:
                solo.set_extras(filled, self._extras.command, self._extras.names)
            if self._timed:
                solo.set_timeouts(filled, 1)
            try:
                started = solo.start(filled)
            except StartFailed as failed:
                raise start_error(failed.failure, executable, cwd) from None
            self._enter_start(started, started.pid)
            self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)
            solo.give_back(filled)
        except BaseException:
            # Interrupted, it may have started a child of which nobody will hear.
            if self._solo is None:
                give_up(solo.rescue(filled))
            raise

    def _enter_start(self, started: solo.Solo, pid: int) -> None:
        self._solo = started
        self.pid = pid
        self._child_created = True

    # ---- its end ----

    @property
    def status(self) -> ExitStatus | None:
        """How and when it ended and what it used, or None while that is not known."""
        record = None if self._solo is None else self._solo.record()
        return None if record is None else status_of_record(record)

    def _enter(self, end: solo.End) -> None:
        self._has_ended = True
        code, number = end
        if number:
            self.returncode = -number
        elif code >= 0:
            self.returncode = code
        elif differences.invented_status:
            self.returncode = 0
        elif not self._lost:
            self._lost = True
            warn_of_lost_status(self.pid, self.args)

    def _internal_poll(self, _deadstate: int | None = None, **kwargs: Any) -> int | None:
        started = self._solo
        if started is None:
            return super()._internal_poll(_deadstate, **kwargs)  # type: ignore[misc, no-any-return]
        if self.returncode is None:
            if _deadstate is not None:
                # Nobody has this object any more: there is nobody to be warned.
                self._lost = True
            end = started.wait(0)
            if end is not None:
                self._enter(end)
                if _deadstate is not None and self.returncode is None:
                    self.returncode = _deadstate
        return self.returncode

    def _wait(self, timeout: float | None) -> int | None:
        started = self._solo
        if started is None:
            return super()._wait(timeout)  # type: ignore[misc, no-any-return]
        until = None if timeout is None else point_in_time(timeout)
        while self.returncode is None:
            end = started.wait(-1 if until is None else timeout_ns(max(until - time.monotonic(), 0.0)))
            if end is not None:
                self._enter(end)
                break
            if until is not None and time.monotonic() >= until:
                raise subprocess.TimeoutExpired(self.args, timeout)  # type: ignore[arg-type]
        return self.returncode

    def __del__(self, _maxsize: int = sys.maxsize, _warn: Any = warnings.warn) -> None:
        # Its end is known, only its status is not: it is not "still running".
        if not self._has_ended:
            super().__del__(_maxsize, _warn)  # type: ignore[call-arg]

    # ---- signals ----

    def send_signal(self, sig: int) -> None:
        """Send a signal to the child. Nothing happens if it has ended, and no other process can be hit."""
        started = self._solo
        if started is None:
            super().send_signal(sig)
            return
        self.poll()
        if self.returncode is None:
            self._killed = self._killed or sig == signal.SIGKILL
            started.signal(sig)

    def stop(self, grace: float | None = None, kill_timeout: float = 5.0) -> int | None:
        """End the child and its descendants for certain, and return its returncode.

        SIGTERM to all of them, SIGKILL after `grace` seconds (that of the constructor if None; without one,
        at once), and the wait until nobody is left that can be found. May be called again, and in any state.

        Raises:
            subprocess.TimeoutExpired: somebody is alive `kill_timeout` seconds after SIGKILL.
        """
        if grace is None and self._extras is not None:
            grace = self._extras.grace
        started = self._solo
        if started is None:
            self.kill()
            return self.wait(kill_timeout)
        gone = started.stop(
            solo.AT_ONCE if grace is None else grace_ns(grace), max(nanoseconds(kill_timeout), 1)
        )
        self.poll()
        if not gone:
            raise subprocess.TimeoutExpired(self.args, kill_timeout)
        return self.returncode

    # ---- its streams ----

    def communicate(self, input: Any = None, timeout: float | None = None) -> tuple[Any, Any]:  # noqa: A002
        """Feed its standard input, read its captured streams to their end, wait for it, return what came.

        As with subprocess it can be called again after TimeoutExpired, and nothing is lost. Once the child
        was killed through this object, the streams are given up half a second after its end, whoever
        holds them.
        """
        reads = self.stdout is not None or self.stderr is not None
        begun = self._communication_started
        if self._solo is None or not reads or not self._are_pipes() or (begun and input):
            return super().communicate(input, timeout)
        until = None if timeout is None else point_in_time(timeout)
        single = self.stdin is None and (self.stdout is None or self.stderr is None)
        try:
            if single and until is None and not begun:
                stdout, stderr = self._read_single(self._solo)
            else:
                stdout, stderr = self._communicate(input, until, timeout)
        except KeyboardInterrupt:
            self._await_interrupted(until)
            raise
        finally:
            self._communication_started = True
        # Also when it is known already: some programs put a wait() of their own in its place.
        self.wait(timeout=None if until is None else until - time.monotonic())
        return stdout, stderr

    def _await_interrupted(self, until: float | None) -> None:
        # Ctrl-C has reached the child as well, which is given a moment for its own end.
        patience = self._sigint_wait_secs
        if until is not None:
            patience = min(patience, until - time.monotonic())
        self._sigint_wait_secs = 0
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._wait(timeout=patience)

    def _are_pipes(self) -> bool:
        """Whether our ends are as the constructor has made them: a test double has to be asked in Python."""
        return (
            type(self.stdin) in _WRITERS and type(self.stdout) in _READERS and type(self.stderr) in _READERS
        )

    def _communicate(self, input: Any, endtime: float | None, orig_timeout: float | None) -> tuple[Any, Any]:  # noqa: A002
        """Feed and empty in one call into C; called by communicate()."""
        started = self._solo
        if started is None or not self._are_pipes():
            return super()._communicate(input, endtime, orig_timeout)  # type: ignore[misc, no-any-return]
        if not self._communication_started:
            self._begin_talk(input)
        self._talk(started, endtime, orig_timeout)
        if self.returncode is None:
            self._enter(started.exit())
        text_mode = self.text_mode
        results: list[Any] = [None, None]
        streams: tuple[Any, Any] = (self.stdout, self.stderr)
        for index, stream in enumerate(streams):
            if stream is None:
                continue
            data = started.said(index + 1)
            # It is closed where a signal handler has raised before the last call came to its end.
            reads_ahead = type(stream) is io.BufferedReader and not stream.closed
            if not text_mode and reads_ahead and started.ended(index + 1):
                # Its pipe has ended, so this asks for nothing but what it holds from what was read before.
                ahead = stream.peek()
                data = ahead + data if ahead else data
            stream.close()
            results[index] = translated(data, stream.encoding, stream.errors) if text_mode else data
        return results[0], results[1]

    def _begin_talk(self, data: Any) -> None:
        if self.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                # What the caller has written himself comes first. This may block, as in subprocess.
                self.stdin.flush()
            if not data:
                self._close_stdin()
            self._save_input(data)

    def _close_stdin(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self.stdin.close()  # type: ignore[union-attr]

    def _talk(self, started: solo.Solo, endtime: float | None, timeout: float | None) -> None:
        data = self._input if self.stdin is not None and not self.stdin.closed else None
        if data is not None and not isinstance(data, (bytes, bytearray)):
            data = memoryview(data).cast("B")
        idle = None if self._extras is None else self._extras.idle_timeout
        while True:
            feeding = self.stdin is not None and not self.stdin.closed
            answer = started.talk(
                (
                    self.stdin.fileno() if feeding and self.stdin is not None else -1,
                    _open_descriptor(self.stdout),
                    _open_descriptor(self.stderr),
                ),
                data if feeding else None,
                -1 if endtime is None else timeout_ns(max(endtime - time.monotonic(), 0.0)),
                idle_timeout_ns=length_ns(idle),
                to_the_end=differences.endless_pipes,
            )
            if answer == solo.OVER:
                return
            if answer == solo.INPUT_OVER:
                self._close_stdin()
            elif answer == solo.SILENT and idle is not None:
                raise self._expired(IdleTimeoutExpired, started, idle)
            elif endtime is not None and time.monotonic() >= endtime and timeout is not None:
                raise self._expired(subprocess.TimeoutExpired, started, timeout)

    def _expired(
        self, kind: type[subprocess.TimeoutExpired], started: solo.Solo, timeout: float
    ) -> subprocess.TimeoutExpired:
        outputs: list[Any] = []
        for number, stream in ((1, self.stdout), (2, self.stderr)):
            data: Any = None if stream is None else started.said(number)
            if data is not None and self.text_mode and not differences.bytes_in_timeouts:
                data = so_far(data, stream.encoding, stream.errors)  # type: ignore[union-attr]
            outputs.append(data if data or isinstance(data, str) else None)
        return kind(self.args, timeout, output=outputs[0], stderr=outputs[1])

    def _read_single(self, started: solo.Solo) -> tuple[Any, Any]:
        """One stream and nothing to feed, as most have it."""
        stream: Any = self.stdout if self.stdout is not None else self.stderr
        # Those that end at once have said what they had to say: the stream itself can read it.
        if self.returncode is None and (end := started.wait_a_moment(stream.fileno())) is not None:
            self._enter(end)
        if self.returncode is not None and not self._killed:
            output = stream.read()
            stream.close()
        elif self.text_mode:
            output = self._read_single_text(started, stream)
        else:
            return self._communicate(None, None, None)
        return (output, None) if stream is self.stdout else (None, output)

    def _read_single_text(self, started: solo.Solo, stream: Any) -> str:
        """Something may have been read and decoded already, and only the stream can go on with that.

        So it is given a file to read from, with all that has come, in place of its pipe.
        """
        self._talk(started, None, None)
        if self.returncode is None:
            self._enter(started.exit())
        number = 1 if stream is self.stdout else 2
        data = memoryview(started.said(number))
        text = ""
        if data or started.ended(number):
            file = os.memfd_create("output", os.MFD_CLOEXEC)
            try:
                while data:
                    data = data[os.write(file, data) :]
                os.lseek(file, 0, os.SEEK_SET)
                os.dup2(file, stream.fileno(), inheritable=False)
            finally:
                os.close(file)
            text = stream.read()
        stream.close()
        return text


def give_up(left: solo.Solo | None, patience_ns: int = 0) -> None:
    """Kill and reap a child, unless it ends in time by itself: an exception has taken all handles of it."""
    if left is None or (patience_ns and left.wait_for(patience_ns) is not None):
        return
    left.signal(signal.SIGKILL)
    # Who hangs in the kernel even then is reaped one day.
    left.wait_for(solo.KILL_TIMEOUT_NS)


def _open_descriptor(stream: Any) -> int:
    return -1 if stream is None or stream.closed else int(stream.fileno())


def _warn_of_preexec_fn() -> None:
    global _warned_of_preexec_fn
    if _warned_of_preexec_fn:
        return
    _warned_of_preexec_fn = True
    warnings.warn(
        "preexec_fn makes the standard library fork this process for the child: slowly, and unsafely in a "
        "program with threads. Say what it does by limits=, nice=, cpu_affinity=, no_new_privs=, umask=, "
        "user=, group=, start_new_session= or process_group=",
        RuntimeWarning,
        stacklevel=4,
    )
