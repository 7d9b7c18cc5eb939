"""The benchmarks' own arithmetic, and that nobody gets a number for work that was not done."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator

import pytest
from contenders import InC, OneByOne, face, fewer, shell_tool, xargs
from harness import Contender, Rounds, measure, percentile, quartiles, those_there
from jobs import Timed
from peers import Peers
from surroundings import CLONE3, NotDone, NotThere, Program, workshop


class Clockwork:
    """A contender that takes as long as it is told, turn by turn, warming up not counted."""

    def __init__(self, name: str, *seconds: float, slow: int = 1, differs: str = "") -> None:
        self.name, self.slow, self.differs = name, slow, differs
        self.asked: list[int] = []
        self._seconds = itertools.chain([99.0], seconds)

    def __call__(self, n: int) -> float:
        self.asked.append(n)
        return next(self._seconds) * n


class Order:
    """Contenders that note who was called when."""

    def __init__(self, *names: str) -> None:
        self.calls: list[str] = []
        self.contenders: list[Contender] = [self._noting(name) for name in names]

    def _noting(self, name: str) -> Contender:
        def job(n: int) -> Iterator[int]:
            self.calls.append(name)
            return iter([7] * n)

        return Timed(name, job)


def test_the_median_has_half_of_the_values_on_either_side() -> None:
    """Also of one value and of an even number of them."""
    assert quartiles([4.0]) == (4.0, 4.0, 4.0)
    assert quartiles([1.0, 2.0, 3.0, 4.0, 5.0]) == (2.0, 3.0, 4.0)
    assert quartiles([1.0, 2.0, 3.0, 4.0])[1] == 2.5


@pytest.mark.parametrize(
    ("percent", "value"), [(0, 1), (50, 50), (90, 90), (99, 99), (99.9, 100), (100, 100)]
)
def test_a_percentile_is_a_value_that_was_measured(percent: float, value: int) -> None:
    """The least that so many of a hundred do not exceed."""
    assert percentile(range(1, 101), percent) == value


def test_a_fraction_of_a_value_is_not_rounded_up() -> None:
    """In floating point 99.9 percent of 1000 are a little more than 999."""
    assert percentile(range(1, 1001), 99.9) == 999
    assert percentile([5.0], 50) == 5.0


def test_ratios_are_taken_within_a_round() -> None:
    """A round in which everything takes ten times as long changes no ratio."""
    rounds = measure([Clockwork("a", 1, 10, 1), Clockwork("b", 2, 20, 2)], n=5, rounds=3)

    row = rounds.ratio("b", "a")

    assert (row.low, row.value, row.high) == (2.0, 2.0, 2.0)
    assert rounds.faster("a", "b", what="a, faster").value == 2.0


def test_warming_up_does_not_count() -> None:
    """The first turn of each, a tenth of the work, takes ages here and is in no ratio."""
    contender = Clockwork("a", 1, 1)

    rounds = measure([contender], n=20, rounds=2)

    assert contender.asked == [2, 20, 20]
    assert rounds.seconds["a"] == [1.0, 1.0]


def test_who_begins_changes_from_round_to_round() -> None:
    """What only the first of a round suffers falls on all."""
    order = Order("a", "b", "c")

    measure(order.contenders, n=1, rounds=3)

    assert "".join(order.calls) == "abc" + "abc" + "bca" + "cab"


def test_the_yardstick_is_whoever_is_best_as_a_rule() -> None:
    """And not whoever was lucky in one round: that would be a contender that does not exist."""
    rounds = Rounds(seconds={"mine": [3, 3, 3], "steady": [2, 2, 2], "lucky": [1, 9, 9]})

    row = rounds.ratio("mine", "steady", "lucky")

    assert row.value == 1.5


def test_a_slow_contender_is_given_fewer_children_and_judged_by_one() -> None:
    """Its seconds are still those of one child."""
    slow = Clockwork("slow", 8, 8, slow=10)

    rounds = measure([Clockwork("fast", 1, 1), slow], n=100, rounds=2)

    assert slow.asked == [1, 10, 10]
    assert rounds.ratio("slow", "fast").value == 8.0


def test_who_is_given_fewer_stays_who_he_is() -> None:
    """The same job under the same name, judged by one child."""
    asked: list[int] = []

    def job(n: int) -> Iterator[int]:
        asked.append(n)
        return iter([7] * n)

    one = Timed("slow", job, "says what it lacks")
    rounds = measure([fewer(one, 4)], n=40, rounds=2)

    assert asked == [1, 10, 10]
    assert rounds.ratio("slow", "slow").differs == "says what it lacks"


def losing(n: int) -> list[int]:
    """One status too few."""
    return [7] * (n - 1)


def inventing(n: int) -> list[int]:
    """A status that the child did not have."""
    return [7] * (n - 1) + [0]


def repeating(n: int) -> list[int]:
    """One status too many."""
    return [7] * (n + 1)


def adding(n: int) -> list[int]:
    """All that were wanted, and one of somebody else."""
    return [7] * n + [0]


@pytest.mark.parametrize("lie", [losing, inventing, repeating, adding])
def test_a_contender_that_lies_gets_no_number(lie: Callable[[int], list[int]]) -> None:
    """It is refused with the reason, and the others are measured as if it had not been there."""
    rounds = measure([Timed("liar", lie), Timed("honest", lambda n: [7] * n)], n=20, rounds=3)

    row = rounds.ratio("liar", "honest", goal=1.0)

    assert (row.value, row.refused, row.met) == (None, True, False)
    assert "liar" in row.note
    assert "exited with 7" in row.note
    assert "liar" not in rounds.seconds
    assert len(rounds.seconds["honest"]) == 3


def test_one_lie_costs_all_that_was_said_before() -> None:
    """A contender that fails in the third round has no rounds at all."""
    said = iter([[7], [7] * 10, [7] * 10, [7] * 9])

    rounds = measure([Timed("liar", lambda _n: next(said))], n=10, rounds=3)

    assert rounds.seconds == {}
    assert "9 of 10" in rounds.refused["liar"]


def test_a_single_child_that_ends_otherwise_is_noticed() -> None:
    """Also where each is timed by itself."""
    codes = itertools.cycle([7, 7, 1])
    contender = OneByOne("one in three fails", lambda: next(codes))

    with pytest.raises(NotDone, match=r"4 of 6 children"):
        contender(6)
    with pytest.raises(NotDone, match=r"4 of 6 children"):
        contender.each(6)


needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")


@needs_compiler
def test_the_loop_in_c_looks_at_every_status() -> None:
    """The child ends with 7; C is told to expect 8."""
    workshop_child = workshop.child
    right = InC("right", 1, CLONE3, program=Program(workshop_child, 7))
    wrong = InC("wrong", 1, CLONE3, program=Program(workshop_child, 8))

    assert right(3) > 0
    assert InC("window", 2, CLONE3, 4, Program(workshop_child, 7))(20) > 0
    with pytest.raises(NotDone):
        wrong(3)
    with pytest.raises(NotDone):
        wrong.each(3)


@needs_compiler
def test_a_program_that_is_missing_is_no_fast_one() -> None:
    """C says so instead of returning a time."""
    with pytest.raises(NotDone, match="No such file"):
        InC("missing", 1, CLONE3, program=Program("/no/such/program", 7))(3)


def test_who_cannot_take_part_keeps_a_line_with_the_reason() -> None:
    """A goal about something that is not there is neither met nor missed."""
    rounds = Rounds()

    def not_built() -> Contender:
        face("fastproc.nothing_of_that_name")
        raise AssertionError

    there = those_there(rounds, [("c", lambda: Clockwork("c", 1, 1)), ("face", not_built)])
    measure(there.values(), n=1, rounds=2, into=rounds)
    row = rounds.ratio("face", "c", goal=1.1)

    assert list(there) == ["c"]
    assert (row.value, row.met, row.refused) == (None, None, False)
    assert row.note == "fastproc.nothing_of_that_name is not there yet"


def test_a_face_is_taken_up_as_soon_as_it_can_be_imported() -> None:
    """By its dotted name, from a module or from the package."""
    import fastproc

    assert face("fastproc.ProcessManager") is fastproc.ProcessManager
    assert face("fastproc.command.Command") is fastproc.Command
    with pytest.raises(NotThere, match=r"fastproc\.no_module\.run is not there yet"):
        face("fastproc.no_module.run")


def test_what_differs_follows_a_contender_into_its_rows() -> None:
    """A row against a contender that gives less says what that is."""
    rounds = measure([Clockwork("ours", 1), Clockwork("theirs", 3, differs="no deadline")], n=1, rounds=1)

    assert rounds.ratio("theirs", "ours").differs == "no deadline"
    assert rounds.faster("ours", "theirs", what="faster").differs == "no deadline"
    assert rounds.ratio("ours", "theirs").differs == ""


@needs_compiler
def test_a_peer_in_its_own_process_is_believed_no_more_than_others() -> None:
    """It counts the statuses there; told to expect another code, it is refused here."""
    right, wrong = Program(workshop.child, 7), Program(workshop.child, 8)
    rounds = Rounds()

    with Peers(program=right, names=["psutil"]) as honest:
        measure(those_there(rounds, honest.wanted).values(), n=3, rounds=1, into=rounds)
    assert rounds.seconds["psutil"][0] > 0

    with Peers(program=wrong, names=["psutil"]) as mistaken:
        measure(those_there(rounds, mistaken.wanted).values(), n=3, rounds=1, into=rounds)
    assert "0 of 1 children are known to have exited with 8" in rounds.refused["psutil"]
    assert rounds.ratio("psutil", "psutil").value is None


@needs_compiler
@pytest.mark.skipif(shutil.which("xargs") is None, reason="needs xargs")
def test_xargs_is_proven_by_what_its_children_write() -> None:
    """One byte each; a tool that starts fewer than it was told is refused."""
    assert xargs(2)(12) > 0

    lazy = shell_tool("lazy", ["sh", "-c", "head -n 3 | tr -d '\\n' | head -c 3; exit 123"], wanted=123)
    with pytest.raises(NotDone, match="3 of 12 children"):
        lazy(12)
