"""One process in its event loop: what is known of it there, and who waits for what."""

from __future__ import annotations

import asyncio
from asyncio import CancelledError, Future
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from .._native.clock import grace_ns
from .._native.handle import stop_many
from .._native.records import (
    NEWS_OUTPUT,
    REASON_CANCELLED,
    STAND_CODE,
    STAND_STATE,
    STATE_DONE,
    STATE_EXITED,
    STATE_RUNNING,
    Stand,
)
from .._native.statuses import status_of
from .._native.tap import Extras
from ..cancel import CancelToken
from ..status import ExitStatus
from .child import UNKILLABLE, Child
from .stopping import grace_of, verdict_seconds

if TYPE_CHECKING:
    from .loopfeed import LoopFeed

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
