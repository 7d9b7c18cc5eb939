"""The library's records as tuples, read in one go: a field at a time through cffi costs ten times as much."""

from __future__ import annotations

import struct
from typing import Any, Final

from .library import ffi, lib

STATE_QUEUED: Final[int] = lib.FP_STATE_QUEUED
STATE_FAILED: Final[int] = lib.FP_STATE_FAILED
STATE_RUNNING: Final[int] = lib.FP_STATE_RUNNING
STATE_EXITED: Final[int] = lib.FP_STATE_EXITED
STATE_DONE: Final[int] = lib.FP_STATE_DONE

NEWS_STARTED: Final[int] = lib.FP_NEWS_STARTED
NEWS_FAILED: Final[int] = lib.FP_NEWS_FAILED
NEWS_EXITED: Final[int] = lib.FP_NEWS_EXITED
NEWS_DONE: Final[int] = lib.FP_NEWS_DONE
NEWS_UNKILLABLE: Final[int] = lib.FP_NEWS_UNKILLABLE
NEWS_ESCALATED: Final[int] = lib.FP_NEWS_ESCALATED
NEWS_OUTPUT: Final[int] = lib.FP_NEWS_OUTPUT
NEWS_ORPHAN: Final[int] = lib.FP_NEWS_ORPHAN

EXIT_CORE_DUMPED: Final[int] = lib.FP_EXIT_CORE_DUMPED
EXIT_ESCALATED: Final[int] = lib.FP_EXIT_ESCALATED
EXIT_FOREIGN: Final[int] = lib.FP_EXIT_FOREIGN
EXIT_UNKILLABLE: Final[int] = lib.FP_EXIT_UNKILLABLE
EXIT_LEFTOVERS: Final[int] = lib.FP_EXIT_LEFTOVERS
EXIT_LEFTOVERS_ESCALATED: Final[int] = lib.FP_EXIT_LEFTOVERS_ESCALATED

REASON_TERMINATED: Final[int] = lib.FP_REASON_TERMINATED
REASON_CANCELLED: Final[int] = lib.FP_REASON_CANCELLED

# fp_exit: state, reason, code, signal, flags, pid, started_ns, ended_ns, then the nine numbers of fp_usage.
ExitRecord = tuple[int, ...]
STATE, REASON, CODE, SIGNAL, FLAGS, PID, STARTED_NS, ENDED_NS = range(8)
# fp_failure: error, stage, detail.
FailureRecord = tuple[int, int, int]
# brief: token, how it stands, kinds, then a FailureRecord.
NewsRecord = tuple[int, ...]

# How a process stands, in one number: see `stand` in glue.h.
Stand = int
STAND_STATE: Final = 7
STAND_FLAGS: Final = 3
STAND_REASON: Final = 12
STAND_SIGNAL: Final = 16
STAND_CODE: Final = 24

_EXIT = struct.Struct("=4iIi11q")
_FAILURE = struct.Struct("=3i4x")
_BRIEF = struct.Struct("=QqI3i")

if [_EXIT.size, _FAILURE.size, _BRIEF.size] != [ffi.sizeof(it) for it in ("fp_exit", "fp_failure", "brief")]:
    raise ImportError("the headers and fastproc._native.records disagree about the layout of a record")

_unpack_exit = _EXIT.unpack
_unpack_failure = _FAILURE.unpack
_buffer = ffi.buffer


def read_exit(exit_pointer: Any) -> ExitRecord:
    """What a `fp_exit *` holds."""
    return _unpack_exit(_buffer(exit_pointer))


def read_failure(failure_pointer: Any) -> FailureRecord:
    """What a `fp_failure *` holds."""
    return _unpack_failure(_buffer(failure_pointer))


def read_briefs(briefs: Any, count: int) -> list[NewsRecord]:
    """The first `count` of an array of `brief`."""
    return list(_BRIEF.iter_unpack(_buffer(briefs, count * _BRIEF.size)))
