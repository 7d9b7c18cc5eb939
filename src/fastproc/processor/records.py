"""What is kept beside the files of tasks: journals, results, logs, what is asked of them, and the pause.

attempts/<id>.jsonl         a line for each attempt that was begun, and for the process that was started
results/<id>.<n>.json       what came of attempt n; written once, never over another
logs/<id>.<n>.log           what it printed
.requests/<id>.cancel       what somebody wants of the Processor that runs a task
.pause.json                 until when a rate limit holds
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import stat
import time
from collections.abc import Mapping, Sequence
from logging import getLogger
from typing import Any

from . import journal
from .place import Place
from .store import History, Hold, Record

_log = getLogger("fastproc.processor")

_MAX_JOURNAL_BYTES = 16 << 20
_MAX_RECORD_BYTES = 16 << 20
_TRIES = 20


class Records:
    """See the head of this file. Thread-safe for questions, logs and notes of starts."""

    def __init__(self, place: Place) -> None:
        self._place = place

    # ---- journals ----

    def open_journal(self, task_id: str) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
        try:
            return self._place.disk.open_file(f"{task_id}.jsonl", self._place.fds["attempts"], flags)
        except FileNotFoundError:
            return self._place.disk.open_file(f"{task_id}.jsonl", self._place.again("attempts"), flags)

    def begin_journal(self, task_id: str) -> tuple[int, list[dict[str, Any]]]:
        """Open the journal for an attempt that begins, and read it. It is made if it is not there."""
        fd = self.open_journal(task_id)
        try:
            found = self._place.disk.fstat(fd)
            content = b""
            if found.st_size and stat.S_ISREG(found.st_mode):
                with contextlib.suppress(OSError):
                    content = self._place.disk.read(fd, _MAX_JOURNAL_BYTES)
            return fd, journal.lines(content) if content else []
        except BaseException:
            self._place.disk.close(fd)
            raise

    def leave_journal(self, hold: Hold) -> None:
        if hold.journal_fd is not None:
            self._place.disk.close(hold.journal_fd)
            hold.journal_fd = None

    def append(self, fd: int, note: bytes) -> None:
        size = self._place.disk.fstat(fd).st_size
        if size and os.pread(fd, 1, size - 1) != b"\n":
            note = b"\n" + note
        self._place.disk.write(fd, note)

    def note_start(self, hold: Hold, identity: Mapping[str, Any]) -> None:
        """See Store. Not synced: after a power loss no process of before lives, and the boot id says so."""
        note = journal.line(event="started", attempt=hold.attempt, at=time.time(), log=hold.log, **identity)
        with contextlib.suppress(OSError):
            if hold.journal_fd is not None:
                # Our own line is the last one, and whole.
                try:
                    self._place.disk.write(hold.journal_fd, note)
                finally:
                    self.leave_journal(hold)
                return
            fd = self.open_journal(hold.id)
            try:
                self.append(fd, note)
            finally:
                self._place.disk.close(fd)

    # ---- logs ----

    def open_log(self, hold: Hold) -> int | None:
        """See Store. Never over another: a log that is there already is of an attempt that never was
        filed.
        """
        name = f"{hold.id}.{hold.attempt}.log"
        for _ in range(_TRIES):
            fd = self._open_own(name)
            if fd is not None:
                break
            # Put there by whoever can write here, a job of before say: it is moved out of the way.
            with contextlib.suppress(FileNotFoundError, FileExistsError):
                aside = f"{name}.~{secrets.token_hex(4)}"
                self._place.disk.rename_new(name, self._place.fds["logs"], aside, self._place.fds["logs"])
                _log.warning("%s in the logs of %s was no log, and is %s now", name, self._place.path, aside)
        else:
            raise OSError(errno.EAGAIN, "somebody puts other things in its place", name)
        os.set_blocking(fd, True)
        hold.log = name
        return fd

    def _open_own(self, name: str) -> int | None:
        """A log to append to; None if that name is of something that leads elsewhere."""
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
        try:
            try:
                fd = self._place.disk.open_file(name, self._place.fds["logs"], flags)
            except FileNotFoundError:
                fd = self._place.disk.open_file(name, self._place.again("logs"), flags)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EMLINK, errno.EISDIR, errno.ENXIO, errno.ENODEV):
                return None
            raise
        found = self._place.disk.fstat(fd)
        if stat.S_ISREG(found.st_mode) and found.st_nlink <= 1:
            return fd
        self._place.disk.close(fd)
        return None

    def keep_log(self, fd: int) -> None:
        """See Store. A log that cannot be synced holds up no result."""
        if self._place.durability == "full":
            try:
                self._place.disk.sync(fd)
                self._place.sync_dirs("logs")
            except OSError as error:
                _log.warning("a log in %s cannot be synced: %s", self._place.path, str(error))

    def open_log_to_read(self, name: str) -> int:
        """A descriptor of a log; FileNotFoundError if there is none."""
        return self._place.disk.open_file(name, self._place.fds["logs"])

    # ---- results ----

    def keep(self, filings: Sequence[tuple[Hold, Record]]) -> None:
        """Have results on the disk, under their names."""
        self.write([filing for filing in filings if not filing[0].written])
        if not filings:
            return
        try:
            self._place.sync_dirs("results")
        except BaseException:
            # What a failed fsync(2) has left is written anew, see fsync(2) on EIO.
            for hold, _record in filings:
                hold.written = False
            raise
        for hold, _record in filings:
            hold.recorded = True

    def write(self, filings: Sequence[tuple[Hold, Record]]) -> None:
        """Have results on the disk, and give them their names, which are not there yet."""
        made: list[tuple[int, str | None]] = []
        try:
            for _hold, record in filings:
                made.append(self._place.new_file("results", journal.record_bytes(record)))
            self._place.sync_files([fd for fd, _spare in made])
            for (_hold, record), (fd, spare) in zip(filings, made, strict=True):
                # One that is there already is what came of this attempt: it is never written over.
                with contextlib.suppress(FileExistsError):
                    self._place.disk.publish(
                        fd,
                        spare,
                        self._place.fds[".new"],
                        f"{record.id}.{record.attempt}.json",
                        self._place.fds["results"],
                    )
            for hold, _record in filings:
                hold.written = True
        finally:
            for fd, _spare in made:
                self._place.disk.close(fd)

    # ---- what is known of a task ----

    def has_notes(self, task_id: str) -> bool:
        """Whether there is a journal of a task."""
        return self._place.disk.exists(f"{task_id}.jsonl", self._place.fds["attempts"])

    def notes(self, task_id: str) -> list[dict[str, Any]]:
        content = self._place.content("attempts", f"{task_id}.jsonl", _MAX_JOURNAL_BYTES)
        return [] if content is None else journal.lines(content)

    def record(self, task_id: str, attempt: int) -> Record | None:
        """What came of an attempt, or None if that is not known (yet)."""
        content = self._place.content("results", f"{task_id}.{attempt}.json", _MAX_RECORD_BYTES)
        return None if content is None else journal.read_record(content)

    def history(self, task_id: str) -> History:
        """See Store."""
        return self.history_of(task_id, self.notes(task_id))

    def history_of(self, task_id: str, notes: list[dict[str, Any]]) -> History:
        """What such lines of its journal, and its results, say of a task."""
        if not notes:
            return History()
        attempts = max((note["attempt"] for note in notes if isinstance(note.get("attempt"), int)), default=0)
        last = self.record(task_id, attempts) if attempts else None
        before = None
        if last is None:
            # Attempts that were begun and never started have no record; there is one for all others.
            for attempt in range(attempts - 1, max(0, attempts - 50), -1):
                before = self.record(task_id, attempt)
                if before is not None:
                    break
        return journal.history(notes, last, before)

    # ---- wishes and pauses ----

    def ask_to_cancel(self, task_id: str) -> None:
        """Leave word for the Processor that runs a task."""
        fd = self._place.disk.open_file(
            f"{task_id}.cancel", self._place.fds[".requests"], os.O_WRONLY | os.O_CREAT
        )
        self._place.disk.close(fd)
        self._place.sync_dirs(".requests")

    def requests(self) -> list[str]:
        """Who is to be cancelled. Those of others are left to them."""
        return [
            name.removesuffix(".cancel")
            for name in self._place.disk.list_dir(self._place.fds[".requests"])
            if name.endswith(".cancel")
        ]

    def take_request(self, task_id: str) -> None:
        """A wish has been granted, or is no longer of use."""
        with contextlib.suppress(OSError):
            self._place.disk.unlink(f"{task_id}.cancel", self._place.fds[".requests"])

    def note_pause(self, until: float | None, task_id: str) -> None:
        """See Store."""
        if until is None:
            with contextlib.suppress(FileNotFoundError):
                self._place.disk.unlink(".pause.json", self._place.root)
            return
        spare = f".pause.{os.getpid()}-{secrets.token_hex(4)}"
        fd = self._place.disk.open_file(spare, self._place.root, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        try:
            said = {"until": until, "since": time.time(), "task": task_id, "reason": "rate limit"}
            self._place.disk.write(fd, json.dumps(said).encode() + b"\n")
            self._place.sync_files([fd])
        finally:
            self._place.disk.close(fd)
        self._place.disk.replace(spare, self._place.root, ".pause.json", self._place.root)

    def pause(self) -> float | None:
        """See Store."""
        try:
            fd = self._place.disk.open_file(".pause.json", self._place.root)
        except OSError:
            return None
        try:
            said = json.loads(self._place.disk.read(fd, 4096))
            return float(said["until"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        finally:
            self._place.disk.close(fd)
