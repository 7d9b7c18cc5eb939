"""What the directory says of tasks, to whoever asks: no Processor need be running, and none is disturbed.

Used by the Processor for its questions, and so by the command line beside one that works elsewhere. All of
it is read anew each time, and may be a moment old.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

from .journal import execution_result, exit_status
from .logs import last_line
from .store import History, Record
from .store_dir import DirectoryStore
from .task import Attempt, Task, TaskResult, TaskState, split_name
from .views import ProcessInfo, ProcessorInfo

_TAIL_BYTES = 16 * 1024


def ids(store: DirectoryStore, state: TaskState) -> Iterator[str]:
    """The tasks in a state, in no order; what is in quarantine and has no task's name is left out."""
    for name in store.files.names(state):
        parts = split_name(name)
        if parts is not None:
            yield parts[0]


def quarantined(store: DirectoryStore) -> Iterator[tuple[str, str]]:
    """The files in quarantine, and why each is there, sorted by name."""
    for name in sorted(store.files.names(TaskState.QUARANTINE)):
        yield name, store.files.why_file(name)


def attempts(store: DirectoryStore, task_id: str) -> list[Attempt]:
    """All attempts of a task, the first one first."""
    history = store.history(task_id)
    found: dict[int, Attempt] = {}
    pids = {note.get("attempt"): note for note in history.notes if note.get("event") == "started"}
    for note in history.notes:
        number, at = note.get("attempt"), note.get("at")
        if note.get("event") != "claimed" or not isinstance(number, int) or number in found:
            continue
        started = pids.get(number, {})
        pid, log = started.get("pid"), started.get("log")
        record = store.records.record(task_id, number)
        if record is not None and record.log is not None:
            log = record.log
        found[number] = Attempt(
            number=number,
            begun_at=at if isinstance(at, float) else 0.0,
            pid=pid if isinstance(pid, int) else None,
            outcome=None if record is None else str(record.outcome),
            exit=None if record is None else exit_status(record.exit),
            execution=None if record is None else execution_result(record.execution),
            reason="" if record is None else record.reason,
            retry_at=(record.retry_at or None) if record is not None else None,
            finished_at=None if record is None else record.finished_at,
            log_path=_log_path(store, _log_name(log)),
        )
    return [found[number] for number in sorted(found)]


def processors(store: DirectoryStore) -> list[ProcessorInfo]:
    """Who works on the directory now, and how each is doing, the oldest first."""
    found = [_processor(said) for said in store.presence.processors() if not said.get("visitor")]
    return sorted(found, key=lambda info: (info.started_at, info.pid))


def _processor(said: Mapping[str, Any]) -> ProcessorInfo:
    """What one says of itself; of one that has not got that far, only that it is there."""

    def number(name: str) -> float | None:
        value = said.get(name)
        return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None

    words = said.get("causes")
    causes = tuple(map(str, words)) if isinstance(words, list) else ()
    return ProcessorInfo(
        pid=int(number("pid") or 0),
        host=str(said.get("host", "")),
        started_at=number("started") or 0.0,
        slots=int(number("slots") or 0),
        paused=said.get("paused") is True,
        paused_until=number("paused_until"),
        health="degraded" if causes else "ok",
        causes=causes,
        shared=said.get("shared") is True,
        stopping=said.get("stopping") is True,
    )


def result(store: DirectoryStore, task_id: str) -> TaskResult | None:
    """Where a task stands, and what came of its last attempt; None if there is no such task."""
    state = store.where(task_id)
    if state is None:
        return None
    history = store.history(task_id)
    record = history.record
    if record is None and history.attempts > 1:
        # The attempt that runs has none yet; a pending task tells of the one before.
        record = (
            None if state is TaskState.IN_PROGRESS else store.records.record(task_id, history.attempts - 1)
        )
    log = record.log if record is not None else (history.started or {}).get("log")
    began = (history.claimed or {}).get("at")
    return TaskResult(
        task_id=task_id,
        state=state,
        attempts=history.attempts,
        failures=history.failures,
        outcome=None if record is None else str(record.outcome),
        exit=None if record is None else exit_status(record.exit),
        execution=None if record is None else execution_result(record.execution),
        reason=_reason(store, task_id, state, record),
        started_at=record.started_at if record is not None else began,
        finished_at=None if record is None else record.finished_at,
        log_path=None if not isinstance(log, str) else str(store.path / "logs" / log),
    )


def _reason(store: DirectoryStore, task_id: str, state: TaskState, record: Record | None) -> str:
    if state is TaskState.QUARANTINE:
        return store.files.why(task_id)
    return "" if record is None else record.reason


def running(store: DirectoryStore, now: float) -> list[ProcessInfo]:
    """What some Processor runs, or has run until it died; `now` in seconds since 1970."""
    infos = []
    for task_id in sorted(ids(store, TaskState.IN_PROGRESS)):
        history = store.history(task_id)
        began = (history.started or history.claimed or {}).get("at")
        if history.claimed is None or not isinstance(began, float):
            continue
        task = store.files.read(task_id) or Task(id=task_id)
        infos.append(_info(store, task, history, began, now))
    return infos


def _info(store: DirectoryStore, task: Task, history: History, began: float, now: float) -> ProcessInfo:
    started = history.started or {}
    pid, log = started.get("pid"), _log_name(started.get("log"))
    size, words = tail(store, log) if log is not None else (0, "")
    return ProcessInfo(
        task_id=task.id,
        pid=pid if isinstance(pid, int) else 0,
        attempt=history.attempts,
        started_at=began,
        elapsed=max(0.0, now - began),
        title=task.title,
        priority=str(task.priority),
        log_bytes=size,
        last_line=words,
        log_path=_log_path(store, log),
    )


def _log_name(said: object) -> str | None:
    """The file name that a journal gives a log, if it is one and leads nowhere else."""
    return said if isinstance(said, str) and "/" not in said else None


def _log_path(store: DirectoryStore, name: str | None) -> str | None:
    return None if name is None else str(store.path / "logs" / name)


def tail(store: DirectoryStore, log: str) -> tuple[int, str]:
    """How much a log holds, and its last line; nothing of one that is not there."""
    with contextlib.suppress(OSError):
        fd = store.open_log_to_read(log)
        try:
            size = os.fstat(fd).st_size
            return size, last_line(os.pread(fd, _TAIL_BYTES, max(0, size - _TAIL_BYTES)))
        finally:
            os.close(fd)
    return 0, ""
