"""The queue's decisions, without a clock, a disk or a process."""

from __future__ import annotations

from typing import Any

import pytest

from fastproc.processor import core
from fastproc.processor.core import (
    Adopted,
    CancelAsked,
    Claim,
    ClaimDelayed,
    Claimed,
    ClaimLost,
    Drain,
    End,
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
    Phase,
    RateLimitKnown,
    Recorded,
    Settled,
    SlotsSet,
    Start,
    Started,
    State,
    StopAsked,
    StoreFaulted,
    Tick,
)
from fastproc.processor.retry import Backoff
from fastproc.processor.task import TaskState, Ticket


class Desk:
    """A state, a clock, and what was decided so far."""

    def __init__(self, slots: int = 1, **settings: Any) -> None:
        self.state = State(slots=slots, **settings)
        self.mono = 100.0
        self.wall = 1_000_000.0

    def feed(self, *events: Event) -> list[core.Action]:
        """What is decided; a Tick follows whatever was found."""
        actions: list[core.Action] = []
        for event, following in zip(events, (*events[1:], Tick()), strict=True):
            actions += core.step(self.state, event, self.now)
            if isinstance(event, Found) and not isinstance(following, Found):
                actions += core.step(self.state, Tick(), self.now)
        return actions

    @property
    def now(self) -> Now:
        return Now(self.mono, self.wall)

    def later(self, seconds: float) -> list[core.Action]:
        self.mono += seconds
        self.wall += seconds
        return self.feed(Tick())

    def run(self, name: str, attempt: int = 1, failures: int = 0, limit: int = 3) -> None:
        """Have a claimed task running."""
        assert self.feed(Claimed(name, attempt, failures, limit)) == [Start(name)]
        assert self.feed(Started(name)) == []

    def end(self, name: str, outcome: Outcome, **said: Any) -> File:
        actions = self.feed(Ended(name, outcome, **said))
        (filing,) = [action for action in actions if isinstance(action, File)]
        return filing


def ticket(name: str, rank: int = 2, since: float = 0.0, **said: Any) -> Ticket:
    return Ticket(name, f"{name}.json", rank, since, **said)


def claims(actions: list[core.Action]) -> list[str]:
    return [action.id for action in actions if isinstance(action, Claim)]


def test_a_task_goes_through_its_phases() -> None:
    desk = Desk()
    assert desk.feed(Found(ticket("a"))) == [Claim("a", "a.json")]
    assert desk.state.entries["a"].phase is Phase.CLAIMING
    desk.run("a")
    assert desk.state.busy == {"a"}

    filing = desk.end("a", Outcome.SUCCEEDED)

    assert (filing.state, filing.outcome, filing.failures) == (TaskState.COMPLETED, Outcome.SUCCEEDED, 0)
    assert desk.state.busy == {"a"}, "the slot is used until the outcome is durable"
    assert desk.feed(Filed("a")) == []
    assert desk.state.entries == {}
    assert desk.state.busy == set()


def test_no_more_than_the_slots_are_claimed() -> None:
    desk = Desk(slots=2)
    actions = desk.feed(*(Found(ticket(name, since=at)) for at, name in enumerate("abc")))
    assert claims(actions) == ["a", "b"]
    desk.run("a")
    desk.end("a", Outcome.SUCCEEDED)
    assert claims(desk.feed(Filed("a"))) == ["c"]


def test_the_slot_of_a_recorded_outcome_is_for_the_next_claim() -> None:
    desk = Desk(slots=1)
    desk.feed(*(Found(ticket(name, since=at)) for at, name in enumerate("abc")))
    desk.run("a")
    desk.end("a", Outcome.SUCCEEDED)

    assert claims(desk.feed(Recorded("a"))) == ["b"]
    assert desk.state.busy == {"a", "b"}, "it is filed yet"
    assert claims(desk.feed(Recorded("a"), Tick())) == [], "one slot is given once"
    assert desk.feed(Filed("a")) == [], "and was given already"
    assert (desk.state.busy, desk.state.leaving) == ({"b"}, set())


