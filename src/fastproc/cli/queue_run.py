"""`fastproc queue run`: be the Processor of a queue, and show what happens."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Literal, TypeAlias

import click

from ..processor import Backoff, Processor, QueueReport, RateLimit, TaskState
from ..processor.events import QueueEvent
from ..status import StopReport
from .inbox import AT_ONCE, Interrupt, Interrupts
from .options import TIME, TIME_LIMIT
from .quantities import counted, in_seconds, signal_name
from .queue_add import ASSIGNMENT
from .queue_board import Board, summary
from .queue_executor import make_executor
from .queue_open import errors_in_words, opened, queue_options
from .queue_view import View, make_view

MOST_FAILURES = 125
"""The exit code counts up to here: 126 and above mean other things to a shell."""
REFRESH = 0.2
"""Seconds between two looks of the live view."""
PROGRESS = 0.25
"""How often a task's last line is asked for."""
FOR_EVER = 1e9

Note: TypeAlias = QueueEvent | Interrupt | StopReport | QueueReport
Unfinished: TypeAlias = Literal["requeue", "cancel", "finish"]


@click.command(short_help="Work on the queue.")
@queue_options
@click.option("--until-empty", is_flag=True, help="End when nothing is left to do.")
@click.option(
    "-j", "--slots", type=click.IntRange(1, 10_000), default=4, show_default=True, help="So many at a time."
)
@click.option(
    "--executor",
    "kind",
    type=click.Choice(["auto", "command", "agent"]),
    default="auto",
    show_default=True,
    help="What tasks run: the command that they name; an agent with their prompt; or what each has.",
)
@click.option(
    "--agent-command", metavar="WORDS", help="The agent and its arguments (default: Claude Code's)."
)
@click.option(
    "--max-turns", type=click.IntRange(min=1), default=60, show_default=True, help="Told to the agent."
)
@click.option("--allowed-tool", "allowed_tools", multiple=True, help="Told to the agent.")
@click.option("--skip-permissions", is_flag=True, help="Let the agent work without asking.")
@click.option(
    "--cwd",
    type=click.Path(exists=True, file_okay=False),
    help="Where agents work, if their task does not say.",
)
@click.option(
    "--env", "variables", multiple=True, type=ASSIGNMENT, help="Add to the environment of all tasks."
)
@click.option("--inherit", multiple=True, metavar="NAME", help="Pass this variable of ours on to all tasks.")
@click.option(
    "--timeout", type=TIME_LIMIT, default="1h", show_default=True, help="For tasks that do not say; 0: none."
)
@click.option("--idle-timeout", type=TIME_LIMIT, help="End a task when silent for so long.")
@click.option(
    "--grace", type=TIME, default="5s", show_default=True, help="From the polite signal to SIGKILL."
)
@click.option(
    "--max-attempts", type=click.IntRange(min=1), default=3, show_default=True, help="Of a task that fails."
)
@click.option(
    "--retry-delay", type=TIME, default="1s", show_default=True, help="Before the second; then doubled."
)
@click.option(
    "--starts-per-second",
    type=click.FloatRange(min=0, min_open=True),
    help="Start so many tasks a second at most, in the long run.",
)
@click.option("--rate-limit-least", type=TIME, help="A rate limit pauses the queue so long at least (5m).")
@click.option("--rate-limit-usual", type=TIME, help="And so long if the service does not say (30m).")
@click.option("--rate-limit-most", type=TIME, help="And so long at most (4h).")
@click.option(
    "--durability",
    type=click.Choice(["full", "batch", "none"]),
    default="full",
    show_default=True,
    help="Each step on the disk before the next; the same for many at a time; or left to the kernel.",
)
@click.option(
    "--recovery",
    type=click.Choice(["end", "adopt"]),
    default="end",
    show_default=True,
    help="What still runs after a crash of an earlier Processor: end it and try again, or wait for it.",
)
@click.option("--shared", is_flag=True, help="Work beside others on this queue, who all have to say so.")
@click.option(
    "--unfinished",
    type=click.Choice(["requeue", "cancel", "finish"]),
    default="requeue",
    show_default=True,
    help="At Ctrl-C: end what runs and give it back, end it as cancelled, or let it finish.",
)
@click.option("--json", "as_json", is_flag=True, help="Print events as JSON, one a line.")
def run(queue_dir: Path, open_to_others: bool, **options: Any) -> int:
    """Work on the queue until Ctrl-C, or with --until-empty until nothing is left to do.

    The exit code is the number of tasks that failed for good, were put in quarantine or are blocked for
    ever, 125 at most; 125 also if fastproc itself failed; 130 after Ctrl-C, which ends what runs gracefully
    and gives it back, and the second time kills it.
    """
    rate_limit = _rate_limit(
        options["rate_limit_least"], options["rate_limit_usual"], options["rate_limit_most"]
    )
    executor = make_executor(
        options["kind"],
        agent_command=options["agent_command"],
        cwd=options["cwd"],
        env=dict(options["variables"]),
        inherit=options["inherit"],
        max_turns=options["max_turns"],
        allowed_tools=options["allowed_tools"],
        skip_permissions=options["skip_permissions"],
    )
    inbox: SimpleQueue[Note] = SimpleQueue()
    with (
        opened(
            queue_dir,
            make=True,
            open_to_others=open_to_others,
            executor=executor,
            slots=options["slots"],
            task_timeout=options["timeout"],
            idle_timeout=options["idle_timeout"],
            max_attempts=options["max_attempts"],
            poll_interval=PROGRESS,
            durability=options["durability"],
            recovery=options["recovery"],
            shared=options["shared"],
            grace=options["grace"],
            starts_per_second=options["starts_per_second"],
            backoff=_backoff(options["retry_delay"]),
            rate_limit=rate_limit,
            on_event=inbox.put,
        ) as processor,
        opened(queue_dir, make=True, open_to_others=open_to_others) as looks,
        Interrupts(inbox),
    ):
        view = make_view(looks, options["slots"], as_json=options["as_json"])
        session = Session(
            processor, looks, view, inbox, grace=options["grace"], unfinished=options["unfinished"]
        )
        return session.run(until_empty=options["until_empty"])


