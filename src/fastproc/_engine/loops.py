"""Event loops as clients of the engine: one mailbox for each loop, one wake-up for each batch of news.

A loop reads the eventfd of its mailbox with ``loop.add_reader()``. No thread and no signal lies between the
end of a process and the coroutine that waits for it, and nothing is registered for a single process. Starts
are queued and carried out by the crew, so the loop is never held until an execve(2).

    LoopMail    the mailbox of one loop, and what is under way there
    LoopFeed    the starts of one roster in one loop: loopfeed.py
    Flight      one process in its loop: flight.py

All of this belongs to the thread in which the loop runs, except where it says otherwise.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import weakref
from asyncio import AbstractEventLoop
from collections.abc import AsyncGenerator
from contextlib import suppress
from contextvars import Context

from .._native.handle import stop_many
from .._native.mailbox import Mailbox
from .._native.records import (
    NEWS_FAILED,
    NEWS_OUTPUT,
    REASON_TERMINATED,
    STAND_STATE,
    STATE_FAILED,
)
from .._native.tap import Scratch
from . import fork
from .finished import Finished
from .flight import Flight, stop_shielded
from .loopfeed import LoopFeed
from .roster import Roster
from .telling import takes_ordinary_news


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
