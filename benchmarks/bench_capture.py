"""What does the small output of a program cost: 64 bytes, read to their end?

One at a time, pinned; then eight at a time on all CPUs. Everyone has read all bytes and knows the exit code.
"""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import contenders
from contenders import InLoop, InThreads, OneByOne, face
from harness import (
    Answer,
    Contender,
    NotDone,
    Plan,
    Rounds,
    Row,
    main,
    measure,
    pinned,
    those_there,
    workshop,
)
from jobs import Status, Timed

import fastproc

TEXT = bytes(64)
RUNNING = 8
GOAL_CHECK_OUTPUT = 0.55
GOAL_RUN = 0.45
GOAL_MANY = 5.0
TWO_STREAMS = "two streams are captured, not one"
SESSION = "session, cgroup and deadlines besides; read by a supervisor"


class InC:
    """One pipe, one loop of reads."""

    name = "C: pipe, clone3, read, waitid"
    differs = contenders.BARE

    def __call__(self, n: int) -> float:
        return workshop.limits.capture(workshop.program("text"), n, len(TEXT))


def right(text: bytes, code: Status) -> Status:
    """The code, if the output is what the child writes."""
    if text != TEXT:
        raise NotDone(f"{len(text)} bytes were captured, not the {len(TEXT)} that were written")
    return code


def by_run(name: str, run: Callable[..., Any], differs: str = "", **options: Any) -> OneByOne:
    """subprocess.run or what stands in for it."""
    args = [workshop.child, "text"]

    def one() -> Status:
        done = run(args, check=False, **options)
        return right(done.stdout, done.returncode)

    return OneByOne(name, one, differs)


def by_check_output(name: str, check_output: Callable[..., bytes], differs: str = "") -> OneByOne:
    """check_output, which takes only code 0 for success."""
    args = [workshop.child, "okay"]
    return OneByOne(name, lambda: right(check_output(args), 0), differs, code=0)


def by_process(manager: fastproc.ProcessManager, name: str, **options: Any) -> OneByOne:
    """A Process of the manager, whose output is read to its end."""
    command = fastproc.Command([workshop.child, "text"], stdout=fastproc.PIPE, **options)

    def one() -> Status:
        process = manager.start_process(object(), command)
        text = "".join(process.lines())
        return right(text.encode(), process.wait().code)

    return OneByOne(name, one, SESSION)


def by_map(manager: fastproc.ProcessManager) -> Timed:
    """map() over commands that are captured, both streams as run(capture_output=True) does."""
    args = [workshop.child, "text"]
    command = fastproc.Command(args, stdout=fastproc.PIPE, stderr=fastproc.PIPE)

    def job(n: int) -> Iterator[Status]:
        for process in manager.map((command for _ in range(n)), concurrency=RUNNING):
            yield right(process.stdout_bytes, process.returncode)

    return Timed(f"ProcessManager.map, {RUNNING} at a time", job)


def by_asyncio(runner: asyncio.Runner, tasks: int) -> InLoop:
    """create_subprocess_exec and communicate()."""
    args = [workshop.child, "text"]

    async def one() -> Status:
        child = await asyncio.create_subprocess_exec(*args, stdout=-1, stderr=-1)
        text, _ = await child.communicate()
        return right(text, child.returncode)

    name = "asyncio, communicate" if tasks == 1 else f"asyncio, communicate, {tasks} tasks"
    return InLoop(name, runner, one, tasks)


def one_at_a_time(plan: Plan, rounds: Rounds) -> list[Row]:
    """Pinned."""
    mine, mine_both = "fastproc.run(stdout=PIPE)", "fastproc.run(capture_output)"
    mine_check = "fastproc.check_output"
    with ExitStack() as stack:
        stack.enter_context(pinned())
        manager = stack.enter_context(fastproc.ProcessManager())
        runner = stack.enter_context(asyncio.Runner())
        limit = InC()
        one_stream = by_run("subprocess.run(stdout=PIPE)", subprocess.run, contenders.PLAIN, stdout=-1)
        check = by_check_output("subprocess.check_output", subprocess.check_output, contenders.PLAIN)
        both = by_run("subprocess.run(capture_output)", subprocess.run, contenders.PLAIN, capture_output=True)
        process = by_process(manager, "ProcessManager, stdout=PIPE")
        loop = contenders.fewer(by_asyncio(runner, 1), plan.pick(4, 1))
        there = those_there(
            rounds,
            [
                (name, lambda name=name, options=options: by_run(name, face("fastproc.run"), **options))
                for name, options in ((mine, {"stdout": -1}), (mine_both, {"capture_output": True}))
            ]
            + [(mine_check, lambda: by_check_output(mine_check, face("fastproc.check_output")))],
        )
        everyone: list[Contender] = [limit, check, one_stream, both, process, loop, *there.values()]
        measure(everyone, plan.pick(200, 40), plan.rounds, rounds)
    return [
        rounds.ratio(
            mine_check, check.name, what=f"{mine_check}, against {check.name}", goal=GOAL_CHECK_OUTPUT
        ),
        rounds.ratio(mine_both, both.name, what=f"{mine_both}, against {both.name}", goal=GOAL_RUN),
        rounds.ratio(mine, both.name, what=f"{mine}, against {both.name}", differs=TWO_STREAMS),
        rounds.ratio(process.name, one_stream.name, what=f"{process.name}, against {one_stream.name}"),
        *(rounds.ratio(name, limit.name, what=f"{name}, against C") for name in (mine, mine_both)),
        *(
            rounds.ratio(other.name, limit.name, what=f"{other.name}, against C")
            for other in (process, one_stream, both, loop)
        ),
    ]


def eight_at_a_time(plan: Plan, rounds: Rounds) -> list[Row]:
    """On all CPUs."""
    taken = Rounds()
    with ExitStack() as stack:
        manager = stack.enter_context(fastproc.ProcessManager())
        runner = stack.enter_context(asyncio.Runner())

        def pooled(name: str, run: Callable[..., Any], differs: str = "") -> InThreads:
            return InThreads(name, by_run(name, run, capture_output=True).one, RUNNING, differs)

        theirs = pooled(f"run(capture_output) in {RUNNING} threads", subprocess.run, contenders.PLAIN)
        ours = by_map(manager)
        loop = contenders.fewer(by_asyncio(runner, RUNNING), plan.pick(4, 1))
        mine = f"fastproc.run(capture_output) in {RUNNING} threads"
        there = those_there(taken, [(mine, lambda: pooled(mine, face("fastproc.run")))])
        measure([theirs, ours, loop, *there.values()], plan.pick(400, 60), plan.rounds, taken)
    rounds.seconds |= taken.seconds
    words = "faster than subprocess.run(capture_output) in threads"
    return [
        taken.faster(ours.name, theirs.name, what=f"{ours.name}, {words}", goal=GOAL_MANY),
        taken.faster(mine, theirs.name, what=f"{mine}, {words}", goal=GOAL_MANY),
        taken.faster(ours.name, loop.name, what=f"{ours.name}, faster than {loop.name}"),
    ]


def question(plan: Plan) -> Answer:
    """Rows against subprocess, then against C."""
    rounds = Rounds()
    rows = one_at_a_time(plan, rounds) + eight_at_a_time(plan, rounds)
    return Answer(title="Capture of 64 bytes", rows=rows, rounds=rounds.seconds)


if __name__ == "__main__":
    main(__doc__, question)
