"""How long until the next attempt."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, strategies as st

from fastproc.processor.retry import Backoff, RateLimit


def test_waits_double_up_to_the_cap() -> None:
    backoff = Backoff(base=1, cap=10, spread=0)
    assert [backoff.wait(failures, 0.3) for failures in (1, 2, 3, 4, 5, 5000)] == [1, 2, 4, 8, 10, 10]


@given(failures=st.integers(0, 10**6), chance=st.floats(0, 1))
def test_a_wait_lies_between_half_and_one_and_a_half_and_under_the_cap(failures: int, chance: float) -> None:
    plain = Backoff(base=2, cap=100, spread=0).wait(failures, 0)
    wait = Backoff(base=2, cap=100, spread=0.5).wait(failures, chance)
    assert plain * 0.5 <= wait <= min(plain * 1.5, 100)


@pytest.mark.parametrize(
    "said", [{"base": -1}, {"cap": math.nan}, {"spread": 2}, {"base": True}, {"base": "1"}]
)
def test_wrong_waits_are_refused(said: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        Backoff(**said)


@pytest.mark.parametrize(
    ("asked", "seconds"),
    [
        (None, 1800),
        (0, 300),
        (-5, 300),
        (299, 300),
        (3600, 3600),
        (1e12, 14400),
        (math.nan, 1800),
        (math.inf, 1800),
    ],
)
def test_a_rate_limit_holds_between_five_minutes_and_four_hours(asked: float | None, seconds: float) -> None:
    assert RateLimit().pause(asked) == seconds


def test_wrong_rate_limits_are_refused() -> None:
    with pytest.raises(ValueError, match="shortest"):
        RateLimit(shortest=10, longest=5, usual=7)
    with pytest.raises(ValueError, match="usual"):
        RateLimit(usual=10**6)
