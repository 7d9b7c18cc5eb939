"""How does the throughput change with the number of children that are alive at a time?

From one to 64, on all CPUs. C has at most as many threads as CPUs, each with its share of the living ones;
Popen has a thread for each, as a pool would; asyncio a task for each.
"""

from __future__ import annotations

from contextlib import ExitStack

import contenders
from harness import (
    Answer,
    Contender,
    Curve,
    Picture,
    Plan,
    Rounds,
    Row,
    main,
    measure,
    quartiles,
    those_there,
)

import fastproc

ALIVE = (1, 2, 4, 8, 16, 32, 64)
LIMIT, OURS, POPEN, LOOP = "C: clone3, waitid", "ProcessManager.map", "subprocess.Popen in threads", "asyncio"
FACE = "fastproc.aio"


def at(alive: int, n: int, plan: Plan, absent: dict[str, str]) -> Rounds:
    """Interleaved rounds of everybody with so many alive."""
    rounds = Rounds()
    with ExitStack() as stack:
        manager = stack.enter_context(fastproc.ProcessManager())
        playing: dict[str, Contender] = {
            LIMIT: contenders.c_window(alive),
            OURS: contenders.fastproc_map(manager, alive=alive),
            POPEN: contenders.popen_in_threads(alive),
            LOOP: contenders.fewer(stack.enter_context(contenders.in_asyncio(alive)), plan.pick(2, 1)),
        }
        playing |= those_there(rounds, [(FACE, lambda: stack.enter_context(contenders.in_aio(alive)))])
        absent |= rounds.not_there
        taken = measure(playing.values(), n, min(plan.rounds, plan.pick(5, 3)))
        for name, contender in playing.items():
            if contender.name in taken.seconds:
                rounds.seconds[name] = taken.seconds[contender.name]
            else:
                rounds.refused[name] = taken.refused.get(contender.name, "")
    return rounds


def question(plan: Plan) -> Answer:
    """A curve for each contender."""
    steps = ALIVE if not plan.quick else ALIVE[::3]
    absent: dict[str, str] = {}
    taken = {alive: at(alive, plan.pick(256, 80), plan, absent) for alive in steps}
    curves, rows = [], []
    for name in (LIMIT, OURS, FACE, POPEN, LOOP):
        points = [(alive, rounds.seconds[name]) for alive, rounds in taken.items() if name in rounds.seconds]
        if not points:
            rows.append(Row(what=name, value=None, note=absent.get(name, "no number")))
            continue
        spread = [quartiles([1 / each for each in seconds]) for _alive, seconds in points]
        curves.append(
            Curve(
                name=name,
                x=[alive for alive, _seconds in points],
                y=[middle for _low, middle, _high in spread],
                low=[low for low, _middle, _high in spread],
                high=[high for _low, _middle, high in spread],
            )
        )
        rows += [
            taken[alive].ratio(name, LIMIT, what=f"{name}, {alive} alive, against C")
            for alive in (steps[0], steps[-1])
        ]
    picture = Picture(
        slug="throughput-against-concurrency",
        title="Children a second, by how many are alive at a time",
        x="alive at a time",
        y="children a second",
        curves=curves,
        log_x=True,
    )
    rounds_kept = {
        f"{name}, {alive} alive": seconds
        for alive, rounds in taken.items()
        for name, seconds in rounds.seconds.items()
    }
    return Answer(title="Throughput against concurrency", rows=rows, rounds=rounds_kept, pictures=[picture])


if __name__ == "__main__":
    main(__doc__, question)
