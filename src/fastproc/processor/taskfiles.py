"""The files of tasks: found, opened with care, read, and put away if they are none.

Whoever can write to the directory can put anything there. So what is opened must be a plain file of ours with
one name, is not followed, not waited for, and not believed to be finished while somebody writes it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import stat
import time
from collections.abc import Iterator
from logging import getLogger

from .formats import MAX_FILE_BYTES, BadTask, YamlMissing, parse
from .place import STATES, Place
from .task import Task, TaskState, names_of, split_name

_log = getLogger("fastproc.processor")


class TaskFiles:
    """See the head of this file. Thread-safe for questions; changes are made by one thread."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self.complaints: dict[str, str] = {}
        """File names that cannot be read now, and why."""
        self.quarantined: list[tuple[str, str]] = []
        """File names that were put into quarantine since somebody last looked, and why."""

    def pending(self) -> Iterator[str]:
        """See Store. Names with a leading dot are nobody's: editors and copying programs use them."""
        for name in self._place.disk.list_dir(self._place.fds[TaskState.PENDING]):
            if not name.startswith("."):
                yield name

    def names(self, state: TaskState) -> Iterator[str]:
        """The file names in a state, in no order."""
        for name in self._place.disk.list_dir(self._place.fds[state]):
            if not name.startswith(".") and not name.endswith(".why"):
                yield name

    def look(self, name: str) -> tuple[Task, float] | None:
        """A pending task, and since when it is there; None if it is none, is gone, or cannot be read yet.
        What is no task goes to quarantine, unless somebody is still writing it.
        """
        place = TaskState.PENDING
        parts = split_name(name)
        if parts is None:
            self.quarantine(place, name, "its name is no task id with .json, .yaml or .yml")
            return None
        try:
            fd, found = self.open(place, name)
        except FileNotFoundError:
            self.complaints.pop(name, None)
            return None
        except BadTask as why:
            self.quarantine(place, name, str(why))
            return None
        except OSError as error:
            self.complaints[name] = error.strerror or str(error)
            return None
        try:
            task, since = self.parse(fd, name), found.st_mtime
            # Half a YAML file may be a task too, and another one; half a JSON object is never one.
            if parts[1] != ".json" and time.time() - since < 60 and self._place.disk.is_being_written(fd):
                raise BadTask("still being written")
        except BadTask as why:
            if self._is_unfinished(fd):
                self.complaints[name] = "still being written"
            else:
                self.quarantine(place, name, str(why))
            return None
        except (YamlMissing, OSError) as error:
            self.complaints[name] = str(error)
            return None
        finally:
            self._place.disk.close(fd)
        self.complaints.pop(name, None)
        return task, since

    def _is_unfinished(self, fd: int) -> bool:
        written = self._place.disk.is_being_written(fd)
        if written is None:
            return time.time() - self._place.disk.fstat(fd).st_mtime < 2.0
        return written

    def open(self, place: str, name: str) -> tuple[int, os.stat_result]:
        """Open what must be a plain file of ours, and nothing that only looks like one; and what it looked
        like.
        """
        try:
            fd = self._place.disk.open_file(name, self._place.fds[place])
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EMLINK):
                raise BadTask("a symbolic link") from None
            if error.errno in (errno.ENXIO, errno.ENODEV):
                raise BadTask("a socket or device") from None
            raise
        try:
            found = self._place.disk.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise BadTask(f"a {_kind(found.st_mode)}, not a file")
            if found.st_nlink > 1:
                self._finish_move(place, name, fd, found)
            if found.st_uid not in (os.geteuid(), 0):
                raise BadTask(f"belongs to user {found.st_uid}")
            if found.st_size > MAX_FILE_BYTES:
                raise BadTask(f"larger than {MAX_FILE_BYTES} bytes")
        except BaseException:
            self._place.disk.close(fd)
            raise
        return fd, found

    def _finish_move(self, place: str, name: str, fd: int, found: os.stat_result) -> None:
        """A file with two names is half of a move in two steps, see Disk.rename_new(): the further one stays.

        Raises:
            BadTask: it is not. Whoever has the other name could change the task.
            FileNotFoundError: it is not here any more, or its mover is still at it.
        """

        def is_it(other: str, at: int) -> bool:
            try:
                seen = self._place.disk.stat(other, at)
            except OSError:
                return False
            return (seen.st_ino, seen.st_dev) == (found.st_ino, found.st_dev)

        for spare in list(self._place.disk.list_dir(self._place.fds[".new"])):
            if is_it(spare, self._place.fds[".new"]):
                with contextlib.suppress(FileNotFoundError):
                    self._place.disk.unlink(spare, self._place.fds[".new"])
                return
        named = [state for state in STATES if is_it(name, self._place.fds[state])]
        if len(named) < 2 or found.st_nlink > len(named):
            if self._place.disk.fstat(fd).st_nlink == 1:
                return
            raise BadTask(f"a file with {found.st_nlink} names: another one could change it")
        if not self._place.disk.lock(fd):
            raise FileNotFoundError(errno.ENOENT, "still being moved", name)
        for state in named[:-1]:
            with contextlib.suppress(FileNotFoundError):
                self._place.disk.unlink(name, self._place.fds[state])
        if named[-1] != place:
            raise FileNotFoundError(errno.ENOENT, "moved", name)

    def parse(self, fd: int, name: str) -> Task:
        """What the file of that name says, which is open."""
        parts = split_name(name)
        assert parts is not None
        content = self._place.disk.read(fd, MAX_FILE_BYTES + 1)
        return Task.read(parts[0], parse(content, yaml=parts[1] != ".json"))

    def quarantine(self, place: str, name: str, reason: str) -> None:
        """Put away what is no task, with the reason beside it."""
        reason = reason[:1000]
        target = name if len(os.fsencode(name)) <= 200 else _short(name)
        there = self._place.fds[TaskState.QUARANTINE]
        for attempt in range(100):
            unlike = target if attempt == 0 else f"{target}.~{attempt}"
            try:
                self._place.disk.rename_new(name, self._place.fds[place], unlike, there)
            except FileExistsError:
                continue
            except FileNotFoundError:
                return
            except OSError as error:
                # A mount point, or a disk that is read-only: it stays, and is not looked at again for now.
                self.complaints[name] = f"{reason}; and cannot be moved: {error.strerror}"
                return
            break
        self.complaints.pop(name, None)
        self.quarantined.append((name, reason))
        _log.warning("quarantined %r: %s", name, reason)
        why = {"name": name, "from": str(place), "reason": reason, "at": time.time()}
        with contextlib.suppress(OSError):
            fd = self._place.disk.open_file(f"{unlike}.why", there, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            try:
                self._place.disk.write(fd, json.dumps(why).encode() + b"\n")
            finally:
                self._place.disk.close(fd)
        with contextlib.suppress(OSError):
            self._place.sync_dirs(TaskState.QUARANTINE, place)

    def why(self, task_id: str) -> str:
        """Why a task is in quarantine."""
        return next(filter(None, map(self.why_file, names_of(task_id))), "")

    def why_file(self, name: str) -> str:
        """Why a file is in quarantine."""
        content = self._place.content(TaskState.QUARANTINE, f"{name}.why", 65536)
        with contextlib.suppress(ValueError, TypeError, AttributeError):
            return str(json.loads(content or b"").get("reason", ""))
        return ""

    def where(self, task_id: str) -> TaskState | None:
        """See Store. Asked twice if it is nowhere: it may have been moving."""
        for _ in range(2):
            for state in (
                TaskState.PENDING,
                TaskState.IN_PROGRESS,
                TaskState.COMPLETED,
                TaskState.FAILED,
                TaskState.QUARANTINE,
            ):
                if self.name_in(state, task_id) is not None:
                    return state
        return None

    def name_in(self, state: TaskState, task_id: str) -> str | None:
        """The file name of a task in a state, or None."""
        exists, there = self._place.disk.exists, self._place.fds[state]
        for name in names_of(task_id):
            if exists(name, there):
                return name
        return None

    def read(self, task_id: str) -> Task | None:
        """What a task's file says, wherever it is; None if there is none that can be read."""
        for state in STATES:
            name = self.name_in(state, task_id)
            if name is None:
                continue
            try:
                fd, _found = self.open(state, name)
            except (OSError, BadTask):
                continue
            try:
                return self.parse(fd, name)
            except (OSError, BadTask, YamlMissing):
                continue
            finally:
                self._place.disk.close(fd)
        return None


def _kind(mode: int) -> str:
    for test, word in (
        (stat.S_ISDIR, "directory"),
        (stat.S_ISFIFO, "FIFO"),
        (stat.S_ISCHR, "device"),
        (stat.S_ISBLK, "device"),
        (stat.S_ISSOCK, "socket"),
    ):
        if test(mode):
            return word
    return "thing of unknown kind"


def _short(name: str) -> str:
    raw = os.fsencode(name)
    return f"{os.fsdecode(raw[:100])}.{hashlib.sha256(raw).hexdigest()[:12]}"
