"""From what the library says of an end to an ExitStatus.

Few ask for more than one or two of its fields, and it is made for each process; so it begins with the owner
of the process, and its fields are filled when somebody asks for one of them.
"""

from __future__ import annotations

from typing import Any, Final

from ..status import ExitReason, ExitStatus, ResourceUsage, read_late_by
from .library import ffi, lib
from .records import (
    ENDED_NS,
    EXIT_CORE_DUMPED,
    EXIT_ESCALATED,
    EXIT_FOREIGN,
    EXIT_LEFTOVERS,
    STAND_CODE,
    STAND_FLAGS,
    STAND_REASON,
    STAND_SIGNAL,
    STARTED_NS,
    ExitRecord,
    Stand,
    read_exit,
)

# A frozen dataclass sets its fields by name, which takes twice as long as its slots do, and a NamedTuple is
# made by a function in Python.
_new_object = object.__new__
_new_tuple = tuple.__new__
_set_source = ExitStatus._source.__set__  # type: ignore[attr-defined]
_set_reason = ExitStatus.__dict__["reason"].__set__
_set_code = ExitStatus.__dict__["code"].__set__
_set_signal = ExitStatus.__dict__["signal"].__set__
_set_core_dumped = ExitStatus.__dict__["core_dumped"].__set__
_set_escalated = ExitStatus.__dict__["escalated"].__set__
_set_foreign = ExitStatus.__dict__["foreign"].__set__
_set_leftovers = ExitStatus.__dict__["leftovers"].__set__
_set_started = ExitStatus.__dict__["started"].__set__
_set_ended = ExitStatus.__dict__["ended"].__set__
_set_rusage = ExitStatus.__dict__["rusage"].__set__

# In the order of enum fp_reason. A process of no reason has not ended, and is never asked for here.
_REASONS: Final = (ExitReason.UNKNOWN, *ExitReason)

_CORE_DUMPED: Final = EXIT_CORE_DUMPED << STAND_FLAGS
_ESCALATED: Final = EXIT_ESCALATED << STAND_FLAGS
_FOREIGN: Final = EXIT_FOREIGN << STAND_FLAGS
_LEFTOVERS: Final = EXIT_LEFTOVERS << STAND_FLAGS

_OF_THE_USAGE: Final = ("started", "ended", "rusage")


def status_of(stand: Stand, owner: Any) -> ExitStatus:
    """The status of a process in state EXITED or DONE, whose end has been counted."""
    status = _new_object(ExitStatus)
    _set_source(status, owner)
    # This one nearly everybody asks for.
    _set_code(status, (stand >> STAND_CODE) - 1 if stand >> STAND_CODE else None)
    return status


def status_of_record(record: ExitRecord) -> ExitStatus:
    """The status of one that there is nothing of but its record."""
    _state, reason, code, signal, flags, _pid, started_ns, ended_ns = record[:8]
    return ExitStatus(
        reason=_REASONS[reason],
        code=code if code >= 0 else None,
        signal=signal or None,
        core_dumped=flags & EXIT_CORE_DUMPED != 0,
        escalated=flags & EXIT_ESCALATED != 0,
        foreign=flags & EXIT_FOREIGN != 0,
        leftovers=flags & EXIT_LEFTOVERS != 0,
        started=started_ns / 1e9,
        ended=ended_ns / 1e9,
        rusage=_usage_of(record),
    )


def _usage_of(record: ExitRecord) -> ResourceUsage:
    return _new_tuple(ResourceUsage, (record[8] / 1e6, record[9] / 1e6, *record[10:]))


def _read(status: Any, name: str) -> object:
    if name in _OF_THE_USAGE:
        _fill_usage(status)
    else:
        _fill_end(status)
    return object.__getattribute__(status, name)


def _fill_end(status: Any) -> None:
    stand = status._source.stand
    _set_reason(status, _REASONS[stand >> STAND_REASON & 15])
    _set_signal(status, stand >> STAND_SIGNAL & 255 or None)
    _set_core_dumped(status, stand & _CORE_DUMPED != 0)
    _set_escalated(status, stand & _ESCALATED != 0)
    _set_foreign(status, stand & _FOREIGN != 0)
    _set_leftovers(status, stand & _LEFTOVERS != 0)


def _fill_usage(status: Any) -> None:
    exit_pointer = ffi.new("fp_exit *")
    lib.fp_proc_status(status._source.proc, exit_pointer)
    record = read_exit(exit_pointer)
    _set_rusage(status, _usage_of(record))
    _set_started(status, record[STARTED_NS] / 1e9)
    _set_ended(status, record[ENDED_NS] / 1e9)


read_late_by(_read)
