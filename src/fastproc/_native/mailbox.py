"""News of many processes for one consumer."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Any

from .check import check
from .handle import Handle
from .library import ffi, lib
from .owners import new_mailbox_owner
from .records import NewsRecord, read_news

_BATCH = 64
_take = lib.fp_mailbox_take


class Mailbox:
    """An `fp_mailbox`. Processes that still name it keep the C side of it alive."""

    __slots__ = ("_owner", "_spare", "mailbox")

    def __init__(self) -> None:
        self._owner = new_mailbox_owner("mailbox_owner *")
        check(lib.fp_mailbox_new(ffi.addressof(self._owner, "mailbox")))
        self.mailbox: Any = self._owner.mailbox
        self._spare: list[Any] = []

    def take(self, timeout_ns: int) -> list[NewsRecord] | None:
        """Some of the news, see read_news(); none on a wake-up or a signal. None: nothing came in time."""
        # Several threads may take at once, each into an array of its own.
        try:
            news = self._spare.pop()
        except IndexError:
            news = ffi.new("fp_news[]", _BATCH)
        try:
            count = _take(self.mailbox, news, _BATCH, timeout_ns)
            if count > 0:
                return list(read_news(news, count))
        finally:
            self._spare.append(news)
        if count == -errno.ETIMEDOUT:
            return None
        if count != -errno.EINTR:
            check(count)
        return []

    def drain(self) -> Iterator[NewsRecord]:
        """All that is there now, without blocking."""
        while news := self.take(0):
            yield from news
            if len(news) < _BATCH:
                break

    def fileno(self) -> int:
        """A descriptor that is readable while there are news."""
        return check(lib.fp_mailbox_fd(self.mailbox))

    def forget(self, handle: Handle) -> None:
        """Drop what is waiting about a process."""
        lib.fp_mailbox_forget(self.mailbox, handle.proc)

    def wake(self) -> None:
        """Let a blocked take() return."""
        check(lib.fp_mailbox_wake(self.mailbox))
