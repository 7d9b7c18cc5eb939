"""How fast are thousands of small programs started and reaped, on all CPUs?

Against the fastest arrangement in C: as many threads as CPUs, each starting and reaping its own children, one
at a time or eight, on any CPU or on one of its own; whichever has the least median. With a program that only
exits, and with a real one, true(1), where the program itself is most of the cost.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from contextlib import ExitStack

import contenders
from contenders import BesideIdleThreads
from harness import Answer, Contender, Plan, Rounds, Row, main, measure, those_there
from peers import Peers
from surroundings import Program, true_program

import fastproc

RUNNING = 8
GOAL = 1.15
GOAL_TRUE = 1.03
GOAL_THREADS = 4.0
GOAL_ASYNCIO = 5.0
# Since 3.12 asyncio waits by pidfd, before by a thread for each child.
GOAL_FACE = 6.0 if sys.version_info < (3, 12) else 3.5


def small_programs(plan: Plan, rounds: Rounds) -> list[Row]:
    """The child that only exits, started by everybody."""
    with ExitStack() as stack:
        # Whoever takes a millisecond and more for each, and whoever no goal is about, is given fewer.
        peers = stack.enter_context(Peers(RUNNING, fewer=plan.pick(4, 1)))
        some = plan.pick(3, 1)
        manager = stack.enter_context(fastproc.ProcessManager())
        limits = contenders.c_threads(len(os.sched_getaffinity(0)))
        ours = [contenders.start_many(manager), contenders.fastproc_map(manager)]
        threads = contenders.fewer(contenders.popen_in_threads(RUNNING), plan.pick(2, 1))
        loop = contenders.fewer(stack.enter_context(contenders.in_asyncio(RUNNING)), some)
        window = contenders.fewer(contenders.popen_window(RUNNING), some)
        face = f"fastproc.aio, {RUNNING} tasks"
        there: dict[str, Contender] = those_there(
            rounds,
            [
                (face, lambda: stack.enter_context(contenders.in_aio(RUNNING))),
                (f"xargs -P {RUNNING}", lambda: contenders.fewer(contenders.xargs(RUNNING), some)),
                (f"GNU parallel -j {RUNNING}", lambda: contenders.gnu_parallel(RUNNING)),
                *peers.wanted,
            ],
        )
        beside = [BesideIdleThreads(one, RUNNING) for one in ours]
        everyone: list[Contender] = [*limits, *ours, *beside, window, threads, loop, *there.values()]
        measure(everyone, plan.pick(800, 100), plan.rounds, rounds)
        judged: list[Contender] = [limits[1], *ours, threads]
        shares = [
            row
            for one in judged
            if one.name not in rounds.refused
            for row in where_it_goes(one, plan.pick(1000, 200))
        ]
    best = [limit.name for limit in limits]
    rows = [rounds.ratio(name, *best) for name in best]
    rows += [rounds.ratio(one.name, *best, goal=GOAL) for one in ours]
    for one in ours:
        short = one.name.partition(",")[0]
        rows.append(
            rounds.faster(
                one.name, threads.name, what=f"{short}, faster than {threads.name}", goal=GOAL_THREADS
            )
        )
        rows.append(
            rounds.faster(one.name, loop.name, what=f"{short}, faster than {loop.name}", goal=GOAL_ASYNCIO)
        )
    rows.append(rounds.faster(face, loop.name, what=f"{face}, faster than asyncio", goal=GOAL_FACE))
    rows += [rounds.ratio(one.name, *best) for one in beside]
    others = [window.name, threads.name, loop.name, *there, *rounds.not_there]
    rows += [rounds.ratio(name, *best) for name in dict.fromkeys(others)]
    return rows + shares


def where_it_goes(contender: Contender, n: int) -> list[Row]:
    """CPU time of the children, of the calling thread and of our other threads, for each child."""
    before = _clocks()
    contender(n)
    children, calling, others = (1e6 * (now - then) / n for now, then in zip(_clocks(), before, strict=True))
    name = contender.name.partition(", wait")[0]
    note = f"calling thread {calling:.1f} us, other threads {others:.1f} us"
    return [
        Row(what=f"{name}, CPU time of the children", value=children, unit="us"),
        Row(what=f"{name}, CPU time of ours for each", value=calling + others, unit="us", note=note),
    ]


def _clocks() -> tuple[float, float, float]:
    reaped = resource.getrusage(resource.RUSAGE_CHILDREN)
    calling = time.thread_time()
    return reaped.ru_utime + reaped.ru_stime, calling, time.process_time() - calling


def real_programs(plan: Plan, rounds: Rounds, program: Program) -> list[Row]:
    """true(1), started by those that the goals are about."""
    taken = Rounds()
    with ExitStack() as stack:
        manager = stack.enter_context(fastproc.ProcessManager())
        limits = contenders.c_threads(len(os.sched_getaffinity(0)), program)
        ours = [contenders.start_many(manager, program), contenders.fastproc_map(manager, program)]
        threads = contenders.popen_in_threads(RUNNING, program)
        loop = stack.enter_context(contenders.in_asyncio(RUNNING, program))
        measure([*limits, *ours, threads, loop], plan.pick(320, 60), plan.rounds, taken)
    best = [limit.name for limit in limits]
    rows = [
        taken.ratio(one.name, *best, goal=GOAL_TRUE, what=f"true(1): {one.name}, against C") for one in ours
    ]
    rows += [taken.ratio(one.name, *best, what=f"true(1): {one.name}, against C") for one in (threads, loop)]
    for name, seconds in taken.seconds.items():
        rounds.seconds[f"true(1): {name}"] = seconds
    return rows


def question(plan: Plan) -> Answer:
    """Interleaved rounds of all that start many children."""
    rounds = Rounds()
    rows = small_programs(plan, rounds)
    rows += real_programs(plan, rounds, true_program())
    return Answer(
        title="Thousands at once, against the best arrangement in C", rows=rows, rounds=rounds.seconds
    )


if __name__ == "__main__":
    main(__doc__, question)
