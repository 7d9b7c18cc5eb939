"""`fastproc queue status`: how many tasks are where, what runs, what has failed."""

from __future__ import annotations

import heapq
import os
import time
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..errors import NoSuchTask
from ..processor import ProcessInfo, Processor, ProcessorInfo, QueueStatus, Task, TaskResult, TaskState
from ..processor.logs import printable
from ..processor.task import split_name
from .outcome import shortened
from .quantities import counted, in_seconds
from .queue_open import opened, queue_options, state_words
from .queue_words import STYLES, clock, counts, out, pause_words, print_json, ticking, verdict, what

SHOWN_FAILURES = 5
WIDE = 400
"""How wide a table may be that goes to no terminal: it is not to be cut."""


@click.command(short_help="Show how many tasks are where, and what runs.")
@queue_options
@click.option("--json", "as_json", is_flag=True, help="As JSON, for programs.")
@click.argument(
    "states",
    nargs=-1,
    type=click.Choice([str(state) for state in TaskState]),
    metavar="[STATE...]",
)
def status(states: tuple[str, ...], queue_dir: Path, open_to_others: bool, as_json: bool) -> int:
    """Show how many tasks are where, what runs, and what has failed last.

    With STATE (pending, in-progress, completed, failed, quarantine): all tasks that are there, a line each.
    """
    with opened(queue_dir, make=False, open_to_others=open_to_others) as processor:
        if states:
            _list(processor, states, as_json=as_json)
        else:
            _overview(processor, as_json=as_json)
    return 0


def _list(processor: Processor, states: tuple[str, ...], *, as_json: bool) -> None:
    now = time.time()
    for state in dict.fromkeys(states):
        if state == TaskState.QUARANTINE:
            _list_quarantine(processor, as_json=as_json)
            continue
        for task_id in processor.tasks(state):
            known = _known(processor, task_id)
            if known is None:
                continue
            result, task = known
            if as_json:
                print_json({"id": task_id, "about": what(task), **_result_fields(result)}, indent=None)
            else:
                about = what(task, 40)
                words = verdict(result, now)
                out(f"{task_id:<24}  {state_words(state):<13}  {about:<40}  {shortened(words, 200)}".rstrip())


def _list_quarantine(processor: Processor, *, as_json: bool) -> None:
    """By file name: much of what is there has no task's id."""
    for name, reason in processor.quarantined():
        if as_json:
            print_json({"name": name, "state": TaskState.QUARANTINE, "reason": reason}, indent=None)
        else:
            out(f"{shortened(name, 60):<24}  in quarantine  {shortened(reason, 200)}".rstrip())


def _known(processor: Processor, task_id: str) -> tuple[TaskResult, Task] | None:
    """What is known of a task, unless it has just been removed."""
    try:
        result = processor.result(task_id)
    except NoSuchTask:
        return None
    try:
        return result, processor.task(task_id)
    except NoSuchTask:
        return result, Task(id=task_id)


def _result_fields(result: TaskResult) -> dict[str, Any]:
    return {
        "state": result.state,
        "attempts": result.attempts,
        "outcome": result.outcome,
        "reason": result.reason,
        "started_at": result.started_at,
        "finished_at": result.finished_at,
        "log_path": result.log_path,
    }


def _overview(processor: Processor, *, as_json: bool) -> None:
    found = processor.queue_status()
    infos = processor.get_running_processes_info()
    workers = processor.processors()
    failures = _last_failures(processor)
    if as_json:
        fields: dict[str, Any] = {"queue": processor.queue_dir}
        for name in ("pending", "in_progress", "completed", "failed", "quarantine"):
            fields[name] = getattr(found, name)
        print_json(
            fields
            | {
                "paused": found.paused,
                "paused_until": found.paused_until,
                "slots": found.slots if workers else None,
                "health": found.health,
                "causes": found.causes,
                "processors": workers,
                "running": [_running_fields(info) for info in infos],
                "last_failures": [{"id": name, **_result_fields(result)} for name, result in failures],
            }
        )
        return
    _show(processor, found, infos, workers, failures)


