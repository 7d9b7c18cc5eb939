"""The durable store in a directory. The directory is the truth; a rename is the only transition.

    pending/ in-progress/ completed/ failed/ quarantine/     a file a task: <id>.json, .yaml or .yml; never
    changed attempts/<id>.jsonl         a line for each attempt that was begun, and for the process that was
    started results/<id>.<n>.json       what came of attempt n; written once, never over another
    logs/<id>.<n>.log           what it printed
    .processors/<instance>      locked by a living Processor
    .requests/<id>.cancel       what somebody wants of the Processor that runs a task
    .pause.json                 until when a rate limit holds

The right to run a task is the flock(2) of its file. It belongs to the open file description, so it goes with
the file from pending to in-progress, and the job inherits it: the kernel keeps it as long as the Processor
or anything of the job that has kept the descriptor lives, whoever of them dies first. Nobody moves a task
without it.

A submitted file gets its name when its content is on the disk (O_TMPFILE, linkat). Claim: lock, rename,
journal line, all durable before the job starts. Finish: result durable, then rename, both directories
synced, then the slot is free.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from logging import getLogger
from pathlib import Path
from typing import Any

from ..errors import QueueBusy, TaskExists
from . import journal
from .adopt import Person
from .disk import Disk
from .formats import MAX_FILE_BYTES, BadTask, YamlMissing, parse
from .machine import Machine
from .store import Durability, History, Hold, NotClaimed, Orphan, Record
from .task import Task, TaskState, Ticket, names_of, split_name

_log = getLogger("fastproc.processor")

STATES = tuple(TaskState)
_BESIDE = ("attempts", "results", "logs")
_HIDDEN = (".processors", ".requests", ".new")
_MAX_JOURNAL_BYTES = 16 << 20
_MAX_RECORD_BYTES = 16 << 20
_BIG_DIRECTORY = 2000
_MOST_OPEN = 100
_PATIENCE = 5.0
_TRIES = 20


class DirectoryStore:
    """See the head of this file. Thread-safe for questions; what changes something is called by one thread.

    Raises:
        PermissionError: others may write to the directory, see `open_to_others`.
        OSError: it cannot be made or opened.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        durability: Durability = "full",
        open_to_others: bool = False,
        disk: Disk | None = None,
    ) -> None:
        self.path = Path(os.path.abspath(os.fspath(path)))
        self.durability = durability
        self.machine = Machine.here()
        self.instance = self._new_instance()
        self._disk = disk if disk is not None else Disk()
        self._spares = 0
        self._stamped = 0
        self._lock_fd: int | None = None
        self._person_fd: int | None = None
        self._shared = False
        self._said: dict[str, object] = {}
        self._said_bytes = 0
        self._counts: dict[TaskState, tuple[int, float, int]] = {}
        self._fds: dict[str, int] = {}
        self.complaints: dict[str, str] = {}
        """File names that cannot be read now, and why."""
        self.quarantined: list[tuple[str, str]] = []
        """File names that were put into quarantine since somebody last looked, and why."""
        self._held: dict[str, tuple[int, ...]] = {}
        """The tasks that we have claimed or taken over, and the descriptors of their locks."""
        self.unsettled = False
        """Something in progress has no living Processor, and cannot be had yet."""
        self.unwritten: OSError | None = None
        """Why nobody can see that we live: the disk could not be written when we came."""
        self._make_root()
        self._root = self._disk.open_dir(str(self.path))
        try:
            _check_mode(self.path, self._disk.fstat(self._root), open_to_others)
            made = [self._open_or_make(name) for name in (*STATES, *_BESIDE, *_HIDDEN)]
            if any(made) and durability != "none":
                self._disk.sync(self._root)
        except BaseException:
            self.close()
            raise

    def _new_instance(self) -> str:
        return f"{self.machine.host}-{os.getpid()}-{secrets.token_hex(6)}"

    def close(self) -> None:
        """Give back the descriptors, and the locks with them."""
        self.unlock()
        for fd in (*self._fds.values(), self._root):
            with contextlib.suppress(OSError):
                self._disk.close(fd)
        self._fds.clear()
        self._root = -1

    def _make_root(self) -> None:
        """Make the directory, and those it lies in, so that a power loss leaves them."""
        missing = []
        path = self.path
        while not path.exists():
            missing.append(path)
            path = path.parent
        for path in reversed(missing):
            with contextlib.suppress(FileExistsError):
                self._disk.mkdir(str(path))
            if self.durability != "none":
                fd = self._disk.open_dir(str(path.parent))
                try:
                    self._disk.sync(fd)
                finally:
                    self._disk.close(fd)

    def _open_or_make(self, name: str) -> bool:
        """Open one of the directories; whether it had to be made."""
        made = False
        with contextlib.suppress(OSError):
            self._disk.mkdir(name, self._root)
            made = True
        self._fds[name] = self._disk.open_dir(name, self._root)
        return made

    def dir_fd(self, name: str) -> int:
        """The descriptor of one of the directories."""
        return self._fds[name]

    def _is_gone(self, name: str) -> bool:
        """Whether somebody has removed a directory that we have open: then it has no name left."""
        return self._disk.fstat(self._fds[name]).st_nlink == 0

    def _again(self, name: str) -> int:
        """Somebody has removed a directory that we have open: make it anew."""
        before = self._fds[name]
        self._open_or_make(name)
        self._disk.close(before)
        if self.durability != "none":
            self._disk.sync(self._root)
        return self._fds[name]

    # ---- who runs this queue ----

    def lock(self, *, shared: bool) -> None:
        """Lock the directory itself: a lock file could be removed while it is held, see flock(2)."""
        fd = self._disk.open_dir(str(self.path))
        until = time.monotonic() + _PATIENCE
        while not self._disk.lock(fd, shared=shared):
            if time.monotonic() > until or self._is_really_held():
                self._disk.close(fd)
                raise QueueBusy(str(self.path), self._who())
            time.sleep(0.005)
        self._lock_fd = fd
        self._shared = shared
        try:
            self._refuse_strangers()
            self.unwritten = None
            try:
                self._register(shared=shared)
            except OSError as error:
                # One that is alone can do without: whoever comes next knows that it is dead. So it may start
                # on a disk that is full.
                if shared:
                    raise
                self.unwritten = error.with_traceback(None)
        except BaseException:
            self.unlock()
            raise

    def _register(self, **fields: object) -> None:
        """Have others see that we live. A name counts once it is locked, and somebody may just be trying that
        lock, or sweep the name away before it is: then once more.
        """
        people = self._fds[".processors"]
        until = time.monotonic() + _PATIENCE
        while self._person_fd is None:
            fd = self._disk.open_file(self.instance, people, os.O_RDWR | os.O_CREAT)
            try:
                if self._disk.lock(fd) and self._disk.fstat(fd).st_nlink > 0:
                    self._person_fd, fd = fd, -1
                elif time.monotonic() > until:
                    raise OSError(errno.EAGAIN, "somebody holds the lock of our name", self.instance)
                else:
                    time.sleep(0.001)
            finally:
                if fd >= 0:
                    self._disk.close(fd)
        self._said = {"pid": os.getpid(), "started": time.time(), **fields, **self.machine.fields()}
        self.tell_others()

    def tell_others(self, **fields: object) -> None:
        """Say more of ourselves, or something else, to whoever asks for the Processors of this directory."""
        if self._person_fd is None:
            return
        self._said |= fields
        # Never shorter than before: then nothing of what was there is left behind it.
        content = json.dumps(self._said).encode().ljust(self._said_bytes)
        self._said_bytes = len(content)
        with contextlib.suppress(OSError):
            self._disk.rewrite(self._person_fd, content)

    def _unregister(self) -> None:
        if self._person_fd is not None:
            with contextlib.suppress(OSError):
                self._disk.unlink(self.instance, self._fds[".processors"])
            self._disk.close(self._person_fd)
            self._person_fd, self._said_bytes = None, 0

    @contextlib.contextmanager
    def visiting(self) -> Iterator[None]:
        """Be seen to live for a moment, without being a Processor: for whoever claims a task to run nothing.
        Nobody then takes that claim for one of a Processor that has died.
        """
        if self._person_fd is not None:
            yield
            return
        self._register(visitor=True)
        try:
            yield
        finally:
            self._unregister()

    def unlock(self) -> None:
        """Be no Processor any more."""
        self._unregister()
        self._disk.rest()
        if self._lock_fd is not None:
            self._disk.close(self._lock_fd)
            self._lock_fd = None

    def _people(self) -> Iterator[tuple[str, bool, dict[str, Any]]]:
        """Who has been here: name, whether it lives, and what it says of itself."""
        people = self._fds[".processors"]
        for name in self._disk.list_dir(people):
            if name == self.instance:
                continue
            try:
                fd = self._disk.open_file(name, people)
            except OSError:
                continue
            try:
                alive = not self._disk.lock(fd)
                said = json.loads(self._disk.read(fd, 65536) or b"{}")
            except (OSError, ValueError):
                said = {}
            finally:
                self._disk.close(fd)
            yield name, alive, said if isinstance(said, dict) else {}

    def _who(self) -> str:
        for _name, alive, said in self._people():
            if alive and "pid" in said and not said.get("visitor"):
                return f"process {said['pid']} on {said.get('host')}"
        return "another Processor"

    def _is_really_held(self) -> bool:
        """Whether somebody lives who may hold the directory. One that was killed while it started a job left
        copies of its descriptors in the child, until that executes its program.
        """
        people = [said for _name, alive, said in self._people() if alive and not said.get("visitor")]
        here = self.machine.fields()
        return not people or any(
            any(said.get(name) != here[name] for name in ("machine", "boot", "pidns"))
            or _is_running(said.get("pid"))
            for said in people
        )

    def _refuse_strangers(self) -> None:
        """On a network file system our locks may not reach the other machine: believe its own record
        instead.
        """
        if not self.machine.is_remote(self._root):
            return
        for _name, _alive, said in self._people():
            if said.get("machine") not in (None, self.machine.machine) and not said.get("visitor"):
                who = (
                    f"process {said.get('pid')} on {said.get('host')}, which has not left cleanly; "
                    "remove its file in .processors if it is gone"
                )
                raise QueueBusy(str(self.path), who)

    def has_processor(self) -> bool:
        """Whether a Processor works on this directory."""
        return self._person_fd is not None or any(
            alive and not said.get("visitor") for _name, alive, said in self._people()
        )

    def in_progress(self) -> list[str]:
        """The ids of the tasks in progress."""
        names = self._disk.list_dir(self._fds[TaskState.IN_PROGRESS])
        return sorted(parts[0] for name in names if (parts := split_name(name)) is not None)

    def names(self, state: TaskState) -> Iterator[str]:
        """The file names in a state, in no order."""
        for name in self._disk.list_dir(self._fds[state]):
            if not name.startswith(".") and not name.endswith(".why"):
                yield name

    def processors(self) -> list[dict[str, Any]]:
        """What the living Processors of this directory say of themselves, other than this one."""
        return [said for _name, alive, said in self._people() if alive]

    def is_alive(self, instance: str) -> bool:
        """Whether a Processor lives."""
        if instance == self.instance:
            return True
        if "/" in instance:
            return False
        try:
            fd = self._disk.open_file(instance, self._fds[".processors"])
        except OSError:
            return False
        try:
            return not self._disk.lock(fd)
        finally:
            self._disk.close(fd)

    def sweep(self) -> None:
        """Remove what dead Processors and crashed submitters have left that nobody needs."""
        people = self._fds[".processors"]
        for name in list(self._disk.list_dir(people)):
            with contextlib.suppress(OSError):
                self._sweep_person(name, people)
        spares = self._fds[".new"]
        for name in self._disk.list_dir(spares):
            # They have names only where the file system has no O_TMPFILE. A writer needs seconds, not a day.
            with contextlib.suppress(OSError):
                found = self._disk.stat(name, spares)
                if found.st_nlink > 1 or found.st_mtime < time.time() - 86400:
                    self._disk.unlink(name, spares)

    def _sweep_person(self, name: str, people: int) -> None:
        if name == self.instance:
            return
        fd = self._disk.open_file(name, people)
        try:
            # With its lock in our hand: whoever is about to take it sees that the name is gone.
            if self._disk.lock(fd):
                self._disk.unlink(name, people)
        finally:
            self._disk.close(fd)

    def forget(self) -> None:
        """[forked copy] The queue is the original's: a copy of a lock's descriptor would hold it on."""
        held = [fd for fds in self._held.values() for fd in fds]
        for fd in (self._person_fd, self._lock_fd, *held):
            if fd is not None:
                with contextlib.suppress(OSError):
                    self._disk.close(fd)
        self._disk.forget()
        self._person_fd = self._lock_fd = None
        self._held.clear()
        self.instance = self._new_instance()

    # ---- submitting ----

    def submit(self, tasks: Sequence[Task]) -> None:
        """See Store. All content is on the disk before the first of them gets its name."""
        self._refuse_known(tasks)
        made: list[tuple[int, str | None]] = []
        spares: list[str | None] = []
        done: list[str] = []
        pending, new = self._fds[TaskState.PENDING], self._fds[".new"]
        # A file without a name lives as long as its descriptor: of very many, those that are written get a
        # spare one.
        named = len(tasks) > _MOST_OPEN
        try:
            for task in tasks:
                content = journal.document(task.fields)
                if len(content) > MAX_FILE_BYTES:
                    raise BadTask(f"task {task.id} is larger than {MAX_FILE_BYTES} bytes as a file")
                made.append(self._new_file(TaskState.PENDING, content, named=named))
                spares.append(made[-1][1])
                # In the order of submission, by which equals are run: a microsecond apart at least.
                self._stamped = max(self._stamped + 1000, time.time_ns())
                self._disk.stamp(made[-1][0], self._stamped)
                if named and len(made) == _MOST_OPEN:
                    self._settle(made)
            if named:
                self._settle(made)
            self._sync_files([fd for fd, _spare in made])
            for number, task in enumerate(tasks):
                name = f"{task.id}.json"
                fd = -1 if named else made[number][0]
                try:
                    self._disk.publish(fd, spares[number], new, name, pending)
                except FileExistsError:
                    raise TaskExists(task.id, TaskState.PENDING) from None
                done.append(name)
            self._sync_dirs(TaskState.PENDING)
        except BaseException:
            # All or none: those that have their name are withdrawn, unless somebody has begun them already.
            for name in done:
                with contextlib.suppress(OSError):
                    self._disk.unlink(name, pending)
            for spare in spares[len(done) :]:
                if spare is not None:
                    with contextlib.suppress(OSError):
                        self._disk.unlink(spare, new)
            raise
        finally:
            for fd, _spare in made:
                self._disk.close(fd)
            if self._person_fd is None:
                self._disk.rest()

    def _refuse_known(self, tasks: Sequence[Task]) -> None:
        seen = set()
        for task in tasks:
            if task.id in seen:
                raise TaskExists(task.id, "submitted twice in one call")
            seen.add(task.id)
            # In the direction in which tasks move: one that moves meanwhile is met further on.
            if (state := self.where(task.id)) is not None:
                raise TaskExists(task.id, state)

    def _settle(self, made: list[tuple[int, str | None]]) -> None:
        """Have these on the disk, and give their descriptors back."""
        self._sync_files([fd for fd, _spare in made])
        while made:
            self._disk.close(made.pop()[0])

    def _new_file(self, place: str, content: bytes, *, named: bool = False) -> tuple[int, str | None]:
        """A file with content and without a name, or with a spare one in .new, to be had by `named` in any
        case.
        """
        self._spares += 1
        spare = f"{self.instance}-{self._spares}"
        try:
            fd, own = self._create(place, spare, named)
        except OSError:
            if not self._is_gone(place):
                raise
            self._again(place)
            fd, own = self._create(place, spare, named)
        try:
            self._disk.write(fd, content)
        except BaseException:
            self._disk.close(fd)
            if own is not None:
                with contextlib.suppress(OSError):
                    self._disk.unlink(own, self._fds[".new"])
            raise
        return fd, own

    def _create(self, place: str, spare: str, named: bool) -> tuple[int, str | None]:
        if named:
            return self._disk.create(spare, self._fds[".new"]), spare
        return self._disk.create_nameless(self._fds[place], self._fds[".new"], spare)

    def _groups(self, items: Sequence[Any]) -> Iterator[Sequence[Any]]:
        step = 1 if self.durability == "full" else _MOST_OPEN
        for at in range(0, len(items), step):
            yield items[at : at + step]

    def _sync_files(self, fds: Sequence[int], *places: str) -> None:
        """Have files on the disk, and what directories hold, in no order."""
        if self.durability == "none":
            return
        if len(fds) > 1:
            for fd in fds:
                self._disk.begin_write_back(fd)
        self._disk.sync_all([*fds, *(self._fds[name] for name in dict.fromkeys(places))])

    def _sync_dirs(self, *names: str) -> None:
        if self.durability != "none":
            self._disk.sync_all([self._fds[name] for name in dict.fromkeys(names)])

    # ---- looking ----

    def pending(self) -> Iterator[str]:
        """See Store. Names with a leading dot are nobody's: editors and copying programs use them."""
        for name in self._disk.list_dir(self._fds[TaskState.PENDING]):
            if not name.startswith("."):
                yield name

    def look(self, name: str) -> Ticket | None:
        """See Store. What is no task goes to quarantine, unless somebody is still writing it."""
        place = TaskState.PENDING
        parts = split_name(name)
        if parts is None:
            self.quarantine(place, name, "its name is no task id with .json, .yaml or .yml")
            return None
        try:
            fd = self._open_task(place, name)
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
            task, since = self._read_task(fd, name)
            # Half a YAML file may be a task too, and another one; half a JSON object is never one.
            if parts[1] != ".json" and time.time() - since < 60 and self._disk.is_being_written(fd):
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
            self._disk.close(fd)
        self.complaints.pop(name, None)
        return self._ticket(task, name, since)

    def _ticket(self, task: Task, name: str, since: float) -> Ticket:
        retry_at = 0.0
        notes = self._notes(task.id)
        if notes:
            history = self.history(task.id)
            if history.record is not None and history.record.state is TaskState.PENDING:
                # A clock that has jumped must not put it off for ever.
                retry_at = min(history.record.retry_at, time.time() + 3600.0)
            return task.ticket(name, since, retry_at)._replace(lost=history.lost)
        return task.ticket(name, since)

    def _is_unfinished(self, fd: int) -> bool:
        written = self._disk.is_being_written(fd)
        if written is None:
            return time.time() - self._disk.fstat(fd).st_mtime < 2.0
        return written

    def _open_task(self, place: str, name: str) -> int:
        """Open what must be a plain file of ours, and nothing that only looks like one."""
        try:
            fd = self._disk.open_file(name, self._fds[place])
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EMLINK):
                raise BadTask("a symbolic link") from None
            if error.errno in (errno.ENXIO, errno.ENODEV):
                raise BadTask("a socket or device") from None
            raise
        try:
            found = self._disk.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise BadTask(f"a {_kind(found.st_mode)}, not a file")
            if found.st_nlink > 1:
                self._finish_move(place, name, fd, found)
            if found.st_uid not in (os.geteuid(), 0):
                raise BadTask(f"belongs to user {found.st_uid}")
            if found.st_size > MAX_FILE_BYTES:
                raise BadTask(f"larger than {MAX_FILE_BYTES} bytes")
        except BaseException:
            self._disk.close(fd)
            raise
        return fd

    def _finish_move(self, place: str, name: str, fd: int, found: os.stat_result) -> None:
        """A file with two names is half of a move in two steps, see Disk.rename_new(): the further one stays.

        Raises:
            BadTask: it is not. Whoever has the other name could change the task.
            FileNotFoundError: it is not here any more, or its mover is still at it.
        """

        def is_it(other: str, at: int) -> bool:
            try:
                seen = self._disk.stat(other, at)
            except OSError:
                return False
            return (seen.st_ino, seen.st_dev) == (found.st_ino, found.st_dev)

        for spare in list(self._disk.list_dir(self._fds[".new"])):
            if is_it(spare, self._fds[".new"]):
                with contextlib.suppress(FileNotFoundError):
                    self._disk.unlink(spare, self._fds[".new"])
                return
        named = [state for state in STATES if is_it(name, self._fds[state])]
        if len(named) < 2 or found.st_nlink > len(named):
            if self._disk.fstat(fd).st_nlink == 1:
                return
            raise BadTask(f"a file with {found.st_nlink} names: another one could change it")
        if not self._disk.lock(fd):
            raise FileNotFoundError(errno.ENOENT, "still being moved", name)
        for state in named[:-1]:
            with contextlib.suppress(FileNotFoundError):
                self._disk.unlink(name, self._fds[state])
        if named[-1] != place:
            raise FileNotFoundError(errno.ENOENT, "moved", name)

    def _read_task(self, fd: int, name: str) -> tuple[Task, float]:
        parts = split_name(name)
        assert parts is not None
        content = self._disk.read(fd, MAX_FILE_BYTES + 1)
        return Task.read(parts[0], parse(content, yaml=parts[1] != ".json")), self._disk.fstat(fd).st_mtime

    def quarantine(self, place: str, name: str, reason: str) -> None:
        """Put away what is no task, with the reason beside it."""
        reason = reason[:1000]
        target = name if len(os.fsencode(name)) <= 200 else _short(name)
        there = self._fds[TaskState.QUARANTINE]
        for attempt in range(100):
            unlike = target if attempt == 0 else f"{target}.~{attempt}"
            try:
                self._disk.rename_new(name, self._fds[place], unlike, there)
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
            fd = self._disk.open_file(f"{unlike}.why", there, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            try:
                self._disk.write(fd, json.dumps(why).encode() + b"\n")
            finally:
                self._disk.close(fd)
        with contextlib.suppress(OSError):
            self._sync_dirs(TaskState.QUARANTINE, place)

    def why(self, task_id: str) -> str:
        """Why a task is in quarantine."""
        return next(filter(None, map(self.why_file, names_of(task_id))), "")

    def why_file(self, name: str) -> str:
        """Why a file is in quarantine."""
        content = self._content(TaskState.QUARANTINE, f"{name}.why", 65536)
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
        for name in names_of(task_id):
            if self._disk.exists(name, self._fds[state]):
                return name
        return None

    def read(self, task_id: str) -> Task | None:
        """What a task's file says, wherever it is; None if there is none that can be read."""
        for state in STATES:
            name = self.name_in(state, task_id)
            if name is None:
                continue
            try:
                fd = self._open_task(state, name)
            except (OSError, BadTask):
                continue
            try:
                return self._read_task(fd, name)[0]
            except (OSError, BadTask, YamlMissing):
                continue
            finally:
                self._disk.close(fd)
        return None

    # ---- claiming ----

    def claim(self, wanted: Sequence[Ticket], *, any_time: bool = False) -> list[Hold | NotClaimed]:
        """See Store. With `any_time` also one that is not due: to be cancelled."""
        return [answer for group in self._groups(wanted) for answer in self._claim(group, any_time)]

    def _claim(self, wanted: Sequence[Ticket], any_time: bool) -> list[Hold | NotClaimed]:
        answers: list[Hold | NotClaimed] = []
        for ticket in wanted:
            try:
                answers.append(self._take(ticket, any_time))
            except OSError as error:
                answers.append(NotClaimed(error=error.with_traceback(None)))
        holds = [answer for answer in answers if isinstance(answer, Hold)]
        fault = self._begin(holds)
        for at, answer in enumerate(answers):
            if not isinstance(answer, Hold):
                continue
            if fault is not None:
                self._give_back(answer)
                answers[at] = NotClaimed(error=fault)
            elif not answer.moved:
                state = self.where(answer.id)
                self.release(answer)
                answers[at] = NotClaimed(state=state)
            answer.moved = False
        return answers

    def _take(self, ticket: Ticket, any_time: bool) -> Hold | NotClaimed:
        """Lock a pending task, and read it."""
        name = ticket.name
        try:
            fd = self._open_task(TaskState.PENDING, name)
        except FileNotFoundError:
            return NotClaimed(state=self.where(ticket.id))
        except BadTask as why:
            self.quarantine(TaskState.PENDING, name, str(why))
            return NotClaimed(state=TaskState.QUARANTINE)
        try:
            answer = self._take_open(fd, ticket, any_time)
        except BaseException:
            self._disk.close(fd)
            raise
        if not isinstance(answer, Hold):
            self._disk.close(fd)
        return answer

    def _take_open(self, fd: int, ticket: Ticket, any_time: bool) -> Hold | NotClaimed:
        name = ticket.name
        if not self._disk.lock(fd):
            # Another Processor is taking it, or something of an earlier run of it lives.
            return NotClaimed(later=True)
        found = self._disk.fstat(fd)
        try:
            now = self._disk.stat(name, self._fds[TaskState.PENDING])
        except FileNotFoundError:
            return NotClaimed(state=self.where(ticket.id))
        if (now.st_ino, now.st_dev) != (found.st_ino, found.st_dev):
            return NotClaimed(later=True)
        for state in (TaskState.IN_PROGRESS, TaskState.COMPLETED, TaskState.FAILED):
            if self.name_in(state, ticket.id) is not None:
                self.quarantine(TaskState.PENDING, name, f"duplicate id: a task of this id is {state}")
                return NotClaimed(state=state)
        try:
            task, _since = self._read_task(fd, name)
        except BadTask as why:
            self.quarantine(TaskState.PENDING, name, str(why))
            return NotClaimed(state=TaskState.QUARANTINE)
        except YamlMissing:
            return NotClaimed(later=True)
        fresh = task.ticket(name, ticket.since)
        changed = (fresh.dependencies, fresh.blocks) != (ticket.dependencies, ticket.blocks)
        if not any_time and (changed or fresh.not_before > time.time()):
            return NotClaimed(ticket=fresh)
        # An attempt that the journal has begun while the task is pending was never started, since that waits
        # until both journal and rename are durable: it counts for nothing, and its number is not used again
        # unless a power loss has taken the line too.
        history = self.history(ticket.id)
        self._held[ticket.id] = (fd,)
        return Hold(
            id=ticket.id,
            name=name,
            task=task,
            attempt=history.attempts + 1,
            failures=history.failures,
            limited=history.limited,
            lost=history.lost,
            alone=ticket.is_suspect,
            since=ticket.since,
            claimed_at=time.time(),
            lock_fd=fd,
        )

    def _begin(self, holds: Sequence[Hold]) -> OSError | None:
        """Write down that an attempt of each begins, and move it to in-progress, durably; or say why that
        cannot be.

        One wait for all: nothing is started before it is over, and until then a power loss may leave either
        step without the other. What is in progress and not begun goes back.
        """
        if not holds:
            return None
        pending, there = self._fds[TaskState.PENDING], self._fds[TaskState.IN_PROGRESS]
        opened: list[int] = []
        try:
            for hold in holds:
                opened.append(self._open_journal(hold.id))
                hold.journal_fd = opened[-1]
                note = journal.line(
                    event="claimed",
                    attempt=hold.attempt,
                    at=hold.claimed_at,
                    processor=self.instance,
                    boot=self.machine.boot,
                    **({"alone": True} if hold.alone else {}),
                )
                self._append(opened[-1], note)
            # Whoever only dies leaves both, in this order: what is in progress has begun.
            for hold in holds:
                try:
                    self._disk.rename_new(hold.name, pending, hold.name, there)
                except FileExistsError:
                    why = "duplicate id: a task of this id is in progress"
                    self.quarantine(TaskState.PENDING, hold.name, why)
                except FileNotFoundError:
                    continue
                else:
                    hold.moved = True
            self._sync_files(opened, "attempts", TaskState.IN_PROGRESS, TaskState.PENDING)
        except OSError as error:
            for hold in holds:
                self._leave_journal(hold)
            return error.with_traceback(None)
        return None

    def _leave_journal(self, hold: Hold) -> None:
        if hold.journal_fd is not None:
            self._disk.close(hold.journal_fd)
            hold.journal_fd = None

    def _open_journal(self, task_id: str) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
        try:
            return self._disk.open_file(f"{task_id}.jsonl", self._fds["attempts"], flags)
        except FileNotFoundError:
            return self._disk.open_file(f"{task_id}.jsonl", self._again("attempts"), flags)

    def _append(self, fd: int, note: bytes) -> None:
        size = self._disk.fstat(fd).st_size
        if size and os.pread(fd, 1, size - 1) != b"\n":
            note = b"\n" + note
        self._disk.write(fd, note)

    def _give_back(self, hold: Hold) -> None:
        """Undo a claim: the task is pending again, as if it had never been taken."""
        try:
            if not hold.moved:
                return
            self._disk.rename_new(
                hold.name, self._fds[TaskState.IN_PROGRESS], hold.name, self._fds[TaskState.PENDING]
            )
            self._sync_dirs(TaskState.PENDING, TaskState.IN_PROGRESS)
        except OSError as error:
            # It stays in progress with its lock free: the next recovery gives it back.
            _log.warning("task %s could not be given back: %s", hold.id, str(error))
        finally:
            self.release(hold)

    def release(self, hold: Hold) -> None:
        """Let go of a task's lock, as far as we hold it."""
        self._held.pop(hold.id, None)
        self._leave_journal(hold)
        if hold.lock_fd is not None:
            self._disk.close(hold.lock_fd)
            hold.lock_fd = None
        if hold.adoption_fd is not None:
            self._disk.close(hold.adoption_fd)
            hold.adoption_fd = None

    def note_start(self, hold: Hold, identity: Mapping[str, Any]) -> None:
        """See Store. Not synced: after a power loss no process of before lives, and the boot id says so."""
        note = journal.line(event="started", attempt=hold.attempt, at=time.time(), log=hold.log, **identity)
        with contextlib.suppress(OSError):
            if hold.journal_fd is not None:
                # Our own line is the last one, and whole.
                try:
                    self._disk.write(hold.journal_fd, note)
                finally:
                    self._leave_journal(hold)
                return
            fd = self._open_journal(hold.id)
            try:
                self._append(fd, note)
            finally:
                self._disk.close(fd)

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
                self._disk.rename_new(name, self._fds["logs"], aside, self._fds["logs"])
                _log.warning("%s in the logs of %s was no log, and is %s now", name, self.path, aside)
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
                fd = self._disk.open_file(name, self._fds["logs"], flags)
            except FileNotFoundError:
                fd = self._disk.open_file(name, self._again("logs"), flags)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EMLINK, errno.EISDIR, errno.ENXIO, errno.ENODEV):
                return None
            raise
        found = self._disk.fstat(fd)
        if stat.S_ISREG(found.st_mode) and found.st_nlink <= 1:
            return fd
        self._disk.close(fd)
        return None

    def keep_log(self, fd: int) -> None:
        """See Store. A log that cannot be synced holds up no result."""
        if self.durability == "full":
            try:
                self._disk.sync(fd)
                self._sync_dirs("logs")
            except OSError as error:
                _log.warning("a log in %s cannot be synced: %s", self.path, str(error))

    def open_log_to_read(self, name: str) -> int:
        """A descriptor of a log; FileNotFoundError if there is none."""
        return self._disk.open_file(name, self._fds["logs"])

    # ---- finishing ----

    def file(self, filings: Sequence[tuple[Hold, Record]]) -> list[OSError | None]:
        """See Store."""
        return [answer for group in self._groups(filings) for answer in self._file(group)]

    def _file(self, filings: Sequence[tuple[Hold, Record]]) -> list[OSError | None]:
        try:
            self._keep_records([filing for filing in filings if not filing[0].recorded])
            touched: list[str] = [TaskState.IN_PROGRESS]
            for hold, record in filings:
                if not hold.moved:
                    self._move(hold, record.state)
                    hold.moved = True
                touched.append(record.state)
            self._sync_dirs(*touched)
        except OSError as error:
            return [error.with_traceback(None)] * len(filings)
        for hold, _record in filings:
            self.release(hold)
        return [None] * len(filings)

    def _keep_records(self, filings: Sequence[tuple[Hold, Record]]) -> None:
        made: list[tuple[int, str | None]] = []
        try:
            for _hold, record in filings:
                made.append(self._new_file("results", journal.record_bytes(record)))
            self._sync_files([fd for fd, _spare in made])
            for (_hold, record), (fd, spare) in zip(filings, made, strict=True):
                # One that is there already is what came of this attempt: it is never written over.
                with contextlib.suppress(FileExistsError):
                    self._disk.publish(
                        fd,
                        spare,
                        self._fds[".new"],
                        f"{record.id}.{record.attempt}.json",
                        self._fds["results"],
                    )
            if filings:
                self._sync_dirs("results")
            # Not before: what a failed fsync(2) has left is written anew, see fsync(2) on EIO.
            for hold, _record in filings:
                hold.recorded = True
        finally:
            for fd, _spare in made:
                self._disk.close(fd)

    def _move(self, hold: Hold, state: TaskState) -> None:
        try:
            self._disk.rename_new(hold.name, self._fds[TaskState.IN_PROGRESS], hold.name, self._fds[state])
        except FileExistsError:
            self.quarantine(
                TaskState.IN_PROGRESS, hold.name, f"duplicate id: a task of this id was {state} already"
            )
        except FileNotFoundError:
            _log.warning("task %s has been removed while it ran; its result is kept", hold.id)

    # ---- after a crash ----

    def orphans(self) -> Iterator[Orphan]:
        """See Store."""
        place = TaskState.IN_PROGRESS
        self.unsettled, fault = False, None
        for name in list(self._disk.list_dir(self._fds[place])):
            parts = split_name(name)
            if name.startswith(".") or (parts is not None and parts[0] in self._held):
                continue
            if parts is None:
                self.quarantine(place, name, "its name is no task id with .json, .yaml or .yml")
                continue
            try:
                orphan = self._orphan(parts[0], name)
            except OSError as error:
                self.unsettled, fault = True, error
                continue
            if orphan is not None:
                yield orphan
        if fault is not None:
            raise fault

    def _orphan(self, task_id: str, name: str) -> Orphan | None:
        place = TaskState.IN_PROGRESS
        try:
            fd = self._open_task(place, name)
        except FileNotFoundError:
            return None
        except BadTask as why:
            self.quarantine(place, name, str(why))
            return None
        alive = not self._disk.lock(fd)
        history = self.history(task_id)
        anothers = self._is_anothers(history)
        if anothers and not self._shared:
            # Who is alone here sees the last of one that was killed just now, or a visitor.
            self.unsettled = True
        if anothers or (alive and not self._is_known(history)):
            self._disk.close(fd)
            return None
        adoption = self._adopt(task_id)
        if adoption is None:
            # Another one that shares this directory follows it already: its job may have ended just now, and
            # the lock that we have got is meant for that one.
            self._disk.close(fd)
            return None
        try:
            task, since = self._read_task(fd, name)
        except (BadTask, YamlMissing):
            task, since = Task(id=task_id), time.time()
        if not alive:
            try:
                self._disk.stat(name, self._fds[place])
            except FileNotFoundError:
                # It has been finished between our look and our lock.
                self._disk.close(fd)
                self._disk.close(adoption)
                return None
            history = self.history(task_id)
        log = (history.started or {}).get("log")
        self._held[task_id] = (fd, adoption)
        hold = Hold(
            id=task_id,
            name=name,
            task=task,
            attempt=max(history.attempts, 1),
            failures=history.failures,
            limited=history.limited,
            lost=history.lost,
            alone=bool((history.claimed or {}).get("alone")),
            since=since,
            claimed_at=float((history.claimed or {}).get("at", since)),
            lock_fd=fd,
            adoption_fd=adoption,
            log=log if isinstance(log, str) and "/" not in log else None,
        )
        return Orphan(hold, history, alive)

    def _adopt(self, task_id: str) -> int | None:
        """Be the one who looks after an orphan: the lock of its journal says so."""
        try:
            fd = self._open_journal(task_id)
        except OSError as error:
            if error.errno not in (errno.EROFS, errno.EACCES, errno.ENOSPC, errno.EDQUOT):
                raise
            # To be locked it need not be written.
            fd = self._disk.open_file(f"{task_id}.jsonl", self._fds["attempts"])
        if self._disk.lock(fd):
            return fd
        self._disk.close(fd)
        return None

    def _is_anothers(self, history: History) -> bool:
        """Whether somebody else who lives has claimed it. The lock alone does not tell: an editor may have
        put another file in its place.
        """
        claims = [note for note in history.notes if note.get("event") == "claimed"]
        owner = claims[-1].get("processor") if claims else None
        return isinstance(owner, str) and owner != self.instance and self.is_alive(owner)

    def _is_known(self, history: History) -> bool:
        """Whether an orphan whose lock somebody holds can be dealt with: its attempt goes on, or is over."""
        if history.claimed is not None:
            return True
        record = history.record
        if record is not None and not history.reset and record.state is not TaskState.PENDING:
            return True
        # What is left of an attempt that has been filed still holds it, and then it cannot be begun again.
        self.unsettled = True
        return False

    def finish_orphan(self, hold: Hold, state: TaskState) -> None:
        """Move an orphan whose outcome is known, or that was never begun, to where it belongs."""
        if state is not TaskState.PENDING:
            # Its Processor may have died before it could: what came of it first, then its move.
            self._sync_dirs("results")
        self._move(hold, state)
        self._sync_dirs(state, TaskState.IN_PROGRESS)
        self.release(hold)

    def try_lock(self, hold: Hold) -> bool:
        """Whether nothing of an orphan's job holds its lock any more; then it is ours."""
        return hold.lock_fd is None or self._disk.lock(hold.lock_fd)

    # ---- what is known of a task ----

    def _content(self, place: str, name: str, most: int) -> bytes | None:
        try:
            fd = self._disk.open_file(name, self._fds[place])
        except OSError:
            return None
        try:
            if not stat.S_ISREG(self._disk.fstat(fd).st_mode):
                return None
            return self._disk.read(fd, most)
        except OSError:
            return None
        finally:
            self._disk.close(fd)

    def _notes(self, task_id: str) -> list[dict[str, Any]]:
        content = self._content("attempts", f"{task_id}.jsonl", _MAX_JOURNAL_BYTES)
        return [] if content is None else journal.lines(content)

    def record(self, task_id: str, attempt: int) -> Record | None:
        """What came of an attempt, or None if that is not known (yet)."""
        content = self._content("results", f"{task_id}.{attempt}.json", _MAX_RECORD_BYTES)
        return None if content is None else journal.read_record(content)

    def history(self, task_id: str) -> History:
        """See Store."""
        notes = self._notes(task_id)
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

    def counts(self) -> dict[TaskState, int]:
        """See Store. Large directories are counted again once a second at most, and only if they have
        changed.
        """
        return {state: self._count(state) for state in STATES}

    def _count(self, state: TaskState) -> int:
        fd = self._fds[state]
        try:
            changed = self._disk.fstat(fd).st_mtime_ns
        except OSError:
            return 0
        known = self._counts.get(state)
        now = time.monotonic()
        if known is not None and known[2] > _BIG_DIRECTORY and (known[0] == changed or now < known[1] + 1.0):
            return known[2]
        count = sum(
            1 for name in self._disk.list_dir(fd) if not name.startswith(".") and not name.endswith(".why")
        )
        self._counts[state] = (changed, now, count)
        return count

    def is_well(self) -> OSError | None:
        """See Store: write and sync a block, where results go."""
        try:
            fd, spare = self._new_file("results", b"\0" * 4096)
            try:
                if self.durability != "none":
                    self._disk.sync(fd)
            finally:
                self._disk.close(fd)
                if spare is not None:
                    self._disk.unlink(spare, self._fds[".new"])
        except OSError as error:
            return error.with_traceback(None)
        return None

    # ---- wishes and pauses ----

    def retry(self, task_id: str) -> TaskState:
        """Have a finished task pending again, its failures forgotten. Returns where it was."""
        for state in (TaskState.FAILED, TaskState.COMPLETED, TaskState.QUARANTINE):
            name = self.name_in(state, task_id)
            if name is None:
                continue
            fd = self._open_journal(task_id)
            try:
                self._append(fd, journal.line(event="retry", at=time.time(), state=str(state)))
                self._sync_files([fd])
            finally:
                self._disk.close(fd)
            self._disk.rename_new(name, self._fds[state], name, self._fds[TaskState.PENDING])
            with contextlib.suppress(OSError):
                self._disk.unlink(f"{name}.why", self._fds[state])
            self._sync_dirs("attempts", TaskState.PENDING, state)
            return state
        raise LookupError(task_id)

    def ask_to_cancel(self, task_id: str) -> None:
        """Leave word for the Processor that runs a task."""
        fd = self._disk.open_file(f"{task_id}.cancel", self._fds[".requests"], os.O_WRONLY | os.O_CREAT)
        self._disk.close(fd)
        self._sync_dirs(".requests")

    def requests(self) -> list[str]:
        """Who is to be cancelled. Those of others are left to them."""
        return [
            name.removesuffix(".cancel")
            for name in self._disk.list_dir(self._fds[".requests"])
            if name.endswith(".cancel")
        ]

    def take_request(self, task_id: str) -> None:
        """A wish has been granted, or is no longer of use."""
        with contextlib.suppress(OSError):
            self._disk.unlink(f"{task_id}.cancel", self._fds[".requests"])

    def note_pause(self, until: float | None, task_id: str) -> None:
        """See Store."""
        if until is None:
            with contextlib.suppress(FileNotFoundError):
                self._disk.unlink(".pause.json", self._root)
            return
        spare = f".pause.{self.instance}"
        fd = self._disk.open_file(spare, self._root, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        try:
            said = {"until": until, "since": time.time(), "task": task_id, "reason": "rate limit"}
            self._disk.write(fd, json.dumps(said).encode() + b"\n")
            self._sync_files([fd])
        finally:
            self._disk.close(fd)
        self._disk.replace(spare, self._root, ".pause.json", self._root)

    def pause(self) -> float | None:
        """See Store."""
        try:
            fd = self._disk.open_file(".pause.json", self._root)
        except OSError:
            return None
        try:
            said = json.loads(self._disk.read(fd, 4096))
            return float(said["until"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        finally:
            self._disk.close(fd)


def _check_mode(path: Path, found: os.stat_result, open_to_others: bool) -> None:
    """Whoever may write here may have us run anything: nobody but us, unless that is meant."""
    if open_to_others:
        return
    if found.st_uid not in (os.geteuid(), 0):
        whose = f"belongs to user {found.st_uid}"
    elif found.st_mode & stat.S_IWOTH:
        whose = f"can be written by everybody (mode {stat.S_IMODE(found.st_mode):04o})"
    elif found.st_mode & stat.S_IWGRP and found.st_gid != os.getegid():
        whose = f"can be written by group {found.st_gid} (mode {stat.S_IMODE(found.st_mode):04o})"
    else:
        return
    raise PermissionError(
        errno.EPERM,
        f"the queue {whose}, who could have anything run; chmod it, or pass open_to_others=True",
        str(path),
    )


def _is_running(pid: object) -> bool:
    """Whether a process of this machine runs; a zombie does not, it only waits to be reaped."""
    if not isinstance(pid, int):
        return True
    person = Person.read(pid)
    return person is not None and not person.is_dead


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
