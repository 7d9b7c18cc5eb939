"""A Processor's time on a directory: from the lock to its release. Carries out what the core decides.

One pass hears what has ended and what has arrived, has the core decide, and acts through a Launcher, a Store
and a Clock: ends first, then what frees slots, then what fills them. What several tasks need of the disk in
one pass is done in one go. All is called under the turn of the Processor, one thread at a time, but `_heard`
and `poke`.
"""

from __future__ import annotations

import contextlib
import os
import random
import select
import threading
from collections import Counter, deque
from collections.abc import Callable
from logging import getLogger
from queue import Empty, SimpleQueue
from typing import Literal, TypeAlias

from ..ports import Launcher
from ..status import ExitReason, ExitStatus
from . import core
from .disk import Watch
from .ending import Ending
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
from .executor import End, Run
from .journal import exit_fields
from .news import Outcome
from .recovery import claimed_event, recover_all
from .runs import Live, NotStarted, Runs, Wanted
from .settings import Settings
from .state import Phase
from .store import Hold, Record
from .store_dir import DirectoryStore
from .task import ExecutionResult, TaskState, Ticket, split_name

_log = getLogger("fastproc.processor")

Recovery: TypeAlias = Literal["end", "adopt"]

RESCAN_SECONDS = 60.0
"""How often the directory is read as a whole, whatever was told of it in between."""
_REMEMBERED = 10_000
_DUE_SLACK = 0.002


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
        self.settings = settings
        self.store = store
        self.launcher = launcher
        self.owns_launcher = owns_launcher
        self._clock = settings.clock
        self.state = core.State(
            slots=slots,
            max_attempts=settings.max_attempts,
            backoff=settings.backoff,
            rate_limit=settings.rate_limit,
            starts_per_second=settings.starts_per_second,
            paused=paused,
        )
        self.todo: list[core.Action] = []
        self._inbox: SimpleQueue[str] = SimpleQueue()
        self.holds: dict[str, Hold] = {}
        self._kept: list[tuple[core.File, Hold, Record]] = []
        """What is written of those that are to be filed."""
        self._results: dict[str, tuple[Live | None, ExitStatus | None, ExecutionResult | None]] = {}
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.runs = Runs(launcher, store, self._clock, store.machine, self._heard)
        self._watch: Watch | None = None
        self.ending = Ending(self)
        self.stopping = False
        self.telling = 0
        """The thread that an observer is called in, while it is."""
        self._rescan_at = 0.0
        self._look_at = 0.0
        self.causes: tuple[str, ...] = ()
        self._told: tuple[object, ...] | None = None
        self.fault: OSError | None = None
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
        if self.store.presence.unwritten is not None:
            self.faulted(self.store.presence.unwritten)
        self.store.presence.sweep()
        until = self.store.pause()
        if until is not None:
            self.feed(core.RateLimitKnown(until))
        recover_all(self)
        self._rescan()
        self._judge_health()

    def leave(self) -> None:
        """Give everything back. What still runs is left to the next Processor."""
        self.runs.rest()
        self.runs.abandon()
        for hold in list(self.holds.values()):
            self.store.release(hold)
        self.holds.clear()
        self._kept.clear()
        if self.owns_launcher:
            self.launcher.close(0.0)  # type: ignore[attr-defined]
        self._close()

    def forget(self) -> None:
        """[forked copy] Close what is the original's."""
        self.runs.forget()
        self.holds.clear()
        self._kept.clear()
        self._close()

    def _close(self) -> None:
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
        return bool(self.todo or self._kept) or not self._inbox.empty()

    def _open_watch(self) -> Watch | None:
        """Be told what arrives. Without inotify the directory is read at every poll_interval."""
        try:
            watch = Watch()
        except OSError:
            return None
        try:
            watch.add(self.store.place.fds[TaskState.PENDING], "pending")
            watch.add(self.store.place.fds[".requests"], "requests")
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
        if self.todo or self._kept:
            return 0.0
        dues = [self._rescan_at - now.mono]
        due = core.next_due(self.state, now)
        if due is not None:
            dues.append(due + _DUE_SLACK)
        limited = self.state.limited_until is not None
        unwell = self.fault is not None or self._watch is None
        if self.state.busy or limited or unwell or self.settings.shared or self.store.unsettled:
            dues.append(max(0.0, self._look_at - now.mono))
        if (look := self.runs.due()) is not None:
            dues.append(look)
        if self.store.files.complaints:
            dues.append(self.settings.poll_interval)
        return max(0.0, min(dues))

    def _now(self) -> core.Now:
        return core.Now(self._clock.monotonic(), self._clock.time())

    def feed(self, event: core.Event) -> None:
        self.todo += core.step(self.state, event, self._now())

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
            self._look_at = now + self.settings.poll_interval
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
            if self.settings.on_event is not None and live.log_bytes != live.told_bytes:
                live.told_bytes = live.log_bytes
                self.tell(
                    TaskProgress(
                        task_id=live.hold.id,
                        attempt=live.hold.attempt,
                        at=now,
                        log_bytes=live.log_bytes,
                        last_line=runs.last_line(live),
                    )
                )
        for name in list(self.store.files.complaints):
            self.notice(name)
        if self.fault is not None:
            self.fault = self.store.is_well()
            if self.fault is None:
                self.feed(core.StoreFaulted(healthy=True))
        if self._watch is None:
            self._take_requests()
        self._look_at_pause()
        if self.settings.shared or self.store.unsettled:
            recover_all(self)
        if self.settings.shared:
            self._settle_strangers()

    def _look_at_pause(self) -> None:
        """Another one may have met the rate limit, or somebody may have ended it by hand."""
        limited = self.state.limited_until
        if self.fault is None and (limited is not None or self.settings.shared):
            until = self.store.pause()
            if limited is not None and until is None:
                self.feed(core.RateLimitKnown(0.0))
            elif limited is None and until is not None:
                self.feed(core.RateLimitKnown(until))

    def _settle_strangers(self) -> None:
        """Others may have finished what some of our tasks wait for."""
        for name in [name for name in self.state.waiters if name not in self.state.entries]:
            self.feed(core.Settled(name, self.store.where(name)))

    def _rescan(self) -> None:
        """Read the whole directory: whatever was missed is found."""
        self._rescan_at = self._clock.monotonic() + (
            RESCAN_SECONDS if self._watch is not None else self.settings.poll_interval
        )
        names = set()
        for name in self.store.pending():
            parts = split_name(name)
            if parts is not None:
                names.add(parts[0])
            self.notice(name)
        # What somebody has removed.
        for task_id, entry in list(self.state.entries.items()):
            if task_id not in names and entry.phase in (Phase.WAITING, Phase.DELAYED, Phase.READY):
                where = self.store.where(task_id)
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
                self.store.files.quarantine(TaskState.PENDING, name, why)
                self._tell_quarantined()
            return
        ticket = self.store.look(name)
        self._tell_quarantined()
        if ticket is not None:
            self._found(ticket)

    def _found(self, ticket: Ticket) -> None:
        outside = {
            name: self.store.where(name) for name in ticket.dependencies if name not in self.state.entries
        }
        self.feed(core.Found(ticket, outside))

    def _take_requests(self) -> None:
        for task_id in self.store.records.requests():
            entry = self.state.entries.get(task_id)
            if entry is not None:
                self.feed(core.CancelAsked(task_id))
                self.store.records.take_request(task_id)
            elif self.store.where(task_id) not in (TaskState.PENDING, TaskState.IN_PROGRESS):
                self.store.records.take_request(task_id)

    def _tell_quarantined(self) -> None:
        while self.store.files.quarantined:
            name, reason = self.store.files.quarantined.pop(0)
            self.tell(TaskQuarantined(name=name, at=self._clock.time(), reason=reason))

    def go_on(self) -> None:
        """Start what there is room for."""
        self.feed(core.Tick())
        self.work()

    def work(self) -> None:
        """Carry out what the core wants: ends first, then what frees slots, then what fills them."""
        runs = self.runs
        while self.todo or self._kept:
            todo, self.todo = self.todo, []
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
                    self._keep(filings)
                except BaseException:
                    # Ctrl-C, say. What has not been filed is filed in the next pass; twice does no harm.
                    kept = [filing.id for filing, _hold, _record in self._kept]
                    left = [filing for filing in filings if filing.id in self.holds]
                    self.todo += [filing for filing in left if filing.id not in kept]
                    raise
                claims += [action for action in self.todo if isinstance(action, core.Claim)]
                self.todo = [action for action in self.todo if not isinstance(action, core.Claim)]
            if claims:
                self._carry_out_claims(claims)
            if starts:
                self._carry_out_starts(runs, starts)
            if self._kept and not any(isinstance(action, core.Start) for action in self.todo):
                self._carry_out_filings()

    def _note_pause(self, until: float | None, task_id: str) -> None:
        try:
            self.store.note_pause(until, task_id)
        except OSError as error:
            # It holds all the same, as long as this Processor lives.
            self.faulted(error)
        at = self._clock.time()
        if until is None:
            self.tell(RateLimitResume(at=at))
        else:
            self.tell(RateLimitPause(task_id=task_id, at=at, until=until))

    def faulted(self, error: OSError) -> None:
        if self.fault is None:
            _log.warning("%s cannot be written: %s; nothing new is started", self.store.path, str(error))
            self._look_at = self._clock.monotonic() + self.settings.poll_interval
        # Without the frames that it was raised in: they hold all of us.
        self.fault = error.with_traceback(None)
        self.feed(core.StoreFaulted(healthy=False))

    def _carry_out_claims(self, claims: list[core.Claim]) -> None:
        entries = [self.state.entries[claim.id] for claim in claims]
        # What is to be failed without being started has not to wait until it is due.
        doomed = [entry.ticket for entry in entries if entry.doom]
        due = [entry.ticket for entry in entries if not entry.doom]
        tickets = due + doomed
        answers = self.store.claim(due) + self.store.claim(doomed, any_time=True)
        self._tell_quarantined()
        for ticket, answer in zip(tickets, answers, strict=True):
            if isinstance(answer, Hold):
                self.holds[answer.id] = answer
                self.changed(answer.id, TaskState.PENDING, TaskState.IN_PROGRESS)
                self.feed(claimed_event(answer, self.state.max_attempts))
            elif answer.error is not None:
                self.faulted(answer.error)
                self.feed(core.ClaimDelayed(ticket.id, self.settings.poll_interval))
            elif answer.later:
                self.feed(core.ClaimDelayed(ticket.id, self.settings.poll_interval))
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
                    self.todo.append(core.Start(task_id))
                else:
                    self._start_answered(task_id, answer)

    def _wanted(self, task_id: str) -> Wanted:
        hold = self.holds[task_id]
        task = hold.task
        timeout, idle_timeout = self.settings.limits(task)
        run = Run(
            task_id=task_id,
            attempt=hold.attempt,
            timeout=timeout,
            idle_timeout=idle_timeout,
            queue_dir=str(self.store.path),
        )
        return Wanted(
            hold,
            self.settings.prepare(task, run),
            timeout=timeout,
            idle_timeout=idle_timeout,
            grace=self.settings.grace,
            max_log_bytes=self.settings.max_log_bytes,
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
                self.faulted(error)
                reason = f"no log can be written: {error}"
                self.feed(self._ended(task_id, Outcome.GIVEN_BACK, reason=reason))
            case live:
                first, self._on_first_start = self._on_first_start, None
                if first is not None:
                    first()
                attempt = live.hold.attempt
                self.tell(
                    TaskStarted(
                        task_id=task_id, attempt=attempt, pid=live.pid, at=live.started_at, adopted=False
                    )
                )
                self.feed(core.Started(task_id))

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
        if live.hold.log is not None:
            end = End(
                status=end.status,
                output=end.output,
                log_path=f"{self.store.path}/logs/{live.hold.log}",
                attempt=end.attempt,
            )
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
            execution = self.settings.judge(live.hold.task, end)
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

    def _keep(self, filings: list[core.File]) -> None:
        """Write what is to be filed. With durability "batch" the slots are free from then on: the next claims
        make it durable too, in one go, and what is left of filing is done while the new runs run.
        """
        batch = [(filing, self.holds[filing.id], self._record(filing)) for filing in filings]
        if self.store.place.durability != "batch":
            self._kept += batch
            self._carry_out_filings()
            return
        errors = self.store.keep([(hold, record) for _filing, hold, record in batch])
        for (filing, hold, record), error in zip(batch, errors, strict=True):
            if error is not None:
                self.faulted(error)
                continue
            self._kept.append((filing, hold, record))
            self.feed(core.Recorded(filing.id))

    def _carry_out_filings(self) -> None:
        batch = list(self._kept)
        errors = self.store.file([(hold, record) for _filing, hold, record in batch])
        self._tell_quarantined()
        for item, error in zip(batch, errors, strict=True):
            if item not in self._kept:
                continue  # an observer has had it filed meanwhile
            # Not all at once: what Ctrl-C leaves here is filed in the next pass.
            self._kept.remove(item)
            filing, hold, record = item
            if error is not None:
                # The outcome is kept in memory, the slot stays used: filed again when the disk is well.
                self.faulted(error)
                continue
            if self.holds.pop(filing.id, None) is None:
                continue  # it was to be filed twice
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
            self.tell(TaskCompleted(task_id=filing.id, attempt=hold.attempt, at=at, execution=execution))
        elif filing.outcome not in (Outcome.RATE_LIMITED, Outcome.GIVEN_BACK):
            self.tell(
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

    def tell(self, event: QueueEvent) -> None:
        if self.settings.on_event is None:
            return
        self.telling = threading.get_ident()
        try:
            self.settings.on_event(event)
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
        if self.settings.on_event is not None:
            self.tell(
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
        if self.fault is not None:
            causes.append(f"the directory cannot be written: {self.fault.strerror or self.fault}")
        complaints = list(self.store.files.complaints.items())
        causes += [
            f"{name} cannot be read: {why}" for name, why in complaints[:5] if why != "still being written"
        ]
        now = tuple(causes)
        if bool(now) != bool(self.causes):
            self.causes = now
            self.tell(HealthChanged(at=self._clock.time(), health="degraded" if now else "ok", causes=now))
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
            self.store.presence.tell_others(
                slots=slots,
                paused=paused,
                paused_until=until,
                causes=[cause[:300] for cause in causes],
                stopping=stopping,
            )

    def is_empty(self) -> bool:
        """Whether nothing is left to do but what is stuck, or runs for ever by its own wish."""
        if self.todo or not self._inbox.empty() or self.store.files.complaints or self.store.unsettled:
            return False
        if self.state.busy:
            return False
        if len(self.state.entries) > 1000 and self.state.ready:
            return False
        return all(
            entry.phase is Phase.WAITING or name in self.cycled for name, entry in self.state.entries.items()
        )


def _outcome(execution: ExecutionResult) -> Outcome:
    if execution.success:
        return Outcome.SUCCEEDED
    if execution.rate_limited:
        return Outcome.RATE_LIMITED
    return Outcome.REFUSED if execution.permanent else Outcome.FAILED
