"""What is counted adds up, whoever asks and whenever."""

from __future__ import annotations

import json
import signal
import sys
import threading
from typing import Any

import pytest

from fastproc._native.library import ffi, lib
from fastproc._native.owners import PROC_OWNER, new_proc_owner
from fastproc._native.tally import Tally
from fastproc.metrics import (
    RUN_BOUNDS,
    SPAWN_BOUNDS,
    Histogram,
    Metrics,
    PrometheusCollector,
    Sums,
    metrics_of,
    prometheus_text,
)
from fastproc.status import ExitReason

_REASONS = dict(zip(ExitReason, range(1, len(ExitReason) + 1), strict=True))


def end(reason: ExitReason, code: int = -1, **fields: Any) -> Any:
    """What the library says of a process that has ended."""
    usage = {"user_us": fields.pop("user_us", 0), "system_us": 0, "max_rss_bytes": fields.pop("rss", 0)}
    exit_pointer = ffi.new("fp_exit *", {"reason": _REASONS[reason], "code": code, "usage": usage, **fields})
    exit_pointer.state = lib.FP_STATE_DONE
    return exit_pointer


def count(tally: Tally, *ends: Any) -> Metrics:
    for one in ends:
        lib.tally_exit(tally.tally, new_proc_owner(PROC_OWNER), one)
    return metrics_of(tally.read())


def test_at_first_all_is_zero() -> None:
    for metrics in (metrics_of(Sums()), metrics_of(Tally().read())):
        assert metrics.started == metrics.exited == metrics.active == 0
        assert metrics.cpu_seconds == 0.0
        assert metrics.spawn_seconds == Histogram(bounds=SPAWN_BOUNDS, counts=(0,) * (len(SPAWN_BOUNDS) + 1))
        assert metrics.run_seconds.count == 0
        assert metrics.run_seconds.mean == 0.0
        assert metrics.reasons == dict.fromkeys(ExitReason, 0)


def test_each_end_is_counted_once_by_what_ended_it() -> None:
    metrics = count(
        Tally(),
        end(ExitReason.EXITED, 0),
        end(ExitReason.EXITED, 1),
        end(ExitReason.SIGNALED, signal=signal.SIGSEGV),
        end(ExitReason.SIGNALED, signal=signal.SIGKILL),
        end(ExitReason.UNKNOWN),
        end(ExitReason.TIMEOUT, signal=signal.SIGKILL, flags=lib.FP_EXIT_ESCALATED),
        end(ExitReason.IDLE_TIMEOUT, 0),
    )

    assert (metrics.exited, metrics.signaled, metrics.status_unknown) == (3, 3, 1)
    assert (metrics.timed_out, metrics.escalated, metrics.killed) == (2, 1, 2)
    assert sum(metrics.reasons.values()) == 7
    assert metrics.reasons[ExitReason.EXITED] == 2
    assert metrics.reasons[ExitReason.OOM] == 0


def test_who_hears_an_end_again_does_not_count_it_again() -> None:
    tally, owner = Tally(), new_proc_owner(PROC_OWNER)
    for _ in range(3):
        lib.tally_exit(tally.tally, owner, end(ExitReason.EXITED, 0))
    tally.count_end(new_proc_owner(PROC_OWNER))  # of one that was never started

    assert metrics_of(tally.read()).exited == 1


def test_usage_adds_up_and_the_largest_memory_is_kept() -> None:
    metrics = count(
        Tally(),
        end(ExitReason.EXITED, 0, user_us=1_000_000, rss=100),
        end(ExitReason.EXITED, 0, user_us=2_500_000, rss=50),
    )

    assert (metrics.cpu_user_seconds, metrics.cpu_system_seconds, metrics.cpu_seconds) == (3.5, 0.0, 3.5)
    assert metrics.max_rss_bytes == 100


def test_a_length_on_a_bound_belongs_to_its_bucket() -> None:
    tally = Tally()
    list(tally.starts(SPAWN_BOUNDS[1]))
    list(tally.starts(SPAWN_BOUNDS[-1] + 1))
    list(tally.starts(None))
    metrics = count(
        tally,
        end(ExitReason.EXITED, 0, started_ns=1_000_000_000, ended_ns=8_000_000_000),
        end(ExitReason.EXITED, 0, started_ns=1, ended_ns=1 + 10**15),
    )

    assert metrics.spawn_seconds.counts[1] == metrics.spawn_seconds.counts[-1] == 1
    assert (metrics.spawn_seconds.count, metrics.started) == (2, 3)
    assert metrics.run_seconds.counts[RUN_BOUNDS.index(10.0)] == 1
    assert metrics.run_seconds.counts[-1] == 1
    assert metrics.run_seconds.total == 7.0 + 10**6


