"""The live processes of one manager, by name and by token.

There are two ends. EXITED: the status is known, waiters go on. DONE: nothing is left of the task, its name
is free. Whoever hears of an end first, a waiter or a reader of the mailbox, enters it here; all others find
it entered. Nobody calls observers from here: what they are to hear is queued, and told by the dispatcher's
thread, which exists while there is somebody to be told.
"""

from __future__ import annotations

import errno
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Protocol

from .._native.clock import remaining_ns
from .._native.crew import Crew, Starter
from .._native.failures import spawn_error_of
from .._native.handle import NeverStarted, is_to_be_repeated
from .._native.ledger import Ledger, address, enter_ends
from .._native.library import lib
from .._native.mailbox import Mailbox
from .._native.records import (
    ENDED_NS,
    EXIT_ESCALATED,
    NEWS_ESCALATED,
    NEWS_FAILED,
    NEWS_ORPHAN,
    NEWS_UNKILLABLE,
    PID,
    REASON_CANCELLED,
    REASON_TERMINATED,
    STAND_FLAGS,
    STAND_STATE,
    STARTED_NS,
    STATE_DONE,
    STATE_EXITED,
    STATE_FAILED,
    ExitRecord,
    NewsRecord,
    Stand,
)
from .._native.specs import Specs
from .._native.statuses import status_of, status_of_record
from .._native.tally import Tally
from ..cancel import CancelToken
from ..errors import DuplicateTask, ManagerClosed, SpawnError, TaskId, TooManyProcesses, spawn_error
from ..events import Done, Escalated, Event, Exited, OrphanReaped, Refused, Started, Unkillable
from ..metrics import Metrics, metrics_of
from ..status import ExitStatus
from . import fork
from .child import (
    COUNTED,
    DOOMED,
    EARLY,
    HEARD,
    TOLD_ESCALATED,
    TOLD_STARTED,
    UNCOUNTED,
    UNKILLABLE,
    Child,
)
from .dispatcher import Dispatcher
from .engine import Engine, engine
from .finished import Finished

# A start takes less than a millisecond, so there is no need for a condition; but its file system may hang.
BIRTH_SECONDS = 1.0
BIRTH_STEP_SECONDS = 0.001
# Of all managers: an event loop reads the news of several from one mailbox.
tokens = itertools.count(1)
_ESCALATED = EXIT_ESCALATED << STAND_FLAGS

_get_ident = threading.get_ident
_wait_exit = lib.wait_exit


class Feed(Protocol):
    """Starts that wait in the library for their turn, and the news about them."""

    def drain(self) -> None: ...
    def halt(self) -> list[Child]:
        """Start nothing more; those that run."""
        ...


