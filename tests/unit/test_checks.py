"""What verbs take, and what they refuse, with the name of the argument."""

from __future__ import annotations

import math
import signal
import sys
from typing import Any

import pytest

from fastproc import _checks


@pytest.mark.parametrize("value", [0, 0.5, math.inf])
def test_lengths_of_time_are_taken_as_they_are(value: float) -> None:
    assert _checks.seconds("timeout", value) == value
    assert _checks.optional_seconds("timeout", value) == value


def test_a_time_beyond_all_floats_is_the_largest() -> None:
    assert _checks.seconds("timeout", 10**400) == sys.float_info.max
    assert _checks.optional_seconds("timeout", None) is None


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (math.nan, ValueError),
        (-1, ValueError),
        (-math.inf, ValueError),
        ("5", TypeError),
        (True, TypeError),
        ([], TypeError),
    ],
    ids=repr,
)
def test_what_is_no_length_of_time_is_refused_by_name(value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="grace must be"):
        _checks.seconds("grace", value)
    with pytest.raises(error, match="grace must be"):
        _checks.optional_seconds("grace", value)


@pytest.mark.parametrize("value", [signal.SIGTERM, 0, 9, 64])
def test_signals_are_signals_or_their_numbers(value: int) -> None:
    assert _checks.signal_number("sig", value) == value


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (65, ValueError, "not 65"),
        (-1, ValueError, "not -1"),
        (10**20, ValueError, "from 0 to 64"),
        (True, TypeError, "not True"),
        ("TERM", TypeError, "such as signal.SIGTERM"),
        (1.0, TypeError, "not 1.0"),
    ],
    ids=repr,
)
def test_what_is_no_signal_is_refused_with_the_way_out(
    value: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=f"sig must be.*{words}"):
        _checks.signal_number("sig", value)


def test_what_cannot_be_called_and_what_is_no_flag_are_refused() -> None:
    assert _checks.callback("fn", print) is print
    assert _checks.flag("ordered", True) is True
    with pytest.raises(TypeError, match="fn must be callable, not 5"):
        _checks.callback("fn", 5)  # type: ignore[type-var]
    with pytest.raises(TypeError, match="ordered must be True or False, not 'x'"):
        _checks.flag("ordered", "x")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "left"), [(None, None), (0, 0.0), (2.5, 2.5), (-1, 0.0), (-0.001, 0.0), (-math.inf, 0.0)]
)
def test_what_is_left_of_a_time_may_be_less_than_nothing(value: float | None, left: float | None) -> None:
    assert _checks.time_left("timeout", value) == left


@pytest.mark.parametrize("value", [math.nan, "5", True])
def test_what_is_left_of_a_time_is_a_number(value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="timeout must be"):
        _checks.time_left("timeout", value)
