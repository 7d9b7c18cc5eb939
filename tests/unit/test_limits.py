"""Limits are checked when they are made, and reach the kernel's units."""

from __future__ import annotations

import dataclasses
import pickle
import resource
from typing import Any

import pytest

from fastproc.limits import UNLIMITED, Limits

UINT64_MAX = 2**64 - 1


def test_nothing_is_limited_by_default() -> None:
    limits = Limits()

    assert list(limits.rlimits()) == []
    assert not limits.needs_cgroup


def test_one_number_is_both_soft_and_hard() -> None:
    assert list(Limits(core=0, open_files=64).rlimits()) == [(4, 0, 0), (6, 64, 64)]


def test_a_pair_is_soft_and_hard() -> None:
    assert list(Limits(open_files=(64, 128)).rlimits()) == [(6, 64, 128)]


def test_any_sequence_of_two_is_a_pair() -> None:
    limits = Limits(open_files=[64, 128])  # type: ignore[arg-type]

    assert limits == Limits(open_files=(64, 128))
    assert hash(limits) == hash(Limits(open_files=(64, 128)))


def test_a_cgroup_has_one_bound_and_a_pair_may_say_it_twice() -> None:
    limits = Limits(memory=(5, 5), pids=[2, 2], cpus=(0.5, 0.5))  # type: ignore[arg-type]

    assert limits == Limits(memory=5, pids=2, cpus=0.5)


def test_one_cpu_limit_leaves_a_second_for_sigxcpu() -> None:
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    expected = 6 if hard == resource.RLIM_INFINITY else max(5, min(6, hard))

    assert list(Limits(cpu=5).rlimits()) == [(0, 5, expected)]
    assert list(Limits(cpu=(5, 5)).rlimits()) == [(0, 5, 5)]


@pytest.mark.parametrize("name", ["cpu", "stack"])
def test_minus_one_is_unlimited(name: str) -> None:
    assert UNLIMITED == resource.RLIM_INFINITY
    ((_, soft, hard),) = Limits(**{name: UNLIMITED}).rlimits()
    assert soft == hard == UINT64_MAX
    ((_, soft, hard),) = Limits(**{name: (10, UNLIMITED)}).rlimits()
    assert (soft, hard) == (10, UINT64_MAX)


def test_the_last_three_need_a_cgroup() -> None:
    assert Limits(memory=2**30).needs_cgroup
    assert Limits(pids=10).needs_cgroup
    assert Limits(cpus=0.5).needs_cgroup
    assert not Limits(cpu=1).needs_cgroup


@pytest.mark.parametrize(
    ("limits", "error", "words"),
    [
        ({"cpu": 1.5}, TypeError, "cpu must be a whole number"),
        ({"cpu": True}, TypeError, "cpu"),
        ({"data": "1G"}, TypeError, "data"),
        ({"data": -2}, ValueError, "-1 for unlimited"),
        ({"data": 2**63}, ValueError, "data"),
        ({"stack": (2, 1)}, ValueError, "soft limit 2 is above the hard limit 1"),
        ({"stack": (UNLIMITED, 1)}, ValueError, "above"),
        ({"stack": (1, 2, 3)}, ValueError, "stack"),
        ({"stack": (1, None)}, TypeError, "stack"),
        ({"memory": 0}, ValueError, "at least 1"),
        ({"memory": (1, 2)}, TypeError, "memory must be one number, not .* a cgroup has one bound"),
        ({"cpus": (1, 1, 1)}, TypeError, "cpus must be one number"),
        ({"memory": "1G"}, TypeError, "memory must be a whole number, not"),
        ({"open_files": "ab"}, TypeError, r"open_files must be a whole number or \(soft, hard\)"),
        ({"open_files": {1, 2}}, TypeError, "open_files must be"),
        ({"pids": -1}, ValueError, "pids"),
        ({"cpus": 0}, ValueError, "at least 0.01"),
        ({"cpus": float("nan")}, ValueError, "cpus"),
        ({"cpus": "1"}, TypeError, "cpus"),
    ],
)
def test_wrong_limits_are_refused(limits: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Limits(**limits)


def test_limits_are_values() -> None:
    limits = Limits(cpu=5, memory=2**30)

    assert limits == Limits(cpu=5, memory=2**30)
    assert hash(limits) == hash(Limits(cpu=5, memory=2**30))
    assert pickle.loads(pickle.dumps(limits)) == limits
    with pytest.raises(dataclasses.FrozenInstanceError):
        limits.cpu = 6  # type: ignore[misc]
