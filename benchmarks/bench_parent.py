"""What does a start cost in a large parent: with many descriptors, much memory, many living children?

Pinned, one at a time, the same job in a small parent and in a large one within each round. fork(2) pays for
memory; whoever lets the kernel copy the table of descriptors pays for these, some 34 ns each, at every start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import contenders
from harness import (
    Announcements,
    Answer,
    Plan,
    Rounds,
    main,
    measure,
    more_open_files,
    open_descriptors,
    pinned,
    resident_memory,
    workshop,
)

import fastproc

GOAL = 1.25
DESCRIPTORS = 15_000
MEMORY = 1 << 30
CHILDREN = 5_000


@contextmanager
def living_children(count: int) -> Iterator[None]:
    """So many children alive, all of them ours and ready."""
    with Announcements() as ready, fastproc.ProcessManager() as manager:
        command = fastproc.Command([workshop.child, "live"], stdout=ready.fd)
        for started in manager.start_many((f"live-{i}", command) for i in range(count)):
            if isinstance(started, fastproc.SpawnError):
                raise started
        ready.await_all(count)
        yield
        manager.terminate_all()


def question(plan: Plan) -> Answer:
    """In each round every contender in every parent."""
    more_open_files(DESCRIPTORS + 1000)
    parents: dict[str, Callable[[], AbstractContextManager[object]]] = {
        "small": nullcontext,
        f"{DESCRIPTORS:,} descriptors": lambda: open_descriptors(DESCRIPTORS),
        "1 GiB resident": lambda: resident_memory(MEMORY),
        f"{CHILDREN:,} children": lambda: living_children(CHILDREN),
    }
    rounds = Rounds()
    with pinned(), fastproc.ProcessManager() as manager:
        ours, popen = contenders.start_process(manager), contenders.popen()
        names = {ours: "ProcessManager", popen: "subprocess.Popen"}
        fork = contenders.c_fork()
        if not plan.quick:
            names[fork] = "C: fork"
        every = list(parents)
        for turn in range(max(3, plan.rounds // 2)):
            first = turn % len(every)
            for parent in (*every[first:], *every[:first]):
                with parents[parent]():
                    taken = measure(list(names), plan.pick(100, 40), 1)
                for contender, name in names.items():
                    rounds.add(f"{name}, {parent}", taken.seconds[contender.name][0])
    rows = [
        rounds.ratio(f"{name}, {parent}", f"{name}, small", goal=GOAL if name == "ProcessManager" else None)
        for name in names.values()
        for parent in every[1:]
    ]
    return Answer(title="In a large parent, against a small one", rows=rows, rounds=rounds.seconds)


if __name__ == "__main__":
    main(__doc__, question)
