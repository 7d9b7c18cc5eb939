"""Tasks are run, in order, as often as they need, and what comes of them is told."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import eventually
from tests.processor.conftest import MakeProcessor
from tests.programs import Programs

from fastproc import ExitReason, ProcessManager
from fastproc.errors import NoSuchTask, TaskExists
from fastproc.processor import Processor, TaskState
from fastproc.processor.events import (
    QueueEvent,
    TaskCompleted,
    TaskFailed,
    TaskProgress,
    TaskStarted,
    TaskStatusChanged,
)


def test_a_task_is_run_and_its_result_kept(processor: Processor, queue_dir: Path) -> None:
    task_id = processor.submit(
        ["sh", "-c", "echo out; echo err >&2; cat"], id="a", stdin="in\n", title="first"
    )
    assert task_id == "a"
    assert json.loads((queue_dir / "pending" / "a.json").read_text())["title"] == "first"
    assert processor.result("a").state is TaskState.PENDING

    report = processor.run_until_empty(30)

    assert report
    assert report.completed == ("a",)
    result = processor.result("a")
    assert (result.state, result.attempts, result.outcome) == (TaskState.COMPLETED, 1, "succeeded")
    assert result.exit is not None
    assert result.exit.ok
    assert result.execution is not None
    assert (result.execution.success, result.execution.output) == (True, "out\nerr\nin\n")
    assert result.log_path is not None
    assert Path(result.log_path).read_text() == "out\nerr\nin\n"
    assert result.started_at is not None
    assert result.finished_at is not None
    assert result.started_at <= result.finished_at
    assert (queue_dir / "completed" / "a.json").exists()
    assert list((queue_dir / "in-progress").iterdir()) == []


def test_a_failure_is_tried_again_and_then_a_dead_letter(
    make: MakeProcessor, events: list[QueueEvent]
) -> None:
    processor = make(max_attempts=3, on_event=events.append)
    processor.submit(["sh", "-c", "echo try; exit 7"], id="bad")
    processor.submit(["sh", "-c", "exit 8"], id="once", max_attempts=1)

    report = processor.run_until_empty(30)

    assert not report
    assert sorted(report.failed) == ["bad", "once"]
    result = processor.result("bad")
    assert (result.state, result.attempts, result.failures) == (TaskState.FAILED, 3, 3)
    assert result.exit is not None
    assert result.exit.code == 7
    assert processor.result("once").attempts == 1
    failed = [(e.attempt, e.final) for e in events if isinstance(e, TaskFailed) and e.task_id == "bad"]
    assert failed == [(1, False), (2, False), (3, True)]


def test_a_failed_start_is_a_result_in_words(make: MakeProcessor, tmp_path: Path) -> None:
    processor = make()
    processor.submit(["no-such-program-here"], id="a")
    processor.submit(["true"], id="b", cwd=str(tmp_path / "nowhere"))
    processor.submit({"id": "c", "title": "names no command"})
    processor.submit(["true"], id="d")

    report = processor.run_until_empty(30)

    assert report.completed == ("d",)
    for name, words in (
        ("a", "Failed to start no-such-program-here: "),
        ("b", "Failed to start true: "),
        ("c", "Failed to start c: the task names no command"),
    ):
        result = processor.result(name)
        assert (result.state, result.outcome, result.attempts) == (TaskState.FAILED, "refused", 1)
        assert result.execution is not None
        assert result.execution.error.startswith(words)


def test_urgent_ones_first_and_dependencies_before_all(make: MakeProcessor, tmp_path: Path) -> None:
    processor = make(slots=1)
    order = tmp_path / "order"

    def task(name: str, **fields: object) -> dict[str, object]:
        return {"id": name, "args": ["sh", "-c", f"echo {name} >> {order}"], **fields}

    processor.submit_many(
        [
            task("low", priority="low"),
            task("last", priority="critical", dependencies=["low", "odd"]),
            task("odd", priority="whatever"),
            task("high", priority="high"),
            task("critical", priority="critical"),
        ]
    )
    assert processor.run_until_empty(30)
    assert order.read_text().split() == ["critical", "high", "odd", "low", "last"]


def test_tasks_that_wait_for_what_is_not_there_are_seen_and_hold_up_nobody(processor: Processor) -> None:
    processor.submit(["true"], id="b", dependencies=["a"])
    processor.submit(["true"], id="x", dependencies=["y"])
    processor.submit(["true"], id="y", dependencies=["x"])

    report = processor.run_until_empty(30)

    assert report.empty
    assert not report
    assert report.blocked == {"b": ("a",)}
    assert sorted(report.failed) == ["x", "y"]
    assert "circular" in processor.result("x").reason
    processor.submit(["true"], id="a")
    assert processor.run_until_empty(30).completed == ("a", "b")


def test_a_date_is_waited_for(processor: Processor) -> None:
    import time

    due = time.time() + 0.5
    processor.submit(["date", "+%s.%N"], id="a", not_before=due)
    assert processor.run_until_empty(30)
    execution = processor.result("a").execution
    assert execution is not None
    assert float(execution.output) >= due


def test_one_that_queues_itself_again_is_done_once_per_run(processor: Processor) -> None:
    processor.submit(["true"], id="a", processor_auto_requeue=True)
    report = processor.run_until_empty(30)
    assert (report.completed, report.pending) == (("a",), 1)
    assert processor.result("a").state is TaskState.PENDING


def test_ids_are_unique_for_good(processor: Processor) -> None:
    processor.submit(["true"], id="a")
    with pytest.raises(TaskExists, match="pending already"):
        processor.submit(["true"], id="a")
    processor.run_until_empty(30)
    with pytest.raises(TaskExists, match="completed already"):
        processor.submit_many([{"id": "b", "args": ["true"]}, {"id": "a", "args": ["true"]}])
    assert processor.queue_status().pending == 0, "all or none"
    with pytest.raises(ValueError, match="no task id"):
        processor.submit(["true"], id="../x")
    for ask in (processor.result, processor.task_logs, processor.cancel, processor.retry):
        with pytest.raises(NoSuchTask):
            ask("nobody")


@pytest.mark.parametrize("durability", ["full", "batch"])
def test_very_many_are_submitted_at_once_or_none(
    make: MakeProcessor, queue_dir: Path, durability: str
) -> None:
    """More than there may be descriptors open."""
    processor = make(durability=durability)
    names = [f"t{number:04}" for number in range(2000)]
    assert processor.submit_many({"id": name, "args": ["true"]} for name in names) == names
    with pytest.raises(TaskExists):
        processor.submit_many(
            [{"id": f"u{number}", "args": ["true"]} for number in range(300)]
            + [{"id": "t0007", "args": ["true"]}]
        )
    with pytest.raises(ValueError, match="larger than"):
        processor.submit_many(
            [{"id": f"u{number}", "args": ["true"]} for number in range(300)] + [{"notes": "x" * (1 << 20)}]
        )
    assert processor.queue_status().pending == 2000
    assert list((queue_dir / ".new").iterdir()) == []


def test_two_submitters_of_one_id_are_told_apart(make: MakeProcessor) -> None:
    """The directory decides: of all who submit an id at once exactly one succeeds."""
    processors = [make() for _ in range(4)]
    won: list[str] = []
    barrier = threading.Barrier(4)

    def submit_all(processor: Processor) -> None:
        barrier.wait()
        for number in range(50):
            try:
                won.append(processor.submit(["true"], id=f"t{number}"))
            except TaskExists:
                continue

    threads = [threading.Thread(target=submit_all, args=(processor,)) for processor in processors]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == sorted(f"t{number}" for number in range(50))


def test_a_started_processor_hears_what_others_submit(make: MakeProcessor, queue_dir: Path) -> None:
    processor = make(poll_interval=30)
    processor.start()
    processor.start()
    make().submit(["true"], id="a")
    (queue_dir / "pending" / "b.yaml").write_text("title: by hand\nargs: [echo, hello]\npriority: high\n")
    os.rename(_write(queue_dir / "c.tmp", '{"args": ["true"]}'), queue_dir / "pending" / "c.json")

    assert eventually(lambda: processor.queue_status().completed == 3, 20)
    execution = processor.result("b").execution
    assert execution is not None
    assert execution.output == "hello\n"
    assert processor.stop()


def _write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_without_a_thread_one_pass_at_a_time(processor: Processor) -> None:
    for name in "abcdef":
        processor.submit(["true"], id=name)
    assert processor.process_queue() == 4
    assert len(processor.list_running_processes()) <= 4

    def passes() -> bool:
        processor.process_queue()
        return processor.queue_status().completed == 6

    assert eventually(passes, 20)
    assert processor.process_queue() == 0
    processor.stop()


def test_what_runs_can_be_looked_at(
    make: MakeProcessor, programs: Programs, events: list[QueueEvent]
) -> None:
    processor = make(on_event=events.append)
    processor.start()
    processor.submit(programs.ready_then_sleep(60), id="a", title="sleeper", priority="high")
    assert eventually(lambda: any(info.last_line for info in processor.get_running_processes_info()), 20)

    (info,) = processor.get_running_processes_info()

    assert (info.task_id, info.attempt, info.title, info.priority) == ("a", 1, "sleeper", "high")
    assert info.last_line == f"ready {info.pid}"
    assert info.elapsed >= 0
    assert processor.list_running_processes() == ["a"]
    assert processor.is_task_running("a")
    assert not processor.is_task_running("b")
    status = processor.queue_status()
    assert (status.in_progress, status.running, status.slots, status.health) == (1, ("a",), 4, "ok")
    assert eventually(lambda: any(isinstance(event, TaskProgress) for event in events), 20)
    processor.stop()
    assert [type(event) for event in events if isinstance(event, (TaskStarted, TaskCompleted))] == [
        TaskStarted
    ]


def test_a_given_manager_is_used_and_left_open(make: MakeProcessor, manager: ProcessManager) -> None:
    other = manager.start_process("other", ["sleep", "60"])
    processor = make(manager=manager)
    processor.submit(["true"], id="a")
    processor.submit(["sleep", "60"], id="b")
    processor.start()
    assert eventually(lambda: processor.queue_status().completed == 1, 20)
    assert manager.is_active("b")

    report = processor.stop(5)

    assert report
    assert [result.task_id for result in report.results] == ["b"]
    assert manager.active() == [other], "others are left alone"
    assert processor.result("b").state is TaskState.PENDING


def test_an_id_that_the_given_manager_uses_is_waited_for(
    make: MakeProcessor, manager: ProcessManager
) -> None:
    """It is not the task's fault: nothing counts."""
    processor = make(manager=manager)
    other = manager.start_process("a", ["sleep", "60"])
    processor.submit(["true"], id="a", max_attempts=1)
    processor.start()
    assert eventually(lambda: processor.result("a").attempts >= 2, 20)
    other.terminate(0)
    assert eventually(lambda: processor.result("a").state is TaskState.COMPLETED, 20)
    processor.stop()


