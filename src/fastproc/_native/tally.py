"""What a manager has counted, added up in the library: an end is counted where it is heard of, once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..metrics import RUN_BOUNDS, SPAWN_BOUNDS, Sums
from ..status import ExitReason
from .clock import nanoseconds
from .library import ffi, lib

_NEVER = 2**63 - 1
_starts = lib.tally_starts


class Tally:
    """Starts and ends of the processes of one manager. Safe from any thread."""

    __slots__ = ("tally",)

    def __init__(self) -> None:
        self.tally: Any = ffi.new("tally *")
        self.tally.spawn_bounds_ns = [*map(nanoseconds, SPAWN_BOUNDS), _NEVER]
        self.tally.run_bounds_ns = [*map(nanoseconds, RUN_BOUNDS), _NEVER]

    def starts(self, seconds: float | None, number: int = 1) -> Iterator[None]:
        """Count that so many programs run; each took `seconds` to start, or None: it has waited for its turn.

        That is done by the one step of a loop over this, in which it is to be noted that it was: signal
        handlers run before the step or behind it, and not in between.
        """
        return map(_starts, (self.tally,), (number,), (-1 if seconds is None else nanoseconds(seconds),))

    def count_end(self, owner: Any) -> None:
        """A process has ended; nothing happens if that has been counted."""
        lib.tally_end(self.tally, owner)

    def read(self) -> Sums:
        """All, as of one moment."""
        sums = ffi.new("sums *")
        lib.tally_read(self.tally, sums)
        return Sums(
            started=sums.started,
            exited=sums.exited,
            signaled=sums.signaled,
            status_unknown=sums.unknown,
            escalated=sums.escalated,
            killed=sums.killed,
            cpu_user_seconds=sums.user_us / 1e6,
            cpu_system_seconds=sums.system_us / 1e6,
            max_rss_bytes=sums.max_rss_bytes,
            spawn_seconds=sums.spawn_ns / 1e9,
            spawn_counts=tuple(sums.spawn_counts[0 : len(SPAWN_BOUNDS) + 1]),
            run_seconds=sums.run_ns / 1e9,
            run_counts=tuple(sums.run_counts[0 : len(RUN_BOUNDS) + 1]),
            reasons={reason: sums.reasons[number] for number, reason in enumerate(ExitReason, 1)},
        )
