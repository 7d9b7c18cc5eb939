"""How many small programs does an event loop start and hear of, with asyncio and with fastproc.aio?

Eight tasks, each starting one child after the other. Beside it the same with a line of output from each, and,
where it is installed, uvloop, which starts its children by itself.
"""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from contextlib import ExitStack
from functools import partial

import contenders
from harness import Answer, Plan, main, measure

from fastproc import aio

RUNNING = 8
# Before Python 3.12 asyncio has a thread for each child.
GOAL = 1 / 5 if sys.version_info < (3, 12) else 1 / 3.5


def question(plan: Plan) -> Answer:
    """Interleaved rounds, all in loops of one process."""
    with ExitStack() as stack:
        theirs = stack.enter_context(contenders.in_asyncio(RUNNING))
        ours = stack.enter_context(contenders.in_fastproc_aio(RUNNING))
        others = []
        if importlib.util.find_spec("uvloop") is not None:
            import uvloop

            for name, create in (
                ("uvloop", asyncio.create_subprocess_exec),
                ("fastproc.aio in uvloop", aio.create_subprocess_exec),
            ):
                made = contenders.in_a_loop(name, create, RUNNING, uvloop.new_event_loop)
                others.append(stack.enter_context(made))
        rounds = measure([theirs, ours, *others], plan.pick(2000, 500), plan.rounds)
        rows = [rounds.ratio(ours.name, theirs.name, goal=GOAL)]
        rows += [rounds.ratio(other.name, theirs.name) for other in others]

        collect = [
            stack.enter_context(contenders.collecting(name, job, RUNNING))
            for name, job in (
                ("asyncio, communicate", partial(contenders.communicate, asyncio.create_subprocess_exec)),
                ("fastproc.aio, communicate", partial(contenders.communicate, aio.create_subprocess_exec)),
                ("fastproc.aio, run", contenders.run_in_loop),
            )
        ]
        measure(collect, plan.pick(500, 200), plan.rounds, rounds)
        rows += [rounds.ratio(one.name, collect[0].name) for one in collect[1:]]
    return Answer(title="In an event loop, against asyncio", rows=rows, rounds=rounds.seconds)


if __name__ == "__main__":
    main(__doc__, question)
