"""Carries out a list of jobs: so many at a time, each end heard once, all of it stopped when asked.

One loop in the main thread waits at the inbox. Jobs are started while there is a free place; an end frees
one. Nothing is kept of a job after its end but what the summary shows.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from queue import Empty
from typing import Any

from ..command import DEVNULL, PIPE, Command, LogFile
from ..errors import SpawnError
from ..events import Unkillable
from ..manager import ProcessManager
from ..process import Process
from ..status import ExitReason, StopReport
from .display import Display
from .feed import Feed
from .inbox import AT_ONCE, Inbox, Interrupt, MoreInput, Note, stop_all
from .joblist import BadLine, Job
from .joblog import Done, Entry, JobLog
from .outcome import NOT_STARTED, UNKILLABLE, Outcome, Summary, called
from .quantities import counted, in_bytes, signal_name

LOOK_AFTER = 1.0
"""Seconds after which a quiet display is refreshed."""
RETRY_STARTS = 20
"""How often a start that lacked memory, descriptors or processes is tried again when nothing else runs."""
RETRY_PAUSE = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What holds for all jobs of a batch."""

    at_once: int
    settings: dict[str, Any]
    limits: dict[str, Any]
    grace: float
    output: str = "group"
    """group, discard or inherit."""
    keep_output: Path | None = None
    fail_fast: bool = False
    retry_failed: bool = False


