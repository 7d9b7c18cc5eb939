"""What is on the disk before what: several files at once, and outcomes together with the next claims."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fastproc.processor import Processor
from fastproc.processor.disk import Disk
from fastproc.processor.events import QueueEvent


class Syncing(Disk):
    """Syncs numbers instead of descriptors: notes which, and in which thread, and can be told to fail."""

    def __init__(self) -> None:
        super().__init__()
        self.over: list[int] = []
        self.threads: set[str] = set()
        self.began = threading.Event()
        self.gate = threading.Event()
        self.gate.set()

    def sync(self, fd: int) -> None:
        mine = threading.current_thread() is threading.main_thread()
        self.threads.add(threading.current_thread().name)
        if not mine:
            self.began.set()
            assert self.gate.wait(20)
        elif not self.gate.is_set():
            assert self.began.wait(20)
            threading.Timer(0.05, self.gate.set).start()
            raise KeyboardInterrupt
        if fd < 0:
            raise OSError(errno.EIO, "it cannot be written")
        self.over.append(fd)


def helpers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("fastproc-sync")]


@pytest.mark.parametrize("count", [0, 1, 2, 5, 40])
def test_each_is_synced_once(count: int) -> None:
    disk = Syncing()
    for _ in range(20):
        disk.over.clear()
        disk.sync_all(range(count))
        assert sorted(disk.over) == list(range(count))
    disk.rest()
    assert helpers() == []


def test_an_error_comes_when_all_are_over() -> None:
    disk = Syncing()
    for _ in range(20):
        disk.over.clear()
        with pytest.raises(OSError, match="cannot be written"):
            disk.sync_all([1, 2, -1, 3, -2, 4, 5])
        assert sorted(disk.over) == [1, 2, 3, 4, 5]
    disk.rest()
    assert helpers() == []


def test_ctrl_c_comes_when_those_that_were_begun_are_over() -> None:
    """Whoever closes what is synced does so afterwards."""
    disk = Syncing()
    disk.gate.clear()
    with pytest.raises(KeyboardInterrupt):
        disk.sync_all([1, 2, 3])

    assert disk.gate.is_set()
    assert disk.over, "one was begun by a helper, and waited for"
    disk.over.clear()
    disk.sync_all([4, 5, 6])
    assert sorted(disk.over) == [4, 5, 6]
    disk.rest()


def test_helpers_go_with_the_disk_that_nobody_has_put_to_rest() -> None:
    disk = Syncing()
    disk.sync_all([1, 2, 3])
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("fastproc-sync")]
    assert threads
    del disk
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()


# ---- the order of a queue ----


class Noting(Disk):
    """Notes what gets a name and what is synced, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[str] = []

    def publish(self, fd: int, spare: str | None, spare_dir_fd: int, name: str, dir_fd: int) -> None:
        super().publish(fd, spare, spare_dir_fd, name, dir_fd)
        self.notes.append(f"name {_called(dir_fd)}/{name}")

    def rename_new(self, name: str, dir_fd: int, new_name: str, new_dir_fd: int) -> None:
        super().rename_new(name, dir_fd, new_name, new_dir_fd)
        self.notes.append(f"name {_called(new_dir_fd)}/{new_name}")

    def sync_all(self, fds: Sequence[int]) -> None:
        super().sync_all(fds)
        self.notes += [f"sync {_called(fd)}" for fd in fds]


def _called(fd: int) -> str:
    return os.path.basename(os.readlink(f"/proc/self/fd/{fd}"))


def in_order(notes: list[str], *wanted: str) -> bool:
    """Whether all of these are there, each after the one before."""
    left = iter(notes)
    return all(note in left for note in wanted)


def run_two(queue: Path, **settings: Any) -> list[str]:
    """What is done for two tasks in one slot, from the end of the first to the start of the second and on."""
    disk = Noting()

    def heard(event: QueueEvent) -> None:
        if event.kind in ("task_started", "task_completed"):
            disk.notes.append(f"{event.kind} {event.task_id}")

    queued = Processor(queue, slots=1, disk=disk, on_event=heard, **settings)
    with contextlib.closing(queued) as processor:
        processor.submit_many({"id": name, "args": ["true"]} for name in "ab")
        assert processor.run_until_empty(60).completed == ("a", "b")
    return disk.notes[disk.notes.index("task_started a") :]


def test_an_outcome_is_durable_before_anything_is_started_in_its_slot(tmp_path: Path) -> None:
    """It shares the waiting of the claim, and the task is filed while the next one runs."""
    notes = run_two(tmp_path / "q", durability="batch")

    assert in_order(notes, "name results/a.1.json", "sync results", "task_started b", "name completed/a.json")
    assert in_order(notes, "name in-progress/b.json", "sync in-progress", "task_started b")
    assert in_order(notes, "name completed/a.json", "sync completed", "task_completed a")
    assert in_order(notes, "name results/b.1.json", "sync results", "name completed/b.json")


def test_with_full_durability_each_step_is_over_before_the_next(tmp_path: Path) -> None:
    notes = run_two(tmp_path / "q", durability="full")

    steps = ("name results/a.1.json", "sync results", "name completed/a.json", "sync completed")
    assert in_order(notes, *steps, "task_completed a", "name in-progress/b.json", "task_started b")


def test_a_claim_that_cannot_be_made_durable_leaves_the_outcome_to_be_filed(tmp_path: Path) -> None:
    """What the failed fsync(2) has left is synced anew, and told only then."""

    class Failing(Noting):
        failures = 0

        def sync_all(self, fds: Sequence[int]) -> None:
            names = [_called(fd) for fd in fds]
            if "results" in names and "attempts" in names and not self.failures:
                self.failures += 1
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            super().sync_all(fds)

    disk = Failing()
    told: list[str] = []

    def heard(event: QueueEvent) -> None:
        if event.kind == "task_completed":
            told.append(event.task_id)
            disk.notes.append(f"told {event.task_id}")

    queued = Processor(
        tmp_path / "q", slots=1, durability="batch", disk=disk, on_event=heard, poll_interval=0.05
    )
    with contextlib.closing(queued) as processor:
        processor.submit_many({"id": name, "args": ["true"]} for name in "ab")
        assert processor.run_until_empty(60).completed == ("a", "b")

    assert disk.failures == 1
    assert told == ["a", "b"]
    since = disk.notes[disk.notes.index("name results/a.1.json") :]
    assert in_order(since, "sync results", "name completed/a.json", "sync completed", "told a")
