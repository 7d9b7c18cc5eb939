"""Processor: the queue, as its users see it.

What is asked of it while it works on a directory is entered under one turn with the passes, and carried out
at once. Nobody is waited for while another could need the turn, but for what the kernel does in bounded
time. What does the work is a Shift.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from logging import getLogger
from typing import Any, Literal, Self, TypeAlias

from ..command import Arg
from ..errors import NoSuchTask, NotActive
from ..ports import Clock, Launcher
from ..status import ExitStatus, StopReport, StopResult
from . import core, look
from .arguments import (
    check_choice,
    check_count,
    check_kind,
    check_methods,
    check_rate,
    check_seconds,
    make_task,
)
from .disk import Disk
from .events import QueueEvent
from .executor import CommandExecutor, Executor
from .logs import MAX_ENTRIES, LogEntry, LogReader
from .news import Outcome
from .retry import Backoff, RateLimit
from .runs import SYSTEM_CLOCK, Live
from .settings import Recovery, Settings
from .shift import Shift
from .state import Phase
from .store import Durability, NotClaimed, Record
from .store_dir import DirectoryStore
from .task import Attempt, Priority, Task, TaskResult, TaskState, check_id
from .views import ProcessInfo, ProcessorInfo, QueueMetrics, QueueReport, QueueStatus

_log = getLogger("fastproc.processor")

Unfinished: TypeAlias = Literal["requeue", "cancel", "finish"]


class Processor:
    """Runs the tasks of a queue directory: each for certain, none twice at once, through crashes of all
    kinds.

    submit(), status and logs work whether or not a Processor is running, here or in another program. start(),
    run_until_empty() and process_queue() make this one the Processor of the directory. All methods are safe
    from any thread. A context manager: leaving the block is stop().

    Args:
        queue_dir: made if it is not there, for its user alone.
        manager: a ProcessManager to start jobs with; without it the Processor has one of its own.
        executor: what a task runs; CommandExecutor() without it.
        slots: how many tasks run at once. May be changed by set_slots().
        task_timeout, idle_timeout: seconds from the start, and seconds without output, for tasks and
            executors that do not say; None for no limit.
        max_attempts: how often a task is tried that fails, for tasks that do not say.
        poll_interval: seconds between looks at what tells nothing by itself.
        durability: "full": each step is on the disk before the next, and logs before their results; "batch":
            the same order, but tasks of one pass share the waiting, and logs are left to the kernel; "none":
            all survives a crash of the Processor, nothing is promised for one of the machine.
        recovery: what happens to jobs of a crashed Processor that still run: "end" them and try again, or
            "adopt" them and wait for their end.
        shared: several Processors may work on this directory; all of them have to say so.
        grace: seconds from SIGTERM to SIGKILL.
        max_log_bytes: a job that prints more is ended.
        starts_per_second: so many tasks are started at most, in the long run; those of one second may come at
            once. None for no limit but `slots`.
        backoff, rate_limit: how long to wait, see there.
        open_to_others: accept a directory that others can write to; they can then have anything run.
        on_event: called with each event of fastproc.processor.events, in the thread that makes the pass; be
            quick.
        clock, disk: for tests.

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
        starts_per_second: float | None = None,
        backoff: Backoff | None = None,
        rate_limit: RateLimit | None = None,
        open_to_others: bool = False,
        on_event: Callable[[QueueEvent], object] | None = None,
        clock: Clock = SYSTEM_CLOCK,
        disk: Disk | None = None,
    ) -> None:
        check_count("slots", slots, least=0)
        check_count("max_attempts", max_attempts, least=1)
        check_seconds("task_timeout", task_timeout, optional=True)
        check_seconds("idle_timeout", idle_timeout, optional=True)
        check_seconds("poll_interval", poll_interval)
        check_seconds("grace", grace, zero=True)
        check_rate("starts_per_second", starts_per_second)
        check_choice("durability", durability, ("full", "batch", "none"))
        check_choice("recovery", recovery, ("end", "adopt"))
        if max_log_bytes is not None:
            check_count("max_log_bytes", max_log_bytes, least=1)
        check_methods("executor", executor, "prepare", "judge")
        check_methods("manager", manager, "start_process", "terminate_process")
        check_kind("backoff", backoff, Backoff)
        check_kind("rate_limit", rate_limit, RateLimit)
        for name, flag in (("shared", shared), ("open_to_others", open_to_others)):
            if not isinstance(flag, bool):
                raise TypeError(f"{name} must be True or False, not {flag!r}")
        if on_event is not None and not callable(on_event):
            raise TypeError(f"on_event must be callable, not {on_event!r}")
        if not os.fspath(queue_dir):
            raise ValueError("queue_dir is empty; for the present directory write '.'")
        self._given = manager
        self._settings = Settings(
            executor=executor if executor is not None else CommandExecutor(),
            max_attempts=max_attempts,
            poll_interval=poll_interval,
            task_timeout=task_timeout,
            idle_timeout=idle_timeout,
            recovery=recovery,
            shared=shared,
            grace=grace,
            max_log_bytes=max_log_bytes,
            starts_per_second=starts_per_second,
            backoff=backoff if backoff is not None else Backoff(),
            rate_limit=rate_limit if rate_limit is not None else RateLimit(),
            on_event=on_event,
            clock=clock,
        )
        self._clock = clock
        self._store = DirectoryStore(
            queue_dir, durability=durability, open_to_others=open_to_others, disk=disk
        )
        self._logs = LogReader(self._store)
        self._slots = slots
        self._paused = False
        self._outcomes: Counter[str] = Counter()
        self._starts = 0
        self._turn = threading.RLock()
        self._rested = threading.Condition(self._turn)
        self._shift: Shift | None = None
        self._thread: threading.Thread | None = None
        self._at_exit: Callable[[], None] | None = None
        self._stops: list[None] = []
        _all.add(self)

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
            task: a list of program and arguments, or a mapping of fields such as {"title": "...", "prompt":
                "..."}.
            id: its name; one is made up if there is none.
            prompt, priority, timeout, **fields: fields of the task, see Task.

        Raises:
            ValueError: a field, or the id, is wrong; the message names it. Nothing has been queued.
            TaskExists: a task of that id is queued, or was.
            OSError: the directory cannot be written to. Nothing has been queued.
        """
        given = {"id": id, "prompt": prompt, "priority": priority, "timeout": timeout, **fields}
        made_up: set[str] = set()
        made = make_task(task, given, made_up)
        self._submit([made], made_up)
        return made.id

    def submit_many(self, tasks: Iterable[Task | Mapping[str, Any] | Sequence[Arg]]) -> list[str]:
        """Queue many tasks. If one of them cannot be queued, none is, and the exception is that of
        submit().
        """
        made_up: set[str] = set()
        made = [make_task(task, {}, made_up) for task in tasks]
        self._submit(made, made_up)
        return [task.id for task in made]

    def _submit(self, tasks: list[Task], made_up: set[str]) -> None:
        self._store.submit(tasks, made_up)
        with self._turn:
            shift = self._shift
            if shift is not None and not shift.stopping:
                for task in tasks:
                    shift.notice(f"{task.id}.json")
                shift.go_on()

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
            shift = self._enter()
            self._thread = threading.Thread(
                target=self._run,
                args=(shift,),
                name=f"fastproc-processor-{self._store.path.name}",
                daemon=True,
            )
            self._thread.start()

    def run_until_empty(self, timeout: float | None = None) -> QueueReport:
        """Run the queue until nothing is left to do, or until `timeout` seconds have passed.

        Waits for retries, dates and rate limits. What is left then waits for tasks that are not there, or
        queues itself again. If start() has not been called this thread does the work, and what runs at a
        timeout runs on until stop().
        """
        check_seconds("timeout", timeout, optional=True, zero=True, past=True)
        began = time.monotonic()
        until = None if timeout is None else began + timeout
        with self._turn:
            entered = self._shift is None
            shift = self._enter()
            own = self._thread is None
            tally, attempts = dict(shift.tally), shift.attempts
            shift.cycled.clear()
        while True:
            with self._turn:
                if self._shift is not shift:
                    break
                shift.make_pass()
                left = None if until is None else until - time.monotonic()
                if shift.is_empty() or shift.stopping or (left is not None and left <= 0):
                    break
                if not own:
                    self._rested.wait(0.5 if left is None else min(0.5, left))
                    continue
                pause = shift.pause_length()
            shift.sleep(pause if left is None else min(pause, left))
        with self._turn:
            report = _report(shift, tally, attempts, began)
            if entered and own and report.empty and self._shift is shift:
                self._leave()
        return report

    def process_queue(self) -> int:
        """Make one pass: hear what has ended, file it, start what there is room for. Returns how many were
        started.

        Does not wait for what it starts; call it again, or stop(). With start() it is never needed.
        """
        with self._turn:
            shift = self._enter()
            before = shift.starts
            shift.look_at_all()
            shift.make_pass()
            return shift.starts - before

    def stop(self, timeout: float = 10.0, *, unfinished: Unfinished = "requeue") -> StopReport:
        """Start nothing more, end what runs, and let go of the directory, within `timeout` seconds.

        What has not ended by itself is given back to pending, its attempt not counted ("requeue"), or
        finished as cancelled ("cancel"). "finish" lets everything end by itself first, as far as half of
        `timeout` allows. May be called again, and from any thread, observers among them: a later call with
        less time shortens the grace of one that is still stopping.
        """
        check_choice("unfinished", unfinished, ("requeue", "cancel", "finish"))
        check_seconds("timeout", timeout, zero=True)
        began = time.monotonic()
        # One that was called before us may still be waiting for its turn.
        late = bool(self._stops)
        self._stops.append(None)
        try:
            if (ending := self._shift) is not None and (late or ending.stopping):
                ending.ending.hurry(timeout)
            return self._stop(timeout, unfinished, began)
        finally:
            self._stops.pop()

    def _stop(self, timeout: float, unfinished: Unfinished, began: float) -> StopReport:
        results: list[StopResult] = []
        with self._turn:
            thread, self._thread = self._thread, None
            shift = self._shift
            nested = shift is not None and shift.telling == threading.get_ident()
            if shift is not None:
                shift.stopping = True
                shift.feed(core.Drain())
                if unfinished == "finish":
                    shift.ending.let_finish(began + timeout / 2)
                outcome = Outcome.CANCELLED if unfinished == "cancel" else Outcome.GIVEN_BACK
                results = shift.ending.end_all(outcome, began, timeout)
                shift.poke()
                self._leave()
        # It ends as soon as it gets its turn, which an observer's thread has until it returns.
        if thread is not None and thread is not threading.current_thread() and not nested:
            thread.join()
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
        """stop(), and give back the descriptors of the directory; nothing can be asked of it any more: what
        is asked then raises ManagerClosed.
        """
        self.stop()
        self._store.close()

    def __del__(self) -> None:
        store = getattr(self, "_store", None)
        if store is not None and getattr(self, "_shift", None) is None:
            store.close()

    def _enter(self) -> Shift:
        """Become the Processor of the directory: lock it, recover, read what is pending."""
        if self._shift is not None:
            return self._shift
        self._store.lock(shared=self._settings.shared)
        try:
            self._shift = Shift(
                self._settings,
                self._store,
                self._given if self._given is not None else _own_manager(self._store.path.name),
                owns_launcher=self._given is None,
                slots=self._slots,
                paused=self._paused,
                outcomes=self._outcomes,
                on_first_start=self._stop_at_exit,
            )
            self._shift.enter()
        except BaseException:
            self._leave()
            raise
        return self._shift

    def _stop_at_exit(self) -> None:
        """Give back what runs when the program ends without stop().

        Called after the first start: the engine registers itself with it, and who did so last comes first.
        """
        if self._at_exit is None:
            self._at_exit = _stopper(self)
            atexit.register(self._at_exit)

    def _leave(self) -> None:
        """Be no Processor any more. What still runs is left to the next one."""
        if self._at_exit is not None:
            atexit.unregister(self._at_exit)
            self._at_exit = None
        shift, self._shift = self._shift, None
        if shift is not None:
            self._starts += shift.starts
            shift.leave()
        self._store.unlock()
        self._rested.notify_all()

    def _forget(self) -> None:
        """[forked copy] The queue is the original's: hold none of its locks, and stop nothing at exit."""
        self._turn = threading.RLock()
        self._rested = threading.Condition(self._turn)
        self._thread = None
        if self._at_exit is not None:
            atexit.unregister(self._at_exit)
            self._at_exit = None
        shift, self._shift = self._shift, None
        if shift is not None:
            shift.forget()
        self._store.forget()

    def _run(self, shift: Shift) -> None:
        """The thread of start()."""
        while True:
            with self._turn:
                if shift.stopping or self._shift is not shift:
                    return
                try:
                    shift.make_pass()
                except Exception:  # noqa: BLE001 - nothing may end the loop: the next pass looks again
                    _log.exception("a pass over %s has failed", self._store.path)
                self._rested.notify_all()
                pause = shift.pause_length()
            shift.sleep(pause)

    # ---- asking for something ----

    def pause(self) -> None:
        """Start nothing until resume(); what runs goes on."""
        with self._turn:
            self._paused = True
            if self._shift is not None:
                self._shift.feed(core.Pause(paused=True))
                self._shift.poke()

    def resume(self) -> None:
        """Start tasks again, also if a rate limit is not over."""
        with self._turn:
            self._paused = False
            if self._shift is None:
                self._store.note_pause(None, "")
            else:
                self._shift.feed(core.Pause(paused=False))
                self._shift.work()
                self._shift.poke()

    def set_slots(self, slots: int) -> None:
        """How many tasks run at once from now on; with fewer than run, those end by themselves."""
        check_count("slots", slots, least=0)
        with self._turn:
            self._slots = slots
            if self._shift is not None:
                self._shift.feed(core.SlotsSet(slots))
                self._shift.work()
                self._shift.poke()

    def cancel(self, task_id: str) -> bool:
        """Have a task not done: it goes to failed, or its run is ended first. False if it has come to rest
        already.

        A run is told to end, not waited for. If another program's Processor runs the task, word is left for
        it.

        Raises:
            NoSuchTask: there is none of that id.
        """
        check_id(task_id)
        with self._turn:
            shift = self._shift
            if shift is not None and task_id in shift.state.entries:
                shift.feed(core.CancelAsked(task_id))
                shift.work()
                return True
            with self._store.presence.visiting():
                return self._cancel_foreign(task_id)

    def _cancel_foreign(self, task_id: str) -> bool:
        for _ in range(10):
            state = self._store.where(task_id)
            if state is None:
                raise NoSuchTask(task_id)
            if state is TaskState.IN_PROGRESS:
                self._store.records.ask_to_cancel(task_id)
                return True
            if state is not TaskState.PENDING:
                return False
            name = self._store.files.name_in(state, task_id)
            if name is None:
                continue
            task = self._store.files.read(task_id) or Task(id=task_id)
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
        self._store.records.ask_to_cancel(task_id)
        return True

    def retry(self, task_id: str) -> None:
        """Have a task done again that has failed, was completed or is in quarantine; its failures are
        forgotten.

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
            shift = self._shift
            if shift is not None and not shift.stopping:
                shift.changed(task_id, state, TaskState.PENDING, "retry")
                name = self._store.files.name_in(TaskState.PENDING, task_id)
                if name is not None:
                    shift.notice(name)
                    shift.go_on()

    def terminate_running_process(self, task_id: str) -> StopResult:
        """End the run of a task: SIGTERM to all of it, SIGKILL after 5 seconds; the task is finished as
        cancelled.

        Raises:
            NotActive: it does not run here.
        """
        began = time.monotonic()
        with self._turn:
            shift = self._shift
            live = None if shift is None else shift.runs.live.get(task_id)
            if shift is None or live is None:
                raise NotActive(task_id)
            shift.feed(core.CancelAsked(task_id))
            if live.adopted is not None:
                shift.work()
        result = None
        if live.adopted is None:
            with contextlib.suppress(NotActive):
                result = shift.launcher.terminate_process(task_id, 5.0)
        # The ladder has 10 seconds, and its outcome has to be filed.
        until = time.monotonic() + 15.0
        while time.monotonic() < until:
            with self._turn:
                if self._shift is not shift:
                    break
                shift.make_pass()
                if task_id not in shift.runs.live and task_id not in shift.holds:
                    break
            time.sleep(0.005)
        return result if result is not None else _stop_result(live, began)

    # ---- asking about something ----

    def list_running_processes(self) -> list[str]:
        """The ids of the tasks that run here."""
        with self._turn:
            return [] if self._shift is None else list(self._shift.runs.live)

    def get_running_processes_info(self) -> list[ProcessInfo]:
        """All that run here; if this one was not started, all that any Processor runs, or left running."""
        with self._turn:
            shift = self._shift
            if shift is None:
                return look.running(self._store, self._clock.time())
            logs = self._store.path / "logs"
            return [
                ProcessInfo(
                    task_id=live.hold.id,
                    pid=live.pid,
                    attempt=live.hold.attempt,
                    started_at=live.started_at,
                    elapsed=max(0.0, self._clock.monotonic() - live.started),
                    title=live.hold.task.title,
                    priority=str(live.hold.task.priority),
                    log_bytes=shift.runs.log_bytes(live),
                    last_line=shift.runs.last_line(live),
                    log_path=None if live.hold.log is None else str(logs / live.hold.log),
                    adopted=live.adopted is not None,
                    ending=(entry := shift.state.entries.get(live.hold.id)) is not None
                    and entry.phase is Phase.ENDING,
                )
                for live in shift.runs.live.values()
            ]

    def is_task_running(self, task_id: str) -> bool:
        """Whether something of a task lives here."""
        with self._turn:
            return self._shift is not None and task_id in self._shift.runs.live

    def queue_status(self) -> QueueStatus:
        """How many tasks are where, what runs, and how the queue is doing."""
        with self._turn:
            counts = self._store.counts()
            shift = self._shift
            if shift is not None:
                limited = shift.state.limited_until
                until = limited.wall if limited is not None else None
                slots, paused, causes = self._slots, self._paused, shift.causes
            else:
                known = self._store.pause()
                until = known if known is not None and known > self._clock.time() else None
                others = look.processors(self._store)
                slots = sum(other.slots for other in others) if others else self._slots
                paused = self._paused or (bool(others) and all(other.paused for other in others))
                causes = tuple(dict.fromkeys(cause for other in others for cause in other.causes))
            return QueueStatus(
                pending=counts[TaskState.PENDING],
                in_progress=counts[TaskState.IN_PROGRESS],
                completed=counts[TaskState.COMPLETED],
                failed=counts[TaskState.FAILED],
                quarantine=counts[TaskState.QUARANTINE],
                running=tuple(self._store.in_progress() if shift is None else shift.runs.live),
                slots=slots,
                paused=paused or until is not None,
                paused_until=until,
                health="degraded" if causes else "ok",
                causes=causes,
                blocked={} if shift is None else core.blocked(shift.state),
                processing=shift is not None or self._store.presence.has_processor(),
            )

    def metrics(self) -> QueueMetrics:
        """What it has done so far, in numbers, for a monitoring system: the names are always the same."""
        with self._turn:
            shift = self._shift
            return QueueMetrics(
                tasks={str(state): count for state, count in self._store.counts().items()},
                starts=self._starts + (0 if shift is None else shift.starts),
                attempts={str(outcome): self._outcomes[str(outcome)] for outcome in Outcome},
                running=0 if shift is None else len(shift.runs.live),
                slots=self._slots,
                healthy=shift is None or not shift.causes,
            )

    def task_logs(self, task_id: str, *, after: int = 0, limit: int = MAX_ENTRIES) -> list[LogEntry]:
        """What a task has printed, through all its attempts, from the entry after number `after`.

        `limit` entries come at most; ask again after the last one's `sequence` for more, also while it runs.

        Raises:
            NoSuchTask: there is none of that id.
        """
        check_id(task_id)
        check_count("after", after, least=0)
        check_count("limit", limit, least=0)
        entries = self._logs.read(task_id, after, limit)
        if not entries and self._store.where(task_id) is None:
            raise NoSuchTask(task_id)
        return entries

    def processors(self) -> list[ProcessorInfo]:
        """The other Processors that work on this directory now, and how each is doing."""
        return look.processors(self._store)

    def task(self, task_id: str) -> Task:
        """What the file of a task says.

        Raises:
            NoSuchTask: there is none of that id, or none that can be read.
        """
        check_id(task_id)
        task = self._store.files.read(task_id)
        if task is None:
            raise NoSuchTask(task_id)
        return task

    def tasks(self, state: TaskState | str) -> list[str]:
        """The ids of the tasks in a state, sorted."""
        return sorted(look.ids(self._store, TaskState(state)))

    def quarantined(self) -> list[tuple[str, str]]:
        """The names of all files in quarantine, also of those that name no task, and why each is there."""
        return list(look.quarantined(self._store))

    def attempts(self, task_id: str) -> list[Attempt]:
        """All attempts of a task, the first one first.

        Raises:
            NoSuchTask: there is none of that id.
        """
        check_id(task_id)
        found = look.attempts(self._store, task_id)
        if not found and self._store.where(task_id) is None:
            raise NoSuchTask(task_id)
        return found

    def result(self, task_id: str) -> TaskResult:
        """Where a task stands, and what came of its last attempt.

        Raises:
            NoSuchTask: there is none of that id.
        """
        check_id(task_id)
        found = look.result(self._store, task_id)
        if found is None:
            raise NoSuchTask(task_id)
        return found

    def __repr__(self) -> str:
        state = "not started" if self._shift is None else f"{len(self._shift.state.busy)} running"
        return f"<Processor {str(self._store.path)!r}: {state}>"


# ---- forks ----

_all: weakref.WeakSet[Processor] = weakref.WeakSet()


def _forked() -> None:
    for processor in list(_all):
        processor._forget()


os.register_at_fork(after_in_child=_forked)


# ---- small things ----


def _report(shift: Shift, tally: Mapping[TaskState, int], attempts: int, began: float) -> QueueReport:
    counts = {state: shift.tally[state] - tally[state] for state in shift.tally}
    names = {
        state: tuple(shift.finished[state])[-counts[state] :] if counts[state] else () for state in counts
    }
    return QueueReport(
        completed=names[TaskState.COMPLETED],
        failed=names[TaskState.FAILED],
        completed_count=counts[TaskState.COMPLETED],
        failed_count=counts[TaskState.FAILED],
        attempts=shift.attempts - attempts,
        blocked=core.blocked(shift.state),
        pending=len(shift.state.entries),
        empty=shift.is_empty(),
        elapsed=time.monotonic() - began,
    )


def _own_manager(name: str) -> Launcher:
    from ..manager import ProcessManager

    return ProcessManager(name=f"processor-{name}", kill_timeout=3.0)


def _stopper(processor: Processor) -> Callable[[], None]:
    """A function that stops a Processor, and does not keep it alive."""
    reference = weakref.ref(processor)

    def stop() -> None:
        found = reference()
        if found is not None:
            with contextlib.suppress(Exception):
                found.stop(5.0)

    return stop


def _stop_result(live: Live, began: float) -> StopResult:
    """What came of ending a run that no Launcher tells of."""
    adopted = live.adopted
    if adopted is None:
        status = None if live.process is None else live.process.status
        return StopResult(
            task_id=live.hold.id, status=status, proof="session", elapsed=time.monotonic() - began
        )
    return StopResult(
        task_id=live.hold.id,
        status=adopted.status or ExitStatus.unknown(),
        escalated=adopted.escalated,
        proof="cgroup" if adopted.cgroup else "session",
        survivors=[] if live.done else adopted.members(),
        elapsed=time.monotonic() - began,
    )
