"""How fast are thousands of small programs started and reaped, on all CPUs?

Against the fastest arrangement known in C: as many threads as CPUs, each starting and reaping its own
children, whichever is faster in that round of threads that may move and threads that may not.
"""

from __future__ import annotations

import os
from contextlib import ExitStack

import contenders
from harness import Answer, Plan, main, measure

import fastproc

GOAL = 1.35
RUNNING = 8


def question(plan: Plan) -> Answer:
    """Interleaved rounds of all that start many children."""
    with ExitStack() as stack:
        manager = stack.enter_context(fastproc.ProcessManager())
        limits = contenders.c_threads(len(os.sched_getaffinity(0)))
        ours = [contenders.start_many(manager), contenders.fastproc_map(manager)]
        others = [
            contenders.popen_window(RUNNING),
            stack.enter_context(contenders.popen_in_threads(RUNNING)),
            stack.enter_context(contenders.in_asyncio(RUNNING)),
        ]
        rounds = measure([*limits, *ours, *others], plan.pick(4000, 1000), plan.rounds)
    best = [limit.name for limit in limits]
    rows = [rounds.ratio(limit.name, *best) for limit in limits]
    rows += [rounds.ratio(one.name, *best, goal=GOAL) for one in ours]
    rows += [rounds.ratio(other.name, *best) for other in others]
    return Answer(
        title="Thousands at once, against the best arrangement in C", rows=rows, rounds=rounds.seconds
    )


if __name__ == "__main__":
    main(__doc__, question)
