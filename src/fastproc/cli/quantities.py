"""Lengths of time and sizes as people write them: `1h30m`, `250ms`, `1.5G`; and back again."""

from __future__ import annotations

import re
import signal

_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_TIME_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(us|ms|s|m|h|d|)")
_SIZE = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*([KMGTP]?)(i?B|)", re.IGNORECASE)


def seconds(text: str) -> float:
    """Read a length of time; a number alone is in seconds, parts add up.

    Raises:
        ValueError: it is not one; the message says what would be.
    """
    rest = text.strip().lower()
    total, at = 0.0, 0
    while at < len(rest) or at == 0:
        part = _TIME_PART.match(rest, at)
        # Without its unit a number can only stand alone: what is the 30 of 1h30?
        if part is None or (not part[2] and part[0] != rest):
            raise ValueError(f"{text!r} is no length of time; write for example 5, 250ms, 1.5s, 10m or 1h30m")
        total += float(part[1]) * _SECONDS[part[2]]
        at = part.end()
    return total


def size(text: str) -> int:
    """Read a size in bytes; K, M, G, T and KiB … count by 1024, KB … by 1000, as the coreutils do.

    Raises:
        ValueError: it is not one; the message says what would be.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is no size; write for example 4096, 64K, 1.5G or 500MB")
    number, prefix, suffix = found.groups()
    base = 1000 if prefix and suffix.upper() == "B" else 1024
    return int(float(number) * base ** " KMGTP".index(prefix.upper() or " "))


def bound(text: str, unit: str = "count") -> int:
    """Read a resource limit: `unlimited` (-1), or a number of that unit: count, bytes or seconds."""
    if text.strip().lower() in ("unlimited", "infinity", "-1"):
        return -1
    if unit == "bytes":
        return size(text)
    if unit == "seconds":
        return max(1, round(seconds(text)))
    try:
        value = int(text)
    except ValueError:
        value = -1
    if value < 0:
        raise ValueError(f"{text!r} is no count; write a whole number or unlimited")
    return value


def signal_number(text: str) -> int:
    """Read a signal: `TERM`, `SIGTERM`, `RTMIN+1` or `15`.

    Raises:
        ValueError: there is no such signal.
    """
    name = text.strip().upper().removeprefix("SIG")
    base, plus, offset = name.partition("+")
    if name.isdecimal():
        number = int(name)
    elif base == "RTMIN" and (not plus or offset.isdecimal()):
        number = int(signal.SIGRTMIN) + int(offset or 0)
    else:
        number = int(getattr(signal, f"SIG{name}", 0)) if name.isalnum() else 0
    if number not in signal.valid_signals():
        raise ValueError(f"{text!r} is no signal; write for example TERM, INT or 15")
    return number


def signal_name(number: int) -> str:
    """The name of a signal: `SIGTERM`, `SIGRTMIN+3`."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIGRTMIN+{number - signal.SIGRTMIN}" if number > signal.SIGRTMIN else f"signal {number}"


def in_seconds(length: float) -> str:
    """Write a length of time: `0.012 s`, `5.3 s`, `2 min 05 s`, `1 h 02 min`."""
    if length < 1:
        return f"{length:.3f} s"
    if length < 60:
        return f"{length:.1f} s"
    whole = round(length)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def in_bytes(count: float) -> str:
    """Write a size: `512 B`, `1.5 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            break
        count /= 1024
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"


def counted(count: int, noun: str) -> str:
    """Write a count with its noun: `1 job`, `3 jobs`, `2 processes`."""
    if count != 1:
        noun += "es" if noun.endswith("s") else "s"
    return f"{count} {noun}"
