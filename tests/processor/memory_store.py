"""A store in memory, for tests of what decides: held to tests/contract/test_store.py as the one in a
directory is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastproc.errors import QueueBusy, TaskExists
from fastproc.processor.store import History, Hold, NotClaimed, Orphan, Record
from fastproc.processor.task import Task, TaskState, Ticket


@dataclass
class Kept:
    """What survives a crash of the Processor."""

    tasks: dict[str, tuple[Task, TaskState, float]] = field(default_factory=dict)
    begun: dict[str, int] = field(default_factory=dict)
    resets: dict[str, int] = field(default_factory=dict)
    records: dict[tuple[str, int], Record] = field(default_factory=dict)
    owner: object | None = None
    shared: bool = False
    pause: float | None = None
    locked: set[str] = field(default_factory=set)
    """Tasks whose lock a job or a Processor holds."""


class MemoryStore:
    """See the head of this file. Several of them may share what is kept, as several programs share a
    directory.
    """

    def __init__(self, kept: Kept | None = None) -> None:
        self.kept = kept if kept is not None else Kept()
        self.held: dict[str, Hold] = {}
        self.broken: OSError | None = None
        """What every write says, as long as it is set."""

    def _write(self) -> None:
        if self.broken is not None:
            raise self.broken

    def lock(self, *, shared: bool) -> None:
        if self.kept.owner is not None and not (shared and self.kept.shared):
            raise QueueBusy("memory", "another store")
        self.kept.owner, self.kept.shared = self, shared

    def unlock(self) -> None:
        self.kept.owner = None

    def submit(self, tasks: Sequence[Task], made_up: Container[str] = ()) -> None:
        self._write()
        seen: set[str] = set()
        for task in tasks:
            if task.id in self.kept.tasks or task.id in seen:
                raise TaskExists(task.id, self.kept.tasks.get(task.id, (None, "pending"))[1])
            seen.add(task.id)
        for task in tasks:
            self.kept.tasks[task.id] = (task, TaskState.PENDING, float(len(self.kept.tasks)))

    def pending(self) -> Iterator[str]:
        for name, (_task, state, _since) in list(self.kept.tasks.items()):
            if state is TaskState.PENDING:
                yield f"{name}.json"

    def look(self, name: str) -> Ticket | None:
        found = self.kept.tasks.get(name.removesuffix(".json"))
        if found is None or found[1] is not TaskState.PENDING:
            return None
        task, _state, since = found
        record = self.history(task.id).record
        waits = record is not None and record.state is TaskState.PENDING
        return task.ticket(name, since, record.retry_at if record is not None and waits else 0.0)

    def claim(self, wanted: Sequence[Ticket]) -> list[Hold | NotClaimed]:
        return [self._claim(ticket) for ticket in wanted]

    def _claim(self, ticket: Ticket) -> Hold | NotClaimed:
        if self.broken is not None:
            return NotClaimed(error=self.broken)
        found = self.kept.tasks.get(ticket.id)
        if found is None or found[1] is not TaskState.PENDING:
            return NotClaimed(state=None if found is None else found[1])
        if ticket.id in self.kept.locked:
            return NotClaimed(later=True)
        history = self.history(ticket.id)
        self._put(ticket.id, TaskState.IN_PROGRESS)
        self.kept.begun[ticket.id] = history.attempts + 1
        self.kept.locked.add(ticket.id)
        hold = Hold(
            id=ticket.id,
            name=ticket.name,
            task=found[0],
            attempt=history.attempts + 1,
            failures=history.failures,
            limited=history.limited,
            since=found[2],
        )
        self.held[ticket.id] = hold
        return hold

    def _put(self, task_id: str, state: TaskState) -> None:
        task, _state, since = self.kept.tasks[task_id]
        self.kept.tasks[task_id] = (task, state, since)

    def note_start(self, hold: Hold, identity: Mapping[str, Any]) -> None:
        hold.extra = dict(identity)

    def open_log(self, _hold: Hold) -> int | None:
        return None

    def keep_log(self, fd: int) -> None:
        raise AssertionError(f"there is no log {fd}")

    def open_log_to_read(self, name: str) -> int:
        raise FileNotFoundError(name)

    def keep(self, filings: Sequence[tuple[Hold, Record]]) -> list[OSError | None]:
        return [self.broken] * len(filings)

    def file(self, filings: Sequence[tuple[Hold, Record]]) -> list[OSError | None]:
        if self.broken is not None:
            return [self.broken] * len(filings)
        for hold, record in filings:
            self.kept.records.setdefault((record.id, record.attempt), record)
            self._put(record.id, record.state)
            self.release(hold)
        return [None] * len(filings)

    def release(self, hold: Hold) -> None:
        self.held.pop(hold.id, None)
        self.kept.locked.discard(hold.id)

    def orphans(self) -> Iterator[Orphan]:
        for task_id, (task, state, since) in list(self.kept.tasks.items()):
            if state is not TaskState.IN_PROGRESS or task_id in self.held:
                continue
            history = self.history(task_id)
            alive = task_id in self.kept.locked
            if not alive:
                self.kept.locked.add(task_id)
            hold = Hold(
                id=task_id,
                name=f"{task_id}.json",
                task=task,
                attempt=max(history.attempts, 1),
                failures=history.failures,
                limited=history.limited,
                since=since,
            )
            self.held[task_id] = hold
            yield Orphan(hold, history, alive)

    def try_lock(self, _hold: Hold) -> bool:
        return True

    def finish_orphan(self, hold: Hold, state: TaskState) -> None:
        self._write()
        self._put(hold.id, state)
        self.release(hold)

    def where(self, task_id: str) -> TaskState | None:
        found = self.kept.tasks.get(task_id)
        return None if found is None else found[1]

    def history(self, task_id: str) -> History:
        begun = self.kept.begun.get(task_id, 0)
        last = self.kept.records.get((task_id, begun))
        earlier = [self.kept.records[task_id, n] for n in range(begun) if (task_id, n) in self.kept.records]
        known = last if last is not None else (earlier[-1] if earlier else None)
        reset = known is not None and known.attempt <= self.kept.resets.get(task_id, -1)
        claimed = {"attempt": begun, "processor": "memory"} if begun and last is None else None
        return History(
            attempts=begun,
            failures=0 if known is None or reset else known.failures,
            limited=0 if known is None or reset else known.limited,
            claimed=claimed,
            record=last,
            reset=reset,
        )

    def retry(self, task_id: str) -> TaskState:
        task, state, since = self.kept.tasks.get(task_id, (None, None, 0.0))
        if task is None or state not in (TaskState.FAILED, TaskState.COMPLETED):
            raise LookupError(task_id)
        self.kept.resets[task_id] = self.kept.begun.get(task_id, 0)
        self.kept.tasks[task_id] = (task, TaskState.PENDING, since)
        return state

    def counts(self) -> dict[TaskState, int]:
        states = [state for _task, state, _since in self.kept.tasks.values()]
        return {state: states.count(state) for state in TaskState}

    def is_well(self) -> OSError | None:
        return self.broken

    def note_pause(self, until: float | None, _task_id: str) -> None:
        self._write()
        self.kept.pause = until

    def pause(self) -> float | None:
        return self.kept.pause

    def die(self) -> MemoryStore:
        """The program that has this store is killed, and the locks that no job holds are free. Who comes
        next.
        """
        self.kept.owner = None
        self.kept.locked -= {name for name in self.held if not self.held[name].extra.get("runs")}
        return MemoryStore(self.kept)


def record_of(hold: Hold, state: TaskState, outcome: Any, **fields: Any) -> Record:
    """What came of an attempt."""
    said = {"failures": 0, **fields}
    return dataclasses.replace(
        Record(id=hold.id, attempt=hold.attempt, state=state, outcome=outcome, failures=0), **said
    )
