"""The live attempts: started through a Launcher or adopted, watched, ended, and looked at when they are over.

A job's standard output and error are its log, its standard input is a file in memory: nothing of it hangs on
us, and it does not notice when we are killed. It inherits the lock of its task.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from logging import getLogger
from typing import Any

from ..cancel import CancelToken
from ..command import DEVNULL, STDOUT, Command
from ..errors import DuplicateTask, ManagerClosed, NotActive, SpawnError, TooManyProcesses
from ..ports import Clock, Launched, Launcher
from ..status import ExitReason, ExitStatus
from .adopt import Adopted, identity
from .executor import End
from .logs import last_line
from .machine import Machine
from .store import Hold, Store

_log = getLogger("fastproc.processor")

HEAD_BYTES = 64 * 1024
TAIL_BYTES = 192 * 1024
_TAIL_BYTES = 16 * 1024
STARTERS = min(4, (os.cpu_count() or 1) + 1)
"""So many threads start attempts, ours among them, when there are several to be started."""


class NotStarted(Exception):
    """An attempt could not be started, and why.

    Attributes:
        permanent: trying again would not help.
        soon: something was used up for the moment; it is not the task's fault.
    """

    def __init__(self, words: str, *, permanent: bool = False, soon: bool = False) -> None:
        super().__init__(words)
        self.permanent = permanent
        self.soon = soon


@dataclass(slots=True, eq=False)
class Live:
    """An attempt that runs."""

    hold: Hold
    pid: int
    started_at: float
    started: float
    """On the monotonic clock."""
    timeout: float | None = None
    idle_timeout: float | None = None
    grace: float = 5.0
    max_log_bytes: int | None = None
    log_fd: int | None = None
    process: Launched | None = None
    token: CancelToken | None = None
    adopted: Adopted | None = None
    log_bytes: int = 0
    told_bytes: int = 0
    grown: float = 0.0
    """When it last was seen to have printed something."""
    why: ExitReason | None = None
    """Why we have ended it, unless on request."""
    asked: float | None = None
    """When an adopted one was asked to end."""
    words: str = ""
    done: bool = field(default=False)


@dataclass(frozen=True, slots=True)
class Wanted:
    """An attempt that is to be started, and within what limits."""

    hold: Hold
    command: Command
    timeout: float | None
    idle_timeout: float | None
    grace: float
    max_log_bytes: int | None


class Runs:
    """The live attempts of one Processor. Called by one thread at a time, except for the callback of an
    end.
    """

    def __init__(
        self,
        launcher: Launcher,
        store: Store,
        clock: Clock,
        machine: Machine,
        on_done: Callable[[str], None],
    ) -> None:
        self._launcher = launcher
        self._store = store
        self._clock = clock
        self._machine = machine
        self._on_done = on_done
        self.live: dict[str, Live] = {}
        self._starters: ThreadPoolExecutor | None = None

    # ---- starting ----

    def start_all(self, wanted: Sequence[Wanted], answers: dict[str, Live | NotStarted | OSError]) -> None:
        """Start attempts, and put what came of each into `answers`, by task id.

        Several threads do it: each stands still until its child has passed execve(2), and meanwhile another
        one can see to what a start costs us. An exception, such as Ctrl-C, comes when all of them are done.
        """
        left = deque(wanted)
        starters: list[Future[None]] = []
        if len(left) > 1:
            if self._starters is None:
                self._starters = ThreadPoolExecutor(STARTERS - 1, "fastproc-start")
            with contextlib.suppress(RuntimeError):  # the interpreter is about to exit
                for _ in range(min(STARTERS, len(left)) - 1):
                    starter = self._starters.submit(self._start_each, left, answers)
                    starters.append(starter)
        interrupt: BaseException | None = None
        try:
            self._start_each(left, answers)
        except BaseException as error:  # noqa: BLE001 - raised below, when nobody is at it any more
            interrupt = error
            left.clear()
        for starter in starters:
            while True:
                try:
                    interrupt = starter.exception() or interrupt
                    break
                except BaseException as error:  # noqa: BLE001 - as above
                    interrupt = error
                    left.clear()
        if interrupt is not None:
            for item in wanted:
                # It came after the start: then that counts.
                live = self.live.get(item.hold.id)
                if live is not None and live.process is not None:
                    answers.setdefault(item.hold.id, live)
            raise interrupt

    def _start_each(self, left: deque[Wanted], answers: dict[str, Live | NotStarted | OSError]) -> None:
        while left:
            try:
                item = left.popleft()
            except IndexError:
                return
            try:
                answers[item.hold.id] = self._start(item)
            except (NotStarted, OSError) as error:
                answers[item.hold.id] = error
            except Exception as error:  # noqa: BLE001 - a launcher may be anybody's
                _log.exception("task %s cannot be started", item.hold.id)
                words = f"Failed to start {item.hold.id}: {type(error).__name__}: {error}"
                answers[item.hold.id] = NotStarted(words, permanent=True)

    def rest(self) -> None:
        """End the threads of start_all(); they come back when they are needed."""
        starters, self._starters = self._starters, None
        if starters is not None:
            starters.shutdown()

    def forget(self) -> None:
        """[forked copy] The threads are the original's, and what runs is too."""
        self._starters = None
        self.abandon()

    def _start(self, wanted: Wanted) -> Live:
        hold, command = wanted.hold, wanted.command
        timeout = command.timeout if command.timeout is not None else wanted.timeout
        idle_timeout = command.idle_timeout if command.idle_timeout is not None else wanted.idle_timeout
        grace = command.grace if command.given("grace") else wanted.grace
        log_fd = self._store.open_log(hold)
        stdin_fd = None
        try:
            if command.input is not None:
                stdin_fd = _memory_file(command.input)
            token = CancelToken()
            live = Live(
                hold=hold,
                pid=0,
                started_at=self._clock.time(),
                started=self._clock.monotonic(),
                timeout=timeout,
                idle_timeout=idle_timeout,
                grace=grace,
                max_log_bytes=wanted.max_log_bytes,
                log_fd=log_fd,
                token=token,
                grown=self._clock.monotonic(),
            )
            # Known before it exists: its end cannot come too early.
            self.live[hold.id] = live
            try:
                self._launch(live, self._surrounded(command, hold, log_fd, stdin_fd, timeout, grace))
            except BaseException:
                del self.live[hold.id]
                raise
        except BaseException:
            if log_fd is not None:
                os.close(log_fd)
            raise
        finally:
            if stdin_fd is not None:
                os.close(stdin_fd)
        assert live.process is not None
        said = {"pid": live.pid}
        if live.process.status is None:
            known = identity(live.pid, self._machine)
            # One that was not reaped when it was looked at has kept its number until then.
            if live.process.status is None:
                said = known
        self._store.note_start(hold, said)
        return live

    def _surrounded(
        self,
        command: Command,
        hold: Hold,
        log_fd: int | None,
        stdin_fd: int | None,
        timeout: float | None,
        grace: float,
    ) -> Command:
        options: dict[str, Any] = {
            "stdout": DEVNULL if log_fd is None else log_fd,
            "stderr": STDOUT,
            "stdin": DEVNULL if stdin_fd is None else stdin_fd,
            "timeout": timeout,
            "grace": grace,
            # It must outlive us, and the next Processor decides about it.
            "die_with_parent": False,
            "leftovers": "stop",
            "start_new": "session",
        }
        if command.input is not None:
            options["input"] = None
        if command.idle_timeout is not None:
            options["idle_timeout"] = None
        # These are about captured output, and this goes to the log.
        if command.given("max_output"):
            options["max_output"] = None
        if command.given("on_max_output"):
            options["on_max_output"] = "truncate"
        if hold.lock_fd is not None:
            options["pass_fds"] = (*command.pass_fds, hold.lock_fd)
        return command.replace(**options)

    def _launch(self, live: Live, command: Command) -> None:
        task_id = live.hold.id
        try:
            live.process = self._launcher.start_process(
                task_id, command, cancel=live.token, on_exit=lambda _process: self._on_done(task_id)
            )
            live.pid = live.process.pid
        except SpawnError as error:
            words = f"Failed to start {os.fsdecode(command.args[0])}: {error}"
            raise NotStarted(words, permanent=not error.retryable, soon=error.retryable) from error
        except (DuplicateTask, TooManyProcesses) as error:
            raise NotStarted(f"Failed to start {os.fsdecode(command.args[0])}: {error}", soon=True) from error
        except ManagerClosed as error:
            raise NotStarted(f"Failed to start {os.fsdecode(command.args[0])}: {error}", soon=True) from error

    def adopt(
        self,
        hold: Hold,
        adopted: Adopted,
        *,
        timeout: float | None,
        idle_timeout: float | None,
        grace: float,
        max_log_bytes: int | None,
    ) -> Live:
        """Take over an attempt of an earlier Processor."""
        wall, mono = self._clock.time(), self._clock.monotonic()
        started_at = adopted.started_at or hold.claimed_at
        log_fd = None
        if hold.log is not None:
            with contextlib.suppress(OSError):
                log_fd = self._store.open_log_to_read(hold.log)
        live = Live(
            hold=hold,
            pid=adopted.pid,
            started_at=started_at,
            started=mono - max(0.0, wall - started_at),
            timeout=timeout,
            idle_timeout=idle_timeout,
            grace=grace,
            max_log_bytes=max_log_bytes,
            log_fd=log_fd,
            adopted=adopted,
            grown=mono,
        )
        self.live[hold.id] = live
        return live

    # ---- watching ----

    def watch(self) -> list[tuple[Live, ExitReason]]:
        """Look at all that run: which have to be ended, and why. Tells of adopted ones that are over."""
        now = self._clock.monotonic()
        overdue = []
        for live in list(self.live.values()):
            self._measure(live, now)
            reason = self._overdue(live, now)
            if reason is not None and live.why is None:
                overdue.append((live, reason))
            if live.adopted is not None and not live.done:
                self._follow(live, live.adopted, now)
        return overdue

    def _measure(self, live: Live, now: float) -> None:
        if live.log_fd is None:
            return
        # Through our own descriptor: a job may remove or replace the file, and the size is that of what it
        # writes to.
        size = os.fstat(live.log_fd).st_size
        if size != live.log_bytes:
            live.log_bytes = size
            live.grown = now

    def _overdue(self, live: Live, now: float) -> ExitReason | None:
        if live.adopted is not None and not live.adopted.has_leader:
            return None
        if live.idle_timeout is not None and now - live.grown > live.idle_timeout:
            return ExitReason.IDLE_TIMEOUT
        if live.max_log_bytes is not None and live.log_bytes > live.max_log_bytes:
            return ExitReason.OUTPUT_LIMIT
        if live.adopted is not None and live.timeout is not None and now - live.started > live.timeout:
            return ExitReason.TIMEOUT
        return None

    def _follow(self, live: Live, adopted: Adopted, now: float) -> None:
        """The ladder and the end of one that is not our child."""
        gone = adopted.poll()
        if live.asked is not None and now - live.asked > live.grace:
            adopted.escalated = True
            adopted.signal(signal.SIGKILL)
        elif gone and live.asked is None and (adopted.members() or not self._store.try_lock(live.hold)):
            # The leader has ended, what it has left behind is stopped too.
            live.asked = now
            adopted.signal(signal.SIGTERM)
        if gone and not adopted.members() and self._store.try_lock(live.hold):
            live.done = True
            self._on_done(live.hold.id)

    def due(self) -> float | None:
        """Seconds until one of them needs a look, or None."""
        dues = [live.idle_timeout / 4 for live in self.live.values() if live.idle_timeout is not None]
        if any(live.adopted is not None for live in self.live.values()):
            dues.append(0.05)
        return max(0.01, min(dues)) if dues else None

    # ---- ending ----

    def end(self, task_id: str) -> None:
        """Ask an attempt to end, and kill it and all it has started when its grace has passed. Does not
        wait.
        """
        live = self.live.get(task_id)
        if live is None:
            return
        if live.token is not None:
            live.token.cancel("the queue ends it")
        elif live.adopted is not None and live.asked is None:
            live.asked = self._clock.monotonic()
            live.adopted.signal(signal.SIGTERM)

    def kill(self, task_id: str) -> None:
        """Kill what is left of an attempt, now."""
        live = self.live.get(task_id)
        if live is None:
            return
        if live.adopted is not None:
            live.asked = self._clock.monotonic() - live.grace - 1.0
            live.adopted.signal(signal.SIGKILL)
        else:
            with contextlib.suppress(NotActive):
                self._launcher.terminate_process(task_id, 0.0)

    # ---- afterwards ----

    def finish(self, task_id: str) -> tuple[Live, End] | None:
        """Nothing of an attempt is left: how it ended, and what it printed. Gives back what it held but its
        lock.
        """
        live = self.live.pop(task_id, None)
        if live is None:
            return None
        if live.adopted is not None:
            status = live.adopted.status or ExitStatus.unknown(
                started=live.started, ended=self._clock.monotonic()
            )
            status = dataclasses.replace(status, escalated=live.adopted.escalated, started=live.started)
            live.adopted.close()
        else:
            assert live.process is not None
            found = live.process.status
            status = found if found is not None else ExitStatus.unknown(started=live.started)
        if live.why is not None and not status.ok:
            status = dataclasses.replace(status, reason=live.why)
        output = b""
        if live.log_fd is not None:
            output = head_and_tail(live.log_fd)
            self._store.keep_log(live.log_fd)
            os.close(live.log_fd)
            live.log_fd = None
        return live, End(status=status, output=output, attempt=live.hold.attempt)

    def abandon(self) -> None:
        """Give back descriptors of attempts that are left to the next Processor."""
        for live in self.live.values():
            if live.log_fd is not None:
                os.close(live.log_fd)
            if live.adopted is not None:
                live.adopted.close()
        self.live.clear()

    def log_bytes(self, live: Live) -> int:
        """How much it has printed."""
        return 0 if live.log_fd is None else os.fstat(live.log_fd).st_size

    def last_line(self, live: Live) -> str:
        """What it printed last."""
        if live.log_fd is None:
            return ""
        size = os.fstat(live.log_fd).st_size
        return last_line(os.pread(live.log_fd, _TAIL_BYTES, max(0, size - _TAIL_BYTES)))


def head_and_tail(fd: int) -> bytes:
    """What a log holds, its middle left out if it is long."""
    size = os.fstat(fd).st_size
    if size <= HEAD_BYTES + TAIL_BYTES:
        return _read(fd, 0, size)
    left_out = size - HEAD_BYTES - TAIL_BYTES
    return b"%s\n[... %d bytes are left out ...]\n%s" % (
        _read(fd, 0, HEAD_BYTES),
        left_out,
        _read(fd, size - TAIL_BYTES, TAIL_BYTES),
    )


def _read(fd: int, at: int, size: int) -> bytes:
    pieces = []
    while size > 0 and (piece := os.pread(fd, size, at)):
        pieces.append(piece)
        at += len(piece)
        size -= len(piece)
    return b"".join(pieces)


def _memory_file(content: bytes) -> int:
    """An unnamed file with that content, to be read from its beginning: no name that others could guess."""
    fd = os.memfd_create("fastproc-stdin", os.MFD_CLOEXEC)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(fd, view) :]
        os.lseek(fd, 0, os.SEEK_SET)
    except BaseException:
        os.close(fd)
        raise
    return fd


SYSTEM_CLOCK: Clock = time
