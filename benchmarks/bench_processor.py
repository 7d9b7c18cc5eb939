"""What does a task of the Processor cost: submitted, run, and its result kept, so that a crash loses none?

All tasks are submitted and then run, by as many slots as there are CPUs. Beside it the same written by hand:
a file a task, moved from directory to directory by rename(2), a program run for it by subprocess in a pool of
threads, and, for durability, fsync(2) of every file and directory before going on. The directory is a
temporary one: what fsync(2) costs there is the file system's.
"""

from __future__ import annotations

import functools
import gc
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from contenders import face
from harness import Answer, NotDone, Plan, Rounds, main, workshop

DURABILITIES = ("none", "batch", "full")
BY_HAND = "by hand"
LESS = "no attempts, time-outs, locks or recovery"


def with_processor(durability: str, n: int) -> tuple[float, float]:
    """Seconds to submit `n` tasks, and to run them."""
    processor_class: Any = face("fastproc.processor.Processor")
    with tempfile.TemporaryDirectory(prefix="fastproc-bench-") as directory:
        slots = len(os.sched_getaffinity(0))
        processor = processor_class(directory, durability=durability, slots=slots)
        try:
            start = time.perf_counter()
            names = processor.submit_many([workshop.child, "okay"] for _ in range(n))
            submitted = time.perf_counter()
            processor.run_until_empty(timeout=120)
            ended = time.perf_counter()
            status = processor.queue_status()
            files = len(list((Path(directory) / "completed").iterdir()))
        finally:
            processor.stop()
    if not len(names) == status.completed == n or files < n:
        raise NotDone(f"{status.completed} of {n} tasks are completed, with {files} files")
    return submitted - start, ended - submitted


class ByHand:
    """A queue of directories as one writes it in an afternoon."""

    def __init__(self, directory: str, *, durable: bool) -> None:
        self._durable = durable
        self._of = {name: Path(directory) / name for name in ("pending", "running", "completed", "logs")}
        for path in self._of.values():
            path.mkdir()

    def submit(self, number: int) -> str:
        """Write the task."""
        name = f"task-{number}.json"
        self._write("pending", name, {"args": [workshop.child, "okay"]})
        return name

    def run(self, name: str) -> int:
        """Carry it out and keep the result."""
        self._move(name, "pending", "running")
        task = json.loads((self._of["running"] / name).read_text(encoding="utf-8"))
        with open(self._of["logs"] / name, "wb") as log:
            code = subprocess.run(task["args"], stdin=subprocess.DEVNULL, stdout=log, check=False).returncode
        self._write("running", name, {**task, "code": code})
        self._move(name, "running", "completed")
        return code

    def completed(self) -> int:
        """How many have a result of 0."""
        results = [json.loads(path.read_text(encoding="utf-8")) for path in self._of["completed"].iterdir()]
        return sum(result["code"] == 0 for result in results)

    def _write(self, state: str, name: str, words: dict[str, Any]) -> None:
        half_done = self._of[state] / f".{name}"
        with open(half_done, "w", encoding="utf-8") as file:
            json.dump(words, file)
            file.flush()
            if self._durable:
                os.fsync(file.fileno())
        half_done.rename(self._of[state] / name)
        self._sync(state)

    def _move(self, name: str, source: str, target: str) -> None:
        (self._of[source] / name).rename(self._of[target] / name)
        self._sync(source)
        self._sync(target)

    def _sync(self, state: str) -> None:
        if self._durable:
            directory = os.open(self._of[state], os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)


def by_hand(durability: str, n: int) -> tuple[float, float]:
    """Seconds to submit `n` tasks, and to run them."""
    with (
        tempfile.TemporaryDirectory(prefix="fastproc-bench-") as directory,
        ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool,
    ):
        queue = ByHand(directory, durable=durability == "full")
        start = time.perf_counter()
        names = [queue.submit(number) for number in range(n)]
        submitted = time.perf_counter()
        codes = list(pool.map(queue.run, names))
        ended = time.perf_counter()
        if not codes.count(0) == queue.completed() == n:
            raise NotDone(f"{codes.count(0)} of {n} tasks have ended well")
    return submitted - start, ended - submitted


def question(plan: Plan) -> Answer:
    """Rounds over all degrees of durability."""
    face("fastproc.processor.Processor")
    rounds = Rounds()
    ways: dict[str, Callable[[int], tuple[float, float]]] = {
        f"Processor, {durability}": functools.partial(with_processor, durability)
        for durability in DURABILITIES
    }
    ways |= {
        f"{BY_HAND}, {durability}": functools.partial(by_hand, durability) for durability in ("none", "full")
    }
    n = plan.pick(120, 24)
    names = list(ways)
    for turn in range(plan.pick(5, 3)):
        first = turn % len(names)
        for name in (*names[first:], *names[:first]):
            if name in rounds.refused:
                continue
            gc.collect()
            try:
                submitting, running = ways[name](n)
            except NotDone as why:
                rounds.refuse(name, str(why))
                continue
            rounds.add(f"{name}, submit", submitting / n)
            rounds.add(f"{name}, run", running / n)
            rounds.add(name, (submitting + running) / n)
    rows = []
    for durability in DURABILITIES:
        hand = f"{BY_HAND}, {'none' if durability == 'none' else 'full'}"
        rows += [
            rounds.ratio(
                f"Processor, {durability}{part}",
                f"{hand}{part}",
                what=f"Processor, durability {durability}{part}, against {hand}",
                differs=LESS,
            )
            for part in ("", ", submit", ", run")
        ]
    return Answer(title="A task of the Processor", rows=rows, rounds=rounds.seconds)


if __name__ == "__main__":
    main(__doc__, question)
