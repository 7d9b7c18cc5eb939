"""News of many processes for one consumer."""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from .check import check
from .library import ffi, lib
from .owners import new_mailbox_owner
from .records import NEWS_ORPHAN, ExitRecord, NewsRecord, read_briefs, read_exit

Sift = Callable[[Any, int], list[NewsRecord]]
"""Takes an array of `brief` and their number, and gives the news that are still to be seen to."""

_BATCH = 128
_new = ffi.new
_take = lib.take_news


class Mailbox:
    """An `fp_mailbox`. Processes that still name it keep the C side of it alive."""

    __slots__ = ("_orphans", "_owner", "_spare", "mailbox")

    def __init__(self) -> None:
        self._owner = new_mailbox_owner("mailbox_owner *")
        check(lib.fp_mailbox_new(ffi.addressof(self._owner, "mailbox")))
        self.mailbox: Any = self._owner.mailbox
        self._spare: list[Any] = []
        self._orphans: deque[ExitRecord] = deque()

    def take(
        self, timeout_ns: int, *, patient: bool = False, sift: Sift = read_briefs
    ) -> list[NewsRecord] | None:
        """Some of the news; none on a wake-up or a signal. None: nothing came in time.

        With `patient` those of a batch are waited for until somebody would be woken for them: they are many
        then, and each time a thread reads some it takes a CPU from the starts. `sift` sees them first.
        """
        return self._take(timeout_ns, patient, sift)[1]

    def _take(self, timeout_ns: int, patient: bool, sift: Sift) -> tuple[int, list[NewsRecord] | None]:
        """How many have come; and what take() says."""
        # Several threads may take at once, each into arrays of its own.
        try:
            arrays = self._spare.pop()
        except IndexError:
            arrays = (_new("fp_news[]", _BATCH), _new("brief[]", _BATCH), _new("uint32_t *"))
        try:
            news, briefs, what = arrays
            count = _take(self.mailbox, news, briefs, _BATCH, timeout_ns, patient, what)
            if count > 0:
                if what[0] & NEWS_ORPHAN:
                    self._keep_orphans(news, count)
                return count, sift(briefs, count)
        finally:
            self._spare.append(arrays)
        if count == -errno.ETIMEDOUT:
            return 0, None
        if count != -errno.EINTR:
            check(count)
        return 0, []

    def rest(self, timeout_ns: int) -> bool:
        """Sleep until wake(), whatever news there are: they wake nobody meanwhile. False: it did not come."""
        result = lib.fp_mailbox_rest(self.mailbox, timeout_ns)
        return result != -errno.ETIMEDOUT and (result == -errno.EINTR or check(result) == 0)

    def _keep_orphans(self, news: Any, count: int) -> None:
        """A piece of news about an orphan is all there is of it: no token leads to more."""
        for index in range(count):
            if news[index].what & NEWS_ORPHAN:
                self._orphans.append(read_exit(ffi.addressof(news[index], "exit")))

    def next_orphan(self) -> ExitRecord | None:
        """How the next of the reaped orphans has ended that news have been taken about."""
        try:
            return self._orphans.popleft()
        except IndexError:
            return None

    def drain(self, sift: Sift = read_briefs) -> Iterator[list[NewsRecord]]:
        """All that is there now, or what `sift` leaves of it, without blocking, in lists."""
        count = _BATCH
        while count == _BATCH:
            count, news = self._take(0, False, sift)
            if news:
                yield news

    def fileno(self) -> int:
        """A descriptor that is readable while there are news."""
        return check(lib.fp_mailbox_fd(self.mailbox))

    def tell_orphans(self, where: Mailbox) -> None:
        """Have orphans of those processes that tell their news here told of there."""
        check(lib.fp_mailbox_tell_orphans(self.mailbox, where.mailbox))

    def wake(self) -> None:
        """Let a blocked take() or rest() return."""
        check(lib.fp_mailbox_wake(self.mailbox))
