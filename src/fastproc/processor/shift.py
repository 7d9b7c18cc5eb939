"""A Processor's time on a directory: from the lock to its release. Carries out what the core decides.

One pass hears what has ended and what has arrived, has the core decide, and acts through a Launcher, a Store
and a Clock: ends first, then what frees slots, then what fills them. What several tasks need of the disk in
one pass is done in one go. All is called under the turn of the Processor, one thread at a time, but `_heard`
and `poke`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import random
import select
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from logging import getLogger
from queue import Empty, SimpleQueue
from typing import Literal, TypeAlias

from ..command import Command
from ..errors import NotActive
from ..ports import Clock, Launcher
from ..status import ExitReason, ExitStatus, StopResult
from . import core
from .adopt import Adopted
from .disk import Watch
from .events import (
    HealthChanged,
    QueueEvent,
    RateLimitPause,
    RateLimitResume,
    TaskCompleted,
    TaskFailed,
    TaskProgress,
    TaskQuarantined,
    TaskStarted,
    TaskStatusChanged,
)
from .executor import End, Executor, Refused, Run
from .journal import exit_fields
from .news import Outcome
from .retry import Backoff, RateLimit
from .runs import Live, NotStarted, Runs, Wanted
from .state import Phase
from .store import Hold, Orphan, Record
from .store_dir import DirectoryStore
from .task import ExecutionResult, Task, TaskState, Ticket, split_name

_log = getLogger("fastproc.processor")

Recovery: TypeAlias = Literal["end", "adopt"]

RESCAN_SECONDS = 60.0
"""How often the directory is read as a whole, whatever was told of it in between."""
_REMEMBERED = 10_000
_DUE_SLACK = 0.002
FAULT_PATIENCE = 1.0
"""So many seconds a stop waits for a disk that cannot be written. What came of a run is lost with it, and the
next Processor says so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a Processor was told, see there."""

    executor: Executor
    max_attempts: int
    poll_interval: float
    task_timeout: float | None
    idle_timeout: float | None
    recovery: Recovery
    shared: bool
    grace: float
    max_log_bytes: int | None
    starts_per_second: float | None
    backoff: Backoff
    rate_limit: RateLimit
    on_event: Callable[[QueueEvent], object] | None
    clock: Clock


class Shift:
    """See the head of this file. Made by Processor; enter(), then passes, then leave()."""

    def __init__(
        self,
        settings: Settings,
        store: DirectoryStore,
        launcher: Launcher,
        *,
        owns_launcher: bool,
        slots: int,
        paused: bool,
        outcomes: Counter[str],
        on_first_start: Callable[[], object],
    ) -> None:
        self._on_first_start: Callable[[], object] | None = on_first_start
        self._settings = settings
        self._store = store
        self.launcher = launcher
        self._owns_launcher = owns_launcher
        self._clock = settings.clock
        self.state = core.State(
            slots=slots,
            max_attempts=settings.max_attempts,
            backoff=settings.backoff,
            rate_limit=settings.rate_limit,
            starts_per_second=settings.starts_per_second,
            paused=paused,
        )
        self._todo: list[core.Action] = []
        self._inbox: SimpleQueue[str] = SimpleQueue()
        self.holds: dict[str, Hold] = {}
        self._results: dict[str, tuple[Live | None, ExitStatus | None, ExecutionResult | None]] = {}
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.runs = Runs(launcher, store, self._clock, store.machine, self._heard)
        self._watch: Watch | None = None
        self.stopping = False
        self._ending_all = False
        self._hurried = math.inf
        """When what is being ended is killed at the latest, on the monotonic clock."""
        self.telling = 0
        """The thread that an observer is called in, while it is."""
        self._rescan_at = 0.0
        self._look_at = 0.0
        self.causes: tuple[str, ...] = ()
        self._told: tuple[object, ...] | None = None
        self._fault: OSError | None = None
        self.cycled: set[str] = set()
        self.finished: dict[TaskState, deque[str]] = {
            TaskState.COMPLETED: deque(maxlen=_REMEMBERED),
            TaskState.FAILED: deque(maxlen=_REMEMBERED),
        }
        self.tally = {TaskState.COMPLETED: 0, TaskState.FAILED: 0}
        self.attempts = 0
        self.starts = 0
        self.outcomes = outcomes

    def enter(self) -> None:
        """Recover what a crash has left, and read what is pending. The store is locked."""
        self._watch = self._open_watch()
        if self._store.presence.unwritten is not None:
            self._faulted(self._store.presence.unwritten)
        self._store.presence.sweep()
        until = self._store.pause()
        if until is not None:
            self.feed(core.RateLimitKnown(until))
        self._recover_all()
        self._rescan()
        self._judge_health()

    def leave(self) -> None:
        """Give everything back. What still runs is left to the next Processor."""
        self.runs.rest()
        self.runs.abandon()
        for hold in list(self.holds.values()):
            self._store.release(hold)
        self.holds.clear()
        if self._owns_launcher:
            self.launcher.close(0.0)  # type: ignore[attr-defined]
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        fd, self._wake_fd = self._wake_fd, -1
        os.close(fd)

    def forget(self) -> None:
        """[forked copy] Close what is the original's."""
        self.runs.forget()
        self.holds.clear()
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        fd, self._wake_fd = self._wake_fd, -1
        os.close(fd)

    def look_at_all(self) -> None:
        """Read the whole directory in the next pass."""
        self._rescan_at = 0.0

    @property
    def has_work(self) -> bool:
        """Whether there is something to do before anybody waits."""
        return bool(self._todo) or not self._inbox.empty()

    def _open_watch(self) -> Watch | None:
        """Be told what arrives. Without inotify the directory is read at every poll_interval."""
        try:
            watch = Watch()
        except OSError:
            return None
        try:
            watch.add(self._store.place.fds[TaskState.PENDING], "pending")
            watch.add(self._store.place.fds[".requests"], "requests")
        except OSError:
            watch.close()
            return None
        return watch

    def sleep(self, seconds: float) -> None:
        """Wait for news: an end, something that has arrived, or time."""
        fds = [
            fd for fd in (self._wake_fd, self._watch.fileno() if self._watch is not None else -1) if fd >= 0
        ]
        poll = select.poll()
        for fd in fds:
            poll.register(fd, select.POLLIN)
        poll.poll(max(0.0, seconds) * 1000.0)

    def poke(self) -> None:
        fd = self._wake_fd
        if fd >= 0:
            with contextlib.suppress(OSError):
                os.eventfd_write(fd, 1)

    def _heard(self, task_id: str) -> None:
        """[any thread] Nothing of an attempt is left."""
        self._inbox.put(task_id)
        self.poke()

    def pause_length(self) -> float:
        """Seconds until the next pass, if there is no news."""
        now = self._now()
        if self._todo:
            return 0.0
        dues = [self._rescan_at - now.mono]
        due = core.next_due(self.state, now)
        if due is not None:
            dues.append(due + _DUE_SLACK)
        limited = self.state.limited_until is not None
        unwell = self._fault is not None or self._watch is None
        if self.state.busy or limited or unwell or self._settings.shared or self._store.unsettled:
            dues.append(max(0.0, self._look_at - now.mono))
        if (look := self.runs.due()) is not None:
            dues.append(look)
        if self._store.files.complaints:
            dues.append(self._settings.poll_interval)
        return max(0.0, min(dues))

    def _now(self) -> core.Now:
        return core.Now(self._clock.monotonic(), self._clock.time())

    def feed(self, event: core.Event) -> None:
        self._todo += core.step(self.state, event, self._now())

    def make_pass(self) -> None:
        """Hear, decide, act, until there is nothing left to do now."""
        runs = self.runs
        if self._wake_fd >= 0:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._wake_fd)
        self._take_ends(runs)
        self._take_arrivals()
        now = self._clock.monotonic()
        for live, reason in runs.watch():
            live.why = reason
            self.feed(core.EndAsked(live.hold.id))
        self._take_ends(runs)
        if now >= self._look_at:
            self._look_at = now + self._settings.poll_interval
            self._look_around(runs)
        if now >= self._rescan_at or (self._watch is None and now >= self._look_at):
            self._rescan()
        self.feed(core.Tick())
        self.work()
        self._judge_health()
        self._tell_others()

    def _take_ends(self, runs: Runs) -> None:
        while True:
            try:
                task_id = self._inbox.get_nowait()
            except Empty:
                return
            self._end_heard(runs, task_id)

    def _take_arrivals(self) -> None:
        if self._watch is None:
            return
        for directory, name in self._watch.take():
            if name is None:
                self._rescan_at = 0.0
            elif directory == "requests":
                self._take_requests()
            elif not name.startswith("."):
                self.notice(name)

    def _look_around(self, runs: Runs) -> None:
        """What tells nothing by itself: progress, complaints, the disk, other Processors."""
        now = self._clock.time()
        for live in runs.live.values():
            if self._settings.on_event is not None and live.log_bytes != live.told_bytes:
                live.told_bytes = live.log_bytes
                self._tell(
                    TaskProgress(
                        task_id=live.hold.id,
                        attempt=live.hold.attempt,
                        at=now,
                        log_bytes=live.log_bytes,
                        last_line=runs.last_line(live),
                    )
                )
        for name in list(self._store.files.complaints):
            self.notice(name)
        if self._fault is not None:
            self._fault = self._store.is_well()
            if self._fault is None:
                self.feed(core.StoreFaulted(healthy=True))
        if self._watch is None:
            self._take_requests()
        self._look_at_pause()
        if self._settings.shared or self._store.unsettled:
            self._recover_all()
        if self._settings.shared:
            self._settle_strangers()

    def _look_at_pause(self) -> None:
        """Another one may have met the rate limit, or somebody may have ended it by hand."""
        limited = self.state.limited_until
        if self._fault is None and (limited is not None or self._settings.shared):
            until = self._store.pause()
            if limited is not None and until is None:
                self.feed(core.RateLimitKnown(0.0))
            elif limited is None and until is not None:
                self.feed(core.RateLimitKnown(until))

    def _settle_strangers(self) -> None:
        """Others may have finished what some of our tasks wait for."""
        for name in [name for name in self.state.waiters if name not in self.state.entries]:
            self.feed(core.Settled(name, self._store.where(name)))

    def _rescan(self) -> None:
        """Read the whole directory: whatever was missed is found."""
        self._rescan_at = self._clock.monotonic() + (
            RESCAN_SECONDS if self._watch is not None else self._settings.poll_interval
        )
        names = set()
        for name in self._store.pending():
            parts = split_name(name)
            if parts is not None:
                names.add(parts[0])
            self.notice(name)
        # What somebody has removed.
        for task_id, entry in list(self.state.entries.items()):
            if task_id not in names and entry.phase in (Phase.WAITING, Phase.DELAYED, Phase.READY):
                where = self._store.where(task_id)
                if where is not TaskState.PENDING:
                    self.feed(core.ClaimLost(task_id, where))
        self._settle_strangers()
        self._take_requests()

    def notice(self, name: str) -> None:
        """A file is pending: enter it, unless it is known."""
        parts = split_name(name)
        if parts is not None and (entry := self.state.entries.get(parts[0])) is not None:
            runs = entry.phase in (Phase.STARTING, Phase.RUNNING, Phase.ENDING)
            if entry.ticket.name != name or runs:
                # Late news of our own claim name a file that is not there any more, and nothing happens.
                why = f"duplicate id: {entry.ticket.name} is {'running' if runs else 'queued already'}"
                self._store.files.quarantine(TaskState.PENDING, name, why)
                self._tell_quarantined()
            return
        ticket = self._store.look(name)
        self._tell_quarantined()
        if ticket is not None:
            self._found(ticket)

    def _found(self, ticket: Ticket) -> None:
        outside = {
            name: self._store.where(name) for name in ticket.dependencies if name not in self.state.entries
        }
        self.feed(core.Found(ticket, outside))

    def _take_requests(self) -> None:
        for task_id in self._store.records.requests():
            entry = self.state.entries.get(task_id)
            if entry is not None:
                self.feed(core.CancelAsked(task_id))
                self._store.records.take_request(task_id)
            elif self._store.where(task_id) not in (TaskState.PENDING, TaskState.IN_PROGRESS):
                self._store.records.take_request(task_id)

    def _tell_quarantined(self) -> None:
        while self._store.files.quarantined:
            name, reason = self._store.files.quarantined.pop(0)
            self._tell(TaskQuarantined(name=name, at=self._clock.time(), reason=reason))

    def go_on(self) -> None:
        """Start what there is room for."""
        self.feed(core.Tick())
        self.work()

    def work(self) -> None:
        """Carry out what the core wants: ends first, then what frees slots, then what fills them."""
        runs = self.runs
        while self._todo:
            todo, self._todo = self._todo, []
            claims: list[core.Claim] = []
            filings: list[core.File] = []
            starts: list[str] = []
            for action in todo:
                match action:
                    case core.End():
                        runs.end(action.id)
                    case core.File():
                        filings.append(action)
                    case core.Claim():
                        claims.append(action)
                    case core.Start():
                        starts.append(action.id)
                    case core.PauseUntil():
                        self._note_pause(action.until, action.id)
                    case core.PauseOver():
                        self._note_pause(None, "")
            if filings:
                try:
                    self._carry_out_filings(filings)
                except BaseException:
                    # Ctrl-C, say. What has not been filed is filed in the next pass; twice does no harm.
                    self._todo += [filing for filing in filings if filing.id in self.holds]
                    raise
            if claims:
                self._carry_out_claims(claims)
            if starts:
                self._carry_out_starts(runs, starts)

    def _note_pause(self, until: float | None, task_id: str) -> None:
        try:
            self._store.note_pause(until, task_id)
        except OSError as error:
            # It holds all the same, as long as this Processor lives.
            self._faulted(error)
        at = self._clock.time()
        if until is None:
            self._tell(RateLimitResume(at=at))
        else:
            self._tell(RateLimitPause(task_id=task_id, at=at, until=until))

    def _faulted(self, error: OSError) -> None:
        if self._fault is None:
            _log.warning("%s cannot be written: %s; nothing new is started", self._store.path, str(error))
            self._look_at = self._clock.monotonic() + self._settings.poll_interval
        # Without the frames that it was raised in: they hold all of us.
        self._fault = error.with_traceback(None)
        self.feed(core.StoreFaulted(healthy=False))

    def _carry_out_claims(self, claims: list[core.Claim]) -> None:
        entries = [self.state.entries[claim.id] for claim in claims]
        # What is to be failed without being started has not to wait until it is due.
        doomed = [entry.ticket for entry in entries if entry.doom]
        due = [entry.ticket for entry in entries if not entry.doom]
        tickets = due + doomed
        answers = self._store.claim(due) + self._store.claim(doomed, any_time=True)
        self._tell_quarantined()
        for ticket, answer in zip(tickets, answers, strict=True):
            if isinstance(answer, Hold):
                self.holds[answer.id] = answer
                self.changed(answer.id, TaskState.PENDING, TaskState.IN_PROGRESS)
                self.feed(_claimed(answer, self.state.max_attempts))
            elif answer.error is not None:
                self._faulted(answer.error)
                self.feed(core.ClaimDelayed(ticket.id, self._settings.poll_interval))
            elif answer.later:
                self.feed(core.ClaimDelayed(ticket.id, self._settings.poll_interval))
            else:
                self.feed(core.ClaimLost(ticket.id, answer.state))
                if answer.ticket is not None:
                    self._found(answer.ticket)

    def _carry_out_starts(self, runs: Runs, task_ids: list[str]) -> None:
        wanted = []
        answers: dict[str, Live | NotStarted | OSError] = {}
        for task_id in task_ids:
            self.starts += 1
            try:
                wanted.append(self._wanted(task_id))
            except NotStarted as error:
                answers[task_id] = error
        try:
            runs.start_all(wanted, answers)
        finally:
            for task_id in task_ids:
                answer = answers.get(task_id)
                if answer is None:
                    # Ctrl-C, say. What has not been started is started in the next pass.
                    self._todo.append(core.Start(task_id))
                else:
                    self._start_answered(task_id, answer)

    def _wanted(self, task_id: str) -> Wanted:
        hold = self.holds[task_id]
        task = hold.task
        timeout, idle_timeout = self._limits(task)
        run = Run(
            task_id=task_id,
            attempt=hold.attempt,
            timeout=timeout,
            idle_timeout=idle_timeout,
            queue_dir=str(self._store.path),
        )
        return Wanted(
            hold,
            self._prepare(task, run),
            timeout=timeout,
            idle_timeout=idle_timeout,
            grace=self._settings.grace,
            max_log_bytes=self._settings.max_log_bytes,
        )

    def _start_answered(self, task_id: str, answer: Live | NotStarted | OSError) -> None:
        match answer:
            case NotStarted() as error:
                _log.info("task %s: %s", task_id, error)
                execution = ExecutionResult(
                    success=False, message=str(error), error=str(error), permanent=error.permanent
                )
                self._results[task_id] = (None, None, execution)
                outcome = Outcome.REFUSED if error.permanent else Outcome.FAILED
                self.feed(self._ended(task_id, outcome, retry_soon=error.soon, reason=str(error)))
            case OSError() as error:
                # No log: the disk is full, or read-only.
                self._faulted(error)
                reason = f"no log can be written: {error}"
                self.feed(self._ended(task_id, Outcome.GIVEN_BACK, reason=reason))
            case live:
                first, self._on_first_start = self._on_first_start, None
                if first is not None:
                    first()
                attempt = live.hold.attempt
                self._tell(
                    TaskStarted(
                        task_id=task_id, attempt=attempt, pid=live.pid, at=live.started_at, adopted=False
                    )
                )
                self.feed(core.Started(task_id))

    def _limits(self, task: Task) -> tuple[float | None, float | None]:
        """Time and idle limit of a task: its own, the executor's, the queue's."""
        own_idle = getattr(self._settings.executor, "idle_timeout", None)
        idles = (task.idle_timeout, own_idle, self._settings.idle_timeout)
        timeout = task.timeout if task.timeout is not None else self._settings.task_timeout
        return timeout, next((idle for idle in idles if idle is not None), None)

    def _prepare(self, task: Task, run: Run) -> Command:
        try:
            command = self._settings.executor.prepare(task, run)
        except Refused as error:
            raise NotStarted(f"Failed to start {task.id}: {error}", permanent=True) from error
        except Exception as error:
            _log.exception("the executor cannot prepare task %s", task.id)
            raise NotStarted(
                f"Failed to start {task.id}: {type(error).__name__}: {error}", permanent=True
            ) from error
        if not isinstance(command, Command):
            raise NotStarted(
                f"Failed to start {task.id}: the executor gave {type(command).__name__}, not a Command",
                permanent=True,
            )
        return command

    def _ended(
        self,
        task_id: str,
        outcome: Outcome,
        *,
        retry_after: float | None = None,
        retry_soon: bool = False,
        reason: str = "",
    ) -> core.Ended:
        chance = random.random()
        return core.Ended(task_id, outcome, chance, retry_after, retry_soon, reason)

    def _end_heard(self, runs: Runs, task_id: str) -> None:
        """Nothing of an attempt is left: have it judged."""
        finished = runs.finish(task_id)
        if finished is None:
            return
        live, end = finished
        log_path = None if live.hold.log is None else str(self._store.path / "logs" / live.hold.log)
        end = dataclasses.replace(end, log_path=log_path)
        if end.status.reason is ExitReason.UNKNOWN:
            words = "It ended while nobody could see how."
            execution = ExecutionResult(
                success=False,
                message=words,
                error=words,
                output=end.output.decode("utf-8", "replace")[-4096:],
            )
            outcome = Outcome.LOST
        else:
            execution = self._judge(live.hold.task, end)
            outcome = _outcome(execution)
        self.attempts += 1
        self._results[task_id] = (live, end.status, execution)
        self.feed(
            self._ended(
                task_id,
                outcome,
                retry_after=execution.retry_after,
                reason="" if execution.success else (live.words or execution.error[:500]),
            )
        )

    def _judge(self, task: Task, end: End) -> ExecutionResult:
        try:
            execution: object = self._settings.executor.judge(task, end)
        except Exception as error:  # noqa: BLE001 - an executor may be anybody's
            _log.exception("the executor cannot judge task %s", task.id)
            words = f"the executor cannot judge it: {type(error).__name__}: {error}"
            return ExecutionResult(success=False, message=words, error=words)
        if not isinstance(execution, ExecutionResult):
            words = f"the executor gave {type(execution).__name__}, not an ExecutionResult"
            return ExecutionResult(success=False, message=words, error=words)
        return execution

    def _carry_out_filings(self, filings: list[core.File]) -> None:
        batch = [(filing, self.holds[filing.id], self._record(filing)) for filing in filings]
        errors = self._store.file([(hold, record) for _filing, hold, record in batch])
        self._tell_quarantined()
        for (filing, hold, record), error in zip(batch, errors, strict=True):
            if error is not None:
                # The outcome is kept in memory, the slot stays used: filed again when the disk is well.
                self._faulted(error)
                continue
            self.holds.pop(filing.id)
            _live, _status, execution = self._results.pop(filing.id, (None, None, None))
            self.feed(core.Filed(filing.id))
            self._told_filed(filing, hold, record, execution)

    def _told_filed(
        self, filing: core.File, hold: Hold, record: Record, execution: ExecutionResult | None
    ) -> None:
        at = self._clock.time()
        self.outcomes[str(filing.outcome)] += 1
        if filing.state in self.tally:
            self.tally[filing.state] += 1
            self.finished[filing.state].append(filing.id)
        elif filing.outcome is Outcome.SUCCEEDED:
            self.tally[TaskState.COMPLETED] += 1
            self.finished[TaskState.COMPLETED].append(filing.id)
            self.cycled.add(filing.id)
        self.changed(filing.id, TaskState.IN_PROGRESS, filing.state, record.reason, str(filing.outcome))
        if filing.outcome is Outcome.SUCCEEDED:
            self._tell(TaskCompleted(task_id=filing.id, attempt=hold.attempt, at=at, execution=execution))
        elif filing.outcome not in (Outcome.RATE_LIMITED, Outcome.GIVEN_BACK):
            self._tell(
                TaskFailed(
                    task_id=filing.id,
                    attempt=hold.attempt,
                    at=at,
                    outcome=str(filing.outcome),
                    final=filing.state is TaskState.FAILED,
                    reason=record.reason,
                    retry_at=filing.retry_at or None,
                    execution=execution,
                )
            )

    def _record(self, filing: core.File) -> Record:
        hold = self.holds[filing.id]
        live, status, execution = self._results.get(filing.id, (None, None, None))
        return Record(
            id=filing.id,
            attempt=hold.attempt,
            state=filing.state,
            outcome=filing.outcome,
            failures=filing.failures,
            reason=filing.reason[:2000],
            retry_at=filing.retry_at,
            started_at=None if live is None else live.started_at,
            finished_at=self._clock.time(),
            exit=exit_fields(status),
            execution=None if execution is None else execution.as_fields(),
            log=hold.log,
            limited=filing.limited,
            lost=filing.lost,
        )

    def _recover_all(self) -> None:
        """Decide about what is in progress and nobody's."""
        orphans: list[Orphan] = []
        try:
            for orphan in self._store.orphans():
                orphans.append(orphan)  # noqa: PERF402 - those before an error count
        except OSError as error:
            # Looked at again when it can be written.
            self._faulted(error)
        left_by = Counter((orphan.history.claimed or {}).get("processor") for orphan in orphans)
        for orphan in orphans:
            owner = (orphan.history.claimed or {}).get("processor")
            # Where several share the directory, each may have found a part of what a dead one has left.
            only = left_by[owner] == 1 and not self._settings.shared
            self._recover(orphan, beside=not (only or orphan.hold.alone))

    def _recover(self, orphan: Orphan, *, beside: bool) -> None:
        """Decide about a task that was in progress when its Processor died, `beside` others or not."""
        hold, history = orphan.hold, orphan.history
        record = history.record
        if history.claimed is None:
            # Its outcome was durable, or its attempt had not begun: only the move is missing.
            known = record is not None and not history.reset
            state = record.state if record is not None and known else TaskState.PENDING
            try:
                self._store.finish_orphan(hold, state)
            except OSError as error:
                self._store.release(hold)
                self._store.unsettled = True
                self._faulted(error)
            else:
                outcome = None if record is None or not known else str(record.outcome)
                self.changed(hold.id, TaskState.IN_PROGRESS, state, "finished after a crash", outcome)
            return
        adopted = self._find(orphan)
        self.holds[hold.id] = hold
        runs = self.runs
        task = hold.task
        timeout, idle_timeout = self._limits(task)
        live = runs.adopt(
            hold,
            adopted,
            timeout=timeout,
            idle_timeout=idle_timeout,
            grace=self._settings.grace,
            max_log_bytes=self._settings.max_log_bytes,
        )
        end = self._settings.recovery == "end" and (
            adopted.has_leader or orphan.alive or bool(adopted.members())
        )
        if end:
            live.words = "its Processor has died; it was ended by the next one"
        ticket = task.ticket(hold.name, hold.since)
        claimed = _claimed(hold, self.state.max_attempts)
        self.feed(core.Adopted(ticket, claimed, end=end, beside=beside))
        if adopted.has_leader:
            self._tell(
                TaskStarted(
                    task_id=hold.id, attempt=hold.attempt, pid=live.pid, at=live.started_at, adopted=True
                )
            )

    def _find(self, orphan: Orphan) -> Adopted:
        adopted = Adopted.find(orphan.history.started, self._store.machine)
        if orphan.alive and not adopted.has_leader and orphan.hold.lock_fd is not None:
            # The leader is gone, or its Processor died before it could write down whom it had started.
            found = os.fstat(orphan.hold.lock_fd)
            adopted.add_by_lock(found.st_dev, found.st_ino, _pid_of(orphan.history.claimed or {}))
        return adopted

    def end_all(self, outcome: Outcome, began: float, timeout: float) -> list[StopResult]:
        """End all that runs here, and file what comes of it, in time."""
        runs, launcher = self.runs, self.launcher
        # Before the grace is reckoned: who hurries us meanwhile is heard by one of the two.
        self._ending_all = True
        latest = min(began + timeout * 0.8, self._hurried)
        grace = max(0.0, min(self._settings.grace, latest - time.monotonic()))
        self.feed(core.StopAsked(outcome))
        todo, self._todo = self._todo, []
        self._todo = [action for action in todo if not isinstance(action, core.End)]
        own = [live for live in runs.live.values() if live.adopted is None]
        adopted = [live for live in runs.live.values() if live.adopted is not None]
        for live in adopted:
            live.grace = min(live.grace, grace)
            runs.end(live.hold.id)
        results: list[StopResult] = []
        if own:
            # Passes go on meanwhile: what has ended is filed, and adopted runs climb their own ladder.
            with ThreadPoolExecutor(1, "fastproc-stop") as ender:
                if self._owns_launcher:
                    ending = ender.submit(lambda: launcher.terminate_all(grace).results)
                else:
                    ending = ender.submit(self._terminate, own, grace)
                ending.add_done_callback(lambda _ending: self.poke())
                while not ending.done():
                    self.make_pass()
                    self.sleep(0.05)
            results += ending.result()
        self.pump_until_idle(max(began + timeout, time.monotonic() + 1.0), patience=FAULT_PATIENCE)
        results += [
            StopResult(
                task_id=live.hold.id,
                status=live.adopted.status if live.adopted is not None else None,
                escalated=live.adopted is not None and live.adopted.escalated,
                survivors=[] if live.done or live.adopted is None else live.adopted.members(),
                elapsed=time.monotonic() - began,
            )
            for live in adopted
        ]
        return results

    def _terminate(self, lives: list[Live], grace: float) -> list[StopResult]:
        """End all of these at once, and wait."""
        results = []
        with ThreadPoolExecutor(min(64, len(lives)), "fastproc-stop") as pool:
            stops = [pool.submit(self.launcher.terminate_process, live.hold.id, grace) for live in lives]
            for stop in stops:
                with contextlib.suppress(NotActive):
                    results.append(stop.result())
        return results

    def hurry(self, grace: float) -> None:
        """[any thread] Kill after so many seconds what another thread is ending with more of them."""
        now = time.monotonic()
        # A moment is left for filing what comes of it.
        self._hurried = min(self._hurried, now + grace * 0.8)
        if not self._ending_all:
            return
        lives = list(self.runs.live.values())
        for live in lives:
            if live.adopted is not None and live.asked is not None:
                live.grace = min(live.grace, now - live.asked + grace)
        own = [live for live in lives if live.adopted is None]
        if own:
            self._terminate(own, grace)

    def pump_until_finished(self, until: float) -> None:
        """Make passes while something runs, until then, and as long as nobody is in a hurry."""
        while self.state.busy and time.monotonic() < until and self._hurried == math.inf:
            self.pump_until_idle(min(until, time.monotonic() + 0.05))

    def pump_until_idle(self, until: float, *, patience: float = math.inf) -> None:
        """Make passes until nothing runs and all is filed, or until then. If there is nothing to wait for but
        a disk that cannot be written, `patience` is how many seconds that lasts.
        """
        stuck_at = math.inf
        while True:
            self.make_pass()
            if not self.state.busy:
                return
            if self._fault is None or self.runs.live:
                stuck_at = math.inf
            elif stuck_at == math.inf:
                stuck_at = time.monotonic() + patience
            until = min(until, stuck_at)
            left = until - time.monotonic()
            if left <= 0:
                return
            self.sleep(min(0.05, left))

    def _tell(self, event: QueueEvent) -> None:
        if self._settings.on_event is None:
            return
        self.telling = threading.get_ident()
        try:
            self._settings.on_event(event)
        except Exception:  # noqa: BLE001 - as in the roster: an observer cannot fail the queue
            _log.exception("an observer has failed at %s", event.kind)
        finally:
            self.telling = 0

    def changed(
        self,
        task_id: str,
        before: TaskState | None,
        after: TaskState,
        reason: str = "",
        outcome: str | None = None,
    ) -> None:
        if self._settings.on_event is not None:
            self._tell(
                TaskStatusChanged(
                    task_id=task_id,
                    at=self._clock.time(),
                    before=before,
                    after=after,
                    reason=reason,
                    outcome=outcome,
                )
            )

    def _judge_health(self) -> None:
        causes = []
        if self._fault is not None:
            causes.append(f"the directory cannot be written: {self._fault.strerror or self._fault}")
        complaints = list(self._store.files.complaints.items())
        causes += [
            f"{name} cannot be read: {why}" for name, why in complaints[:5] if why != "still being written"
        ]
        now = tuple(causes)
        if bool(now) != bool(self.causes):
            self.causes = now
            self._tell(HealthChanged(at=self._clock.time(), health="degraded" if now else "ok", causes=now))
        self.causes = now

    def _tell_others(self) -> None:
        """Have other programs see how this Processor is doing."""
        limited = self.state.limited_until
        now = (
            self.state.slots,
            self.state.paused or limited is not None,
            None if limited is None else limited.wall,
            self.causes,
            self.stopping,
        )
        if now != self._told:
            self._told = now
            slots, paused, until, causes, stopping = now
            self._store.presence.tell_others(
                slots=slots,
                paused=paused,
                paused_until=until,
                causes=[cause[:300] for cause in causes],
                stopping=stopping,
            )

    def is_empty(self) -> bool:
        """Whether nothing is left to do but what is stuck, or runs for ever by its own wish."""
        if self._todo or not self._inbox.empty() or self._store.files.complaints or self._store.unsettled:
            return False
        if self.state.busy:
            return False
        if len(self.state.entries) > 1000 and self.state.ready:
            return False
        return all(
            entry.phase is Phase.WAITING or name in self.cycled for name, entry in self.state.entries.items()
        )


def _claimed(hold: Hold, max_attempts: int) -> core.Claimed:
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


def _pid_of(claimed: Mapping[str, object]) -> int:
    """The pid of the Processor that has claimed a task: it has taken the lock."""
    words = str(claimed.get("processor", "")).rsplit("-", 2)
    return int(words[1]) if len(words) == 3 and words[1].isdigit() else 0


def _outcome(execution: ExecutionResult) -> Outcome:
    if execution.success:
        return Outcome.SUCCEEDED
    if execution.rate_limited:
        return Outcome.RATE_LIMITED
    return Outcome.REFUSED if execution.permanent else Outcome.FAILED
