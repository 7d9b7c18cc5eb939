"""What the engine keeps of one process."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .._native.handle import Handle
from .._native.ledger import Entry
from ..command import Arg, Command, plain_command
from ..errors import SpawnError, TaskId
from ..status import ExitStatus

if TYPE_CHECKING:
    from .roster import Roster

# What has been told and counted already; that a start under way is not wanted any more; that somebody who
# waits has heard of the end; that news came before the start had returned, so that the starter enters them;
# that its start was interrupted before it was counted.
TOLD_STARTED = 1
TOLD_ESCALATED = 2
UNKILLABLE = 4
DOOMED = 8
COUNTED = 16
HEARD = 32
EARLY = 64
TOLD_EXITED = 128
UNCOUNTED = 256


class Child(Entry):
    """One process: its command, its handle, and how it ended once that is known. `Process` is its face.

    Small, because there may be many thousands: no lock, list or dictionary unless somebody needs one.
    What changes here changes with the roster's lock held.
    """

    __slots__ = ("__weakref__",)

    # Its fields are those of Entry.
    task_id: TaskId
    error: SpawnError | None
    # The arguments alone, if plain_block() has found nothing wrong with them.
    _what: Command | tuple[Arg, ...]
    _roster: Roster
    # The thread that is starting it: an interruption of that very thread must not wait for the start.
    _starter: int
    _status: ExitStatus | None
    # Whom to call, and in which state: EXITED or DONE.
    _callbacks: list[tuple[int, Callable[[Any], object]]] | None

    @property
    def command(self) -> Command:
        """What was asked for."""
        what = self._what
        if isinstance(what, tuple):
            # Made when somebody asks: it takes as long as all else that Python does for a start.
            self._what = what = plain_command(what)
        return what

    @property
    def _handle(self) -> Handle:
        """What can be asked of it and done to it."""
        return Handle(self._owner)
