"""Agents of all characters: each is judged rightly, and all of it is gone before its slot is free."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from tests.conftest import eventually
from tests.processor.conftest import Journal, MakeProcessor, deeds
from tests.watch import is_alive

from fastproc import PIPE, Command, ExitReason
from fastproc.processor import AgentExecutor, End, ExecutionResult, RateLimit, TaskState
from fastproc.processor.events import QueueEvent, RateLimitPause, RateLimitResume, TaskStarted


def test_a_good_agent(make: MakeProcessor, agent: AgentExecutor, journal: Journal) -> None:
    processor = make(executor=agent)
    processor.submit(
        prompt=deeds("stream 3 0.01", "env MAX_TURNS TIMEOUT AGENT_TAG SKIP_PERMISSIONS", "result all done"),
        id="a",
        title="A task",
        timeout=77.0,
    )
    assert processor.run_until_empty(30)
    execution = processor.result("a").execution
    assert execution is not None
    assert execution.message == "all done"
    assert (
        "'MAX_TURNS': '5', 'TIMEOUT': '77', 'AGENT_TAG': 'fastproc-a', 'SKIP_PERMISSIONS': 'no'"
        in execution.output
    )
    assert [entry[:3] for entry in journal.entries()] == [("start", "a", 1), ("end", "a", 1)]


def test_a_long_prompt_arrives_whole(make: MakeProcessor, agent: AgentExecutor) -> None:
    """More than a pipe holds, and from no pipe."""
    processor = make(executor=agent)
    processor.submit(prompt="x" * 500_000 + "\n" + deeds("print arrived"), id="a")
    assert processor.run_until_empty(30)
    execution = processor.result("a").execution
    assert execution is not None
    assert execution.output == "arrived\n"


def test_all_that_an_agent_has_started_is_gone_before_its_slot_is_free(
    make: MakeProcessor, agent: AgentExecutor, events: list[QueueEvent]
) -> None:
    alive_at_next: list[bool] = []

    def observe(event: QueueEvent) -> None:
        events.append(event)
        if isinstance(event, TaskStarted) and event.task_id == "b":
            text = (processor._store.path / "logs" / "a.1.log").read_text()
            child = int(text.split("child of ours ")[1].split()[0])
            alive_at_next.append(is_alive(child))

    processor = make(executor=agent, slots=1, on_event=observe)
    processor.submit(prompt=deeds("spawn", "sleep 0.3"), id="a")
    processor.submit(prompt=deeds("print next"), id="b")
    assert processor.run_until_empty(30)
    assert alive_at_next == [False]


@pytest.mark.parametrize("deed", ["structured-limit 1000", "plain-limit"])
def test_a_rate_limit_pauses_the_queue_visibly_and_counts_nothing(
    make: MakeProcessor, agent: AgentExecutor, deed: str, events: list[QueueEvent]
) -> None:
    processor = make(executor=agent, max_attempts=1, on_event=events.append)
    processor.submit(prompt=deeds(deed), id="a")
    processor.start()
    assert eventually(lambda: processor.queue_status().paused, 20)
    processor.submit(prompt=deeds("print x"), id="b")

    status = processor.queue_status()

    assert status.paused_until is not None
    seconds = 1000 if "structured" in deed else 1200
    assert status.paused_until == pytest.approx(time.time() + seconds, abs=20)
    assert eventually(lambda: processor.result("a").state is TaskState.PENDING, 20)
    result = processor.result("a")
    assert (result.outcome, result.attempts, result.failures) == ("rate_limited", 1, 0), processor.attempts(
        "a"
    )
    assert result.execution is not None
    assert result.execution.rate_limited
    assert processor.queue_status().pending == 2
    processor.stop()
    assert make().queue_status().paused_until == status.paused_until, "others see it too"
    other = make(executor=agent, max_attempts=1)
    assert other.process_queue() == 0, "and keep it"
    other.resume()
    assert eventually(lambda: other.process_queue() or other.result("b").state is TaskState.COMPLETED, 20)
    assert [event.task_id for event in events if isinstance(event, RateLimitPause)] == ["a"]


def test_the_queue_goes_on_by_itself_when_the_time_is_over(
    make: MakeProcessor, agent: AgentExecutor, events: list[QueueEvent]
) -> None:
    processor = make(
        executor=agent,
        slots=1,
        rate_limit=RateLimit(shortest=0.5, usual=0.5, longest=1),
        on_event=events.append,
    )
    processor.submit(prompt=deeds("structured-limit 0.1"), id="a")
    processor.submit(prompt=deeds("print x"), id="b")
    processor.start()
    assert eventually(lambda: any(isinstance(event, RateLimitResume) for event in events), 20)
    processor.cancel("a")
    assert eventually(lambda: processor.queue_status().completed == 1, 20)


@pytest.mark.parametrize("deed", ["structured-turns", "plain-turns"])
def test_used_up_turns_are_a_failure_that_is_not_repeated(
    make: MakeProcessor, agent: AgentExecutor, deed: str
) -> None:
    processor = make(executor=agent, max_attempts=3)
    processor.submit(prompt=deeds(deed), id="a")
    processor.run_until_empty(30)
    result = processor.result("a")
    assert (result.state, result.attempts) == (TaskState.FAILED, 1)
    assert result.execution is not None
    assert result.execution.max_turns_exceeded


def test_words_do_not_turn_an_exit_0_into_a_failure(make: MakeProcessor, agent: AgentExecutor) -> None:
    processor = make(executor=agent)
    processor.submit(prompt=deeds("print error: 429 rate limit, max turns reached"), id="a")
    assert processor.run_until_empty(30)


def test_a_silent_agent_is_ended(make: MakeProcessor, agent: AgentExecutor, journal: Journal) -> None:
    agent.idle_timeout = 0.4
    processor = make(executor=agent, max_attempts=1)
    processor.submit(prompt=deeds("stream 12 0.1", "ignore-term", "hang"), id="a")
    processor.run_until_empty(30)
    result = processor.result("a")
    assert result.exit is not None
    assert (result.exit.reason, result.exit.signal, result.exit.escalated) == (
        ExitReason.IDLE_TIMEOUT,
        signal.SIGKILL,
        True,
    )
    assert result.execution is not None
    assert result.execution.idle_timeout
    assert result.execution.output.endswith("hanging\n")
    assert journal.living() == []


def test_a_time_limit_of_the_task_comes_before_that_of_the_queue(
    make: MakeProcessor, agent: AgentExecutor
) -> None:
    processor = make(executor=agent, task_timeout=60, max_attempts=1)
    processor.submit(prompt=deeds("hang"), id="a", timeout=0.5)
    processor.run_until_empty(30)
    status = processor.result("a").exit
    assert status is not None
    assert status.reason is ExitReason.TIMEOUT


def test_one_that_prints_too_much_is_ended(make: MakeProcessor) -> None:
    processor = make(max_log_bytes=1_000_000, max_attempts=1)
    processor.submit(["yes"], id="a")
    processor.run_until_empty(30)
    result = processor.result("a")
    assert result.exit is not None
    assert result.exit.reason is ExitReason.OUTPUT_LIMIT
    assert result.execution is not None
    assert len(result.execution.output) < 70_000


def test_executors_that_fail_are_failures_of_their_task(make: MakeProcessor) -> None:
    class Odd:
        def prepare(self, task: object, run: object) -> object:
            if getattr(task, "id", "") == "raises":
                raise ZeroDivisionError("prepare")
            if getattr(task, "id", "") == "no-command":
                return ["true"]
            from fastproc import Command

            return Command(["true"])

        def judge(self, task: object, end: End) -> object:
            if getattr(task, "id", "") == "cannot-judge":
                raise ZeroDivisionError("judge")
            return "fine" if getattr(task, "id", "") == "odd-verdict" else ExecutionResult(success=True)

    processor = make(executor=Odd(), max_attempts=1)
    for name in ("raises", "no-command", "cannot-judge", "odd-verdict", "good"):
        processor.submit(["true"], id=name)
    report = processor.run_until_empty(30)
    assert report.completed == ("good",)
    for name, words in (
        ("raises", "ZeroDivisionError"),
        ("no-command", "not a Command"),
        ("cannot-judge", "ZeroDivisionError"),
        ("odd-verdict", "not an ExecutionResult"),
    ):
        execution = processor.result(name).execution
        assert execution is not None
        assert words in execution.error


def test_what_an_executor_says_about_captured_output_is_in_nobodys_way(make: MakeProcessor) -> None:
    """The output goes to the log, with the limits of the Processor."""

    class Bounded:
        def prepare(self, task: object, run: object) -> Command:
            return Command(["seq", "100"], stdout=PIPE, max_output=10, on_max_output="stop", idle_timeout=60)

        def judge(self, task: object, end: End) -> ExecutionResult:
            return ExecutionResult(success=end.status.ok, output=end.output.decode())

    processor = make(executor=Bounded(), max_attempts=1)
    processor.submit(["true"], id="a")
    assert processor.run_until_empty(30).completed == ("a",)
    execution = processor.result("a").execution
    assert execution is not None
    assert execution.output.endswith("99\n100\n")


def test_the_prompt_has_no_name_that_others_could_read(
    make: MakeProcessor, agent: AgentExecutor, tmp_path: Path
) -> None:
    processor = make(executor=agent)
    processor.start()
    processor.submit(prompt="canary\n" + deeds("hang"), id="a")
    assert eventually(lambda: any(info.last_line for info in processor.get_running_processes_info()), 20)
    (info,) = processor.get_running_processes_info()
    assert os.readlink(f"/proc/{info.pid}/fd/0").startswith("/memfd:")
    assert b"canary" not in Path(f"/proc/{info.pid}/cmdline").read_bytes()
    assert b"canary" not in Path(f"/proc/{info.pid}/environ").read_bytes()
