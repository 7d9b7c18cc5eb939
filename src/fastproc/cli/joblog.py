"""The job log: one line for each job that has ended, and what can be skipped because of it.

Fields are separated by tabs, in a line of their own names first; empty where there is nothing to say. In
names and commands a tab is written `\\t` and a backslash `\\\\`. Lines are appended, each in one write(2), so
that a crash loses at most the last one. A log in use is locked (flock(2)) against a second batch.

A job is known again by its command, not by its place in the list: lines may be inserted or moved.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

FIELDS = ("seq", "name", "start", "seconds", "exit", "signal", "reason", "max_rss", "command")
HEADER = "\t".join(FIELDS)

UNFINISHED = frozenset({"terminated", "cancelled"})
"""Reasons of ends that were ours, not the job's: it is to be run again."""


class JobLogError(Exception):
    """The job log cannot be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What the log says about one job."""

    number: int
    name: str
    started_at: float
    """Wall clock, seconds since 1970."""
    seconds: float
    code: int | None
    signal: int | None
    reason: str
    max_rss: int
    command: str

    def line(self) -> str:
        """The line of the log, without its end."""
        start = datetime.fromtimestamp(self.started_at, UTC).isoformat(timespec="milliseconds")
        fields = (
            str(self.number),
            _escape(self.name),
            start.replace("+00:00", "Z"),
            f"{self.seconds:.6f}",
            "" if self.code is None else str(self.code),
            "" if self.signal is None else str(self.signal),
            self.reason,
            str(self.max_rss) if self.max_rss else "",
            _escape(self.command),
        )
        return "\t".join(fields)


class JobLog:
    """A job log, open for appending. Use as a context manager.

    Raises:
        JobLogError: it is no job log, or another batch is writing it.
        OSError: it cannot be opened.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.fspath(path)
        self._fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            self._prepare(self._path)
        except BaseException:
            os.close(self._fd)
            raise

    def _prepare(self, path: str) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise JobLogError(f"another batch is writing the job log {path!r}") from None
        found = os.fstat(self._fd)
        if stat.S_ISFIFO(found.st_mode):
            raise JobLogError(f"{path!r} is a FIFO, which cannot be read again; choose a file")
        end = found.st_size
        if end == 0:
            self._append(f"{HEADER}\n".encode())
            return
        if os.pread(self._fd, len(HEADER) + 1, 0) != f"{HEADER}\n".encode():
            raise JobLogError(
                f"{path!r} is something else than a job log of this program; choose another file"
            )
        if os.pread(self._fd, 1, end - 1) != b"\n":
            self._append(b"\n")  # the torn last line of a crash: keep it apart from the next

    def add(self, entry: Entry) -> None:
        """Append a line; it is with the kernel when this returns.

        Raises:
            JobLogError: it cannot be written, as on a full disk.
        """
        self._append(f"{entry.line()}\n".encode(errors="surrogateescape"))

    def _append(self, content: bytes) -> None:
        left = memoryview(content)
        try:
            while left:
                left = left[os.write(self._fd, left) :]
        except OSError as error:
            raise JobLogError(f"the job log {self._path!r} cannot be written: {error.strerror}") from None

    def close(self) -> None:
        os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(slots=True)
class Done:
    """What earlier runs have done: how often each command has succeeded, and failed."""

    succeeded: Counter[str]
    failed: Counter[str]

    def skip(self, command: str, *, retry_failed: bool) -> str | None:
        """Use up one earlier end of this command: `succeeded`, `failed`, or None if it is to be run."""
        if self.succeeded[command] > 0:
            self.succeeded[command] -= 1
            return "succeeded"
        if self.failed[command] > 0:
            self.failed[command] -= 1
            return None if retry_failed else "failed"
        return None


def read_done(path: str | os.PathLike[str]) -> Done:
    """Read what a job log says to be done. A missing log says nothing; torn lines are passed over.

    A job that has several lines, because it was tried again, counts by the last of them.

    Raises:
        JobLogError: it is no job log.
    """
    last: dict[tuple[str, str], bool | None] = {}
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as log:
            header = log.readline()
            if header and header != f"{HEADER}\n":
                raise JobLogError(f"{os.fspath(path)!r} is something else than a job log")
            for line in log:
                fields = line.rstrip("\n").split("\t")
                if not line.endswith("\n") or len(fields) != len(FIELDS):
                    continue
                seq, _, _, _, code, _, reason, _, command = fields
                ended = None if reason in UNFINISHED else reason == "exited" and code == "0"
                last[(seq, command)] = ended
    except FileNotFoundError:
        pass
    done = Done(succeeded=Counter(), failed=Counter())
    for (_, command), ended in last.items():
        if ended is not None:
            (done.succeeded if ended else done.failed)[_unescape(command)] += 1
    return done


def _escape(text: str) -> str:
    if "\\" not in text and "\t" not in text:
        return text
    return text.replace("\\", "\\\\").replace("\t", "\\t")


def _unescape(text: str) -> str:
    if "\\" not in text:
        return text
    return "\\".join(part.replace("\\t", "\t") for part in text.split("\\\\"))
