"""`fastproc queue show`: all that is known of one task."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from ..errors import NoSuchTask
from ..processor import Attempt, Processor, TaskResult
from ..processor.logs import printable
from .quantities import in_seconds
from .queue_open import ID, opened, queue_options
from .queue_status import WIDE
from .queue_words import STYLES, attempt_words, clock, print_json, verdict

SHOWN_OUTPUT = 10
"""Lines of the output of the last attempt."""


@click.command(short_help="Show a task whole.")
@queue_options
@click.option("--json", "as_json", is_flag=True, help="As JSON, for programs.")
@click.argument("task_id", metavar="TASK", type=ID)
def show(task_id: str, queue_dir: Path, open_to_others: bool, as_json: bool) -> int:
    """Show TASK whole: where it stands in a sentence, its fields, its attempts, the end of its output."""
    with opened(queue_dir, make=False, open_to_others=open_to_others) as processor:
        result = processor.result(task_id)
        attempts = processor.attempts(task_id)
        fields = _fields(processor, task_id)
        if as_json:
            print_json(
                {
                    "id": task_id,
                    "state": result.state,
                    "verdict": verdict(result, time.time()),
                    "fields": fields,
                    "failures": result.failures,
                    "reason": result.reason,
                    "execution": result.execution,
                    "attempts": attempts,
                    "log_path": result.log_path,
                }
            )
        else:
            _show(result, attempts, fields)
    return 0


def _fields(processor: Processor, task_id: str) -> dict[str, Any]:
    """What its file says; nothing of one that cannot be read."""
    try:
        return dict(processor.task(task_id).fields)
    except NoSuchTask:
        return {}


def _show(result: TaskResult, attempts: list[Attempt], fields: dict[str, Any]) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDE)
    now = time.time()
    console.print(
        Text.assemble((result.task_id, "bold"), "  ", (verdict(result, now), STYLES[result.state])),
        soft_wrap=True,
    )
    for name, value in fields.items():
        if name == "id":
            continue
        words = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        first, *rest = words.splitlines() or [""]
        console.print(Text.assemble((f"  {name:<14}", "dim"), printable(first)), soft_wrap=True)
        for line in rest:
            console.print(Text(f"  {'':<14}{printable(line)}"), soft_wrap=True)
    if attempts:
        console.print(Text("attempts", style="bold"))
    for attempt in attempts:
        console.print(_attempt(attempt, now), soft_wrap=True)
    execution = result.execution
    if execution is not None and execution.output.strip():
        lines = execution.output.rstrip("\n").split("\n")
        console.print(
            Text("output:", style="bold"), Text(f"its last lines; all of it: {result.log_path}", style="dim")
        )
        for line in lines[-SHOWN_OUTPUT:]:
            console.print(Text(f"  {printable(line)}"), soft_wrap=True)
    elif result.log_path is not None:
        console.print(Text.assemble(("  log           ", "dim"), result.log_path), soft_wrap=True)


def _attempt(attempt: Attempt, now: float) -> Text:
    line = Text(f"  {attempt.number:>3}  {clock(attempt.begun_at, now)}")
    end = attempt.finished_at if attempt.finished_at is not None else now
    took = in_seconds(max(0.0, end - attempt.begun_at))
    line.append(f"  {took:>12}", style="dim")
    style = "green" if attempt.outcome == "succeeded" else "blue" if attempt.outcome is None else "red"
    line.append(f"  {printable(attempt_words(attempt))}", style=style)
    if attempt.outcome is None and attempt.pid is not None:
        line.append(f", process {attempt.pid}")
    if attempt.exit is not None:
        # Its memory is not told: what is not above that of who started it says nothing, see fork(2).
        usage = attempt.exit.rusage
        line.append(f"  {in_seconds(usage.user + usage.system)} of CPU", style="dim")
    return line