def _running_fields(info: ProcessInfo) -> dict[str, Any]:
    return {
        "id": info.task_id,
        "title": info.title,
        "priority": info.priority,
        "attempt": info.attempt,
        "pid": info.pid or None,
        "started_at": info.started_at,
        "elapsed": round(info.elapsed, 3),
        "log_bytes": info.log_bytes,
        "last_line": info.last_line,
        "log_path": info.log_path,
    }


def _show(
    processor: Processor,
    found: QueueStatus,
    infos: list[ProcessInfo],
    workers: list[ProcessorInfo],
    failures: list[tuple[str, TaskResult]],
) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDE)
    now = time.time()
    whose = ", ".join(_worker_words(worker, now) for worker in workers)
    head = Text.assemble((processor.queue_dir, "bold"), "  ")
    head.append(
        f"worked on by {whose}" if workers else "nobody works on it", style="" if workers else "yellow"
    )
    console.print(head, soft_wrap=True)
    console.print(counts(found), soft_wrap=True)
    if workers:
        # None is what one has that is to start nothing, or could not say how many.
        use = f"{found.in_progress} of {counted(found.slots, 'slot')} in use" if found.slots else "no slots"
        console.print(Text(f"{use}, {'healthy' if found.health == 'ok' else found.health}"), soft_wrap=True)
    for cause in found.causes:
        console.print(Text(f"  {printable(cause)}", style=STYLES["failed"]), soft_wrap=True)
    if pause := pause_words(found, now):
        console.print(pause, style=STYLES["paused"], soft_wrap=True)
    if infos and not workers:
        console.print(
            "What is in progress has lost its Processor; the next `queue run` finds out what became of it.",
            style=STYLES["paused"],
            soft_wrap=True,
        )
    if infos:
        console.print(_running_table(processor, infos, fit=console.is_terminal))
    if failures:
        console.print(Text("failed last", style="bold"))
        for task_id, result in failures:
            when = "" if result.finished_at is None else clock(result.finished_at, now)
            line = Text.assemble(
                f"  {when}  ", (task_id, STYLES["failed"]), f"  {shortened(verdict(result, now), 160)}"
            )
            console.print(line, soft_wrap=True)


def _worker_words(worker: ProcessorInfo, now: float) -> str:
    words = f"process {worker.pid} on {worker.host}, for {in_seconds(max(0.0, now - worker.started_at))}"
    return f"{words} (stopping)" if worker.stopping else words


def _running_table(processor: Processor, infos: list[ProcessInfo], *, fit: bool) -> Table:
    """What runs, a line each; cut at the right of a terminal."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", expand=fit)
    table.add_column("running", style=STYLES["in-progress"], no_wrap=True, overflow="ellipsis", max_width=28)
    table.add_column("try", justify="right", no_wrap=True)
    table.add_column("elapsed", justify="right", no_wrap=True)
    table.add_column("pid", justify="right", no_wrap=True)
    table.add_column("about", no_wrap=True, overflow="ellipsis", ratio=2 if fit else None)
    table.add_column("last line", no_wrap=True, overflow="ellipsis", ratio=3 if fit else None)
    for info in infos:
        known = _known(processor, info.task_id)
        table.add_row(
            info.task_id,
            str(info.attempt),
            ticking(info.elapsed),
            str(info.pid or "-"),
            Text("" if known is None else what(known[1], 40)),
            Text(info.last_line, style="dim"),
        )
    return table


def _last_failures(processor: Processor) -> list[tuple[str, TaskResult]]:
    """The tasks that have failed last, the latest first."""
    with os.scandir(Path(processor.queue_dir) / TaskState.FAILED) as entries:
        # A rename is a change of the file's inode, see rename(2): that is when it got there.
        moved = ((_changed(entry), parts[0]) for entry in entries if (parts := split_name(entry.name)))
        names = [name for _at, name in heapq.nlargest(SHOWN_FAILURES, moved)]
    known = ((name, _known(processor, name)) for name in names)
    return [(name, found[0]) for name, found in known if found is not None]


def _changed(entry: os.DirEntry[str]) -> float:
    try:
        return entry.stat(follow_symlinks=False).st_ctime
    except OSError:
        return 0.0  # removed just now
