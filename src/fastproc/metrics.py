"""What a manager has done, as plain numbers; and as a monitoring system reads them."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from .status import ExitReason

if TYPE_CHECKING:
    from prometheus_client.core import Metric

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


# ---- for Prometheus ----


class Measured(Protocol):
    """What has a name and numbers: a ProcessManager, also that of fastproc.aio."""

    @property
    def name(self) -> str: ...

    def metrics(self) -> Metrics: ...


_HELP = {
    "started": "programs that ran",
    "failed_to_start": "starts that ended in a SpawnError",
    "exited": "ended with an exit code",
    "signaled": "ended by a signal",
    "status_unknown": "ended in a way that nobody could tell",
    "timed_out": "stopped at a time limit or an idle time limit",
    "escalated": "did not end within their grace",
    "killed": "ended by SIGKILL",
    "orphans_reaped": "descendants without a parent that were reaped",
    "active": "not done at this moment",
    "cpu_user_seconds": "CPU time in user mode of all that ended",
    "cpu_system_seconds": "CPU time in the kernel of all that ended",
    "max_rss_bytes": "memory of the largest process that ended",
    "spawn_seconds": "from request to running program",
    "run_seconds": "from start to end",
    "reasons": "ended, by reason",
}
_GAUGES = frozenset({"active", "max_rss_bytes"})


@dataclass(frozen=True, slots=True)
class Family:
    """A metric of Prometheus: its samples are (suffix of the name, labels, value)."""

    name: str
    kind: str
    help: str
    samples: list[tuple[str, dict[str, str], float]]


def prometheus_text(*managers: Measured) -> str:
    """The metrics of managers in the text format of Prometheus, each labelled `manager` with its name.

    The names are those of the fields of Metrics: `fastproc_started_total`, `fastproc_active`,
    `fastproc_run_seconds_bucket`, ...; `fastproc_reasons_total` has the label `reason`. Serve it as
    `text/plain; version=0.0.4`. Needs nothing else to be installed.
    """
    lines = []
    for family in families(managers):
        # The old text format calls a counter by its whole name, unlike OpenMetrics.
        name = f"{family.name}_total" if family.kind == "counter" else family.name
        lines += [f"# HELP {name} {family.help}", f"# TYPE {name} {family.kind}"]
        for suffix, labels, value in family.samples:
            said = ",".join(f'{label}="{_escaped(word)}"' for label, word in labels.items())
            lines.append(f"{family.name}{suffix}{{{said}}} {value!r}")
    return "\n".join(lines) + "\n"


class PrometheusCollector:
    """The same for prometheus_client: `REGISTRY.register(PrometheusCollector(manager))`.

    All managers of a registry belong to one collector: it refuses a second one with the same names.

    Raises:
        ImportError: prometheus_client is not installed, see the extra `prometheus`.
    """

    def __init__(self, *managers: Measured) -> None:
        try:
            import prometheus_client.core as client
        except ImportError:
            raise ImportError(
                "prometheus_client is not installed: pip install 'fastproc[prometheus]'; "
                "prometheus_text() needs nothing"
            ) from None
        self._metric = client.Metric
        self._managers = managers

    def collect(self) -> Iterator[Metric]:
        """All metrics as they are now."""
        for family in families(self._managers):
            metric = self._metric(family.name, family.help, family.kind)
            for suffix, labels, value in family.samples:
                metric.add_sample(family.name + suffix, labels, value)
            yield metric


def families(managers: Sequence[Measured]) -> list[Family]:
    """One family for each field of Metrics, with the samples of all managers."""
    found = [({"manager": manager.name}, manager.metrics()) for manager in managers]
    made = []
    for name, words in _HELP.items():
        samples: list[tuple[str, dict[str, str], float]] = []
        kind = "gauge" if name in _GAUGES else "counter"
        for labels, metrics in found:
            value = getattr(metrics, name)
            if isinstance(value, Histogram):
                kind = "histogram"
                samples += _histogram_samples(labels, value)
            elif isinstance(value, dict):
                samples += [
                    ("_total", {**labels, "reason": str(reason.value)}, count)
                    for reason, count in value.items()
                ]
            else:
                samples.append(("_total" if kind == "counter" else "", labels, value))
        made.append(Family(f"fastproc_{name}", kind, words, samples))
    return made


def _histogram_samples(
    labels: dict[str, str], histogram: Histogram
) -> Iterator[tuple[str, dict[str, str], float]]:
    """Prometheus counts in each bucket what is in the ones below, too."""
    ends = [*map(str, histogram.bounds), "+Inf"]
    for end, count in zip(ends, itertools.accumulate(histogram.counts), strict=True):
        yield "_bucket", {**labels, "le": end}, count
    yield "_sum", labels, histogram.total
    yield "_count", labels, histogram.count


def _escaped(word: str) -> str:
    return word.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
