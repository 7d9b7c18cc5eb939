"""Reads a list of jobs: a command a line, with options of its own before it where it has some.

    # comments and empty lines are skipped
    gzip -9 -c report.txt > report.txt.gz
    @timeout=30s,address-space=1G,name=convert  ./convert.py big.svg
    @ @home-grown-command-that-begins-with-an-at

The last line shows how to write a command that begins with `@`: behind an empty list of options. Names of
options may be written with `-` or `_`. Bytes that are no UTF-8 come through unharmed (surrogateescape).
"""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches
from typing import Any

from ..command import Command
from ..limits import Limits
from .quantities import bound, seconds, signal_number


class BadLine(ValueError):
    """A line that cannot be understood; the message names the line and the way out."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One command of a list.

    Attributes:
        number: counts the jobs of the list, from 1.
        line: number of its line, from 1.
        text: the command as it was written, without its options.
        name: what to call it: given, or `job <number>`.
        words: the arguments to execute.
        settings: its own settings for Command, limits excepted.
        limits: its own settings for Limits.
    """

    number: int
    line: int
    text: str
    name: str
    words: tuple[str, ...]
    settings: dict[str, Any]
    limits: dict[str, Any]

    def command(self, common: dict[str, Any], limits: dict[str, Any]) -> Command:
        """What to start: the settings common to all jobs, overruled by its own."""
        limits = limits | self.limits
        settings = common | self.settings
        return Command(self.words, **settings, limits=Limits(**limits) if limits else None)


def _time(text: str) -> float | None:
    return seconds(text) or None  # 0 means no limit, as in timeout(1)


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not value > 0:
        raise ValueError(f"{text!r} is no number above 0")
    return value


def _containment(text: str) -> str:
    if text not in ("auto", "session", "cgroup", "guard"):
        raise ValueError(f"{text!r} is no containment; there are auto, session, cgroup and guard")
    return text


def _number_of(unit: str) -> Callable[[str], int]:
    return lambda text: bound(text, unit)


# What may stand behind the @ of a line: settings of Command, and of Limits.
SETTINGS: dict[str, Callable[[str], Any]] = {
    "timeout": _time,
    "idle_timeout": _time,
    "grace": seconds,
    "stop_signal": signal_number,
    "cwd": str,
    "nice": int,
    "containment": _containment,
}
LIMITS: dict[str, Callable[[str], Any]] = {
    "cpu": _number_of("seconds"),
    "address_space": _number_of("bytes"),
    "data": _number_of("bytes"),
    "file_size": _number_of("bytes"),
    "core": _number_of("bytes"),
    "stack": _number_of("bytes"),
    "open_files": _number_of("count"),
    "processes": _number_of("count"),
    "memory": _number_of("bytes"),
    "pids": _number_of("count"),
    "cpus": _positive,
}
ALIASES = {"cpu_time": "cpu"}

_OPTIONS = re.compile(r"@(\S*)(?:\s+|$)(.*)", re.DOTALL)
_SHELL = ("/bin/sh", "-c")
# str.split() takes some of these for blanks, a shell none; without any of them the two agree.
_NEEDS_SHLEX = re.compile(r"['\"\\\x0b\x0c\x1c-\x1f]|[^\x00-\x7f]")


def read_jobs(lines: Iterable[str], *, shell: bool) -> Iterator[Job | BadLine]:
    """Yield the jobs of a list in order, and in the place of a line that is not understood the error.

    Args:
        lines: with or without their line ends.
        shell: run each command by /bin/sh; otherwise cut it into words as a shell would and execute those.
    """
    number = 0
    for line, text in enumerate(lines, 1):
        text = text.strip(" \t\r\n")
        if not text or text.startswith("#"):
            continue
        number += 1
        try:
            yield _job(number, line, text, shell)
        except ValueError as error:
            yield BadLine(f"line {line}: {error}")


def _job(number: int, line: int, text: str, shell: bool) -> Job:
    settings: dict[str, Any] = {}
    limits: dict[str, Any] = {}
    name = ""
    found = _OPTIONS.match(text)
    if found is not None:
        options, text = found.groups()
        for option in filter(None, options.split(",")):
            key, equals, value = option.partition("=")
            key = key.replace("-", "_")
            key = ALIASES.get(key, key)
            if not equals or not value:
                raise ValueError(
                    f"the option {option!r} has no value; write @name=value,name=value before the command"
                )
            if key == "name":
                name = value
            elif key in SETTINGS:
                settings[key] = _read(key, value, SETTINGS[key])
            elif key in LIMITS:
                limits[key] = _read(key, value, LIMITS[key])
            else:
                raise ValueError(_unknown(key))
    if not text:
        raise ValueError("there are options but no command behind them")
    if "\0" in text:
        raise ValueError("a command cannot contain a NUL byte")
    words = (*_SHELL, text) if shell else _split(text)
    name = name or f"job {number}"
    return Job(number=number, line=line, text=text, name=name, words=words, settings=settings, limits=limits)


def _read(key: str, value: str, read: Callable[[str], Any]) -> Any:
    try:
        return read(value)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None


def _unknown(key: str) -> str:
    known = ["name", *SETTINGS, *LIMITS]
    near = get_close_matches(key, known, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
    return f"unknown option {key!r}; {hint}"


def _split(text: str) -> tuple[str, ...]:
    if _NEEDS_SHLEX.search(text) is None:
        words = text.split()
    else:
        try:
            words = shlex.split(text)
        except ValueError as error:
            raise ValueError(f"{str(error).lower()} in {text!r}") from None
    if not words or not words[0]:
        raise ValueError(f"{text!r} names no program")
    return tuple(words)
