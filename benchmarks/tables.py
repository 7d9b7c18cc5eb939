"""Answers as text: a table for each question, then the goals."""

from __future__ import annotations

import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from findings import Answer, Row

NARROWEST = 40


@dataclass(frozen=True, slots=True)
class Footnotes:
    """Letters for what rows say of differing guarantees; the same words have the same letter."""

    letters: dict[str, str]

    @classmethod
    def of(cls, rows: Iterable[Row]) -> Footnotes:
        """Give letters in the order of appearance."""
        said = dict.fromkeys(row.differs for row in rows if row.differs)
        return cls(dict(zip(said, string.ascii_lowercase, strict=False)))

    def mark(self, row: Row) -> str:
        """What stands behind the row's name."""
        return f" [{self.letters[row.differs]}]" if row.differs in self.letters else ""


def number(value: float | None, unit: str) -> str:
    """A value with its unit, in as many digits as help."""
    if value is None:
        return "-"
    if unit == "x":
        return f"x {value:.0f}" if value >= 100 else f"x {value:.2f}"
    return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.2f} {unit}"


def goal_of(row: Row) -> str:
    """The goal in words; empty if there is none."""
    if row.goal is None:
        return ""
    text = f"x {row.goal:g}" if row.unit == "x" else f"{row.goal:,g} {row.unit}"
    return f"{'>=' if row.at_least else '<='} {text}"


def verdict(row: Row) -> str:
    """met, MISSED, or why there is neither."""
    if row.goal is None:
        return "refused" if row.refused else ""
    if row.met is None:
        return "not there"
    return "met" if row.met else "MISSED"


def spread(row: Row) -> str:
    """The quartiles, where the value is a median."""
    if row.low is None or row.high is None:
        return ""
    digits = 0 if row.high >= 100 else 2
    return f"{row.low:,.{digits}f}..{row.high:,.{digits}f}"


def table(answers: Iterable[Answer]) -> str:
    """All rows under their questions: value, spread, goal, whether it is met; footnotes on what differs."""
    lines = []
    for answer in answers:
        lines += ["", answer.title, "-" * len(answer.title)]
        if answer.absent:
            lines.append(f"  not there: {answer.absent}")
        notes = Footnotes.of(answer.rows)
        width = max([NARROWEST, *(len(row.what + notes.mark(row)) for row in answer.rows)])
        for row in answer.rows:
            what = row.what + notes.mark(row)
            line = (
                f"  {what:<{width}}{number(row.value, row.unit):>10} {spread(row):>13}  "
                f"{goal_of(row):<11} {verdict(row):<9} {row.note}"
            )
            lines.append(line.rstrip())
        lines += [f"  [{letter}] {words}" for words, letter in notes.letters.items()]
    return "\n".join(lines[1:])


def goals(answers: Mapping[str, Answer]) -> list[tuple[str, Row]]:
    """Every row that has a goal, with the name of its question."""
    return [
        (question, row) for question, answer in answers.items() for row in answer.rows if row.goal is not None
    ]


def table_of_goals(answers: Mapping[str, Answer]) -> str:
    """One line for each goal, and how many are met."""
    rows = goals(answers)
    width = max([NARROWEST, *(len(row.what) for _question, row in rows)])
    lines = ["Goals", "-----"]
    for question, row in rows:
        lines.append(
            f"  {verdict(row):<10}{row.what:<{width}}{number(row.value, row.unit):>10}  "
            f"{goal_of(row):<11} {question}".rstrip()
        )
    counted = [row for _question, row in rows if row.met is not None]
    met = sum(row.met is True for row in counted)
    absent = len(rows) - len(counted)
    lines.append(
        f"{met} of {len(counted)} goals met" + (f", {absent} of what is not there yet" if absent else "")
    )
    return "\n".join(lines)


def table_of_changes(before: Mapping[str, Answer], after: Mapping[str, Answer]) -> str:
    """Every row that both runs have, from one to the other; marked where the quartiles lie apart.

    Two runs differ by the machine's mood as well: only ratios of one round stand that, and not all of them.
    """
    pairs = [
        (question, old, new)
        for question, answer in after.items()
        if question in before
        for new in answer.rows
        for old in before[question].rows
        if old.what == new.what and old.value and new.value
    ]
    width = max([NARROWEST, *(len(new.what) for _question, _old, new in pairs)])
    lines = ["Changes", "-------"]
    for question, old, new in pairs:
        assert old.value is not None
        assert new.value is not None
        change = new.value / old.value - 1
        mark = "*" if _apart(old, new) else " "
        lines.append(
            f"{mark} {new.what:<{width}}{number(old.value, old.unit):>11} -> "
            f"{number(new.value, new.unit):>10}  "
            f"{change:+8.1%}  {question}"
        )
    return "\n".join(lines)


def _apart(old: Row, new: Row) -> bool:
    if old.low is None or old.high is None or new.low is None or new.high is None:
        return False
    return new.low > old.high or new.high < old.low
