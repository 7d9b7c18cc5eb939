"""What is known of a queue from its events, and the bounds of a rate limit: values in, values out."""

from __future__ import annotations

import click
import pytest

from fastproc.cli.queue_board import Board, summary
from fastproc.cli.queue_run import _rate_limit
from fastproc.processor import ExecutionResult, RateLimit, TaskState
from fastproc.processor.events import (
    RateLimitPause,
    RateLimitResume,
    TaskCompleted,
    TaskFailed,
    TaskProgress,
    TaskStarted,
    TaskStatusChanged,
)

PENDING, RUNS, FAILED = TaskState.PENDING, TaskState.IN_PROGRESS, TaskState.FAILED


def started(task_id: str, *, attempt: int = 1, adopted: bool = False) -> TaskStarted:
    return TaskStarted(task_id=task_id, attempt=attempt, pid=7, at=100.0, adopted=adopted)


def moved(task_id: str, after: TaskState) -> TaskStatusChanged:
    return TaskStatusChanged(task_id=task_id, at=103.0, before=RUNS, after=after)


def failed(task_id: str, *, final: bool, outcome: str = "failed") -> TaskFailed:
    return TaskFailed(
        task_id=task_id, attempt=2, at=103.0, outcome=outcome, final=final, reason="no\nluck", retry_at=105.0
    )


def words(board: Board, *events: object) -> list[str]:
    """The lines of events, without the time of day."""
    lines = [board.hear(event, 200.0) for event in events]  # type: ignore[arg-type]
    return [str(line)[9:] for line in lines if line is not None]


def test_what_runs_is_there_until_it_has_ended() -> None:
    board = Board()
    words(board, started("a"), started("b", attempt=2))
    words(board, TaskProgress(task_id="a", attempt=1, at=101.0, log_bytes=3, last_line="half"))
    assert [(row.task_id, row.attempt, row.last_line) for row in board.running.values()] == [
        ("a", 1, "half"),
        ("b", 2, ""),
    ]
    done = ExecutionResult(success=True, message="All done")
    assert words(board, TaskCompleted(task_id="a", attempt=1, at=103.0, execution=done)) == [
        "done        a  3.0 s: All done."
    ]
    assert list(board.running) == ["b"]


def test_what_meets_a_rate_limit_runs_no_more() -> None:
    board = Board()
    said = words(board, started("a"), RateLimitPause(task_id="a", at=103.0, until=163.0), moved("a", PENDING))
    assert board.running == {}
    assert board.paused_until == 163.0
    assert said[1].startswith("PAUSED      a  meets a rate limit: nothing new until ")
    assert said[1].endswith(" (in 1 min 00 s)")
    words(board, RateLimitResume(at=163.0))
    assert board.paused_until is None


def test_a_failure_says_when_it_is_tried_again_and_when_it_is_the_last() -> None:
    board = Board()
    assert words(board, started("a"), moved("a", PENDING), failed("a", final=False))[1:] == [
        "failed      a  attempt 2, again in 2.0 s: no luck."
    ]
    assert (board.running, board.ended[FAILED]) == ({}, 0)
    assert words(board, started("a"), moved("a", FAILED), failed("a", final=True))[1:] == [
        "FAILED      a  after 2 attempts: no luck."
    ]
    assert (board.running, board.ended[FAILED], list(board.failures)) == ({}, 1, [("a", "no luck")])


def test_what_is_given_back_is_told_only_when_the_queue_stops() -> None:
    board = Board()
    assert words(board, started("a"), moved("a", PENDING))[1:] == []
    board.stopping = True
    assert words(board, started("a"), moved("a", PENDING))[1:] == [
        "given back  a  3.0 s: it is pending again."
    ]
    assert board.given_back == 1
    # One that had failed before it was told to end moves in the same way, and then says so.
    words(board, started("b"), moved("b", PENDING), failed("b", final=False))
    assert board.given_back == 1


def test_what_a_crash_has_left_is_told_when_it_is_found() -> None:
    (said,) = words(Board(), started("a", adopted=True))
    assert said.startswith("found alive a  process 7, started ")


def test_the_summary_bounds_what_it_lists() -> None:
    board = Board()
    for number in range(30):
        words(board, started(f"t{number}"), failed(f"t{number}", final=True))
    lines = summary(board, 2.0, {f"b{number}": ("x",) for number in range(30)}, 5)
    assert lines[0] == "30 tasks in 2.0 s: 0 completed, 30 failed"
    assert sum("no luck" in line for line in lines) == 10
    assert any("and 20 before them" in line for line in lines)
    assert sum("waits for x" in line for line in lines) == 10
    assert lines[-1] == "  pending      5"


@pytest.mark.parametrize(
    ("given", "bounds"),
    [
        ((None, None, None), (300.0, 1800.0, 14400.0)),
        ((1.0, None, 2.0), (1.0, 2.0, 2.0)),
        ((None, None, 10.0), (10.0, 10.0, 10.0)),
        ((None, 60.0, None), (60.0, 60.0, 14400.0)),
        ((7200.0, None, None), (7200.0, 7200.0, 14400.0)),
        ((86400.0, None, None), (86400.0, 86400.0, 86400.0)),
        ((1.0, 2.0, 3.0), (1.0, 2.0, 3.0)),
    ],
)
def test_bounds_that_are_not_given_move_as_far_as_they_must(
    given: tuple[float | None, float | None, float | None], bounds: tuple[float, float, float]
) -> None:
    assert _rate_limit(*given) == RateLimit(shortest=bounds[0], usual=bounds[1], longest=bounds[2])


@pytest.mark.parametrize("given", [(2.0, None, 1.0), (2.0, 1.0, None), (None, 2.0, 1.0), (3.0, 2.0, 1.0)])
def test_bounds_in_the_wrong_order_are_refused(
    given: tuple[float | None, float | None, float | None],
) -> None:
    with pytest.raises(click.UsageError, match="none may be shorter than the one before"):
        _rate_limit(*given)
