"""Environments, packed once for many starts: packing thirty costs more than all else."""

from __future__ import annotations

import os
from typing import Any

from .check import check
from .library import ffi, lib
from .owners import new_env_owner


def pack(block: bytes) -> Any:
    """An `fp_env` of NAME=value strings, each ended by a NUL, in its owner: it goes when that does."""
    owner = new_env_owner("env_owner *")
    check(lib.fp_env_new(block, len(block), ffi.addressof(owner, "env")))
    return owner


class Snapshot:
    """The environment of this process, packed again only when it has changed.

    ``os.environ`` keeps encoded bytes in the dictionary ``_data``; comparing that with a copy costs about one
    microsecond, because the strings are the same objects. Without ``_data`` it is packed for each start.
    """

    __slots__ = ("_packed",)

    def __init__(self) -> None:
        # The packed one, and what it was packed from; one value, as threads may be here at once.
        self._packed: tuple[Any, dict[bytes, bytes]] | None = None

    def current(self) -> Any:
        """The `fp_env` of now, in its owner."""
        return self.pair()[0]

    def pair(self) -> tuple[Any, dict[bytes, bytes]]:
        """The same, and what it was packed from."""
        # Looked up each time: tests put another object in the place of os.environ.
        source: dict[bytes, bytes] | None = getattr(os.environ, "_data", None)
        packed = self._packed
        if source is not None and packed is not None and source == packed[1]:
            return packed
        # One copy is both packed and remembered: a change by another thread meanwhile is seen the next time.
        if source is None:
            seen = {os.fsencode(name): os.fsencode(value) for name, value in os.environ.items()}
        else:
            seen = dict(source)
        env = pack(b"".join(b"%b=%b\0" % item for item in seen.items() if is_sound(item[0])))
        self._packed = packed = (env, seen)
        return packed


def is_sound(name: bytes) -> bool:
    """Whether a variable can be handed on; a program may have been given others, see execve(2)."""
    return bool(name) and b"=" not in name
