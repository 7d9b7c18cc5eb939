"""What a task has printed, as numbered entries that can be followed while it runs.

The entries of a task are numbered from 1 through all its attempts and never change: the beginning of an
    attempt, its
lines, its end. So whoever has read up to a number asks for what comes after it. Control characters are
escaped; the bytes as they were are in logs/.
"""

from __future__ import annotations

import json
import os
import threading
from collections import OrderedDict
from dataclasses import dataclass, replace

from .store import History, Record
from .store_dir import DirectoryStore

MAX_LINE_BYTES = 64 * 1024
"""A longer line comes in pieces."""
MAX_ENTRIES = 10_000
"""So many entries come at a time."""
_PIECE = 256 * 1024
_CURSORS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEntry:
    """One line of a task's log.

    Attributes:
        sequence: its number.
        attempt: of which attempt.
        timestamp: seconds since 1970, for what the Processor says; None for output, which the job writes
            itself.
        stream: "output" or "processor".
        level: "info" or "error".
        message: the line, without its newline.
    """

    sequence: int
    attempt: int
    timestamp: float | None
    stream: str
    level: str
    message: str


@dataclass(frozen=True, slots=True)
class _Cursor:
    """Up to where a log has been numbered."""

    sequence: int = 0
    attempt: int = 0
    offset: int = 0
    ended: bool = True
    """The end of that attempt has been numbered, or there is none."""


class LogReader:
    """Numbers the log of each task, and remembers where it was for those that are followed. Thread-safe."""

    def __init__(self, store: DirectoryStore) -> None:
        self._store = store
        self._cursors: OrderedDict[str, _Cursor] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, task_id: str, after: int, limit: int) -> list[LogEntry]:
        """The entries after that number, `limit` at most."""
        with self._lock:
            cursor = self._cursors.get(task_id, _Cursor())
        if cursor.sequence > after:
            cursor = _Cursor()
        history = self._store.history(task_id)
        entries: list[LogEntry] = []
        while len(entries) < limit:
            before = cursor
            cursor, found = self._next(task_id, history, cursor)
            entries += [entry for entry in found if entry.sequence > after]
            if cursor == before:
                break
        if len(entries) > limit:
            # A piece has brought more than was asked for: next time from the beginning of the piece.
            del entries[limit:]
            cursor = before
        with self._lock:
            self._cursors[task_id] = cursor
            self._cursors.move_to_end(task_id)
            if len(self._cursors) > _CURSORS:
                self._cursors.popitem(last=False)
        return entries

    def _next(self, task_id: str, history: History, cursor: _Cursor) -> tuple[_Cursor, list[LogEntry]]:
        """Number one more piece."""
        if cursor.ended:
            return self._beginning(history, cursor)
        record = self._store.records.record(task_id, cursor.attempt)
        lines, offset = self._lines(task_id, cursor, is_over=record is not None)
        if lines:
            entries = [
                LogEntry(
                    sequence=cursor.sequence + number,
                    attempt=cursor.attempt,
                    timestamp=None,
                    stream="output",
                    level="info",
                    message=printable(line.decode("utf-8", "replace")),
                )
                for number, line in enumerate(lines, 1)
            ]
            return replace(cursor, sequence=cursor.sequence + len(lines), offset=offset), entries
        if record is None and history.attempts <= cursor.attempt:
            return cursor, []
        return self._ending(cursor, record)

    def _beginning(self, history: History, cursor: _Cursor) -> tuple[_Cursor, list[LogEntry]]:
        for note in history.notes:
            attempt = note.get("attempt")
            if note.get("event") != "claimed" or not isinstance(attempt, int) or attempt <= cursor.attempt:
                continue
            at = note.get("at")
            entry = LogEntry(
                sequence=cursor.sequence + 1,
                attempt=attempt,
                timestamp=at if isinstance(at, float) else None,
                stream="processor",
                level="info",
                message=f"attempt {attempt} begins",
            )
            return _Cursor(entry.sequence, attempt, 0, ended=False), [entry]
        return cursor, []

    def _ending(self, cursor: _Cursor, record: Record | None) -> tuple[_Cursor, list[LogEntry]]:
        if record is None:
            return replace(cursor, ended=True), []
        said = (record.execution or {}).get("error") or (record.execution or {}).get("message") or ""
        words = ": ".join(dict.fromkeys(word for word in (record.reason, str(said)) if word))
        entry = LogEntry(
            sequence=cursor.sequence + 1,
            attempt=cursor.attempt,
            timestamp=record.finished_at,
            stream="processor",
            level="info" if record.outcome in ("succeeded", "given_back") else "error",
            message=printable(f"attempt {cursor.attempt}: {record.outcome}{': ' + words if words else ''}"),
        )
        return replace(cursor, sequence=entry.sequence, ended=True), [entry]

    def _lines(self, task_id: str, cursor: _Cursor, *, is_over: bool) -> tuple[list[bytes], int]:
        """Whole lines from there on, and where they end."""
        try:
            fd = self._store.open_log_to_read(f"{task_id}.{cursor.attempt}.log")
        except OSError:
            return [], cursor.offset
        try:
            piece = os.pread(fd, _PIECE, cursor.offset)
        finally:
            os.close(fd)
        lines = []
        at = 0
        while at < len(piece):
            newline = piece.find(b"\n", at, at + MAX_LINE_BYTES)
            if newline >= 0:
                lines.append(piece[at:newline])
                at = newline + 1
            elif len(piece) - at >= MAX_LINE_BYTES:
                lines.append(piece[at : at + MAX_LINE_BYTES])
                at += MAX_LINE_BYTES
            elif is_over and len(piece) < _PIECE:
                lines.append(piece[at:])
                at = len(piece)
            else:
                break
        return lines, cursor.offset + at


def printable(line: str) -> str:
    """A line that cannot move a terminal's cursor, change its colours or turn its text round."""
    if line.isprintable():
        return line
    return "".join(
        letter if letter.isprintable() or letter == "\t" else letter.encode("unicode_escape").decode()
        for letter in line.rstrip("\r")
    )


def last_line(tail: bytes) -> str:
    """The last whole or begun line with something in it, for people."""
    for line in reversed(tail.replace(b"\r", b"\n").split(b"\n")):
        if line.strip():
            words = " ".join(spoken(line.decode("utf-8", "replace").strip()).splitlines())
            return printable(words)[:200]
    return ""


def spoken(line: str) -> str:
    """What a coding agent says in a line of JSON, such as Claude Code's stream-json; any other line as it
    is.
    """
    if not line.startswith("{"):
        return line
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return line
    if not isinstance(found, dict):
        return line
    message = found.get("message")
    content = message.get("content") if isinstance(message, dict) else None
    parts = [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []
    for part in (*reversed(parts), found):
        for name in ("text", "result", "error"):
            if isinstance(value := part.get(name), str) and value.strip():
                return value.strip()
        if part.get("type") == "tool_use":
            return f"uses {part.get('name')}"
    return line
