"""SIGKILL of the Processor before every system call that leaves a trace, and before every one of any kind.

After each the next Processor finishes everything, and the invariants of crashes.py hold.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.processor.crashes import NoPtrace, Scene, killer
from tests.programs import Programs

from fastproc.processor import Processor

CODES = {"good": 0, "bad": 7}


def one_cycle(scene: Scene) -> Callable[[Processor, Callable[[str], None]], None]:
    """Submit two tasks and run them: one succeeds, one fails for good."""

    def work(processor: Processor, acknowledge: Callable[[str], None]) -> None:
        processor.submit(scene.job("good", 0.01), id="good")
        acknowledge("submitted good")
        processor.submit(scene.job("bad", 0, 7), id="bad", max_attempts=1)
        acknowledge("submitted bad")
        processor.run_until_empty(20)
        processor.close()

    return work


def killed_at(scene: Scene, n: int, *, every: bool, recovery: str) -> bool:
    """Kill a Processor before its n-th call, recover and check. False if it has never made so many."""
    victim = scene.begin(one_cycle(scene))
    try:
        with killer(scene.programs, victim, n, every=every) as last_words:
            victim.let_go()
            said = last_words()
    except NoPtrace as refusal:
        pytest.skip(f"ptrace(2) is not allowed here: {refusal}")
    scene.check_promises()
    scene.recover(recovery=recovery)
    scene.check_finished(CODES)
    scene.remove()
    return "killed" in said


def sweep(place: Path, programs: Programs, durability: str, recovery: str, step: int, *, every: bool) -> int:
    """Kill at every `step`-th call, the first one at random; how many calls a cycle makes."""
    for n in itertools.count(random.randint(1, step), step):
        if not killed_at(Scene(place / str(n), programs, durability), n, every=every, recovery=recovery):
            return n
    raise AssertionError


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("durability", "recovery", "step"), [("full", "end", 1), ("batch", "adopt", 5), ("none", "end", 8)]
)
def test_a_kill_before_any_call_that_leaves_a_trace_loses_nothing(
    quick_place: Path, programs: Programs, durability: str, recovery: str, step: int
) -> None:
    """Submit, claim, run, finish: each step of it is the last one of some Processor."""
    calls = sweep(quick_place, programs, durability, recovery, step, every=False)

    assert calls > 50, "hardly anything was swept"


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("recovery", ["end", "adopt"])
@pytest.mark.parametrize("durability", ["full", "batch", "none"])
def test_a_kill_before_any_call_at_all_loses_nothing(
    quick_place: Path, programs: Programs, durability: str, recovery: str
) -> None:
    """Also between those that only look or wait."""
    calls = sweep(quick_place, programs, durability, recovery, 1, every=True)

    assert calls > 300, "hardly anything was swept"
