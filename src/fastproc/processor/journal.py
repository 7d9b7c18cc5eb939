"""The bytes of what is kept beside a task: one JSON line for each step of an attempt, one document for its
result.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

from ..status import ExitReason, ExitStatus, ResourceUsage
from .news import Outcome
from .store import History, Record
from .task import ExecutionResult, TaskState

_RECORD_FIELDS = tuple(item.name for item in dataclasses.fields(Record))
_EXIT_FIELDS = tuple(item.name for item in dataclasses.fields(ExitStatus) if item.name != "rusage")
# dumps() makes an encoder for each call that asks for anything of its own.
_compact = json.JSONEncoder(separators=(",", ":")).encode
_encode = json.JSONEncoder().encode
_encode_text = json.encoder.encode_basestring_ascii


def line(**fields: object) -> bytes:
    """One line of a journal."""
    return _compact(fields).encode() + b"\n"


def lines(content: bytes) -> list[dict[str, Any]]:
    """The whole lines of a journal. A last one that a power loss has torn is no line."""
    found = []
    for text in content.split(b"\n"):
        try:
            fields = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(fields, dict):
            found.append(fields)
    return found


def record_bytes(record: Record) -> bytes:
    """The document of a result."""
    return document({name: getattr(record, name) for name in _RECORD_FIELDS})


def document(fields: Mapping[str, Any]) -> bytes:
    """Fields as JSON for people too, a line each. With `indent` the encoder in C is not used, which takes ten
    times as long.
    """
    return "{{\n{}\n}}\n".format(
        ",\n".join([f" {_encode_text(name)}: {_value(value)}" for name, value in fields.items()])
    ).encode()


def _value(value: object) -> str:
    """As json.dumps() does; what is most often there without its detours."""
    if value is None:
        return "null"
    kind = type(value)
    if kind is str:
        return _encode_text(value)  # type: ignore[arg-type]
    if kind is int or (kind is float and math.isfinite(value)):  # type: ignore[arg-type]
        return repr(value)
    return _encode(value)


def read_record(content: bytes) -> Record | None:
    """The record in a document, or None if it is none."""
    try:
        fields = json.loads(content)
        return Record(
            id=fields["id"],
            attempt=int(fields["attempt"]),
            state=TaskState(fields["state"]),
            outcome=Outcome(fields["outcome"]),
            failures=int(fields["failures"]),
            reason=str(fields.get("reason", "")),
            retry_at=float(fields.get("retry_at", 0.0)),
            started_at=fields.get("started_at"),
            finished_at=fields.get("finished_at"),
            exit=fields.get("exit"),
            execution=fields.get("execution"),
            log=fields.get("log"),
            limited=int(fields.get("limited", 0)),
            lost=int(fields.get("lost", 0)),
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def history(notes: list[dict[str, Any]], last: Record | None, before: Record | None) -> History:
    """What a journal says, given the records of its last attempt and of the one before."""
    attempts = 0
    reset_after = -1
    claimed: Mapping[str, Any] | None = None
    started: Mapping[str, Any] | None = None
    for note in notes:
        kind = note.get("event")
        if kind == "claimed" and isinstance(note.get("attempt"), int):
            attempts = note["attempt"]
            claimed, started = note, None
        elif kind == "started" and note.get("attempt") == attempts:
            started = note
        elif kind == "retry":
            reset_after = attempts
    known = last if last is not None else before
    reset = known is not None and known.attempt <= reset_after
    counts = known is not None and not reset
    return History(
        attempts=attempts,
        failures=known.failures if known is not None and counts else 0,
        limited=known.limited if known is not None and counts else 0,
        lost=known.lost if known is not None and counts else 0,
        claimed=claimed if last is None else None,
        started=started,
        record=last,
        reset=reset,
        notes=notes,
    )


def exit_fields(status: ExitStatus | None) -> dict[str, Any] | None:
    """An exit status as plain values."""
    if status is None:
        return None
    fields = {name: getattr(status, name) for name in _EXIT_FIELDS}
    return {**fields, "reason": str(status.reason), "rusage": list(status.rusage)}


def exit_status(fields: Mapping[str, Any] | None) -> ExitStatus | None:
    """The exit status that such values mean."""
    if fields is None:
        return None
    try:
        known = {
            **fields,
            "reason": ExitReason(fields["reason"]),
            "rusage": ResourceUsage(*fields.get("rusage", ())),
        }
        return ExitStatus(**known)
    except (ValueError, KeyError, TypeError):
        return None


def execution_result(fields: Mapping[str, Any] | None) -> ExecutionResult | None:
    """The execution result that such values mean."""
    try:
        return None if fields is None else ExecutionResult(**fields)
    except TypeError:
        return None
