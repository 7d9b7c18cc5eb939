"""How arguments of verbs are checked: each check takes the name to blame and the value, and returns it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from operator import index
from typing import Any, SupportsIndex, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

_MOST_SIGNALS = 64


def seconds(name: str, value: float) -> float:
    """A length of time, never negative and always a number; infinity will do."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, not {value!r}")
    if not value >= 0:
        raise ValueError(f"{name} must be 0 or more seconds, not {value}")
    # A whole number may be too large for a float.
    return float(min(value, sys.float_info.max)) if isinstance(value, int) else value


def optional_seconds(name: str, value: float | None) -> float | None:
    """The same, where None is for ever."""
    return None if value is None else seconds(name, value)


def time_left(name: str, value: float | None) -> float | None:
    """How long to wait, None for ever. What is left of a time may be less than nothing: that is none."""
    if isinstance(value, (int, float)) and value < 0:
        return 0.0
    return optional_seconds(name, value)


def callback(name: str, value: F) -> F:
    """Something to be called later, when it would be too late to complain."""
    if not callable(value):
        raise TypeError(f"{name} must be callable, not {value!r}")
    return value


def signal_number(name: str, value: int) -> int:
    """What kill(2) takes: a signal, or 0, which only asks whether one could be sent."""
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        raise TypeError(f"{name} must be a signal such as signal.SIGTERM, or its number, not {value!r}")
    number = index(value)
    if not 0 <= number <= _MOST_SIGNALS:
        raise ValueError(f"{name} must be a signal, a number from 0 to {_MOST_SIGNALS}, not {value}")
    return number


def flag(name: str, value: bool) -> bool:
    """Yes or no; a word would be taken for yes."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {value!r}")
    return value
