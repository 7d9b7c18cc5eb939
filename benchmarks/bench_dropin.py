"""What does the drop-in cost, against the standard module it stands in for?

Each call is made to both, one after the other, pinned to one CPU. The child has no libc and no work, so
nothing hides what the starter costs; the shell shows what is left of it with a real program.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from harness import Answer, Plan, Rounds, Row, main, measure, workshop
from jobs import Status, Timed
from surroundings import CHILD_CODE, pinned

from fastproc import subprocess as ours

PIPE = subprocess.PIPE
MEGABYTE = 1 << 20
Once = Callable[[ModuleType], Status]

# The goals of the first two are pinned; nothing may be slower, give or take what repeats.
AS_FAST = 1.0


def calls() -> dict[str, tuple[Once, float]]:
    """What is called, and the goal of its ratio."""
    child = [workshop.child]

    def communicate(streams: int, **options: Any) -> Once:
        def once(module: ModuleType) -> Status:
            process = module.Popen(child, stdout=PIPE, stderr=PIPE if streams == 2 else None, **options)
            process.communicate()
            code: int = process.returncode
            return code

        return once

    return {
        "run": (lambda module: module.run(child).returncode, 0.70),
        "run, captured": (lambda module: module.run(child, capture_output=True).returncode, 0.55),
        "run, text": (lambda module: module.run(child, capture_output=True, text=True).returncode, AS_FAST),
        "run, input": (lambda module: module.run(child, input=b"x", stdout=PIPE).returncode, AS_FAST),
        "run, time-out": (lambda module: module.run(child, timeout=60).returncode, AS_FAST),
        "run, shell": (lambda module: module.run(f"exit {CHILD_CODE}", shell=True).returncode, AS_FAST),
        "call": (lambda module: module.call(child), AS_FAST),
        "Popen, wait": (lambda module: module.Popen(child).wait(), AS_FAST),
        "Popen, communicate, one pipe": (communicate(1), AS_FAST),
        "Popen, communicate, two pipes": (communicate(2), AS_FAST),
        "Popen, communicate, text": (communicate(1, text=True), AS_FAST),
    }


def many(name: str, module: ModuleType, once: Once) -> Timed:
    """A contender that makes the same call again and again."""

    def job(n: int) -> Iterator[Status]:
        for _ in range(n):
            yield once(module)

    return Timed(f"{name}: {module.__name__}", job)


def compared(name: str, once: Once, goal: float, n: int, rounds: int, into: Rounds) -> Row:
    """One call on both modules, interleaved."""
    theirs, mine = many(name, subprocess, once), many(name, ours, once)
    measure([theirs, mine], n, rounds, into)
    return into.ratio(mine.name, theirs.name, what=name, goal=goal)


def bulk(megabytes: int, *, text: bool) -> Once:
    """So much output of one child, through communicate()."""
    script = f"head -c {megabytes * MEGABYTE} /dev/zero; exit {CHILD_CODE}"

    def once(module: ModuleType) -> Status:
        with module.Popen(script, shell=True, stdout=PIPE, stderr=PIPE, text=text) as process:
            output, _ = process.communicate()
        code: int = process.returncode
        return code if len(output) == megabytes * MEGABYTE else None

    return once


def question(plan: Plan) -> Answer:
    """Small calls first, then large streams."""
    into = Rounds()
    n = plan.pick(120, 30)
    with pinned():
        rows = [compared(name, once, goal, n, plan.rounds, into) for name, (once, goal) in calls().items()]
    size = plan.pick(100, 10)
    for text in (False, True):
        name = f"communicate of {size} MB" + (", text" if text else "")
        rows.append(compared(name, bulk(size, text=text), AS_FAST, 1, plan.pick(5, 3), into))
    return Answer(title="The drop-in, against subprocess", rows=rows, rounds=into.seconds)


if __name__ == "__main__":
    main(__doc__, question)
