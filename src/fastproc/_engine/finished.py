"""Processes that have ended not long ago, so that one can still ask for them by name."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING
from weakref import ref

from ..errors import TaskId
from .child import HEARD

if TYPE_CHECKING:
    from .child import Child

COUNT_AT_MOST = 10_000
_BYTES_AT_MOST = 64 << 20


class Finished:
    """The last ones, bounded by number and by bytes of output. Called with the roster's lock held."""

    __slots__ = (
        "_bytes", "_count_at_most", "_older", "_older_at_most", "_sizes", "by_task", "in_order", "unheard",
    )  # fmt: skip

    def __init__(self, count_at_most: int = COUNT_AT_MOST) -> None:
        """With `count_at_most` 0 nobody ever asks."""
        self._count_at_most = count_at_most
        # Those of whose end nobody has heard yet who waits, by token.
        self.unheard: dict[int, Child] = {}
        # Of these the ones that are remembered no more, as long as anybody has them in his hands. Without
        # callbacks for those that go: what Ctrl-C raises in such a one is lost.
        self._older: dict[int, ref[Child]] = {}
        self._older_at_most = COUNT_AT_MOST
        self.by_task: dict[TaskId, Child] = {}
        self.in_order: deque[Child] = deque()
        # How many bytes of output those keep that keep any, by token.
        self._sizes: dict[int, int] = {}
        self._bytes = 0

    def add(self, child: Child, output_bytes: int) -> None:
        """Remember `child`, which has ended and keeps that much output."""
        if not self._count_at_most:
            return
        # See also remember() in ledger.c, which does the same for the simple ones.
        self.by_task[child.task_id] = child
        self.in_order.append(child)
        if output_bytes:
            self._sizes[child._token] = output_bytes
            self._bytes += output_bytes
        if not child._flags & HEARD:
            self.unheard[child._token] = child
        self.forget_oldest()

    def forget_oldest(self) -> None:
        """Those that are too many."""
        while len(self.in_order) > self._count_at_most or self._bytes > _BYTES_AT_MOST:
            oldest = self.in_order.popleft()
            self._bytes -= self._sizes.pop(oldest._token, 0)
            if self.unheard.pop(oldest._token, None) is not None:
                self.keep_weakly(oldest)
            # The id may be in use again by a later one that has ended too.
            if self.by_task.get(oldest.task_id) is oldest:
                del self.by_task[oldest.task_id]

    def keep_weakly(self, child: Child) -> None:
        """Nobody has heard of its end, and it is too old to be remembered: it is, while somebody keeps it."""
        self._older[child._token] = ref(child)
        if len(self._older) > self._older_at_most:
            for token in [token for token, known in [*self._older.items()] if known() is None]:
                self._older.pop(token, None)
            self._older_at_most = COUNT_AT_MOST + 2 * len(self._older)

    def all_unheard(self) -> dict[int, Child]:
        """Those of whose end nobody has heard, by token."""
        # A list first: while it is gone through, some of them go, and finalisers run.
        older = [known() for known in [*self._older.values()]]
        return {**{child._token: child for child in older if child is not None}, **self.unheard}

    def mark_heard(self, child: Child) -> None:
        """Somebody who waits has heard of it."""
        self.unheard.pop(child._token, None)
        self._older.pop(child._token, None)

    def get(self, task_id: TaskId) -> Child | None:
        """The last one of that name."""
        return self.by_task.get(task_id)