def test_a_recorded_outcome_gives_no_slot_to_what_runs_alone() -> None:
    """Nor while the disk is not well: then it may have to be recorded anew."""
    desk = Desk(slots=1)
    desk.feed(Found(ticket("a")), Found(ticket("suspect", since=1.0, lost=2)))
    desk.run("a")
    desk.end("a", Outcome.SUCCEEDED)

    assert desk.feed(Recorded("a")) == []
    assert desk.feed(StoreFaulted(healthy=False)) == []
    (again,) = desk.feed(StoreFaulted(healthy=True))
    assert isinstance(again, File)
    assert claims(desk.feed(Recorded("a"), Filed("a"))) == ["suspect"]


@pytest.mark.parametrize(("slots", "claimed"), [(0, []), (3, ["c"])])
def test_slots_may_change(slots: int, claimed: list[str]) -> None:
    desk = Desk(slots=2)
    desk.feed(*(Found(ticket(name, since=at)) for at, name in enumerate("abc")))
    assert claims(desk.feed(SlotsSet(slots))) == claimed
    assert {"a", "b"} <= desk.state.busy, "what runs goes on"


def test_the_urgent_come_first_and_nobody_starves() -> None:
    desk = Desk(slots=0)
    step = core.AGE_SECONDS
    desk.feed(
        Found(ticket("low, long ago", rank=3, since=0)),
        Found(ticket("critical", rank=0, since=3 * step + 1)),
        Found(ticket("critical, earlier", rank=0, since=3 * step - 1)),
        Found(ticket("high", rank=1, since=3 * step - 1)),
        Found(ticket("medium", rank=2, since=3 * step - 1)),
    )
    assert claims(desk.feed(SlotsSet(9))) == [
        "critical, earlier",
        "low, long ago",
        "critical",
        "high",
        "medium",
    ]


def test_a_failure_is_tried_again_with_growing_waits_until_the_attempts_are_used_up() -> None:
    desk = Desk(backoff=Backoff(base=10, spread=0))
    desk.feed(Found(ticket("a")))
    desk.run("a", limit=3)
    first = desk.end("a", Outcome.FAILED)
    assert (first.state, first.failures, first.retry_at) == (TaskState.PENDING, 1, desk.wall + 10)
    assert desk.feed(Filed("a")) == []
    assert core.next_due(desk.state, desk.now) == 10
    assert claims(desk.later(9.9)) == []
    assert claims(desk.later(0.2)) == ["a"]
    desk.run("a", 2, 1, 3)
    assert desk.end("a", Outcome.LOST).retry_at == desk.wall + 20
    desk.feed(Filed("a"))
    desk.later(21)
    desk.run("a", 3, 2, 3)

    last = desk.end("a", Outcome.FAILED)

    assert (last.state, last.failures) == (TaskState.FAILED, 3)
    desk.feed(Filed("a"))
    assert desk.state.entries == {}


def test_a_task_that_has_used_up_its_attempts_is_not_started() -> None:
    """As after a crash between the last attempt and its move."""
    desk = Desk()
    desk.feed(Found(ticket("a")))
    actions = desk.feed(Claimed("a", 4, 3, 3))
    assert [type(action) for action in actions] == [File]
    assert desk.state.entries["a"].filing is not None
    assert desk.state.entries["a"].filing.state is TaskState.FAILED


@pytest.mark.parametrize("outcome", [Outcome.REFUSED, Outcome.CANCELLED])
def test_what_cannot_be_or_shall_not_be_is_not_tried_again(outcome: Outcome) -> None:
    desk = Desk()
    desk.feed(Found(ticket("a")))
    desk.run("a")
    assert desk.end("a", outcome).state is TaskState.FAILED


def test_what_is_not_its_fault_counts_for_nothing() -> None:
    desk = Desk(backoff=Backoff(base=1, spread=0))
    desk.feed(Found(ticket("a")))
    desk.run("a", failures=2)
    filing = desk.end("a", Outcome.FAILED, retry_soon=True)
    assert (filing.state, filing.failures) == (TaskState.PENDING, 2)