def test_jobs_get_their_streams_and_the_lock_and_nothing_else(
    make: MakeProcessor, programs: Programs
) -> None:
    processor = make()
    processor.submit(programs.prints_fds(), id="a")
    assert processor.run_until_empty(30)
    execution = processor.result("a").execution
    assert execution is not None
    found = {int(fd): target for fd, target in json.loads(execution.output).items()}
    log = processor.result("a").log_path
    assert (found.pop(0), found.pop(1), found.pop(2)) == ("/dev/null", log, log)
    ((_fd, lock),) = found.items()
    assert lock.endswith("in-progress/a.json"), "the task's own file, which is its lock"


def test_secrets_of_our_environment_stay_ours(make: MakeProcessor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "canary-canary")
    processor = make()
    processor.submit(["env"], id="a", env={"MINE": "1"})
    assert processor.run_until_empty(30)
    execution = processor.result("a").execution
    assert execution is not None
    assert "canary" not in execution.output
    assert "MINE=1" in execution.output


def test_the_status_of_a_killed_job_is_true(make: MakeProcessor) -> None:
    processor = make(max_attempts=1)
    processor.submit(["sh", "-c", "kill -9 $$"], id="a")
    processor.run_until_empty(30)
    status = processor.result("a").exit
    assert status is not None
    assert (status.reason, status.signal) == (ExitReason.SIGNALED, 9)


