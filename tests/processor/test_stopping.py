"""Stop, pause, cancel, terminate, retry: at any moment, from anywhere, in bounded time."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from tests.conftest import eventually
from tests.processor.conftest import Journal, MakeProcessor, deeds
from tests.programs import Programs

from fastproc import ExitReason, NotActive
from fastproc.errors import QueueBusy
from fastproc.processor import AgentExecutor, TaskState
from fastproc.processor.events import QueueEvent, TaskStatusChanged


@pytest.mark.parametrize(
    ("unfinished", "state", "outcome"),
    [("requeue", TaskState.PENDING, "given_back"), ("cancel", TaskState.FAILED, "cancelled")],
)
def test_stop_ends_what_runs_and_gives_it_back_or_finishes_it(
    make: MakeProcessor,
    agent: AgentExecutor,
    journal: Journal,
    unfinished: str,
    state: TaskState,
    outcome: str,
) -> None:
    processor = make(executor=agent, slots=4)
    processor.submit(prompt=deeds("hang"), id="plain")
    processor.submit(prompt=deeds("ignore-term", "hang"), id="stubborn")
    processor.submit(prompt=deeds("ignore-term", "spawn", "hang"), id="family")
    processor.start()
    assert eventually(lambda: len(journal.entries("start")) == 3, 20)

    began = time.monotonic()
    report = processor.stop(10, unfinished=unfinished)  # type: ignore[arg-type]

    assert time.monotonic() - began < 10
    assert report
    assert len(report.results) == 3
    assert journal.living() == []
    for name in ("plain", "stubborn", "family"):
        result = processor.result(name)
        assert (result.state, result.outcome, result.failures) == (state, outcome, 0)
    status = processor.queue_status()
    assert (status.running, status.in_progress, status.processing) == ((), 0, False)
    assert processor.stop(10).results == [], "it can be called again"


def test_stop_can_let_finish_what_runs(make: MakeProcessor) -> None:
    processor = make(slots=1)
    processor.submit(["sleep", "0.5"], id="a")
    processor.submit(["true"], id="b")
    processor.start()
    assert eventually(lambda: processor.is_task_running("a"), 20)
    assert processor.stop(20, unfinished="finish")
    assert processor.result("a").state is TaskState.COMPLETED
    assert processor.result("b").state is TaskState.PENDING, "nothing new is started"


def test_a_stopped_processor_can_be_started_again(make: MakeProcessor) -> None:
    processor = make()
    for number in range(3):
        processor.submit(["sleep", "60"], id=f"t{number}")
        processor.start()
        assert eventually(lambda: len(processor.list_running_processes()) > 0, 20)
        processor.stop()
    assert processor.queue_status().pending == 3


def test_stops_from_many_threads_and_during_a_start_come_to_an_end(make: MakeProcessor) -> None:
    processor = make()
    processor.submit_many([{"id": f"t{number}", "args": ["sleep", "0.01"]} for number in range(40)])

    def play() -> None:
        for _ in range(5):
            processor.start()
            processor.process_queue()
            processor.stop()

    threads = [threading.Thread(target=play) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(50)
        assert not thread.is_alive()
    report = processor.run_until_empty(30)
    assert report.empty
    assert processor.queue_status().completed == 40


def test_leaving_the_block_is_a_stop(make: MakeProcessor, journal: Journal, agent: AgentExecutor) -> None:
    with make(executor=agent) as processor:
        processor.submit(prompt=deeds("hang"), id="a")
        processor.start()
        assert eventually(lambda: journal.living() != [], 20)
    assert journal.living() == []


def test_a_program_that_ends_without_a_stop_gives_back_what_runs(
    make: MakeProcessor, queue_dir: Path
) -> None:
    script = f"""
import time
from fastproc.processor import Processor
processor = Processor({str(queue_dir)!r})
processor.start()
processor.submit(["sleep", "60"], id="a")
while not processor.is_task_running("a"):
    time.sleep(0.01)
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=40)
    result = make().result("a")
    assert (result.state, result.outcome, result.failures) == (TaskState.PENDING, "given_back", 0)


def test_pause_and_resume(make: MakeProcessor) -> None:
    processor = make()
    processor.pause()
    processor.start()
    processor.submit(["true"], id="a")
    assert processor.process_queue() == 0
    assert processor.queue_status().paused
    assert processor.queue_status().paused_until is None
    processor.resume()
    assert eventually(lambda: processor.queue_status().completed == 1, 20)


def test_slots_change_while_it_runs(make: MakeProcessor, programs: Programs) -> None:
    processor = make(slots=3)
    processor.submit_many([{"id": f"t{n}", "args": programs.ready_then_sleep(60)} for n in range(5)])
    processor.start()
    assert eventually(lambda: len(processor.list_running_processes()) == 3, 20)
    processor.set_slots(0)
    processor.cancel(processor.list_running_processes()[0])
    assert eventually(lambda: len(processor.list_running_processes()) == 2, 20)
    processor.set_slots(4)
    assert eventually(lambda: len(processor.list_running_processes()) == 4, 20)


# ---- cancel ----


