"""Does a task get on, wait, or hang? Judged over its whole tree, and never acted upon here.

A leader that waits while its child works gets on. Progress is a byte of output, CPU time used by
any member, or a member come or gone; it is seen between two looks, so the first look at a task
knows little and says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

import psutil

from .errors import TaskId
from .tree import Family, ProcessTree


class Level(StrEnum):
    """How a task is doing."""

    OK = "ok"
    """It makes progress, or has not been quiet for long."""
    IDLE = "idle"
    """Quiet, and all of it sleeps: it waits for input, a timer or the network."""
    STALLED = "stalled"
    """Quiet, and some of it is held up inside the kernel, or has ended and is not reaped."""
    STOPPED = "stopped"
    """A signal such as SIGSTOP, or a debugger, holds it."""
    UNKILLABLE = "unkillable"
    """It has outlived SIGKILL."""
    LEAKING_OUTPUT = "leaking-output"
    """It has ended, but a descendant holds its output open."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What the manager knows of a task and /proc does not. Times are on the monotonic clock."""

    task_id: TaskId
    pid: int
    started: float | None = None
    last_output: float | None = None
    unkillable: bool = False
    output_leaking: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The members of a task's tree at one moment."""

    at: float
    members: tuple[ProcessTree, ...]

    @property
    def cpu_seconds(self) -> float:
        return sum(member.cpu_seconds + member.waited_cpu_seconds for member in self.members)

    def progress_since(self, earlier: Sample) -> bool:
        """Whether anybody used CPU time, came or went."""
        return _work(self) != _work(earlier)


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthReport:
    """How one task is doing.

    Attributes:
        task_id, pid: which.
        level: ok, idle, stalled, stopped, unkillable or leaking-output.
        cause: the reason in words.
        evidence: the numbers behind it.
    """

    task_id: TaskId
    pid: int
    level: Level
    cause: str
    evidence: str

    @property
    def ok(self) -> bool:
        return self.level is Level.OK


def judge(subject: Subject, sample: Sample, quiet_since: float, stuck_after: float) -> HealthReport:
    """Say how a task is doing that has shown no progress since `quiet_since`. Pure."""
    quiet = max(0.0, sample.at - quiet_since)
    living = [member for member in sample.members if member.state not in _ENDED]
    level, cause = _verdict(subject, sample, living, quiet, stuck_after)
    return HealthReport(
        task_id=subject.task_id,
        pid=subject.pid,
        level=level,
        cause=cause,
        evidence=f"{len(living)} alive, {sample.cpu_seconds:.2f} s CPU in all, quiet for {quiet:.1f} s"
        + (f"; {_list(sample.members)}" if sample.members else ""),
    )


def sample(pid: int) -> Sample:
    """Look at the tree below one process."""
    return _of_family(Family.of([pid]), pid, time.monotonic())


class HealthWatch:
    """Looks at tasks again and again, and remembers since when each has been quiet. Not thread-safe."""

    __slots__ = ("_clock", "_look", "_seen")

    def __init__(
        self,
        look: Callable[[Iterable[int]], Family] = Family.of,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._look = look
        self._clock = clock
        self._seen: dict[tuple[TaskId, int], tuple[Sample, float]] = {}

    def check(self, subjects: Iterable[Subject], stuck_after: float) -> list[HealthReport]:
        """Judge each task by this look and those before; tasks not named any more are forgotten."""
        subjects = list(subjects)
        family = self._look([subject.pid for subject in subjects])
        now = self._clock()
        seen = {}
        reports = []
        for subject in subjects:
            key = (subject.task_id, subject.pid)
            current = _of_family(family, subject.pid, now)
            quiet_since = _quiet_since(subject, current, self._seen.get(key))
            seen[key] = (current, quiet_since)
            reports.append(judge(subject, current, quiet_since, stuck_after))
        self._seen = seen
        return reports


_ENDED = frozenset({psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD})
_HELD = frozenset({psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP})

# A program that has used less than this share of its life has been waiting for nearly all of it.
_HARDLY_ANY_CPU = 0.01


def _verdict(
    subject: Subject, sample: Sample, living: list[ProcessTree], quiet: float, stuck_after: float
) -> tuple[Level, str]:
    if subject.unkillable:
        return Level.UNKILLABLE, "it has outlived SIGKILL; see the states of its members"
    if subject.output_leaking:
        return Level.LEAKING_OUTPUT, "it has ended, but a descendant holds its output open"
    held = [member for member in living if member.state in _HELD]
    if held and len(held) == len(living):
        return Level.STOPPED, f"{_list(held)}: a signal or a debugger holds it; SIGCONT lets it go on"
    if quiet < stuck_after:
        return (
            Level.OK,
            "it makes progress, or was not looked at before"
            if quiet == 0
            else f"it has been quiet for {quiet:.1f} s only",
        )
    if held:
        return Level.STOPPED, f"{_list(held)}: a signal or a debugger holds it, and the others wait"
    if not sample.members:
        return Level.STALLED, "nothing of it is alive, but its end has not been noticed"
    if not living:
        return Level.STALLED, "it has ended, but is not reaped; a debugger may hold it"
    blocked = [member for member in living if member.state == psutil.STATUS_DISK_SLEEP]
    if blocked:
        return Level.STALLED, f"{_list(blocked)}: held up inside the kernel, by a disk or a remote file"
    if any(member.state == psutil.STATUS_RUNNING for member in living):
        return Level.STALLED, "it is ready to run, but gets no CPU time"
    return Level.IDLE, "no output and no CPU time: it waits for input, a timer or the network"


def _quiet_since(subject: Subject, current: Sample, before: tuple[Sample, float] | None) -> float:
    if before is None:
        quiet_since = current.at
        if subject.started is not None:
            age = current.at - subject.started
            if current.cpu_seconds <= _HARDLY_ANY_CPU * age:
                quiet_since = subject.started
    elif current.progress_since(before[0]):
        quiet_since = current.at
    else:
        quiet_since = before[1]
    return quiet_since if subject.last_output is None else max(quiet_since, subject.last_output)


def _work(sample: Sample) -> frozenset[tuple[int, float, float, float]]:
    return frozenset(
        (node.pid, node.created, node.cpu_seconds, node.waited_cpu_seconds) for node in sample.members
    )


def _of_family(family: Family, pid: int, at: float) -> Sample:
    tree = family.tree(pid)
    trees = family.trees_below(pid) if tree is None else (tree,)
    return Sample(at=at, members=tuple(member for top in trees for member in top.walk()))


def _list(members: Iterable[ProcessTree]) -> str:
    """The first few of them, with their states."""
    listed = list(members)
    words = ", ".join(f"{member.name or '?'}({member.pid}) {member.state}" for member in listed[:5])
    return f"{words} and {len(listed) - 5} more" if len(listed) > 5 else words
