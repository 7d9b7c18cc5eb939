"""How measurements are taken and judged; the questions themselves are in the bench_*.py files.

A measurement is of *rounds*. In each of them every contender does the same job once, the one that begins
changing from round to round, so that what disturbs the machine disturbs all alike. Two contenders are
compared within a round, and the median of these ratios is the result: it repeats within a few percent on
machines where the times themselves differ by half. What is done one at a time is pinned to one CPU, because a
wake-up across CPUs costs about as much as starting a small program, and lands on everybody at random.

A contender that cannot take part is listed as not there; one that has not done its work is refused: both keep
their line in the table, without a number.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

# What the questions need besides is handed on, so that one import does.
from findings import Answer as Answer, Curve as Curve, Picture as Picture, Row as Row, answer_to_json
from surroundings import (
    HERE as HERE,
    Announcements as Announcements,
    NotDone as NotDone,
    NotThere as NotThere,
    children_left as children_left,
    more_open_files as more_open_files,
    open_descriptors as open_descriptors,
    pinned as pinned,
    resident_bytes as resident_bytes,
    resident_memory as resident_memory,
    small_environment as small_environment,
    workshop as workshop,
)
from tables import table as table

FULL_ROUNDS, QUICK_ROUNDS = 9, 3


class Contender(Protocol):
    """Somebody who starts children and waits for them.

    Two more attributes count where they are there: `differs`, what it gives less or more than fastproc does,
    in words; and `slow`, by how much fewer children it is given because one takes so long.
    """

    @property
    def name(self) -> str: ...

    def __call__(self, n: int) -> float:
        """Start and reap `n` children, prove it, and return how many seconds that took. Raises NotDone."""
        ...


ContenderT = TypeVar("ContenderT", bound=Contender)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is measured."""

    rounds: int
    quick: bool

    def pick(self, full: int, quick: int) -> int:
        """A size: the one for a full run or the one for a quick run."""
        return quick if self.quick else full


