"""What the queue's core is told, and what it wants done: frozen values.

An event says what has happened to a task or to the queue; an action says what is to be done about it. The
Processor carries out the actions, and tells what came of them as events. See core.py for the decisions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, TypeAlias

from .task import TaskState, Ticket


class Now(NamedTuple):
    """A moment: seconds that never jump, and seconds since 1970 that may."""

    mono: float
    wall: float


class Outcome(StrEnum):
    """What came of one attempt."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    REFUSED = "refused"  # it can never succeed: no such program, a field that is not allowed
    RATE_LIMITED = "rate_limited"
    LOST = "lost"  # it ended while nobody could see how
    CANCELLED = "cancelled"
    GIVEN_BACK = "given_back"  # the Processor stopped before it had ended


COUNTED = frozenset({Outcome.FAILED, Outcome.LOST})
"""The outcomes that count against max_attempts."""


# ---- events ----


@dataclass(frozen=True, slots=True)
class Found:
    """A task is pending. `settled` says where those of its dependencies are that the queue does not know."""

    ticket: Ticket
    settled: Mapping[str, TaskState | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ClaimLost:
    """It is not pending any more: somebody else has taken or removed it, or it is no task."""

    id: str
    state: TaskState | None = None
    """Where it is now."""


@dataclass(frozen=True, slots=True)
class ClaimDelayed:
    """It cannot be claimed now; try again after so many seconds."""

    id: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Claimed:
    """It is ours, its attempt is durable. `failures` are those before this attempt."""

    id: str
    attempt: int
    failures: int
    max_attempts: int
    auto_requeue: bool = False
    limited: int = 0
    """How often in a row it has met a rate limit."""
    lost: int = 0
    """How often in a row its Processor has died while it ran beside others."""


@dataclass(frozen=True, slots=True)
class Started:
    id: str


@dataclass(frozen=True, slots=True)
class Adopted:
    """An attempt of an earlier Processor that still runs is ours from now on, or one that has to be filed."""

    ticket: Ticket
    claimed: Claimed
    end: bool
    """Whether it shall be ended."""
    beside: bool = False
    """Others ran beside it when its Processor died: any of them may have done that."""


@dataclass(frozen=True, slots=True)
class Ended:
    """Nothing of an attempt is left. `chance`, from 0 to 1, scatters the wait for the next one."""

    id: str
    outcome: Outcome
    chance: float = 0.5
    retry_after: float | None = None
    retry_soon: bool = False
    """Not its fault: try again after a moment, and count nothing."""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Recorded:
    """What came of an attempt is written, and will be durable before anything more is started: the next claim
    may take its slot.
    """

    id: str


@dataclass(frozen=True, slots=True)
class Filed:
    """What came of an attempt is durable, and the task is where it belongs."""

    id: str


@dataclass(frozen=True, slots=True)
class Settled:
    """A task that the queue does not know is there, or not there any more (None)."""

    id: str
    state: TaskState | None


@dataclass(frozen=True, slots=True)
class CancelAsked:
    id: str


@dataclass(frozen=True, slots=True)
class StopAsked:
    """End all that runs. `outcome` is what an attempt counts as that has not ended by itself."""

    outcome: Outcome = Outcome.GIVEN_BACK


@dataclass(frozen=True, slots=True)
class EndAsked:
    """A run has been told to end by its time limit, by silence or by too much output: do not tell it
    again.
    """

    id: str


@dataclass(frozen=True, slots=True)
class Drain:
    """Claim nothing any more, let run what runs."""


@dataclass(frozen=True, slots=True)
class Pause:
    paused: bool


@dataclass(frozen=True, slots=True)
class RateLimitKnown:
    """A rate limit that another Processor has met holds until then, in seconds since 1970; 0 if it does no
    more.
    """

    until: float


@dataclass(frozen=True, slots=True)
class SlotsSet:
    slots: int


@dataclass(frozen=True, slots=True)
class StoreFaulted:
    """The store cannot write: claim nothing until StoreHealed."""

    healthy: bool


@dataclass(frozen=True, slots=True)
class Tick:
    """Nothing has happened but time."""


Event: TypeAlias = (
    Found
    | ClaimLost
    | ClaimDelayed
    | Claimed
    | Started
    | Adopted
    | Ended
    | Recorded
    | Filed
    | Settled
    | CancelAsked
    | StopAsked
    | EndAsked
    | Drain
    | Pause
    | RateLimitKnown
    | SlotsSet
    | StoreFaulted
    | Tick
)


# ---- actions ----


@dataclass(frozen=True, slots=True)
class Claim:
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class Start:
    id: str


@dataclass(frozen=True, slots=True)
class End:
    """End a run and all that it has started."""

    id: str


@dataclass(frozen=True, slots=True)
class File:
    """Make the outcome of an attempt durable, and move the task to where it belongs."""

    id: str
    state: TaskState
    outcome: Outcome
    failures: int
    reason: str
    retry_at: float = 0.0
    """In seconds since 1970; for a task that goes back to pending."""
    limited: int = 0
    lost: int = 0


@dataclass(frozen=True, slots=True)
class PauseUntil:
    """The queue pauses for a rate limit, until then in seconds since 1970."""

    until: float
    id: str


@dataclass(frozen=True, slots=True)
class PauseOver:
    pass


Action: TypeAlias = Claim | Start | End | File | PauseUntil | PauseOver