def _backoff(delay: float) -> Backoff:
    return Backoff(base=delay, cap=max(Backoff().cap, delay))


def _rate_limit(least: float | None, usual: float | None, most: float | None) -> RateLimit:
    """The bounds that were given, the others moved as far as they have to be."""
    given = [value for value in (least, usual, most) if value is not None]
    if given != sorted(given):
        raise click.UsageError(
            "of --rate-limit-least, -usual and -most none may be shorter than the one before: "
            + ", ".join(in_seconds(value) for value in given)
        )
    own = RateLimit()
    longest = most if most is not None else max(own.longest, *given, 0.0)
    shortest = (
        least if least is not None else min(own.shortest, usual if usual is not None else longest, longest)
    )
    middle = usual if usual is not None else min(max(own.usual, shortest), longest)
    return RateLimit(shortest=shortest, usual=middle, longest=longest)


class Session:
    """One run of `fastproc queue run`: the main thread waits at one inbox, and shows what comes."""

    def __init__(
        self,
        processor: Processor,
        looks: Processor,
        view: View,
        inbox: SimpleQueue[Note],
        *,
        grace: float,
        unfinished: Unfinished,
    ) -> None:
        self._processor = processor
        self._looks = looks
        self._view = view
        self._inbox = inbox
        self._grace = grace
        self._unfinished = unfinished
        self._board = Board()
        self._interrupt: int | None = None
        self._asked = 0
        self._report: QueueReport | None = None
        self._stopped: StopReport | None = None
        self._threads: list[threading.Thread] = []

    def run(self, *, until_empty: bool) -> int:
        """Work until it is over; returns the exit code."""
        began = time.monotonic()
        with errors_in_words(Path(self._processor.queue_dir)):
            self._processor.start()
        self._view.begin()
        try:
            if until_empty:
                self._in_thread(self._processor.run_until_empty)
            else:
                self._view.say(f"Working on {self._processor.queue_dir}; Ctrl-C ends it gracefully.")
            while self._stopped is None:
                self._listen(REFRESH)
                if self._report is not None and not self._asked:
                    self._stop(10.0, "requeue")
            for thread in self._threads:
                thread.join()
            self._listen(0.0)
        finally:
            self._view.end()
        return self._conclude(time.monotonic() - began)

    def _in_thread(self, work: Any) -> None:
        thread = threading.Thread(target=lambda: self._inbox.put(work()), name="fastproc-queue", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _listen(self, seconds: float) -> None:
        """Wait for something to happen, hear all that has, and show how things stand."""
        try:
            note = self._inbox.get(timeout=seconds) if seconds else self._inbox.get_nowait()
            while True:
                self._hear(note)
                note = self._inbox.get_nowait()
        except Empty:
            self._view.refresh(self._board)

    def _hear(self, note: Note) -> None:
        match note:
            case Interrupt(number):
                self._interrupted(number)
            case StopReport():
                self._stopped = note
            case QueueReport():
                self._report = note
            case _:
                self._view.event(note)
                line = self._board.hear(note, time.time())
                if line is not None:
                    self._view.line(line)

    # ---- stopping ----

    def _stop(self, timeout: float, unfinished: Unfinished) -> None:
        self._asked += 1
        self._in_thread(lambda: self._processor.stop(timeout, unfinished=unfinished))

    def _interrupted(self, number: int) -> None:
        """Ask first, insist the next time."""
        name, runs = signal_name(number), counted(len(self._board.running), "task")
        if self._interrupt is None:
            self._interrupt = number
        ladder = ["end", "kill"] if self._unfinished != "finish" else ["finish", "end", "kill"]
        step = "kill" if self._asked >= len(ladder) or number in AT_ONCE else ladder[self._asked]
        self._board.finishing, self._board.stopping = True, step != "finish"
        # The grace is the jobs'; filing what comes of them takes its own time.
        enough = self._grace / 0.8 + 10.0
        if step == "finish":
            self._view.say(f"{name}: nothing new is started, {runs} may finish; once more to end them.")
            self._stop(FOR_EVER, "finish")
        elif step == "end":
            fate = "finished as cancelled" if self._unfinished == "cancel" else "given back to the queue"
            self._view.say(
                f"{name}: nothing new is started, {runs} asked to end, killed after {self._grace:g} s, "
                f"and {fate}; once more to kill at once."
            )
            self._stop(enough, "cancel" if self._unfinished == "cancel" else "requeue")
        elif self._asked <= len(ladder):
            again = " again" if self._asked else ""
            self._view.say(f"{name}{again}: killing {runs}.")
            self._stop(0.0, "requeue")

    def _conclude(self, elapsed: float) -> int:
        board, report, stopped = self._board, self._report, self._stopped
        blocked = dict(report.blocked) if report is not None and self._interrupt is None else {}
        for line in summary(board, elapsed, blocked, self._looks.queue_status().pending - len(blocked)):
            self._view.say(line)
        left = self._looks.queue_status().in_progress
        if left and not self._looks.processors():
            word = "what came of it could not be written" if board.causes else "it has not ended in time"
            self._view.say(f"  {'in progress':<12} {left}: {word}; the next Processor looks after it")
        if stopped is not None and stopped.survivors:
            self._view.say(f"  {'survivors':<12} {', '.join(map(str, stopped.survivors))}")
        if self._interrupt is not None:
            return 128 + self._interrupt
        wrong = board.ended[TaskState.FAILED] + board.ended[TaskState.QUARANTINE] + len(blocked)
        return min(wrong, MOST_FAILURES)
