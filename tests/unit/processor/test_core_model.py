"""The core against a world that submits, ends, cancels, breaks and crashes as it likes: what always holds,
holds.

The world carries out the core's actions on a store in memory, as the Processor does on a directory. A crash
forgets the state of the queue and keeps the store and, if the world likes, the jobs; the next Processor
recovers from these.
"""

from __future__ import annotations

import dataclasses

from hypothesis import settings, strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.processor.memory_store import MemoryStore

from fastproc.errors import TaskExists
from fastproc.processor import core
from fastproc.processor.core import Now, Outcome, Phase, State
from fastproc.processor.retry import Backoff
from fastproc.processor.store import Hold, NotClaimed, Record
from fastproc.processor.task import Task, TaskState

IDS = [f"t{number}" for number in range(8)]


class World(RuleBasedStateMachine):
    """See the head of this file."""

    names = Bundle("names")

    @initialize(slots=st.integers(1, 3))
    def begin(self, slots: int) -> None:
        self.slots = self.most_slots = slots
        self.mono, self.wall = 0.0, 1e9
        self.store = MemoryStore()
        self.submitted: set[str] = set()
        self.running: dict[str, int] = {}
        """Jobs that live: which attempt."""
        self.runs: list[tuple[str, int]] = []
        self.results: dict[tuple[str, int], Record] = {}
        self.enter()

    def enter(self) -> None:
        self.store.lock(shared=False)
        self.holds: dict[str, Hold] = {}
        self.kept: list[tuple[core.File, Hold, Record]] = []
        self.state = State(slots=self.slots, max_attempts=2, backoff=Backoff(base=1, cap=8))
        until = self.store.pause()
        if until is not None:
            self.feed(core.RateLimitKnown(until))
        for orphan in self.store.orphans():
            hold, history = orphan.hold, orphan.history
            if not orphan.alive and history.claimed is None:
                record = history.record
                known = record is not None and not history.reset
                self.store.finish_orphan(
                    hold, record.state if record is not None and known else TaskState.PENDING
                )
                continue
            self.holds[hold.id] = hold
            ticket = hold.task.ticket(hold.name, hold.since)
            self.feed(core.Adopted(ticket, self.claimed(hold), end=False))
            if hold.id not in self.running:
                self.feed(core.Ended(hold.id, Outcome.LOST))
        for name in self.store.pending():
            self.notice(name)

    def claimed(self, hold: Hold) -> core.Claimed:
        limit = hold.task.max_attempts or 2
        return core.Claimed(hold.id, hold.attempt, hold.failures, limit, hold.task.auto_requeue, hold.limited)

    def notice(self, name: str) -> None:
        if name.removesuffix(".json") in self.state.entries:
            return
        ticket = self.store.look(name)
        if ticket is not None:
            outside = {
                other: self.store.where(other)
                for other in ticket.dependencies
                if other not in self.state.entries
            }
            self.feed(core.Found(ticket, outside))
            self.feed(core.Tick())

    def feed(self, event: core.Event) -> None:
        todo = core.step(self.state, event, Now(self.mono, self.wall))
        while todo or self.kept:
            # What is recorded is filed when nothing else is to be done, as a Shift does it.
            told = self.act(todo.pop(0)) if todo else self.file(*self.kept.pop(0))
            for news in told:
                todo += core.step(self.state, news, Now(self.mono, self.wall))

    def act(self, action: core.Action) -> list[core.Event]:
        match action:
            case core.Claim():
                answer = self.store.claim([self.state.entries[action.id].ticket])[0]
                if isinstance(answer, NotClaimed):
                    if answer.error is not None:
                        return [core.StoreFaulted(healthy=False), core.ClaimDelayed(action.id, 1.0)]
                    return [core.ClaimLost(action.id, answer.state)]
                self.holds[action.id] = answer
                return [self.claimed(answer)]
            case core.Start():
                hold = self.holds[action.id]
                assert action.id not in self.running, "two runs of one task"
                self.running[action.id] = hold.attempt
                self.runs.append((action.id, hold.attempt))
                hold.extra = {"runs": True}
                return [core.Started(action.id)]
            case core.File():
                return self.keep(action)
            case core.PauseUntil():
                if self.store.broken is None:
                    self.store.note_pause(action.until, action.id)
            case core.PauseOver():
                if self.store.broken is None:
                    self.store.note_pause(None, "")
            case core.End():
                assert action.id in self.running or action.id in self.holds
        return []

    def keep(self, filing: core.File) -> list[core.Event]:
        hold = self.holds[filing.id]
        assert filing.id not in self.running, "filed while it lives"
        record = Record(
            id=filing.id,
            attempt=hold.attempt,
            state=filing.state,
            outcome=filing.outcome,
            failures=filing.failures,
            retry_at=filing.retry_at,
            limited=filing.limited,
        )
        if self.store.keep([(hold, record)]) != [None]:
            return [core.StoreFaulted(healthy=False)]
        self.kept.append((filing, hold, record))
        return [core.Recorded(filing.id)]

    def file(self, filing: core.File, hold: Hold, record: Record) -> list[core.Event]:
        if self.store.file([(hold, record)]) != [None]:
            return [core.StoreFaulted(healthy=False)]
        del self.holds[filing.id]
        self.results[filing.id, hold.attempt] = record
        return [core.Filed(filing.id)]

    # ---- what the world does ----

    @rule(
        name=st.sampled_from(IDS),
        priority=st.sampled_from(["critical", "low", "odd"]),
        dependencies=st.lists(st.sampled_from(IDS), max_size=2),
        blocks=st.lists(st.sampled_from(IDS), max_size=1),
        attempts=st.integers(1, 3),
        requeue=st.booleans(),
    )
    def submit(
        self,
        name: str,
        priority: str,
        dependencies: list[str],
        blocks: list[str],
        attempts: int,
        requeue: bool,
    ) -> None:
        fields = {
            "priority": priority,
            "dependencies": dependencies,
            "blocks": blocks,
            "max_attempts": attempts,
            "processor_auto_requeue": requeue,
        }
        try:
            self.store.submit([Task.read(name, fields)])
        except TaskExists:
            assert name in self.submitted
        except OSError:
            assert self.store.broken is not None
        else:
            assert name not in self.submitted
            self.submitted.add(name)
            self.notice(f"{name}.json")

    @precondition(lambda self: self.running)
    @rule(
        data=st.data(),
        outcome=st.sampled_from(
            [Outcome.SUCCEEDED, Outcome.FAILED, Outcome.REFUSED, Outcome.RATE_LIMITED, Outcome.LOST]
        ),
    )
    def job_ends(self, data: st.DataObject, outcome: Outcome) -> None:
        name = data.draw(st.sampled_from(sorted(self.running)))
        del self.running[name]
        self.holds[name].extra = {}
        self.feed(core.Ended(name, outcome, chance=0.5, retry_after=600.0))

    @rule(name=st.sampled_from(IDS))
    def cancel(self, name: str) -> None:
        self.feed(core.CancelAsked(name))

    @rule(name=st.sampled_from(IDS))
    def retry(self, name: str) -> None:
        if self.store.where(name) in (TaskState.FAILED, TaskState.COMPLETED):
            self.store.retry(name)
            self.notice(f"{name}.json")

    @rule(slots=st.integers(0, 4))
    def set_slots(self, slots: int) -> None:
        self.slots = slots
        self.most_slots = max(self.most_slots, slots)
        self.feed(core.SlotsSet(slots))

    @rule(paused=st.booleans())
    def pause(self, paused: bool) -> None:
        self.feed(core.Pause(paused))

    @rule(seconds=st.sampled_from([0.5, 5.0, 400.0, 20000.0]))
    def time_passes(self, seconds: float) -> None:
        self.mono += seconds
        self.wall += seconds
        self.feed(core.Tick())

    @rule(seconds=st.sampled_from([-1e8, 1e8]))
    def the_clock_jumps(self, seconds: float) -> None:
        self.wall += seconds
        self.feed(core.Tick())

    @rule()
    def the_disk_breaks(self) -> None:
        self.store.broken = OSError(28, "No space left on device")

    @rule()
    def the_disk_is_well(self) -> None:
        self.store.broken = None
        self.feed(core.StoreFaulted(healthy=True))

    @rule(jobs_live=st.booleans())
    def crash(self, jobs_live: bool) -> None:
        self.store.broken = None
        if not jobs_live:
            self.running.clear()
            for hold in self.holds.values():
                hold.extra = {}
        self.store = self.store.die()
        self.enter()

    # ---- what always holds ----

    @invariant()
    def nothing_is_lost_and_all_is_somewhere_once(self) -> None:
        assert set(self.store.kept.tasks) == self.submitted
        known = {
            name
            for name, (_task, state, _since) in self.store.kept.tasks.items()
            if state in (TaskState.PENDING, TaskState.IN_PROGRESS)
        }
        assert set(self.state.entries) == known

    @invariant()
    def what_lives_belongs_to_a_task_in_progress(self) -> None:
        for name in self.running:
            assert self.store.where(name) is TaskState.IN_PROGRESS
            assert name in self.state.busy

    @invariant()
    def slots_are_kept(self) -> None:
        doomed = [name for name in self.state.busy if name not in self.running]
        assert len(self.state.busy) - len(doomed) <= self.most_slots

    @invariant()
    def no_attempt_has_run_twice(self) -> None:
        assert len(self.runs) == len(set(self.runs))

    @invariant()
    def results_are_never_overwritten(self) -> None:
        for key, record in self.results.items():
            assert self.store.kept.records[key] == record

    @invariant()
    def no_more_failures_than_allowed(self) -> None:
        for record in self.results.values():
            limit = self.store.kept.tasks[record.id][0].max_attempts or 2
            assert record.failures <= limit
            assert record.failures < limit or record.state is not TaskState.PENDING

    @invariant()
    def nothing_waits_for_ever_that_could_run(self) -> None:
        """If there is room and nothing forbids it, whoever is ready has been taken."""
        if self.state.may_claim and len(self.state.busy) < self.state.slots:
            assert not [name for name, entry in self.state.entries.items() if entry.phase is Phase.READY]
        for entry in self.state.entries.values():
            if entry.phase is Phase.WAITING:
                assert entry.missing
                assert all(entry.ticket.id in self.state.waiters.get(other, ()) for other in entry.missing), (
                    "it waits, and nobody would tell it"
                )

    @invariant()
    def the_books_agree(self) -> None:
        for name, entry in self.state.entries.items():
            assert entry.ticket.id == name
            pending = entry.phase in (Phase.WAITING, Phase.DELAYED, Phase.READY)
            assert (name in self.state.busy) is not pending
            assert (name in self.holds) is not pending
        assert not self.state.leaving, "all that was recorded is filed"
        for waiters in self.state.waiters.values():
            assert waiters <= self.state.entries.keys()


def test_a_state_is_a_value_that_only_step_changes() -> None:
    """So that a test may look at it between two steps."""
    names = {item.name for item in dataclasses.fields(State)}
    assert {"entries", "busy", "ready", "paused"} <= names


TestWorld = World.TestCase
TestWorld.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