def test_observers_that_fail_or_stop_the_processor_do_no_harm(make: MakeProcessor) -> None:
    stopped = threading.Event()

    def observe(event: QueueEvent) -> None:
        if isinstance(event, TaskCompleted):
            processor.stop()
            stopped.set()
        raise RuntimeError("an observer fails")

    processor = make(on_event=observe)
    processor.submit(["true"], id="a")
    processor.start()
    assert stopped.wait(20)
    assert eventually(lambda: not processor.queue_status().processing, 20)
    assert processor.result("a").state is TaskState.COMPLETED


def test_wrong_settings_are_refused_before_anything_exists(tmp_path: Path) -> None:
    for settings in (
        {"slots": -1},
        {"slots": True},
        {"max_attempts": 0},
        {"task_timeout": 0},
        {"idle_timeout": "1"},
        {"poll_interval": 0},
        {"durability": "some"},
        {"recovery": "hope"},
        {"on_event": 5},
    ):
        with pytest.raises((TypeError, ValueError), match=next(iter(settings))):
            Processor(tmp_path / "q", **settings)
    assert not (tmp_path / "q").exists()


def test_a_storm_of_failures_is_kept_to_the_limit_of_starts(
    make: MakeProcessor,
) -> None:
    """All tasks fail at once and come back at once: so many starts a second, and no more."""
    processor = make(slots=50, starts_per_second=20.0, max_attempts=2)
    names = processor.submit_many([["false"]] * 20)

    report = processor.run_until_empty(60)

    assert report.failed_count == 20
    begun = sorted(attempt.begun_at for name in names for attempt in processor.attempts(name))
    assert len(begun) == 40
    # Those of the first second at once, the others one by one; the first may be late on a busy machine.
    assert begun[-1] - begun[0] >= 0.5 * (40 - 20) / 20
    with pytest.raises(ValueError, match="starts_per_second"):
        make(starts_per_second=0)


