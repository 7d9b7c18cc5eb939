"""The queue's decisions: (state, event, now) -> actions. No clock, no I/O, no chance: those come with the
events.

A task that the queue knows is in one phase. `step()` looks up (phase, event) in TRANSITIONS, one table; what
is not in it is late news about a task that has moved on, and changes nothing. The Processor carries out the
actions in order and feeds what came of them back as events:

    Found ─→ WAITING ──dependencies completed──→ READY ──a slot──→ CLAIMING ─Claimed→ STARTING ─Started→
    RUNNING
                │ a dependency failed    ↑ DELAYED ↑ its time came     │ ClaimLost          │ Ended        │
                Ended └──→ CLAIMING (to be failed)                          gone                  └──→ FILING
                ←──┘
                                                                                 Filed ─→ gone, or back in as
                                                                                 Found

A slot is used from CLAIMING until Filed: until the outcome is durable and nothing of the run is alive. Once
the outcome is Recorded the next claim may take it: what that waits for makes both durable before anything is
started. Tasks run by priority and age: `since + rank * AGE_SECONDS` is fixed when a task is queued, so a low
one waits for critical ones that come up to 45 minutes later, and for no others. A task whose dependency
failed is failed too; one whose dependency is not there waits; tasks that wait for each other in a circle are
failed.

An attempt that a dead Processor has left counts as a failure only if nothing ran beside it. Else it is only
kept in mind, `lost`, and after MOST_LOST of them in a row the task runs alone: what kills Processors is given
up after MOST_LOST + max_attempts of them, and its neighbours never are for it.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable

from .news import (
    COUNTED,
    Action,
    Adopted,
    CancelAsked,
    Claim,
    ClaimDelayed,
    Claimed,
    ClaimLost,
    Drain,
    End,
    EndAsked,
    Ended,
    Event,
    File,
    Filed,
    Found,
    Now,
    Outcome,
    Pause,
    PauseOver,
    PauseUntil,
    RateLimitKnown,
    Recorded,
    Settled,
    SlotsSet,
    Start,
    Started,
    StopAsked,
    StoreFaulted,
    Tick,
)
from .state import Entry, Phase, State
from .task import TaskState, Ticket

__all__ = [
    "AGE_SECONDS",
    "COUNTED",
    "MOST_LIMITED",
    "TRANSITIONS",
    "Action",
    "Adopted",
    "CancelAsked",
    "Claim",
    "ClaimDelayed",
    "ClaimLost",
    "Claimed",
    "Drain",
    "End",
    "EndAsked",
    "Ended",
    "Entry",
    "Event",
    "File",
    "Filed",
    "Found",
    "Now",
    "Outcome",
    "Pause",
    "PauseOver",
    "PauseUntil",
    "Phase",
    "RateLimitKnown",
    "Recorded",
    "Settled",
    "SlotsSet",
    "Start",
    "Started",
    "State",
    "StopAsked",
    "StoreFaulted",
    "Tick",
    "blocked",
    "is_stuck",
    "next_due",
    "step",
]

AGE_SECONDS = 900.0
"""So much later may a task come and still go first for being one step more urgent."""

MOST_LIMITED = 50
"""A task that meets a rate limit more often than that in a row has failed."""


def step(state: State, event: Event, now: Now) -> list[Action]:
    """Enter an event, and say what is to be done for it, in order."""
    actions: list[Action] = []
    name = event.ticket.id if isinstance(event, (Found, Adopted)) else getattr(event, "id", None)
    phase = None
    if name is not None and (entry := state.entries.get(name)) is not None:
        phase = entry.phase
    handler = TRANSITIONS.get((phase, type(event)))
    if handler is not None:
        handler(state, event, now, actions)
    _time_passes(state, now, actions)
    if not isinstance(event, Found):
        # Not while the directory is being read: the most urgent may come last. A Tick follows.
        _fill_slots(state, now, actions)
    return actions


def next_due(state: State, now: Now) -> float | None:
    """Seconds until something happens by itself, or None."""
    dues = []
    if state.limited_until is not None:
        dues.append(state.limited_until.mono - now.mono)
    if state.delayed:
        dues.append(state.delayed[0][0] - now.mono)
    if state.dated:
        dues.append(state.dated[0][0] - now.wall)
    if state.starts_per_second is not None and state.ready and (allowed := _allowance(state, now)) < 1.0:
        dues.append((1.0 - allowed) / state.starts_per_second)
    return max(0.0, min(dues)) if dues else None


def blocked(state: State) -> dict[str, tuple[str, ...]]:
    """The tasks that wait for others, and for which."""
    return {
        entry.ticket.id: tuple(sorted(entry.missing))
        for entry in state.entries.values()
        if entry.phase is Phase.WAITING and entry.missing
    }


def is_stuck(state: State) -> bool:
    """Whether all that is left waits for tasks that are not there."""
    return all(entry.phase is Phase.WAITING for entry in state.entries.values())


# ---- pending tasks ----


def _found(state: State, event: Found, now: Now, _actions: list[Action]) -> None:
    ticket = event.ticket
    entry = Entry(ticket, Phase.READY, max_attempts=state.max_attempts)
    state.entries[ticket.id] = entry
    for other in ticket.blocks:
        state.blockers.setdefault(other, set()).add(ticket.id)
        _now_blocked(state, other, ticket.id)
    missing = set()
    for other in ticket.dependencies:
        settled = event.settled.get(other)
        if other in state.entries:
            missing.add(other)
        elif settled is TaskState.FAILED:
            _doom(state, entry, f"dependency {other} has failed")
            return
        elif settled is not TaskState.COMPLETED:
            missing.add(other)
    missing |= {other for other in state.blockers.get(ticket.id, ()) if other in state.entries}
    if missing:
        entry.missing = missing
        entry.phase = Phase.WAITING
        for other in missing:
            state.waiters.setdefault(other, set()).add(ticket.id)
        # It can only close a circle if somebody waits for it already; so a long chain costs nothing.
        circle = _circle(state, ticket.id) if ticket.id in state.waiters else []
        for name in circle:
            _doom(state, state.entries[name], f"circular dependencies: {' -> '.join([*circle, circle[0]])}")
    else:
        _queue(state, entry, now)


def _now_blocked(state: State, name: str, by: str) -> None:
    """A pending task hears that another one blocks it. One that runs already is left alone."""
    entry = state.entries.get(name)
    if entry is None or name in state.busy or entry.doom or name == by:
        return
    entry.missing = (entry.missing or set()) | {by}
    entry.phase = Phase.WAITING
    state.waiters.setdefault(by, set()).add(name)


def _queue(state: State, entry: Entry, now: Now) -> None:
    """All that it waits for is done: it is ready, or will be when its time comes."""
    ticket = entry.ticket
    if entry.doom:
        entry.phase = Phase.READY
        state.doomed.append(ticket.id)
    elif ticket.not_before > now.wall:
        entry.phase = Phase.DELAYED
        heapq.heappush(state.dated, (ticket.not_before, ticket.id))
    elif entry.due > now.mono:
        entry.phase = Phase.DELAYED
        heapq.heappush(state.delayed, (entry.due, ticket.id))
    else:
        entry.phase = Phase.READY
        heapq.heappush(state.ready, (_key(ticket), ticket.id))


def _key(ticket: Ticket) -> float:
    return ticket.since + ticket.rank * AGE_SECONDS


def _doom(state: State, entry: Entry, reason: str) -> None:
    if not entry.doom:
        entry.doom = reason
        state.doomed.append(entry.ticket.id)


def _circle(state: State, start: str) -> list[str]:
    """A circle of tasks that wait for each other through `start`, or an empty list."""
    # Depth first with a list of our own: a chain may be longer than the interpreter recurses.
    path = [start]
    branches = [iter(sorted(state.entries[start].missing or ()))]
    seen = {start}
    while branches:
        other = next(branches[-1], None)
        if other is None:
            branches.pop()
            path.pop()
        elif other == start:
            return path
        elif other not in seen and (entry := state.entries.get(other)) is not None:
            seen.add(other)
            path.append(other)
            branches.append(iter(sorted(entry.missing or ())))
    return []


def _forget(state: State, name: str) -> Entry:
    """Take a task out of the books; those that it blocked by its own word are free of it."""
    entry = state.entries.pop(name)
    state.busy.discard(name)
    state.leaving.discard(name)
    for other in entry.ticket.blocks:
        names = state.blockers.get(other)
        if names is not None:
            names.discard(name)
            if not names:
                del state.blockers[other]
    for other in entry.missing or ():
        _stop_waiting(state, name, other)
    return entry


def _stop_waiting(state: State, name: str, other: str) -> None:
    waiting = state.waiters.get(other)
    if waiting is not None:
        waiting.discard(name)
        if not waiting:
            del state.waiters[other]


def _settle(state: State, name: str, where: TaskState | None, now: Now) -> None:
    """Tell those who wait for a task that it has come to rest, or is gone."""
    for waiter in sorted(state.waiters.get(name, ())):
        entry = state.entries[waiter]
        depends = name in entry.ticket.dependencies
        if depends and where is TaskState.FAILED:
            _doom(state, entry, f"dependency {name} has failed")
        elif where is TaskState.COMPLETED or (
            not depends and where not in (TaskState.PENDING, TaskState.IN_PROGRESS)
        ):
            # One that blocked it by its own word does so no longer, however it ended.
            _satisfied(state, entry, name, now)


def _satisfied(state: State, entry: Entry, name: str, now: Now) -> None:
    if entry.missing is None or name not in entry.missing:
        return
    entry.missing.discard(name)
    _stop_waiting(state, entry.ticket.id, name)
    if not entry.missing:
        entry.missing = None
        if entry.phase is Phase.WAITING and not entry.doom:
            _queue(state, entry, now)


def _settled(state: State, event: Settled, now: Now, _actions: list[Action]) -> None:
    _settle(state, event.id, event.state, now)


def _vanished(state: State, event: ClaimLost, now: Now, _actions: list[Action]) -> None:
    _forget(state, event.id)
    _settle(state, event.id, event.state, now)


def _delay(state: State, event: ClaimDelayed, now: Now, _actions: list[Action]) -> None:
    entry = state.entries[event.id]
    state.busy.discard(event.id)
    entry.due = now.mono + event.seconds
    entry.phase = Phase.DELAYED
    heapq.heappush(state.delayed, (entry.due, event.id))


# ---- claimed tasks ----


def _claimed(state: State, event: Claimed, now: Now, actions: list[Action]) -> None:
    entry = state.entries[event.id]
    entry.attempt = event.attempt
    entry.failures = event.failures
    entry.max_attempts = event.max_attempts
    entry.auto_requeue = event.auto_requeue
    entry.limited = event.limited
    entry.lost = event.lost
    entry.phase = Phase.STARTING
    if entry.ending is not None:
        _file(state, entry, Ended(event.id, entry.ending), now, actions)
    elif entry.doom:
        _file(state, entry, Ended(event.id, Outcome.REFUSED, reason=entry.doom), now, actions)
    elif event.failures >= event.max_attempts:
        # A crash came between the last attempt and its move.
        _file(state, entry, Ended(event.id, Outcome.REFUSED, reason="all attempts are used up"), now, actions)
    else:
        actions.append(Start(event.id))


def _started(state: State, event: Started, _now: Now, actions: list[Action]) -> None:
    entry = state.entries[event.id]
    entry.phase = Phase.RUNNING
    if entry.ending is not None:
        entry.phase = Phase.ENDING
        actions.append(End(event.id))


def _adopted(state: State, event: Adopted, _now: Now, actions: list[Action]) -> None:
    claimed = event.claimed
    state.entries[claimed.id] = Entry(
        event.ticket,
        Phase.RUNNING,
        attempt=claimed.attempt,
        failures=claimed.failures,
        max_attempts=claimed.max_attempts,
        auto_requeue=claimed.auto_requeue,
        limited=claimed.limited,
        lost=claimed.lost,
        beside=event.beside,
    )
    state.busy.add(claimed.id)
    for other in event.ticket.blocks:
        state.blockers.setdefault(other, set()).add(claimed.id)
        _now_blocked(state, other, claimed.id)
    if event.end:
        state.entries[claimed.id].phase = Phase.ENDING
        state.entries[claimed.id].ending = Outcome.LOST
        actions.append(End(claimed.id))


def _cancel_pending(state: State, event: CancelAsked, _now: Now, _actions: list[Action]) -> None:
    entry = state.entries[event.id]
    entry.ending = Outcome.CANCELLED
    _doom(state, entry, "cancelled")


def _cancel_claimed(state: State, event: CancelAsked, _now: Now, _actions: list[Action]) -> None:
    state.entries[event.id].ending = Outcome.CANCELLED


def _cancel_running(state: State, event: CancelAsked, _now: Now, actions: list[Action]) -> None:
    entry = state.entries[event.id]
    entry.ending = Outcome.CANCELLED
    if entry.phase is Phase.RUNNING:
        entry.phase = Phase.ENDING
        actions.append(End(event.id))


def _end_asked(state: State, event: EndAsked, _now: Now, actions: list[Action]) -> None:
    state.entries[event.id].phase = Phase.ENDING
    actions.append(End(event.id))


def _stop(state: State, event: StopAsked, _now: Now, actions: list[Action]) -> None:
    state.draining = True
    for name in sorted(state.busy):
        entry = state.entries[name]
        if entry.phase is Phase.RUNNING:
            entry.phase = Phase.ENDING
            entry.ending = entry.ending or event.outcome
            actions.append(End(name))
        elif entry.phase in (Phase.CLAIMING, Phase.STARTING):
            entry.ending = entry.ending or event.outcome


def _ended(state: State, event: Ended, now: Now, actions: list[Action]) -> None:
    _file(state, state.entries[event.id], event, now, actions)


def _file(state: State, entry: Entry, event: Ended, now: Now, actions: list[Action]) -> None:
    """Decide where a task goes whose attempt is over."""
    outcome = event.outcome
    if entry.ending is not None and outcome is not Outcome.SUCCEEDED:
        # It was told to end. What it managed all the same is believed: the kernel's status wins.
        outcome = entry.ending
    limited = entry.limited + 1 if outcome is Outcome.RATE_LIMITED else 0
    if limited > MOST_LIMITED:
        # No service refuses that long: what looks like a rate limit is something else, and must end some
        # time.
        outcome, limited = Outcome.FAILED, 0
    lost = entry.lost if outcome in (Outcome.LOST, Outcome.GIVEN_BACK) else 0
    counts = outcome in COUNTED and not event.retry_soon
    if outcome is Outcome.LOST and entry.beside:
        # It may be what has killed the Processor, or only have been there: this alone is held against nobody.
        lost, counts = lost + 1, False
    failures = entry.failures + counts
    where, wait = TaskState.PENDING, 0.0
    if outcome is Outcome.SUCCEEDED:
        failures = 0
        where = TaskState.COMPLETED
        if entry.auto_requeue:
            where, wait = TaskState.PENDING, state.requeue_seconds
    elif outcome in (Outcome.REFUSED, Outcome.CANCELLED):
        where = TaskState.FAILED
    elif event.retry_soon:
        wait = state.backoff.wait(1, event.chance)
    elif outcome in COUNTED:
        wait = state.backoff.wait(max(failures, lost), event.chance)
        if failures >= entry.max_attempts:
            where = TaskState.FAILED
    elif outcome is Outcome.RATE_LIMITED:
        _limit(state, state.rate_limit.pause(event.retry_after), event.id, now, actions)
    entry.phase = Phase.FILING
    entry.due = now.mono + wait
    entry.filing = File(
        event.id,
        where,
        outcome,
        failures,
        event.reason or ("cancelled" if outcome is Outcome.CANCELLED else ""),
        now.wall + wait if where is TaskState.PENDING and wait else 0.0,
        limited,
        lost,
    )
    actions.append(entry.filing)


def _recorded(state: State, event: Recorded, _now: Now, _actions: list[Action]) -> None:
    state.leaving.add(event.id)


def _filed(state: State, event: Filed, now: Now, _actions: list[Action]) -> None:
    entry = _forget(state, event.id)
    filing = entry.filing
    assert filing is not None
    if filing.state is not TaskState.PENDING:
        _settle(state, event.id, filing.state, now)
        return
    if entry.auto_requeue and filing.outcome is Outcome.SUCCEEDED:
        # Once is enough for those who wait for it. Behind all others of its priority, too.
        _settle(state, event.id, TaskState.COMPLETED, now)
        entry.ticket = entry.ticket._replace(since=now.wall)
    ticket = entry.ticket._replace(lost=filing.lost)
    again = Entry(ticket, Phase.READY, max_attempts=state.max_attempts, due=entry.due)
    state.entries[event.id] = again
    for other in entry.ticket.blocks:
        state.blockers.setdefault(other, set()).add(event.id)
    _queue(state, again, now)


# ---- the queue as a whole ----


def _limit(state: State, seconds: float, name: str, now: Now, actions: list[Action]) -> None:
    until = Now(now.mono + seconds, now.wall + seconds)
    if state.limited_until is None or until.mono > state.limited_until.mono:
        state.limited_until = until
        actions.append(PauseUntil(until.wall, name))


def _limit_known(state: State, event: RateLimitKnown, now: Now, actions: list[Action]) -> None:
    # A clock that has jumped must not make it last for ever.
    left = min(event.until - now.wall, state.rate_limit.longest)
    if left > 0:
        state.limited_until = Now(now.mono + left, now.wall + left)
    elif state.limited_until is not None:
        state.limited_until = None
        actions.append(PauseOver())


def _pause(state: State, event: Pause, _now: Now, actions: list[Action]) -> None:
    state.paused = event.paused
    if not event.paused and state.limited_until is not None:
        # Whoever says resume knows better than the service's last word.
        state.limited_until = None
        actions.append(PauseOver())


def _drain(state: State, _event: Drain, _now: Now, _actions: list[Action]) -> None:
    state.draining = True


def _set_slots(state: State, event: SlotsSet, _now: Now, _actions: list[Action]) -> None:
    state.slots = event.slots


def _store(state: State, event: StoreFaulted, _now: Now, actions: list[Action]) -> None:
    state.faulted = not event.healthy
    if event.healthy:
        # Once more what could not be made durable.
        actions += [
            entry.filing
            for name in sorted(state.busy)
            if (entry := state.entries[name]).phase is Phase.FILING and entry.filing is not None
        ]


def _time_passes(state: State, now: Now, actions: list[Action]) -> None:
    if state.limited_until is not None and state.limited_until.mono <= now.mono:
        state.limited_until = None
        actions.append(PauseOver())
    if state.delayed:
        _wake(state, state.delayed, now.mono, now)
    if state.dated:
        _wake(state, state.dated, now.wall, now)


def _wake(state: State, heap: list[tuple[float, str]], time: float, now: Now) -> None:
    while heap and heap[0][0] <= time:
        _due, name = heapq.heappop(heap)
        entry = state.entries.get(name)
        # It may have gone, or be waiting for something else by now.
        if entry is not None and entry.phase is Phase.DELAYED:
            _queue(state, entry, now)


def _allowance(state: State, now: Now) -> float:
    """How many starts are allowed now: those of one second may come at once, and one always."""
    rate = state.starts_per_second
    if rate is None:
        return math.inf
    most = max(1.0, rate)
    since = max(0.0, now.mono - state.reckoned)
    return most if since == math.inf else min(most, state.allowed + since * rate)


def _fill_slots(state: State, now: Now, actions: list[Action]) -> None:
    while state.doomed and not state.faulted and not state.draining:
        # Those to be failed unstarted need no turn: nothing of theirs runs.
        name = state.doomed.pop()
        entry = state.entries.get(name)
        if entry is not None and name not in state.busy:
            _take(state, entry, actions)
    if not state.ready or state.used >= state.slots or not state.may_claim:
        return
    allowed = _allowance(state, now)
    while state.ready and state.used < state.slots and allowed >= 1.0:
        key, name = heapq.heappop(state.ready)
        entry = state.entries.get(name)
        if entry is None or entry.phase is not Phase.READY or entry.doom:
            continue
        if state.busy and (entry.ticket.is_suspect or _runs_alone(state)):
            # Its turn comes when nothing runs, and nobody else's before.
            heapq.heappush(state.ready, (key, name))
            return
        _take(state, entry, actions)
        allowed -= 1.0
        state.allowed, state.reckoned = allowed, now.mono


def _runs_alone(state: State) -> bool:
    return any(state.entries[name].ticket.is_suspect for name in state.busy)


def _take(state: State, entry: Entry, actions: list[Action]) -> None:
    # Entered before it is claimed: nobody can see it claimed and take it for lost.
    entry.phase = Phase.CLAIMING
    state.busy.add(entry.ticket.id)
    actions.append(Claim(entry.ticket.id, entry.ticket.name))


_PENDING = (Phase.WAITING, Phase.DELAYED, Phase.READY)
_WHOLE_QUEUE: dict[type, Callable[..., None]] = {
    Settled: _settled,
    StopAsked: _stop,
    Drain: _drain,
    Pause: _pause,
    RateLimitKnown: _limit_known,
    SlotsSet: _set_slots,
    StoreFaulted: _store,
}


def _rows(
    phases: Iterable[Phase | None], event: type, handler: Callable[..., None]
) -> dict[tuple[Phase | None, type], Callable[..., None]]:
    return {(phase, event): handler for phase in phases}


TRANSITIONS: dict[tuple[Phase | None, type], Callable[..., None]] = {
    (None, Found): _found,
    (None, Adopted): _adopted,
    **{(None, event): handler for event, handler in _WHOLE_QUEUE.items()},
    **_rows((*_PENDING, Phase.CLAIMING), ClaimLost, _vanished),
    (Phase.CLAIMING, ClaimDelayed): _delay,
    (Phase.CLAIMING, Claimed): _claimed,
    (Phase.STARTING, Started): _started,
    **_rows((Phase.STARTING, Phase.RUNNING, Phase.ENDING), Ended, _ended),
    (Phase.FILING, Recorded): _recorded,
    (Phase.FILING, Filed): _filed,
    **_rows(_PENDING, CancelAsked, _cancel_pending),
    **_rows((Phase.CLAIMING, Phase.STARTING), CancelAsked, _cancel_claimed),
    **_rows((Phase.RUNNING, Phase.ENDING), CancelAsked, _cancel_running),
    (Phase.RUNNING, EndAsked): _end_asked,
}
