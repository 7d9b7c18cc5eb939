"""`fastproc batch`: a list of commands, so many at a time."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import click

from ..events import Unkillable
from ..manager import ProcessManager
from .display import make_display
from .feed import BadList, open_feed
from .inbox import Inbox, Interrupts
from .joblog import Done, JobLog, JobLogError, read_done
from .options import LIMIT_NAMES, chosen, shared_options
from .runner import Policy, Runner

MOST_FAILURES = 125
"""The exit code counts failures up to here: 126 and above mean other things to a shell."""


@click.command()
@click.option(
    "-j",
    "--jobs",
    "at_once",
    type=click.IntRange(min=1),
    help="So many at a time (default: CPUs).",
)
@shared_options
@click.option("--joblog", type=click.Path(dir_okay=False), help="Append a line per ended job to this file.")
@click.option("--resume", is_flag=True, help="Skip what the job log says to be done, well or not.")
@click.option("--retry-failed", is_flag=True, help="Skip what the job log says to have succeeded.")
@click.option(
    "--shell/--no-shell",
    default=True,
    help="Run each line by /bin/sh (default), or cut it into words and execute it itself.",
)
@click.option(
    "--output",
    type=click.Choice(["group", "discard", "inherit"]),
    default="group",
    show_default=True,
    help="Show each job's output when it has ended, drop it, or let all write as they like.",
)
@click.option(
    "--keep-output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write the output of each job to files in this directory instead.",
)
@click.option("--fail-fast", is_flag=True, help="Stop all at the first failure.")
@click.argument("file", required=False, type=click.Path())
def batch(
    file: str | None,
    at_once: int | None,
    joblog: str | None,
    resume: bool,
    retry_failed: bool,
    shell: bool,
    output: str,
    keep_output: Path | None,
    fail_fast: bool,
    **options: Any,
) -> int:
    """Run the commands in FILE (standard input: -), one a line, and tell how each that failed has ended.

    Empty lines and lines that begin with # are skipped. A line may begin with options of its own:

    \b
        @timeout=30s,address-space=1G,name=convert  ./convert.py big.svg

    The options are name, timeout, idle-timeout, grace, stop-signal, cwd, nice, containment, cpu-time,
    address-space, data, file-size, core, stack, open-files, processes, and by cgroup memory, pids, cpus.

    The exit code is the number of failed jobs, 125 at most; 125 also if fastproc itself failed; 130 after
    Ctrl-C, which stops all jobs gracefully and, the second time, kills them.
    """
    if file is None:
        if sys.stdin is not None and sys.stdin.isatty():
            raise click.UsageError("no list of commands: name a FILE, or - to type it")
        file = "-"
    if (resume or retry_failed) and joblog is None:
        raise click.UsageError("--resume and --retry-failed need --joblog FILE, the log of the earlier run")
    if options["idle_timeout"] is not None and (keep_output is not None or output == "inherit"):
        raise click.UsageError(
            "--idle-timeout listens to the output of the jobs, which with --keep-output and --output inherit "
            "does not pass through here; leave one of them out"
        )

    inbox: Inbox = SimpleQueue()
    with ExitStack() as stack:
        try:
            feed = open_feed(file, inbox, shell=shell)
            stack.callback(feed.close)
            if keep_output is not None:
                keep_output.mkdir(parents=True, exist_ok=True)
            log = None if joblog is None else stack.enter_context(JobLog(joblog))
            done: Done | None = read_done(joblog) if joblog is not None and (resume or retry_failed) else None
        except BadList as error:
            raise click.ClickException(f"{file}: nothing has been started\n{error}") from None
        except JobLogError as error:
            raise click.ClickException(str(error)) from None
        except OSError as error:
            raise click.ClickException(f"{error.filename or file}: {error.strerror}") from None

        policy = Policy(
            at_once=at_once or len(os.sched_getaffinity(0)),
            settings=chosen(options, ("timeout", "idle_timeout", "grace", "containment")),
            limits=chosen(options, LIMIT_NAMES),
            grace=options["grace"],
            output=output,
            keep_output=keep_output,
            fail_fast=fail_fast,
            retry_failed=retry_failed,
        )
        display = make_display()

        def observe(event: object) -> None:
            if isinstance(event, Unkillable):
                inbox.put(event)

        stack.enter_context(Interrupts(inbox))
        manager = stack.enter_context(ProcessManager(name="batch", die_with_parent=True, on_event=observe))
        runner = Runner(manager, feed, inbox, display, policy, log=log, done=done)
        try:
            summary = runner.run()
        except JobLogError as error:
            # What has ended without a line in it would be done again by --resume.
            manager.close(timeout=policy.grace)
            raise click.ClickException(f"{error}; what still ran has been stopped") from None
        summary.survivors = list(manager.close(timeout=policy.grace).survivors)
        for line in summary.lines():
            display.say(line)
    if runner.interrupt is not None:
        return 128 + runner.interrupt
    return min(summary.failed, MOST_FAILURES)
