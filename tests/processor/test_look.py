"""What a Processor that was not started tells of a queue that another one works on, and hurried stops."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import eventually
from tests.programs import Programs

from fastproc.errors import NoSuchTask
from fastproc.processor import Backoff, Processor, TaskState
from fastproc.processor.disk import Disk


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[tuple[Processor, Processor]]:
    """A Processor that works, and one that only looks."""
    works = Processor(
        tmp_path / "q", durability="none", backoff=Backoff(base=0.01), poll_interval=0.1, grace=30.0
    )
    looks = Processor(tmp_path / "q", durability="none")
    yield works, looks
    works.stop(0.0)
    works.close()
    looks.close()


def test_what_another_one_runs_is_seen(queue: tuple[Processor, Processor]) -> None:
    works, looks = queue
    works.submit(["sh", "-c", "echo ready; exec sleep 60"], id="a", title="long one", priority="high")
    assert looks.get_running_processes_info() == []
    works.start()
    assert eventually(lambda: any(info.last_line for info in looks.get_running_processes_info()), 10)

    (seen,) = looks.get_running_processes_info()
    (known,) = works.get_running_processes_info()

    assert (seen.task_id, seen.pid, seen.attempt) == ("a", known.pid, 1)
    assert (seen.title, seen.priority, seen.last_line, seen.log_bytes) == ("long one", "high", "ready", 6)
    assert seen.log_path == known.log_path
    assert 0 <= seen.elapsed < 30
    assert looks.tasks("in-progress") == ["a"]
    assert looks.tasks(TaskState.PENDING) == []
    assert looks.task("a").title == "long one"


def test_all_attempts_of_a_task_are_told(queue: tuple[Processor, Processor]) -> None:
    works, looks = queue
    works.submit(["sh", "-c", 'test "$FASTPROC_ATTEMPT" = 2 || exit 7'], id="a")
    assert looks.attempts("a") == []
    works.run_until_empty(30)

    first, second = looks.attempts("a")

    assert (first.number, first.outcome, first.exit and first.exit.code) == (1, "failed", 7)
    assert (second.number, second.outcome, second.exit and second.exit.code) == (2, "succeeded", 0)
    assert first.finished_at is not None
    assert first.begun_at <= first.finished_at <= second.begun_at
    assert first.retry_at is not None
    assert first.pid != second.pid
    assert first.log_path is not None
    assert first.log_path.endswith("a.1.log")
    for ask in (looks.attempts, looks.task):
        with pytest.raises(NoSuchTask, match="nobody"):
            ask("nobody")


def test_an_attempt_that_runs_has_no_outcome_yet(queue: tuple[Processor, Processor]) -> None:
    works, looks = queue
    works.submit(["sleep", "60"], id="a")
    works.start()
    assert eventually(lambda: bool(looks.get_running_processes_info()), 10)
    assert eventually(lambda: looks.attempts("a")[0].pid is not None, 10)

    (attempt,) = looks.attempts("a")

    assert (attempt.outcome, attempt.finished_at, attempt.exit) == (None, None, None)
    os.kill(attempt.pid or 0, 0)


def test_a_second_stop_with_less_time_shortens_the_first(
    queue: tuple[Processor, Processor], programs: Programs
) -> None:
    """The first would wait 30 seconds for one that ignores SIGTERM."""
    works, looks = queue
    works.submit(programs.ignores_sigterm(), id="a")
    works.start()
    assert eventually(lambda: any(info.last_line for info in works.get_running_processes_info()), 10)
    began = time.monotonic()
    first = threading.Thread(target=works.stop, args=(60.0,))
    first.start()
    assert eventually(lambda: works._shift is None or works._shift.ending._begun, 10)

    works.stop(0.0)
    first.join(20)

    assert not first.is_alive()
    assert time.monotonic() - began < 20
    result = looks.result("a")
    assert (result.state, result.outcome) == (TaskState.PENDING, "given_back")
    assert result.exit is not None
    assert result.exit.signal == signal.SIGKILL


def test_one_that_is_let_finish_is_given_back_by_a_hurried_stop(
    queue: tuple[Processor, Processor],
) -> None:
    """And does not count as failed."""
    works, looks = queue
    works.submit(["sleep", "60"], id="a")
    works.start()
    assert eventually(lambda: bool(works.list_running_processes()), 10)
    first = threading.Thread(target=works.stop, args=(120.0,), kwargs={"unfinished": "finish"})
    first.start()
    assert eventually(lambda: works._shift is None or works._shift.stopping, 10)

    works.stop(0.0)
    first.join(20)

    assert not first.is_alive()
    assert (looks.result("a").outcome, looks.result("a").failures) == ("given_back", 0)


def test_how_another_one_is_doing_is_seen(tmp_path: Path) -> None:
    """Slots, pause and health come from the Processor itself, and are gone with it."""
    full: list[bool] = []

    class MaybeFull(Disk):
        def create_nameless(self, dir_fd: int, spare_dir_fd: int, spare: str) -> tuple[int, str | None]:
            if full:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().create_nameless(dir_fd, spare_dir_fd, spare)

    with (
        Processor(tmp_path / "q", durability="none", slots=3, poll_interval=0.05, disk=MaybeFull()) as works,
        Processor(tmp_path / "q", durability="none") as looks,
    ):
        assert looks.processors() == []
        works.start()
        assert eventually(lambda: looks.queue_status().slots == 3, 10)
        (seen,) = looks.processors()
        assert (seen.pid, seen.paused, seen.health, seen.shared) == (os.getpid(), False, "ok", False)
        assert looks.queue_status().health == "ok"

        works.set_slots(7)
        works.pause()
        # Shorter than what was said before, and longer: never a mixture.
        assert eventually(lambda: (looks.queue_status().slots, looks.queue_status().paused) == (7, True), 10)
        works.resume()
        assert eventually(lambda: not looks.queue_status().paused, 10)

        full.append(True)
        looks.submit(["true"])
        assert eventually(lambda: looks.queue_status().health == "degraded", 10)
        assert "No space left" in looks.queue_status().causes[0]
        full.clear()
        assert eventually(lambda: looks.queue_status().health == "ok", 10)

        works.stop()
        assert looks.processors() == []
        assert looks.queue_status().health == "ok"
