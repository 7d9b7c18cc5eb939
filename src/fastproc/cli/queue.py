"""`fastproc queue`: the commands around a queue of tasks."""

from __future__ import annotations

import click

from .queue_add import add
from .queue_change import cancel, resume, retry
from .queue_logs import logs
from .queue_run import run
from .queue_show import show
from .queue_status import status


@click.group()
def queue() -> None:
    """Keep tasks in a directory, and run each for certain, none twice at once, through crashes of all kinds.

    The directory is ./queue, or what --queue or FASTPROC_QUEUE says.
    """


for command in (add, run, status, logs, show, cancel, retry, resume):
    queue.add_command(command)
