"""Forked copies of the program, which own nothing of what the original has started."""

from __future__ import annotations

import os
from collections.abc import Callable

from ..errors import ForkedHandle

generation = 0
"""How many forks lie between the program that was started and this process."""

_forgetters: list[Callable[[], None]] = []


def in_copy(forget: Callable[[], None]) -> None:
    """Have `forget` called in each forked copy, before it goes on."""
    _forgetters.append(forget)


def check_generation(born: int) -> None:
    """Raise ForkedHandle if what was made in generation `born` is used in a copy."""
    if born != generation:
        raise ForkedHandle


def _forked() -> None:
    global generation
    generation += 1
    for forget in _forgetters:
        forget()


os.register_at_fork(after_in_child=_forked)
