"""From an exit record to an ExitStatus."""

from __future__ import annotations

from ..status import ExitReason, ExitStatus, ResourceUsage
from .records import EXIT_CORE_DUMPED, EXIT_ESCALATED, EXIT_FOREIGN, EXIT_LEFTOVERS, ExitRecord

# This is done for each process. A frozen dataclass sets its fields by name, which takes twice as long as its
# slots do, and a NamedTuple is made by a function in Python.
_new_object = object.__new__
_new_tuple = tuple.__new__
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
_REASONS = (ExitReason.UNKNOWN, *ExitReason)


def status_of(record: ExitRecord) -> ExitStatus:
    """The status that a process in state EXITED or DONE has ended with."""
    (
        _state,
        reason,
        code,
        signal,
        flags,
        _pid,
        started_ns,
        ended_ns,
        user_us,
        system_us,
        max_rss,
        minor_faults,
        major_faults,
        blocks_in,
        blocks_out,
        voluntary_switches,
        involuntary_switches,
    ) = record
    usage = _new_tuple(
        ResourceUsage,
        (
            user_us / 1e6,
            system_us / 1e6,
            max_rss,
            minor_faults,
            major_faults,
            blocks_in,
            blocks_out,
            voluntary_switches,
            involuntary_switches,
        ),
    )
    status = _new_object(ExitStatus)
    _set_reason(status, _REASONS[reason])
    _set_code(status, code if code >= 0 else None)
    _set_signal(status, signal or None)
    _set_core_dumped(status, flags & EXIT_CORE_DUMPED != 0)
    _set_escalated(status, flags & EXIT_ESCALATED != 0)
    _set_foreign(status, flags & EXIT_FOREIGN != 0)
    _set_leftovers(status, flags & EXIT_LEFTOVERS != 0)
    _set_started(status, started_ns / 1e9)
    _set_ended(status, ended_ns / 1e9)
    _set_rusage(status, usage)
    return status
