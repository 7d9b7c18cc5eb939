"""What a benchmark finds: rows, curves, an answer; how they become JSON and are read again. Values only."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

OTHERS = ("uvloop", "trio", "anyio", "psutil", "gevent", "sh", "plumbum")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table: a measured value and, perhaps, a goal.

    Attributes:
        what: the contender or quantity.
        value: a ratio, or a number of `unit`; None if there is none, and `note` says why.
        goal: what the value must not exceed or, with `at_least`, must reach.
        low, high: the quartiles, where the value is a median.
        note: the same in absolute terms, or whatever helps to read it.
        differs: what the compared give that the other does not, in words.
        refused: there is no value because the work was not done.
    """

    what: str
    value: float | None
    unit: str = "x"
    goal: float | None = None
    at_least: bool = False
    low: float | None = None
    high: float | None = None
    note: str = ""
    differs: str = ""
    refused: bool = False

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None if there is none, or nothing to compare with it."""
        if self.goal is None:
            return None
        if self.value is None:
            return False if self.refused else None
        return self.value >= self.goal if self.at_least else self.value <= self.goal


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Points of one contender in a picture, with quartiles around them where there are some."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """Something to draw. `slug` names it in files and links; axes carry their units.

    `tail_x`: x are percentiles, and the rare ones get as much room as the usual.
    """

    slug: str
    title: str
    x: str
    y: str
    curves: Sequence[Curve]
    log_x: bool = False
    log_y: bool = False
    tail_x: bool = False
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """All that one question has brought; `absent` says why it has brought nothing."""

    title: str
    rows: Sequence[Row]
    rounds: Mapping[str, Sequence[float]] = field(default_factory=dict)
    pictures: Sequence[Picture] = ()
    absent: str = ""


def answer_to_json(answer: Answer) -> dict[str, Any]:
    """An answer as plain values, with as many digits as mean something."""
    plain: dict[str, Any] = _rounded(dataclasses.asdict(answer))
    return plain


def answer_from_json(said: Mapping[str, Any]) -> Answer:
    """The answer that was written; fields that an older run did not know have their defaults."""
    pictures = [
        Picture(**{**picture, "curves": [Curve(**curve) for curve in picture["curves"]]})
        for picture in said.get("pictures", ())
    ]
    return Answer(
        title=said["title"],
        rows=[Row(**row) for row in said["rows"]],
        rounds=said.get("rounds", {}),
        pictures=pictures,
        absent=said.get("absent", ""),
    )


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {name: _rounded(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(part) for part in value]
    return value


# ---- what a result depends on besides the program ----


def machine(directory: Path) -> dict[str, Any]:
    """Kernel, CPU, versions, load, and the commit of the tree in `directory`."""
    return {
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "cpu": _cpu_model(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "libc": " ".join(platform.libc_ver()),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "fastproc": metadata.version("fastproc"),
        "commit": _commit(directory),
        "load": [round(load, 2) for load in os.getloadavg()],
        "capabilities": _capabilities(),
        "others": {name: version for name in OTHERS if (version := _version(name))},
    }


def _capabilities() -> dict[str, Any]:
    """What fastproc may use here, in a process of its own: asking for it makes things that stay."""
    code = "import fastproc, json; print(json.dumps(dict(fastproc.capabilities())))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    found: dict[str, Any] = json.loads(said.stdout) if said.returncode == 0 else {}
    return found


def _cpu_model() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _commit(directory: Path) -> str:
    command = ["git", "-C", str(directory), "describe", "--always", "--dirty"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "unknown"
    return said.stdout.strip() if said.returncode == 0 else "unknown"


def machine_in_words(where: Mapping[str, Any]) -> str:
    """The machine in one sentence."""
    load = where["load"][0]
    words = {True: "a cgroup for each child, ", False: "no cgroups, ", None: ""}
    cgroups = words[where.get("capabilities", {}).get("cgroup")]
    return (
        f"{where['cpus']} CPUs ({where['cpu']}), Linux {where['kernel']}, {where['libc']}, "
        f"{where['python']}, fastproc {where['fastproc']} at {where['commit']}, "
        f"{cgroups}load {load} at the start"
    )
