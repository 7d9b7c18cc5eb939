"""What does a start cost in a large parent: with many descriptors, much memory, many threads or children?

Pinned, one at a time, the same job in a parent that grows within each round. fork(2) pays for memory; whoever
lets the kernel copy the table of descriptors pays for these, some 34 ns each, at every start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import contenders
from harness import (
    Announcements,
    Answer,
    Contender,
    Curve,
    Picture,
    Plan,
    Rounds,
    Row,
    main,
    measure,
    more_open_files,
    open_descriptors,
    pinned,
    quartiles,
    resident_memory,
    workshop,
)
from surroundings import idle_threads

import fastproc

GOAL = 1.15
GOAL_POPEN = 12.0
OURS, LIMIT, POPEN, FORK = "ProcessManager", "C: clone3", "subprocess.Popen", "C: fork"
FEW = 20
"""What a small program has open anyway."""


@contextmanager
def living_children(count: int) -> Iterator[None]:
    """So many children alive, all of them ours and ready."""
    with Announcements() as ready, fastproc.ProcessManager() as manager:
        command = fastproc.Command([workshop.child, "live"], stdout=ready.fd)
        for started in manager.start_many((f"live-{i}", command) for i in range(count)):
            if isinstance(started, fastproc.SpawnError):
                raise started
        ready.await_all(count)
        yield
        manager.terminate_all()


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """Something that a parent may have much of."""

    slug: str
    title: str
    unit: str
    full: Sequence[int]
    quick: Sequence[int]
    hold: Callable[[int], AbstractContextManager[object]]

    def sizes(self, plan: Plan) -> Sequence[int]:
        """From small to large; the goal is about the last against the first."""
        return self.quick if plan.quick else self.full


GROWTHS = (
    Growth(
        slug="descriptors",
        title="open descriptors",
        unit="open descriptors",
        full=(FEW, 500, 2_000, 5_000, 15_000),
        quick=(FEW, 15_000),
        hold=lambda count: open_descriptors(count - FEW),
    ),
    Growth(
        slug="memory",
        title="resident memory",
        unit="MiB resident besides",
        full=(0, 64, 256, 1024),
        quick=(0, 1024),
        hold=lambda mib: resident_memory(mib << 20),
    ),
    Growth(
        slug="children",
        title="living children",
        unit="living children",
        full=(0, 500, 2_000, 5_000),
        quick=(0, 2_000),
        hold=living_children,
    ),
    Growth(
        slug="threads",
        title="idle threads",
        unit="idle threads",
        full=(0, 50, 200),
        quick=(0, 200),
        hold=idle_threads,
    ),
)


def grow(growth: Growth, playing: dict[str, Contender], plan: Plan) -> dict[int, Rounds]:
    """In each round every contender in a parent of every size."""
    sizes = growth.sizes(plan)
    taken = {size: Rounds() for size in sizes}
    for turn in range(plan.pick(7, 3)):
        first = turn % len(sizes)
        for size in (*sizes[first:], *sizes[:first]):
            with growth.hold(size):
                once = measure(list(playing.values()), plan.pick(60, 15), 1)
            for name, contender in playing.items():
                if contender.name in once.seconds:
                    taken[size].add(name, once.seconds[contender.name][0])
                else:
                    taken[size].refuse(name, once.refused[contender.name])
    return taken


def rows_of(growth: Growth, taken: dict[int, Rounds], sizes: Sequence[int]) -> list[Row]:
    """The largest parent against the smallest, for each contender; then us against Popen."""
    small, large = sizes[0], sizes[-1]
    everything = Rounds()
    for size in (small, large):
        everything.seconds |= {f"{name}, {size}": times for name, times in taken[size].seconds.items()}
        everything.refused |= {f"{name}, {size}": why for name, why in taken[size].refused.items()}
    rows = [
        everything.ratio(
            f"{name}, {large}",
            f"{name}, {small}",
            what=f"{name}, {large:,} {growth.unit} against {small}",
            goal=GOAL if name == OURS else None,
        )
        for name in (OURS, LIMIT, POPEN, FORK)
    ]
    rows.append(
        everything.faster(
            f"{OURS}, {large}",
            f"{POPEN}, {large}",
            what=f"{OURS}, faster than Popen there ({growth.title})",
            goal=GOAL_POPEN if growth.slug == "descriptors" else None,
            differs=contenders.PLAIN,
        )
    )
    return rows


def picture_of(growth: Growth, taken: dict[int, Rounds]) -> Picture:
    """Microseconds a start over the size of the parent."""
    curves = []
    for name in (LIMIT, OURS, POPEN, FORK):
        points = {size: rounds.seconds[name] for size, rounds in taken.items() if name in rounds.seconds}
        spread = [quartiles([1e6 * each for each in seconds]) for seconds in points.values()]
        curves.append(
            Curve(
                name=name,
                x=list(points),
                y=[middle for _low, middle, _high in spread],
                low=[low for low, _middle, _high in spread],
                high=[high for _low, _middle, high in spread],
            )
        )
    return Picture(
        slug=f"cost-against-{growth.slug}",
        title=f"A start and its end, by {growth.title} of the parent",
        x=growth.unit,
        y="microseconds",
        curves=curves,
        log_y=True,
    )


def question(plan: Plan) -> Answer:
    """One growth after the other; rows and a picture for each."""
    more_open_files(max(GROWTHS[0].full) + 1000)
    rows, pictures = [], []
    kept: dict[str, list[float]] = {}
    with pinned(), fastproc.ProcessManager() as manager:
        playing: dict[str, Contender] = {
            OURS: contenders.start_process(manager),
            LIMIT: contenders.c_loop(),
            POPEN: contenders.popen(),
            FORK: contenders.c_fork(slow=5),
        }
        for growth in GROWTHS:
            taken = grow(growth, playing, plan)
            rows += rows_of(growth, taken, growth.sizes(plan))
            pictures.append(picture_of(growth, taken))
            for size, rounds in taken.items():
                kept |= {f"{name}, {size} {growth.unit}": times for name, times in rounds.seconds.items()}
    return Answer(title="In a large parent, against a small one", rows=rows, rounds=kept, pictures=pictures)


if __name__ == "__main__":
    main(__doc__, question)
