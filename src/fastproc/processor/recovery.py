"""What an earlier Processor has left in progress: whether it is over, is ended, or is waited for."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from . import core
from .adopt import Adopted
from .events import TaskStarted
from .store import Hold, Orphan
from .task import TaskState

if TYPE_CHECKING:
    from .shift import Shift


def recover_all(shift: Shift) -> None:
    """Decide about what is in progress and nobody's."""
    orphans: list[Orphan] = []
    try:
        for orphan in shift.store.orphans():
            orphans.append(orphan)  # noqa: PERF402 - those before an error count
    except OSError as error:
        # Looked at again when it can be written.
        shift.faulted(error)
    left_by = Counter((orphan.history.claimed or {}).get("processor") for orphan in orphans)
    for orphan in orphans:
        owner = (orphan.history.claimed or {}).get("processor")
        # Where several share the directory, each may have found a part of what a dead one has left.
        only = left_by[owner] == 1 and not shift.settings.shared
        _recover(shift, orphan, beside=not (only or orphan.hold.alone))


def _recover(shift: Shift, orphan: Orphan, *, beside: bool) -> None:
    """Decide about a task that was in progress when its Processor died, `beside` others or not."""
    hold, history = orphan.hold, orphan.history
    record = history.record
    if history.claimed is None:
        # Its outcome was durable, or its attempt had not begun: only the move is missing.
        known = record is not None and not history.reset
        state = record.state if record is not None and known else TaskState.PENDING
        try:
            shift.store.finish_orphan(hold, state)
        except OSError as error:
            shift.store.release(hold)
            shift.store.unsettled = True
            shift.faulted(error)
        else:
            outcome = None if record is None or not known else str(record.outcome)
            shift.changed(hold.id, TaskState.IN_PROGRESS, state, "finished after a crash", outcome)
        return
    adopted = _find(shift, orphan)
    shift.holds[hold.id] = hold
    runs = shift.runs
    task = hold.task
    timeout, idle_timeout = shift.settings.limits(task)
    live = runs.adopt(
        hold,
        adopted,
        timeout=timeout,
        idle_timeout=idle_timeout,
        grace=shift.settings.grace,
        max_log_bytes=shift.settings.max_log_bytes,
    )
    end = shift.settings.recovery == "end" and (adopted.has_leader or orphan.alive or bool(adopted.members()))
    if end:
        live.words = "its Processor has died; it was ended by the next one"
    ticket = task.ticket(hold.name, hold.since)
    claimed = claimed_event(hold, shift.state.max_attempts)
    shift.feed(core.Adopted(ticket, claimed, end=end, beside=beside))
    if adopted.has_leader:
        shift.tell(
            TaskStarted(task_id=hold.id, attempt=hold.attempt, pid=live.pid, at=live.started_at, adopted=True)
        )


def _find(shift: Shift, orphan: Orphan) -> Adopted:
    adopted = Adopted.find(orphan.history.started, shift.store.machine)
    if orphan.alive and not adopted.has_leader and orphan.hold.lock_fd is not None:
        # The leader is gone, or its Processor died before it could write down whom it had started.
        found = os.fstat(orphan.hold.lock_fd)
        adopted.add_by_lock(found.st_dev, found.st_ino, _pid_of(orphan.history.claimed or {}))
    return adopted


def _pid_of(claimed: Mapping[str, object]) -> int:
    """The pid of the Processor that has claimed a task: it has taken the lock."""
    words = str(claimed.get("processor", "")).rsplit("-", 2)
    return int(words[1]) if len(words) == 3 and words[1].isdigit() else 0


def claimed_event(hold: Hold, max_attempts: int) -> core.Claimed:
    """What the core hears of a task that is ours."""
    own = hold.task.max_attempts
    return core.Claimed(
        hold.id,
        hold.attempt,
        hold.failures,
        own if own is not None else max_attempts,
        hold.task.auto_requeue,
        hold.limited,
        hold.lost,
    )
