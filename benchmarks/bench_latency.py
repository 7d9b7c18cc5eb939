"""How long is it from asking for a child to knowing how it ended, and how bad are the bad ones?

One at a time, pinned, every child by itself: the percentiles of what a caller feels. Contenders take turns of
a hundred children, so that a disturbance of the machine falls on all.
"""

from __future__ import annotations

import gc
from contextlib import ExitStack
from typing import Protocol

import contenders
from harness import (
    Answer,
    Contender,
    Curve,
    NotDone,
    Picture,
    Plan,
    Rounds,
    Row,
    main,
    percentile,
    pinned,
    those_there,
)

import fastproc

TURN = 100
PERCENTS = (50.0, 90.0, 99.0, 99.9)
POINTS = 120


class Sampler(Contender, Protocol):
    """A contender that tells the seconds of each child."""

    @property
    def differs(self) -> str: ...

    def each(self, n: int) -> list[float]: ...


def take_turns(samplers: list[Sampler], turns: int, rounds: Rounds) -> dict[str, list[float]]:
    """The seconds of every child of every contender, in ascending order."""
    samples: dict[str, list[float]] = {sampler.name: [] for sampler in samplers}
    playing = list(samplers)
    for sampler in playing:
        sampler.each(10)
    for turn in range(turns):
        first = turn % len(playing)
        for sampler in (*playing[first:], *playing[:first]):
            gc.collect()
            try:
                samples[sampler.name] += sampler.each(TURN)
            except NotDone as why:
                rounds.refuse(sampler.name, str(why))
                playing.remove(sampler)
                del samples[sampler.name]
    return {name: sorted(taken) for name, taken in samples.items()}


def curve(name: str, ordered: list[float]) -> Curve:
    """Microseconds by percentile, at steps that show the tail as well."""
    shares = [100 * (1 - 10 ** (-3 * step / POINTS)) for step in range(POINTS + 1)]
    return Curve(name=name, x=shares, y=[1e6 * percentile(ordered, share) for share in shares])


def question(plan: Plan) -> Answer:
    """Percentiles in microseconds, and the shape of the whole."""
    rounds = Rounds()
    with ExitStack() as stack:
        stack.enter_context(pinned())
        manager = stack.enter_context(fastproc.ProcessManager())
        samplers: list[Sampler] = [
            contenders.c_loop(),
            contenders.start_process(manager),
            contenders.os_posix_spawn(),
            contenders.popen(),
            stack.enter_context(contenders.in_asyncio(1)),
        ]
        there: dict[str, Sampler] = those_there(
            rounds,
            [
                ("fastproc.run", contenders.run),
                (
                    "fastproc.aio.create_subprocess_exec, wait",
                    lambda: stack.enter_context(contenders.in_aio(1)),
                ),
            ],
        )
        samplers += there.values()
        differs = {sampler.name: sampler.differs for sampler in samplers}
        samples = take_turns(samplers, plan.pick(25, 3), rounds)
    rows = []
    for name, ordered in samples.items():
        values = [1e6 * percentile(ordered, percent) for percent in PERCENTS]
        note = ", ".join(
            f"p{percent:g} {value:,.0f}" for percent, value in zip(PERCENTS[1:], values[1:], strict=True)
        )
        rows.append(
            Row(
                what=f"{name}, median",
                value=values[0],
                unit="us",
                note=f"{note}, worst {1e6 * ordered[-1]:,.0f} us of {len(ordered):,}",
                differs=differs[name],
            )
        )
    for why in (rounds.not_there, rounds.refused):
        rows += [Row(what=name, value=None, note=words) for name, words in why.items()]
    picture = Picture(
        slug="spawn-to-reap-latency",
        title="From the call to the known end",
        x="share of starts that took no longer",
        y="microseconds",
        curves=[curve(name, ordered) for name, ordered in samples.items()],
        log_y=True,
        tail_x=True,
        note="One at a time on one CPU, a program that only exits.",
    )
    return Answer(title="Spawn to reap, every child by itself", rows=rows, pictures=[picture])


if __name__ == "__main__":
    main(__doc__, question)
