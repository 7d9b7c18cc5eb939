"""The durable store in a directory. The directory is the truth; a rename is the only transition.

    pending/ in-progress/ completed/ failed/ quarantine/
                         a file a task: <id>.json, .yaml or .yml; never changed
    attempts/ results/ logs/ .requests/ .pause.json
                         what is kept beside them, see records.py
    .processors/         who works here, see presence.py

The right to run a task is the flock(2) of its file. It belongs to the open file description, so it goes with
the file from pending to in-progress, and the job inherits it: the kernel keeps it as long as the Processor
or anything of the job that has kept the descriptor lives, whoever of them dies first. Nobody moves a task
without it.

A submitted file gets its name when its content is on the disk (O_TMPFILE, linkat). Claim: lock, journal
line, rename, all durable before the job starts. Finish: result durable, then rename, both directories
synced, then the slot is free.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Container, Iterator, Mapping, Sequence
from logging import getLogger
from typing import Any

from ..errors import TaskExists
from . import journal
from .disk import Disk
from .formats import MAX_FILE_BYTES, BadTask, YamlMissing
from .machine import Machine
from .place import MOST_OPEN, STATES, Place
from .presence import Presence
from .records import Records
from .store import Durability, History, Hold, NotClaimed, Orphan, Record
from .task import Task, TaskState, Ticket, split_name
from .taskfiles import TaskFiles

_log = getLogger("fastproc.processor")

_BIG_DIRECTORY = 2000


class DirectoryStore:
    """See the head of this file. Thread-safe for questions; what changes something is called by one thread.

    Here tasks go from one state to the next. What that needs is in its parts: `place`, `presence`, `files`,
    `records`.

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
        self.place = Place(
            path, durability, disk if disk is not None else Disk(), open_to_others=open_to_others
        )
        self.presence = Presence(self.place)
        self.files = TaskFiles(self.place)
        self.records = Records(self.place)
        self.path = self.place.path
        self._stamped = 0
        self._counts: dict[TaskState, tuple[int, float, int]] = {}
        self._held: dict[str, tuple[int, ...]] = {}
        """The tasks that we have claimed or taken over, and the descriptors of their locks."""
        self._kept: list[Hold] = []
        """Those whose outcome is written, and durable with the next claim."""
        self.unsettled = False
        """Something in progress has no living Processor, and cannot be had yet."""

    @property
    def instance(self) -> str:
        """Our name among those who have worked here."""
        return self.presence.instance

    @property
    def machine(self) -> Machine:
        """Where we are."""
        return self.presence.machine

    def close(self) -> None:
        """Give back the descriptors, and the locks with them."""
        self.unlock()
        self.place.close()

    def forget(self) -> None:
        """[forked copy] The queue is the original's: a copy of a lock's descriptor would hold it on."""
        for fd in [fd for fds in self._held.values() for fd in fds]:
            with contextlib.suppress(OSError):
                self.place.disk.close(fd)
        self._held.clear()
        self._kept.clear()
        self.place.disk.forget()
        self.presence.forget()

    # ---- what its parts do ----

    def lock(self, *, shared: bool) -> None:
        """See Store."""
        self.presence.lock(shared=shared)

    def unlock(self) -> None:
        """See Store."""
        self._kept.clear()
        self.presence.unlock()

    def pending(self) -> Iterator[str]:
        """See Store."""
        return self.files.pending()

    def look(self, name: str) -> Ticket | None:
        """See Store. What is no task goes to quarantine, unless somebody is still writing it."""
        found = self.files.look(name)
        return None if found is None else self._ticket(found[0], name, found[1])

    def where(self, task_id: str) -> TaskState | None:
        """See Store."""
        return self.files.where(task_id)

    def history(self, task_id: str) -> History:
        """See Store."""
        return self.records.history(task_id)

    def note_start(self, hold: Hold, identity: Mapping[str, Any]) -> None:
        """See Store."""
        self.records.note_start(hold, identity)

    def open_log(self, hold: Hold) -> int | None:
        """See Store."""
        return self.records.open_log(hold)

    def keep_log(self, fd: int) -> None:
        """See Store."""
        self.records.keep_log(fd)

    def open_log_to_read(self, name: str) -> int:
        """See Store."""
        return self.records.open_log_to_read(name)

    def note_pause(self, until: float | None, task_id: str) -> None:
        """See Store."""
        self.records.note_pause(until, task_id)

    def pause(self) -> float | None:
        """See Store."""
        return self.records.pause()

    # ---- submitting ----

    def submit(self, tasks: Sequence[Task], made_up: Container[str] = ()) -> None:
        """See Store. All content is on the disk before the first of them gets its name."""
        self._refuse_known(tasks, made_up)
        made: list[tuple[int, str | None]] = []
        spares: list[str | None] = []
        done: list[str] = []
        pending, new = self.place.fds[TaskState.PENDING], self.place.fds[".new"]
        # A file without a name lives as long as its descriptor: of very many, those that are written get a
        # spare one.
        named = len(tasks) > MOST_OPEN
        try:
            for task in tasks:
                content = journal.document(task.fields)
                if len(content) > MAX_FILE_BYTES:
                    raise BadTask(f"task {task.id} is larger than {MAX_FILE_BYTES} bytes as a file")
                made.append(self.place.new_file(TaskState.PENDING, content, named=named))
                spares.append(made[-1][1])
                # In the order of submission, by which equals are run: a microsecond apart at least.
                self._stamped = max(self._stamped + 1000, time.time_ns())
                self.place.disk.stamp(made[-1][0], self._stamped)
                if named and len(made) == MOST_OPEN:
                    self._settle(made)
            if named:
                self._settle(made)
            self.place.sync_files([fd for fd, _spare in made])
            for number, task in enumerate(tasks):
                name = f"{task.id}.json"
                fd = -1 if named else made[number][0]
                try:
                    self.place.disk.publish(fd, spares[number], new, name, pending)
                except FileExistsError:
                    raise TaskExists(task.id, TaskState.PENDING) from None
                done.append(name)
            self.place.sync_dirs(TaskState.PENDING)
        except BaseException:
            # All or none: those that have their name are withdrawn, unless somebody has begun them already.
            for name in done:
                with contextlib.suppress(OSError):
                    self.place.disk.unlink(name, pending)
            for spare in spares[len(done) :]:
                if spare is not None:
                    with contextlib.suppress(OSError):
                        self.place.disk.unlink(spare, new)
            raise
        finally:
            for fd, _spare in made:
                self.place.disk.close(fd)
            if not self.presence.is_seen:
                self.place.disk.rest()

    def _refuse_known(self, tasks: Sequence[Task], made_up: Container[str]) -> None:
        seen = set()
        for task in tasks:
            if task.id in seen:
                raise TaskExists(task.id, "submitted twice in one call")
            seen.add(task.id)
            # In the direction in which tasks move: one that moves meanwhile is met further on.
            if task.id not in made_up and (state := self.where(task.id)) is not None:
                raise TaskExists(task.id, state)

    def _settle(self, made: list[tuple[int, str | None]]) -> None:
        """Have these on the disk, and give their descriptors back."""
        self.place.sync_files([fd for fd, _spare in made])
        while made:
            self.place.disk.close(made.pop()[0])

    # ---- claiming ----

    def _ticket(self, task: Task, name: str, since: float) -> Ticket:
        retry_at = 0.0
        if self.records.has_notes(task.id):
            history = self.history(task.id)
            if history.record is not None and history.record.state is TaskState.PENDING:
                # A clock that has jumped must not put it off for ever.
                retry_at = min(history.record.retry_at, time.time() + 3600.0)
            return task.ticket(name, since, retry_at)._replace(lost=history.lost)
        return task.ticket(name, since)

    def claim(self, wanted: Sequence[Ticket], *, any_time: bool = False) -> list[Hold | NotClaimed]:
        """See Store. With `any_time` also one that is not due: to be cancelled."""
        return [answer for group in self.place.groups(wanted) for answer in self._claim(group, any_time)]

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
            fd, found = self.files.open(TaskState.PENDING, name)
        except FileNotFoundError:
            return NotClaimed(state=self.where(ticket.id))
        except BadTask as why:
            self.files.quarantine(TaskState.PENDING, name, str(why))
            return NotClaimed(state=TaskState.QUARANTINE)
        try:
            answer = self._take_open(fd, found, ticket, any_time)
        except BaseException:
            self.place.disk.close(fd)
            raise
        if not isinstance(answer, Hold):
            self.place.disk.close(fd)
        return answer

    def _take_open(self, fd: int, found: os.stat_result, ticket: Ticket, any_time: bool) -> Hold | NotClaimed:
        name = ticket.name
        if not self.place.disk.lock(fd):
            # Another Processor is taking it, or something of an earlier run of it lives.
            return NotClaimed(later=True)
        try:
            now = self.place.disk.stat(name, self.place.fds[TaskState.PENDING])
        except FileNotFoundError:
            return NotClaimed(state=self.where(ticket.id))
        if (now.st_ino, now.st_dev) != (found.st_ino, found.st_dev):
            return NotClaimed(later=True)
        for state in (TaskState.IN_PROGRESS, TaskState.COMPLETED, TaskState.FAILED):
            if self.files.name_in(state, ticket.id) is not None:
                self.files.quarantine(TaskState.PENDING, name, f"duplicate id: a task of this id is {state}")
                return NotClaimed(state=state)
        try:
            task = self.files.parse(fd, name)
        except BadTask as why:
            self.files.quarantine(TaskState.PENDING, name, str(why))
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
        journal_fd, notes = self.records.begin_journal(ticket.id)
        try:
            history = self.records.history_of(ticket.id, notes)
        except BaseException:
            self.place.disk.close(journal_fd)
            raise
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
            journal_fd=journal_fd,
        )

    def _begin(self, holds: Sequence[Hold]) -> OSError | None:
        """Write down that an attempt of each begins, and move it to in-progress, durably; or say why that
        cannot be.

        One wait for all: nothing is started before it is over, and until then a power loss may leave either
        step without the other. What is in progress and not begun goes back.
        """
        if not holds:
            return None
        pending, there = self.place.fds[TaskState.PENDING], self.place.fds[TaskState.IN_PROGRESS]
        opened: list[int] = []
        try:
            for hold in holds:
                assert hold.journal_fd is not None
                opened.append(hold.journal_fd)
                note = journal.line(
                    event="claimed",
                    attempt=hold.attempt,
                    at=hold.claimed_at,
                    processor=self.instance,
                    boot=self.machine.boot,
                    **({"alone": True} if hold.alone else {}),
                )
                self.records.append(opened[-1], note)
            # Whoever only dies leaves both, in this order: what is in progress has begun.
            for hold in holds:
                try:
                    self.place.disk.rename_new(hold.name, pending, hold.name, there)
                except FileExistsError:
                    why = "duplicate id: a task of this id is in progress"
                    self.files.quarantine(TaskState.PENDING, hold.name, why)
                except FileNotFoundError:
                    continue
                else:
                    hold.moved = True
            places = ("attempts", TaskState.IN_PROGRESS, TaskState.PENDING)
            kept, self._kept = self._kept, []
            try:
                self.place.sync_files(opened, *places, *(["results"] if kept else []))
            except BaseException:
                # Written anew when they are filed, see Records.keep().
                for hold in kept:
                    hold.written = False
                raise
            for hold in kept:
                hold.recorded = True
        except OSError as error:
            for hold in holds:
                self.records.leave_journal(hold)
            return error.with_traceback(None)
        return None

    def _give_back(self, hold: Hold) -> None:
        """Undo a claim: the task is pending again, as if it had never been taken."""
        try:
            if not hold.moved:
                return
            self.place.disk.rename_new(
                hold.name, self.place.fds[TaskState.IN_PROGRESS], hold.name, self.place.fds[TaskState.PENDING]
            )
            self.place.sync_dirs(TaskState.PENDING, TaskState.IN_PROGRESS)
        except OSError as error:
            # It stays in progress with its lock free: the next recovery gives it back.
            _log.warning("task %s could not be given back: %s", hold.id, str(error))
        finally:
            self.release(hold)

    def release(self, hold: Hold) -> None:
        """Let go of a task's lock, as far as we hold it."""
        self._held.pop(hold.id, None)
        self.records.leave_journal(hold)
        if hold.lock_fd is not None:
            self.place.disk.close(hold.lock_fd)
            hold.lock_fd = None
        if hold.adoption_fd is not None:
            self.place.disk.close(hold.adoption_fd)
            hold.adoption_fd = None

    # ---- finishing ----

    def keep(self, filings: Sequence[tuple[Hold, Record]]) -> list[OSError | None]:
        """See Store."""
        answers: list[OSError | None] = []
        for group in self.place.groups(filings):
            try:
                self.records.write(group)
            except OSError as error:
                answers += [error.with_traceback(None)] * len(group)
            else:
                self._kept += [hold for hold, _record in group]
                answers += [None] * len(group)
        return answers

    def file(self, filings: Sequence[tuple[Hold, Record]]) -> list[OSError | None]:
        """See Store."""
        return [answer for group in self.place.groups(filings) for answer in self._file(group)]

    def _file(self, filings: Sequence[tuple[Hold, Record]]) -> list[OSError | None]:
        try:
            self.records.keep([filing for filing in filings if not filing[0].recorded])
            self._kept = [hold for hold in self._kept if not hold.recorded]
            touched: list[str] = [TaskState.IN_PROGRESS]
            for hold, record in filings:
                if not hold.moved:
                    self._move(hold, record.state)
                    hold.moved = True
                touched.append(record.state)
            self.place.sync_dirs(*touched)
        except OSError as error:
            return [error.with_traceback(None)] * len(filings)
        for hold, _record in filings:
            self.release(hold)
        return [None] * len(filings)

    def _move(self, hold: Hold, state: TaskState) -> None:
        try:
            self.place.disk.rename_new(
                hold.name, self.place.fds[TaskState.IN_PROGRESS], hold.name, self.place.fds[state]
            )
        except FileExistsError:
            self.files.quarantine(
                TaskState.IN_PROGRESS, hold.name, f"duplicate id: a task of this id was {state} already"
            )
        except FileNotFoundError:
            _log.warning("task %s has been removed while it ran; its result is kept", hold.id)

    # ---- after a crash ----

    def orphans(self) -> Iterator[Orphan]:
        """See Store."""
        place = TaskState.IN_PROGRESS
        self.unsettled, fault = False, None
        for name in list(self.place.disk.list_dir(self.place.fds[place])):
            parts = split_name(name)
            if name.startswith(".") or (parts is not None and parts[0] in self._held):
                continue
            if parts is None:
                self.files.quarantine(place, name, "its name is no task id with .json, .yaml or .yml")
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
            fd, found = self.files.open(place, name)
        except FileNotFoundError:
            return None
        except BadTask as why:
            self.files.quarantine(place, name, str(why))
            return None
        alive = not self.place.disk.lock(fd)
        history = self.history(task_id)
        anothers = self._is_anothers(history)
        if anothers and not self.presence.shared:
            # Who is alone here sees the last of one that was killed just now, or a visitor.
            self.unsettled = True
        if anothers or (alive and not self._is_known(history)):
            self.place.disk.close(fd)
            return None
        adoption = self._adopt(task_id)
        if adoption is None:
            # Another one that shares this directory follows it already: its job may have ended just now, and
            # the lock that we have got is meant for that one.
            self.place.disk.close(fd)
            return None
        try:
            task, since = self.files.parse(fd, name), found.st_mtime
        except (BadTask, YamlMissing):
            task, since = Task(id=task_id), time.time()
        if not alive:
            try:
                self.place.disk.stat(name, self.place.fds[place])
            except FileNotFoundError:
                # It has been finished between our look and our lock.
                self.place.disk.close(fd)
                self.place.disk.close(adoption)
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
            fd = self.records.open_journal(task_id)
        except OSError as error:
            if error.errno not in (errno.EROFS, errno.EACCES, errno.ENOSPC, errno.EDQUOT):
                raise
            # To be locked it need not be written.
            fd = self.place.disk.open_file(f"{task_id}.jsonl", self.place.fds["attempts"])
        if self.place.disk.lock(fd):
            return fd
        self.place.disk.close(fd)
        return None

    def _is_anothers(self, history: History) -> bool:
        """Whether somebody else who lives has claimed it. The lock alone does not tell: an editor may have
        put another file in its place.
        """
        claims = [note for note in history.notes if note.get("event") == "claimed"]
        owner = claims[-1].get("processor") if claims else None
        return isinstance(owner, str) and owner != self.instance and self.presence.is_alive(owner)

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
            self.place.sync_dirs("results")
        self._move(hold, state)
        self.place.sync_dirs(state, TaskState.IN_PROGRESS)
        self.release(hold)

    def try_lock(self, hold: Hold) -> bool:
        """Whether nothing of an orphan's job holds its lock any more; then it is ours."""
        return hold.lock_fd is None or self.place.disk.lock(hold.lock_fd)

    # ---- how it is doing ----

    def in_progress(self) -> list[str]:
        """The ids of the tasks in progress."""
        names = self.place.disk.list_dir(self.place.fds[TaskState.IN_PROGRESS])
        return sorted(parts[0] for name in names if (parts := split_name(name)) is not None)

    def counts(self) -> dict[TaskState, int]:
        """See Store. Large directories are counted again once a second at most, and only if they have
        changed.
        """
        return {state: self._count(state) for state in STATES}

    def _count(self, state: TaskState) -> int:
        fd = self.place.fds[state]
        try:
            changed = self.place.disk.fstat(fd).st_mtime_ns
        except OSError:
            return 0
        known = self._counts.get(state)
        now = time.monotonic()
        if known is not None and known[2] > _BIG_DIRECTORY and (known[0] == changed or now < known[1] + 1.0):
            return known[2]
        count = sum(
            1
            for name in self.place.disk.list_dir(fd)
            if not name.startswith(".") and not name.endswith(".why")
        )
        self._counts[state] = (changed, now, count)
        return count

    def is_well(self) -> OSError | None:
        """See Store: write and sync a block, where results go."""
        try:
            fd, spare = self.place.new_file("results", b"\0" * 4096)
            try:
                if self.place.durability != "none":
                    self.place.disk.sync(fd)
            finally:
                self.place.disk.close(fd)
                if spare is not None:
                    self.place.disk.unlink(spare, self.place.fds[".new"])
        except OSError as error:
            return error.with_traceback(None)
        return None

    def retry(self, task_id: str) -> TaskState:
        """Have a finished task pending again, its failures forgotten. Returns where it was."""
        for state in (TaskState.FAILED, TaskState.COMPLETED, TaskState.QUARANTINE):
            name = self.files.name_in(state, task_id)
            if name is None:
                continue
            fd = self.records.open_journal(task_id)
            try:
                self.records.append(fd, journal.line(event="retry", at=time.time(), state=str(state)))
                self.place.sync_files([fd])
            finally:
                self.place.disk.close(fd)
            self.place.disk.rename_new(name, self.place.fds[state], name, self.place.fds[TaskState.PENDING])
            with contextlib.suppress(OSError):
                self.place.disk.unlink(f"{name}.why", self.place.fds[state])
            self.place.sync_dirs("attempts", TaskState.PENDING, state)
            return state
        raise LookupError(task_id)
