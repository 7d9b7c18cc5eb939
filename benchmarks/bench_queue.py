"""How many small tasks a second does the queue run for certain, and what does a long queue cost?

Tasks are submitted, claimed, run, their outcome recorded and filed with durability="batch" and 8 slots: end
to end. The yardstick is what the disk can do: as many files written, synced and renamed one after the other
as there are tasks. Then a directory with very many pending tasks is opened: how long until the first of them
may run, and whether a quiet queue reads the directory again while nothing happens.

    python benchmarks/bench_queue.py [--quick] [--tasks 20000] [--pending 100000] [--directory DIR]
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from findings import Answer, Row, answer_to_json
from harness import Plan, arguments, plan_of, quartiles
from surroundings import NotDone, resident_bytes, small_environment
from tables import table

from fastproc.processor import Processor
from fastproc.processor.disk import Disk
from fastproc.processor.events import QueueEvent

SLOTS = 8
LEAST_A_SECOND = 300.0
MOST_START_SECONDS = 10.0


class CountingDisk(Disk):
    """Counts how often a directory is read as a whole."""

    def __init__(self) -> None:
        super().__init__()
        self.listings = 0

    def list_dir(self, dir_fd: int) -> Iterator[str]:
        self.listings += 1
        return super().list_dir(dir_fd)


@contextmanager
def directory(where: str | None) -> Iterator[Path]:
    """A directory on the disk that is measured."""
    made = tempfile.mkdtemp(prefix="fastproc-bench-", dir=where)
    try:
        yield Path(made)
    finally:
        shutil.rmtree(made)


def fresh(where: Path) -> Path:
    """An empty directory, for one thing that is measured."""
    return Path(tempfile.mkdtemp(dir=where))


def bare_pairs(where: Path, count: int) -> float:
    """Seconds that the disk needs for so many small files: write, fsync(2), rename(2)."""
    place = fresh(where)
    content = b"x" * 200
    start = time.perf_counter()
    for number in range(count):
        fd = os.open(place / f".{number}", os.O_WRONLY | os.O_CREAT, 0o600)
        os.write(fd, content)
        os.fsync(fd)
        os.close(fd)
        os.rename(place / f".{number}", place / f"{number}")
    return time.perf_counter() - start


def run_tasks(where: Path, count: int) -> tuple[float, float, float]:
    """Seconds to submit and to run so many tasks, and how many bytes of memory more it took at the end than
    in the middle.
    """
    true = shutil.which("true") or "/bin/true"
    place = fresh(where)
    early = completed = 0

    def heard(event: QueueEvent) -> None:
        nonlocal early, completed
        completed += event.kind == "task_completed"
        if completed == count // 2 and not early:
            early = resident_bytes()

    with Processor(place / "q", durability="batch", slots=SLOTS, on_event=heard) as processor:
        start = time.perf_counter()
        names = processor.submit_many([true] for _ in range(count))
        submitted = time.perf_counter()
        report = processor.run_until_empty(600 + count / 20)
        ended = time.perf_counter()
        grown = resident_bytes() - early
    done = len(os.listdir(place / "q/completed"))
    results = len(os.listdir(place / "q/results"))
    if not done == results == report.completed_count == len(names) == count:
        raise NotDone(f"{done} of {count} are completed, {results} have a result: {report}")
    return submitted - start, ended - submitted, float(grown)


def open_long_queue(where: Path, count: int) -> tuple[float, int, float]:
    """Seconds until a Processor with so many pending tasks can start the first; how often a directory was
    read in the second after that, and seconds of processor time used in it.
    """
    place = fresh(where)
    with Processor(place / "q", durability="none") as processor:
        processor.submit_many([str(shutil.which("true"))] for _ in range(count))
    disk = CountingDisk()
    with Processor(place / "q", durability="none", slots=0, disk=disk, poll_interval=0.01) as processor:
        start = time.perf_counter()
        processor.start()
        seconds = time.perf_counter() - start
        pending = processor.queue_status().pending
        if pending != count:
            raise NotDone(f"{pending} of {count} are pending")
        listed, used = disk.listings, time.process_time()
        time.sleep(1.0)
        used = time.process_time() - used
        listings = disk.listings - listed
    return seconds, listings, used


def question(plan: Plan, tasks: int, pending: int, where: str | None) -> Answer:
    """Rounds of the yardstick and of the queue in turn: the disk is another one from minute to minute."""
    rates, ratios, submits, grown = [], [], [], []
    with directory(where) as place:
        # All of it is removed at the end: ext4 takes no inode that was given back less than a minute ago, and
        # looks for another one by one, so whoever makes files after many were removed pays for that.
        for _ in range(plan.rounds):
            bare = bare_pairs(place, tasks)
            submit, run, more = run_tasks(place, tasks)
            rates.append(tasks / (submit + run))
            ratios.append((submit + run) / bare)
            submits.append(tasks / submit)
            grown.append(more)
        seconds, listings, used = open_long_queue(place, pending)
    low, middle, high = quartiles(ratios)
    rate = quartiles(rates)[1]
    memory = quartiles(grown)[1]
    return Answer(
        title=f"{tasks:,} small tasks through the queue, durability batch, {SLOTS} slots",
        rows=[
            Row(
                what="a task, end to end",
                value=1000 / rate,
                unit="ms",
                goal=1000 / LEAST_A_SECOND,
                note=f"{rate:.0f} a second; submitting alone {quartiles(submits)[1]:.0f} a second",
            ),
            Row(what="against a bare fsync and rename each", value=middle, low=low, high=high),
            Row(
                what="memory from the middle to the end",
                value=memory / 2**20,
                unit="MiB",
                goal=2.0 if tasks >= 20_000 else None,
                note="a manager remembers its last 10,000 processes, 1.7 KB each",
            ),
            Row(
                what=f"start with {pending:,} pending",
                value=seconds,
                unit="s",
                goal=MOST_START_SECONDS,
            ),
            Row(
                what="directories read in a quiet second",
                value=listings,
                unit="",
                goal=0.0,
                note=f"{used * 1000:.1f} ms of processor time",
            ),
        ],
        rounds={"a second": rates, "ratio": ratios},
    )


def main() -> None:
    """Answer, and print a table, or with --json one line for run.py."""
    parser = arguments(__doc__)
    parser.add_argument("--json", action="store_true", help="print values instead of a table")
    parser.add_argument("--tasks", type=int, metavar="N", help="how many; 1000, or 60 with --quick")
    parser.add_argument("--pending", type=int, metavar="N", help="how many; 20000, or 1000 with --quick")
    parser.add_argument("--directory", metavar="DIR", help="where; the directory for temporary files")
    options = parser.parse_args()
    plan = plan_of(options)
    if options.rounds is None:
        plan = Plan(rounds=plan.pick(3, 1), quick=plan.quick)
    small_environment()
    answer = question(
        plan,
        options.tasks or plan.pick(1000, 60),
        options.pending or plan.pick(20_000, 1_000),
        options.directory,
    )
    if options.json:
        json.dump(answer_to_json(answer), sys.stdout)
    else:
        print(table([answer]))


if __name__ == "__main__":
    main()