def test_a_running_task_is_terminated_and_finished_as_cancelled(
    make: MakeProcessor, agent: AgentExecutor, journal: Journal
) -> None:
    processor = make(executor=agent, max_attempts=5)
    processor.start()
    processor.submit(prompt=deeds("ignore-term", "spawn", "hang"), id="a")
    assert eventually(lambda: "child" in str(processor.get_running_processes_info()), 20)

    began = time.monotonic()
    result = processor.terminate_running_process("a")

    assert 0 < time.monotonic() - began < 15
    assert result.stopped
    assert result.escalated
    assert journal.living() == []
    found = processor.result("a")
    assert (found.state, found.outcome, found.attempts) == (TaskState.FAILED, "cancelled", 1)
    with pytest.raises(NotActive):
        processor.terminate_running_process("a")


def test_cancel_of_pending_running_and_finished(make: MakeProcessor) -> None:
    processor = make(slots=1)
    processor.submit(["sleep", "60"], id="running")
    processor.submit(["sleep", "60"], id="pending")
    processor.submit(["true"], id="dependent", dependencies=["pending"])
    processor.start()
    assert eventually(lambda: processor.is_task_running("running"), 20)
    assert processor.cancel("pending")
    assert eventually(lambda: processor.result("pending").state is TaskState.FAILED, 20)
    assert processor.result("pending").outcome == "cancelled"
    assert processor.cancel("running")
    assert eventually(lambda: processor.result("running").state is TaskState.FAILED, 20)
    status = processor.result("running").exit
    assert status is not None
    assert status.reason is ExitReason.CANCELLED
    assert not processor.cancel("running")
    assert eventually(lambda: processor.result("dependent").state is TaskState.FAILED, 20)
    assert "pending has failed" in processor.result("dependent").reason


def test_cancel_without_a_processor(make: MakeProcessor) -> None:
    processor = make()
    processor.submit(["true"], id="a", not_before=time.time() + 1000)
    assert processor.cancel("a")
    result = processor.result("a")
    assert (result.state, result.outcome, result.reason) == (TaskState.FAILED, "cancelled", "cancelled")
    assert not processor.cancel("a")


def test_cancel_through_another_program(make: MakeProcessor, queue_dir: Path) -> None:
    processor, other = make(poll_interval=30), make()
    processor.start()
    processor.submit(["sleep", "60"], id="running")
    assert eventually(lambda: processor.is_task_running("running"), 20)
    assert other.cancel("running")
    assert eventually(lambda: other.result("running").state is TaskState.FAILED, 20)
    assert eventually(lambda: list((queue_dir / ".requests").iterdir()) == [], 20)


# ---- retry ----


def test_a_dead_letter_is_done_again_with_all_its_attempts(make: MakeProcessor, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    processor = make(max_attempts=2)
    processor.submit(["test", "-e", str(flag)], id="a")
    processor.run_until_empty(30)
    assert (processor.result("a").state, processor.result("a").attempts) == (TaskState.FAILED, 2)
    flag.touch()

    processor.retry("a")
    processor.retry("a")

    assert processor.result("a").state is TaskState.PENDING
    assert processor.run_until_empty(30)
    result = processor.result("a")
    assert (result.state, result.attempts, result.failures) == (TaskState.COMPLETED, 3, 0)
    assert [entry.message for entry in processor.task_logs("a") if "begins" in entry.message] == [
        "attempt 1 begins",
        "attempt 2 begins",
        "attempt 3 begins",
    ]


def test_what_was_repaired_in_quarantine_is_taken_back(make: MakeProcessor, queue_dir: Path) -> None:
    processor = make()
    (queue_dir / "pending" / "a.yaml").write_text("args: rm\n")
    processor.run_until_empty(30)
    assert processor.result("a").state is TaskState.QUARANTINE
    assert "there is no shell" in processor.result("a").reason
    (queue_dir / "quarantine" / "a.yaml").write_text("args: [echo, mended]\n")
    processor.start()
    processor.retry("a")
    assert eventually(lambda: processor.result("a").state is TaskState.COMPLETED, 20)
    assert list((queue_dir / "quarantine").iterdir()) == []


# ---- one Processor a directory ----


def test_a_second_processor_is_refused_with_the_name_of_the_first(make: MakeProcessor) -> None:
    first, second = make(), make()
    first.start()
    for go in (second.start, second.process_queue, lambda: second.run_until_empty(1)):
        with pytest.raises(QueueBusy, match=f"process {os.getpid()}"):
            go()
    first.stop()
    second.start()
    second.stop()


def test_what_ends_early_in_a_stop_is_filed_before_the_last_has_ended(
    make: MakeProcessor, events: list[QueueEvent], programs: Programs
) -> None:
    processor = make(slots=2, grace=3.0, on_event=events.append)
    processor.submit(["sleep", "60"], id="soft")
    processor.submit(programs.ignores_sigterm(), id="deaf")
    processor.start()
    assert eventually(lambda: len(processor.list_running_processes()) == 2, 20)
    assert eventually(lambda: bool(processor.task_logs("deaf")), 20), "deaf once it is ready"

    processor.stop(30)

    ended = {event.task_id: event.at for event in events if isinstance(event, TaskStatusChanged)}
    assert ended["deaf"] - ended["soft"] > 1.5
