"""What the log hears of processes without a name, whose ends no roster enters.

Said by the thread that tells observers: a handler that blocks must not hold the loop.
"""

from __future__ import annotations

import time
from logging import INFO
from typing import TYPE_CHECKING

from .._native.records import (
    ENDED_NS,
    EXIT_ESCALATED,
    NEWS_ESCALATED,
    NEWS_UNKILLABLE,
    PID,
    STAND_FLAGS,
    STAND_STATE,
    STARTED_NS,
    STATE_EXITED,
    STATE_FAILED,
    Stand,
)
from ..events import Escalated, Exited, Refused, Started, Unkillable
from ..status import ExitStatus
from .child import TOLD_ESCALATED, TOLD_EXITED, TOLD_STARTED, UNKILLABLE, Child
from .observers import levels, log

if TYPE_CHECKING:
    from .roster import Roster

ESCALATED = EXIT_ESCALATED << STAND_FLAGS
ALARMING = NEWS_ESCALATED | NEWS_UNKILLABLE


def takes_ordinary_news() -> bool:
    """Whether the log takes starts and ends."""
    return levels.get(INFO) is not False and log.isEnabledFor(INFO)


def is_worth_telling(what: int, stand: Stand) -> bool:
    """Whether the log would take it: the ordinary at INFO, escalations and what cannot be killed above."""
    return what & ALARMING != 0 or stand & ESCALATED != 0 or takes_ordinary_news()


def tell(roster: Roster, child: Child, what: int, stand: Stand, status: ExitStatus | None) -> None:
    """Have told what is new about it; `status` once it has ended."""
    state = stand & STAND_STATE
    ordinary = log.isEnabledFor(INFO)
    with roster.lock:
        if state == STATE_FAILED:
            if ordinary and child.error is not None:
                roster.dispatcher.queue(Refused(task_id=None, at=time.monotonic(), error=child.error))
            return
        record = child._handle.known()
        pid, ended = record[PID], record[ENDED_NS] / 1e9
        if ordinary and not child._flags & TOLD_STARTED:
            child._flags |= TOLD_STARTED
            roster.dispatcher.queue(
                Started(task_id=None, pid=pid, at=record[STARTED_NS] / 1e9, spawn_seconds=0.0)
            )
        if (what & NEWS_ESCALATED or stand & ESCALATED) and not child._flags & TOLD_ESCALATED:
            child._flags |= TOLD_ESCALATED
            now = time.monotonic()
            roster.dispatcher.queue(Escalated(task_id=None, pid=pid, at=min(now, ended) if ended else now))
        if what & NEWS_UNKILLABLE and not child._flags & UNKILLABLE:
            child._flags |= UNKILLABLE
            roster.dispatcher.queue(Unkillable(task_id=None, pid=pid, at=time.monotonic()))
        if ordinary and state >= STATE_EXITED and status is not None and not child._flags & TOLD_EXITED:
            child._flags |= TOLD_EXITED
            roster.dispatcher.queue(Exited(task_id=None, pid=pid, at=ended, status=status))
