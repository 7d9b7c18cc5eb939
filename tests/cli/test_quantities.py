"""Lengths of time and sizes, read and written."""

from __future__ import annotations

import signal

import pytest

from fastproc.cli.quantities import (
    bound,
    counted,
    in_bytes,
    in_seconds,
    seconds,
    signal_name,
    signal_number,
    size,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5),
        ("0", 0),
        ("1.5", 1.5),
        (".5s", 0.5),
        ("250ms", 0.25),
        ("10us", 1e-5),
        ("2m", 120),
        ("1h30m", 5400),
        ("1d", 86400),
        ("2M", 120),
    ],
)
def test_a_length_of_time_is_read(text: str, value: float) -> None:
    assert seconds(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", " ", "x", "-1", "1h30", "30 1h", "5 parsecs", "s", "1e3", "nan", "inf"])
def test_what_is_no_length_of_time_is_refused_with_examples(text: str) -> None:
    with pytest.raises(ValueError, match="1h30m"):
        seconds(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("4096", 4096),
        ("64K", 65536),
        ("64k", 65536),
        ("1KiB", 1024),
        ("1KB", 1000),
        ("1.5G", 3 << 29),
        ("500MB", 500_000_000),
        ("2T", 2 << 40),
        ("10B", 10),
    ],
)
def test_a_size_is_read(text: str, value: int) -> None:
    assert size(text) == value


@pytest.mark.parametrize("text", ["", "K", "-1", "1X", "1e9", "1 2"])
def test_what_is_no_size_is_refused_with_examples(text: str) -> None:
    with pytest.raises(ValueError, match="64K"):
        size(text)


def test_a_limit_may_be_unlimited() -> None:
    assert [bound("unlimited"), bound("infinity", "bytes"), bound("-1")] == [-1, -1, -1]
    assert [bound("12"), bound("1K", "bytes"), bound("1.5s", "seconds"), bound("100ms", "seconds")] == [
        12,
        1024,
        2,
        1,
    ]
    with pytest.raises(ValueError, match="whole number"):
        bound("many")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("TERM", 15),
        ("sigterm", 15),
        ("9", 9),
        ("RTMIN", signal.SIGRTMIN),
        ("SIGRTMIN+2", signal.SIGRTMIN + 2),
    ],
)
def test_a_signal_is_read_by_name_or_number(text: str, number: int) -> None:
    assert signal_number(text) == number


@pytest.mark.parametrize("text", ["", "0", "65", "NOSUCH", "_DFL", "BLOCK", "-9"])
def test_what_is_no_signal_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no signal"):
        signal_number(text)


def test_signals_have_names() -> None:
    assert [signal_name(9), signal_name(signal.SIGRTMIN + 3)] == ["SIGKILL", "SIGRTMIN+3"]


def test_quantities_are_written_for_people() -> None:
    assert [in_seconds(value) for value in (0.0123, 5.26, 65, 3725)] == [
        "0.012 s",
        "5.3 s",
        "1 min 05 s",
        "1 h 02 min",
    ]
    assert [in_bytes(value) for value in (12, 1536, 3 << 20, 5 << 40)] == [
        "12 B",
        "1.5 KiB",
        "3.0 MiB",
        "5120.0 GiB",
    ]
    assert [counted(1, "job"), counted(0, "job"), counted(2, "process")] == ["1 job", "0 jobs", "2 processes"]