@pytest.mark.parametrize(("asked", "seconds"), [(None, 1800), (1.0, 300), (1e9, 14400), (1000.0, 1000)])
def test_a_rate_limit_counts_nothing_and_pauses_the_queue(asked: float | None, seconds: float) -> None:
    desk = Desk(slots=2)
    desk.feed(Found(ticket("a")), Found(ticket("b")))
    desk.run("a", failures=1)
    actions = desk.feed(Ended("a", Outcome.RATE_LIMITED, retry_after=asked))

    assert actions[0] == PauseUntil(desk.wall + seconds, "a")
    assert isinstance(actions[1], File)
    assert (actions[1].state, actions[1].failures) == (TaskState.PENDING, 1)
    assert desk.feed(Filed("a"), Found(ticket("c"))) == []
    assert core.next_due(desk.state, desk.now) == seconds
    assert desk.later(seconds - 1) == []
    actions = desk.later(2)
    assert actions[0] == PauseOver()
    assert claims(actions) == ["a"]


def test_resume_ends_a_rate_limit() -> None:
    desk = Desk()
    desk.feed(RateLimitKnown(desk.wall + 1000))
    assert desk.feed(Found(ticket("a"))) == []
    actions = desk.feed(Pause(paused=False))
    assert actions[0] == PauseOver()
    assert claims(actions) == ["a"]


def test_a_rate_limit_that_somebody_has_ended_is_over() -> None:
    desk = Desk()
    desk.feed(RateLimitKnown(desk.wall + 1000), Found(ticket("a")))
    actions = desk.feed(RateLimitKnown(0.0))
    assert actions[0] == PauseOver()
    assert claims(actions) == ["a"]


def test_a_known_rate_limit_holds_no_longer_than_any_other() -> None:
    """The clock may have jumped since it was written down."""
    desk = Desk()
    desk.feed(RateLimitKnown(desk.wall + 1e9))
    assert core.next_due(desk.state, desk.now) == 14400


def test_what_looks_like_a_rate_limit_for_ever_is_a_failure() -> None:
    desk = Desk()
    desk.feed(Found(ticket("a")))
    assert desk.feed(Claimed("a", 60, 0, 1, limited=core.MOST_LIMITED)) == [Start("a")]
    desk.feed(Started("a"))
    filing = desk.end("a", Outcome.RATE_LIMITED)
    assert (filing.state, filing.outcome) == (TaskState.FAILED, Outcome.FAILED)


def test_pause_and_drain_and_a_broken_store_start_nothing() -> None:
    for event in (Pause(paused=True), Drain(), StoreFaulted(healthy=False)):
        desk = Desk()
        desk.feed(event)
        assert desk.feed(Found(ticket("a"))) == []
    desk = Desk()
    desk.feed(Pause(paused=True), Found(ticket("a")))
    assert claims(desk.feed(Pause(paused=False))) == ["a"]


def test_what_could_not_be_filed_is_filed_again_when_the_store_is_well() -> None:
    desk = Desk(slots=2)
    desk.feed(Found(ticket("a")), Found(ticket("b", since=1)))
    desk.run("a")
    filing = desk.end("a", Outcome.SUCCEEDED)
    assert desk.feed(StoreFaulted(healthy=False)) == []
    assert desk.state.busy == {"a", "b"}
    assert desk.feed(StoreFaulted(healthy=True)) == [filing]
    desk.feed(Filed("a"))
    assert "a" not in desk.state.entries


def test_a_date_is_waited_for() -> None:
    desk = Desk()
    assert desk.feed(Found(ticket("a", not_before=desk.wall + 60))) == []
    assert core.next_due(desk.state, desk.now) == 60
    assert claims(desk.later(61)) == ["a"]


# ---- dependencies ----


def test_a_dependency_comes_first_whatever_the_order() -> None:
    desk = Desk(slots=9)
    assert claims(desk.feed(Found(ticket("b", dependencies=("a",))))) == []
    assert core.blocked(desk.state) == {"b": ("a",)}
    assert claims(desk.feed(Found(ticket("a")))) == ["a"]
    desk.run("a")
    desk.end("a", Outcome.SUCCEEDED)
    assert claims(desk.feed(Filed("a"))) == ["b"]


