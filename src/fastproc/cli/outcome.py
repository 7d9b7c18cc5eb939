"""What came of one job, and the summary of all."""

from __future__ import annotations

import heapq
import os
import resource
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ..status import ExitReason, ExitStatus
from .joblist import Job
from .quantities import counted, in_bytes, in_seconds, signal_name

NOT_STARTED = "not_started"
UNKILLABLE = "unkillable"

_RSS_ERROR = 1 << 20
"""By how much two counts of the same memory may differ: the kernel adds up its counts per CPU lazily."""

_WORDS = {
    ExitReason.SIGNALED: "killed by",
    ExitReason.TIMEOUT: "time limit",
    ExitReason.IDLE_TIMEOUT: "silent for too long",
    ExitReason.TERMINATED: "stopped by us before its end",
    ExitReason.CANCELLED: "stopped by us before its end",
    ExitReason.OUTPUT_LIMIT: "too much output",
    ExitReason.CPU_LIMIT: "CPU time limit",
    ExitReason.OOM: "out of memory",
    ExitReason.UNKNOWN: "end unknown",
    NOT_STARTED: "could not be started",
    UNKILLABLE: "cannot be killed",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How one job has ended, or why it could not be started."""

    job: Job
    status: ExitStatus | None = None
    reason: str
    """An ExitReason, NOT_STARTED or UNKILLABLE."""
    explanation: str
    code: int | None = None
    """The exit code of `status`; for a start that failed, what a shell would have said."""

    @classmethod
    def of(cls, job: Job, status: ExitStatus) -> Outcome:
        return cls(
            job=job, status=status, reason=status.reason, explanation=status.explain(), code=status.code
        )

    @property
    def ok(self) -> bool:
        return self.status is not None and self.status.ok

    @property
    def max_rss(self) -> int:
        """Bytes of memory resident at most, or 0 where the kernel cannot tell.

        A child is born in our memory (CLONE_VM), and execve(2) carries that size into its record. What is
        not above our own peak therefore says nothing about the child.
        """
        found = 0 if self.status is None else self.status.rusage.max_rss
        return found if found > own_peak() + _RSS_ERROR else 0

    @property
    def kind(self) -> str:
        """What the summary counts it as."""
        if self.ok:
            return "succeeded"
        if self.reason == ExitReason.EXITED:
            return f"exit code {self.code}"
        words = _WORDS[self.reason]
        if self.reason == ExitReason.SIGNALED and self.status is not None and self.status.signal is not None:
            return f"{words} {signal_name(self.status.signal)}"
        return words


@dataclass(slots=True)
class Summary:
    """Counts as jobs end; keeps no more of them than it shows."""

    shown: int = 3
    kinds: Counter[str] = field(default_factory=Counter)
    ended: int = 0
    failed: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    not_run: int = 0
    cpu: float = 0.0
    survivors: list[int] = field(default_factory=list)
    _slowest: list[tuple[float, int, str]] = field(default_factory=list)
    _largest: list[tuple[int, int, str]] = field(default_factory=list)
    _began: float = field(default_factory=time.monotonic)

    def add(self, outcome: Outcome) -> None:
        self.ended += 1
        self.failed += not outcome.ok
        self.kinds[outcome.kind] += 1
        status = outcome.status
        if status is None:
            return
        job = outcome.job
        usage = status.rusage
        self.cpu += usage.user + usage.system
        if len(self._slowest) < self.shown or status.duration > self._slowest[0][0]:
            _keep(self._slowest, (status.duration, -job.number, called(job)), self.shown)
        size = outcome.max_rss
        if size and (len(self._largest) < self.shown or size > self._largest[0][0]):
            _keep(self._largest, (size, -job.number, called(job)), self.shown)

    def lines(self) -> Iterator[str]:
        """The summary, line by line."""
        elapsed = time.monotonic() - self._began
        rate = f", {self.ended / elapsed:.0f} jobs a second" if elapsed > 0 and self.ended >= 100 else ""
        jobs, succeeded = counted(self.ended, "job"), self.ended - self.failed
        yield f"{jobs} in {in_seconds(elapsed)}{rate}: {succeeded} succeeded, {self.failed} failed"
        if self.skipped:
            failed = self.skipped["failed"]
            hint = f", {failed} of them failed: --retry-failed runs them again" if failed else ""
            yield f"  skipped       {self.skipped.total()} that the job log says to be done{hint}"
        if self.not_run:
            yield f"  not started   {self.not_run}"
        for index, (kind, count) in enumerate(
            sorted(self.kinds.items(), key=lambda item: (-item[1], item[0]))
        ):
            yield f"  {'by reason' if index == 0 else '':<12} {count:>6}  {kind}"
        for index, (seconds, _, name) in enumerate(sorted(self._slowest, reverse=True)):
            yield f"  {'slowest' if index == 0 else '':<12} {in_seconds(seconds):>12}  {name}"
        for index, (size, _, name) in enumerate(sorted(self._largest, reverse=True)):
            yield f"  {'most memory' if index == 0 else '':<12} {in_bytes(size):>12}  {name}"
        if not self._largest:
            own = in_bytes(own_peak())
            yield f"  most memory   none above {own}, our own size, below which the kernel cannot tell"
        busy = f", {self.cpu / elapsed:.1f} CPUs busy" if elapsed > 0 else ""
        yield f"  CPU time      {in_seconds(self.cpu)}{busy}"
        alive = f" ({', '.join(map(str, self.survivors))})" if self.survivors else ""
        yield f"  survivors     {len(self.survivors)}{alive}"
        yield f"  zombies       {len(zombies())}"


def own_peak() -> int:
    """Bytes of memory that this process has had resident at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def called(job: Job, width: int = 90) -> str:
    """Name a job and show its command, on one line of bounded width."""
    return f"{job.name}: {shortened(job.text, width)}"


def shortened(text: str, width: int) -> str:
    """The text on one line, without what moves a cursor; its middle is left out if it is too long."""
    text = "".join(character if character.isprintable() else "?" for character in text)
    if len(text) <= width:
        return text
    head = (width - 1) * 2 // 3
    return f"{text[:head]}…{text[head + 1 - width :]}"


def zombies() -> list[int]:
    """Children of this process that have ended and were not reaped, by proc(5)."""
    own, found = os.getpid(), []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/stat", "rb") as stat:
                # The name may have blanks and brackets in it: what counts begins behind the last one.
                state, parent = stat.read().rpartition(b")")[2].split()[:2]
        except (OSError, ValueError):
            continue
        if state == b"Z" and int(parent) == own:
            found.append(int(entry))
    return found


def _keep(heap: list[Any], item: tuple[float, int, str], count: int) -> None:
    heapq.heappush(heap, item)
    if len(heap) > count:
        heapq.heappop(heap)
