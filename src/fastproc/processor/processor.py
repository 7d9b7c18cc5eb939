"""Processor: the queue, as its users see it. Carries out what the core decides, through a Launcher, a Store and a Clock.

One pass hears what has ended and what has arrived, has the core decide, and acts: files outcomes, claims, starts. Passes
are made one at a time, by the thread of start() or by whoever calls; nobody is called, and nothing waited for, while
another could need the turn. What is asked of a running Processor is entered under the same turn and carried out at once.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import os
import random
import select
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from logging import getLogger
from queue import Empty, SimpleQueue
from typing import Any, Literal, Self

from ..command import Arg, Command
from ..errors import NoSuchTask, NotActive, WaitTimeout
from ..ports import Clock, Launcher
from ..status import ExitReason, ExitStatus, StopReport, StopResult
from . import core
from .adopt import Adopted
from .core import Outcome, Phase
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
from .executor import CommandExecutor, End, Executor, Refused, Run
from .formats import BadTask
from .journal import execution_result, exit_fields, exit_status
from .logs import MAX_ENTRIES, LogEntry, LogReader
from .retry import Backoff, RateLimit
from .runs import SYSTEM_CLOCK, Live, NotStarted, Runs
from .store import Durability, Hold, NotClaimed, Orphan, Record
from .store_dir import DirectoryStore
from .task import (
    ExecutionResult,
    Priority,
    Task,
    TaskResult,
    TaskState,
    Ticket,
    check_id,
    plain_fields,
    split_name,
)
from .views import ProcessInfo, QueueReport, QueueStatus

_log = getLogger("fastproc.processor")

Recovery = Literal["end", "adopt"]
Unfinished = Literal["requeue", "cancel", "finish"]

RESCAN_SECONDS = 60.0
"""How often the directory is read as a whole, whatever was told of it in between."""
_REMEMBERED = 10_000
_DUE_SLACK = 0.002


class Processor:
    """Runs the tasks of a queue directory: each for certain, none twice at once, through crashes of all kinds.

    submit(), status and logs work whether or not a Processor is running, here or in another program. start(),
    run_until_empty() and process_queue() make this one the Processor of the directory. All methods are safe from any
    thread. A context manager: leaving the block is stop().

    Args:
        queue_dir: made if it is not there, for its user alone.
        manager: a ProcessManager to start jobs with; without it the Processor has one of its own.
        executor: what a task runs; CommandExecutor() without it.
        slots: how many tasks run at once. May be changed by set_slots().
        task_timeout, idle_timeout: seconds from the start, and seconds without output, for tasks and executors that
            do not say; None for no limit.
        max_attempts: how often a task is tried that fails, for tasks that do not say.
        poll_interval: seconds between looks at what tells nothing by itself.
        durability: "full": each step is on the disk before the next, and logs before their results; "batch": the same
            order, but tasks of one pass share the waiting, and logs are left to the kernel; "none": all survives a
            crash of the Processor, nothing is promised for one of the machine.
        recovery: what happens to jobs of a crashed Processor that still run: "end" them and try again, or "adopt"
            them and wait for their end.
        shared: several Processors may work on this directory; all of them have to say so.
        grace: seconds from SIGTERM to SIGKILL.
        max_log_bytes: a job that prints more is ended.
        backoff, rate_limit: how long to wait, see there.
        open_to_others: accept a directory that others can write to; they can then have anything run.
        on_event: called with each event of fastproc.processor.events, in the thread that makes the pass; be quick.
        clock: for tests.

    Raises:
        TypeError, ValueError: a wrong argument.
        PermissionError: others can write to the directory.
        OSError: it cannot be made or opened.
    """

    def __init__(
        self,
        queue_dir: str | os.PathLike[str],
        *,
        manager: Launcher | None = None,
        executor: Executor | None = None,
        slots: int = 4,
        task_timeout: float | None = 3600.0,
        idle_timeout: float | None = None,
        max_attempts: int = 3,
        poll_interval: float = 1.0,
        durability: Durability = "full",
        recovery: Recovery = "end",
        shared: bool = False,
        grace: float = 5.0,
        max_log_bytes: int | None = 1 << 30,
        backoff: Backoff | None = None,
        rate_limit: RateLimit | None = None,
        open_to_others: bool = False,
        on_event: Callable[[QueueEvent], object] | None = None,
        clock: Clock = SYSTEM_CLOCK,
        store: DirectoryStore | None = None,
    ) -> None:
        _check_count("slots", slots, least=0)
        _check_count("max_attempts", max_attempts, least=1)
        _check_seconds("task_timeout", task_timeout, optional=True)
        _check_seconds("idle_timeout", idle_timeout, optional=True)
        _check_seconds("poll_interval", poll_interval)
        _check_seconds("grace", grace, zero=True)
        _check_choice("durability", durability, ("full", "batch", "none"))
        _check_choice("recovery", recovery, ("end", "adopt"))
        if on_event is not None and not callable(on_event):
            raise TypeError(f"on_event must be callable, not {on_event!r}")
        self._given = manager
        self._executor: Executor = executor if executor is not None else CommandExecutor()
        self._task_timeout = task_timeout
        self._idle_timeout = idle_timeout
        self._poll_interval = poll_interval
        self._recovery = recovery
        self._shared = shared
        self._grace = grace
        self._max_log_bytes = max_log_bytes
        self._on_event = on_event
        self._clock = clock
        self._store = (
            store
            if store is not None
            else DirectoryStore(queue_dir, durability=durability, open_to_others=open_to_others)
        )
        self._logs = LogReader(self._store)
        self._state = core.State(
            slots=slots,
            max_attempts=max_attempts,
            backoff=backoff if backoff is not None else Backoff(),
            rate_limit=rate_limit if rate_limit is not None else RateLimit(),
        )
        self._turn = threading.RLock()
        self._rested = threading.Condition(self._turn)
        self._todo: list[core.Action] = []
        self._inbox: SimpleQueue[str] = SimpleQueue()
        self._holds: dict[str, Hold] = {}
        self._results: dict[str, tuple[Live | None, ExitStatus | None, ExecutionResult | None]] = {}
        self._runs: Runs | None = None
        self._launcher: Launcher | None = None
        self._watch: Watch | None = None
        self._wake_fd = -1
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._rescan_at = 0.0
        self._look_at = 0.0
        self._causes: tuple[str, ...] = ()
        self._fault: OSError | None = None
        self._cycled: set[str] = set()
        self._finished: dict[TaskState, deque[str]] = {
            TaskState.COMPLETED: deque(maxlen=_REMEMBERED),
            TaskState.FAILED: deque(maxlen=_REMEMBERED),
        }
        self._tally = {TaskState.COMPLETED: 0, TaskState.FAILED: 0}
        self._attempts = 0
        self._starts = 0
        self._at_exit: Callable[[], None] | None = None

    @property
    def queue_dir(self) -> str:
        """Where the tasks are."""
        return str(self._store.path)

    # ---- submitting ----

    def submit(
        self,
        task: Task | Mapping[str, Any] | Sequence[Arg] | None = None,
        *,
        id: str | None = None,  # noqa: A002
        prompt: str | None = None,
        priority: Priority | str | None = None,
        timeout: float | None = None,
        **fields: Any,
    ) -> str:
        """Queue a task: it is on the disk when this returns, unless durability is "none".

        Args:
            task: a list of program and arguments, or a mapping of fields such as {"title": "...", "prompt": "..."}.
            id: its name; one is made up if there is none.
            prompt, priority, timeout, **fields: fields of the task, see Task.

        Raises:
            ValueError: a field, or the id, is wrong; the message names it. Nothing has been queued.
            TaskExists: a task of that id is queued, or was.
            OSError: the directory cannot be written to. Nothing has been queued.
        """
        given = {"id": id, "prompt": prompt, "priority": priority, "timeout": timeout, **fields}
        made = _make_task(task, given)
        self._submit([made])
        return made.id

    def submit_many(self, tasks: Iterable[Task | Mapping[str, Any] | Sequence[Arg]]) -> list[str]:
        """Queue many tasks. If one of them cannot be queued, none is, and the exception is that of submit()."""
        made = [_make_task(task, {}) for task in tasks]
        self._submit(made)
        return [task.id for task in made]

    def _submit(self, tasks: list[Task]) -> None:
        self._store.submit(tasks)
        with self._turn:
            if self._runs is not None and not self._stopping:
                for task in tasks:
                    self._notice(f"{task.id}.json")
                self._work()

    # ---- being the Processor ----

    def start(self) -> None:
        """Run the queue in a thread of its own until stop().

        Raises:
            QueueBusy: another Processor works on this directory.
            OSError: the directory cannot be read.
        """
        with self._turn:
            if self._thread is not None:
                return
            self._enter()
            self._thread = threading.Thread(
                target=self._run, name=f"fastproc-processor-{self._store.path.name}", daemon=True
            )
            self._thread.start()

    def run_until_empty(self, timeout: float | None = None) -> QueueReport:
        """Run the queue until nothing is left to do, or until `timeout` seconds have passed.

        Waits for retries, dates and rate limits. What is left then waits for tasks that are not there, or queues itself
        again. If start() has not been called this thread does the work, and what runs at a timeout runs on until
        stop().
        """
        began = time.monotonic()
        until = None if timeout is None else began + timeout
        with self._turn:
            entered = self._runs is None
            self._enter()
            own = self._thread is None
            tally, attempts = dict(self._tally), self._attempts
            self._cycled.clear()
        while True:
            with self._turn:
                self._pass()
                left = None if until is None else until - time.monotonic()
                if self._is_empty() or (left is not None and left <= 0):
                    break
                if self._stopping:
                    break
                if not own:
                    self._rested.wait(0.5 if left is None else min(0.5, left))
                    continue
                pause = self._pause_length()
            self._sleep(pause if left is None else min(pause, left))
        with self._turn:
            report = self._report(tally, attempts, began)
            if entered and own and report.empty:
                self._leave()
        return report

    def process_queue(self) -> int:
        """Make one pass: hear what has ended, file it, start what there is room for. Returns how many were started.

        Does not wait for what it starts; call it again, or stop(). With start() it is never needed.
        """
        with self._turn:
            self._enter()
            before = self._starts
            self._rescan_at = 0.0
            self._pass()
            return self._starts - before

    def stop(self, timeout: float = 10.0, *, unfinished: Unfinished = "requeue") -> StopReport:
        """Start nothing more, end what runs, and let go of the directory, within `timeout` seconds.

        What has not ended by itself is given back to pending, its attempt not counted ("requeue"), or finished as
        cancelled ("cancel"). "finish" lets everything end by itself first, as far as half of `timeout` allows. May be
        called again, and from any thread.
        """
        _check_choice("unfinished", unfinished, ("requeue", "cancel", "finish"))
        began = time.monotonic()
        with self._turn:
            if self._runs is None:
                return StopReport(elapsed=0.0)
            self._stopping = True
            self._feed(core.Drain())
        self._poke()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        with self._turn:
            self._thread = None
            if self._runs is None:
                return StopReport(elapsed=time.monotonic() - began)
            if unfinished == "finish":
                self._pump_until_idle(began + timeout / 2)
            outcome = Outcome.CANCELLED if unfinished == "cancel" else Outcome.GIVEN_BACK
            results = self._end_all(outcome, began, timeout)
            self._leave()
        return StopReport(
            results=results,
            survivors=[pid for result in results for pid in result.survivors],
            elapsed=time.monotonic() - began,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.stop()

    def close(self) -> None:
        """stop(), and give back the descriptors of the directory; nothing can be asked of it any more."""
        self.stop()
        self._store.close()

    def __del__(self) -> None:
        store = getattr(self, "_store", None)
        if store is not None and getattr(self, "_runs", None) is None:
            with contextlib.suppress(Exception):
                store.close()

    def _enter(self) -> None:
        """Become the Processor of the directory: lock it, recover, read what is pending."""
        if self._runs is not None:
            return
        self._store.lock(shared=self._shared)
        try:
            self._launcher = self._given if self._given is not None else _own_manager(self._store.path.name)
            self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self._stopping = False
            self._state.draining = False
            self._runs = Runs(self._launcher, self._store, self._clock, self._store.machine, self._heard)
            self._watch = self._open_watch()
            self._store.sweep()
            until = self._store.pause()
            if until is not None:
                self._feed(core.RateLimitKnown(until))
            for orphan in self._store.orphans():
                self._recover(orphan)
            self._rescan()
            self._work()
            self._at_exit = _stop_at_exit(self)
        except BaseException:
            self._leave()
            raise

    def _open_watch(self) -> Watch | None:
        """Be told what arrives. Without inotify the directory is read at every poll_interval."""
        try:
            watch = Watch()
        except OSError:
            return None
        try:
            watch.add(self._store.dir_fd(TaskState.PENDING), "pending")
            watch.add(self._store.dir_fd(".requests"), "requests")
        except OSError:
            watch.close()
            return None
        return watch

    def _leave(self) -> None:
        """Be no Processor any more. What still runs is left to the next one."""
        if self._at_exit is not None:
            atexit.unregister(self._at_exit)
            self._at_exit = None
        runs, self._runs = self._runs, None
        if runs is not None:
            runs.abandon()
        for hold in list(self._holds.values()):
            self._store.release(hold)
        self._holds.clear()
        self._results.clear()
        self._todo.clear()
        while not self._inbox.empty():
            self._inbox.get_nowait()
        launcher, self._launcher = self._launcher, None
        if launcher is not None and self._given is None:
            launcher.close()  # type: ignore[attr-defined]
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        if self._wake_fd >= 0:
            fd, self._wake_fd = self._wake_fd, -1
            os.close(fd)
        fresh = core.State(
            slots=self._state.slots,
            max_attempts=self._state.max_attempts,
            backoff=self._state.backoff,
            rate_limit=self._state.rate_limit,
            paused=self._state.paused,
        )
        self._state = fresh
        self._fault = None
        self._causes = ()
        self._store.unlock()
        self._rested.notify_all()

    # ---- the loop ----

    def _run(self) -> None:
        while True:
            with self._turn:
                if self._stopping or self._runs is None:
                    return
                try:
                    self._pass()
                except Exception:
                    # Nothing may end the loop: supervision goes on, and the next pass looks again.
                    _log.exception("a pass over %s has failed", self._store.path)
                self._rested.notify_all()
                pause = self._pause_length()
            self._sleep(pause)

    def _sleep(self, seconds: float) -> None:
        """Wait for news: an end, something that has arrived, or time."""
        fds = [
            fd for fd in (self._wake_fd, self._watch.fileno() if self._watch is not None else -1) if fd >= 0
        ]
        poll = select.poll()
        for fd in fds:
            poll.register(fd, select.POLLIN)
        poll.poll(max(0.0, seconds) * 1000.0)

    def _poke(self) -> None:
        fd = self._wake_fd
        if fd >= 0:
            with contextlib.suppress(OSError):
                os.eventfd_write(fd, 1)

    def _heard(self, task_id: str) -> None:
        """[any thread] Nothing of an attempt is left."""
        self._inbox.put(task_id)
        self._poke()

    def _pause_length(self) -> float:
        """Seconds until the next pass, if there is no news."""
        now = self._now()
        if self._todo:
            return 0.0
        dues = [self._rescan_at - now.mono]
        due = core.next_due(self._state, now)
        if due is not None:
            dues.append(due + _DUE_SLACK)
        if self._state.busy or self._fault is not None or self._shared or self._watch is None:
            dues.append(max(0.0, self._look_at - now.mono))
        if self._runs is not None and (look := self._runs.due()) is not None:
            dues.append(look)
        if self._store.complaints:
            dues.append(self._poll_interval)
        return max(0.0, min(dues))

    def _now(self) -> core.Now:
        return core.Now(self._clock.monotonic(), self._clock.time())

    def _feed(self, event: core.Event) -> None:
        self._todo += core.step(self._state, event, self._now())

    def _pass(self) -> None:
        """Hear, decide, act, until there is nothing left to do now."""
        runs = self._runs
        assert runs is not None
        if self._wake_fd >= 0:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._wake_fd)
        self._take_ends(runs)
        self._take_arrivals()
        now = self._clock.monotonic()
        for live, reason in runs.watch():
            live.why = reason
            self._feed(core.EndAsked(live.hold.id))
        self._take_ends(runs)
        if now >= self._look_at:
            self._look_at = now + self._poll_interval
            self._look_around(runs)
        if now >= self._rescan_at or (self._watch is None and now >= self._look_at):
            self._rescan()
        self._feed(core.Tick())
        self._work()
        self._judge_health()

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
                self._notice(name)

    def _look_around(self, runs: Runs) -> None:
        """What tells nothing by itself: progress, complaints, the disk, other Processors."""
        now = self._clock.time()
        for live in runs.live.values():
            if self._on_event is not None and live.log_bytes != live.told_bytes:
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
        for name in list(self._store.complaints):
            self._notice(name)
        if self._fault is not None:
            self._fault = self._store.is_well()
            if self._fault is None:
                self._feed(core.StoreFaulted(healthy=True))
        if self._watch is None:
            self._take_requests()
        if self._shared:
            for orphan in self._store.orphans():
                self._recover(orphan)
            self._settle_strangers()

    def _settle_strangers(self) -> None:
        """Others may have finished what some of our tasks wait for."""
        for name in [name for name in self._state.waiters if name not in self._state.entries]:
            self._feed(core.Settled(name, self._store.where(name)))

    def _rescan(self) -> None:
        """Read the whole directory: whatever was missed is found."""
        self._rescan_at = self._clock.monotonic() + (
            RESCAN_SECONDS if self._watch is not None else self._poll_interval
        )
        names = set()
        for name in self._store.pending():
            parts = split_name(name)
            if parts is not None:
                names.add(parts[0])
            self._notice(name)
        # What somebody has removed.
        for task_id, entry in list(self._state.entries.items()):
            if task_id not in names and entry.phase in (Phase.WAITING, Phase.DELAYED, Phase.READY):
                where = self._store.where(task_id)
                if where is not TaskState.PENDING:
                    self._feed(core.ClaimLost(task_id, where))
        self._settle_strangers()
        self._take_requests()

    def _notice(self, name: str) -> None:
        """A file is pending: enter it, unless it is known."""
        parts = split_name(name)
        if parts is not None and (entry := self._state.entries.get(parts[0])) is not None:
            if entry.ticket.name == name and entry.phase is not Phase.FILING:
                return
            if entry.ticket.name != name:
                why = f"duplicate id: {entry.ticket.name} is queued already"
                self._store.quarantine(TaskState.PENDING, name, why)
                self._tell_quarantined()
            return
        ticket = self._store.look(name)
        self._tell_quarantined()
        if ticket is not None:
            self._found(ticket)

    def _found(self, ticket: Ticket) -> None:
        outside = {
            name: self._store.where(name) for name in ticket.dependencies if name not in self._state.entries
        }
        self._feed(core.Found(ticket, outside))

    def _take_requests(self) -> None:
        for task_id in self._store.requests():
            entry = self._state.entries.get(task_id)
            if entry is not None:
                self._feed(core.CancelAsked(task_id))
                self._store.take_request(task_id)
            elif self._store.where(task_id) not in (TaskState.PENDING, TaskState.IN_PROGRESS):
                self._store.take_request(task_id)

    def _tell_quarantined(self) -> None:
        while self._store.quarantined:
            name, reason = self._store.quarantined.pop(0)
            self._tell(TaskQuarantined(name=name, at=self._clock.time(), reason=reason))

    # ---- carrying out ----

    def _work(self) -> None:
        """Carry out what the core wants: ends first, then what frees slots, then what fills them."""
        runs = self._runs
        if runs is None:
            return
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
                self._carry_out_filings(filings)
            if claims:
                self._carry_out_claims(claims)
            for task_id in starts:
                self._carry_out_start(runs, task_id)

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
            _log.warning("%s cannot be written: %s; nothing new is started", self._store.path, error)
            self._look_at = self._clock.monotonic() + self._poll_interval
        self._fault = error
        self._feed(core.StoreFaulted(healthy=False))

    def _carry_out_claims(self, claims: list[core.Claim]) -> None:
        tickets = [self._state.entries[claim.id].ticket for claim in claims]
        answers = self._store.claim(tickets)
        self._tell_quarantined()
        for ticket, answer in zip(tickets, answers, strict=True):
            if isinstance(answer, Hold):
                self._holds[answer.id] = answer
                self._changed(answer.id, TaskState.PENDING, TaskState.IN_PROGRESS)
                self._feed(_claimed(answer, self._state.max_attempts))
            elif answer.error is not None:
                self._faulted(answer.error)
                self._feed(core.ClaimDelayed(ticket.id, self._poll_interval))
            elif answer.later:
                self._feed(core.ClaimDelayed(ticket.id, self._poll_interval))
            else:
                self._feed(core.ClaimLost(ticket.id, answer.state))
                if answer.ticket is not None:
                    self._found(answer.ticket)

    def _carry_out_start(self, runs: Runs, task_id: str) -> None:
        hold = self._holds[task_id]
        task = hold.task
        own_idle = getattr(self._executor, "idle_timeout", None)
        idle_timeout = next(
            (t for t in (task.idle_timeout, own_idle, self._idle_timeout) if t is not None), None
        )
        timeout = task.timeout if task.timeout is not None else self._task_timeout
        run = Run(
            task_id=task_id,
            attempt=hold.attempt,
            timeout=timeout,
            idle_timeout=idle_timeout,
            queue_dir=str(self._store.path),
        )
        self._starts += 1
        try:
            command = self._prepare(task, run)
            live = runs.start(
                hold,
                command,
                timeout=timeout,
                idle_timeout=idle_timeout,
                grace=self._grace,
                max_log_bytes=self._max_log_bytes,
            )
        except NotStarted as error:
            _log.info("task %s: %s", task_id, error)
            execution = ExecutionResult(
                success=False, message=str(error), error=str(error), permanent=error.permanent
            )
            self._results[task_id] = (None, None, execution)
            outcome = Outcome.REFUSED if error.permanent else Outcome.FAILED
            self._feed(self._ended(task_id, outcome, retry_soon=error.soon, reason=str(error)))
        except OSError as error:
            # No log: the disk is full, or read-only.
            self._faulted(error)
            self._feed(self._ended(task_id, Outcome.GIVEN_BACK, reason=f"no log can be written: {error}"))
        else:
            self._tell(
                TaskStarted(
                    task_id=task_id, attempt=hold.attempt, pid=live.pid, at=live.started_at, adopted=False
                )
            )
            self._feed(core.Started(task_id))

    def _prepare(self, task: Task, run: Run) -> Command:
        try:
            command = self._executor.prepare(task, run)
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
        # Not for secrets: it scatters retries.
        chance = random.random()  # noqa: S311
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
        self._attempts += 1
        self._results[task_id] = (live, end.status, execution)
        self._feed(
            self._ended(
                task_id,
                outcome,
                retry_after=execution.retry_after,
                reason=live.words or ("" if execution.success else execution.error[:500]),
            )
        )

    def _judge(self, task: Task, end: End) -> ExecutionResult:
        try:
            execution = self._executor.judge(task, end)
        except Exception as error:
            _log.exception("the executor cannot judge task %s", task.id)
            words = f"the executor cannot judge it: {type(error).__name__}: {error}"
            return ExecutionResult(success=False, message=words, error=words)
        if not isinstance(execution, ExecutionResult):
            words = f"the executor gave {type(execution).__name__}, not an ExecutionResult"
            return ExecutionResult(success=False, message=words, error=words)
        return execution

    def _carry_out_filings(self, filings: list[core.File]) -> None:
        batch = [(filing, self._holds[filing.id], self._record(filing)) for filing in filings]
        errors = self._store.file([(hold, record) for _filing, hold, record in batch])
        self._tell_quarantined()
        for (filing, hold, record), error in zip(batch, errors, strict=True):
            if error is not None:
                # The outcome is kept in memory, the slot stays used: filed again when the disk is well.
                self._faulted(error)
                continue
            self._holds.pop(filing.id)
            _live, _status, execution = self._results.pop(filing.id, (None, None, None))
            self._feed(core.Filed(filing.id))
            self._told_filed(filing, hold, record, execution)

    def _told_filed(
        self, filing: core.File, hold: Hold, record: Record, execution: ExecutionResult | None
    ) -> None:
        at = self._clock.time()
        if filing.state in self._tally:
            self._tally[filing.state] += 1
            self._finished[filing.state].append(filing.id)
        elif filing.outcome is Outcome.SUCCEEDED:
            self._tally[TaskState.COMPLETED] += 1
            self._finished[TaskState.COMPLETED].append(filing.id)
            self._cycled.add(filing.id)
        self._changed(filing.id, TaskState.IN_PROGRESS, filing.state, record.reason)
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
        hold = self._holds[filing.id]
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
            execution=None if execution is None else dataclasses.asdict(execution),
            log=hold.log,
            limited=filing.limited,
        )

    # ---- after a crash ----

    def _recover(self, orphan: Orphan) -> None:
        """Decide about a task that was in progress when its Processor died."""
        hold, history = orphan.hold, orphan.history
        record = history.record
        if not orphan.alive and history.claimed is None:
            # Its outcome was durable, or its attempt had not begun: only the move is missing.
            known = record is not None and not history.reset
            state = record.state if record is not None and known else TaskState.PENDING
            try:
                self._store.finish_orphan(hold, state)
            except OSError as error:
                self._store.release(hold)
                self._faulted(error)
            else:
                self._changed(hold.id, TaskState.IN_PROGRESS, state, "finished after a crash")
            return
        adopted = self._find(orphan)
        self._holds[hold.id] = hold
        runs = self._runs
        assert runs is not None
        task = hold.task
        live = runs.adopt(
            hold,
            adopted,
            timeout=task.timeout if task.timeout is not None else self._task_timeout,
            idle_timeout=task.idle_timeout if task.idle_timeout is not None else self._idle_timeout,
            grace=self._grace,
            max_log_bytes=self._max_log_bytes,
        )
        end = self._recovery == "end" and (adopted.has_leader or orphan.alive or bool(adopted.members()))
        if end:
            live.words = "its Processor has died; it was ended by the next one"
        ticket = task.ticket(hold.name, hold.since)
        self._feed(core.Adopted(ticket, _claimed(hold, self._state.max_attempts), end=end))
        if adopted.has_leader:
            self._tell(
                TaskStarted(
                    task_id=hold.id, attempt=hold.attempt, pid=live.pid, at=live.started_at, adopted=True
                )
            )

    def _find(self, orphan: Orphan) -> Adopted:
        adopted = Adopted.find(orphan.history.started, self._store.machine)
        if orphan.alive and not adopted.has_leader and orphan.hold.lock_fd is not None:
            # Its Processor died before it could write down whom it had started: the lock tells.
            found = os.fstat(orphan.hold.lock_fd)
            by_lock = Adopted.find_by_lock(found.st_dev, found.st_ino)
            if by_lock.session:
                adopted.close()
                return by_lock
        return adopted

    # ---- asking for something ----

    def pause(self) -> None:
        """Start nothing until resume(); what runs goes on."""
        with self._turn:
            self._feed(core.Pause(paused=True))

    def resume(self) -> None:
        """Start tasks again, also if a rate limit is not over."""
        with self._turn:
            self._feed(core.Pause(paused=False))
            if self._runs is None and self._store.pause() is not None:
                self._store.note_pause(None, "")
            self._work()
        self._poke()

    def set_slots(self, slots: int) -> None:
        """How many tasks run at once from now on; with fewer than run, those end by themselves."""
        _check_count("slots", slots, least=0)
        with self._turn:
            self._feed(core.SlotsSet(slots))
            self._work()
        self._poke()

    def cancel(self, task_id: str) -> bool:
        """Have a task not done: it goes to failed, or its run is ended first. False if it has come to rest already.

        A run is told to end, not waited for. If another program's Processor runs the task, word is left for it.

        Raises:
            NoSuchTask: there is none of that id.
        """
        check_id(task_id)
        with self._turn:
            if self._runs is not None and task_id in self._state.entries:
                self._feed(core.CancelAsked(task_id))
                self._work()
                return True
            return self._cancel_foreign(task_id)

    def _cancel_foreign(self, task_id: str) -> bool:
        for _ in range(10):
            state = self._store.where(task_id)
            if state is None:
                raise NoSuchTask(task_id)
            if state is TaskState.IN_PROGRESS:
                self._store.ask_to_cancel(task_id)
                return True
            if state is not TaskState.PENDING:
                return False
            name = self._store.name_in(state, task_id)
            if name is None:
                continue
            task = self._store.read(task_id) or Task(id=task_id)
            # Its date does not matter for this.
            ticket = task.ticket(name, 0.0)
            answer = self._store.claim([ticket], any_time=True)[0]
            if isinstance(answer, NotClaimed):
                if answer.error is not None:
                    raise answer.error
                continue
            record = Record(
                id=task_id,
                attempt=answer.attempt,
                state=TaskState.FAILED,
                outcome=Outcome.CANCELLED,
                failures=answer.failures,
                reason="cancelled",
                finished_at=self._clock.time(),
            )
            error = self._store.file([(answer, record)])[0]
            if error is not None:
                raise error
            return True
        # Somebody holds it for a moment: leave word.
        self._store.ask_to_cancel(task_id)
        return True

    def retry(self, task_id: str) -> None:
        """Have a task done again that has failed, was completed or is in quarantine; its failures are forgotten.

        One that is pending or running is left as it is.

        Raises:
            NoSuchTask: there is none of that id.
        """
        check_id(task_id)
        with self._turn:
            if self._store.where(task_id) in (TaskState.PENDING, TaskState.IN_PROGRESS):
                return
            try:
                state = self._store.retry(task_id)
            except LookupError:
                raise NoSuchTask(task_id) from None
            self._changed(task_id, state, TaskState.PENDING, "retry")
            name = self._store.name_in(TaskState.PENDING, task_id)
            if self._runs is not None and name is not None and not self._stopping:
                self._notice(name)
                self._work()

    def terminate_running_process(self, task_id: str) -> StopResult:
        """End the run of a task: SIGTERM to all of it, SIGKILL after 5 seconds; the task is finished as cancelled.

        Raises:
            NotActive: it does not run here.
        """
        with self._turn:
            runs = self._runs
            live = None if runs is None else runs.live.get(task_id)
            if runs is None or live is None:
                raise NotActive(task_id)
            began = time.monotonic()
            self._feed(core.CancelAsked(task_id))
            launcher = self._launcher
            if live.adopted is not None:
                self._work()
        if live.adopted is None:
            assert launcher is not None
            try:
                result = launcher.terminate_process(task_id, 5.0)
            except NotActive:
                # It has ended by itself meanwhile.
                result = StopResult(
                    task_id=task_id, status=_status_of(live), elapsed=time.monotonic() - began
                )
        else:
            result = None
        until = time.monotonic() + 15.0
        while time.monotonic() < until:
            with self._turn:
                if self._runs is None:
                    break
                self._pass()
                if task_id not in self._holds:
                    break
            time.sleep(0.005)
        if result is not None:
            return result
        assert live.adopted is not None
        return StopResult(
            task_id=task_id,
            status=live.adopted.status or ExitStatus.unknown(),
            escalated=live.adopted.escalated,
            proof="cgroup" if live.adopted.cgroup else "session",
            survivors=[] if live.done else live.adopted.members(),
            elapsed=time.monotonic() - began,
        )

    def _end_all(self, outcome: Outcome, began: float, timeout: float) -> list[StopResult]:
        """End all that runs here, and file what comes of it, in time."""
        runs, launcher = self._runs, self._launcher
        assert runs is not None
        assert launcher is not None
        grace = max(0.0, min(self._grace, began + timeout * 0.8 - time.monotonic()))
        self._feed(core.StopAsked(outcome))
        todo, self._todo = self._todo, []
        self._todo = [action for action in todo if not isinstance(action, core.End)]
        own = [live for live in runs.live.values() if live.adopted is None]
        adopted = [live for live in runs.live.values() if live.adopted is not None]
        for live in adopted:
            live.grace = min(live.grace, grace)
            runs.end(live.hold.id)
        results: list[StopResult] = []
        if own and self._given is None:
            results += launcher.terminate_all(grace).results
        elif own:
            with ThreadPoolExecutor(min(64, len(own)), "fastproc-stop") as pool:
                stops = [pool.submit(launcher.terminate_process, live.hold.id, grace) for live in own]
                for stop in stops:
                    with contextlib.suppress(NotActive, WaitTimeout):
                        results.append(stop.result())
        self._pump_until_idle(max(began + timeout, time.monotonic() + 0.5))
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

    def _pump_until_idle(self, until: float) -> None:
        """Make passes until nothing runs and all is filed, or until then."""
        while True:
            self._pass()
            if not self._state.busy:
                return
            left = until - time.monotonic()
            if left <= 0:
                return
            self._sleep(min(0.05, left))

    # ---- asking about something ----

    def list_running_processes(self) -> list[str]:
        """The ids of the tasks that run here."""
        with self._turn:
            return [] if self._runs is None else [live.hold.id for live in self._runs.live.values()]

    def get_running_processes_info(self) -> list[ProcessInfo]:
        """All that run here."""
        with self._turn:
            runs = self._runs
            if runs is None:
                return []
            wall, mono = self._clock.time(), self._clock.monotonic()
            infos = []
            for live in runs.live.values():
                entry = self._state.entries.get(live.hold.id)
                log = live.hold.log
                infos.append(
                    ProcessInfo(
                        task_id=live.hold.id,
                        pid=live.pid,
                        attempt=live.hold.attempt,
                        started_at=live.started_at,
                        elapsed=max(0.0, mono - live.started) if live.started else wall - live.started_at,
                        title=live.hold.task.title,
                        priority=str(live.hold.task.priority),
                        log_bytes=0 if live.log_fd is None else os.fstat(live.log_fd).st_size,
                        last_line=runs.last_line(live),
                        log_path=None if log is None else str(self._store.path / "logs" / log),
                        adopted=live.adopted is not None,
                        ending=entry is not None and entry.phase is Phase.ENDING,
                    )
                )
            return infos

    def is_task_running(self, task_id: str) -> bool:
        """Whether something of a task lives here."""
        with self._turn:
            return self._runs is not None and task_id in self._runs.live

    def queue_status(self) -> QueueStatus:
        """How many tasks are where, what runs, and how the queue is doing."""
        with self._turn:
            counts = self._store.counts()
            state = self._state
            here = self._runs is not None
            limited = state.limited_until
            until = limited.wall if limited is not None else None
            if not here:
                known = self._store.pause()
                until = known if known is not None and known > self._clock.time() else None
            running = tuple(self.list_running_processes()) if here else tuple(self._store.in_progress())
            return QueueStatus(
                pending=counts[TaskState.PENDING],
                in_progress=counts[TaskState.IN_PROGRESS],
                completed=counts[TaskState.COMPLETED],
                failed=counts[TaskState.FAILED],
                quarantine=counts[TaskState.QUARANTINE],
                running=running,
                slots=state.slots,
                paused=state.paused or until is not None,
                paused_until=until,
                health="degraded" if self._causes else "ok",
                causes=self._causes,
                blocked=core.blocked(state),
                processing=here or self._store.has_processor(),
            )

    def task_logs(self, task_id: str, *, after: int = 0, limit: int = MAX_ENTRIES) -> list[LogEntry]:
        """What a task has printed, through all its attempts, from the entry after number `after`.

        `limit` entries come at most; ask again after the last one's `sequence` for more, also while it runs.

        Raises:
            NoSuchTask: there is none of that id.
        """
        check_id(task_id)
        entries = self._logs.read(task_id, after, limit)
        if not entries and self._store.where(task_id) is None:
            raise NoSuchTask(task_id)
        return entries

    def result(self, task_id: str) -> TaskResult:
        """Where a task stands, and what came of its last attempt.

        Raises:
            NoSuchTask: there is none of that id.
        """
        check_id(task_id)
        state = self._store.where(task_id)
        if state is None:
            raise NoSuchTask(task_id)
        history = self._store.history(task_id)
        record = history.record
        if record is None and history.attempts > 1:
            # The attempt that runs has none yet; a pending task tells of the one before.
            record = (
                None if state is TaskState.IN_PROGRESS else self._store.record(task_id, history.attempts - 1)
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
            reason=self._reason(task_id, state, record),
            started_at=record.started_at if record is not None else began,
            finished_at=None if record is None else record.finished_at,
            log_path=None if not isinstance(log, str) else str(self._store.path / "logs" / log),
        )

    def _reason(self, task_id: str, state: TaskState, record: Record | None) -> str:
        if state is TaskState.QUARANTINE:
            return self._store.why(task_id)
        return "" if record is None else record.reason

    # ---- observers, health, emptiness ----

    def _tell(self, event: QueueEvent) -> None:
        if self._on_event is None:
            return
        try:
            self._on_event(event)
        except Exception:
            _log.exception("an observer has failed at %s", event.kind)

    def _changed(self, task_id: str, before: TaskState | None, after: TaskState, reason: str = "") -> None:
        if self._on_event is not None:
            self._tell(
                TaskStatusChanged(
                    task_id=task_id, at=self._clock.time(), before=before, after=after, reason=reason
                )
            )

    def _judge_health(self) -> None:
        causes = []
        if self._fault is not None:
            causes.append(f"the directory cannot be written: {self._fault.strerror or self._fault}")
        complaints = list(self._store.complaints.items())
        causes += [
            f"{name} cannot be read: {why}" for name, why in complaints[:5] if why != "still being written"
        ]
        now = tuple(causes)
        if bool(now) != bool(self._causes):
            self._causes = now
            self._tell(HealthChanged(at=self._clock.time(), health="degraded" if now else "ok", causes=now))
        self._causes = now

    def _is_empty(self) -> bool:
        """Whether nothing is left to do but what is stuck, or runs for ever by its own wish."""
        if self._todo or not self._inbox.empty() or self._store.complaints:
            return False
        if self._state.busy:
            return False
        if len(self._state.entries) > 1000 and self._state.ready:
            return False
        return all(
            entry.phase is Phase.WAITING or name in self._cycled
            for name, entry in self._state.entries.items()
        )

    def _report(self, tally: dict[TaskState, int], attempts: int, began: float) -> QueueReport:
        counts = {state: self._tally[state] - tally[state] for state in self._tally}
        names = {
            state: tuple(list(self._finished[state])[-counts[state] :] if counts[state] else ())
            for state in self._tally
        }
        return QueueReport(
            completed=names[TaskState.COMPLETED],
            failed=names[TaskState.FAILED],
            completed_count=counts[TaskState.COMPLETED],
            failed_count=counts[TaskState.FAILED],
            attempts=self._attempts - attempts,
            blocked=core.blocked(self._state),
            pending=len(self._state.entries),
            empty=self._is_empty(),
            elapsed=time.monotonic() - began,
        )

    def __repr__(self) -> str:
        state = "not started" if self._runs is None else f"{len(self._state.busy)} running"
        return f"<Processor {str(self._store.path)!r}: {state}>"


# ---- small things ----


def _own_manager(name: str) -> Launcher:
    from ..manager import ProcessManager

    return ProcessManager(name=f"processor-{name}")


def _stop_at_exit(processor: Processor) -> Callable[[], None]:
    """Give back what runs when the program ends without stop(). Does not keep the Processor alive."""
    reference = weakref.ref(processor)

    def stop() -> None:
        found = reference()
        if found is not None:
            with contextlib.suppress(Exception):
                found.stop(5.0)

    atexit.register(stop)
    return stop


def _claimed(hold: Hold, max_attempts: int) -> core.Claimed:
    own = hold.task.max_attempts
    return core.Claimed(
        hold.id,
        hold.attempt,
        hold.failures,
        own if own is not None else max_attempts,
        hold.task.auto_requeue,
        hold.limited,
    )


def _outcome(execution: ExecutionResult) -> Outcome:
    if execution.success:
        return Outcome.SUCCEEDED
    if execution.rate_limited:
        return Outcome.RATE_LIMITED
    return Outcome.REFUSED if execution.permanent else Outcome.FAILED


def _status_of(live: Live) -> ExitStatus | None:
    return None if live.process is None else live.process.status


def _make_task(task: Task | Mapping[str, Any] | Sequence[Arg] | None, given: Mapping[str, Any]) -> Task:
    """A task from what submit() takes, checked."""
    fields: dict[str, Any]
    if isinstance(task, Task):
        fields = {**task.fields, "id": task.id}
    elif isinstance(task, Mapping):
        fields = plain_fields(task)
    elif task is None:
        fields = {}
    elif isinstance(task, (str, bytes)):
        raise TypeError(
            f"a task must be a list such as ['sort', 'names.txt'] or a mapping of fields, not the text {task!r:.80}; "
            "a prompt is passed as prompt="
        )
    else:
        fields = {"args": [_word(word) for word in task]}
    fields |= plain_fields(given)
    if not fields.keys() & {"args", "command", "prompt", "title", "notes", "operation", "type"}:
        raise BadTask("a task needs args, or a prompt, or at least a title")
    if "id" not in fields:
        # Sorts by time, and is nobody else's.
        fields["id"] = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{os.urandom(5).hex()}"
    if not isinstance(fields["id"], str):
        raise BadTask(f"{fields['id']!r:.80} is no task id: it must be text")
    fields.setdefault("created_at", time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
    return Task.read(fields["id"], fields)


def _word(word: object) -> str:
    if isinstance(word, (str, bytes, os.PathLike)):
        return os.fsdecode(word)
    if isinstance(word, (int, float)) and not isinstance(word, bool):
        return str(word)
    raise BadTask(f"args must be words, not {word!r:.80}")


def _check_count(name: str, value: object, *, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {value}")


def _check_seconds(name: str, value: object, *, optional: bool = False, zero: bool = False) -> None:
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, not {value!r}")
    if not (value >= 0 if zero else value > 0):
        raise ValueError(f"{name} must be above 0 seconds, not {value}")


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be {' or '.join(map(repr, choices))}, not {value!r}")