@dataclass(slots=True, kw_only=True)
class Rounds:
    """What was measured: for each contender its seconds a child, round by round.

    Attributes:
        differs: what a contender gives less or more than fastproc, by its name.
        refused: why a contender has no number: it has not done its work.
        not_there: why a contender has no number: it cannot take part here.
    """

    seconds: dict[str, list[float]] = field(default_factory=dict)
    differs: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    not_there: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, seconds: float) -> None:
        """Enter the next round of one contender."""
        self.seconds.setdefault(name, []).append(seconds)

    def refuse(self, name: str, why: str) -> None:
        """A contender has lied or failed: whatever it has brought before is worth nothing either."""
        self.seconds.pop(name, None)
        self.refused[name] = why

    def micros(self, name: str) -> str:
        """The median of one contender and its quartiles, in words."""
        low, middle, high = quartiles([1e6 * seconds for seconds in self.seconds[name]])
        return f"{_short(middle)} us ({_short(low)} to {_short(high)})"

    def best(self, names: Iterable[str]) -> str:
        """Whose median is the least. The least of each round would be luck's, not anybody's."""
        return min(names, key=lambda name: statistics.median(self.seconds[name]))

    def ratio(
        self,
        name: str,
        *against: str,
        what: str = "",
        goal: float | None = None,
        note: str = "",
        differs: str = "",
    ) -> Row:
        """How many times the best of `against` takes `name`, compared within each round."""
        missing = self._without_number(name, *against, what=what or name, goal=goal)
        if missing:
            return missing
        low, middle, high = quartiles(self._quotients(name, self.best(against)))
        return Row(
            what=what or name,
            value=middle,
            goal=goal,
            low=low,
            high=high,
            note=note or self.micros(name),
            differs=differs or self.differs.get(name, ""),
        )

    def faster(
        self, name: str, *than: str, what: str, goal: float | None = None, note: str = "", differs: str = ""
    ) -> Row:
        """How many times faster `name` is than the best of the others, compared within each round."""
        missing = self._without_number(name, *than, what=what, goal=goal, at_least=True)
        if missing:
            return missing
        other = self.best(than)
        low, middle, high = quartiles(self._quotients(other, name))
        words = note or f"{self.micros(name)} against {self.micros(other)}"
        return Row(
            what=what,
            value=middle,
            goal=goal,
            at_least=True,
            low=low,
            high=high,
            note=words,
            differs=differs or self.differs.get(other, ""),
        )

    def _quotients(self, name: str, other: str) -> list[float]:
        pairs = zip(self.seconds[name], self.seconds[other], strict=True)
        return [mine / theirs for mine, theirs in pairs]

    def _without_number(
        self, *names: str, what: str, goal: float | None, at_least: bool = False
    ) -> Row | None:
        for name in names:
            if name in self.seconds:
                continue
            refused = self.refused.get(name)
            why = f"refused: {refused}" if refused else self.not_there.get(name, f"{name}: not measured")
            return Row(
                what=what, value=None, goal=goal, at_least=at_least, note=why, refused=refused is not None
            )
        return None


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """The 25th percentile, the median and the 75th percentile."""
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The least of these ascending values that so many percent of them do not exceed."""
    # 99.9 percent of 1000 are 999: what is left of the fraction is no value of its own.
    index = math.ceil(len(ordered) * percent / 100 - 1e-6) - 1
    return ordered[min(max(index, 0), len(ordered) - 1)]


def those_there(
    rounds: Rounds, wanted: Iterable[tuple[str, Callable[[], ContenderT]]]
) -> dict[str, ContenderT]:
    """Make the contenders that can be made; enter the others in `rounds` with the reason.

    The names are those by which the question asks, mostly the contender's own.
    """
    made = {}
    for name, make in wanted:
        try:
            made[name] = make()
        except NotThere as why:
            rounds.not_there[name] = str(why)
    return made


def measure(contenders: Iterable[Contender], n: int, rounds: int, into: Rounds | None = None) -> Rounds:
    """Let each contender start `n` children in each of so many rounds, and each first a few to get warm."""
    result = Rounds() if into is None else into
    playing = list(contenders)
    for contender in list(playing):
        if not _once(contender, max(1, n // 10), result, counts=False):
            playing.remove(contender)
    for turn in range(rounds):
        first = turn % max(1, len(playing))
        for contender in (*playing[first:], *playing[:first]):
            gc.collect()
            if not _once(contender, n, result, counts=True):
                playing.remove(contender)
    return result


def _once(contender: Contender, n: int, into: Rounds, *, counts: bool) -> bool:
    """One turn of one contender; False if it is refused."""
    count = max(1, n // getattr(contender, "slow", 1))
    try:
        seconds = contender(count)
    except NotDone as why:
        into.refuse(contender.name, str(why))
        return False
    if counts:
        into.add(contender.name, seconds / count)
        if differs := getattr(contender, "differs", ""):
            into.differs[contender.name] = differs
    return True


def median_of(rounds: int, once: Callable[[], float]) -> tuple[float, float, float]:
    """Quartiles of what is measured alone, several times over."""
    return quartiles([once() for _ in range(rounds)])


def _short(micros: float) -> str:
    return f"{micros:,.0f}" if micros >= 1000 else f"{micros:.1f}"


# ---- the command line of a bench_*.py ----


def arguments(description: str | None) -> argparse.ArgumentParser:
    """What every benchmark may be asked."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer and smaller rounds: less exact")
    rounds = f"how many rounds; {FULL_ROUNDS}, or {QUICK_ROUNDS} with --quick"
    parser.add_argument("--rounds", type=int, metavar="N", help=rounds)
    return parser


def plan_of(options: argparse.Namespace) -> Plan:
    """How much is measured when these options are given."""
    return Plan(
        rounds=options.rounds or (QUICK_ROUNDS if options.quick else FULL_ROUNDS), quick=options.quick
    )


def main(description: str | None, question: Callable[[Plan], Answer]) -> None:
    """Answer one question and print the answer; with --json as one line for run.py."""
    parser = arguments(description)
    parser.add_argument("--json", action="store_true", help="print values instead of a table")
    options = parser.parse_args()
    small_environment()
    try:
        answer = question(plan_of(options))
    except NotThere as why:
        answer = Answer(title=(description or "").partition("\n")[0], rows=[], absent=str(why))
    if options.json:
        json.dump(answer_to_json(answer), sys.stdout)
    else:
        print(table([answer]))
