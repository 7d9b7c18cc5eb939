"""What ledger.c, entry.c and many.c keep of processes and do in the plain cases.

They are given here what they need of Python.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from ..command import plain_block
from ..status import ExitStatus
from . import _direct
from .environment import Snapshot
from .library import ffi, lib
from .owners import PROC_OWNER, new_proc_owner
from .records import NewsRecord

_cast = ffi.cast

Entry = _direct.Entry
Ledger = _direct.Ledger
set_engine = _direct.set_engine

hear_entry = _direct.hear_entry
"""Wait for the end of an Entry, so many seconds at most (None: for ever), and enter it.

False: the long way is to be taken, also where the time is over. Nothing is lost.
"""


queue_entries = _direct.queue_entries
"""Queue many Entries, see Starter.start_all_plain(). 0 or -errno."""
await_starts = _direct.await_starts
"""Block until each of these Entries has been started or has failed; how many have, or -errno."""


def _never(_entry: Entry, /) -> bool:
    return False


def args_block(args: object) -> bytes | None:
    """As plain_block() of command.py has it, which is asked where there may be bytes that are no text."""
    block = _direct.plain_block(args) if _is_utf8 else None
    return plain_block(args) if block is None else block


def _not_plain(_kind: type, _roster: Ledger, _task_id: object, _args: object, /) -> None:
    return None


# What they take for the bytes of a string is UTF-8.
_is_utf8 = sys.getfilesystemencoding() == "utf-8"
plain_entry: Callable[[type, Ledger, Any, Any], tuple[Any, bytes] | None] = (
    _direct.plain_entry if _is_utf8 else _not_plain
)
"""An Entry of that type and its arguments as a block, if they are sound and no more is said; else None."""
start_entry = _direct.start_entry if _is_utf8 else _never
"""Start an Entry of which nothing is said but its arguments. False: the long way is to be taken.

Raises what a start raises. The process is in the entry then, if there is one.
"""


def address(pointer: Any) -> int:
    """Where what a cffi pointer points to is."""
    return int(_cast("uintptr_t", pointer))


def enter_ends(
    ledger: Ledger, briefs: Any, count: int, flying: dict[int, Any] | None, ready: Any
) -> list[NewsRecord]:
    """Enter those of an array of `brief` that are nothing but an end; returns the others, in their order.

    Each of them that is in `flying`, by its token, is moved from there to the end of `ready`. To be called
    with the lock of the ledger.
    """
    return _direct.enter_ends(ledger, address(briefs), count, flying, ready)


def _function(name: str) -> int:
    return address(ffi.addressof(lib, name))


def _wrapped(cell: Any) -> Any:
    """An owner for cffi that is the memory of `cell`, and keeps it."""
    at = ffi.cast("void *", cell.address)
    new = ffi.new_allocator(lambda _size: at, cell.let_go, should_clear_after_alloc=False)
    return new(PROC_OWNER)


def _proc_at(address: int) -> Any:
    return ffi.cast("fp_proc *", address)


# As struct ledger_library has them.
_FUNCTIONS = (
    "start_plain",
    "await_end",
    "drop_news",
    "fp_proc_free",
    "fp_proc_pid",
    "start_all_plain",
    "wait_all_started",
    "count_starts",
    "count_end",
)

# The environment of all plain starts.
_environment = Snapshot()


def _keep_environment() -> None:
    owner, seen = _environment.pair()
    _direct.keep_for_starts(seen, owner, address(owner.env), 0)


_direct.set_up_ledger(
    tuple(map(_function, _FUNCTIONS)),
    (ffi.sizeof("proc_owner"), ffi.sizeof("brief")),
    new_proc_owner,
    PROC_OWNER,
    _wrapped,
    address,
    _proc_at,
    _keep_environment,
    ExitStatus,
)
