"""ProcessManager: names for processes, admission, lifecycle, shutdown. It composes, it does not spawn."""

from __future__ import annotations

import itertools
import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Self, Unpack

from ._checks import callback, flag, seconds, time_left
from ._engine.child import UNKILLABLE, Child
from ._engine.feed import Feed
from ._engine.roster import Roster
from ._engine.starting import start, start_many
from ._engine.stopping import stop_all, stop_one
from ._native.crew import ANY_NUMBER
from ._native.ledger import plain_entry, start_entry
from .cancel import CancelToken, check_cancel
from .command import NO_GUARD, Arg, Command, CommandOptions, Containment, plain_block
from .errors import DuplicateTask, NotActive, SpawnError, TaskId, WaitTimeout
from .events import Event
from .metrics import Metrics
from .process import Process
from .status import ExitStatus, StopReport, StopResult

if TYPE_CHECKING:
    from .health import HealthReport, HealthWatch, Subject
    from .tree import ProcessTree

# Seconds. A signal that comes as the main thread falls asleep wakes nobody: so it looks up that often.
_LOOK_AFTER = 1.0
_CONTAINMENTS = ("auto", "session", "cgroup", "guard")
_numbers = itertools.count(1)


class ProcessManager:
    """Starts processes by name, keeps their deadlines, ends them for certain, and knows how each ended.

    All methods are safe from any thread and from signal handlers. A context manager: leaving the block ends
    everything, as does the end of the program for a manager that was left open. Before the first start it
    costs no thread, no descriptor and no memory to speak of.

    Args:
        max_processes: how many may be active at once; None for any number.
        grace: seconds from the stop signal to SIGKILL, for commands that do not say.
        kill_timeout: seconds from SIGKILL until a process is reported as unkillable.
        containment: what keeps the descendants of a process together, for commands that do not say.
        die_with_parent: SIGKILL processes when this program dies, for commands that do not say. See prctl(2),
            PR_SET_PDEATHSIG: it reaches the process itself, not its descendants.
        reap_orphans: make this program a subreaper, and reap what managed processes leave orphaned. Children
            that other code of this program has started are never touched.
        on_event: called with each event of fastproc.events, in order, in a thread of the engine; be quick.
        name: for logs and thread names.
    """

    def __init__(
        self,
        *,
        max_processes: int | None = None,
        grace: float = 5.0,
        kill_timeout: float = 5.0,
        containment: Containment = "auto",
        die_with_parent: bool = False,
        reap_orphans: bool = False,
        on_event: Callable[[Event], object] | None = None,
        name: str | None = None,
    ) -> None:
        if max_processes is not None and (
            isinstance(max_processes, bool) or not isinstance(max_processes, int)
        ):
            raise TypeError(f"max_processes must be a whole number or None, not {max_processes!r}")
        if max_processes is not None and max_processes < 1:
            raise ValueError(f"max_processes must be at least 1, not {max_processes}")
        if containment not in _CONTAINMENTS:
            raise ValueError(f"containment must be one of {', '.join(_CONTAINMENTS)}, not {containment!r}")
        if containment == "guard":
            raise ValueError(NO_GUARD)
        if on_event is not None:
            callback("on_event", on_event)
        if name is not None and not isinstance(name, str):
            raise TypeError(f"name must be a str, not {name!r}")
        self._roster = Roster(
            name=name if name is not None else f"manager-{next(_numbers)}",
            max_processes=max_processes,
            grace=seconds("grace", grace),
            kill_timeout=seconds("kill_timeout", kill_timeout),
            containment=containment,
            die_with_parent=flag("die_with_parent", die_with_parent),
            reap_orphans=flag("reap_orphans", reap_orphans),
            on_event=on_event,
        )
        self._health: HealthWatch | None = None
        self._maps = itertools.count(1)

    @property
    def name(self) -> str:
        """What logs call it."""
        return self._roster.name

    # ---- starting ----

    def start_process(
        self,
        task_id: TaskId,
        command: Command | Sequence[Arg],
        *,
        cancel: CancelToken | None = None,
        on_exit: Callable[[Process], object] | None = None,
        **options: Unpack[CommandOptions],
    ) -> Process:
        """Start a program and call it `task_id`. On return it runs: execve(2) has succeeded.

        Args:
            task_id: any hashable name, usually a str. It is free again once nothing of the task is left.
            command: a Command, or a list of arguments to be combined with `options`.
            cancel: stops it when cancelled; its deadline counts as a time limit.
            on_exit: called with the Process once nothing of it is left, see Process.add_done_callback().
            **options: those of Command.

        Raises:
            SpawnError: it could not be started; nothing of it is left.
            DuplicateTask: a task of that id is active.
            TooManyProcesses: `max_processes` are active.
            ManagerClosed: after close().
            ForkedHandle: this is a forked copy of the program that made the manager.
            TypeError, ValueError: a wrong argument; found before anything is started.
        """
        roster = self._roster
        if not options and cancel is None and on_exit is None:
            process = Process(roster, task_id, command)
            try:
                if start_entry(process):
                    return process
            except BaseException as error:
                roster.abort(process, error)
                raise
        if cancel is not None:
            check_cancel(cancel)
        if on_exit is not None:
            callback("on_exit", on_exit)
        process = Process(roster, task_id, ready(command, options))
        start(roster, process, cancel, on_exit)
        return process

    def start_many(
        self, items: Iterable[tuple[TaskId, Command | Sequence[Arg]]]
    ) -> list[Process | SpawnError]:
        """Start many programs in one go. The list has a Process or a SpawnError for each item, in order.

        Raises:
            DuplicateTask, TooManyProcesses, ManagerClosed, TypeError, ValueError: as in start_process(), for
                any of the items; then none has been started.
        """
        roster = self._roster
        started = [
            _process(roster, task_id, command, number)
            for number, (task_id, command) in enumerate(pairs(items))
        ]
        check_names([process.task_id for process, _block in started])
        start_many(roster, started)
        return [process if process.error is None else process.error for process, _block in started]

    def map(
        self,
        commands: Iterable[Command | Sequence[Arg]],
        *,
        concurrency: int | None = None,
        ordered: bool = False,
    ) -> Iterator[Process]:
        """Carry out many commands, so many at a time, and yield each Process when it is done.

        `commands` is read lazily and may be endless. One that could not be started is yielded too: its
        `status` is None and its `error` says why. Closing the iterator, or leaving it to be collected, stops
        what runs. So does terminate_all(), after which what is left is yielded and nothing more is taken.

        Args:
            commands: Commands, or lists of arguments.
            concurrency: how many run at a time; None for one per CPU. Never more than `max_processes`.
            ordered: in the order of `commands` instead of that of their ends.
        """
        bound = bound_of(concurrency, self._roster.max_processes)
        # The rest runs when the first one is asked for.
        return self._map(commands_of(commands), bound, flag("ordered", ordered))

    def _map(
        self, commands: Iterator[Command | Sequence[Arg]], concurrency: int, ordered: bool
    ) -> Iterator[Process]:
        yield from self._feed(commands, concurrency, ordered).finished()

    def _feed(
        self, commands: Iterator[Command | Sequence[Arg]], concurrency: int, ordered: bool
    ) -> Feed[Process]:
        roster = self._roster
        prefix = f"map-{next(self._maps)}"
        processes = (
            _process(roster, f"{prefix}-{number}", command, number - 1)
            for number, command in enumerate(commands, 1)
        )
        return Feed(roster, processes, concurrency=concurrency, ordered=ordered)

    # ---- stopping ----

    def terminate_process(self, task_id: TaskId, timeout: float = 5.0) -> StopResult:
        """Stop a task: SIGTERM to all of it, SIGKILL to what is left after `timeout` seconds; and wait.

        One that has ended by itself meanwhile keeps its true status. More than one may call this at a time.

        Raises:
            NotActive: there is no active task of that id.
        """
        return stop_one(self._roster, self._active(task_id), seconds("timeout", timeout))

    def terminate_all(self, timeout: float = 10.0) -> StopReport:
        """Stop all tasks at once, with one grace of `timeout` seconds for all, and wait until they are gone.

        May be called again and again, and by more than one. What cannot be killed is in the report, after
        `kill_timeout` seconds more. Raises nothing of its own; Ctrl-C meanwhile kills what is left and is
        raised then.
        """
        self._roster.check_usable()
        return stop_all(self._roster, seconds("timeout", timeout))

    def close(self, timeout: float = 10.0) -> StopReport:
        """Start nothing more, and stop all tasks, see terminate_all(). Observers have heard all on return."""
        self._roster.check_usable()
        grace = seconds("timeout", timeout)
        with self._roster.lock:
            self._roster.closed = True
        try:
            return stop_all(self._roster, grace)
        finally:
            self._roster.let_go()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        # A forked copy that leaves the block owns nothing that it could end.
        if not self._roster.is_copy:
            self.close()

    def __del__(self) -> None:
        roster: Roster | None = getattr(self, "_roster", None)
        if roster is None or roster.closed or roster.is_copy:
            return
        count = len(roster.active)
        if count:
            words = f"{self!r} was forgotten with {count} active tasks; they run until the program ends"
            warnings.warn(words, ResourceWarning, stacklevel=2, source=self)
            roster.forget()
        else:
            roster.release()

    # ---- asking ----

    def active_count(self) -> int:
        """How many tasks are active: something of them is left. Not those that wait their turn in map()."""
        self._roster.check_usable()
        self._roster.drain()
        return len(self._roster.active)

    def is_active(self, task_id: TaskId) -> bool:
        """Whether something of that task is left."""
        self._roster.check_usable()
        self._roster.drain()
        return task_id in self._roster.active

    def active(self) -> list[Process]:
        """The active tasks, in the order of their starts."""
        self._roster.check_usable()
        self._roster.drain()
        with self._roster.lock:
            children = [child for child in self._roster.active.values() if child._born]
        return [child for child in children if isinstance(child, Process)]

    def get(self, task_id: TaskId) -> Process:
        """The task of that id: the active one, else the last one that has ended, if that was not long ago.

        The last 10,000 are remembered, fewer if they hold much output.

        Raises:
            NotActive: there is none.
        """
        roster = self._roster
        roster.check_usable()
        child = roster.find(task_id)
        if child is None:
            with roster.lock:
                child = roster.finished.get(task_id)
        if not isinstance(child, Process):
            raise NotActive(task_id)
        return child

    def _active(self, task_id: TaskId) -> Process:
        self._roster.check_usable()
        self._roster.drain()
        child = self._roster.find(task_id)
        if not isinstance(child, Process):
            raise NotActive(task_id)
        return child

    # ---- waiting ----

    def wait(self, task_id: TaskId, timeout: float | None = None) -> ExitStatus:
        """Block until the process of a task has ended; it may have ended before, see get().

        Raises:
            NotActive: there is no such task.
            WaitTimeout: it has not ended within `timeout` seconds.
        """
        return self.get(task_id).wait(timeout)

    def wait_all(self, timeout: float | None = None) -> list[ExitStatus]:
        """Block until all processes have ended, and say how each did, in the order of their starts.

        All are those that run, and those that have ended before without anybody hearing of it: by wait() or
        poll(), a callback, an await, as_completed(), or a call of this. So each end is heard once. Of more
        than the last 10,000 those are known whose Process somebody has kept, as from start_many().

        Raises:
            WaitTimeout: some have not within `timeout` seconds.
        """
        timeout = time_left("timeout", timeout)
        until = None if timeout is None else time.monotonic() + timeout
        statuses = []
        for process in self._processes(self._roster.unheard):
            left = None if until is None else max(0.0, until - time.monotonic())
            try:
                statuses.append(process.wait(left))
            except WaitTimeout:
                assert timeout is not None
                raise WaitTimeout(f"task {process.task_id!r}", timeout) from None
        return statuses

    def as_completed(self, timeout: float | None = None) -> Iterator[Process]:
        """Yield all tasks, each when nothing of it is left.

        All are those that are active, also if only descendants or output are left, and those that wait_all()
        would tell of.

        Raises:
            WaitTimeout: not all are done within `timeout` seconds from now.
        """
        timeout = time_left("timeout", timeout)
        until = None if timeout is None else time.monotonic() + timeout
        done: SimpleQueue[Process] = SimpleQueue()
        processes = self._processes(self._roster.awaited)
        for process in processes:
            process.add_done_callback(done.put)
        return self._as_completed(done, len(processes), until, timeout)

    def _as_completed(
        self, done: SimpleQueue[Process], count: int, until: float | None, timeout: float | None
    ) -> Iterator[Process]:
        left = count
        while left:
            remaining = _LOOK_AFTER if until is None else max(0.0, until - time.monotonic())
            try:
                yield done.get(timeout=min(remaining, _LOOK_AFTER))
                left -= 1
            except Empty:
                if timeout is not None and remaining <= _LOOK_AFTER:
                    raise WaitTimeout(f"{left} of {count} tasks", timeout) from None

    def _processes(self, which: Callable[[], list[Child]]) -> list[Process]:
        self._roster.check_usable()
        return [child for child in which() if isinstance(child, Process)]

    # ---- observing ----

    def metrics(self) -> Metrics:
        """Counters and histograms of what this manager has done, as plain numbers of one moment."""
        active = self.active_count()
        return self._roster.metrics(active)

    def health(self, *, stuck_after: float = 60.0) -> list[HealthReport]:
        """Judge how each active task is doing, over its whole tree: a leader whose child works is ok.

        Progress is seen between two calls, so call it now and then. `stuck_after` is how many seconds without
        progress are too many.
        """
        from .health import HealthWatch

        stuck_after = seconds("stuck_after", stuck_after)
        processes = self.active()
        with self._roster.lock:
            if self._health is None:
                self._health = HealthWatch()
            return self._health.check([_subject(process) for process in processes], stuck_after)

    def tree(self, task_id: TaskId | None = None) -> ProcessTree:
        """The process and all its descendants; without `task_id`, this program and all its active tasks.

        Raises:
            NotActive: there is no active task of that id.
        """
        from .tree import build_forest, build_tree

        if task_id is None:
            return build_forest([process.pid for process in self.active()])
        return build_tree(self._active(task_id).pid)

    def __repr__(self) -> str:
        state = "closed" if self._roster.closed else f"{len(self._roster.active)} active"
        return f"<ProcessManager {self.name!r}: {state}>"

    def __reduce__(self) -> str | tuple[object, ...]:
        raise TypeError(
            "a ProcessManager cannot be pickled: its processes belong to the program that started them"
        )


