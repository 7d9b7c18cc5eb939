"""Ending tasks for certain, one or all, and saying what came of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import cast

from .._native.clock import grace_ns
from .._native.handle import NeverStarted, stop_many
from .._native.records import (
    EXIT_ESCALATED,
    EXIT_LEFTOVERS_ESCALATED,
    FLAGS,
    REASON_TERMINATED,
    STAND_STATE,
    STATE_DONE,
    STATE_FAILED,
)
from ..status import Proof, StopReport, StopResult
from .child import DOOMED, Child
from .roster import BIRTH_SECONDS, BIRTH_STEP_SECONDS, Roster

# The library gives its verdict when the ladder is over; this much later its supervisor would be dead.
_VERDICT_SECONDS = 2.0


def stop_one(roster: Roster, child: Child, grace: float | None) -> StopResult:
    """Stop a task and all it contains, and wait for the verdict; `grace` None is that of its command.

    One that has ended by itself first keeps its true status.
    """
    began = time.monotonic()
    grace = tell_to_end(child, grace)
    _await_verdict(roster, [child], began + verdict_seconds(roster, grace))
    return result_of(child, began)


def tell_to_end(child: Child, grace: float | None) -> float:
    """Begin to stop it, without waiting; `grace` None is that of its command. Returns which it is."""
    if grace is None:
        child._handle.stop(REASON_TERMINATED, 0)
        return grace_of(child)
    child._handle.stop(REASON_TERMINATED, grace_ns(grace))
    return grace


def end_some(roster: Roster, children: list[Child]) -> list[Child]:
    """Stop these, each with its grace, and wait for the verdict, which is to be entered. Takes no lock."""
    if not children:
        return []
    grace = max(map(grace_of, children))
    stop_many([child._handle for child in children], REASON_TERMINATED, 0)
    until = time.monotonic() + grace + roster.kill_timeout + _VERDICT_SECONDS
    judged = []
    for child in children:
        with suppress(NeverStarted):
            if child._handle.wait_stopped(until) is not None:
                judged.append(child)
    return judged


def stop_all(roster: Roster, timeout: float) -> StopReport:
    """Stop all tasks at once, with one grace for all, and wait until nothing is left or the ladder is over.

    What a signal handler raises meanwhile, KeyboardInterrupt for one, ends the grace: what still runs is
    killed before that goes on.
    """
    began = time.monotonic()
    children: list[Child] = []
    try:
        _begin_to_stop_all(roster, timeout, began, children)
        judged = _await_verdict(roster, children, began + verdict_seconds(roster, timeout))
    except BaseException:
        # It may have come before anybody was told, or between two: all once more, and nobody has time left.
        children.clear()
        tell_all_to_end(roster, began, set(), children)
        _await_verdict(roster, children, time.monotonic() + roster.kill_timeout + _VERDICT_SECONDS)
        raise
    return report_of(judged, began)


def verdict_seconds(roster: Roster, grace: float) -> float:
    """By then the library has given its verdict about what was told to end."""
    return max(grace, 0.0) + roster.kill_timeout + _VERDICT_SECONDS


def grace_of(child: Child) -> float:
    """That of its command, or else of its roster."""
    return child.command.grace if child.command.given("grace") else child._roster.grace


def report_of(judged: Iterable[Child], began: float) -> StopReport:
    """What has come of ending these."""
    results = [result_of(child, began) for child in judged]
    return StopReport(
        results=results,
        survivors=[pid for result in results for pid in result.survivors],
        elapsed=time.monotonic() - began,
    )


def _begin_to_stop_all(roster: Roster, timeout: float, began: float, ret_children: list[Child]) -> None:
    """Tell everybody at once. Starts that are under way in other threads are waited for, and told too.

    One that does not come to its end soon, or that a signal handler in this thread has interrupted, is
    stopped when it does: see DOOMED.
    """
    roster.drain()
    told: set[int] = set()
    while tell_all_to_end(roster, began + timeout, told, ret_children):
        if time.monotonic() > began + BIRTH_SECONDS:
            return
        # As in Roster.find().
        time.sleep(BIRTH_STEP_SECONDS)


def tell_all_to_end(roster: Roster, until: float, told: set[int], ret_children: list[Child]) -> bool:
    """Tell all that have not been `told`; whether there are starts under way in other threads."""
    fresh = []
    unborn = False
    with roster.lock:
        fed = [child for feed in tuple(roster.feeds) for child in feed.halt()]
        for child in (*roster.active.values(), *fed):
            if child._token in told:
                continue
            if not child._born:
                child._flags |= DOOMED
                unborn |= child._starter != threading.get_ident()
            else:
                told.add(child._token)
                fresh.append(child)
    ret_children += fresh
    if fresh:
        left = max(0.0, until - time.monotonic())
        stop_many([child._handle for child in fresh], REASON_TERMINATED, grace_ns(left))
    return unborn


def _await_verdict(roster: Roster, children: Iterable[Child], until: float) -> list[Child]:
    """Those that there is a verdict about: not those that were never started."""
    judged = []
    for child in children:
        try:
            record = child._handle.wait_stopped(until)
        except NeverStarted:
            roster.enter_failure(child)
            continue
        if record is not None:
            roster.hear_and_tell(child, child._handle.stand())
        judged.append(child)
    return judged


def result_of(child: Child, began: float) -> StopResult:
    """What has come of ending it."""
    proof, survivors = child._handle.report()
    flags = child._handle.known()[FLAGS]
    state = child._handle.stand() & STAND_STATE
    return StopResult(
        task_id=child.task_id,
        status=child._status,
        escalated=flags & (EXIT_ESCALATED | EXIT_LEFTOVERS_ESCALATED) != 0,
        proof=cast(Proof, proof),
        survivors=survivors,
        elapsed=time.monotonic() - began,
        over=state in (STATE_DONE, STATE_FAILED),
    )
