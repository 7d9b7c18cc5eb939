"""Event loops as clients of the engine: one mailbox for each loop, one wake-up for each batch of news.

A loop reads the eventfd of its mailbox with ``loop.add_reader()``. No thread and no signal lies between the
end of a process and the coroutine that waits for it, and nothing is registered for a single process. Starts
are queued and carried out by the crew, so the loop is never held until an execve(2).

    LoopMail    the mailbox of one loop, and what is under way there
    LoopFeed    the starts of one roster in one loop; for the roster it is a Feed like that of map()
    Flight      one process in its loop: who waits for what

All of this belongs to the thread in which the loop runs, except where it says otherwise.
"""

from __future__ import annotations

import asyncio
import errno
import sys
import threading
import weakref
from asyncio import AbstractEventLoop, CancelledError, Future, Handle
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import suppress
from contextvars import Context
from functools import partial
from typing import Any

from .._native.clock import grace_ns
from .._native.crew import ANY_NUMBER
from .._native.failures import closed_descriptor, spawn_error_of
from .._native.handle import stop_many
from .._native.mailbox import Mailbox
from .._native.records import (
    NEWS_FAILED,
    NEWS_OUTPUT,
    NEWS_UNKILLABLE,
    REASON_CANCELLED,
    REASON_TERMINATED,
    STAND_CODE,
    STAND_STATE,
    STATE_DONE,
    STATE_EXITED,
    STATE_FAILED,
    STATE_RUNNING,
    NewsRecord,
    Stand,
)
from .._native.specs import Keep, Specs
from .._native.statuses import status_of
from .._native.tap import Extras, Scratch
from ..cancel import CancelToken
from ..errors import ManagerClosed, SpawnError, spawn_error
from ..status import ExitStatus
from . import fork
from .child import EARLY, UNKILLABLE, Child
from .finished import Finished
from .roster import Roster, _apply_cancel
from .stopping import grace_of, verdict_seconds
from .telling import is_worth_telling, takes_ordinary_news, tell

PLAIN = Extras()


