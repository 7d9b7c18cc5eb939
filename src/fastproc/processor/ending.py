"""The end of a shift: all that runs is ended within a time, and what comes of it is filed meanwhile."""

from __future__ import annotations

import contextlib
import math
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from ..errors import NotActive
from ..status import StopResult
from . import core
from .news import Outcome
from .runs import Live

if TYPE_CHECKING:
    from .shift import Shift

FAULT_PATIENCE = 1.0
"""So many seconds a stop waits for a disk that cannot be written. What came of a run is lost with it, and the
next Processor says so."""


class Ending:
    """See the head of this file. Called under the turn of the Processor, but hurry()."""

    def __init__(self, shift: Shift) -> None:
        self._shift = shift
        self._begun = False
        self._hurried = math.inf
        """When what is being ended is killed at the latest, on the monotonic clock."""

    def end_all(self, outcome: Outcome, began: float, timeout: float) -> list[StopResult]:
        """End all that runs here, and file what comes of it, in time."""
        runs = self._shift.runs
        # Before the grace is reckoned: who hurries us meanwhile is heard by one of the two.
        self._begun = True
        latest = min(began + timeout * 0.8, self._hurried)
        grace = max(0.0, min(self._shift.settings.grace, latest - time.monotonic()))
        self._shift.feed(core.StopAsked(outcome))
        todo, self._shift.todo = self._shift.todo, []
        self._shift.todo = [action for action in todo if not isinstance(action, core.End)]
        own = [live for live in runs.live.values() if live.adopted is None]
        adopted = [live for live in runs.live.values() if live.adopted is not None]
        for live in adopted:
            live.grace = min(live.grace, grace)
            runs.end(live.hold.id)
        results: list[StopResult] = []
        if own:
            results += self._end_own(own, grace)
        self._until_idle(max(began + timeout, time.monotonic() + 1.0), patience=FAULT_PATIENCE)
        results += [
            StopResult(
                task_id=live.hold.id,
                status=live.adopted.status if live.adopted is not None else None,
                escalated=live.adopted is not None and live.adopted.escalated,
                survivors=[] if live.done or live.adopted is None else live.adopted.members(),
                elapsed=time.monotonic() - began,
            )
            for live in adopted
        ]
        return results

    def _end_own(self, own: list[Live], grace: float) -> list[StopResult]:
        """End those that we have started. Passes go on meanwhile: what has ended is filed, and adopted runs
        climb their own ladder.
        """

        def end() -> list[StopResult]:
            if self._shift.owns_launcher:
                return self._shift.launcher.terminate_all(grace).results
            return self._terminate(own, grace)

        with ThreadPoolExecutor(1, "fastproc-stop") as ender:
            try:
                ending = ender.submit(end)
            except RuntimeError:
                # The interpreter is about to exit, and starts no threads any more.
                return end()
            ending.add_done_callback(lambda _ending: self._shift.poke())
            while not ending.done():
                self._shift.make_pass()
                self._shift.sleep(0.05)
        return ending.result()

    def _terminate(self, lives: list[Live], grace: float) -> list[StopResult]:
        """End all of these at once, and wait."""
        results = []
        with ThreadPoolExecutor(min(64, len(lives)), "fastproc-stop") as pool:
            stops = [
                pool.submit(self._shift.launcher.terminate_process, live.hold.id, grace) for live in lives
            ]
            for stop in stops:
                with contextlib.suppress(NotActive):
                    results.append(stop.result())
        return results

    def hurry(self, grace: float) -> None:
        """[any thread] Kill after so many seconds what another thread is ending with more of them."""
        now = time.monotonic()
        # A moment is left for filing what comes of it.
        self._hurried = min(self._hurried, now + grace * 0.8)
        if not self._begun:
            return
        lives = list(self._shift.runs.live.values())
        for live in lives:
            if live.adopted is not None and live.asked is not None:
                live.grace = min(live.grace, now - live.asked + grace)
        own = [live for live in lives if live.adopted is None]
        if own:
            self._terminate(own, grace)

    def let_finish(self, until: float) -> None:
        """Make passes while something runs, until then, and as long as nobody is in a hurry."""
        while self._shift.state.busy and time.monotonic() < until and self._hurried == math.inf:
            self._until_idle(min(until, time.monotonic() + 0.05))

    def _until_idle(self, until: float, *, patience: float = math.inf) -> None:
        """Make passes until nothing runs and all is filed, or until then. If there is nothing to wait for but
        a disk that cannot be written, `patience` is how many seconds that lasts.
        """
        stuck_at = math.inf
        while True:
            self._shift.make_pass()
            if not self._shift.state.busy:
                return
            if self._shift.fault is None or self._shift.runs.live:
                stuck_at = math.inf
            elif stuck_at == math.inf:
                stuck_at = time.monotonic() + patience
            left = min(until, stuck_at) - time.monotonic()
            if left <= 0:
                return
            self._shift.sleep(min(0.05, left))
