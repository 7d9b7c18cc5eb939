"""A stream of commands carried out by the crew, so many at a time, and their processes as they finish."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, Generic, TypeVar

from .._native.clock import FOREVER
from .._native.failures import closed_descriptor
from .._native.mailbox import Mailbox
from .._native.records import STAND_STATE, STATE_DONE, STATE_FAILED, NewsRecord, Stand
from ..errors import SpawnError
from .child import EARLY, HEARD, Child
from .roster import Roster
from .starting import queue_all
from .stopping import end_some

C = TypeVar("C", bound=Child)

# So many may wait in the library, so that the crew does not wait for Python between two commands.
_AHEAD = 256
# With `ordered`, so many may be finished while an earlier one still runs.
_HELD_AT_MOST = 4096
# What cannot be entered for want of the lock is entered by the next who reads the news.
_LOCK_SECONDS = 0.5


def _is_withdrawn(child: Child) -> bool:
    """Take it back from the library, if it is there and has not been started yet."""
    return not child._born or child._handle.withdraw()


class Feed(Generic[C]):
    """Takes processes to be started from an iterator, lazily, and gives them back when they are done.

    One thread asks for what comes next; others may meanwhile read the news (drain) or end it all (halt).
    What runs belongs to the roster like any other; what waits for its turn has no name there yet.
    """

    def __init__(
        self,
        roster: Roster,
        children: Iterator[tuple[C, bytes | None]],
        *,
        concurrency: int,
        ordered: bool,
    ) -> None:
        """`children` as for Roster.start_many()."""
        self._roster = roster
        self._children = children
        self._concurrency = concurrency
        self._halted = False
        self._shaken = False
        # Handed over and not done, by token.
        self._flying: dict[int, C] = {}
        self._ready: deque[C] = deque()
        # All that were taken and not given back, in that order; None if the order does not matter.
        self._in_order: deque[C] | None = deque() if ordered else None
        roster.engage()
        self._mailbox = Mailbox()
        roster.direct_orphans(self._mailbox)
        self._specs = roster.make_specs(self._mailbox)
        self._specs.start_patiently()

    def finished(self) -> Iterator[C]:
        """All of them, each when it is done or could not be started. Closing this stops what is left."""
        try:
            self._roster.open_feed(self)
            ready, flying = self._ready, self._flying
            enough = self._concurrency + _AHEAD // 2
            while True:
                self._top_up()
                if self._in_order is None:
                    while ready:
                        yield ready.popleft()
                        # Another thread may have read the news.
                        if len(flying) < enough:
                            self._top_up()
                elif (child := self._next()) is not None:
                    yield child
                    self._read(wait=False)
                    continue
                if flying:
                    self._read(wait=True)
                elif self.is_over:
                    return
        finally:
            # With nothing left to end, this may be a circle of garbage, whose parts in C have gone before it.
            if self in self._roster.feeds:
                self._end()

    def _end(self) -> None:
        """End what is left.

        A finaliser may call this in any thread at any point, where that thread, or one that waits for it,
        holds the lock of another manager: so this waits for processes, but never long for a lock.
        """
        self._halted = True
        left: list[Child] = [child for child in list(self._flying.values()) if not _is_withdrawn(child)]
        judged = end_some(self._roster, left)
        if self._roster.lock.acquire(timeout=_LOCK_SECONDS):
            try:
                # Not by the news alone: Ctrl-C may have come into their reading.
                for child in judged:
                    self._roster.hear_and_tell(child, child._handle.stand())
                self.drain()
            finally:
                self._roster.lock.release()

    def drain(self) -> None:
        """Read what news there are, for somebody else than the one who asks for what is finished."""
        self._read(wait=False)
        if self._ready:
            # Also if it was there before: the wake-up about it may have been taken just now.
            self._mailbox.wake()

    def halt(self) -> list[Child]:
        """Take nothing more from the iterator, and take back what waits for its turn; returns the others."""
        with self._roster.lock:
            self._halted = True
            return [child for child in self._flying.values() if not _is_withdrawn(child)]

    @property
    def is_over(self) -> bool:
        """Nothing more is taken, runs, or is to be given back: another thread may just have read the news."""
        left = self._ready if self._in_order is None else self._in_order
        return self._halted and not self._flying and not left

    def _next(self) -> C | None:
        """One that is to be given back now."""
        if self._in_order is None:
            return self._ready.popleft() if self._ready else None
        self._ready.clear()
        if self._in_order and self._in_order[0]._token not in self._flying:
            return self._in_order.popleft()
        return None

    def _top_up(self) -> None:
        """Hand over more, in one go, when there is room for half of what may be under way."""
        room = self._concurrency + _AHEAD - len(self._flying)
        if self._halted or room * 2 < _AHEAD or room < 1:
            return
        if self._in_order is not None and len(self._in_order) >= _HELD_AT_MOST:
            return
        children = list(islice(self._children, room))
        for child, _block in children:
            # Whoever asks for what is finished will hear of it: it is nothing for wait_all().
            child._flags |= HEARD
        if len(children) < room:
            self._halted = True
        if self._in_order is not None:
            self._in_order.extend(child for child, _block in children)
        if children:
            self._hand_over(children)

    def _hand_over(self, children: list[tuple[C, bytes | None]]) -> None:
        roster = self._roster
        try:
            roster.admit_fed([child for child, _block in children])
            closed: dict[Child, SpawnError | None] = {
                child: closed_descriptor(child.command) for child, block in children if block is None
            }
            self._flying.update((child._token, child) for child, _block in children)
            queue_all(roster, self._specs, children, closed, self._concurrency)
            for child, _block in children:
                if child.error is not None:
                    if self._flying.pop(child._token, None) is not None:
                        self._ready.append(child)
                elif child._flags & EARLY and roster.catch_up(child):
                    self._shaken = True
        except BaseException:
            # Ctrl-C may have come before or after the library took them: forget those that it has not.
            for child, _block in children:
                if not child._born:
                    self._flying.pop(child._token, None)
                    roster.drop(child)
            self._shaken = True
            raise

    def _read(self, *, wait: bool) -> None:
        """Enter news of ours."""
        if self._shaken:
            self._look_at_all()
        try:
            all_news: Iterable[list[NewsRecord]] = ()
            if not wait:
                all_news = self._mailbox.drain(self._sift)
            elif self._flying:
                all_news = (self._mailbox.take(FOREVER, patient=True, sift=self._sift) or [],)
            for news in all_news:
                for item in news:
                    self._roster.read(item)
                    child = self._flying.get(item[0])
                    if child is not None:
                        self._settle(child, item[1])
        except BaseException:
            self._shaken = True
            raise
        if self._halted and not self._flying:
            self._roster.close_feed(self)

    def _sift(self, briefs: Any, count: int) -> list[NewsRecord]:
        return self._roster.sift(briefs, count, self._flying, self._ready)

    def _look_at_all(self) -> None:
        """Ctrl-C has come into the reading of news: ask the library instead."""
        self._shaken = False
        try:
            for child in list(self._flying.values()):
                if child._born:
                    self._roster.look_at(child)
                    self._settle(child, child._handle.stand())
        except BaseException:
            self._shaken = True
            raise

    def _settle(self, child: C, stand: Stand) -> None:
        roster = self._roster
        state = stand & STAND_STATE
        with roster.lock:
            if roster.is_early(child):
                return
            if state > STATE_FAILED:
                roster.count_start(child)
            if state in (STATE_FAILED, STATE_DONE):
                # Another reader of the news may have been faster.
                if self._flying.pop(child._token, None) is not None:
                    self._ready.append(child)
            elif state > STATE_FAILED:
                roster.enlist(child)
