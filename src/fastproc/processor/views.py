"""What the Processor tells of itself: frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessInfo:
    """A running attempt.

    Attributes:
        pid: of its leader.
        started_at: seconds since 1970; `elapsed`: seconds since then.
        log_bytes: what it has printed; `last_line`: the last of it.
        adopted: an earlier Processor has started it.
        ending: it has been told to end.
    """

    task_id: str
    pid: int
    attempt: int
    started_at: float
    elapsed: float
    title: str = ""
    priority: str = "medium"
    log_bytes: int = 0
    last_line: str = ""
    log_path: str | None = None
    adopted: bool = False
    ending: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessorInfo:
    """A Processor that works on a directory, as it tells other programs.

    Attributes:
        started_at: seconds since 1970.
        slots, paused, paused_until, health, causes: as in QueueStatus.
        shared: whether others may work on the directory too.
        stopping: it starts nothing more, and ends what runs.
    """

    pid: int
    host: str
    started_at: float
    slots: int = 0
    paused: bool = False
    paused_until: float | None = None
    health: str = "ok"
    causes: tuple[str, ...] = ()
    shared: bool = False
    stopping: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueStatus:
    """The queue at one moment.

    Attributes:
        pending, in_progress, completed, failed, quarantine: how many tasks are there.
        running: ids of the tasks that run.
        slots: how many may run at once; for a Processor that was not started, in all that work on it now.
        paused: whether nothing is started now, by pause() or for a rate limit.
        paused_until: seconds since 1970, for a rate limit.
        health: "ok", or "degraded": what runs is looked after, nothing new is started or something is left
            out.
        causes: why it is degraded, in words.
        blocked: tasks that wait for others, and for which.
        processing: whether a Processor works on it: this one, or for one that was not started any other.
    """

    pending: int
    in_progress: int
    completed: int
    failed: int
    quarantine: int
    running: tuple[str, ...] = ()
    slots: int = 0
    paused: bool = False
    paused_until: float | None = None
    health: str = "ok"
    causes: tuple[str, ...] = ()
    blocked: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    processing: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueMetrics:
    """What a Processor has done since it was made, in numbers. The names in it are always the same ones:
    none is of a task, however many there are.

    Attributes:
        tasks: how many tasks are where, by state.
        starts: how many attempts it has started.
        attempts: how many attempts have been filed, by outcome.
        running, slots, healthy: now.
    """

    tasks: Mapping[str, int] = field(hash=False)
    starts: int
    attempts: Mapping[str, int] = field(hash=False)
    running: int
    slots: int
    healthy: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueReport:
    """What came of run_until_empty(). True if nothing is left to do and nothing has failed.

    Attributes:
        completed, failed: ids of tasks that came to rest meanwhile; the last 10,000 of each.
        completed_count, failed_count: how many there were.
        attempts: how many attempts ended.
        blocked: tasks that wait for tasks that are not there.
        pending: how many tasks are left, those included.
        empty: whether all is done but what is blocked or queues itself again.
        elapsed: seconds.
    """

    completed: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    completed_count: int = 0
    failed_count: int = 0
    attempts: int = 0
    blocked: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    pending: int = 0
    empty: bool = True
    elapsed: float = 0.0

    def __bool__(self) -> bool:
        return self.empty and not self.failed_count and not self.blocked