class Flight:
    """One process, from the wish to start it until nothing of it is left, as its loop knows it."""

    __slots__ = (
        "__weakref__",
        "block",
        "cancel",
        "child",
        "extras",
        "feed",
        "lent",
        "on_news",
        "on_over",
        "over",
        "stand",
        "start",
        "unbind",
        "waiters",
    )

    def __init__(
        self,
        feed: LoopFeed,
        child: Child,
        extras: Extras = PLAIN,
        cancel: CancelToken | None = None,
        block: bytes | None = None,
    ) -> None:
        """`block`: its arguments, if nothing else is said of it, see plain_block()."""
        self.feed = feed
        self.child = child
        self.extras = extras
        self.cancel = cancel
        self.block = block
        # What is needed until the start is decided, and goes then.
        self.lent: object = None
        self.start: Future[None] | None = None
        # What takes it out of its CancelToken again.
        self.unbind: Callable[[], None] | None = None
        # Who waits, and for which state.
        self.waiters: list[tuple[int, Future[None]]] | None = None
        # Called with each piece of news, before waiters are woken.
        self.on_news: Callable[[], None] | None = None
        # Nothing of it is left, or it never was: no news will come.
        self.over = False
        # How a nameless one has ended, once that is known. Its status is made of that if anybody asks.
        self.stand: Stand | None = None
        # Called in a turn of their own once it is over, if it has run.
        self.on_over: list[Callable[[], object]] | None = None

    async def begin(self) -> None:
        """Start it; it runs on return. Cancelling this calls the start off, or stops what it has made.

        Raises:
            SpawnError: it could not be started.
            DuplicateTask, TooManyProcesses, ManagerClosed: as in ProcessManager.start_process().
        """
        start = self.feed.queue(self)
        try:
            await start
        except CancelledError:
            await self.feed.call_off([self])
            raise
        if self.child.error is not None:
            raise self.child.error from None

    @property
    def status(self) -> ExitStatus | None:
        """How it ended, as far as is known here."""
        child = self.child
        if child._status is None and self.stand is not None:
            # The rest of it is read from its owner, once the end is noted there.
            child._roster.tally.count_end(child._owner)
            child._status = status_of(self.stand, child._owner)
        return child._status

    @property
    def returncode(self) -> int | None:
        """The exit code, or the signal as a negative number; None if nobody knows (yet)."""
        stand = self.stand
        if stand is not None and stand >> STAND_CODE:
            # Without making a status.
            return (stand >> STAND_CODE) - 1
        status = self.status
        return None if status is None else status.returncode

    # ---- waiting ----

    def reached(self, state: int) -> bool:
        """Whether it is known here to be in `state`, EXITED or DONE. Unkillable is as good as DONE."""
        if self.over:
            return True
        if state <= STATE_EXITED:
            return self.stand is not None or self.child._status is not None
        return self.child._flags & UNKILLABLE != 0

    def waiter(self, state: int) -> Future[None]:
        """A future that is done when it has reached `state`; not to be asked for when it has already."""
        future = self.feed.mail.loop.create_future()
        if self.waiters is None:
            self.waiters = [(state, future)]
        else:
            self.waiters.append((state, future))
        return future

    async def until(self, state: int, seconds: float | None = None) -> bool:
        """Wait until it has reached `state`, for so many seconds at most; whether it has.

        Cancelling this forgets the waiter, and nothing else.
        """
        if self.reached(state):
            return True
        future = self.waiter(state)
        timer = None if seconds is None else future.get_loop().call_later(seconds, _resolve, future)
        try:
            await future
        finally:
            if timer is not None:
                timer.cancel()
            if self.waiters:
                self.waiters[:] = [entry for entry in self.waiters if entry[1] is not future]
        return self.reached(state)

    async def until_or_stopped(self, state: int, seconds: float | None = None) -> bool:
        """The same; but to be cancelled meanwhile stops it, and is raised after that."""
        try:
            return await self.until(state, seconds)
        except CancelledError:
            await stop_shielded([self])
            raise

    async def news(self) -> None:
        """Wait for the next piece of news, once it has ended."""
        if not self.over:
            await self.waiter(0)

    # ---- news ----

    def settle(self, what: int, stand: Stand) -> None:
        """This piece of news has been entered: tell those who wait here."""
        state = stand & STAND_STATE
        start = self.start
        if start is not None:
            # As decided() has it.
            self.start = self.lent = None
            if not start.done():
                start.set_result(None)
        if state == STATE_RUNNING:
            if what & NEWS_OUTPUT and self.on_news is not None:
                self.on_news()
            return
        if state != STATE_EXITED:
            self.end()
        if self.on_news is not None:
            self.on_news()
            if self.over:
                self.on_news = None
        if self.waiters is not None:
            self.wake()

    def wake(self) -> None:
        """Tell those who wait, as far as it has come to what they wait for."""
        rest = []
        for entry in self.waiters or ():
            if self.reached(entry[0]):
                _resolve(entry[1])
            else:
                rest.append(entry)
        self.waiters = rest or None

    def decided(self) -> None:
        """Its start has succeeded or failed."""
        start, self.start = self.start, None
        self.lent = None
        if start is not None:
            _resolve(start)

    def end(self) -> None:
        """There is nothing more to look after."""
        self.over = True
        feed = self.feed
        feed.mail.flying.pop(self.child._token, None)
        if feed._specs is None:
            feed.let_go()
        if self.unbind is not None:
            self.unbind()
            self.unbind = None
        if self.on_over is not None:
            calls, self.on_over = self.on_over, None
            if self.status is not None:
                for call in calls:
                    self.feed.mail.loop.call_soon(call)


