"""What the user sees of a batch: a live bar on a terminal, plain lines elsewhere.

Our own words go to standard error, so that standard output holds what the jobs have written and nothing else.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from .quantities import counted

PLAIN_INTERVAL = 5.0
"""Seconds between two plain lines of progress."""


class Display(Protocol):
    """Shows a batch. All calls come from the main thread."""

    def begin(self, total: int | None) -> None: ...

    def say(self, text: str) -> None:
        """Show a line of ours."""

    def output(self, stdout: bytes, stderr: bytes) -> None:
        """Pass on what a job has written, in one piece.

        Raises:
            OSError: nobody takes it.
        """

    def progress(self, done: int, failed: int, running: int) -> None: ...

    def end(self) -> None: ...


def make_display() -> Display:
    """The display that suits where standard error goes."""
    console = Console(stderr=True)
    return BarDisplay(console) if can_be_live(console) else PlainDisplay()


def can_be_live(console: Console) -> bool:
    """Whether what is shown there can be drawn again at its place."""
    return console.is_terminal and not console.is_dumb_terminal and "TERM" in os.environ


def _write(stdout: bytes, stderr: bytes) -> None:
    for stream, text in ((sys.stdout, stdout), (sys.stderr, stderr)):
        if text:
            try:
                stream.flush()
                stream.buffer.write(text)
                stream.buffer.flush()
            except OSError:
                # What is still in the buffer would fail once more at exit, with a message and code 120.
                os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), stream.fileno())
                raise


class PlainDisplay:
    """Lines of text; one about the progress every few seconds."""

    def __init__(self) -> None:
        self._total: int | None = None
        self._next = time.monotonic() + PLAIN_INTERVAL

    def begin(self, total: int | None) -> None:
        self._total = total

    def say(self, text: str) -> None:
        encoding = sys.stderr.encoding or "utf-8"
        print(text.encode(encoding, "replace").decode(encoding), file=sys.stderr, flush=True)

    def output(self, stdout: bytes, stderr: bytes) -> None:
        _write(stdout, stderr)

    def progress(self, done: int, failed: int, running: int) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + PLAIN_INTERVAL
        jobs = counted(done, "job") if self._total is None else f"{done} of {self._total} jobs"
        self.say(f"... {jobs} done, {failed} failed, {running} running")

    def end(self) -> None:
        pass


class BarDisplay:
    """A progress bar that stays at the bottom while lines scroll above it."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[failed]} failed, {task.fields[running]} running"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            refresh_per_second=8,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task: TaskID | None = None

    def begin(self, total: int | None) -> None:
        self._task = self._bar.add_task("jobs", total=total, failed=0, running=0)
        self._bar.start()

    def say(self, text: str) -> None:
        self._console.out(text, highlight=False)

    def output(self, stdout: bytes, stderr: bytes) -> None:
        if sys.stdout.isatty():
            # Above the bar, which is redrawn below it: the console must know of it.
            if text := (stdout + stderr).decode(errors="replace"):
                self._console.out(text, end="" if text.endswith("\n") else "\n", highlight=False)
            return
        _write(stdout, b"")
        if text := stderr.decode(errors="replace"):
            self._console.out(text, end="" if text.endswith("\n") else "\n", highlight=False)

    def progress(self, done: int, failed: int, running: int) -> None:
        if self._task is not None:
            self._bar.update(self._task, completed=done, failed=failed, running=running)

    def end(self) -> None:
        self._bar.stop()
