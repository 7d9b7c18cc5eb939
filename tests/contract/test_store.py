"""What every Store does, the one in a directory and the one in memory: one suite for both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.processor.memory_store import Kept, MemoryStore, record_of

from fastproc.errors import QueueBusy, TaskExists
from fastproc.processor.core import Outcome
from fastproc.processor.store import Hold, NotClaimed, Store
from fastproc.processor.store_dir import DirectoryStore
from fastproc.processor.task import Task, TaskState, Ticket

MakeStore = Callable[[], Any]


@pytest.fixture(params=["directory, full", "directory, batch", "directory, none", "memory"])
def another(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakeStore]:
    """Makes stores of one place, as several programs do."""
    kept = Kept()
    made: list[Any] = []

    def make() -> Any:
        kind, _, durability = request.param.partition(", ")
        store = (
            DirectoryStore(tmp_path / "q", durability=durability)
            if kind == "directory"
            else MemoryStore(kept)
        )
        made.append(store)
        return store

    yield make
    for store in made:
        if isinstance(store, DirectoryStore):
            store.close()


@pytest.fixture
def store(another: MakeStore) -> Store:
    """The first of them."""
    found: Store = another()
    return found


def task(name: str, **fields: Any) -> Task:
    return Task.read(name, {"args": ["true"], **fields})


def take(store: Store, name: str) -> Hold:
    ticket = store.look(f"{name}.json")
    assert ticket is not None
    hold = store.claim([ticket])[0]
    assert isinstance(hold, Hold)
    return hold


def test_what_was_submitted_is_pending(store: Store) -> None:
    store.submit([task("a", priority="high", dependencies=["b"]), task("b")])

    assert sorted(store.pending()) == ["a.json", "b.json"]
    ticket = store.look("a.json")
    assert isinstance(ticket, Ticket)
    assert (ticket.id, ticket.rank, ticket.dependencies) == ("a", 1, ("b",))
    assert store.where("a") is TaskState.PENDING
    assert store.where("c") is None
    assert store.look("c.json") is None
    assert store.counts()[TaskState.PENDING] == 2


def test_an_id_is_queued_once(store: Store) -> None:
    store.submit([task("a")])

    with pytest.raises(TaskExists):
        store.submit([task("a")])
    with pytest.raises(TaskExists):
        store.submit([task("b"), task("b")])

    hold = take(store, "a")
    with pytest.raises(TaskExists):
        store.submit([task("a")])
    store.file([(hold, record_of(hold, TaskState.COMPLETED, Outcome.SUCCEEDED))])
    with pytest.raises(TaskExists):
        store.submit([task("a")])


def test_a_claimed_task_is_nobody_elses(store: Store, another: MakeStore) -> None:
    other = another()
    store.submit([task("a")])
    ticket = other.look("a.json")
    assert ticket is not None

    hold = take(store, "a")

    assert hold.attempt == 1
    assert store.where("a") is TaskState.IN_PROGRESS
    assert list(store.pending()) == []
    answer = other.claim([ticket])[0]
    assert isinstance(answer, NotClaimed)
    assert answer.state is TaskState.IN_PROGRESS
    store.release(hold)


def test_what_is_kept_is_there_before_the_task_has_moved(store: Store, another: MakeStore) -> None:
    """And is filed like any other, whether or not something is claimed in between."""
    store.submit([task("a"), task("b"), task("c")])
    first, second = take(store, "a"), take(store, "b")
    filings = [(hold, record_of(hold, TaskState.COMPLETED, Outcome.SUCCEEDED)) for hold in (first, second)]

    assert store.keep(filings[:1]) == [None]
    assert store.where("a") is TaskState.IN_PROGRESS
    third = take(store, "c")
    assert store.keep(filings[1:]) == [None]
    assert store.file(filings) == [None, None]

    for name, (_hold, record) in zip("ab", filings, strict=True):
        assert another().where(name) is TaskState.COMPLETED
        assert another().history(name).record == record
    assert store.where("c") is TaskState.IN_PROGRESS
    store.release(third)


def test_what_came_of_it_is_kept_and_the_task_moved(store: Store) -> None:
    store.submit([task("a")])
    hold = take(store, "a")
    record = record_of(hold, TaskState.FAILED, Outcome.FAILED, failures=3, reason="why")

    assert store.file([(hold, record)]) == [None]

    assert store.where("a") is TaskState.FAILED
    history = store.history("a")
    assert history.record == record
    assert (history.attempts, history.failures, history.claimed) == (1, 3, None)


def test_attempts_and_failures_go_on_after_a_requeue(store: Store) -> None:
    store.submit([task("a")])
    hold = take(store, "a")
    again = record_of(hold, TaskState.PENDING, Outcome.FAILED, failures=1, retry_at=5.0, limited=2)
    store.file([(hold, again)])

    ticket = store.look("a.json")
    assert ticket is not None
    assert ticket.not_before == 5.0
    hold = take(store, "a")

    assert (hold.attempt, hold.failures, hold.limited) == (2, 1, 2)
    store.release(hold)


def test_retry_forgets_failures(store: Any) -> None:
    store.submit([task("a")])
    hold = take(store, "a")
    store.file([(hold, record_of(hold, TaskState.FAILED, Outcome.FAILED, failures=3))])

    assert store.retry("a") is TaskState.FAILED

    assert store.where("a") is TaskState.PENDING
    hold = take(store, "a")
    assert (hold.attempt, hold.failures) == (2, 0)
    store.release(hold)
    with pytest.raises(LookupError):
        store.retry("nobody")


def test_a_task_whose_processor_is_gone_is_an_orphan(store: Any, another: MakeStore) -> None:
    store.lock(shared=False)
    store.submit([task("a"), task("b")])
    hold = take(store, "a")
    assert list(store.orphans()) == [], "it is ours"
    if isinstance(store, DirectoryStore):
        store.release(hold)
        store.close()
        other = another()
    else:
        other = store.die()
    other.lock(shared=False)

    orphan = next(iter(other.orphans()))

    assert (orphan.hold.id, orphan.hold.attempt, orphan.alive) == ("a", 1, False)
    assert orphan.history.claimed is not None
    assert orphan.history.record is None
    assert list(other.orphans()) == [], "it was taken"
    other.finish_orphan(orphan.hold, TaskState.PENDING)
    assert other.where("a") is TaskState.PENDING


def test_one_processor_or_several_that_share(another: MakeStore) -> None:
    first, second, third = another(), another(), another()
    first.lock(shared=False)
    with pytest.raises(QueueBusy):
        second.lock(shared=False)
    with pytest.raises(QueueBusy):
        second.lock(shared=True)
    first.unlock()

    second.lock(shared=True)
    third.lock(shared=True)
    with pytest.raises(QueueBusy):
        first.lock(shared=False)
    second.unlock()
    third.unlock()
    first.lock(shared=False)
    first.unlock()


def test_a_rate_limit_is_remembered(store: Store, another: MakeStore) -> None:
    assert store.pause() is None
    store.note_pause(1234.5, "a")

    assert another().pause() == 1234.5

    store.note_pause(None, "")
    assert another().pause() is None
    assert store.is_well() is None