def test_a_move_tells_what_came_of_the_attempt(make: MakeProcessor, events: list[QueueEvent]) -> None:
    processor = make(max_attempts=2, on_event=events.append)
    processor.submit(["true"], id="good")
    processor.submit(["false"], id="bad")
    processor.run_until_empty(30)

    moves = [event for event in events if isinstance(event, TaskStatusChanged)]

    told = {(move.task_id, str(move.after), move.outcome) for move in moves}
    assert told == {
        ("good", "in-progress", None),
        ("good", "completed", "succeeded"),
        ("bad", "in-progress", None),
        ("bad", "pending", "failed"),
        ("bad", "failed", "failed"),
    }


def test_metrics_name_no_task_however_many_there_are(make: MakeProcessor) -> None:
    processor = make(slots=4)
    names = set(dir(processor.metrics())) | set(processor.metrics().tasks) | set(processor.metrics().attempts)
    processor.submit_many({"id": f"secret-{number}", "args": ["true"]} for number in range(100))
    processor.submit(["false"], id="secret-bad", max_attempts=1)
    processor.run_until_empty(60)

    found = processor.metrics()

    assert found.tasks["completed"] == found.attempts["succeeded"] == 100
    assert (found.tasks["failed"], found.attempts["failed"], found.starts) == (1, 1, 101)
    assert names == set(dir(found)) | set(found.tasks) | set(found.attempts)
    assert "secret" not in repr(found)


def test_ctrl_c_amid_starts_leaves_no_task_behind(make: MakeProcessor) -> None:
    """It comes out of the call; what was started is known, what was not is started in the next pass."""

    class Interrupted(ProcessManager):
        left = 3

        def start_process(self, *args: Any, **options: Any) -> Any:
            type(self).left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
            return super().start_process(*args, **options)

    with Interrupted() as manager:
        processor = make(slots=8, manager=manager)
        processor.submit_many([["true"]] * 8)
        with pytest.raises(KeyboardInterrupt):
            processor.run_until_empty(30)
        report = processor.run_until_empty(30)
        assert report.empty
        assert processor.queue_status().completed == 8
        assert processor.metrics().starts >= 8
