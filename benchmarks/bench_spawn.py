"""What does starting one small program and waiting for it cost, above what the kernel takes?

One at a time, pinned to one CPU, against a bare loop of clone3(2) and waitid(2) in C. The child has no
libc and no work, so nothing hides what the starter costs: with a real program all ratios are nearer to 1.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack

import contenders
from harness import Answer, Contender, Plan, Rounds, main, measure, pinned, those_there
from peers import Peers

import fastproc

GOAL_PROCESS = 1.15
GOAL_RUN = 1.10
# Python 3.12 and later do more in subprocess, so less remains to be saved in the older ones.
GOAL_RUN_AGAINST_RUN = 0.68 if sys.version_info < (3, 12) else 0.60


def question(plan: Plan) -> Answer:
    """Interleaved rounds of all that start one child at a time."""
    rounds = Rounds()
    with ExitStack() as stack:
        stack.enter_context(pinned())
        # Whoever no goal is about is given fewer, as far as the median stays where it is.
        peers = stack.enter_context(Peers(fewer=plan.pick(3, 1)))
        some = plan.pick(2, 1)
        manager = stack.enter_context(fastproc.ProcessManager())
        limit, clean = contenders.c_loop(), contenders.c_clean_loop()
        ours = contenders.start_process(manager)
        session = contenders.start_in_session(manager)
        their_run = contenders.subprocess_run()
        others: list[Contender] = [
            contenders.start_same_command(manager),
            contenders.fewer(contenders.c_vfork(), some),
            contenders.fewer(contenders.c_posix_spawn(), some),
            contenders.c_fork(slow=plan.pick(10, 4)),
            contenders.fewer(contenders.os_posix_spawn(), some),
            contenders.fewer(contenders.popen(), some),
            their_run,
            contenders.fewer(stack.enter_context(contenders.in_asyncio(1)), plan.pick(4, 1)),
        ]
        there: dict[str, Contender] = those_there(
            rounds,
            [
                ("fastproc.run", contenders.run),
                (
                    "fastproc.aio.create_subprocess_exec, wait",
                    lambda: contenders.fewer(stack.enter_context(contenders.in_aio(1)), some),
                ),
                *peers.wanted,
            ],
        )
        everyone: list[Contender] = [limit, clean, ours, session, *others, *there.values()]
        measure(everyone, plan.pick(320, 40), plan.rounds, rounds)
    rows = [
        rounds.ratio(limit.name, limit.name),
        rounds.ratio(clean.name, limit.name),
        rounds.ratio("fastproc.run", limit.name, goal=GOAL_RUN),
        rounds.ratio(ours.name, limit.name, goal=GOAL_PROCESS),
        rounds.ratio(session.name, limit.name),
        rounds.ratio(
            session.name,
            clean.name,
            what='ProcessManager, containment="session", against C with the like',
            differs="C keeps no deadline, no object and no supervisor",
        ),
        rounds.ratio(
            "fastproc.run",
            their_run.name,
            what="fastproc.run, against subprocess.run",
            goal=GOAL_RUN_AGAINST_RUN,
        ),
    ]
    rows += [rounds.ratio(other.name, limit.name) for other in others]
    measured = {row.what for row in rows}
    names = [*there, *(name for name in rounds.not_there if name not in there)]
    rows += [rounds.ratio(name, limit.name) for name in names if name not in measured]
    return Answer(title="One at a time, against the bare loop in C", rows=rows, rounds=rounds.seconds)


if __name__ == "__main__":
    main(__doc__, question)