def test_one_that_was_completed_before_needs_no_waiting() -> None:
    desk = Desk()
    actions = desk.feed(Found(ticket("b", dependencies=("a",)), {"a": TaskState.COMPLETED}))
    assert claims(actions) == ["b"]


def test_who_depends_on_a_failure_is_failed_without_being_started() -> None:
    desk = Desk(slots=1)
    desk.feed(Found(ticket("c", dependencies=("b",))), Found(ticket("b", dependencies=("a",))))
    desk.feed(Found(ticket("a")))
    desk.run("a")
    desk.end("a", Outcome.REFUSED)
    assert claims(desk.feed(Filed("a"))) == ["b"]
    (filing,) = desk.feed(Claimed("b", 1, 0, 3))
    assert isinstance(filing, File)
    assert (filing.state, filing.reason) == (TaskState.FAILED, "dependency a has failed")
    assert claims(desk.feed(Filed("b"))) == ["c"]


def test_who_depends_on_one_that_failed_before_is_failed() -> None:
    desk = Desk()
    assert claims(desk.feed(Found(ticket("b", dependencies=("a",)), {"a": TaskState.FAILED}))) == ["b"]
    assert isinstance(desk.feed(Claimed("b", 1, 0, 3))[0], File)


def test_a_missing_dependency_is_waited_for_and_seen() -> None:
    desk = Desk()
    assert desk.feed(Found(ticket("b", dependencies=("a",)), {"a": None})) == []
    assert core.is_stuck(desk.state)
    assert desk.feed(Settled("a", None)) == []
    assert claims(desk.feed(Settled("a", TaskState.COMPLETED))) == ["b"]


@pytest.mark.parametrize("order", ["abc", "cba", "bca"])
def test_a_circle_is_failed(order: str) -> None:
    needs = {"a": ("b",), "b": ("c",), "c": ("a",)}
    desk = Desk(slots=9)
    actions = desk.feed(*(Found(ticket(name, dependencies=needs[name])) for name in order))
    assert sorted(claims(actions)) == ["a", "b", "c"]
    (filing,) = desk.feed(Claimed("a", 1, 0, 3))
    assert isinstance(filing, File)
    assert filing.state is TaskState.FAILED
    assert "circular" in filing.reason


def test_one_that_waits_for_itself_is_failed() -> None:
    desk = Desk()
    assert claims(desk.feed(Found(ticket("a", dependencies=("a",))))) == ["a"]
    assert isinstance(desk.feed(Claimed("a", 1, 0, 3))[0], File)


def test_a_long_chain_costs_no_more_than_its_length() -> None:
    desk = Desk(slots=0)
    for number in range(30_000):
        desk.feed(Found(ticket(f"{number}", dependencies=(f"{number - 1}",) if number else ())))
    assert len(core.blocked(desk.state)) == 29_999


def test_blocks_says_the_same_from_the_other_side() -> None:
    desk = Desk(slots=9)
    desk.feed(Pause(paused=True), Found(ticket("b")), Found(ticket("a", blocks=("b",), since=9)))
    assert claims(desk.feed(Pause(paused=False))) == ["a"]
    desk.run("a")
    assert desk.end("a", Outcome.REFUSED).state is TaskState.FAILED
    assert claims(desk.feed(Filed("a"))) == ["b"], "one that blocked it does so no longer, however it ended"


def test_one_that_queues_itself_again_satisfies_who_waits_for_it() -> None:
    desk = Desk(slots=9, requeue_seconds=30)
    desk.feed(Found(ticket("a")), Found(ticket("b", dependencies=("a",))))
    desk.feed(Claimed("a", 1, 0, 3, auto_requeue=True), Started("a"))
    assert desk.end("a", Outcome.SUCCEEDED).state is TaskState.PENDING
    assert claims(desk.feed(Filed("a"))) == ["b"]
    assert claims(desk.later(31)) == ["a"]


# ---- claims, cancels, stops ----


def test_a_lost_claim_frees_the_slot() -> None:
    desk = Desk()
    desk.feed(Found(ticket("a")), Found(ticket("b", since=1)))
    assert claims(desk.feed(ClaimLost("a"))) == ["b"]


