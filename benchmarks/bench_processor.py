"""What does a task of the queue cost, from submit() to completed, beside what the disk alone costs?

Tasks that run `true`, 8 at once, durability "batch", in rounds. In each round as many files are written,
synced,
renamed, and their directory synced: the least that one durable step can cost on this disk. A task takes
    several.
"""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from harness import Answer, NotDone, Plan, Row, main

from fastproc.processor import Processor

# 300 tasks a second.
GOAL_MS = 1000 / 300


def queue(directory: Path, count: int) -> tuple[float, float]:
    """Seconds to submit so many, and to have them done."""
    with Processor(directory, durability="batch", slots=8) as processor:
        began = time.perf_counter()
        processor.submit_many({"id": f"t{number}", "args": ["true"]} for number in range(count))
        submitted = time.perf_counter()
        report = processor.run_until_empty()
        done = time.perf_counter()
    if report.completed_count != count:
        raise NotDone(f"{report.completed_count} of {count} tasks were completed")
    return submitted - began, done - submitted


def pairs(directory: Path, count: int) -> float:
    """Seconds for so many bare pairs of fsync and rename."""
    directory.mkdir()
    here = os.open(directory, os.O_RDONLY)
    began = time.perf_counter()
    for number in range(count):
        fd = os.open("new", os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=here)
        os.write(fd, b"x" * 300)
        os.fsync(fd)
        os.close(fd)
        os.rename("new", str(number), src_dir_fd=here, dst_dir_fd=here)
        os.fsync(here)
    seconds = time.perf_counter() - began
    os.close(here)
    return seconds


def question(plan: Plan) -> Answer:
    """Ratios within a round, since the disk is everybody's."""
    count = 300 if plan.quick else 4000
    rounds = [one_round(count) for _ in range(plan.rounds)]
    submit, run, bare = (statistics.median(values) / count * 1000 for values in zip(*rounds, strict=True))
    ratio = statistics.median(run / bare for _submit, run, bare in rounds)
    rows = [
        Row(what="submit_many, a task", value=submit, unit="ms"),
        Row(what="from pending to completed, a task", value=run, unit="ms", goal=GOAL_MS),
        Row(what="one fsync and rename", value=bare, unit="ms"),
        Row(what="a task, in pairs of fsync and rename", value=ratio),
    ]
    return Answer(title=f"{count:,} small tasks of a queue", rows=rows)


def one_round(count: int) -> tuple[float, float, float]:
    """Submit, run, and the bare pairs, in a directory that is removed."""
    place = Path(tempfile.mkdtemp(prefix="fastproc-bench-"))
    try:
        return (*queue(place / "queue", count), pairs(place / "pairs", count))
    finally:
        shutil.rmtree(place)


if __name__ == "__main__":
    main(__doc__, question)
