"""Names of tasks that are more than a string."""

from __future__ import annotations


class Name:
    """A name that runs code of its own."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __hash__(self) -> int:
        return hash(self.text)

    def __eq__(self, other: object) -> bool:
        return self.text == (other.text if isinstance(other, Name) else other)
