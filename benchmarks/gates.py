"""Gates: ratios that were reached once and are not to be lost again, with a tolerance, see gates.toml."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from findings import Answer, Row
from tables import number

GATES = Path(__file__).resolve().parent / "gates.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """A row of a question, and what it must not exceed or must reach, give or take `tolerance` of it."""

    question: str
    row: str
    tolerance: float
    at_most: float | None = None
    at_least: float | None = None

    def __post_init__(self) -> None:
        if (self.at_most is None) == (self.at_least is None):
            raise ValueError(f"gates.toml: {self.row!r} needs either at_most or at_least")
        if not 0 <= self.tolerance < 1:
            raise ValueError(
                f"gates.toml: {self.row!r} has a tolerance of {self.tolerance}, not within 0 and 1"
            )

    def complaint(self, row: Row) -> str | None:
        """What is wrong; None if nothing is, or if there is nothing to measure yet."""
        if row.refused:
            return f"{self.question}: {self.row}: {row.note}"
        if row.value is None:
            return None
        if self.at_most is not None and row.value > self.at_most * (1 + self.tolerance):
            return self._words(row.value, row.unit, "more", self.at_most)
        if self.at_least is not None and row.value < self.at_least * (1 - self.tolerance):
            return self._words(row.value, row.unit, "less", self.at_least)
        return None

    def _words(self, value: float, unit: str, compared: str, bound: float) -> str:
        return (
            f"{self.question}: {self.row}: {number(value, unit)} is {compared} than {number(bound, unit)}, "
            f"even with {self.tolerance:.0%} allowed"
        )


def read(path: Path = GATES) -> list[Gate]:
    """The gates as they are written down. Raises ValueError or TypeError where they are not well formed."""
    with path.open("rb") as file:
        return [Gate(**gate) for gate in tomllib.load(file)["gate"]]


def broken(answers: Mapping[str, Answer], gates: Sequence[Gate] | None = None) -> list[str]:
    """What is wrong, in words. Questions that were not asked have no gate; a row that is gone is a fault."""
    complaints = []
    for gate in read() if gates is None else gates:
        answer = answers.get(gate.question)
        if answer is None or answer.absent:
            continue
        rows = {row.what: row for row in answer.rows}
        if gate.row not in rows:
            complaints.append(f"{gate.question} has no row {gate.row!r}: mend gates.toml")
        elif words := gate.complaint(rows[gate.row]):
            complaints.append(words)
    return complaints
