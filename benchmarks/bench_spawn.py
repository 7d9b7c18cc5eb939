"""What does starting one small program and waiting for it cost, above what the kernel takes?

One at a time, pinned to one CPU, against a bare loop of clone3(2) and waitid(2) in C. The child has no
libc and no work, so nothing hides what the starter costs: with a real program all ratios are nearer to 1.
"""

from __future__ import annotations

import contenders
from harness import Answer, Plan, main, measure, pinned

import fastproc

GOAL = 1.35


def question(plan: Plan) -> Answer:
    """Interleaved rounds of all that start one child at a time."""
    with pinned(), fastproc.ProcessManager() as manager:
        limit = contenders.c_loop()
        ours = contenders.start_process(manager)
        others = [
            contenders.start_same_command(manager),
            contenders.c_posix_spawn(),
            contenders.c_fork(),
            contenders.os_posix_spawn(),
            contenders.popen(),
        ]
        rounds = measure([limit, ours, *others], plan.pick(400, 150), plan.rounds)
    rows = [rounds.ratio(limit.name, limit.name), rounds.ratio(ours.name, limit.name, goal=GOAL)]
    rows += [rounds.ratio(other.name, limit.name) for other in others]
    return Answer(title="One at a time, against the bare loop in C", rows=rows, rounds=rounds.seconds)


if __name__ == "__main__":
    main(__doc__, question)