def test_what_others_count_is_handed_on() -> None:
    metrics = metrics_of(Sums(), failed_to_start=1, orphans_reaped=2, active=3)

    assert (metrics.failed_to_start, metrics.orphans_reaped, metrics.active) == (1, 2, 3)


def test_metrics_become_json() -> None:
    tally = Tally()
    list(tally.starts(0.001))
    lib.tally_exit(
        tally.tally,
        new_proc_owner(PROC_OWNER),
        end(ExitReason.EXITED, 0, started_ns=10**9, ended_ns=2 * 10**9),
    )

    plain = json.loads(json.dumps(metrics_of(tally.read(), active=1).as_dict()))

    assert plain["started"] == plain["active"] == 1
    assert plain["reasons"]["exited"] == 1
    assert plain["run_seconds"]["count"] == 1
    assert plain["run_seconds"]["total"] == 1.0
    assert len(plain["run_seconds"]["counts"]) == len(plain["run_seconds"]["bounds"]) + 1


def test_metrics_do_not_change_later() -> None:
    tally = Tally()
    before = metrics_of(tally.read())

    count(tally, end(ExitReason.EXITED, 0))

    assert before.exited == 0
    assert before.reasons[ExitReason.EXITED] == 0
    assert before.run_seconds.count == 0


def test_threads_lose_no_count() -> None:
    tally = Tally()

    def observe() -> None:
        for _ in range(2000):
            list(tally.starts(0.001))
            count_one()

    def count_one() -> None:
        lib.tally_exit(tally.tally, new_proc_owner(PROC_OWNER), end(ExitReason.EXITED, 0))

    threads = [threading.Thread(target=observe) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    metrics = metrics_of(tally.read())
    assert metrics.started == metrics.exited == metrics.spawn_seconds.count == 8000


# ---- for Prometheus ----


class Measured:
    """As a manager is measured."""

    def __init__(self, name: str, sums: Sums, *, active: int = 0) -> None:
        self.name = name
        self._metrics = metrics_of(sums, active=active)

    def metrics(self) -> Metrics:
        return self._metrics


FIRST = Measured(
    'a "name"\\\n',
    Sums(
        started=3,
        exited=2,
        cpu_user_seconds=0.5,
        reasons={ExitReason.EXITED: 2},
        run_seconds=7.5,
        run_counts=(1, 0, 1, *[0] * (len(RUN_BOUNDS) - 2)),
    ),
    active=1,
)
SECOND = Measured("b", Sums(started=1))


def test_the_text_for_prometheus_names_each_number_once_for_each_manager() -> None:
    lines = prometheus_text(FIRST, SECOND).splitlines()

    label = 'manager="a \\"name\\"\\\\\\n"'
    assert f"fastproc_started_total{{{label}}} 3" in lines
    assert 'fastproc_started_total{manager="b"} 1' in lines
    assert lines.count("# TYPE fastproc_started_total counter") == 1
    assert "# TYPE fastproc_active gauge" in lines
    assert f"fastproc_active{{{label}}} 1" in lines
    assert f"fastproc_cpu_user_seconds_total{{{label}}} 0.5" in lines
    assert f'fastproc_reasons_total{{{label},reason="exited"}} 2' in lines
    assert f'fastproc_run_seconds_bucket{{{label},le="0.001"}} 1' in lines
    assert f'fastproc_run_seconds_bucket{{{label},le="0.01"}} 2' in lines
    assert f'fastproc_run_seconds_bucket{{{label},le="+Inf"}} 2' in lines
    assert f"fastproc_run_seconds_sum{{{label}}} 7.5" in lines
    assert f"fastproc_run_seconds_count{{{label}}} 2" in lines
    names = {name for name in Metrics.__slots__ if f"fastproc_{name}" not in "\n".join(lines)}
    assert names == set(), "a number that Prometheus does not see"


def test_prometheus_client_reads_the_text_and_collects_the_same() -> None:
    client = pytest.importorskip("prometheus_client")
    from prometheus_client.parser import text_string_to_metric_families

    registry = client.CollectorRegistry(auto_describe=True)
    registry.register(PrometheusCollector(FIRST, SECOND))

    def samples(text: str) -> set[tuple[str, frozenset[tuple[str, str]], float]]:
        return {
            (sample.name, frozenset(sample.labels.items()), sample.value)
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    collected = samples(client.generate_latest(registry).decode())
    assert collected == samples(prometheus_text(FIRST, SECOND))
    assert len(collected) > 80


def test_without_prometheus_client_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.setitem(sys.modules, "prometheus_client.core", None)
    with pytest.raises(ImportError, match=r"pip install 'fastproc\[prometheus\]'"):
        PrometheusCollector(FIRST)