def _resolve(future: Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _spec_of(flight: Flight, maker: Specs, keep: Keep) -> Any:
    command = flight.child.command
    # A Command holds args, args_block and tags always, and beyond that only what was said.
    if len(command.__dict__) > 3:
        closed = closed_descriptor(command)
        if closed is not None:
            raise closed
    spec = maker.make(command, flight.child._token, keep)
    if flight.extras is not PLAIN:
        flight.extras.apply(spec, keep)
    if flight.cancel is not None:
        _apply_cancel(spec, flight.cancel)
    return spec


async def stop_shielded(
    flights: Iterable[Flight], reason: int = REASON_CANCELLED, grace: float | None = None
) -> CancelledError | None:
    """Stop these, and wait until nothing is left or the verdict is in. `grace` None: each has its own.

    To be cancelled meanwhile, once or often, changes nothing. Returns the first of these cancellations, for
    those who are not about to raise one anyway.
    """
    flights = [flight for flight in flights if flight.child._born and not flight.over]
    stop_many([flight.child._handle for flight in flights], reason, 0 if grace is None else grace_ns(grace))
    loop = asyncio.get_running_loop()
    begun = loop.time()
    cancelled = None
    for flight in flights:
        child = flight.child
        until = begun + verdict_seconds(child._roster, grace_of(child) if grace is None else grace)
        while not flight.reached(STATE_DONE) and (left := until - loop.time()) > 0:
            try:
                await flight.until(STATE_DONE, left)
            except CancelledError as error:
                cancelled = cancelled or error
    return cancelled


class LoopFeed:
    """The starts that one roster has under way in one loop.

    Named ones belong to a manager: the roster admits them, and all news of them are entered there. The others
    have no name and nobody counts them; the log hears of them, see telling.py. The roster is told no more
    than what it needs to end them all when the interpreter exits: it costs as much as all else.
    """

    __slots__ = ("__weakref__", "_flushing", "_queue", "_specs", "mail", "named", "roster")

    def __init__(self, roster: Roster, mail: LoopMail, *, named: bool, quiet: bool = False) -> None:
        self.roster = roster
        self.mail = mail
        self.named = named
        self._queue: list[Flight] = []
        # The turn of the loop in which the queue is handed over, if there is to be one.
        self._flushing: Handle | None = None
        roster.engage()
        self._specs: Specs | None = roster.make_specs(mail.mailbox)
        if not named:
            self._specs.begin_as_asyncio_does(quiet=quiet)
        roster.open_feed(self)
        mail.feeds.add(self)

    # ---- starting ----

    def queue(self, flight: Flight) -> Future[None]:
        """Have it started with all others of this turn; the future is done when that is decided."""
        if self.named:
            # Here and now: whoever asks for the start shall hear at once that its name is taken.
            self.roster.admit_named([flight.child])
        return self._enqueue(flight)

    def queue_all(self, flights: list[Flight]) -> list[Future[None]]:
        """The same for many: all of them, or, if one cannot be admitted, none."""
        self.roster.admit_named([flight.child for flight in flights])
        return [self._enqueue(flight) for flight in flights]

    def _enqueue(self, flight: Flight) -> Future[None]:
        loop = self.mail.loop
        flight.start = start = loop.create_future()
        if self._flushing is None:
            self._flushing = loop.call_soon(self._flush)
        self._queue.append(flight)
        return start

    def flush_behind(self, loop: AbstractEventLoop) -> None:
        """Hand over behind those who are being woken: what they start is under way within the same turn."""
        if self._flushing is None:
            self._flushing = loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = None
        if not self._queue:
            return
        queue, self._queue = self._queue, []
        flights = []
        for flight in queue:
            if flight.start is not None and not flight.start.cancelled():
                flights.append(flight)
            else:
                # In this very turn whoever wanted it was cancelled.
                self._drop(flight)
        try:
            self._hand_over(flights)
        except BaseException as error:
            for flight in flights:
                # Some may be in the library already, if it was Ctrl-C: they are looked after there.
                if flight.over or flight.child._born:
                    continue
                start = flight.start
                if start is not None and not start.done():
                    start.set_exception(error if isinstance(error, Exception) else CancelledError())
                self._drop(flight)
            if not isinstance(error, Exception):
                raise

    def _hand_over(self, flights: list[Flight]) -> None:
        roster = self.roster
        mail = self.mail
        maker = self._specs
        if maker is None:
            raise ManagerClosed("the event loop is closed")
        if not self.named:
            roster.admit_nameless([flight.child for flight in flights])
        special = self._hand_over_plain(flights, maker)
        keep: Keep = []
        specs = []
        queued = []
        children = []
        for flight in special:
            child = flight.child
            try:
                spec = _spec_of(flight, maker, keep)
            except SpawnError as error:
                self.refuse(flight, error)
            else:
                specs.append(spec)
                queued.append(flight)
                children.append(child)
                mail.flying[child._token] = flight
        if specs:
            roster.hand_over(maker.starter, specs, children, ANY_NUMBER)
        for flight in queued:
            child = flight.child
            if child.error is not None:
                self.refuse(flight, child.error)
                continue
            if child._flags & EARLY and roster.catch_up(child):
                mail.look_at_all_soon()
            if flight.cancel is not None:
                flight.unbind = flight.cancel.add_callback(partial(child._handle.stop, REASON_CANCELLED, 0))

    def _hand_over_plain(self, flights: list[Flight], maker: Specs) -> list[Flight]:
        """Hand over those of which nothing is said but their arguments; returns the others."""
        special = []
        plain = []
        owners, blocks, tokens = [], [], []
        flying = self.mail.flying
        for flight in flights:
            block = flight.block
            if block is None:
                special.append(flight)
                continue
            child = flight.child
            token = child._token
            plain.append(flight)
            owners.append(child._owner)
            blocks.append(block)
            tokens.append(token)
            flying[token] = flight
        if not plain:
            return special
        try:
            maker.starter.start_all_plain(owners, blocks, tokens, maker.environment())
        except OSError:
            # One that is too long spoils the call; which one, and why, is found out by the long way.
            return flights
        for flight in plain:
            flight.block = None
            if flight.child._flags & EARLY and self.roster.catch_up(flight.child):
                self.mail.look_at_all_soon()
        return special

    def refuse(self, flight: Flight, error: SpawnError) -> None:
        """It could not be started."""
        self.roster.refuse(flight.child, error)
        if not self.named and is_worth_telling(NEWS_FAILED, STATE_FAILED):
            tell(self.roster, flight.child, NEWS_FAILED, STATE_FAILED, None)
        flight.end()
        flight.decided()
        flight.wake()

    def _drop(self, flight: Flight) -> None:
        self.roster.drop(flight.child)
        flight.end()
        flight.decided()
        flight.wake()

    async def call_off(self, flights: Iterable[Flight]) -> None:
        """Whoever wanted them started does not want it any more. Returns when nothing of them is left."""
        flights = list(flights)
        for flight in flights:
            if flight in self._queue:
                self._queue.remove(flight)
                self._drop(flight)
        await stop_shielded(flights)

    def enter(self, flight: Flight, news: NewsRecord) -> None:
        """Enter a piece of news, and tell those who wait."""
        stand, what = news[1], news[2]
        child = flight.child
        state = stand & STAND_STATE
        if self.named:
            roster = self.roster
            if flight.start is not None and state > STATE_FAILED:
                roster.tally.count_start(None)
                if roster._telling:
                    roster.enlist(child)
            roster.enter_all((news,))
        else:
            if state >= STATE_EXITED:
                if flight.stand is None:
                    flight.stand = stand
            elif state == STATE_FAILED:
                child.error = spawn_error_of(child.command, (news[3], news[4], news[5]))
            if is_worth_telling(what, stand):
                tell(self.roster, child, what, stand, flight.status if state >= STATE_EXITED else None)
            if what & NEWS_UNKILLABLE:
                child._flags |= UNKILLABLE
        flight.settle(what, stand)

    # ---- what a roster asks of its feeds, in any thread ----

    def drain(self) -> None:
        """Read what news there are, if it is for this thread to do."""
        self.mail.drain()
        if self.mail.gone and self.is_idle:
            self.roster.close_feed(self)

    def halt(self) -> list[Child]:
        """Take back what waits for its turn; those that run."""
        with self.roster.lock:
            flights = [flight for flight in list(self.mail.flying.values()) if flight.feed is self]
            children = [flight.child for flight in flights if flight.child._born]
            return [child for child in children if not child._handle.withdraw()]

    def refuse_queued(self) -> None:
        """Start nothing of what has not been handed over."""
        queue, self._queue = self._queue, []
        for flight in queue:
            words = "it was stopped before it was started"
            self.refuse(flight, spawn_error(errno.ECANCELED, "request", words=words))

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way here."""
        return not self._queue and not any(flight.feed is self for flight in list(self.mail.flying.values()))

    @property
    def is_done(self) -> bool:
        """Whether nothing more is started here."""
        return self._specs is None

    def let_go(self) -> None:
        """Nothing more is started here: the loop is gone, or the manager. Takes no lock, for finalisers."""
        # The specs hold the mailbox, and its descriptor with it.
        self._specs = None
        if self.is_idle:
            self.roster.feeds.discard(self)
            self.roster._relax()


class LoopMail:
    """The mailbox of one event loop, and all that is under way there.

    It goes with the loop. The loop's selector holds the only reference to the callback that reads the
    mailbox; a loop that is closed, or forgotten, lets go of it, and with that the descriptor is closed and
    what still runs is told to end: see _Ear. A loop that ends as asyncio.run() ends it waits for these ends:
    see _farewell().
    """

    __slots__ = (
        "__weakref__",
        "_generation",
        "_loop",
        "_loose",
        "_mailbox",
        "_quiet",
        "_shaken",
        "feeds",
        "flying",
        "gone",
        "scratch",
    )

    def __init__(self, loop: AbstractEventLoop) -> None:
        # Weak: rosters know us, and must not keep a loop alive.
        self._loop = weakref.ref(loop)
        self._generation = fork.generation
        self._mailbox: Mailbox | None = Mailbox()
        self._shaken = False
        self.gone = False
        self.scratch: Scratch | None = None
        # What was handed over and is not done, by token.
        self.flying: dict[int, Flight] = {}
        # Weak: they belong to their rosters.
        self.feeds: weakref.WeakSet[LoopFeed] = weakref.WeakSet()
        self._loose: LoopFeed | None = None
        self._quiet: LoopFeed | None = None
        # Its first step makes it known to the loop, see sys.set_asyncgen_hooks(). There is nothing to wait
        # for.
        farewell = _farewell(self)
        with suppress(StopIteration):
            farewell.__anext__().send(None)
        # Not in the context of whoever came first: its variables would live as long as the loop.
        Context().run(loop.add_reader, self._mailbox.fileno(), _Ear(self, farewell))

    @property
    def loop(self) -> AbstractEventLoop:
        """The loop."""
        loop = self._loop()
        if loop is None:
            raise RuntimeError("the event loop is gone")
        return loop

    @property
    def mailbox(self) -> Mailbox:
        """Where news go."""
        if self._mailbox is None:
            raise RuntimeError("the event loop is closed")
        return self._mailbox

    @property
    def loose(self) -> LoopFeed:
        """The starts of processes that belong to no manager."""
        if self._loose is None:
            self._loose = self._open_loose(quiet=False)
        return self._loose

    @property
    def quiet(self) -> LoopFeed:
        """The same of those whose end alone is waited for; unless the log waits for their starts."""
        if takes_ordinary_news():
            return self.loose
        if self._quiet is None:
            self._quiet = self._open_loose(quiet=True)
        return self._quiet

    def _open_loose(self, *, quiet: bool) -> LoopFeed:
        roster = loose_roster()
        # Also for what loops that are gone have left: nobody else looks at that.
        roster.drain()
        return LoopFeed(roster, self, named=False, quiet=quiet)

    def room(self) -> Scratch:
        """Room for reading streams, made for the first who asks."""
        if self.scratch is None:
            self.scratch = Scratch()
        return self.scratch

    # ---- news ----

    def read(self) -> None:
        """Enter what news there are, and tell those who wait."""
        if self._shaken:
            self._look_at_all()
        mailbox = self._mailbox
        if mailbox is None:
            return
        flying = self.flying
        feed = None
        try:
            for batch in mailbox.drain():
                for news in batch:
                    flight = flying.get(news[0])
                    if flight is not None:
                        feed = flight.feed
                        feed.enter(flight, news)
        except BaseException:
            # Ctrl-C, for one: what was taken and not entered is found by looking, in the next turn.
            self.look_at_all_soon()
            raise
        # Who has just been woken will often start the next.
        if feed is not None and feed._flushing is None:
            feed.flush_behind(self.loop)

    def look_at_all_soon(self) -> None:
        """Some news may be lost: ask the library instead."""
        self._shaken = True
        loop = self._loop()
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self.drain)

    def _look_at_all(self) -> None:
        self._shaken = False
        try:
            for flight in list(self.flying.values()):
                child = flight.child
                if not child._born:
                    continue
                stand = child._handle.stand()
                state = stand & STAND_STATE
                if state < STATE_FAILED:
                    continue
                failure = (child._handle.failure() if state == STATE_FAILED else None) or (0, 0, 0)
                what = NEWS_FAILED if state == STATE_FAILED else NEWS_OUTPUT
                flight.feed.enter(flight, (child._token, stand, what, *failure))
        except BaseException:
            self._shaken = True
            raise

    def drain(self) -> None:
        """The same as read(), for who may be in another thread."""
        if self._generation != fork.generation:
            return
        if self.gone:
            self._look_at_all()
            return
        loop = self._loop()
        # In another thread the loop hears of it by itself. One that does not run has nobody else to read for
        # it.
        if loop is not None and (not loop.is_running() or asyncio._get_running_loop() is loop):
            self.read()

    # ---- the end ----

    async def stop_all(self) -> None:
        """Stop all that is under way, and wait for it."""
        for feed in tuple(self.feeds):
            feed.refuse_queued()
        await stop_shielded(list(self.flying.values()), REASON_TERMINATED)

    def bereave(self) -> None:
        """The loop is closed, or gone: have all end that still runs, without waiting for it."""
        if self.gone or self._generation != fork.generation or sys.is_finalizing():
            return
        self.gone = True
        handles = [flight.child._handle for flight in list(self.flying.values())]
        stop_many([handle for handle in handles if handle.proc], REASON_TERMINATED, 0)
        for feed in tuple(self.feeds):
            feed.let_go()
        self._mailbox = self.scratch = None
        for flight in self.flying.values():
            # Who waits there is not run any more, and what he holds shall not live on.
            flight.start = flight.waiters = flight.on_news = flight.lent = None


class _Ear:
    """What a loop calls when there are news.

    Held by the loop's selector alone, it goes when the loop is closed. It holds the farewell, which holds the
    loop: nobody else may, or the loop could never go.
    """

    __slots__ = ("_farewell", "_mail")

    def __init__(self, mail: LoopMail, farewell: AsyncGenerator[None, None]) -> None:
        self._mail = mail
        self._farewell = farewell

    def __call__(self) -> None:
        self._mail.read()

    def __del__(self) -> None:
        self._mail.bereave()


async def _farewell(mail: LoopMail) -> AsyncGenerator[None, None]:
    """Waits for the end: loop.shutdown_asyncgens() closes this, as asyncio.run() does at its own end."""
    try:
        yield
    finally:
        if not mail.gone:
            await mail.stop_all()


_mails: weakref.WeakKeyDictionary[AbstractEventLoop, LoopMail] = weakref.WeakKeyDictionary()


class _Here(threading.local):
    """The mail that was last asked for in a thread: a weak dictionary takes as long as half of a start."""

    mail: weakref.ref[LoopMail] | None = None


_here = _Here()
_loose: Roster | None = None
_lock = threading.RLock()
_inert: list[LoopMail] = []


def mail_of(loop: AbstractEventLoop) -> LoopMail:
    """The mail of a loop that runs in this thread; made for the first who asks."""
    last = _here.mail
    mail = None if last is None else last()
    if mail is None or mail._loop() is not loop:
        mail = _mails.get(loop)
    if mail is None or mail.gone or mail._generation != fork.generation:
        mail = _mails[loop] = LoopMail(loop)
    if last is None or last() is not mail:
        _here.mail = weakref.ref(mail)
    return mail


def loose_roster() -> Roster:
    """That of all processes that are started without a manager, in whatever loop."""
    global _loose
    with _lock:
        if _loose is None:
            made = Roster(
                name="asyncio",
                max_processes=None,
                grace=5.0,
                kill_timeout=5.0,
                containment="auto",
                die_with_parent=False,
                reap_orphans=False,
                on_event=None,
            )
            made.finished = Finished(0)
            _loose = made
        return _loose


def _forget() -> None:
    """In a forked copy: loops and processes belong to the original."""
    global _loose, _lock
    _loose = None
    _lock = threading.RLock()
    # Kept, and not used: what goes of them would be said to the loop of the original, whose descriptors we
    # share.
    _inert.extend(_mails.values())
    _mails.clear()


fork.in_copy(_forget)
