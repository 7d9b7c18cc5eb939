"""How many small programs does an event loop start and hear of, with asyncio and with fastproc.aio?

Eight tasks, each starting one child after the other. Beside it the same with a line of output from each, and,
where it is installed, in the loop of uvloop, which starts children by itself when asked through asyncio.
"""

from __future__ import annotations

import asyncio
import importlib.util
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import contenders
from contenders import InLoop
from harness import Answer, Contender, Plan, main, measure, workshop
from jobs import Status
from surroundings import CHILD_CODE

from fastproc import aio

RUNNING = 8
# Before Python 3.12 asyncio has a thread for each child.
GOAL = 5.0 if sys.version_info < (3, 12) else 3.5

Create = Callable[..., Awaitable[Any]]
LoopFactory = Callable[[], asyncio.AbstractEventLoop]


async def ends(create: Create, path: str) -> Status:
    """Start one and wait for it."""
    status: Status = await (await create(path)).wait()
    return status


async def communicates(create: Create) -> Status:
    """Start one and read its line."""
    child = await create("/bin/echo", "7", stdout=subprocess.PIPE)
    out, _ = await child.communicate()
    return CHILD_CODE if out == b"7\n" else None


async def runs() -> Status:
    """The same in one await."""
    done = await aio.run(["/bin/echo", "7"], stdout=subprocess.PIPE)
    return CHILD_CODE if done.stdout == b"7\n" else None


def in_loop(
    stack: ExitStack,
    name: str,
    one: Callable[[], Awaitable[Status]],
    factory: LoopFactory | None = None,
    slow: int = 1,
) -> Contender:
    """Eight tasks in a loop of their own."""
    runner = stack.enter_context(asyncio.Runner(loop_factory=factory))
    return InLoop(f"{name}, {RUNNING} tasks", runner, one, RUNNING, slow=slow)


def in_uvloop(stack: ExitStack, plan: Plan) -> list[Contender]:
    """Both in uvloop, where that is installed."""
    if importlib.util.find_spec("uvloop") is None:
        return []
    import uvloop

    pairs = (
        ("uvloop", asyncio.create_subprocess_exec, plan.pick(40, 10)),
        ("fastproc.aio in uvloop", aio.create_subprocess_exec, plan.pick(2, 1)),
    )
    return [
        in_loop(stack, name, partial(ends, create, workshop.child), uvloop.new_event_loop, slow)
        for name, create, slow in pairs
    ]


def question(plan: Plan) -> Answer:
    """Interleaved rounds, all in loops of one process."""
    with ExitStack() as stack:
        theirs = contenders.fewer(stack.enter_context(contenders.in_asyncio(RUNNING)), plan.pick(3, 2))
        ours = stack.enter_context(contenders.in_aio(RUNNING))
        others = in_uvloop(stack, plan)
        rounds = measure([theirs, ours, *others], plan.pick(800, 150), plan.rounds)
        collect = [
            in_loop(
                stack,
                "asyncio, communicate",
                partial(communicates, asyncio.create_subprocess_exec),
                slow=plan.pick(4, 2),
            ),
            in_loop(stack, "fastproc.aio, communicate", partial(communicates, aio.create_subprocess_exec)),
            in_loop(stack, "fastproc.aio, run", runs),
        ]
        measure(collect, plan.pick(320, 60), plan.rounds, rounds)
    rows = [rounds.faster(ours.name, theirs.name, what="fastproc.aio, faster than asyncio", goal=GOAL)]
    if others:
        rows.append(
            rounds.faster(others[1].name, others[0].name, what="both in uvloop, faster than uvloop's own")
        )
    rows += [
        rounds.faster(one.name, collect[0].name, what=f"a line from each: {one.name}, faster")
        for one in collect[1:]
    ]
    return Answer(title="In an event loop, against asyncio", rows=rows, rounds=rounds.seconds)


if __name__ == "__main__":
    main(__doc__, question)
