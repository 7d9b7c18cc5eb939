"""Seconds of the interface, nanoseconds of the library; both on the monotonic clock."""

from __future__ import annotations

import time

NANOSECONDS = 1_000_000_000
FOREVER = -1
# About 146 years: what is longer is for ever, and cannot overflow when a clock is added to it.
_LONGEST = 1 << 62


def nanoseconds(seconds: float) -> int:
    """A length of time, never negative; infinity is as long as can be."""
    if seconds <= 0:
        return 0
    if seconds * NANOSECONDS >= _LONGEST:
        return _LONGEST
    return int(seconds * NANOSECONDS)


def timeout_ns(seconds: float | None) -> int:
    """How long to wait: None is for ever."""
    return FOREVER if seconds is None or seconds * NANOSECONDS >= _LONGEST else nanoseconds(seconds)


def length_ns(seconds: float | None) -> int:
    """A time-out of a process, where 0 means none: one of no length is the shortest there is."""
    return 0 if seconds is None else max(nanoseconds(seconds), 1)


def grace_ns(seconds: float) -> int:
    """A grace, where 0 means the default: one of no length is written as a negative one."""
    return nanoseconds(seconds) or -1


def deadline(timeout: float | None) -> float | None:
    """The point on the monotonic clock that lies `timeout` ahead."""
    return None if timeout is None else time.monotonic() + timeout


def remaining_ns(until: float | None) -> int:
    """How long it is to that point, 0 when it has passed, for ever when there is none."""
    return FOREVER if until is None else nanoseconds(until - time.monotonic())
