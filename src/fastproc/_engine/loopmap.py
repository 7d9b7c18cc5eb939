"""map() in an event loop: the driver of a Feed that awaits where Feed.finished() blocks."""

from __future__ import annotations

import sys
import time
from asyncio import AbstractEventLoop, CancelledError, Event, wait_for
from collections.abc import AsyncGenerator
from contextvars import Context
from typing import TypeVar

from .._native.handle import stop_many
from .._native.records import REASON_TERMINATED
from . import fork
from .child import Child
from .feed import Feed
from .roster import Roster
from .stopping import grace_of, verdict_seconds

C = TypeVar("C", bound=Child)


class _Bell:
    """What the loop calls when there are news. It alone holds this: when it is closed, all has to end."""

    __slots__ = ("_changed", "_feed", "_generation")

    def __init__(self, feed: Feed[C], changed: Event) -> None:
        self._feed = feed
        self._changed = changed
        self._generation = fork.generation

    def __call__(self) -> None:
        # Readable until the news are read, and who reads them has to have his turn.
        self._changed.set()

    def __del__(self) -> None:
        feed = self._feed
        if feed._flying and self._generation == fork.generation and not sys.is_finalizing():
            # No lock is taken: this may be called at any point.
            feed._halted = True
            handles = [child._handle for child in list(feed._flying.values())]
            stop_many([handle for handle in handles if handle.proc], REASON_TERMINATED, 0)


async def finished_in_loop(feed: Feed[C], roster: Roster, loop: AbstractEventLoop) -> AsyncGenerator[C, None]:
    """All of them, each when it is done or could not be started. Closing this stops what is left."""
    changed = Event()
    fd = feed._mailbox.fileno()
    watched = False
    try:
        roster.open_feed(feed)
        Context().run(loop.add_reader, fd, _Bell(feed, changed))
        watched = True
        while True:
            feed._top_up()
            child = feed._next()
            if child is not None:
                yield child
                if not feed._ready:
                    feed._read(wait=False)
            elif feed._flying:
                await changed.wait()
                changed.clear()
                feed._read(wait=False)
            elif feed.is_over:
                return
    finally:
        cancelled = await _end(feed, roster, changed)
        if watched:
            loop.remove_reader(fd)
        if cancelled is not None:
            raise cancelled


async def _end(feed: Feed[C], roster: Roster, changed: Event) -> CancelledError | None:
    """Stop what is left, each with its grace, and wait for that. Returns what came in between."""
    children = feed.halt()
    if not feed._flying:
        feed.drain()
        return None
    stop_many([child._handle for child in children], REASON_TERMINATED, 0)
    patience = max((verdict_seconds(roster, grace_of(child)) for child in children), default=0.0)
    until = time.monotonic() + patience
    cancelled = None
    while True:
        changed.clear()
        feed._read(wait=False)
        left = until - time.monotonic()
        if not feed._flying or left <= 0:
            return cancelled
        try:
            await wait_for(changed.wait(), left)
        except TimeoutError:
            continue
        except CancelledError as error:
            cancelled = cancelled or error
