"""ProcessManager in an event loop: the same names and promises, and what would block is awaited."""

from __future__ import annotations

import asyncio
import time
import weakref
from asyncio import AbstractEventLoop, CancelledError
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Self, Unpack

from .._checks import callback, flag, seconds, time_left
from .._engine.child import Child
from .._engine.flight import Flight
from .._engine.loopfeed import LoopFeed
from .._engine.loopmap import finished_in_loop
from .._engine.loops import LoopMail, mail_of
from .._engine.stopping import report_of, tell_all_to_end, verdict_seconds
from ..cancel import CancelToken, check_cancel
from ..command import Arg, Command, CommandOptions, Containment
from ..errors import ManagerClosed, SpawnError, TaskId, WaitTimeout
from ..events import Event
from ..manager import (
    ProcessManager as BlockingManager,
    _process,
    bound_of,
    check_names,
    commands_of,
    pairs,
    ready,
)
from ..metrics import Metrics
from ..process import Process
from ..status import ExitStatus, StopReport, StopResult
from .managed import ManagedProcess, verdict

if TYPE_CHECKING:
    from ..health import HealthReport
    from ..tree import ProcessTree


class ProcessManager:
    """Starts processes by name, keeps their deadlines, ends them for certain, and knows how each ended.

    The twin of fastproc.ProcessManager: the same methods, of which those that would block are awaited. It
    belongs to the loop that is first used with it. An async context manager: leaving the block ends
    everything. A loop that ends as asyncio.run() ends it, ends what its managers have left.

    Whoever is cancelled while he waits for processes takes them with him: they are stopped with grace, and
    the cancellation is raised after that. asyncio.shield() prevents it, and a `timeout` stops nobody.

    Args:
        max_processes, grace, kill_timeout, containment, die_with_parent, reap_orphans, name: as in
            fastproc.ProcessManager.
        on_event: called with each event of fastproc.events, in order, in the loop.
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
        self._observer = None if on_event is None else _Observer(callback("on_event", on_event))
        self._manager = BlockingManager(
            max_processes=max_processes,
            grace=grace,
            kill_timeout=kill_timeout,
            containment=containment,
            die_with_parent=die_with_parent,
            reap_orphans=reap_orphans,
            on_event=self._observer,
            name=name,
        )
        self._roster = self._manager._roster
        self._feed: LoopFeed | None = None
        self._mail: LoopMail | None = None
        # What is known here of a process goes when nobody needs it any more.
        self._faces: weakref.WeakValueDictionary[int, ManagedProcess] = weakref.WeakValueDictionary()

    @property
    def name(self) -> str:
        """What logs call it."""
        return self._manager.name

    def _engage(self) -> LoopFeed:
        """Its starts in the running loop."""
        loop = asyncio.get_running_loop()
        feed = self._feed
        if feed is not None and feed.mail is mail_of(loop):
            return feed
        if feed is not None and not feed.mail.gone:
            raise RuntimeError(f"{self!r} belongs to another event loop")
        self._roster.check_usable()
        if self._roster.closed:
            raise ManagerClosed
        if self._observer is not None:
            self._observer.loop = weakref.ref(loop)
        self._mail = mail_of(loop)
        self._feed = feed = LoopFeed(self._roster, self._mail, named=True)
        return feed

    # ---- starting ----

    def _fly(
        self, process: Process, block: bytes | None, cancel: CancelToken | None = None
    ) -> ManagedProcess:
        return ManagedProcess(process, Flight(self._engage(), process, cancel=cancel, block=block))

    async def start_process(
        self,
        task_id: TaskId,
        command: Command | Sequence[Arg],
        *,
        cancel: CancelToken | None = None,
        on_exit: Callable[[ManagedProcess], object] | None = None,
        **options: Unpack[CommandOptions],
    ) -> ManagedProcess:
        """Start a program and call it `task_id`. On return it runs; the loop has run meanwhile.

        `on_exit` is called in the loop. To be cancelled here calls the start off, or stops what it has made.
        All else is as in fastproc.ProcessManager.start_process().
        """
        if cancel is not None:
            check_cancel(cancel)
        if on_exit is not None:
            callback("on_exit", on_exit)
        block = None
        if options or cancel is not None:
            made = Process(self._roster, task_id, ready(command, options))
        else:
            made, block = _process(self._roster, task_id, command)
        process = self._fly(made, block, cancel)
        flight = process._flight
        assert flight is not None
        if on_exit is not None:
            process.add_done_callback(on_exit)
        await flight.begin()
        self._faces[process._process._token] = process
        return process

    async def start_many(
        self, items: Iterable[tuple[TaskId, Command | Sequence[Arg]]]
    ) -> list[ManagedProcess | SpawnError]:
        """Start many programs in one go. The list has a ManagedProcess or a SpawnError for each, in order.

        Raises:
            DuplicateTask, TooManyProcesses, ManagerClosed, TypeError, ValueError: as in start_process(), for
                any of the items; then none has been started.
        """
        made = [
            _process(self._roster, task_id, command, number)
            for number, (task_id, command) in enumerate(pairs(items))
        ]
        check_names([process.task_id for process, _block in made])
        processes = [self._fly(process, block) for process, block in made]
        if not processes:
            return []
        feed = self._engage()
        flights = [process._flight for process in processes if process._flight is not None]
        starts = feed.queue_all(flights)
        try:
            for start in starts:
                await start
        except CancelledError:
            await feed.call_off(flights)
            raise
        self._faces.update((process._process._token, process) for process in processes)
        return [process if process.error is None else process.error for process in processes]

    def map(
        self,
        commands: Iterable[Command | Sequence[Arg]],
        *,
        concurrency: int | None = None,
        ordered: bool = False,
    ) -> AsyncIterator[ManagedProcess]:
        """Carry out many commands, so many at a time, and yield each ManagedProcess when it is done.

        As fastproc.ProcessManager.map(). Its end, also an early one, stops what runs: when the iterator is
        closed. That is at once in ``async with contextlib.aclosing(manager.map(...)) as ended:``, and else
        when asyncio comes to it.
        """
        bound = bound_of(concurrency, self._roster.max_processes)
        return self._map(commands_of(commands), bound, flag("ordered", ordered))

    async def _map(
        self, commands: Iterator[Command | Sequence[Arg]], concurrency: int, ordered: bool
    ) -> AsyncIterator[ManagedProcess]:
        loop = self._engage().mail.loop
        feed = self._manager._feed(commands, concurrency, ordered)
        ended = finished_in_loop(feed, self._roster, loop)
        try:
            async for process in ended:
                yield self._face_of(process)
        finally:
            await ended.aclose()

    # ---- stopping ----

    async def terminate_process(self, task_id: TaskId, timeout: float = 5.0) -> StopResult:
        """Stop a task: SIGTERM to all of it, SIGKILL to what is left after `timeout` seconds; and wait.

        To be cancelled meanwhile changes nothing, and is raised after that.

        Raises:
            NotActive: there is no active task of that id.
        """
        process = self._face_of(self._manager._active(task_id))
        return await process.terminate(seconds("timeout", timeout))

    async def terminate_all(self, timeout: float = 10.0) -> StopReport:
        """Stop all tasks at once, with one grace of `timeout` seconds for all, and wait until they are gone.

        May be called again and again, and by more than one. What cannot be killed is in the report. To be
        cancelled meanwhile changes nothing, and is raised after that.
        """
        roster = self._roster
        roster.check_usable()
        grace = seconds("timeout", timeout)
        began = time.monotonic()
        if self._feed is not None and not self._feed.mail.gone:
            self._feed.refuse_queued()
        roster.drain()
        children: list[Child] = []
        tell_all_to_end(roster, began + grace, set(), children)
        processes = [self._face_of(child) for child in children if isinstance(child, Process)]
        cancelled = await verdict(processes, began + verdict_seconds(roster, grace))
        if cancelled is not None:
            raise cancelled
        judged = [process._process for process in processes if process.error is None]
        return report_of(judged, began)

    async def close(self, timeout: float = 10.0) -> StopReport:
        """Start nothing more, and stop all tasks, see terminate_all(). Observers have heard all on return."""
        roster = self._roster
        roster.check_usable()
        grace = seconds("timeout", timeout)
        with roster.lock:
            roster.closed = True
        try:
            return await self.terminate_all(grace)
        finally:
            await self._let_go()

    async def _let_go(self) -> None:
        feed, self._feed = self._feed, None
        if feed is not None:
            feed.let_go()
        if self._roster.dispatcher.thread is None:
            self._roster.let_go()
        else:
            # It has a thread that tells observers, and this waits until that has told all.
            await asyncio.shield(asyncio.to_thread(self._roster.let_go))
            # What they were told was put into the loop, in order.
            await asyncio.sleep(0)

    async def __aenter__(self) -> Self:
        self._engage()
        return self

    async def __aexit__(self, *_exception: object) -> None:
        # A forked copy that leaves the block owns nothing that it could end.
        if not self._roster.is_copy:
            await self.close()

    def __del__(self) -> None:
        feed: LoopFeed | None = getattr(self, "_feed", None)
        if feed is not None and feed.is_idle and not self._roster.is_copy:
            # With something under way the manager inside warns, and the loop ends it.
            feed.let_go()

    # ---- asking; of these none waits ----

    def active_count(self) -> int:
        """How many tasks are active: something of them is left. Not those that wait their turn in map()."""
        return self._manager.active_count()

    def is_active(self, task_id: TaskId) -> bool:
        """Whether something of that task is left."""
        return self._manager.is_active(task_id)

    def active(self) -> list[ManagedProcess]:
        """The active tasks, in the order of their starts."""
        return [self._face_of(process) for process in self._manager.active()]

    def get(self, task_id: TaskId) -> ManagedProcess:
        """The task of that id: the active one, else the last one that has ended, if that was not long ago.

        Raises:
            NotActive: there is none.
        """
        return self._face_of(self._manager.get(task_id))

    def _face_of(self, process: Process) -> ManagedProcess:
        face = self._faces.get(process._token)
        if face is None or face._process is not process:
            flight = None if self._mail is None else self._mail.flying.get(process._token)
            face = self._faces[process._token] = ManagedProcess(process, flight)
        return face

    # ---- waiting ----

    async def wait(self, task_id: TaskId, timeout: float | None = None) -> ExitStatus:
        """Wait until the process of a task has ended; it may have ended before, see get().

        To be cancelled here stops it.

        Raises:
            NotActive: there is no such task.
            WaitTimeout: it has not ended within `timeout` seconds.
        """
        return await self.get(task_id).wait(timeout)

    async def wait_all(self, timeout: float | None = None) -> list[ExitStatus]:
        """Wait until all processes have ended, and say how each did, in the order of their starts.

        What all means is said at fastproc.ProcessManager.wait_all(). To be cancelled here stops them.

        Raises:
            WaitTimeout: some have not within `timeout` seconds.
        """
        timeout = time_left("timeout", timeout)
        until = None if timeout is None else time.monotonic() + timeout
        processes = self._processes(self._manager._roster.unheard)
        statuses = []
        try:
            for process in processes:
                left = None if until is None else max(0.0, until - time.monotonic())
                try:
                    statuses.append(await process.wait(left))
                except WaitTimeout:
                    assert timeout is not None
                    raise WaitTimeout(f"task {process.task_id!r}", timeout) from None
        except CancelledError:
            await self._stop_shielded(processes)
            raise
        return statuses

    def as_completed(self, timeout: float | None = None) -> AsyncIterator[ManagedProcess]:
        """Yield all tasks, each when nothing of it is left; what all means is said at
        fastproc.ProcessManager.as_completed().

        To be cancelled while it waits stops those that are left.

        Raises:
            WaitTimeout: not all are done within `timeout` seconds from the first step.
        """
        return self._as_completed(time_left("timeout", timeout))

    async def _as_completed(self, timeout: float | None) -> AsyncIterator[ManagedProcess]:
        until = None if timeout is None else time.monotonic() + timeout
        processes = self._processes(self._manager._roster.awaited)
        done: asyncio.Queue[ManagedProcess] = asyncio.Queue()
        for process in processes:
            process.add_done_callback(done.put_nowait)
        for left in range(len(processes), 0, -1):
            try:
                async with asyncio.timeout(None if until is None else max(0.0, until - time.monotonic())):
                    process = await done.get()
            except TimeoutError:
                assert timeout is not None
                raise WaitTimeout(f"{left} of {len(processes)} tasks", timeout) from None
            except CancelledError:
                await self._stop_shielded(processes)
                raise
            yield process

    def _processes(self, which: Callable[[], list[Child]]) -> list[ManagedProcess]:
        return [self._face_of(process) for process in self._manager._processes(which)]

    async def _stop_shielded(self, processes: list[ManagedProcess]) -> None:
        stopping = [process.terminate() for process in processes if process.error is None]
        until = max((stop.until for stop in stopping), default=0.0)
        await verdict(processes, until)

    # ---- observing ----

    def metrics(self) -> Metrics:
        """Counters and histograms of what this manager has done, as plain numbers of one moment."""
        return self._manager.metrics()

    def health(self, *, stuck_after: float = 60.0) -> list[HealthReport]:
        """Judge how each active task is doing, see fastproc.ProcessManager.health().

        Reads /proc, some 50 us for each process of a tree: with many, use ``asyncio.to_thread``.
        """
        return self._manager.health(stuck_after=stuck_after)

    def tree(self, task_id: TaskId | None = None) -> ProcessTree:
        """The process and all its descendants; without `task_id`, this program and all its active tasks.

        Reads /proc, as health() does.
        """
        return self._manager.tree(task_id)

    def __repr__(self) -> str:
        return repr(self._manager).replace("<ProcessManager", "<aio.ProcessManager", 1)

    def __reduce__(self) -> str | tuple[object, ...]:
        return self._manager.__reduce__()


class _Observer:
    """Hands events on to the loop. Called in a thread of the engine; without a loop they are told there."""

    __slots__ = ("_on_event", "loop")

    def __init__(self, on_event: Callable[[Event], object]) -> None:
        self._on_event = on_event
        self.loop: weakref.ref[AbstractEventLoop] | None = None

    def __call__(self, event: Event) -> None:
        loop = None if self.loop is None else self.loop()
        if loop is not None:
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._on_event, event)
                return
        self._on_event(event)