def test_a_claim_that_cannot_be_had_now_is_tried_later() -> None:
    desk = Desk()
    desk.feed(Found(ticket("a")))
    assert desk.feed(ClaimDelayed("a", 5)) == []
    assert desk.state.busy == set()
    assert claims(desk.later(6)) == ["a"]


def test_a_pending_task_is_cancelled_without_being_started() -> None:
    desk = Desk(slots=0)
    desk.feed(Found(ticket("a")))
    assert claims(desk.feed(CancelAsked("a"))) == ["a"]
    (filing,) = desk.feed(Claimed("a", 1, 0, 3))
    assert isinstance(filing, File)
    assert (filing.state, filing.outcome) == (TaskState.FAILED, Outcome.CANCELLED)


def test_a_cancel_between_claim_and_start_is_not_forgotten() -> None:
    desk = Desk()
    desk.feed(Found(ticket("a")), Claimed("a", 1, 0, 3))
    assert desk.feed(CancelAsked("a")) == []
    assert desk.feed(Started("a")) == [End("a")]
    assert desk.end("a", Outcome.FAILED).outcome is Outcome.CANCELLED


def test_a_running_task_is_ended_once_and_finished_as_cancelled() -> None:
    desk = Desk()
    desk.feed(Found(ticket("a")))
    desk.run("a")
    assert desk.feed(CancelAsked("a")) == [End("a")]
    assert desk.feed(CancelAsked("a")) == []
    filing = desk.end("a", Outcome.FAILED)
    assert (filing.state, filing.outcome) == (TaskState.FAILED, Outcome.CANCELLED)


def test_what_ends_well_while_it_is_ended_has_ended_well() -> None:
    desk = Desk()
    desk.feed(Found(ticket("a")))
    desk.run("a")
    desk.feed(CancelAsked("a"))
    assert desk.end("a", Outcome.SUCCEEDED).state is TaskState.COMPLETED


def test_a_stop_gives_back_what_has_not_ended() -> None:
    desk = Desk(slots=3)
    desk.feed(*(Found(ticket(name, since=at)) for at, name in enumerate("abcd")))
    desk.run("a")
    desk.run("b")
    assert desk.feed(StopAsked()) == [End("a"), End("b")]
    filing = desk.end("a", Outcome.FAILED)
    assert (filing.state, filing.outcome, filing.failures) == (TaskState.PENDING, Outcome.GIVEN_BACK, 0)
    assert desk.feed(Filed("a")) == [], "nothing new is claimed"
    (filing,) = desk.feed(Claimed("c", 1, 0, 3))
    assert isinstance(filing, File)
    assert filing.outcome is Outcome.GIVEN_BACK


def test_an_adopted_run_uses_a_slot_and_is_ended_if_that_is_wanted() -> None:
    desk = Desk()
    claimed = Claimed("a", 2, 1, 3)
    assert desk.feed(Adopted(ticket("a"), claimed, end=False)) == []
    assert desk.feed(Found(ticket("b"))) == []
    assert desk.end("a", Outcome.FAILED).failures == 2

    desk = Desk()
    assert desk.feed(Adopted(ticket("a"), claimed, end=True)) == [End("a")]
    assert desk.end("a", Outcome.FAILED).outcome is Outcome.LOST


def test_late_news_about_a_task_that_has_moved_on_changes_nothing() -> None:
    events: list[Event] = [
        Filed("a"),
        Ended("a", Outcome.SUCCEEDED),
        Started("a"),
        Claimed("a", 1, 0, 3),
        CancelAsked("a"),
        ClaimLost("a"),
        ClaimDelayed("a", 1),
    ]
    for event in events:
        desk = Desk()
        assert desk.feed(event) == []
        assert desk.state.entries == {}
    desk = Desk()
    desk.feed(Found(ticket("a")))
    desk.run("a")
    before = desk.state.entries["a"].phase
    for event in (Found(ticket("a")), Filed("a"), Claimed("a", 2, 0, 3), ClaimLost("a"), Started("a")):
        assert desk.feed(event) == []
    assert desk.state.entries["a"].phase is before


