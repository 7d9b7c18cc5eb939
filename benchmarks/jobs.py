"""A job that is proven and timed; apart, so that a peer, which has a process of its own, is soon there."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from surroundings import CHILD_CODE, NotDone

Status = int | None


def proven(name: str, statuses: list[Status], n: int, code: int) -> None:
    """Raise NotDone unless there are `n` statuses and all are `code`."""
    right = statuses.count(code)
    if right != n or len(statuses) != n:
        raise NotDone(f"{name}: {right} of {n} children are known to have exited with {code}")


@dataclass(frozen=True, slots=True)
class Timed:
    """A contender made of a function that does the job and gives the statuses."""

    name: str
    job: Callable[[int], Iterable[Status]]
    differs: str = ""
    code: int = CHILD_CODE
    slow: int = 1

    def __call__(self, n: int) -> float:
        start = time.perf_counter()
        statuses = list(self.job(n))
        seconds = time.perf_counter() - start
        proven(self.name, statuses, n, self.code)
        return seconds
