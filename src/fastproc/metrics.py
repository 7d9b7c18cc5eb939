"""Counting what a manager did: plain numbers, cheap to add to and safe to read at any time."""

from __future__ import annotations

import dataclasses
import signal
import threading
from bisect import bisect_left
from dataclasses import dataclass, field

from .status import ExitReason, ExitStatus

SPAWN_BOUNDS = (0.000_05, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0)
RUN_BOUNDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0, 300.0, 1800.0, 3600.0, 21600.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """How often which length of time occurred.

    Attributes:
        bounds: upper ends of the buckets in seconds, each belonging to its bucket.
        counts: one number for each bucket, and a last one for what was longer.
        total: the sum of all lengths.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float = 0.0

    @property
    def count(self) -> int:
        return sum(self.counts)

    @property
    def mean(self) -> float:
        return self.total / self.count if self.count else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """What a manager has done so far, at one moment.

    A process that has ended is counted in exactly one of `exited`, `signaled` and `status_unknown`,
    and once under its reason in `reasons`.

    Attributes:
        started: programs that ran.
        failed_to_start: starts that ended in a SpawnError.
        exited: ended with an exit code, be it while we stopped them.
        signaled: ended by a signal, ours or another's.
        status_unknown: ended in a way that nobody could tell.
        timed_out: stopped at a time limit or an idle time limit.
        escalated: did not end within their grace.
        killed: ended by SIGKILL, whoever sent it.
        orphans_reaped: descendants without a parent that were reaped.
        active: not done at this moment.
        cpu_user_seconds, cpu_system_seconds: CPU time of all that ended.
        max_rss_bytes: memory of the largest process that ended.
        spawn_seconds: from request to running program.
        run_seconds: from start to end.
        reasons: how many ended for which reason.
    """

    started: int
    failed_to_start: int
    exited: int
    signaled: int
    status_unknown: int
    timed_out: int
    escalated: int
    killed: int
    orphans_reaped: int
    active: int
    cpu_user_seconds: float
    cpu_system_seconds: float
    max_rss_bytes: int
    spawn_seconds: Histogram
    run_seconds: Histogram
    reasons: dict[ExitReason, int] = field(hash=False)

    @property
    def cpu_seconds(self) -> float:
        return self.cpu_user_seconds + self.cpu_system_seconds

    def as_dict(self) -> dict[str, object]:
        """The same as numbers, lists and dicts of them, fit for JSON."""
        plain: dict[str, object] = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        plain["cpu_seconds"] = self.cpu_seconds
        plain["reasons"] = {reason.value: count for reason, count in self.reasons.items()}
        for name in ("spawn_seconds", "run_seconds"):
            histogram: Histogram = getattr(self, name)
            plain[name] = {
                "bounds": list(histogram.bounds),
                "counts": list(histogram.counts),
                "count": histogram.count,
                "total": histogram.total,
            }
        return plain


class Counters:
    """Adds up what is observed. Safe from any thread; an observation costs about a microsecond."""

    __slots__ = (
        "_cpu_system_seconds",
        "_cpu_user_seconds",
        "_escalated",
        "_exited",
        "_failed_to_start",
        "_killed",
        "_lock",
        "_max_rss_bytes",
        "_orphans_reaped",
        "_reasons",
        "_run_counts",
        "_run_total",
        "_signaled",
        "_spawn_counts",
        "_spawn_total",
        "_started",
        "_status_unknown",
    )

    def __init__(self) -> None:
        # A signal handler may ask for metrics while its own thread is in here.
        self._lock = threading.RLock()
        self._started = 0
        self._failed_to_start = 0
        self._exited = 0
        self._signaled = 0
        self._status_unknown = 0
        self._escalated = 0
        self._killed = 0
        self._orphans_reaped = 0
        self._cpu_user_seconds = 0.0
        self._cpu_system_seconds = 0.0
        self._max_rss_bytes = 0
        self._spawn_counts = [0] * (len(SPAWN_BOUNDS) + 1)
        self._spawn_total = 0.0
        self._run_counts = [0] * (len(RUN_BOUNDS) + 1)
        self._run_total = 0.0
        self._reasons = dict.fromkeys(ExitReason, 0)

    def observe_started(self, seconds: float | None) -> None:
        """A program runs; to get there took `seconds`, or None if it has waited for its turn."""
        with self._lock:
            self._started += 1
            if seconds is None:
                return
            bucket = bisect_left(SPAWN_BOUNDS, seconds)
            self._spawn_counts[bucket] += 1
            self._spawn_total += seconds

    def observe_failed_to_start(self) -> None:
        with self._lock:
            self._failed_to_start += 1

    def observe_exit(self, status: ExitStatus) -> None:
        """A started program has ended like this."""
        seconds = status.duration
        bucket = bisect_left(RUN_BOUNDS, seconds)
        usage = status.rusage
        with self._lock:
            self._reasons[status.reason] += 1
            if status.code is not None:
                self._exited += 1
            elif status.signal is not None:
                self._signaled += 1
                self._killed += status.signal == signal.SIGKILL
            else:
                self._status_unknown += 1
            self._escalated += status.escalated
            self._run_counts[bucket] += 1
            self._run_total += seconds
            self._cpu_user_seconds += usage.user
            self._cpu_system_seconds += usage.system
            self._max_rss_bytes = max(self._max_rss_bytes, usage.max_rss)

    def observe_orphan(self) -> None:
        with self._lock:
            self._orphans_reaped += 1

    def snapshot(self, active: int = 0) -> Metrics:
        """All numbers as of one moment; `active` is the caller's to know."""
        with self._lock:
            return Metrics(
                started=self._started,
                failed_to_start=self._failed_to_start,
                exited=self._exited,
                signaled=self._signaled,
                status_unknown=self._status_unknown,
                timed_out=self._reasons[ExitReason.TIMEOUT] + self._reasons[ExitReason.IDLE_TIMEOUT],
                escalated=self._escalated,
                killed=self._killed,
                orphans_reaped=self._orphans_reaped,
                active=active,
                cpu_user_seconds=self._cpu_user_seconds,
                cpu_system_seconds=self._cpu_system_seconds,
                max_rss_bytes=self._max_rss_bytes,
                spawn_seconds=Histogram(
                    bounds=SPAWN_BOUNDS, counts=tuple(self._spawn_counts), total=self._spawn_total
                ),
                run_seconds=Histogram(
                    bounds=RUN_BOUNDS, counts=tuple(self._run_counts), total=self._run_total
                ),
                reasons=dict(self._reasons),
            )
