"""What a manager has done, as plain numbers."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from .status import ExitReason

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """What the engine has added up about starts and ends; see Metrics for the meanings."""

    started: int = 0
    exited: int = 0
    signaled: int = 0
    status_unknown: int = 0
    escalated: int = 0
    killed: int = 0
    cpu_user_seconds: float = 0.0
    cpu_system_seconds: float = 0.0
    max_rss_bytes: int = 0
    spawn_seconds: float = 0.0
    spawn_counts: tuple[int, ...] = (0,) * (len(SPAWN_BOUNDS) + 1)
    run_seconds: float = 0.0
    run_counts: tuple[int, ...] = (0,) * (len(RUN_BOUNDS) + 1)
    reasons: dict[ExitReason, int] = field(default_factory=dict, hash=False)


def metrics_of(sums: Sums, *, failed_to_start: int = 0, orphans_reaped: int = 0, active: int = 0) -> Metrics:
    """All that is known, as Metrics."""
    reasons = {reason: sums.reasons.get(reason, 0) for reason in ExitReason}
    return Metrics(
        started=sums.started,
        failed_to_start=failed_to_start,
        exited=sums.exited,
        signaled=sums.signaled,
        status_unknown=sums.status_unknown,
        timed_out=reasons[ExitReason.TIMEOUT] + reasons[ExitReason.IDLE_TIMEOUT],
        escalated=sums.escalated,
        killed=sums.killed,
        orphans_reaped=orphans_reaped,
        active=active,
        cpu_user_seconds=sums.cpu_user_seconds,
        cpu_system_seconds=sums.cpu_system_seconds,
        max_rss_bytes=sums.max_rss_bytes,
        spawn_seconds=Histogram(bounds=SPAWN_BOUNDS, counts=sums.spawn_counts, total=sums.spawn_seconds),
        run_seconds=Histogram(bounds=RUN_BOUNDS, counts=sums.run_counts, total=sums.run_seconds),
        reasons=reasons,
    )
