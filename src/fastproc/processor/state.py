"""What the queue's core knows: of each task that is not at rest, and of the queue as a whole. Changed by
core.step() alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum, auto

from .news import File, Now, Outcome
from .retry import Backoff, RateLimit
from .task import Ticket


class Phase(Enum):
    """Where the queue is with a task."""

    WAITING = auto()  # for other tasks
    DELAYED = auto()  # until its time comes
    READY = auto()
    CLAIMING = auto()
    STARTING = auto()
    RUNNING = auto()
    ENDING = auto()  # it has been told to end
    FILING = auto()  # it has ended, what came of it is not yet durable

    # Each is one object. Enum's own is written in Python, and asked with each event.
    __hash__ = object.__hash__


@dataclass(slots=True)
class Entry:
    """What the queue knows of one task."""

    ticket: Ticket
    phase: Phase
    missing: set[str] | None = None
    due: float = 0.0
    attempt: int = 0
    failures: int = 0
    max_attempts: int = 1
    auto_requeue: bool = False
    limited: int = 0
    lost: int = 0
    beside: bool = False
    ending: Outcome | None = None
    doom: str = ""
    """Why it is to be failed without being started."""
    filing: File | None = None


@dataclass(slots=True)
class State:
    """The whole queue, as far as it has to be known to decide. Changed by step() alone."""

    slots: int
    max_attempts: int = 3
    backoff: Backoff = field(default_factory=Backoff)
    rate_limit: RateLimit = field(default_factory=RateLimit)
    requeue_seconds: float = 30.0
    starts_per_second: float | None = None
    """Not more than that, in the long run; None for no limit."""
    allowed: float = 1.0
    """How many starts that limit allows now, reckoned at `reckoned` on the monotonic clock."""
    reckoned: float = -math.inf
    entries: dict[str, Entry] = field(default_factory=dict)
    busy: set[str] = field(default_factory=set)
    """Ids that use a slot, and those that are leaving theirs."""
    leaving: set[str] = field(default_factory=set)
    """Ids of `busy` whose outcome is written: their slot may be taken already."""
    ready: list[tuple[float, str]] = field(default_factory=list)
    delayed: list[tuple[float, str]] = field(default_factory=list)
    """By the monotonic clock: back-off."""
    dated: list[tuple[float, str]] = field(default_factory=list)
    """By the clock on the wall: not_before."""
    waiters: dict[str, set[str]] = field(default_factory=dict)
    """Who waits for a task."""
    blockers: dict[str, set[str]] = field(default_factory=dict)
    """Who blocks a task, by its own word."""
    doomed: list[str] = field(default_factory=list)
    paused: bool = False
    draining: bool = False
    faulted: bool = False
    limited_until: Now | None = None

    @property
    def pending(self) -> int:
        """How many tasks are pending, as far as is known."""
        return len(self.entries) - len(self.busy)

    @property
    def used(self) -> int:
        """How many slots are used."""
        return len(self.busy) - len(self.leaving)

    @property
    def may_claim(self) -> bool:
        return not (self.paused or self.draining or self.faulted or self.limited_until is not None)