def test_every_transition_is_in_the_table() -> None:
    """No event has a handler that the table does not name, and none of its rows is for nothing."""
    assert all(callable(handler) for handler in core.TRANSITIONS.values())
    phases = {phase for phase, _event in core.TRANSITIONS}
    assert phases == {None, *Phase}
    named = {event for _phase, event in core.TRANSITIONS}
    assert named | {Tick} == set(core.Event.__args__)  # type: ignore[attr-defined]


def test_one_that_shall_be_failed_and_cannot_be_claimed_now_is_failed_later() -> None:
    desk = Desk()
    desk.feed(Found(ticket("b", dependencies=("a",)), {"a": TaskState.FAILED}))
    desk.feed(ClaimDelayed("b", 5))
    assert claims(desk.later(6)) == ["b"]
    assert isinstance(desk.feed(Claimed("b", 1, 0, 3))[0], File)


def adopted(name: str, *, lost: int = 0, beside: bool = True, limit: int = 1) -> Adopted:
    return Adopted(ticket(name, lost=lost), Claimed(name, 1, 0, limit, lost=lost), end=False, beside=beside)


def test_an_attempt_that_was_lost_beside_others_is_held_against_nobody() -> None:
    desk = Desk(slots=4)
    desk.feed(adopted("a"), adopted("b"))
    filing = desk.end("a", Outcome.LOST)
    assert (filing.state, filing.failures, filing.lost) == (TaskState.PENDING, 0, 1)
    assert filing.retry_at > desk.wall, "it waits, as after a failure"


def test_an_attempt_that_was_lost_alone_is_a_failure() -> None:
    desk = Desk(slots=4)
    desk.feed(adopted("a", lost=2, beside=False))
    filing = desk.end("a", Outcome.LOST)
    assert (filing.state, filing.failures, filing.lost) == (TaskState.FAILED, 1, 2)


@pytest.mark.parametrize(
    ("outcome", "lost"),
    [(Outcome.FAILED, 0), (Outcome.RATE_LIMITED, 0), (Outcome.GIVEN_BACK, 2), (Outcome.LOST, 3)],
)
def test_who_ends_with_its_processor_alive_is_no_suspect_any_more(outcome: Outcome, lost: int) -> None:
    desk = Desk(slots=4)
    desk.feed(adopted("a", lost=2, limit=3))
    assert desk.end("a", outcome).lost == lost


def test_a_suspect_runs_alone() -> None:
    """It waits until nothing runs, nothing that comes after it goes before it, and nothing runs beside it."""
    desk = Desk(slots=4)
    assert claims(desk.feed(Found(ticket("before", since=1)))) == ["before"]
    desk.run("before")
    assert claims(desk.feed(Found(ticket("suspect", since=2, lost=2)), Found(ticket("after", since=3)))) == []
    desk.end("before", Outcome.SUCCEEDED)
    assert claims(desk.feed(Filed("before"))) == ["suspect"]
    desk.run("suspect")
    assert claims(desk.later(100)) == []
    desk.end("suspect", Outcome.SUCCEEDED)
    assert claims(desk.feed(Filed("suspect"))) == ["after"]


def test_starts_are_limited_to_so_many_a_second() -> None:
    desk = Desk(slots=100, starts_per_second=2.0)
    names = [f"t{number}" for number in range(8)]
    started = claims(desk.feed(*(Found(ticket(name, since=at)) for at, name in enumerate(names))))
    assert started == names[:2], "those of one second at once"
    assert core.next_due(desk.state, desk.now) == 0.5
    assert claims(desk.later(0.4)) == []
    assert claims(desk.later(0.1)) == names[2:3]
    assert claims(desk.later(100)) == names[3:5], "what was not used is not kept for longer than a second"


def test_a_slow_limit_of_starts_lets_one_go_at_a_time() -> None:
    desk = Desk(slots=100, starts_per_second=0.1)
    assert claims(desk.feed(Found(ticket("a")), Found(ticket("b")))) == ["a"]
    assert core.next_due(desk.state, desk.now) == pytest.approx(10)
    assert claims(desk.later(10)) == ["b"]
