"""What ledger.c keeps of processes and does in the plain cases; it is given here what it needs of Python."""

from __future__ import annotations

import sys
from typing import Any

from ..status import ExitStatus
from . import _direct
from .environment import Snapshot
from .library import ffi, lib
from .owners import PROC_OWNER, new_proc_owner

Entry = _direct.Entry
Ledger = _direct.Ledger
set_engine = _direct.set_engine

hear_entry = _direct.hear_entry
"""Wait for the end of an Entry, and enter it. False: the long way is to be taken, and nothing is lost."""


def _never(_entry: Entry, /) -> bool:
    return False


# What it takes for the bytes of a string is UTF-8.
start_entry = _direct.start_entry if sys.getfilesystemencoding() == "utf-8" else _never
"""Start an Entry of which nothing is said but its arguments. False: the long way is to be taken.

Raises what a start raises. The process is in the entry then, if there is one.
"""


def _address(pointer: Any) -> int:
    return int(ffi.cast("uintptr_t", pointer))


def _function(name: str) -> int:
    return _address(ffi.addressof(lib, name))


def _wrapped(cell: Any) -> Any:
    """An owner for cffi that is the memory of `cell`, and keeps it."""
    at = ffi.cast("void *", cell.address)
    new = ffi.new_allocator(lambda _size: at, cell.let_go, should_clear_after_alloc=False)
    return new(PROC_OWNER)


def _proc_at(address: int) -> Any:
    return ffi.cast("fp_proc *", address)


# The environment of all plain starts.
_environment = Snapshot()


def _keep_environment() -> None:
    owner = _environment.current()
    _direct.keep_for_starts(_environment.seen, owner, _address(owner.env), 0)


_direct.set_up_ledger(
    (_function("start_plain"), _function("await_end"), _function("drop_news"), _function("fp_proc_free")),
    ffi.sizeof("proc_owner"),
    new_proc_owner,
    PROC_OWNER,
    _wrapped,
    _address,
    _proc_at,
    _keep_environment,
    ExitStatus,
)


def starts_address(starts: Any) -> int:
    """Where the `starts` of a Starter are."""
    return _address(starts)