class Roster(Ledger):
    """See above. Thread-safe; by an RLock, as a signal handler may come in while its own thread is here."""

    def __init__(
        self,
        *,
        name: str,
        max_processes: int | None,
        grace: float,
        kill_timeout: float,
        containment: str,
        die_with_parent: bool,
        reap_orphans: bool,
        on_event: Callable[[Event], object] | None,
    ) -> None:
        self.name = name
        self.max_processes = max_processes
        self.grace = grace
        self.kill_timeout = kill_timeout
        self.tally = Tally()
        self._failed_to_start = 0
        self._orphans_reaped = 0
        self.lock = threading.RLock()
        self.closed = False
        self.dispatcher = Dispatcher(self, on_event, always=reap_orphans)
        # By name, in the order of their starts; and by token, which news carry.
        self.active: dict[TaskId, Child] = {}
        self.by_token: dict[int, Child] = {}
        self.finished = Finished()
        self.feeds: set[Feed] = set()
        self.generation = fork.generation
        self.starts = 0
        self._containment = containment
        self.die_with_parent = die_with_parent
        self._reap_orphans = reap_orphans
        # Had with the first start: a manager without processes holds no descriptor.
        self._engine: Engine | None = None
        self._crew: Crew | None = None
        self._mailbox: Mailbox | None = None
        self.specs: Specs | None = None
        # Who waits needs it after the close too.
        self._starter: Starter | None = None
        self._held = False
        self._forgotten = False
        # Whether a start has to see to more than its name and its process: not one for ledger.c then.
        self.special = True
        # What takes a child out of its CancelToken again, by token.
        self._cancels: dict[int, Callable[[], None]] = {}
        # Ctrl-C has come into the reading of news, or the entering of an end: something may be lost.
        self._shaken = False

    # ---- starting ----

    def catch_up(self, child: Child) -> bool:
        """Enter what was heard of a child before its handle was filled; whether there was anything."""
        if not child._flags & EARLY:
            return False
        self.look_at(child)
        return True

    def open_feed(self, feed: Feed) -> None:
        """A feed begins; from now on its news are read here too, and it is ended with all the rest."""
        with self.lock:
            if self.closed:
                raise ManagerClosed
            self.feeds.add(feed)
            self._hold()

    def close_feed(self, feed: Feed) -> None:
        """All that the feed has started is done."""
        with self.lock:
            self.feeds.discard(feed)
            self.relax()

    def enlist(self, child: Child) -> None:
        """A process of a feed runs: it counts as active now, and has its name."""
        with self.lock:
            if child._token in self.by_token:
                self.active.setdefault(child.task_id, child)
                self._tell_started(child)

    def engage(self) -> Crew:
        """Connect with the engine, if that has not been done."""
        fork.check_generation(self.generation)
        return self._crew or self._connect()

    def _connect(self) -> Crew:
        with self.lock:
            # Another thread may have been here before us.
            if self._crew is not None:
                return self._crew
            if self.closed:
                raise ManagerClosed
            try:
                self._engine = engine()
                mailbox = Mailbox()
                if self._reap_orphans:
                    self._engine.crew.adopt_orphans(mailbox)
            except SpawnError:
                raise
            except OSError as error:
                raise spawn_error(error.errno or errno.EIO, "supervisor") from error
            # A signal handler may have done all this meanwhile; then that counts.
            if self._crew is None:
                self._mailbox = self.dispatcher.mailbox = mailbox
                self.specs = self.make_specs(mailbox)
                self._starter = self.specs.starter
                self._starts_at = address(self._starter.starts)
                self._crew = self._engine.crew
            return self._crew

    def direct_orphans(self, mailbox: Mailbox) -> None:
        """See that orphans of processes whose news go to `mailbox` are told of here, if that is wanted."""
        own = self._mailbox
        if self._reap_orphans and own is not None:
            mailbox.tell_orphans(own)

    def make_specs(self, mailbox: Mailbox) -> Specs:
        """What makes the specs of starts whose news go to `mailbox`."""
        assert self._engine is not None
        return Specs(
            Starter(self._engine.crew, self.tally.tally, mailbox),
            mailbox,
            grace=self.grace,
            kill_timeout=self.kill_timeout,
            containment=self._containment,
            die_with_parent=self.die_with_parent,
            open_files=self._engine.open_files,
        )

    def admit_one(self, child: Child) -> None:
        """Give it its name and its token before it exists."""
        active = self.active
        limit = self.max_processes
        if child.task_id in active or (limit is not None and len(active) >= limit):
            # What has ended without being asked for may be in the way.
            self.drain()
        with self.lock:
            if self.closed:
                raise ManagerClosed
            if limit is not None and len(active) >= limit:
                raise TooManyProcesses(limit)
            if (holder := active.setdefault(child.task_id, child)) is not child:
                raise _name_is_taken(holder)
            child._token = token = next(tokens)
            child._starter = _get_ident()
            self.by_token[token] = child
            if not self._held:
                self._hold()
            self.dispatcher.listen()

    def admit_all(self, children: Sequence[Child]) -> None:
        """All of them, or none."""
        self.drain()
        with self.lock:
            limit = self.max_processes
            if limit is not None and len(self.active) + len(children) > limit:
                if self.closed:
                    raise ManagerClosed
                raise TooManyProcesses(limit, len(children), len(self.active))
            if self.closed:
                raise ManagerClosed
            # As admit_one() does, with what concerns them all done once.
            me = _get_ident()
            active, by_token = self.active, self.by_token
            for child in children:
                if (holder := active.setdefault(child.task_id, child)) is not child:
                    raise _name_is_taken(holder)
                child._token = token = next(tokens)
                child._starter = me
                by_token[token] = child
            if not self._held:
                self._hold()
            self.dispatcher.listen()

    def admit_fed(self, children: Sequence[Child]) -> None:
        """Give processes of a feed their tokens. They have no name until they run."""
        with self.lock:
            if self.closed:
                raise ManagerClosed
            for child in children:
                child._token = token = next(tokens)
                self.by_token[token] = child
            self.dispatcher.listen()

    def admit_named(self, children: Sequence[Child]) -> None:
        """Give processes of a feed their names and tokens before they are started: all of them, or none."""
        try:
            if len(children) == 1:
                self.admit_one(children[0])
            else:
                self.admit_all(children)
        except BaseException:
            for child in children:
                self.drop(child)
            raise

    def admit_nameless(self, children: Sequence[Child]) -> None:
        """Give processes their tokens; whoever reads the news of them enters these by himself."""
        if self.closed:
            raise ManagerClosed
        for child in children:
            child._token = next(tokens)

    def drop(self, child: Child) -> None:
        """Forget a process that has not been started after all."""
        with self.lock:
            self._drop(child)

    def keep(self) -> None:
        """The engine shall not let the interpreter exit before this has been closed."""
        assert self._engine is not None
        self._engine.busy.add(self)

    def _hold(self) -> None:
        """The first start, or the first after a time with nothing to look after."""
        assert self._engine is not None
        self.keep()
        self._held = True
        self.special = (
            self.max_processes is not None
            or self.die_with_parent
            or self._reap_orphans
            or self.dispatcher.observers.has_observer
        )
        # In this order: either the engine finds us when it begins to end, or we see that it has begun.
        if self._engine.ending:
            raise ManagerClosed("the interpreter is exiting, and nothing is started any more")

    def announce(self, child: Child, began: float) -> None:
        """Tell of the start; see whether it is still wanted, and whether there were news meanwhile."""
        with self.lock:
            self._tell_started(child, began)
            doomed = child._flags & DOOMED
        if doomed:
            child._handle.stop(REASON_TERMINATED, 0)
        if child._flags & EARLY:
            self.hear(child, child._handle.stand())

    def is_early(self, child: Child) -> bool:
        """Whether there are news of a child whose start has not returned yet. Called with the lock held.

        Its owner is empty then, and nobody shall meet it so. Who starts it looks at the flag after the
        owner is filled, and enters the news himself.
        """
        if child._born:
            return False
        child._flags |= EARLY
        # The order counts: flag, then owner here; owner, then flag there. One of the two sees the other.
        return not child._born

    def _tell_started(self, child: Child, began: float | None = None) -> None:
        if child._flags & TOLD_STARTED or not self.dispatcher.telling:
            return
        child._flags |= TOLD_STARTED
        record = child._handle.known()
        at = record[STARTED_NS] / 1e9
        spawn_seconds = 0.0 if began is None else max(0.0, at - began)
        self.dispatcher.queue(
            Started(task_id=child.task_id, pid=record[PID], at=at, spawn_seconds=spawn_seconds)
        )

    def refuse(self, child: Child, error: SpawnError) -> None:
        """Its start has failed: nothing of it is left."""
        with self.lock:
            if child.error is None:
                child.error = error
                self._failed_to_start += 1
                if self.dispatcher.telling:
                    self.dispatcher.queue(Refused(task_id=child.task_id, at=time.monotonic(), error=error))
            self._drop(child)

    def enter_failure(self, child: Child) -> None:
        """Its queued start has failed or was withdrawn."""
        failure = child._handle.failure()
        if failure is not None:
            self.refuse(child, spawn_error_of(child.command, failure))

    def count_later(self, children: Iterable[Child]) -> None:
        """Their starts were interrupted before they were counted: those that run are counted at their end."""
        with self.lock:
            for child in children:
                child._flags |= UNCOUNTED
                if child._token not in self.by_token and child._status is not None:
                    self.count_start(child)

    def count_start(self, child: Child) -> None:
        """One that waited for its turn runs, or has run; unless that has been counted."""
        if not child._flags & COUNTED:
            for _counted in self.tally.starts(None):
                child._flags = child._flags & ~UNCOUNTED | COUNTED

    def abort(self, child: Child, error: BaseException) -> None:
        """Its start was interrupted: if it lives, it is stopped, and keeps its name until it is gone."""
        if isinstance(error, SpawnError):
            self.refuse(child, error)
        elif child._token and child._born:
            child._handle.stop(REASON_TERMINATED, -1)
            # Whoever starts it enters what came before the start had returned, see is_early().
            self._shaken = True
        else:
            self.drop(child)

    def _drop(self, child: Child) -> None:
        """Take a child out that has never run."""
        self.by_token.pop(child._token, None)
        if self.active.get(child.task_id) is child:
            del self.active[child.task_id]
        if child._callbacks:
            child._callbacks = None
            self.dispatcher.wishes -= 1
        self.relax()

    # ---- cancelling ----

    def bind(self, child: Child, cancel: CancelToken) -> None:
        unbind = cancel.add_callback(partial(child._handle.stop, REASON_CANCELLED, 0))
        with self.lock:
            if child._token in self.by_token:
                self._cancels[child._token] = unbind
                return
        unbind()

    # ---- hearing of ends ----

    def await_exit(self, child: Child, until: float | None) -> bool:
        """Block until it has exited, and enter that; False if it has not by `until` on the monotonic clock.

        Raises:
            NeverStarted: its start has failed.
        """
        if self.generation != fork.generation:
            self.check_usable()
        # From here on the library may take it for heard: what is lost by Ctrl-C is asked for later.
        try:
            while True:
                left = remaining_ns(until)
                assert self._starter is not None
                stand: int = _wait_exit(self._starter.starts, child._owner, left)
                # Else back here, where the handler of a signal that woke us is run; that may raise.
                if stand > 0:
                    break
                if not is_to_be_repeated(stand):
                    return False
            self.hear_and_tell(child, stand)
        except NeverStarted:
            raise
        except BaseException:
            self._shaken = True
            raise
        return True

    def hear(self, child: Child, stand: Stand) -> None:
        """Enter what is known of a child: how it ended, and whether something is left of it."""
        state = stand & STAND_STATE
        if state < STATE_EXITED:
            return
        try:
            with self.lock:
                if child._status is None:
                    # Counted first: who sees the status, without the lock, reads the rest from its owner.
                    self.tally.count_end(child._owner)
                    child._status = status = status_of(stand, child._source)
                    if self.dispatcher.telling or child._callbacks or stand & _ESCALATED:
                        self._tell_exited(child, stand, status)
                if state == STATE_DONE and child._token in self.by_token:
                    self._retire(child)
        except BaseException:
            self._shaken = True
            raise
        if self._mailbox is None:
            # After the close there is no dispatcher any more.
            self.dispatcher.observers.tell_all()

    def hear_and_tell(self, child: Child, stand: Stand) -> None:
        """The same for one who waits: he has heard of it."""
        child._flags |= HEARD
        self.hear(child, stand)
        # The dispatcher may have entered the end just before, as one that nobody had heard of.
        self.mark_heard(child)

    def mark_heard(self, child: Child) -> None:
        """Somebody who waits has heard of an end that was entered before."""
        with self.lock:
            child._flags |= HEARD
            self.finished.mark_heard(child)

    def awaited(self) -> list[Child]:
        """Those that are active, and those of whose end nobody has heard yet, in order of their starts."""
        self.drain()
        with self.lock:
            born = [child for child in self.active.values() if child._born]
            children = {child._token: child for child in born}
            children.update(self.finished.all_unheard())
        return [children[token] for token in sorted(children)]

    def unheard(self) -> list[Child]:
        """Those of them whose end nobody has heard of: what is active may have ended, with something left."""
        return [child for child in self.awaited() if child._status is None or not child._flags & HEARD]

    def _tell_exited(self, child: Child, stand: Stand, status: ExitStatus) -> None:
        if stand & _ESCALATED:
            self._tell_escalated(child)
        if self.dispatcher.telling:
            self._tell_started(child)
            record = child._handle.known()
            at = record[ENDED_NS] / 1e9
            self.dispatcher.queue(Exited(task_id=child.task_id, pid=record[PID], at=at, status=status))
        if child._callbacks:
            self._call_back(child, STATE_EXITED)

    def _retire(self, child: Child) -> None:
        """Nothing is left of it: its name is free."""
        if self.active.get(child.task_id) is child:
            del self.active[child.task_id]
        if self._cancels:
            unbind = self._cancels.pop(child._token, None)
            if unbind is not None:
                unbind()
        if child._callbacks:
            child._flags |= HEARD
        self.finished.add(child, 0 if type(child._what) is tuple else _output_size(child))
        if self.dispatcher.telling:
            status = child._status
            assert status is not None
            pid = child._pid
            self.dispatcher.queue(Done(task_id=child.task_id, pid=pid, at=time.monotonic(), status=status))
        if child._callbacks is not None:
            self._call_back(child, STATE_DONE)
        if child._flags & UNCOUNTED:
            self.count_start(child)
        # At last, so that this is done again if it was interrupted.
        self.by_token.pop(child._token, None)
        if self._forgotten:
            self.relax()

    def relax(self) -> None:
        """With nothing left to look after, and no manager, this may be forgotten."""
        idle = not self.active and not self.feeds and self.dispatcher.thread is None
        if idle and (self._forgotten or self.closed) and self._engine is not None:
            self._engine.busy.discard(self)
            self._held = False
            self.special = True

    def sift(
        self, briefs: Any, count: int, flying: dict[int, Any] | None = None, ready: deque[Any] | None = None
    ) -> list[NewsRecord]:
        """Enter those pieces of news that are nothing but an end, in one go; returns the others for read().

        Those that a feed has under way are `ready` then.
        """
        with self.lock:
            return enter_ends(self, briefs, count, flying, ready)

    def drain(self) -> None:
        """Read what news there are, without blocking."""
        mailbox = self._mailbox
        if mailbox is None:
            return
        if self._shaken:
            self._look_at_all()
        try:
            for news in mailbox.drain(self.sift):
                for item in news:
                    self.read(item)
            for feed in tuple(self.feeds):
                feed.drain()
        except BaseException:
            self._shaken = True
            raise
        self.dispatcher.pass_on()

    def _look_at_all(self) -> None:
        """Enter what the library knows of each process, whatever has become of the news."""
        self._shaken = False
        with self.lock:
            children = list(self.by_token.values())
        try:
            for child in children:
                if child._born:
                    self.look_at(child)
        except BaseException:
            self._shaken = True
            raise

    def look_at(self, child: Child) -> None:
        """Enter what the library knows of one process."""
        stand = child._handle.stand()
        if stand & STAND_STATE == STATE_FAILED:
            self.enter_failure(child)
        else:
            self.hear(child, stand)

    def read(self, news: NewsRecord) -> None:
        """Enter one piece of news; news about what is done already are of no interest."""
        token, stand, what, error, stage, detail = news
        if what & NEWS_ORPHAN:
            self._enter_orphans()
            return
        child = self.by_token.get(token)
        if child is None:
            return
        with self.lock:
            if self.is_early(child):
                return
        if what & NEWS_FAILED:
            self.refuse(child, spawn_error_of(child.command, (error, stage, detail)))
            return
        if what & (NEWS_ESCALATED | NEWS_UNKILLABLE):
            with self.lock:
                if what & NEWS_ESCALATED:
                    self._tell_escalated(child)
                if what & NEWS_UNKILLABLE and not child._flags & UNKILLABLE:
                    child._flags |= UNKILLABLE
                    pid = child._pid
                    self.dispatcher.queue(Unkillable(task_id=child.task_id, pid=pid, at=time.monotonic()))
        self.hear(child, stand)

    def _tell_escalated(self, child: Child) -> None:
        if not child._flags & TOLD_ESCALATED:
            child._flags |= TOLD_ESCALATED
            self._tell_started(child)
            # When it is read, and no later than the end that it has led to.
            at = time.monotonic()
            record = child._handle.known()
            if record[ENDED_NS]:
                at = min(at, record[ENDED_NS] / 1e9)
            self.dispatcher.queue(Escalated(task_id=child.task_id, pid=record[PID], at=at))

    def _enter_orphans(self) -> None:
        mailbox = self._mailbox
        while mailbox is not None and (record := mailbox.next_orphan()) is not None:
            self._enter_orphan(record)

    def _enter_orphan(self, record: ExitRecord) -> None:
        status = status_of_record(record)
        with self.lock:
            self._orphans_reaped += 1
            self.dispatcher.queue(
                OrphanReaped(task_id=None, pid=record[PID], at=record[ENDED_NS] / 1e9, status=status)
            )

    # ---- counting ----

    def metrics(self, active: int) -> Metrics:
        """What has been counted, up to now."""
        return metrics_of(
            self.tally.read(),
            failed_to_start=self._failed_to_start,
            orphans_reaped=self._orphans_reaped,
            active=active,
        )

    # ---- telling ----

    def find(self, task_id: TaskId) -> Child | None:
        """The active task of that name. One whose start is under way in another thread is waited for."""
        until = time.monotonic() + BIRTH_SECONDS
        while True:
            child = self.active.get(task_id)
            if child is None or child._born:
                return child
            if child._starter == _get_ident() or time.monotonic() > until:
                return None
            time.sleep(BIRTH_STEP_SECONDS)

    def add_callback(self, child: Child, state: int, call: Callable[[Any], object]) -> None:
        """Have `call` called with the child once it has reached `state`; here and now, if it has."""
        with self.lock:
            if not self._has_reached(child, state):
                if child._callbacks is None:
                    child._callbacks = []
                    self.dispatcher.wishes += 1
                child._callbacks.append((state, call))
                self.dispatcher.attend()
                return
        self.mark_heard(child)
        self.dispatcher.observers.call(partial(call, child))

    def remove_callback(self, child: Child, call: Callable[[Any], object]) -> None:
        """Take a callback back."""
        with self.lock:
            if child._callbacks:
                child._callbacks[:] = [entry for entry in child._callbacks if entry[1] is not call]

    def _has_reached(self, child: Child, state: int) -> bool:
        if state == STATE_EXITED:
            return child._status is not None
        return child._status is not None and child._token not in self.by_token

    def _call_back(self, child: Child, state: int) -> None:
        callbacks = child._callbacks
        assert callbacks is not None
        rest = [entry for entry in callbacks if entry[0] != state]
        if state == STATE_DONE:
            child._callbacks = None
            self.dispatcher.wishes -= 1
        else:
            child._callbacks = rest
        self.dispatcher.queue_calls([partial(call, child) for wanted, call in callbacks if wanted == state])

    def let_go(self) -> None:
        """After the close: no news are read any more, their descriptor is free. Waiters go on waiting."""
        self.drain()
        self.dispatcher.dismiss(self.kill_timeout)
        with self.lock:
            self._mailbox = self.dispatcher.mailbox = self.specs = None

    def release(self) -> None:
        """The manager has been forgotten, with nothing left to look after: the dispatcher may go."""
        # Called by a finaliser, which may run in any thread at any point: no lock is taken.
        self.closed = True
        self.forget()
        self.dispatcher.send_away()

    def forget(self) -> None:
        """The manager has been forgotten; what it runs is looked after until it has ended. Takes no lock."""
        self._forgotten = True
        self.relax()

    def close_at_exit(self, *, patient: bool) -> None:
        """The interpreter exits: end what is running, in bounded time; kill it at once if not `patient`."""
        from .stopping import stop_all

        with self.lock:
            self.closed = True
        stop_all(self, self.grace if patient else 0.0)
        self.let_go()

    def check_usable(self) -> None:
        """Raise ForkedHandle in a forked copy of the program."""
        fork.check_generation(self.generation)

    @property
    def is_copy(self) -> bool:
        """Whether this is a forked copy of what the original made."""
        return self.generation != fork.generation


def _name_is_taken(holder: Child) -> DuplicateTask:
    """By one that runs, or that has ended and left something behind: in that case waiting for it is over."""
    name = holder.task_id
    if holder._status is None:
        return DuplicateTask(name)
    kept = holder.command.leftovers == "keep"
    still = "still run, as leftovers='keep' wants it" if kept else "are still being stopped"
    return DuplicateTask(
        name,
        f"the last process of task {name!r} has ended, but descendants of it {still}, and the id is not free "
        "until they are gone: wait for that by as_completed(), or end them by terminate_process()",
    )


def _output_size(child: Child) -> int:
    if not child.command.captures:
        return 0
    outputs = (child._handle.output(1), child._handle.output(2))
    return sum(output[1] for output in outputs if output is not None)
