"""How long does it take to end everything, when a tenth of it does not want to?

Thousands of living children, every tenth of which ignores SIGTERM. The stubborn ones must be given the
whole grace, so the goal is that grace and two seconds. Afterwards /proc is searched for anybody left.
"""

from __future__ import annotations

import time

from harness import (
    Announcements,
    Answer,
    NotDone,
    Plan,
    Row,
    children_left,
    main,
    median_of,
    more_open_files,
    workshop,
)

import fastproc

STUBBORN_EVERY = 10
GRACE = 2.0
ABOVE_GRACE = 2.0


def end_all(children: int) -> float:
    """Start them, end them, prove it; how many seconds the ending took."""
    with Announcements() as ready, fastproc.ProcessManager() as manager:
        polite = fastproc.Command([workshop.child, "live"], stdout=ready.fd)
        stubborn = fastproc.Command([workshop.child, "stubborn"], stdout=ready.fd)
        started = manager.start_many(
            (f"task-{i}", polite if i % STUBBORN_EVERY else stubborn) for i in range(children)
        )
        ready.await_all(children)
        start = time.perf_counter()
        report = manager.terminate_all(timeout=GRACE)
        seconds = time.perf_counter() - start

        left = children_left(workshop.child)
        if not report or left:
            raise NotDone(f"{len(left)} children are left, {len(report.survivors)} were reported")
        wrong = sum(
            isinstance(one, fastproc.SpawnError) or one.returncode != (-15 if i % STUBBORN_EVERY else -9)
            for i, one in enumerate(started)
        )
        if wrong:
            raise NotDone(f"{wrong} statuses are wrong")
    return seconds


def question(plan: Plan) -> Answer:
    """A few times over: the grace decides, not the load."""
    children = plan.pick(5_000, 1_000)
    more_open_files(children * 2 + 1000)
    low, middle, high = median_of(plan.pick(3, 1), lambda: end_all(children))
    row = Row(
        what=f"terminate_all(timeout={GRACE:g})",
        value=middle,
        unit="s",
        goal=GRACE + ABOVE_GRACE,
        low=low,
        high=high,
        note=f"{(middle - GRACE) * 1e6 / children:.0f} us a child above the grace",
    )
    return Answer(title=f"Ending {children:,} children, a tenth of them stubborn", rows=[row])


if __name__ == "__main__":
    main(__doc__, question)
