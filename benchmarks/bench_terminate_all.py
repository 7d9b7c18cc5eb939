"""How long does it take to end everything, when a tenth of it does not want to?

5,000 living children, every tenth of which ignores SIGTERM. The stubborn ones must be given the whole grace,
so the goal is that grace and two seconds. Afterwards /proc is searched for anybody left.
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

CHILDREN = 5_000
STUBBORN_EVERY = 10
GRACE = 2.0
ABOVE_GRACE = 2.0


def end_all() -> float:
    """Start them, end them, prove it; how many seconds the ending took."""
    with Announcements() as ready, fastproc.ProcessManager() as manager:
        polite = fastproc.Command([workshop.child, "live"], stdout=ready.fd)
        stubborn = fastproc.Command([workshop.child, "stubborn"], stdout=ready.fd)
        started = manager.start_many(
            (f"task-{i}", polite if i % STUBBORN_EVERY else stubborn) for i in range(CHILDREN)
        )
        ready.await_all(CHILDREN)
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
    more_open_files(CHILDREN * 2 + 1000)
    low, middle, high = median_of(plan.pick(5, 1), end_all)
    row = Row(
        what=f"terminate_all(timeout={GRACE:g})",
        value=middle,
        unit="s",
        goal=GRACE + ABOVE_GRACE,
        low=low,
        high=high,
        note=f"{(middle - GRACE) * 1e6 / CHILDREN:.0f} us a child above the grace",
    )
    return Answer(title=f"Ending {CHILDREN:,} children, a tenth of them stubborn", rows=[row])


if __name__ == "__main__":
    main(__doc__, question)
