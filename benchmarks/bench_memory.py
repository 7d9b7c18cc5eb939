"""How much of our memory does a living child cost, and what does it cost while nothing happens?

Resident memory of this process before and after thousands of children were started, all counted: the
object in C, the Process, its name in the manager; and the same of a C program that uses the library alone.
Then a second of idleness, in which no CPU time may be used. Each contender has a process of its own,
because memory that was given back is used again.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable

from harness import (
    Announcements,
    Answer,
    NotDone,
    Plan,
    Row,
    main,
    more_open_files,
    resident_bytes,
    workshop,
)

import fastproc

WARM_UP = 200
GOAL_BYTES = 1024
GOAL_BYTES_IN_C = 256
IDLE_SECONDS = 1.0
# What reading two clocks and sleeping costs, well under any work done per child.
GOAL_IDLE_MS = 1.0
LESS = "keeps no pidfd, no deadline and no containment"


def with_fastproc(children: int) -> tuple[float, float]:
    """Bytes a child, and milliseconds of CPU time used in idleness."""
    with fastproc.ProcessManager() as manager, Announcements() as ready:
        args = [workshop.child, "live"]

        def start(names: range) -> list[fastproc.Process]:
            started = [manager.start_process(f"task-{i}", args, stdout=ready.fd) for i in names]
            ready.await_all(len(names))
            return started

        start(range(WARM_UP))
        manager.terminate_all(timeout=5.0)
        gc.collect()
        before = resident_bytes()
        held = start(range(children))
        gc.collect()
        grown = resident_bytes() - before
        if manager.active_count() != children:
            raise NotDone(f"{manager.active_count()} of {children} children are alive")
        used = time.process_time()
        time.sleep(IDLE_SECONDS)
        idle_ms = (time.process_time() - used) * 1000
        if not manager.terminate_all(timeout=10.0) or any(one.returncode != -15 for one in held):
            raise NotDone("not all children ended by SIGTERM")
    return grown / children, idle_ms


def with_popen(children: int) -> tuple[float, float]:
    """The same with subprocess, which keeps no pidfd, no deadline and no containment."""
    with Announcements() as ready:
        args = [workshop.child, "live"]

        def start(count: int) -> list[subprocess.Popen[bytes]]:
            started = [
                subprocess.Popen(args, stdin=subprocess.DEVNULL, stdout=ready.fd) for _ in range(count)
            ]
            ready.await_all(count)
            return started

        def stop(living: list[subprocess.Popen[bytes]]) -> None:
            for child in living:
                child.terminate()
            if any(child.wait() != -15 for child in living):
                raise NotDone("not all children ended by SIGTERM")

        stop(start(WARM_UP))
        gc.collect()
        before = resident_bytes()
        held = start(children)
        gc.collect()
        grown = resident_bytes() - before
        used = time.process_time()
        time.sleep(IDLE_SECONDS)
        idle_ms = (time.process_time() - used) * 1000
        stop(held)
    return grown / children, idle_ms


def in_a_fresh_process(contender: str, children: int) -> tuple[float, float]:
    """What a contender measures when nothing else has used the memory before."""
    command = [sys.executable, __file__, contender, str(children)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise NotDone(f"{contender}: {done.stderr}")
    grown, idle = json.loads(done.stdout)
    return grown, idle


def in_c(children: int) -> float:
    """What the library alone costs a C program."""
    command = [workshop.live, workshop.child, str(children)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise NotDone(f"live.c: {done.stderr}")
    return float(done.stdout)


def question(plan: Plan) -> Answer:
    """One measurement each: memory does not vary with the load of the machine."""
    children = plan.pick(5_000, 1_000)
    more_open_files(children * 2 + 1000)
    measured = {contender: in_a_fresh_process(contender, children) for contender in WAYS}
    rows = [
        Row(what="ProcessManager, memory a child", value=measured["fastproc"][0], unit="B", goal=GOAL_BYTES),
        Row(what="libfastproc in C, memory a child", value=in_c(children), unit="B", goal=GOAL_BYTES_IN_C),
        Row(what="subprocess.Popen, memory a child", value=measured["popen"][0], unit="B", differs=LESS),
        Row(
            what=f"ProcessManager, CPU time in {IDLE_SECONDS:g} s",
            value=measured["fastproc"][1],
            unit="ms",
            goal=GOAL_IDLE_MS,
        ),
        Row(what=f"subprocess.Popen, CPU time in {IDLE_SECONDS:g} s", value=measured["popen"][1], unit="ms"),
    ]
    return Answer(title=f"{children:,} living children", rows=rows)


WAYS: dict[str, Callable[[int], tuple[float, float]]] = {
    "fastproc": with_fastproc,
    "popen": with_popen,
}

if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in WAYS:
        more_open_files(int(sys.argv[2]) * 2 + 1000)
        json.dump(WAYS[sys.argv[1]](int(sys.argv[2])), sys.stdout)
    else:
        main(__doc__, question)
