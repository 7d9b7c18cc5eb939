"""`fastproc queue logs`: what a task has printed, also while it runs, whoever runs it."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import click

from ..processor import LogEntry, Processor, TaskState
from .options import Reading
from .queue_open import AT_REST, ID, opened, queue_options
from .queue_words import clock, out, print_json

LOOK_EVERY = 0.1
"""Seconds between two looks at a log that is followed."""


def _count(text: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"{text!r} is no count of lines; write a whole number, 0 or more")
    return int(text)


@click.command(short_help="Print what a task has printed; -f follows it.")
@queue_options
@click.option(
    "-f", "--follow", is_flag=True, help="Go on as it prints more, until the task has come to rest."
)
@click.option(
    "-n", "--lines", type=Reading("count", _count), help="Only the last so many lines, to begin with."
)
@click.option("--attempt", type=click.IntRange(min=1), help="Only of this attempt.")
@click.option("--json", "as_json", is_flag=True, help="A JSON object a line, with the number of each entry.")
@click.argument("task_id", metavar="TASK", type=ID)
def logs(
    task_id: str,
    queue_dir: Path,
    open_to_others: bool,
    follow: bool,
    lines: int | None,
    attempt: int | None,
    as_json: bool,
) -> int:
    """Print what TASK has printed, through all its attempts.

    Control characters are escaped, so that no job can play tricks on a terminal; `fastproc queue show` says
    where the bytes are as they were. With --follow the exit code is 0 if the task is completed in the end
    and 1 if not.
    """
    with opened(queue_dir, make=False, open_to_others=open_to_others) as processor:
        state = processor.result(task_id).state
        if follow and state is TaskState.PENDING and not as_json:
            why = "" if processor.processors() else ", and nobody works on this queue: see fastproc queue run"
            click.echo(f"{task_id} is pending{why}", err=True)
        entries = _entries(processor, task_id, 0)
        if lines is not None:
            # The last one is kept also if none is wanted: to know from where to go on.
            entries = iter(deque(entries, maxlen=min(max(lines, 1), sys.maxsize)))
        after = 0
        for entry in entries:
            after = entry.sequence if lines == 0 else _print(entry, attempt, as_json=as_json)
        if not follow:
            return 0
        return _follow(processor, task_id, after, attempt, as_json=as_json)


def _entries(processor: Processor, task_id: str, after: int) -> Iterator[LogEntry]:
    """All that there are now after that number."""
    while piece := processor.task_logs(task_id, after=after):
        yield from piece
        after = piece[-1].sequence


def _follow(processor: Processor, task_id: str, after: int, attempt: int | None, *, as_json: bool) -> int:
    while True:
        # Asked before the log is read: what was printed until it came to rest is not missed.
        state = processor.result(task_id).state
        for entry in _entries(processor, task_id, after):
            after = _print(entry, attempt, as_json=as_json)
        if state in AT_REST:
            return 0 if state is TaskState.COMPLETED else 1
        time.sleep(LOOK_EVERY)


def _print(entry: LogEntry, attempt: int | None, *, as_json: bool) -> int:
    if attempt is None or entry.attempt == attempt:
        if as_json:
            print_json(entry, indent=None)
        elif entry.stream == "processor":
            when = "" if entry.timestamp is None else f"{clock(entry.timestamp)} "
            out(click.style(f"--- {when}{entry.message}", fg="red" if entry.level == "error" else "blue"))
        else:
            out(entry.message)
    return entry.sequence
