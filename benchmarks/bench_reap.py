"""What does one reap cost when many others are alive?

Some hundred children end at the same moment while ten or ten thousand live on. Counted is the CPU time that
this process spends on hearing of them and reaping them: the ends themselves are the children's own. waitid(2)
by pid does not care how many are alive; asked for any child it looks at the living of the same thread first,
and so does whoever relies on SIGCHLD.
"""

from __future__ import annotations

import gc
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

from harness import (
    Announcements,
    Answer,
    NotDone,
    Plan,
    Rounds,
    main,
    more_open_files,
    pinned,
    workshop,
)
from surroundings import CHILD_CODE

import fastproc

FEW = 10
ENDING = 300
GOAL = 1.1
OURS, BY_PID, BY_ANY = "ProcessManager", "C: waitid(P_PID)", "C: waitid(P_ALL)"


@contextmanager
def alive_by_manager(count: int) -> Iterator[None]:
    """So many living children of ours."""
    with Announcements() as ready, fastproc.ProcessManager() as manager:
        # Without a cgroup each takes one descriptor, its pidfd, and 10,000 are within the usual limits.
        command = fastproc.Command([workshop.child, "live"], stdout=ready.fd, containment="session")
        manager.start_many((f"live-{i}", command) for i in range(count))
        ready.await_all(count)
        yield
        manager.terminate_all()


@contextmanager
def alive_by_c(count: int) -> Iterator[None]:
    """So many living children of this thread, as of a program that does without us."""
    with Announcements() as ready:
        actions = [(os.POSIX_SPAWN_DUP2, ready.fd, 1)]
        args = [workshop.child, "live"]
        pids = [os.posix_spawn(args[0], args, os.environ, file_actions=actions) for _ in range(count)]
        try:
            ready.await_all(count)
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            for pid in pids:
                os.waitpid(pid, 0)


def by_manager(ending: int) -> float:
    """CPU seconds for one, of children that fastproc has started."""
    with fastproc.ProcessManager() as manager:
        gate, opener = os.pipe2(os.O_CLOEXEC)
        command = fastproc.Command([workshop.child, "gate"], stdin=gate)
        started = manager.start_many((i, command) for i in range(ending))
        os.close(gate)
        gc.collect()
        before = time.process_time()
        os.close(opener)
        statuses = manager.wait_all(timeout=60)
        seconds = time.process_time() - before
        right = sum(status.code == CHILD_CODE for status in statuses)
        if right != ending or len(started) != ending:
            raise NotDone(f"{right} of {ending} statuses are right")
        return seconds / ending


def by_c(ending: int, *, whoever: bool) -> float:
    """CPU seconds for one, of children that nobody else waits for."""
    gate, opener = os.pipe2(os.O_CLOEXEC)
    actions = [(os.POSIX_SPAWN_DUP2, gate, 0)]
    pids = [
        os.posix_spawn(workshop.child, [workshop.child, "gate"], os.environ, file_actions=actions)
        for _ in range(ending)
    ]
    os.close(gate)
    os.close(opener)
    for pid in pids:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return workshop.limits.reap(pids, CHILD_CODE, whoever=whoever) / ending


def question(plan: Plan) -> Answer:
    """Turns in a parent with few living children and in one with many."""
    many = plan.pick(10_000, 1_500)
    ending = plan.pick(ENDING, 100)
    more_open_files(many + 4 * ending + 1000)
    rounds = Rounds()
    parents: list[tuple[Callable[[int], AbstractContextManager[None]], dict[str, Callable[[], float]]]] = [
        (alive_by_manager, {OURS: lambda: by_manager(ending)}),
        (
            alive_by_c,
            {
                BY_PID: lambda: by_c(ending, whoever=False),
                BY_ANY: lambda: by_c(ending, whoever=True),
            },
        ),
    ]
    # There and back, so that those who live on in the last parent of a turn do so in the first of the next.
    there = [(parent, count) for parent, counts in enumerate(((many, FEW), (FEW, many))) for count in counts]
    with pinned(), ExitStack() as living:
        held = None
        for turn in range(plan.pick(3, 2)):
            for wanted in there[:: -1 if turn % 2 else 1]:
                among, ways = parents[wanted[0]]
                if wanted != held:
                    living.close()
                    living.enter_context(among(wanted[1]))
                    held = wanted
                for name, once in ways.items():
                    for _ in range(4):
                        rounds.add(f"{name}, {wanted[1]}", once())
    rows = [
        rounds.ratio(
            f"{name}, {many}",
            f"{name}, {FEW}",
            what=f"{name}, one reap at {many:,} alive against {FEW}",
            goal=GOAL if name == OURS else None,
        )
        for name in (OURS, BY_PID, BY_ANY)
    ]
    words = "the whole way to a status in Python, against the system call alone"
    rows.append(
        rounds.ratio(f"{OURS}, {many}", f"{BY_PID}, {many}", what=f"{OURS}, against waitid", differs=words)
    )
    return Answer(title="One reap while many are alive", rows=rows, rounds=rounds.seconds)


if __name__ == "__main__":
    main(__doc__, question)
