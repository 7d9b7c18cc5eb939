"""Counters add up, whoever asks and whenever."""

from __future__ import annotations

import json
import signal
import threading

from fastproc.metrics import RUN_BOUNDS, SPAWN_BOUNDS, Counters, Histogram
from fastproc.status import ExitReason, ExitStatus, ResourceUsage


def test_new_counters_are_zero() -> None:
    metrics = Counters().snapshot()

    assert metrics.started == metrics.exited == metrics.active == 0
    assert metrics.cpu_seconds == 0.0
    assert metrics.spawn_seconds == Histogram(bounds=SPAWN_BOUNDS, counts=(0,) * (len(SPAWN_BOUNDS) + 1))
    assert metrics.run_seconds.count == 0
    assert metrics.run_seconds.mean == 0.0


def test_each_end_is_counted_once_by_what_ended_it() -> None:
    counters = Counters()
    for status in (
        ExitStatus.exited(0),
        ExitStatus.exited(1),
        ExitStatus.signaled(signal.SIGSEGV),
        ExitStatus.signaled(signal.SIGKILL),
        ExitStatus.unknown(),
        ExitStatus(reason=ExitReason.TIMEOUT, signal=signal.SIGKILL, escalated=True),
        ExitStatus(reason=ExitReason.IDLE_TIMEOUT, code=0),
    ):
        counters.observe_exit(status)

    metrics = counters.snapshot()

    assert (metrics.exited, metrics.signaled, metrics.status_unknown) == (3, 3, 1)
    assert (metrics.timed_out, metrics.escalated, metrics.killed) == (2, 1, 2)
    assert sum(metrics.reasons.values()) == 7
    assert metrics.reasons[ExitReason.EXITED] == 2
    assert metrics.reasons[ExitReason.OOM] == 0


def test_usage_adds_up_and_the_largest_memory_is_kept() -> None:
    counters = Counters()
    for user, rss in ((1.0, 100), (2.0, 50)):
        usage = ResourceUsage(user=user, system=0.5, max_rss=rss)
        counters.observe_exit(ExitStatus(reason=ExitReason.EXITED, code=0, rusage=usage))

    metrics = counters.snapshot()

    assert (metrics.cpu_user_seconds, metrics.cpu_system_seconds, metrics.cpu_seconds) == (3.0, 1.0, 4.0)
    assert metrics.max_rss_bytes == 100


def test_a_length_on_a_bound_belongs_to_its_bucket() -> None:
    counters = Counters()
    counters.observe_started(SPAWN_BOUNDS[1])
    counters.observe_started(SPAWN_BOUNDS[-1] + 1)
    counters.observe_exit(ExitStatus.exited(0, started=1.0, ended=1.0 + 7.0))

    metrics = counters.snapshot()

    assert metrics.spawn_seconds.counts[1] == metrics.spawn_seconds.counts[-1] == 1
    assert metrics.spawn_seconds.count == metrics.started == 2
    assert metrics.run_seconds.counts[RUN_BOUNDS.index(10.0)] == 1
    assert metrics.run_seconds.mean == 7.0


def test_starts_that_fail_and_orphans_are_counted() -> None:
    counters = Counters()
    counters.observe_failed_to_start()
    counters.observe_orphan()

    metrics = counters.snapshot(active=3)

    assert (metrics.failed_to_start, metrics.orphans_reaped, metrics.active) == (1, 1, 3)


def test_metrics_become_json() -> None:
    counters = Counters()
    counters.observe_started(0.001)
    counters.observe_exit(ExitStatus.exited(0, started=1.0, ended=2.0))

    plain = json.loads(json.dumps(counters.snapshot(active=1).as_dict()))

    assert plain["started"] == plain["active"] == 1
    assert plain["reasons"]["exited"] == 1
    assert plain["run_seconds"]["count"] == 1
    assert plain["run_seconds"]["total"] == 1.0
    assert len(plain["run_seconds"]["counts"]) == len(plain["run_seconds"]["bounds"]) + 1


def test_a_snapshot_does_not_change_later() -> None:
    counters = Counters()
    before = counters.snapshot()

    counters.observe_exit(ExitStatus.exited(0))

    assert before.exited == 0
    assert before.reasons[ExitReason.EXITED] == 0
    assert before.run_seconds.count == 0


def test_threads_lose_no_count() -> None:
    counters = Counters()

    def observe() -> None:
        for _ in range(2000):
            counters.observe_started(0.001)
            counters.observe_exit(ExitStatus.exited(0))

    threads = [threading.Thread(target=observe) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    metrics = counters.snapshot()
    assert metrics.started == metrics.exited == metrics.spawn_seconds.count == 8000
