"""A full disk, a read-only one, one that fails: claiming stops, supervision goes on, nothing is lost."""

from __future__ import annotations

import errno
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import eventually
from tests.processor.conftest import MakeProcessor
from tests.processor.doomed import Doomed

from fastproc.processor import Processor, TaskState
from fastproc.processor.disk import Disk
from fastproc.processor.events import HealthChanged, QueueEvent


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    path = tmp_path / "disk"
    path.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", path], capture_output=True, check=False
    )
    if made.returncode != 0:
        pytest.skip(f"cannot mount a tmpfs: {made.stderr.decode().strip()}")
    yield path
    subprocess.run(["umount", "-l", path], check=False)


def fill(path: Path) -> Path:
    """Use up all that is left."""
    ballast = path / "ballast"
    with open(ballast, "wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            pass
    return ballast


def test_one_that_came_when_the_disk_was_full_is_seen_and_not_called_healthy(
    make: MakeProcessor, small_disk: Path
) -> None:
    """What it cannot write of itself its name tells: which process it is."""
    processor, looks = (make(queue_dir=small_disk / "q") for _ in range(2))
    processor.submit(["true"], id="a")
    ballast = fill(small_disk)
    processor.start()

    assert eventually(lambda: looks.queue_status().health == "degraded", 10)
    (seen,) = looks.processors()
    assert seen.pid == os.getpid()
    assert seen.host == looks._store.presence.machine.host
    assert 0 <= time.time() - seen.started_at < 60
    assert "disk" in seen.causes[0]

    ballast.unlink()
    assert eventually(lambda: looks.queue_status().health == "ok", 20)
    assert looks.processors()[0].slots > 0


def test_on_a_full_disk_what_ends_is_kept_in_memory_and_filed_when_there_is_room(
    make: MakeProcessor, small_disk: Path, events: list[QueueEvent]
) -> None:
    processor = make(queue_dir=small_disk / "q", slots=1, on_event=events.append)
    processor.start()
    processor.submit(["sh", "-c", "sleep 0.5; exit 0"], id="a")
    processor.submit(["true"], id="b")
    assert eventually(lambda: processor.is_task_running("a"), 20)
    ballast = fill(small_disk)

    with pytest.raises(OSError, match="No space left"):
        processor.submit(["true"], id="c", notes="x" * 10_000)
    assert eventually(lambda: processor.queue_status().health == "degraded", 20)

    status = processor.queue_status()
    assert "No space left" in status.causes[0]
    assert (status.pending, status.in_progress, status.completed) == (1, 1, 0)
    assert processor.result("a").state is TaskState.IN_PROGRESS, "never completed without a durable result"
    ballast.unlink()
    assert eventually(lambda: processor.queue_status().completed == 2, 20)
    assert processor.queue_status().health == "ok"
    assert [event.health for event in events if isinstance(event, HealthChanged)] == ["degraded", "ok"]
    assert processor.result("a").attempts == 1
    assert os.listdir(small_disk / "q" / "pending") == []


def test_with_a_full_disk_at_claim_the_task_stays_pending_and_counts_nothing(
    make: MakeProcessor, small_disk: Path
) -> None:
    processor = make(queue_dir=small_disk / "q")
    processor.submit(["true"], id="a", max_attempts=1)
    ballast = fill(small_disk)
    processor.start()
    assert eventually(lambda: processor.queue_status().health == "degraded", 20)
    assert processor.result("a").state is TaskState.PENDING
    ballast.unlink()
    assert eventually(lambda: processor.queue_status().completed == 1, 20)
    assert processor.result("a").failures == 0


def test_on_a_read_only_disk_supervision_goes_on(make: MakeProcessor, small_disk: Path) -> None:
    processor = make(queue_dir=small_disk / "q", slots=1)
    processor.start()
    # A descriptor open for writing forbids to remount, so this one's log is no file of that disk.
    processor.submit(["sleep", "0.3"], id="a")
    processor.submit(["true"], id="b")
    assert eventually(lambda: processor.is_task_running("a"), 20)
    subprocess.run(["mount", "--bind", small_disk, small_disk], check=True)
    try:
        fault: list[OSError | None] = [OSError(errno.EROFS, os.strerror(errno.EROFS))]
        processor._store.place.disk = Failing(lambda _name: fault[0])  # type: ignore[assignment]
        assert eventually(lambda: processor.queue_status().health == "degraded", 20)
        assert "Read-only" in processor.queue_status().causes[0]
        assert eventually(lambda: not processor.is_task_running("a"), 20)
        assert processor.queue_status().completed == 0
        fault[0] = None
        assert eventually(lambda: processor.queue_status().completed == 2, 20)
    finally:
        subprocess.run(["umount", "-l", small_disk], check=True)


class Failing(Disk):
    """A disk whose writing calls fail when the test says so."""

    __slots__ = ("_fault", "calls", "opens_fail")

    def __init__(self, fault: Callable[[str], OSError | None]) -> None:
        super().__init__()
        self._fault = fault
        self.calls: list[str] = []
        self.opens_fail = False

    def open_file(self, name: str, dir_fd: int, flags: int = os.O_RDONLY) -> int:
        fault = self._fault("open_file") if self.opens_fail and flags & (os.O_WRONLY | os.O_RDWR) else None
        if fault is not None:
            raise fault
        return super().open_file(name, dir_fd, flags)

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name not in _WRITES:
            return found

        def call(*args: Any, **options: Any) -> Any:
            self.calls.append(name)
            fault = self._fault(name)
            if fault is not None:
                raise fault
            return found(*args, **options)

        return call


_WRITES = frozenset(
    {
        "create_nameless",
        "publish",
        "write",
        "rename_new",
        "replace",
        "unlink",
        "sync",
        "stamp",
        "begin_write_back",
    }
)


def run_with_faults(queue_dir: Path, fault: Callable[[str], OSError | None]) -> tuple[Processor, Failing]:
    # Made before: a directory that cannot be made is an error of the constructor.
    Processor(queue_dir).close()
    disk = Failing(fault)
    return Processor(queue_dir, durability="batch", poll_interval=0.05, disk=disk), disk


def test_whichever_call_fails_once_the_task_is_done_in_the_end(tmp_path: Path) -> None:
    """EIO at the first, second, third, ... writing call of one submit-claim-run-finish cycle."""
    with run_with_faults(tmp_path / "q", lambda _name: None)[0] as processor:
        processor.submit(["true"], id="a")
        assert processor.run_until_empty(20)
        calls = len(processor._store.place.disk.calls)  # type: ignore[attr-defined]
    assert calls > 10
    for number in range(calls):
        left = [number]

        def fault(_name: str, left: list[int] = left) -> OSError | None:
            left[0] -= 1
            return OSError(errno.EIO, os.strerror(errno.EIO)) if left[0] == -1 else None

        directory = tmp_path / f"q{number}"
        processor, _disk = run_with_faults(directory, fault)
        with processor:
            try:
                processor.submit(["true"], id="a")
            except OSError:
                assert list((directory / "pending").iterdir()) == [], "a failed submit leaves nothing"
                processor.submit(["true"], id="a")
            report = processor.run_until_empty(20)
        assert report.completed == ("a",), f"call {number}"
        result = processor.result("a")
        assert (result.state, result.failures) == (TaskState.COMPLETED, 0)
        processor.close()


def test_an_fsync_that_failed_is_not_believed_the_second_time(tmp_path: Path) -> None:
    """The kernel may have dropped what it could not write, and say yes next time: a new file is written."""
    written: list[bytes] = []

    class Gate(Disk):
        def write(self, fd: int, content: bytes) -> None:
            if b'"outcome"' in content:
                written.append(content)
            super().write(fd, content)

        def sync(self, fd: int) -> None:
            if len(written) == 1 and os.path.isfile(f"/proc/self/fd/{fd}"):
                written.append(b"")
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            super().sync(fd)

    with Processor(tmp_path / "q", durability="batch", poll_interval=0.05, disk=Gate()) as processor:
        processor.submit(["true"], id="a")
        assert processor.run_until_empty(20)
    first, _failed, second = written
    assert b'"succeeded"' in first
    assert b'"succeeded"' in second


def test_where_files_without_names_and_no_replace_are_not_to_be_had(tmp_path: Path) -> None:
    """As on NFS, or an old kernel: link and unlink instead."""
    disk = Disk()
    disk._nameless = disk._noreplace = False
    with Processor(tmp_path / "q", durability="full", disk=disk) as processor:
        processor.submit(["true"], id="a")
        with pytest.raises(ValueError, match="pending already"):
            processor.submit(["true"], id="a")
        assert processor.run_until_empty(20)
    assert list((tmp_path / "q" / ".new").iterdir()) == []


def test_a_stop_does_not_wait_long_for_a_disk_that_is_full(make: MakeProcessor, small_disk: Path) -> None:
    """What came of a run cannot be kept then, and the next Processor says that nobody knows it."""
    processor = make(queue_dir=small_disk / "q", slots=1, durability="full")
    processor.submit(["sleep", "60"], id="a")
    processor.start()
    assert eventually(lambda: processor.is_task_running("a"), 20)
    ballast = fill(small_disk)
    began = time.monotonic()

    processor.stop(30)

    assert time.monotonic() - began < 15
    ballast.unlink()
    again = make(queue_dir=small_disk / "q")
    assert again.result("a").state is TaskState.IN_PROGRESS
    again.start()
    assert eventually(lambda: again.result("a").attempts == 2, 20)
    assert again.attempts("a")[0].outcome == "lost"


def test_on_a_read_only_disk_a_start_finds_what_runs_and_says_why_it_does_no_more(
    make: MakeProcessor, queue_dir: Path
) -> None:
    """An earlier Processor has died there; the next one is degraded, and goes on when it can."""
    with Doomed(queue_dir, slots=1) as doomed:
        submitter = make()
        submitter.submit(["sleep", "60"], id="a")
        submitter.submit(["true"], id="b")
        assert eventually(lambda: submitter.get_running_processes_info() != [], 20)
        doomed.kill()
    fault: list[OSError | None] = [OSError(errno.EROFS, os.strerror(errno.EROFS))]
    disk = Failing(lambda _name: fault[0])
    disk.opens_fail = True
    processor = make(disk=disk, poll_interval=0.05)

    processor.start()

    status = processor.queue_status()
    assert status.health == "degraded"
    assert "Read-only" in status.causes[0]
    assert processor.result("a").state is TaskState.IN_PROGRESS
    fault[0] = None
    assert eventually(lambda: processor.result("b").state is TaskState.COMPLETED, 20)
    assert eventually(lambda: processor.result("a").attempts == 2, 20)
    assert eventually(lambda: processor.queue_status().health == "ok", 20)
