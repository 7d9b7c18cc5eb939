"""What is known of a queue that runs, from its events: what runs now, what has come of the rest; and each
event in words. No clock and no output here.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

from ..processor import TaskState
from ..processor.events import (
    HealthChanged,
    QueueEvent,
    RateLimitPause,
    RateLimitResume,
    TaskCompleted,
    TaskFailed,
    TaskProgress,
    TaskQuarantined,
    TaskStarted,
    TaskStatusChanged,
)
from ..processor.logs import printable
from .quantities import counted, in_seconds
from .queue_words import OUTCOMES, STYLES, clock, sentence, until

KEPT_FAILURES = 10
_PLAIN_SUCCESS = "Exited with code 0"


@dataclass(slots=True)
class Row:
    """A task that runs."""

    task_id: str
    attempt: int
    pid: int
    started_at: float
    adopted: bool = False
    last_line: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """An event in words: `14:32:10 FAILED      build  after 3 attempts: ...`."""

    at: float
    word: str
    task_id: str
    words: str = ""
    style: str = ""

    def __str__(self) -> str:
        # Names of files and words of executors may hold anything; this goes to a terminal, on one line.
        words = "  ".join(printable(" ".join(part.split())) for part in (self.task_id, self.words) if part)
        return f"{clock(self.at, self.at)} {self.word:<11} {words}".rstrip()


@dataclass(slots=True)
class Board:
    """Enter each event with hear(), in order.

    Attributes:
        running: what runs, in the order in which it was started.
        ended: how many tasks came to rest, by state; attempts: how many attempts have ended.
        paused_until: the end of a rate limit's pause, in seconds since 1970.
        failures: the last tasks that failed, and why.
        finishing: set when nothing new is started any more.
        stopping: set when what runs is told to end: what is put back from then on is told of.
    """

    running: dict[str, Row] = field(default_factory=dict)
    ended: Counter[TaskState] = field(default_factory=Counter)
    attempts: int = 0
    given_back: int = 0
    paused_until: float | None = None
    causes: tuple[str, ...] = ()
    failures: deque[tuple[str, str]] = field(default_factory=lambda: deque(maxlen=KEPT_FAILURES))
    finishing: bool = False
    stopping: bool = False
    _put_back: set[str] = field(default_factory=set)

    def hear(self, event: QueueEvent, now: float) -> Line | None:
        """Enter an event; what a person should read of it, if anything. `now` in seconds since 1970."""
        match event:
            case TaskStarted():
                row = Row(event.task_id, event.attempt, event.pid, event.at, event.adopted)
                self.running[event.task_id] = row
                if event.adopted:
                    words = f"process {event.pid}, started {clock(event.at, now)}"
                    return Line(now, "found alive", event.task_id, words, STYLES["in-progress"])
                tries = "" if event.attempt == 1 else f"attempt {event.attempt}, "
                return Line(event.at, "started", event.task_id, f"{tries}process {event.pid}", "dim")
            case TaskProgress():
                if (found := self.running.get(event.task_id)) is not None:
                    found.last_line = event.last_line
                return None
            case TaskCompleted():
                self.ended[TaskState.COMPLETED] += 1
                took = self._took(event.task_id, event.at)
                said = event.execution.message if event.execution is not None else ""
                if said.startswith(_PLAIN_SUCCESS):
                    said = ""
                return Line(event.at, "done", event.task_id, _words(took, said), STYLES["completed"])
            case TaskFailed():
                return self._failed(event)
            case TaskQuarantined():
                self.ended[TaskState.QUARANTINE] += 1
                return Line(event.at, "QUARANTINE", event.name, event.reason, STYLES["quarantine"])
            case TaskStatusChanged():
                return self._moved(event)
            case RateLimitPause():
                self.paused_until = event.until
                words = f"meets a rate limit: nothing new until {until(event.until, event.at)}"
                return Line(event.at, "PAUSED", event.task_id, words, STYLES["paused"])
            case RateLimitResume():
                self.paused_until = None
                return Line(event.at, "resumed", "", "the rate limit's pause is over", STYLES["paused"])
            case HealthChanged():
                self.causes = event.causes
                words = "; ".join(event.causes) or "all is well again"
                style = "red" if event.causes else STYLES["completed"]
                return Line(event.at, "DEGRADED" if event.causes else "healthy", "", words, style)

    def _took(self, task_id: str, at: float) -> str:
        row = self.running.pop(task_id, None)
        if row is None:
            return ""
        self.attempts += 1
        return in_seconds(max(0.0, at - row.started_at))

    def _failed(self, event: TaskFailed) -> Line:
        took = self._took(event.task_id, event.at)
        if event.task_id in self._put_back:
            # It had failed before it was told to end.
            self._put_back.discard(event.task_id)
            self.given_back -= 1
        reason = " ".join(event.reason.split())
        if not event.final:
            again = "" if event.retry_at is None else f", again {_soon(event.retry_at - event.at)}"
            how = OUTCOMES.get(event.outcome, event.outcome)
            words = _words(f"attempt {event.attempt}{again}", reason)
            return Line(event.at, how, event.task_id, words, STYLES["paused"])
        self.ended[TaskState.FAILED] += 1
        if event.outcome == "cancelled":
            self.failures.append((event.task_id, "cancelled"))
            return Line(event.at, "cancelled", event.task_id, took, STYLES["failed"])
        self.failures.append((event.task_id, reason))
        words = _words(f"after {counted(event.attempt, 'attempt')}", reason)
        return Line(event.at, "FAILED", event.task_id, words, STYLES["failed"])

    def _moved(self, event: TaskStatusChanged) -> Line | None:
        """Of moves only what no other event tells: given back, done again, settled after a crash."""
        if event.reason == "finished after a crash":
            return Line(
                event.at, "recovered", event.task_id, f"it is {event.after}, as was decided before", "dim"
            )
        if event.before is not TaskState.IN_PROGRESS or event.after is not TaskState.PENDING:
            return None
        took = self._took(event.task_id, event.at)
        if not self.stopping:
            return None
        self.given_back += 1
        self._put_back.add(event.task_id)
        return Line(
            event.at, "given back", event.task_id, _words(took, "it is pending again"), STYLES["paused"]
        )


def _words(first: str, more: str) -> str:
    return sentence(first, more) if first and more else first or more


def _soon(seconds: float) -> str:
    return "at once" if seconds < 0.05 else f"in {in_seconds(seconds)}"


def summary(board: Board, elapsed: float, blocked: dict[str, tuple[str, ...]], left: int) -> list[str]:
    """What came of it all, line by line."""
    ended = board.ended
    total = sum(ended.values())
    completed, failed = ended[TaskState.COMPLETED], ended[TaskState.FAILED]
    rate = f", {total / elapsed:.0f} a second" if elapsed > 0 and total >= 100 else ""
    lines = [
        f"{counted(total, 'task')} in {in_seconds(elapsed)}{rate}: {completed} completed, {failed} failed"
    ]
    if ended[TaskState.QUARANTINE]:
        lines[0] += f", {ended[TaskState.QUARANTINE]} in quarantine"
    for index, (task_id, reason) in enumerate(board.failures):
        label = "failed" if index == 0 else ""
        lines.append(f"  {label:<12} {task_id}: {printable(reason)}")
    if failed > len(board.failures):
        lines.append(
            f"  {'':<12} and {failed - len(board.failures)} before them: fastproc queue status failed"
        )
    for index, (task_id, others) in enumerate(list(blocked.items())[:KEPT_FAILURES]):
        label = "blocked" if index == 0 else ""
        lines.append(f"  {label:<12} {task_id} waits for {', '.join(others)}")
    if board.given_back:
        lines.append(f"  {'given back':<12} {board.given_back}")
    if left:
        lines.append(f"  {'pending':<12} {left}")
    return lines