class Runner:
    """One batch. Make it, call `run` once."""

    def __init__(
        self,
        manager: ProcessManager,
        feed: Feed,
        inbox: Inbox,
        display: Display,
        policy: Policy,
        *,
        log: JobLog | None = None,
        done: Done | None = None,
    ) -> None:
        self._manager = manager
        self._feed = feed
        self._inbox = inbox
        self._display = display
        self._policy = policy
        self._log = log
        self._done = done
        self._running: dict[str, tuple[Job, float]] = {}
        self._held = False
        self._failed_starts = 0
        self._stopping = False
        self._killing = False
        self.interrupt: int | None = None
        self.summary = Summary()

    def run(self) -> Summary:
        """Run all jobs, or those until somebody asks to stop."""
        self._display.begin(self._feed.total)
        try:
            while True:
                self._admit()
                if not self._running and (self._stopping or self._feed.ended):
                    break
                self._listen()
        finally:
            self._display.end()
        if self._feed.total is not None:
            self.summary.not_run = self._feed.total - self.summary.ended - self.summary.skipped.total()
        return self.summary

    # Starting.

    def _admit(self) -> None:
        while not self._stopping and not self._held and len(self._running) < self._policy.at_once:
            job = self._feed.take()
            if job is None:
                return
            if isinstance(job, BadLine):
                self.summary.ended += 1
                self.summary.failed += 1
                self.summary.kinds["not understood"] += 1
                self._display.say(f"FAILED {job}")
            elif self._done and (how := self._done.skip(job.text, retry_failed=self._policy.retry_failed)):
                self.summary.skipped[how] += 1
            else:
                self._start(job)

    def _start(self, job: Job) -> None:
        task_id = str(job.number)
        self._running[task_id] = (job, time.time())
        try:
            command = self._command(job)
            self._manager.start_process(task_id, command, on_exit=self._inbox.put)
        except SpawnError as error:
            if error.retryable and self._try_again(job):
                del self._running[task_id]
                return
            self._ended(task_id, _not_started(job, error))
        except (OSError, TypeError, ValueError) as error:
            self._ended(task_id, Outcome(job=job, reason=NOT_STARTED, explanation=f"Not started: {error}."))
        else:
            self._failed_starts = 0

    def _try_again(self, job: Job) -> bool:
        """Put a job back whose start lacked something that others give back when they end."""
        if len(self._running) > 1:
            self._held = True  # until the next end
        elif self._failed_starts < RETRY_STARTS:
            self._failed_starts += 1
            time.sleep(RETRY_PAUSE)
        else:
            return False
        self._feed.give_back(job)
        return True

    def _command(self, job: Job) -> Command:
        policy = self._policy
        streams: dict[str, Any]
        idle = (policy.settings | job.settings).get("idle_timeout")
        if idle and (policy.keep_output is not None or policy.output == "inherit"):
            raise ValueError(
                "idle-timeout listens to the output, which with --keep-output and --output inherit does not "
                "pass through here"
            )
        if policy.keep_output is not None:
            files = [_output_path(policy.keep_output, job, end) for end in ("out", "err")]
            for file in files:
                file.unlink(missing_ok=True)  # of an earlier run; the child appends
            streams = {"stdout": LogFile(files[0]), "stderr": LogFile(files[1])}
        elif policy.output == "inherit":
            streams = {"stdout": None, "stderr": None}
        elif policy.output == "group" or idle:
            streams = {"stdout": PIPE, "stderr": PIPE}
        else:
            streams = {"stdout": DEVNULL, "stderr": DEVNULL}
        return job.command(policy.settings | streams, policy.limits)

    # Hearing.

    def _listen(self) -> None:
        """Wait for something to happen, then hear all that has."""
        try:
            note: Note = self._inbox.get(timeout=LOOK_AFTER)
            while True:
                self._hear(note)
                note = self._inbox.get_nowait()
        except Empty:
            self._show_progress()

    def _hear(self, note: Note) -> None:
        match note:
            case Process():
                self._finished(note)
            case Interrupt(number):
                self._interrupted(number)
            case Unkillable():
                self._given_up(str(note.task_id))
            case StopReport():
                for result in note.results:
                    if not result.stopped:
                        self._given_up(str(result.task_id))
            case MoreInput():
                pass

    def _finished(self, process: Process) -> None:
        task_id = str(process.task_id)
        if task_id not in self._running:
            return  # given up before
        job, _ = self._running[task_id]
        status = process.status
        if status is None:
            outcome = Outcome(job=job, reason=NOT_STARTED, explanation="Ended without having been started.")
        else:
            outcome = Outcome.of(job, status)
        if self._policy.output == "group" and self._policy.keep_output is None:
            self._pass_on(job, process)
        self._ended(task_id, outcome)

    def _given_up(self, task_id: str) -> None:
        if task_id in self._running:
            job, _ = self._running[task_id]
            self._ended(
                task_id,
                Outcome(
                    job=job,
                    reason=UNKILLABLE,
                    explanation="Cannot be killed: it, or what it has started, hangs in the kernel.",
                ),
            )

    def _ended(self, task_id: str, outcome: Outcome) -> None:
        job, started_at = self._running.pop(task_id)
        self._held = False
        self.summary.add(outcome)
        if self._log is not None:
            self._log.add(_entry(outcome, started_at))
        # What we have stopped ourselves has not failed by itself: the summary counts it, no line about each.
        if not outcome.ok and not (self._stopping and outcome.reason == ExitReason.TERMINATED):
            self._display.say(f"FAILED {called(job)}\n       {outcome.explanation}{self._last_words(job)}")
            if self._policy.fail_fast and not self._stopping:
                self._display.say("The first failure: no further job is started, those that run are stopped.")
                self._stop(self._policy.grace)

    def _pass_on(self, job: Job, process: Process) -> None:
        stdout, stderr = process.stdout_bytes, process.stderr_bytes
        try:
            self._display.output(stdout, stderr)
        except OSError as error:
            if not self._stopping:
                self._display.say(f"Nobody takes the output ({error.strerror}): stopping.")
                self.interrupt = signal.SIGPIPE  # as a program that does not ask would end
                self._stop(self._policy.grace)
            return
        if process.output_truncated:
            kept = in_bytes(len(stdout) + len(stderr))
            self._display.say(
                f"NOTE   {called(job)}\n       Of its output {kept} were kept, beginning and end; "
                "--keep-output DIR keeps all."
            )

    def _last_words(self, job: Job) -> str:
        """The last line on its standard error, where that was kept in a file."""
        if self._policy.keep_output is None:
            return ""
        try:
            with open(_output_path(self._policy.keep_output, job, "err"), "rb") as file:
                file.seek(-min(os.fstat(file.fileno()).st_size, 4096), os.SEEK_END)
                lines = file.read().decode(errors="replace").strip().splitlines()
        except OSError:
            return ""
        last = "".join(character for character in lines[-1] if character.isprintable())[:200] if lines else ""
        return f"\n       Its last words: {last}" if last else ""

    # Stopping.

    def _interrupted(self, number: int) -> None:
        name = signal_name(number)
        if self.interrupt is None and number in AT_ONCE:
            self.interrupt = number
            jobs = counted(len(self._running), "job")
            self._display.say(f"{name}: no further job is started, {jobs} killed at once.")
            self._killing = True
            self._stop(0)
        elif self.interrupt is None:
            self.interrupt = number
            self._display.say(
                f"{name}: no further job is started, {counted(len(self._running), 'job')} asked to end, "
                f"killed after {self._policy.grace:g} s; once more to kill at once."
            )
            self._stop(self._policy.grace)
        elif not self._killing:
            self._display.say(f"{name} again: killing {counted(len(self._running), 'job')}.")
            self._killing = True
            self._stop(0)

    def _stop(self, grace: float) -> None:
        self._stopping = True
        stop_all(self._manager, grace, self._inbox)

    def _show_progress(self) -> None:
        done = self.summary.ended + self.summary.skipped.total()
        self._display.progress(done, self.summary.failed, len(self._running))


def _not_started(job: Job, error: SpawnError) -> Outcome:
    code = None
    if error.stage == "exec":
        code = 127 if error.errno == errno.ENOENT else 126
    culprit = "" if error.filename is None else f" ({os.fsdecode(error.filename)})"
    words = f"Not started, stage {error.stage}: {error.strerror}{culprit}."
    return Outcome(job=job, reason=NOT_STARTED, explanation=words, code=code)


def _entry(outcome: Outcome, started_at: float) -> Entry:
    status = outcome.status
    return Entry(
        number=outcome.job.number,
        name=outcome.job.name,
        started_at=started_at,
        seconds=0.0 if status is None else status.duration,
        code=outcome.code,
        signal=None if status is None else status.signal,
        reason=outcome.reason,
        max_rss=outcome.max_rss,
        command=outcome.job.text,
    )


def _output_path(directory: Path, job: Job, end: str) -> Path:
    name = f"{job.number:06}"
    if job.name != f"job {job.number}":
        name += "-" + re.sub(r"[^\w.-]+", "_", job.name)[:80]
    return directory / f"{name}.{end}"
