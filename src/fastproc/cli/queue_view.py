"""How a queue is watched: a live view on a terminal, plain lines elsewhere, or JSON for programs.

Our words go to standard error, JSON to standard output. All is called by the main thread.
"""

from __future__ import annotations

import sys
import time
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.constrain import Constrain
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ..errors import NoSuchTask
from ..processor import Processor
from ..processor.events import QueueEvent
from .display import PLAIN_INTERVAL, can_be_live
from .outcome import shortened
from .queue_board import Board, Line, Row
from .queue_words import STYLES, counts, pause_words, plain, print_json, ticking, what

COUNT_EVERY = 0.5
"""Seconds between two looks at how many tasks are where."""
ECHO = 4
"""Columns left free at the right: the terminal echoes ^C there, which must not begin a new line."""
_TITLES = 1000


class View(Protocol):
    """Shows a queue at work."""

    def begin(self) -> None: ...

    def line(self, line: Line) -> None:
        """An event, in words."""

    def event(self, event: QueueEvent) -> None:
        """An event as it is."""

    def say(self, text: str) -> None:
        """A line of ours."""

    def refresh(self, board: Board) -> None:
        """How things stand now."""

    def end(self) -> None: ...


def make_view(looks: Processor, slots: int, *, as_json: bool) -> View:
    """The view that suits where standard error goes. `looks` is a Processor that was not started: it is asked
    about the directory, and waits for nothing that the other one does.
    """
    if as_json:
        return JsonView()
    console = Console(stderr=True, highlight=False)
    return LiveView(console, looks, slots) if can_be_live(console) else PlainView(looks)


class JsonView:
    """Events as JSON, one a line, on standard output; words on standard error."""

    def begin(self) -> None:
        pass

    def line(self, line: Line) -> None:
        pass

    def event(self, event: QueueEvent) -> None:
        print_json({"event": event.kind} | plain(event), indent=None)

    def say(self, text: str) -> None:
        _print(text)

    def refresh(self, board: Board) -> None:
        pass

    def end(self) -> None:
        pass


class PlainView:
    """Lines of text; one about the progress every few seconds in which something has changed."""

    def __init__(self, looks: Processor) -> None:
        self._looks = looks
        self._next = time.monotonic() + PLAIN_INTERVAL
        self._said = ""

    def begin(self) -> None:
        pass

    def line(self, line: Line) -> None:
        _print(str(line))

    def event(self, event: QueueEvent) -> None:
        pass

    def say(self, text: str) -> None:
        _print(text)

    def refresh(self, board: Board) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + PLAIN_INTERVAL
        words = f"... {len(board.running)} running; {counts(self._looks.queue_status()).plain}"
        if words != self._said:
            self._said = words
            _print(words)

    def end(self) -> None:
        pass


class LiveView:
    """What runs stays at the bottom, what has happened scrolls above it."""

    def __init__(self, console: Console, looks: Processor, slots: int) -> None:
        self._console = console
        self._looks = looks
        self._slots = slots
        self._began = time.monotonic()
        self._counted = -COUNT_EVERY
        self._status = looks.queue_status()
        self._titles: dict[str, str] = {}
        self._live = Live(
            console=console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
            vertical_overflow="crop",
        )

    def begin(self) -> None:
        self._live.start()

    def line(self, line: Line) -> None:
        if line.word == "started":
            return  # it is to be seen below
        text = Text(str(line))
        text.stylize(line.style, 9, 9 + len(line.word))
        text.stylize("dim", 0, 8)
        self._console.print(text)

    def event(self, event: QueueEvent) -> None:
        pass

    def say(self, text: str) -> None:
        self._console.print(Text(text))

    def refresh(self, board: Board) -> None:
        now = time.monotonic()
        if now - self._counted >= COUNT_EVERY:
            self._counted = now
            self._status = self._looks.queue_status()
        self._live.update(self._drawn(board), refresh=True)

    def end(self) -> None:
        self._live.stop()

    def _drawn(self, board: Board) -> RenderableType:
        wall = time.time()
        head = Table.grid(expand=True)
        head.add_column(no_wrap=True, overflow="ellipsis")
        elapsed = ticking(time.monotonic() - self._began)
        head.add_column(justify="right", no_wrap=True, min_width=len(elapsed))
        places = f"{len(board.running)} of {self._slots} slots" + (
            ", stopping" if board.stopping else ", finishing" if board.finishing else ""
        )
        head.add_row(Text.assemble(counts(self._status), ("   " + places, "dim")), Text(elapsed, style="dim"))
        width = max(20, self._console.width - ECHO)
        parts: list[RenderableType] = [Text("─" * width, style="dim"), head]
        if pause := pause_words(self._status, wall):
            parts.append(Text(f"‖ {pause}", style=STYLES["paused"], no_wrap=True, overflow="ellipsis"))
        parts += [
            Text(f"! {cause}", style="red", no_wrap=True, overflow="ellipsis") for cause in board.causes
        ]
        room = max(1, self._console.height - len(parts) - 3)
        rows = list(board.running.values())
        if rows:
            parts.append(self._table(rows[:room], wall))
        if len(rows) > room:
            parts.append(Text(f"  and {len(rows) - room} more", style="dim"))
        return Constrain(Group(*parts), width)

    def _table(self, rows: list[Row], wall: float) -> Table:
        table = Table.grid(padding=(0, 2, 0, 0), expand=True)
        table.add_column(
            no_wrap=True, overflow="ellipsis", min_width=12, max_width=28, style=STYLES["in-progress"]
        )
        table.add_column(no_wrap=True, justify="right", min_width=8)
        table.add_column(no_wrap=True, overflow="ellipsis", ratio=2, max_width=40)
        table.add_column(no_wrap=True, overflow="ellipsis", ratio=3, style="dim")
        for row in rows:
            tries = f" ({row.attempt})" if row.attempt > 1 else ""
            table.add_row(
                Text(f"{row.task_id}{tries}"),
                ticking(wall - row.started_at),
                Text(self._title(row.task_id)),
                Text(row.last_line),
            )
        return table

    def _title(self, task_id: str) -> str:
        """What it is about: read once."""
        if task_id not in self._titles:
            if len(self._titles) >= _TITLES:
                self._titles.clear()
            try:
                self._titles[task_id] = what(self._looks.task(task_id), 80)
            except NoSuchTask:
                self._titles[task_id] = ""
        return shortened(self._titles[task_id], 80)


def _print(text: str) -> None:
    encoding = sys.stderr.encoding or "utf-8"
    print(text.encode(encoding, "replace").decode(encoding), file=sys.stderr, flush=True)
