"""`fastproc queue cancel`, `retry` and `resume`: what is to become of what is there already."""

from __future__ import annotations

import time
from pathlib import Path

import click

from ..errors import NoSuchTask
from ..processor import Processor, TaskState
from .options import TIME
from .quantities import in_seconds
from .queue_open import AT_REST, ID, opened, queue_options, state_words
from .queue_words import out


@click.command(short_help="Have tasks not done, or their runs ended.")
@queue_options
@click.option("--wait", type=TIME, help="Wait so long for the end of those that run: 5, 10s, 1m.")
@click.argument("task_ids", metavar="TASK...", nargs=-1, required=True, type=ID)
def cancel(task_ids: tuple[str, ...], queue_dir: Path, open_to_others: bool, wait: float | None) -> int:
    """Have tasks not done: those that are pending go to failed, those that run are ended first.

    The exit code is 1 if one of them had come to rest already, or still runs after --wait.
    """
    with opened(queue_dir, make=False, open_to_others=open_to_others) as processor:
        _check_all(processor, task_ids)
        code = 0
        asked = []
        for task_id in task_ids:
            if not processor.cancel(task_id):
                out(f"{task_id}: {_rest(processor, task_id)} already")
                code = 1
            elif processor.result(task_id).state in AT_REST:
                out(f"{task_id}: {_rest(processor, task_id)}")
            else:
                asked.append(task_id)
                word = (
                    ""
                    if processor.processors()
                    else "; nobody works on this queue: the next one that does heeds it"
                )
                out(f"{task_id}: asked to end{word}")
        if wait is not None and not _wait(processor, asked, wait):
            code = 1
    return code


def _wait(processor: Processor, task_ids: list[str], seconds: float) -> bool:
    """Say what becomes of those; whether all are over in time."""
    end = time.monotonic() + seconds
    left = list(task_ids)
    while left:
        for task_id in list(left):
            if processor.result(task_id).state in AT_REST:
                out(f"{task_id}: {_rest(processor, task_id)}")
                left.remove(task_id)
        if left and time.monotonic() > end:
            for task_id in left:
                out(f"{task_id}: still runs after {in_seconds(seconds)}")
            return False
        if left:
            time.sleep(0.05)
    return True


@click.command(short_help="Have tasks done again.")
@queue_options
@click.option("--failed", "all_failed", is_flag=True, help="All that have failed.")
@click.argument("task_ids", metavar="TASK...", nargs=-1, type=ID)
def retry(task_ids: tuple[str, ...], queue_dir: Path, open_to_others: bool, all_failed: bool) -> int:
    """Have tasks done again that have failed, were completed or are in quarantine; their failures are
    forgotten.

    One that is pending or runs is left as it is.
    """
    if not task_ids and not all_failed:
        raise click.UsageError("which tasks? name them, or --failed for all that have failed")
    with opened(queue_dir, make=False, open_to_others=open_to_others) as processor:
        _check_all(processor, task_ids)
        wanted = dict.fromkeys(task_ids)
        if all_failed:
            wanted |= dict.fromkeys(processor.tasks(TaskState.FAILED))
        for task_id in wanted:
            before = processor.result(task_id).state
            processor.retry(task_id)
            if before in AT_REST:
                out(f"{task_id}: pending again")
            else:
                out(f"{task_id}: {state_words(before)} already")
        if all_failed and not wanted:
            out("none has failed")
    return 0


@click.command(short_help="End a rate limit's pause.")
@queue_options
def resume(queue_dir: Path, open_to_others: bool) -> int:
    """End the pause of a rate limit before its time, also for a Processor that waits for it."""
    with opened(queue_dir, make=False, open_to_others=open_to_others) as processor:
        paused = processor.queue_status().paused
        processor.resume()
        out("goes on" if paused else "was not paused")
    return 0


def _check_all(processor: Processor, task_ids: tuple[str, ...]) -> None:
    """All are there, before anything happens to one of them."""
    for task_id in task_ids:
        try:
            processor.result(task_id)
        except NoSuchTask:
            raise click.ClickException(
                f"no task {task_id!r} is in the queue {processor.queue_dir!r}; nothing has been changed"
            ) from None


def _rest(processor: Processor, task_id: str) -> str:
    result = processor.result(task_id)
    if result.outcome == "cancelled":
        return "cancelled"
    return state_words(result.state)
