"""The starts of one roster in one event loop, handed over to the crew a turn at a time.

A start is queued here and handed over when the loop comes round, with all others of that turn; so the loop is
never held until an execve(2). For the roster this is a Feed like that of map().
"""

from __future__ import annotations

import errno
from asyncio import AbstractEventLoop, CancelledError, Future, Handle
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from .._native.crew import ANY_NUMBER
from .._native.failures import closed_descriptor, spawn_error_of
from .._native.records import (
    NEWS_FAILED,
    NEWS_UNKILLABLE,
    REASON_CANCELLED,
    STAND_STATE,
    STATE_EXITED,
    STATE_FAILED,
    NewsRecord,
)
from .._native.specs import Keep, Specs
from ..errors import ManagerClosed, SpawnError, spawn_error
from .child import EARLY, UNKILLABLE, Child
from .flight import PLAIN, Flight, stop_shielded
from .roster import Roster
from .starting import apply_cancel, hand_over
from .telling import ALARMING, ESCALATED, is_worth_telling, takes_ordinary_news, tell

if TYPE_CHECKING:
    from .loops import LoopMail


def _spec_of(flight: Flight, maker: Specs, keep: Keep) -> Any:
    command = flight.child.command
    if not command.plain:
        closed = closed_descriptor(command)
        if closed is not None:
            raise closed
    spec = maker.make(command, flight.child._token, keep)
    if flight.extras is not PLAIN:
        flight.extras.apply(spec, keep)
    if flight.cancel is not None:
        apply_cancel(spec, flight.cancel)
    return spec


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
            self._specs.begin_as_asyncio_does()
        if quiet:
            self._specs.start_quietly()
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
        if not special:
            return
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
            hand_over(roster, maker.starter, specs, children, ANY_NUMBER)
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
        children, blocks = [], []
        flying = self.mail.flying
        for flight in flights:
            block = flight.block
            if block is None:
                special.append(flight)
                continue
            child = flight.child
            plain.append(flight)
            children.append(child)
            blocks.append(block)
            flying[child._token] = flight
        if not plain:
            return special
        try:
            maker.starter.start_all_plain(children, blocks)
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
                roster.count_start(child)
                if roster.dispatcher.telling:
                    roster.enlist(child)
            roster.read(news)
        else:
            if state >= STATE_EXITED:
                if flight.stand is None:
                    flight.stand = stand
            elif state == STATE_FAILED:
                child.error = spawn_error_of(child.command, (news[3], news[4], news[5]))
            # As is_worth_telling() has it: this is for each start and each end.
            if what & ALARMING or stand & ESCALATED or takes_ordinary_news():
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
            self.roster.relax()