def _subject(process: Process) -> Subject:
    from .health import Subject

    ended = process.status is not None
    return Subject(
        task_id=process.task_id,
        pid=process.pid,
        started=process.started,
        unkillable=process._flags & UNKILLABLE != 0,
        output_leaking=ended and process.command.captures and not process.output_complete,
    )


def pairs(items: Iterable[object]) -> Iterator[tuple[TaskId, Command | Sequence[Arg]]]:
    """Those of start_many(); raise TypeError for an item that is no pair, and say what it is instead."""
    for number, item in enumerate(items):
        pair: Any = item
        if type(item) is not tuple:
            pair = [*item] if isinstance(item, Iterable) and not isinstance(item, (str, bytes)) else ()
        if len(pair) != 2:
            raise TypeError(
                f"start_many() takes pairs of a task id and a command, but item {number} is {item!r:.80}; "
                "for commands without ids there is map(), and a mapping of ids to commands has its items()"
            )
        yield pair


def check_names(task_ids: Sequence[TaskId]) -> None:
    """Raise DuplicateTask if one is there twice."""
    if len(set(task_ids)) == len(task_ids):
        return
    places: dict[TaskId, int] = {}
    for number, task_id in enumerate(task_ids):
        first = places.setdefault(task_id, number)
        if first != number:
            words = (
                f"the task id {task_id!r} is there twice, at items {first} and {number}; each needs its own"
            )
            raise DuplicateTask(task_id, words)


