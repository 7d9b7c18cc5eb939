"""How long does it take to end a program and the fifty that it has started, and to be sure of it?

fastproc ends the whole tree and waits until nobody is left. A group that is killed by number ends too, but
who does that hears of the leader alone; psutil finds descendants by reading /proc and misses those who have
left. Afterwards /proc is searched for anybody left, whoever has ended them, outside of the time.
"""

from __future__ import annotations

import gc
import os
import signal
import statistics
import subprocess
import time
from collections.abc import Callable

from harness import (
    Announcements,
    Answer,
    NotDone,
    Plan,
    Rounds,
    children_left,
    main,
    workshop,
)

import fastproc

TREE = 50
OURS, KILL, BY_GROUP, BY_PSUTIL = (
    "terminate_process",
    "Process.kill, done",
    "os.killpg, wait",
    "psutil, kill each",
)
LEADER_ALONE = "hears of the leader alone; the others may still be there"
BY_PROC = "finds descendants by /proc, misses who has left; waits, by polling, until init has reaped them"


def args() -> list[str]:
    """The leader of a tree."""
    return [workshop.child, "forest", str(TREE)]


def by_terminate(manager: fastproc.ProcessManager, ready: Announcements) -> float:
    """SIGTERM, and the proof that nobody is left."""
    manager.start_process("tree", args(), stdout=ready.fd)
    ready.await_all(TREE + 1)
    start = time.perf_counter()
    result = manager.terminate_process("tree")
    seconds = time.perf_counter() - start
    if not result.stopped or result.survivors:
        raise NotDone(f"not stopped: {result}")
    return seconds


def by_kill(manager: fastproc.ProcessManager, ready: Announcements) -> float:
    """SIGKILL, and waiting until nothing is left."""
    manager.start_process("killed", args(), stdout=ready.fd)
    ready.await_all(TREE + 1)
    process = manager.get("killed")
    start = time.perf_counter()
    process.kill()
    result = process.terminate()
    seconds = time.perf_counter() - start
    if not result.stopped or process.returncode != -signal.SIGKILL:
        raise NotDone(f"not killed: {result}")
    return seconds


def by_killpg(ready: Announcements) -> float:
    """What programs do that know of groups."""
    leader = subprocess.Popen(args(), stdout=ready.fd, start_new_session=True)
    ready.await_all(TREE + 1)
    start = time.perf_counter()
    os.killpg(leader.pid, signal.SIGKILL)
    code = leader.wait()
    seconds = time.perf_counter() - start
    if code != -signal.SIGKILL:
        raise NotDone(f"the leader has ended with {code}")
    return seconds


def by_psutil(ready: Announcements) -> float:
    """What the recipe in psutil's documentation does."""
    import psutil

    leader = psutil.Popen(args(), stdout=ready.fd)
    ready.await_all(TREE + 1)
    start = time.perf_counter()
    family = [*leader.children(recursive=True), leader]
    for member in family:
        member.kill()
    _gone, left = psutil.wait_procs(family, timeout=10)
    seconds = time.perf_counter() - start
    if left or len(family) != TREE + 1:
        raise NotDone(f"{len(left)} of {len(family)} are left")
    return seconds


def nobody_is_left(patience: float = 5.0) -> None:
    """Whoever ends a tree has ended all of it, at the latest a moment afterwards."""
    until = time.monotonic() + patience
    while left := children_left(workshop.child):
        if time.monotonic() > until:
            raise NotDone(f"{len(left)} are left")
        time.sleep(0.005)


def one_tree(way: Callable[[], float]) -> float:
    """Seconds to end it; outside of the time, that all of it has ended."""
    seconds = way()
    nobody_is_left()
    return seconds


def question(plan: Plan) -> Answer:
    """Turns of a few trees each."""
    rounds = Rounds()
    with Announcements() as ready, fastproc.ProcessManager() as manager:
        ways: dict[str, Callable[[], float]] = {
            OURS: lambda: by_terminate(manager, ready),
            KILL: lambda: by_kill(manager, ready),
            BY_GROUP: lambda: by_killpg(ready),
            BY_PSUTIL: lambda: by_psutil(ready),
        }
        # Each tree takes psutil two seconds; the median of several counts for those that take milliseconds.
        times = {OURS: 3, KILL: 3, BY_GROUP: 3, BY_PSUTIL: 1}
        names = list(ways)
        for turn in range(plan.pick(5, 2)):
            first = turn % len(names)
            for name in (*names[first:], *names[:first]):
                if name in rounds.refused:
                    continue
                gc.collect()
                try:
                    rounds.add(name, statistics.median(one_tree(ways[name]) for _ in range(times[name])))
                except NotDone as why:
                    rounds.refuse(name, str(why))
    rows = [
        rounds.ratio(OURS, BY_GROUP, what=f"{OURS}, against {BY_GROUP}", differs=LEADER_ALONE),
        rounds.ratio(KILL, BY_GROUP, what=f"{KILL}, against {BY_GROUP}", differs=LEADER_ALONE),
        rounds.faster(OURS, BY_PSUTIL, what=f"{OURS}, faster than {BY_PSUTIL}", differs=BY_PROC),
    ]
    return Answer(title=f"The end of a tree of {TREE + 1}", rows=rows, rounds=rounds.seconds)


if __name__ == "__main__":
    main(__doc__, question)
