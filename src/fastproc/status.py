"""How a process ended, and what came of stopping it.

A status is never invented: what the kernel did not tell is None, and the reason
is then UNKNOWN. A code of 0 means that the kernel said 0.
"""

from __future__ import annotations

import signal as _signal
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from .errors import TaskId

Proof: TypeAlias = Literal["cgroup", "guard", "session", "none"]
"""What says that nothing is left: that of a cgroup is certain, that of a session is what /proc shows."""


class ExitReason(StrEnum):
    """Why a process ended, in the order of enum fp_reason, whose first value means that it has not."""

    EXITED = "exited"
    """By itself, with an exit code."""
    SIGNALED = "signaled"
    """By a signal that did not come from us."""
    TIMEOUT = "timeout"
    """We stopped it at its time limit."""
    IDLE_TIMEOUT = "idle_timeout"
    """We stopped it because it had written nothing for too long."""
    TERMINATED = "terminated"
    """We stopped it on request."""
    CANCELLED = "cancelled"
    """We stopped it because its CancelToken was cancelled."""
    OUTPUT_LIMIT = "output_limit"
    """We stopped it because it had written too much."""
    CPU_LIMIT = "cpu_limit"
    """The kernel ended it at its CPU time limit."""
    OOM = "oom"
    """The kernel ended it because memory, or its cgroup's share of it, was used up."""
    UNKNOWN = "unknown"
    """Somebody else took the status, and the kernel cannot tell it any more."""


class ResourceUsage(NamedTuple):
    """What a process and the descendants it waited for have used, by getrusage(2)."""

    user: float = 0.0
    """Seconds of CPU time in its own code."""
    system: float = 0.0
    """Seconds of CPU time in the kernel for it."""
    max_rss: int = 0
    """Bytes of memory resident at most, in the largest one of them.

    Never less than what this program itself had resident at the start: a child runs in our memory until
    execve(2), and the kernel carries that mark over (exec_mmap() in fs/exec.c).
    """
    minor_faults: int = 0
    major_faults: int = 0
    blocks_in: int = 0
    blocks_out: int = 0
    voluntary_switches: int = 0
    involuntary_switches: int = 0


_NOTHING_USED = ResourceUsage()


class _Late:
    """What the fields of a status are read from when somebody asks, see ExitStatus.__getattr__()."""

    __slots__ = ("_source",)


_read_late: Callable[[ExitStatus, str], object]


def read_late_by(read: Callable[[ExitStatus, str], object]) -> None:
    """`read` fills a field of an ExitStatus that is still empty, and gives it; to be called once."""
    global _read_late
    _read_late = read


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitStatus(_Late):
    """How a process ended. Equal are those that ended alike, whenever that was.

    Attributes:
        reason: why it ended.
        code: its exit code, or None if a signal ended it or nobody knows.
        signal: the signal that ended it, or None.
        core_dumped: whether it left a core dump.
        escalated: whether it, the process itself, needed SIGKILL after its grace.
        foreign: somebody else reaped it; its resource usage is lost.
        leftovers: descendants outlived it.
        started, ended: seconds on the monotonic clock.
        rusage: what it used; zeros if that is lost, or if there was no memory to keep it.
    """

    reason: ExitReason
    code: int | None = None
    signal: int | None = None
    core_dumped: bool = False
    escalated: bool = False
    foreign: bool = field(default=False, compare=False)
    leftovers: bool = field(default=False, compare=False)
    started: float = field(default=0.0, compare=False)
    ended: float = field(default=0.0, compare=False)
    rusage: ResourceUsage = field(default=_NOTHING_USED, compare=False)

    if not TYPE_CHECKING:
        # Asked only for what is not there: a field of a status that the engine has made and nobody looked at.
        def __getattr__(self, name):
            if name not in _FIELDS:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            return _read_late(self, name)

    @classmethod
    def exited(cls, code: int, *, started: float = 0.0, ended: float = 0.0) -> ExitStatus:
        """The status of a process that ended by itself with `code`."""
        return cls(reason=ExitReason.EXITED, code=code, started=started, ended=ended)

    @classmethod
    def signaled(
        cls, signal: int, *, core_dumped: bool = False, started: float = 0.0, ended: float = 0.0
    ) -> ExitStatus:
        """The status of a process that somebody else's `signal` ended."""
        return cls(
            reason=ExitReason.SIGNALED,
            signal=int(signal),
            core_dumped=core_dumped,
            started=started,
            ended=ended,
        )

    @classmethod
    def unknown(cls, *, started: float = 0.0, ended: float = 0.0) -> ExitStatus:
        """The status of a process that is known to have ended, and nothing more."""
        return cls(reason=ExitReason.UNKNOWN, foreign=True, started=started, ended=ended)

    @property
    def ok(self) -> bool:
        """Whether it ended by itself with code 0."""
        return self.code == 0 and self.reason is ExitReason.EXITED

    @property
    def returncode(self) -> int | None:
        """As in subprocess: the exit code, or the signal as a negative number; None if nobody knows."""
        if self.code is not None:
            return self.code
        return None if self.signal is None else -self.signal

    @property
    def duration(self) -> float:
        """Seconds from its start to its end."""
        return max(0.0, self.ended - self.started)

    def explain(self) -> str:
        """Say in one sentence how it ended."""
        match self.reason:
            case ExitReason.EXITED:
                sentence = f"Exited with code {self.code}{_meaning(self.code)}"
            case ExitReason.SIGNALED:
                sentence = f"Killed by {_signal_words(self.signal)}"
            case ExitReason.TIMEOUT:
                sentence = f"Stopped at its time limit, {self._how_it_gave_in()}"
            case ExitReason.IDLE_TIMEOUT:
                sentence = f"Stopped because it had written nothing for too long, {self._how_it_gave_in()}"
            case ExitReason.TERMINATED:
                sentence = f"Stopped on request, {self._how_it_gave_in()}"
            case ExitReason.CANCELLED:
                sentence = f"Stopped because it was cancelled, {self._how_it_gave_in()}"
            case ExitReason.OUTPUT_LIMIT:
                sentence = f"Stopped because it had written more than it may, {self._how_it_gave_in()}"
            case ExitReason.CPU_LIMIT:
                sentence = f"Ended by the kernel at its CPU time limit, {self._how_it_ended()}"
            case ExitReason.OOM:
                sentence = f"Ended by the kernel because memory was used up, {self._how_it_ended()}"
            case ExitReason.UNKNOWN:
                sentence = "Ended, but nobody knows how: somebody else took its status"
        if self.ended > self.started:
            sentence += f", after {_duration_words(self.duration)}"
        if self.core_dumped:
            sentence += ", leaving a core dump"
        if self.leftovers:
            sentence += "; descendants outlived it"
        return sentence + "."

    def _how_it_gave_in(self) -> str:
        if not self.escalated:
            return self._how_it_ended()
        if self.signal == _signal.SIGKILL:
            return "killed when its grace had passed"
        return f"{self._how_it_ended()} when its grace had passed"

    def _how_it_ended(self) -> str:
        if self.code is not None:
            return f"exiting with code {self.code}"
        if self.signal is not None:
            return f"ended by {_signal_name(self.signal)}"
        return "ending in a way nobody knows"


