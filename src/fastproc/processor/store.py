"""What the Processor needs of the place where tasks are kept: a Protocol, and the values that cross it.

DirectoryStore keeps them in a directory; tests/contract holds it and the store of tests in memory to the
same suite.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

from .news import Outcome
from .task import Task, TaskState, Ticket

Durability: TypeAlias = Literal["full", "batch", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What came of one attempt, as it is kept."""

    id: str
    attempt: int
    state: TaskState
    """Where the task goes."""
    outcome: Outcome
    failures: int
    reason: str = ""
    retry_at: float = 0.0
    started_at: float | None = None
    finished_at: float | None = None
    exit: Mapping[str, Any] | None = None
    execution: Mapping[str, Any] | None = None
    log: str | None = None
    limited: int = 0
    """How often in a row the task has met a rate limit."""
    lost: int = 0
    """How often in a row its Processor has died while it ran beside others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What is known of a task's attempts.

    Attributes:
        attempts: how many were begun.
        failures: how many count against the limit.
        claimed: when and by whom the last one was begun, unless there is a record of its end.
        started: pid and what else identifies its process, if one was started and noted.
        record: what came of the last attempt.
        reset: somebody has asked for the task to be done again since then.
        notes: all lines of the task's journal.
    """

    attempts: int = 0
    failures: int = 0
    limited: int = 0
    lost: int = 0
    claimed: Mapping[str, Any] | None = None
    started: Mapping[str, Any] | None = None
    record: Record | None = None
    reset: bool = False
    notes: Sequence[Mapping[str, Any]] = ()


@dataclass(slots=True, eq=False)
class Hold:
    """Our claim on a task: the right to run it, as long as its lock is ours."""

    id: str
    name: str
    task: Task
    attempt: int
    failures: int
    limited: int = 0
    lost: int = 0
    alone: bool = False
    """Nothing else runs beside it."""
    since: float = 0.0
    claimed_at: float = 0.0
    lock_fd: int | None = None
    """The lock's descriptor, which the job inherits; None if another job holds it still, or nothing is
    locked.
    """
    log: str | None = None
    journal_fd: int | None = None
    """Its journal, from the claim until the start is noted."""
    adoption_fd: int | None = None
    """The lock that says that this Processor follows a job which still holds the task's own lock."""
    written: bool = False
    """What came of it is written, and has its name."""
    recorded: bool = False
    """And that is durable."""
    moved: bool = False
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NotClaimed:
    """Why a task could not be claimed."""

    state: TaskState | None = None
    """Where it is now, if it is gone from pending."""
    later: bool = False
    """It is there, but cannot be had now."""
    error: OSError | None = None
    """The store cannot write."""
    ticket: Ticket | None = None
    """It has been changed, and has to wait for something else now."""


@dataclass(frozen=True, slots=True)
class Orphan:
    """A task in progress that no living Processor runs."""

    hold: Hold
    history: History
    alive: bool
    """The lock is held: something of the job lives."""


class Store(Protocol):
    """Where tasks are kept. Methods raise OSError if they cannot write, and then nothing has happened.

    Called by one thread at a time for what changes something, by any for what only asks.
    """

    def lock(self, *, shared: bool) -> None:
        """Be a Processor of this store, alone or among others; QueueBusy if that cannot be."""
        ...

    def unlock(self) -> None: ...
    def submit(self, tasks: Sequence[Task], made_up: Container[str] = ()) -> None:
        """Have them pending, durably and all at once visible one by one; TaskExists if an id is taken.

        Of ids that were `made_up` just now nobody has one.
        """
        ...

    def pending(self) -> Iterator[str]:
        """The names of what is pending, in no order."""
        ...

    def look(self, name: str) -> Ticket | None:
        """Read a pending task; None if it is none, is gone, or cannot be read yet."""
        ...

    def claim(self, wanted: Sequence[Ticket]) -> list[Hold | NotClaimed]:
        """Take pending tasks, and begin an attempt of each; durable on return."""
        ...

    def note_start(self, hold: Hold, identity: Mapping[str, Any]) -> None:
        """Keep who runs it, for a Processor that comes after a crash of this one."""
        ...

    def open_log(self, hold: Hold) -> int | None:
        """A descriptor that the job appends its output to, and that we may read."""
        ...

    def keep_log(self, fd: int) -> None:
        """A log is complete: have it on the disk, if that was asked for."""
        ...

    def open_log_to_read(self, name: str) -> int: ...
    def try_lock(self, hold: Hold) -> bool:
        """Whether nothing of an orphan's job holds its lock any more; then it is ours."""
        ...

    def release(self, hold: Hold) -> None:
        """Let go of a task's lock, as far as we hold it."""
        ...

    def finish_orphan(self, hold: Hold, state: TaskState) -> None:
        """Move an orphan whose outcome is known, or that was never begun, to where it belongs."""
        ...

    def keep(self, filings: Sequence[tuple[Hold, Record]]) -> list[OSError | None]:
        """Write what came of attempts. It is durable when claim() or file() returns the next time without an
        error; they are to be filed in any case.
        """
        ...

    def file(self, filings: Sequence[tuple[Hold, Record]]) -> list[OSError | None]:
        """Keep what came of attempts, and move the tasks to where they belong; durable on return."""
        ...

    def orphans(self) -> Iterator[Orphan]:
        """What is in progress and nobody's; each is ours from then on."""
        ...

    def where(self, task_id: str) -> TaskState | None:
        """In which state a task is, or None."""
        ...

    def history(self, task_id: str) -> History: ...
    def counts(self) -> dict[TaskState, int]: ...
    def is_well(self) -> OSError | None:
        """Whether it can write."""
        ...

    def note_pause(self, until: float | None, task_id: str) -> None:
        """Keep how long a rate limit holds."""
        ...

    def pause(self) -> float | None:
        """Until when a rate limit holds, in seconds since 1970."""
        ...
