"""Very many files: tasks that cost no scan while they wait, bad ones at once, more news than are kept."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import eventually
from tests.processor.conftest import MakeProcessor

from fastproc.errors import QueueBusy, TaskExists
from fastproc.processor import Processor
from fastproc.processor.disk import Disk
from fastproc.processor.machine import Machine
from fastproc.processor.store_dir import DirectoryStore


class Counting(Disk):
    """Counts how often a directory is read as a whole, a file is opened, and a name is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.listings = 0
        self.openings = 0
        self.questions = 0

    def list_dir(self, dir_fd: int) -> Iterator[str]:
        self.listings += 1
        return super().list_dir(dir_fd)

    def open_file(self, name: str, dir_fd: int, flags: int = os.O_RDONLY) -> int:
        self.openings += 1
        return super().open_file(name, dir_fd, flags)

    def exists(self, name: str, dir_fd: int) -> bool:
        self.questions += 1
        return super().exists(name, dir_fd)


@pytest.fixture
def queue(quick_place: Path) -> Path:
    return quick_place / "q"


def passes(processor: Processor, count: int) -> None:
    """Have it look at what there is to do, so many times, each as if its time had come."""
    shift = processor._shift
    assert shift is not None
    for _ in range(count):
        shift._look_at = 0.0
        shift.make_pass()


def test_what_waits_costs_no_scan_and_no_look_while_nothing_happens(queue: Path) -> None:
    """Names and dates are kept in memory, and the kernel tells what arrives."""
    disk = Counting()
    with contextlib.closing(Processor(queue, slots=0, durability="none", disk=disk)) as processor:
        processor.submit_many({"id": f"task-{number}", "args": ["true"]} for number in range(3000))
        processor.process_queue()
        assert len(processor._shift.state.entries) == 3000  # type: ignore[union-attr]

        before = disk.listings, disk.openings
        passes(processor, 50)

        assert (disk.listings, disk.openings) == before


def test_nobody_is_asked_for_an_id_that_was_made_up(queue: Path) -> None:
    """That of another is looked for in all states, under each suffix."""
    disk = Counting()
    with contextlib.closing(Processor(queue, durability="none", disk=disk)) as processor:
        names = processor.submit_many(["true"] for _ in range(50))
        assert (len(set(names)), disk.questions) == (50, 0)

        processor.submit(["true"])
        assert disk.questions == 0

        processor.submit({"id": "mine", "args": ["true"]})
        assert disk.questions >= 15
        with pytest.raises(TaskExists):
            processor.submit(["true"], id=names[0])


def test_starting_a_task_costs_the_same_however_many_wait(queue: Path) -> None:
    """Each claim opens its own files, and reads no directory."""
    disk = Counting()
    with contextlib.closing(Processor(queue, slots=1, durability="none", disk=disk)) as processor:
        processor.submit_many({"id": f"task-{number}", "args": ["true"]} for number in range(2000))
        processor.process_queue()

        listings, openings, done = disk.listings, disk.openings, 0
        while done < 20:
            processor._shift.make_pass()  # type: ignore[union-attr]
            done = processor._shift.attempts  # type: ignore[union-attr]

        assert disk.listings == listings
        assert (disk.openings - openings) / done < 15
        processor.stop()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("count", [1000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_very_many_bad_files_at_once_hold_up_nobody(queue: Path, count: int) -> None:
    """Each is put away with its reason, in one pass, and the good one among them is run."""
    with contextlib.closing(Processor(queue, durability="none")) as processor:
        pending = queue / "pending"
        for number in range(count):
            (pending / f"bad-{number}.yaml").write_bytes(
                [b"", b"\xff\xfe", b"a: [", b"- x", b"x: &a *a"][number % 5]
            )
        processor.submit(["true"], id="good")

        report = processor.run_until_empty(200)

        assert report.completed == ("good",)
        status = processor.queue_status()
        assert (status.quarantine, status.pending, status.health) == (count, 0, "ok")
    assert len(list((queue / "quarantine").glob("*.why"))) == count


def test_names_in_any_encoding_are_put_away(queue: Path) -> None:
    """What is no text, too long for a name with a suffix, or looks like a path or an option."""
    names = [
        b"\xff\xfe.yaml",
        "é".encode("latin-1") + b".json",
        b"x" * 251 + b".yml",
        b"..yaml",
        b"--.json",
        b"a b.json",
    ]
    names += [
        "ａ.yaml".encode(),
        "a\u202egnp.yaml".encode(),
        b"-rf",
        b"*",
        b"a.json.json",
        b"\\..\\x.yaml",
        b"CON.json ",
    ]
    with contextlib.closing(Processor(queue, durability="none")) as processor:
        for name in names:
            with open(os.path.join(os.fsencode(queue / "pending"), name), "w") as file:
                file.write('{"args": ["true"]}')
        processor.submit(["true"], id="good")
        assert processor.run_until_empty(20).completed == ("good",)
        hidden = [name for name in names if name.startswith(b".")]
        assert processor.queue_status().quarantine == len(names) - len(hidden)


def test_when_more_arrives_than_the_kernel_keeps_nothing_is_missed(queue: Path) -> None:
    """The directory is read as a whole then."""
    kept = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if kept > 40_000:
        pytest.skip(f"{kept} events are kept here")
    disk = Counting()
    with contextlib.closing(Processor(queue, durability="none", disk=disk)) as processor:
        processor.process_queue()
        before = disk.listings
        noise = [queue / "pending" / f".{number}" for number in range(2)]
        # The same event twice in a row is kept once: so two names in turn, each created and closed.
        for number in range(kept // 2 + 10):
            noise[number % 2].write_bytes(b"")
            noise[number % 2].unlink()
        (queue / "pending/late.json").write_text('{"args": ["true"]}')

        assert eventually(lambda: _pass_and_count(processor) == 1, 20)
        assert disk.listings > before, "nothing was lost, so nothing is shown"


def _pass_and_count(processor: Processor) -> int:
    assert processor._shift is not None
    processor._shift.make_pass()
    return processor._shift.attempts


def test_another_machine_is_refused_where_locks_may_not_reach_it(
    queue: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a network file system what the other one has written down is believed, not a lock."""
    monkeypatch.setattr(Machine, "is_remote", lambda _self, _fd: True)
    one, other = DirectoryStore(queue, durability="none"), DirectoryStore(queue, durability="none")
    other.presence.machine = dataclasses.replace(other.machine, machine="another", host="elsewhere")
    try:
        one.lock(shared=True)
        with pytest.raises(QueueBusy, match="remove its file"):
            other.lock(shared=True)
        one.unlock()
        other.lock(shared=True)
    finally:
        one.close()
        other.close()


def test_memory_does_not_grow_with_what_has_been_done(make: MakeProcessor) -> None:
    """After many tasks nothing of them is kept but counts and the last names."""
    processor = make(slots=4)
    processor.process_queue()
    processor.submit_many({"id": f"task-{number}", "args": ["true"]} for number in range(200))
    assert processor.run_until_empty(50).completed_count == 200
    shift = processor._shift
    assert shift is not None
    assert shift.attempts == 200
    kept = (shift.holds, shift._results, shift.runs.live, shift.state.entries, shift.state.busy)
    assert [len(things) for things in kept] == [0] * len(kept)
    heaps = (shift.state.ready, shift.state.delayed, shift.state.waiters, shift.state.blockers)
    assert [len(things) for things in heaps] == [0] * len(heaps)
    assert processor._store._held == {}
