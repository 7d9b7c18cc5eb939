"""How fast are children started and reaped while another Python thread computes?

Each time a call gives up the interpreter's lock, the busy thread takes it and keeps it for a switch interval,
5 ms: n calls cost n of them, a batch costs one. In an interpreter without that lock all this is different.
"""

from __future__ import annotations

from contextlib import ExitStack

import contenders
from harness import Answer, Contender, Plan, Rounds, main, measure
from surroundings import busy_thread

import fastproc

GOAL = 35.0
RUNNING = 8


def question(plan: Plan) -> Answer:
    """Interleaved rounds beside a thread that counts."""
    rounds = Rounds()
    with ExitStack() as stack:
        manager = stack.enter_context(fastproc.ProcessManager())
        stack.enter_context(busy_thread())
        batch, mapped = contenders.start_many(manager), contenders.fastproc_map(manager, alive=RUNNING)
        # Of those that take several milliseconds for each a few are enough.
        few, very_few = plan.pick(40, 12), plan.pick(80, 16)
        popen = contenders.fewer(contenders.popen(), very_few)
        threads = contenders.fewer(contenders.popen_in_threads(RUNNING), few)
        loop = contenders.fewer(stack.enter_context(contenders.in_asyncio(RUNNING)), very_few)
        single = contenders.fewer(contenders.start_process(manager), few)
        everyone: list[Contender] = [batch, mapped, popen, threads, loop, single]
        measure(everyone, plan.pick(1000, 240), plan.pick(9, 3), rounds)
    rows = [
        rounds.faster(batch.name, popen.name, what="start_many, faster than Popen, one at a time", goal=GOAL),
        rounds.faster(mapped.name, popen.name, what="map, faster than Popen, one at a time"),
        rounds.faster(batch.name, threads.name, what=f"start_many, faster than {threads.name}"),
        rounds.faster(batch.name, loop.name, what=f"start_many, faster than {loop.name}"),
        rounds.faster(single.name, popen.name, what="start_process and wait, faster than Popen"),
    ]
    return Answer(title="Beside a busy Python thread", rows=rows, rounds=rounds.seconds)


if __name__ == "__main__":
    main(__doc__, question)
