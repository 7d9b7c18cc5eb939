"""Tasks, attempts and moments in words, for all commands of `queue`; and plain values of them for --json."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import os
import shlex
import sys
import time
from collections.abc import Mapping
from typing import Any

import click
from rich.text import Text

from ..processor import Attempt, QueueStatus, Task, TaskState
from ..processor.task import TaskResult
from ..status import ExitStatus
from .outcome import shortened
from .quantities import counted, in_seconds

STYLES = {
    "pending": "cyan",
    "in-progress": "blue",
    "completed": "green",
    "failed": "red",
    "quarantine": "magenta",
    "paused": "yellow",
}
"""What each state looks like, where there are colours."""

OUTCOMES = {
    "succeeded": "done",
    "failed": "failed",
    "refused": "refused",
    "rate_limited": "rate limited",
    "lost": "end unknown",
    "cancelled": "cancelled",
    "given_back": "given back",
}


def clock(at: float, now: float | None = None) -> str:
    """A moment in local time: `14:32:10`, with the date if it is of another day."""
    moment = dt.datetime.fromtimestamp(at).astimezone()
    today = dt.datetime.fromtimestamp(time.time() if now is None else now).astimezone().date()
    return moment.strftime("%H:%M:%S" if moment.date() == today else "%Y-%m-%d %H:%M:%S")


def until(at: float, now: float) -> str:
    """A moment to come, and how far off it is: `14:32:10 (in 4 min 10 s)`."""
    return f"{clock(at, now)} (in {in_seconds(max(0.0, at - now))})"


def ticking(length: float) -> str:
    """A length of time that is looked at while it grows: tenths of seconds, and never more digits."""
    return f"{max(0.0, length):.1f} s" if length < 60 else in_seconds(length)


def what(task: Task, width: int = 60) -> str:
    """What a task is about, on one line."""
    if task.title:
        words = task.title
    elif task.args is not None:
        words = shlex.join(task.args)
    else:
        words = (
            task.prompt or task.notes or " ".join(filter(None, (task.type, task.operation, *task.targets)))
        )
    return shortened(" ".join(words.split()), width)


def counts(status: QueueStatus) -> Text:
    """`12 pending · 3 in progress · ...`, what there is none of left out but for the first ones."""
    line = Text()
    for state, count in (
        ("pending", status.pending),
        ("in-progress", status.in_progress),
        ("completed", status.completed),
        ("failed", status.failed),
        ("quarantine", status.quarantine),
    ):
        if count == 0 and state in ("failed", "quarantine"):
            continue
        if line:
            line.append(" · ", style="dim")
        style = STYLES[state] if count else "dim"
        line.append(f"{count}", style=f"bold {style}" if count else "dim")
        line.append(f" {'in progress' if state == 'in-progress' else state}", style=style)
    return line


def pause_words(status: QueueStatus, now: float) -> str:
    """Why nothing is started, or nothing."""
    if not status.paused:
        return ""
    if status.paused_until is None:
        return "paused"
    return f"paused for a rate limit until {until(status.paused_until, now)}"


def verdict(result: TaskResult, now: float) -> str:
    """Where a task stands, in one sentence."""
    tries = counted(result.attempts, "attempt")
    how = OUTCOMES.get(result.outcome or "", result.outcome or "")
    match result.state:
        case TaskState.COMPLETED:
            said = result.execution.message if result.execution is not None else ""
            words = f"Completed at the {_ordinal(result.attempts)} attempt"
            return sentence(words, said)
        case TaskState.FAILED:
            words = "Cancelled" if result.outcome == "cancelled" else f"Failed after {tries}"
            return sentence(words, "" if result.reason == "cancelled" else result.reason)
        case TaskState.QUARANTINE:
            return sentence("Put away: it is no task", result.reason)
        case TaskState.IN_PROGRESS:
            took = (
                "" if result.started_at is None else f", for {in_seconds(max(0.0, now - result.started_at))}"
            )
            return f"In progress{took}: attempt {result.attempts}."
        case _:
            if result.attempts:
                return sentence(
                    f"Waits for its next attempt; the last one, of {result.attempts}: {how}", result.reason
                )
            return "Waits for its first attempt."


def sentence(words: str, more: str) -> str:
    """Both in one line, with a full stop."""
    joined = f"{words}: {' '.join(more.split())}" if more else words
    return joined if joined.endswith((".", "!", "?")) else f"{joined}."


def _ordinal(number: int) -> str:
    words = {1: "first", 2: "second", 3: "third"}
    return words.get(number, f"{number}th")


def attempt_words(attempt: Attempt) -> str:
    """What came of an attempt."""
    if attempt.outcome is None:
        return "runs" if attempt.finished_at is None and attempt.pid is not None else "begun"
    how = OUTCOMES.get(attempt.outcome, attempt.outcome)
    said = "" if attempt.reason == attempt.outcome else attempt.reason
    if not said and attempt.execution is not None:
        said = attempt.execution.message
    return sentence(how, said)


# ---- plain values ----


def plain(value: object) -> Any:
    """Dataclasses and mappings as JSON says them."""
    if isinstance(value, ExitStatus):
        return {
            "code": value.code,
            "signal": value.signal,
            "reason": str(value.reason),
            "escalated": value.escalated,
            "seconds": round(value.duration, 6),
            "explanation": value.explain(),
        }
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, float)) else str(value)


def print_json(value: object, *, indent: int | None = 2) -> None:
    """On standard output."""
    out(json.dumps(plain(value), indent=indent))


def out(text: str) -> None:
    """A line on standard output, at once; what its encoding lacks is escaped."""
    encoding = sys.stdout.encoding or "utf-8"
    try:
        click.echo(text.encode(encoding, "backslashreplace").decode(encoding))
    except BrokenPipeError:
        # What is still in the buffer would fail once more at exit, with a message and code 120.
        os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), sys.stdout.fileno())
        raise