_FIELDS = frozenset(ExitStatus.__dataclass_fields__)


@dataclass(frozen=True, slots=True, kw_only=True)
class StopResult:
    """What came of stopping one task. True when nothing of it is left.

    Attributes:
        task_id: which task.
        status: how its process ended, or None if it has not.
        escalated: whether a grace that was given had passed and SIGKILL was needed, for it or for a
            descendant. With a time-out of 0 there is no grace: SIGKILL comes at once, and this is False.
        proof: how sure it is that no descendant is left; "none" when somebody is, or nobody could look.
        survivors: process ids of those left, as far as they are known.
        elapsed: seconds that the stopping took.
        over: whether the task is over. If not, something of it is left, even if nobody can say who.
    """

    task_id: TaskId
    status: ExitStatus | None
    escalated: bool = False
    proof: Proof = "none"
    survivors: list[int] = field(default_factory=list, hash=False)
    elapsed: float = 0.0
    over: bool = True

    @property
    def stopped(self) -> bool:
        """Whether it has ended, and so has all that it has started."""
        return self.status is not None and self.over and not self.survivors

    def __bool__(self) -> bool:
        return self.stopped


@dataclass(frozen=True, slots=True, kw_only=True)
class StopReport:
    """What came of stopping many. True when nobody is left.

    Attributes:
        results: one for each task that was active.
        survivors: process ids of those left, of all tasks.
        elapsed: seconds that the stopping took.
    """

    results: list[StopResult] = field(default_factory=list, hash=False)
    survivors: list[int] = field(default_factory=list, hash=False)
    elapsed: float = 0.0

    def __bool__(self) -> bool:
        return not self.survivors and all(result.stopped for result in self.results)


# What shells say with an exit code, see EXIT STATUS in bash(1); fastproc and timeout(1) say it too.
_SHELL_WORDS = {
    126: " (by shell custom: found, but could not be executed)",
    127: " (by shell custom: command not found)",
}

# What signal(7) says of those that end a program without its wish.
_SIGNAL_WORDS = {
    _signal.SIGABRT: "it gave up by abort(3)",
    _signal.SIGALRM: "an alarm clock of its own",
    _signal.SIGBUS: "access to memory that is not there",
    _signal.SIGFPE: "impossible arithmetic",
    _signal.SIGHUP: "its terminal or session is gone",
    _signal.SIGILL: "illegal instruction",
    _signal.SIGINT: "interrupt",
    _signal.SIGPIPE: "nobody reads what it writes",
    _signal.SIGQUIT: "quit",
    _signal.SIGSEGV: "invalid memory reference",
    _signal.SIGSYS: "forbidden system call",
    _signal.SIGXCPU: "CPU time limit exceeded",
    _signal.SIGXFSZ: "file size limit exceeded",
}


def _meaning(code: int | None) -> str:
    if code is None:
        return ""
    if code > 128 and (name := _known_signal(code - 128)):
        return f" (by shell custom: a command of its own was ended by {name})"
    return _SHELL_WORDS.get(code, "")


def _signal_words(signal: int | None) -> str:
    if signal is None:
        return "a signal"
    words = _SIGNAL_WORDS.get(_signal.Signals(signal)) if _known_signal(signal) else None
    return f"{_signal_name(signal)} ({words})" if words else _signal_name(signal)


def _signal_name(signal: int) -> str:
    return _known_signal(signal) or f"signal {signal}"


def _known_signal(signal: int) -> str | None:
    try:
        return _signal.Signals(signal).name
    except ValueError:
        return None


def _duration_words(seconds: float) -> str:
    if seconds < 0.0995:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min {rest} s" if hours else f"{minutes} min {rest} s"
