"""What is kept beside a task, read again, whole or torn."""

from __future__ import annotations

from hypothesis import given, strategies as st

from fastproc.processor import journal
from fastproc.processor.core import Outcome
from fastproc.processor.logs import last_line, printable
from fastproc.processor.store import Record
from fastproc.processor.task import ExecutionResult, TaskState
from fastproc.status import ExitStatus

RECORD = Record(
    id="a",
    attempt=2,
    state=TaskState.PENDING,
    outcome=Outcome.FAILED,
    failures=1,
    retry_at=5.0,
    log="a.2.log",
)


def test_a_record_is_read_as_it_was_written() -> None:
    content = journal.record_bytes(RECORD)
    assert journal.read_record(content) == RECORD
    for length in range(len(content) - 2):
        assert journal.read_record(content[:length]) is None


@given(st.binary(max_size=200))
def test_no_bytes_make_a_record_by_accident_or_fail(content: bytes) -> None:
    assert journal.read_record(content) is None
    journal.lines(content)


def test_a_status_survives() -> None:
    for status in (
        ExitStatus.exited(3, started=1, ended=2),
        ExitStatus.signaled(9),
        ExitStatus.unknown(),
        None,
    ):
        again = journal.exit_status(journal.exit_fields(status))
        assert again == status
        if status is not None and again is not None:
            assert (again.started, again.rusage) == (status.started, status.rusage)
    assert journal.exit_status({"reason": "of no kind"}) is None
    assert journal.execution_result({"success": True, "message": "x"}) == ExecutionResult(
        success=True, message="x"
    )
    assert journal.execution_result({"nonsense": 1}) is None


def test_a_torn_last_line_is_no_line() -> None:
    whole = journal.line(event="claimed", attempt=1) + journal.line(event="started", attempt=1, pid=7)
    assert [note["event"] for note in journal.lines(whole)] == ["claimed", "started"]
    assert [note["event"] for note in journal.lines(whole[:-3])] == ["claimed"]
    assert [note["event"] for note in journal.lines(whole[:-3] + b"\n" + journal.line(event="retry"))] == [
        "claimed",
        "retry",
    ]


def test_a_history_tells_the_attempt_that_is_open() -> None:
    notes = [
        {"event": "claimed", "attempt": 1},
        {"event": "started", "attempt": 1, "pid": 5},
        {"event": "claimed", "attempt": 2, "processor": "p"},
    ]
    before = Record(id="a", attempt=1, state=TaskState.PENDING, outcome=Outcome.FAILED, failures=2)
    found = journal.history(notes, None, before)
    assert (found.attempts, found.failures, found.started, found.record) == (2, 2, None, None)
    assert found.claimed == notes[2]

    notes.append({"event": "retry"})
    assert journal.history(notes, RECORD, None).reset
    assert journal.history(notes, RECORD, None).failures == 0


def test_what_is_shown_cannot_move_a_terminal() -> None:
    assert printable("plain ä\tx") == "plain ä\tx"
    assert printable("\x1b[31mred\x07") == "\\x1b[31mred\\x07"
    assert printable("a\u202eb\r") == "a\\u202eb"
    assert printable("one\rtwo") == "one\\rtwo"
    assert last_line(b"first\n50%\r100%\r\n\n") == "100%"
    assert last_line(b"\n \n") == ""