def commands_of(commands: Iterable[Command | Sequence[Arg]]) -> Iterator[Command | Sequence[Arg]]:
    """Those of map(); raise TypeError for what is no more than one, and say what it is instead."""
    if isinstance(commands, (str, bytes, Command)) or not isinstance(commands, Iterable):
        raise TypeError(
            f"map() takes many commands, such as [['ls', '-l'], ['df']], not {commands!r:.80}; "
            "for a single one there is start_process()"
        )
    return iter(commands)


def bound_of(concurrency: int | None, limit: int | None) -> int:
    """How many commands of a map() run at a time; the library counts to 2**32."""
    if concurrency is None:
        concurrency = len(os.sched_getaffinity(0))
    elif isinstance(concurrency, bool) or not isinstance(concurrency, int):
        raise TypeError(f"concurrency must be a whole number or None, not {concurrency!r}")
    if concurrency < 1:
        raise ValueError(f"concurrency must be at least 1, not {concurrency}")
    return min(concurrency, ANY_NUMBER if limit is None else limit)


def ready(command: Command | Sequence[Arg], options: CommandOptions) -> Command:
    """The Command to be started. Only now nothing can be added to it, see Command.check_output()."""
    command = Command.coerce(command, options)
    if not command.plain:
        command.check_output()
    return command


def _process(
    roster: Roster, task_id: TaskId, command: Command | Sequence[Arg], number: int | None = None
) -> tuple[Process, bytes | None]:
    """A process to be started, and its arguments as a block if nothing else is said.

    `number`: its place, if it is one of many; what is wrong with it is said with that.
    """
    made = plain_entry(Process, roster, task_id, command)
    if made is not None:
        return made
    # It may be plain all the same: of bytes that are no text.
    block = plain_block(command)
    if block is not None:
        return Process(roster, task_id, tuple(command)), block  # type: ignore[arg-type]
    try:
        return Process(roster, task_id, ready(command, {})), None
    except (TypeError, ValueError) as error:
        if number is None:
            raise
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"item {number}, {task_id!r}: {error}") from error
