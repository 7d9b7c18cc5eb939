"""A Processor is killed, and the next one goes on: nothing lost, nothing run twice, no stranger touched."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import eventually
from tests.processor.conftest import Journal, MakeProcessor, deeds
from tests.processor.crashes import wait_until
from tests.processor.doomed import Doomed, is_gone
from tests.programs import SOURCES, Programs
from tests.watch import is_alive

import fastproc
from fastproc import ExitReason
from fastproc.processor import AgentExecutor, Backoff, Processor, TaskState
from fastproc.processor.adopt import Adopted, Person, identity
from fastproc.processor.disk import Disk
from fastproc.processor.events import QueueEvent, TaskStarted
from fastproc.processor.machine import Machine


@pytest.fixture
def agent_args(journal: Journal) -> list[str]:
    """The command of fake agents."""
    return [sys.executable, str(SOURCES / "fake_agent.py"), str(journal.path)]


@pytest.fixture(autouse=True)
def no_agents_left(journal: Journal) -> Iterator[None]:
    """Agents that a failed test leaves to nobody are ended."""
    yield
    for pid in journal.living():
        os.kill(pid, signal.SIGKILL)


def started_in_doomed(
    queue_dir: Path, journal: Journal, agent_args: list[str], prompts: dict[str, str], **settings: Any
) -> None:
    """Have these run in a Processor that is killed then."""
    with Processor(queue_dir, durability="none") as submitter:
        submitter.submit_many([{"id": name, "prompt": prompt} for name, prompt in prompts.items()])
    with Doomed(queue_dir, agent=agent_args, **settings) as doomed:
        assert eventually(lambda: len(journal.entries("start")) == len(prompts), 20)
        # The record of a start is written right after it.
        assert eventually(lambda: all(_is_noted(queue_dir, name) for name in prompts), 20)
        doomed.kill()


def _is_noted(queue_dir: Path, name: str) -> bool:
    return '"started"' in (queue_dir / "attempts" / f"{name}.jsonl").read_text()


def test_jobs_do_not_notice_and_are_adopted_with_their_true_statuses(
    make: MakeProcessor,
    queue_dir: Path,
    journal: Journal,
    agent: AgentExecutor,
    agent_args: list[str],
    events: list[QueueEvent],
    tmp_path: Path,
) -> None:
    gate = tmp_path / "gate"
    started_in_doomed(
        queue_dir,
        journal,
        agent_args,
        {
            "good": deeds("stream 10 0.01", f"wait {gate}", "stream 20 0.01", "result well done"),
            "bad": deeds(f"wait {gate}", "exit 7"),
            "family": deeds("spawn", f"wait {gate}"),
        },
    )
    processor = make(executor=agent, recovery="adopt", max_attempts=1, on_event=events.append)
    processor.start()
    infos = {info.task_id: info for info in processor.get_running_processes_info()}
    assert {name for name, info in infos.items() if info.adopted} == {"good", "bad", "family"}
    log = queue_dir / "logs" / "family.1.log"
    assert eventually(lambda: "child of ours" in log.read_text(), 20)
    child = int(log.read_text().split("ours ")[1].split()[0])
    gate.touch()
    report = processor.run_until_empty(30)

    assert sorted(report.completed) == ["family", "good"]
    assert report.failed == ("bad",)
    for name, code in (("good", 0), ("bad", 7), ("family", 0)):
        result = processor.result(name)
        assert result.attempts == 1
        assert result.exit is not None
        if fastproc.capabilities()["pidfd_info"] or os.geteuid() == 0:
            assert result.exit.code == code
    execution = processor.result("good").execution
    assert execution is not None
    assert execution.message == "well done"
    assert execution.output.count("step") == 30
    assert is_gone(child), "what an adopted agent has left behind is ended too"
    assert [entry[0] for entry in journal.entries()].count("start") == 3
    assert journal.entries("overlap") == []
    assert [event.adopted for event in events if isinstance(event, TaskStarted)] == [True] * 3


def test_jobs_are_ended_and_tried_again_if_that_is_wanted(
    make: MakeProcessor, queue_dir: Path, journal: Journal, agent: AgentExecutor, agent_args: list[str]
) -> None:
    started_in_doomed(
        queue_dir,
        journal,
        agent_args,
        {"a": deeds("ignore-term", "spawn", "once", "sleep 60"), "b": deeds("sleep 60")},
    )
    assert eventually(lambda: journal.living() != [] or True)
    processor = make(executor=agent, recovery="end", max_attempts=2, slots=2)
    living = journal.living()

    processor.start()

    assert eventually(lambda: processor.result("b").attempts == 2, 20)
    assert all(is_gone(pid) for pid in living)
    assert processor._store.records.record("b", 1) is not None
    record = processor._store.records.record("b", 1)
    assert record is not None
    # Two ran when it died: that is held against neither.
    assert (record.outcome, record.failures, record.lost) == ("lost", 0, 1)
    assert journal.entries("overlap") == []


def test_the_time_limit_of_an_adopted_job_counts_from_its_start(
    make: MakeProcessor, queue_dir: Path, journal: Journal, agent: AgentExecutor, agent_args: list[str]
) -> None:
    started_in_doomed(queue_dir, journal, agent_args, {"a": deeds("ignore-term", "hang")})
    time.sleep(0.3)
    processor = make(executor=agent, recovery="adopt", task_timeout=0.2, max_attempts=1)
    processor.run_until_empty(30)
    result = processor.result("a")
    assert result.exit is not None
    assert (result.exit.reason, result.exit.escalated) == (ExitReason.TIMEOUT, True)
    assert journal.living() == []


def test_an_adopted_job_can_be_cancelled_and_given_back(
    make: MakeProcessor, queue_dir: Path, journal: Journal, agent: AgentExecutor, agent_args: list[str]
) -> None:
    started_in_doomed(queue_dir, journal, agent_args, {"a": deeds("hang"), "b": deeds("ignore-term", "hang")})
    processor = make(executor=agent, recovery="adopt")
    processor.start()
    assert processor.terminate_running_process("a").stopped
    assert processor.result("a").outcome == "cancelled"
    report = processor.stop(10)
    assert report
    assert (processor.result("b").state, processor.result("b").outcome) == (TaskState.PENDING, "given_back")
    assert journal.living() == []


def test_a_second_crash_does_no_more_harm_than_the_first(
    make: MakeProcessor,
    queue_dir: Path,
    journal: Journal,
    agent: AgentExecutor,
    agent_args: list[str],
    tmp_path: Path,
) -> None:
    gate = tmp_path / "gate"
    started_in_doomed(queue_dir, journal, agent_args, {"a": deeds(f"wait {gate}", "result fine")})
    for _ in range(2):
        with Doomed(queue_dir, agent=agent_args, recovery="adopt") as doomed:
            doomed.kill()
    processor = make(executor=agent, recovery="adopt", max_attempts=1)
    processor.start()
    gate.touch()
    report = processor.run_until_empty(30)
    assert report.completed == ("a",)
    assert len(journal.entries("start")) == 1


def test_what_ended_while_nobody_looked_is_lost_and_counts(
    make: MakeProcessor, queue_dir: Path, journal: Journal, agent: AgentExecutor, agent_args: list[str]
) -> None:
    """Its status went to whoever reaped it; 0 is not assumed."""
    started_in_doomed(queue_dir, journal, agent_args, {"a": deeds("sleep 60")})
    for pid in journal.living():
        os.kill(pid, signal.SIGKILL)
        if not eventually(lambda: not Path(f"/proc/{pid}").exists(), 10):
            pytest.skip("nobody reaps orphans here")
    processor = make(executor=agent, max_attempts=1)
    processor.run_until_empty(30)
    result = processor.result("a")
    assert (result.state, result.outcome) == (TaskState.FAILED, "lost")
    assert result.exit is not None
    assert result.exit.reason is ExitReason.UNKNOWN


def test_a_task_that_kills_its_processor_each_time_is_given_up(queue_dir: Path, make: MakeProcessor) -> None:
    """The attempt is on the disk before the job runs."""
    submitter = make()
    submitter.submit(["sh", "-c", "kill -9 $PPID; sleep 60"], id="poison", max_attempts=3)
    submitter.submit(["true"], id="good", priority="low")
    for _ in range(3):
        with Doomed(queue_dir, slots=1) as doomed:
            doomed.process.wait(30)
            assert doomed.process.returncode == -signal.SIGKILL
    make(slots=1).run_until_empty(30)
    assert submitter.result("good").state is TaskState.COMPLETED
    result = submitter.result("poison")
    assert (result.state, result.failures) == (TaskState.FAILED, 3)


def test_who_runs_beside_a_task_that_kills_its_processor_is_not_given_up(
    queue_dir: Path, make: MakeProcessor
) -> None:
    """After two such deaths each runs alone, so that the next one shows who it was."""
    submitter = make()
    # The neighbours end only when nothing kills their Processor meanwhile.
    for number in range(3):
        submitter.submit(["sleep", "0.5"], id=f"good-{number}", max_attempts=1)
    submitter.submit(["sh", "-c", "sleep 0.2; kill -9 $PPID; sleep 60"], id="poison", max_attempts=1)
    deaths = 0
    while submitter.result("poison").state is not TaskState.FAILED:
        with Doomed(queue_dir, slots=4) as doomed:
            wait_until(
                lambda: (
                    doomed.process.poll() is not None
                    or submitter.queue_status().pending + submitter.queue_status().in_progress == 0
                ),
                60,
            )
            deaths += doomed.process.poll() == -signal.SIGKILL
        assert deaths <= 3, "two in company, one alone: then it is given up"

    make(slots=4).run_until_empty(60)
    # Fewer, if its neighbours were not there any more the second time.
    assert deaths in (2, 3)
    assert [submitter.result(f"good-{number}").state for number in range(3)] == [TaskState.COMPLETED] * 3
    assert submitter.result("poison").failures == 1


def test_who_was_started_is_found_by_the_lock_if_it_was_not_written_down(
    make: MakeProcessor, queue_dir: Path, journal: Journal, agent: AgentExecutor, agent_args: list[str]
) -> None:
    """As when the Processor is killed between the start and its record."""
    started_in_doomed(queue_dir, journal, agent_args, {"a": deeds("hang")})
    path = queue_dir / "attempts" / "a.jsonl"
    lines = path.read_text().splitlines()
    assert '"started"' in lines.pop()
    path.write_text("\n".join(lines) + "\n")
    with open(queue_dir / "in-progress" / "a.json") as only_read_by_us:
        processor = make(executor=agent, recovery="end", max_attempts=1)
        processor.run_until_empty(30)
        only_read_by_us.read()
    assert journal.living() == []
    assert processor.result("a").outcome == "lost"


def test_a_stranger_on_a_recycled_pid_is_not_touched(
    make: MakeProcessor,
    queue_dir: Path,
    journal: Journal,
    agent: AgentExecutor,
    agent_args: list[str],
    programs: Programs,
) -> None:
    started_in_doomed(queue_dir, journal, agent_args, {"a": deeds("sleep 60")})
    (pid,) = journal.living()
    os.kill(pid, signal.SIGKILL)
    if not eventually(lambda: not Path(f"/proc/{pid}").exists(), 10):
        pytest.skip("nobody reaps orphans here")
    maker = subprocess.Popen(programs.reborn_as(pid), stdout=subprocess.PIPE, text=True)
    assert maker.stdout is not None
    said = maker.stdout.readline().split()
    if said[0] != "ready":
        maker.communicate()
        pytest.skip(f"clone3 with set_tid is refused: {os.strerror(int(said[1]))}")
    assert said == ["ready", str(pid)]

    processor = make(executor=agent, recovery="end", max_attempts=1)
    processor.run_until_empty(30)

    assert processor.result("a").outcome == "lost"
    assert is_alive(pid)
    os.kill(pid, signal.SIGHUP)
    told, _ = maker.communicate(timeout=20)
    assert told.strip() == f"ended {signal.SIGHUP.value}", "it had no signal but ours"


@pytest.mark.parametrize("field", ["boot", "pidns", "start", "pidfs_inode"])
def test_a_record_of_another_boot_or_namespace_or_process_is_nobody(field: str) -> None:
    machine = Machine.here()
    process = subprocess.Popen(["sleep", "60"], start_new_session=True)
    try:
        assert eventually(
            lambda: (person := Person.read(process.pid)) is not None and person.session == process.pid
        )
        said = identity(process.pid, machine)
        found = Adopted.find(said, machine)
        assert found.has_leader
        assert found.members() == [process.pid]
        found.close()
        other = Adopted.find({**said, field: "other" if field == "boot" else 12345}, machine)
        assert (other.has_leader, other.members()) == (False, [])
    finally:
        process.kill()
        process.wait()


def test_a_child_that_is_gone_already_has_no_identity() -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    assert "start" not in identity(process.pid, Machine.here())
    assert "start" not in identity(1, Machine.here()), "no child of ours"


def test_nonsense_in_a_record_is_nobody() -> None:
    machine = Machine.here()
    base = {"boot": machine.boot, "pidns": machine.pid_namespace}
    for said in (
        None,
        {},
        base,
        {**base, "pid": 1, "start": 1},
        {**base, "pid": "x"},
        {**base, "pid": -1, "start": 0},
    ):
        found = Adopted.find(said, machine)
        assert (found.has_leader, found.members()) == (False, [])


# ---- each place that a crash can leave ----


def make_in_progress(
    queue_dir: Path, name: str, *notes: dict[str, Any], record: dict[str, Any] | None = None
) -> None:
    """A task in progress, with what its journal and its result say."""
    (queue_dir / "in-progress" / f"{name}.json").write_text('{"args": ["echo", "again"]}')
    text = "".join(json.dumps(note) + "\n" for note in notes)
    if text:
        (queue_dir / "attempts" / f"{name}.jsonl").write_text(text)
    if record is not None:
        whole = {"id": name, "attempt": 1, "failures": 0, **record}
        (queue_dir / "results" / f"{name}.1.json").write_text(json.dumps(whole))


def test_a_result_is_on_the_disk_before_a_recovered_task_comes_to_rest(queue_dir: Path) -> None:
    """Its Processor may have died between the name of the result and the fsync(2) of that."""
    done: list[tuple[str, str]] = []

    class Watched(Disk):
        def sync(self, fd: int) -> None:
            done.append(("sync", os.path.basename(os.readlink(f"/proc/self/fd/{fd}"))))
            super().sync(fd)

        def rename_new(self, name: str, dir_fd: int, new_name: str, new_dir_fd: int) -> None:
            done.append(("move", os.path.basename(os.readlink(f"/proc/self/fd/{new_dir_fd}"))))
            super().rename_new(name, dir_fd, new_name, new_dir_fd)

    Processor(queue_dir).close()
    begun = {"event": "claimed", "attempt": 1, "processor": "gone", "at": 1.0}
    make_in_progress(queue_dir, "done", begun, record={"state": "completed", "outcome": "succeeded"})

    with contextlib.closing(Processor(queue_dir, durability="batch", disk=Watched())) as processor:
        processor.run_until_empty(30)
        assert processor.result("done").state is TaskState.COMPLETED

    assert done.index(("sync", "results")) < done.index(("move", "completed"))


def test_every_half_done_step_is_finished_or_undone(make: MakeProcessor, queue_dir: Path) -> None:
    processor = make(slots=0)
    begun = {"event": "claimed", "attempt": 1, "processor": "gone", "at": 1.0}
    make_in_progress(queue_dir, "never-begun")
    make_in_progress(queue_dir, "begun", begun)
    make_in_progress(queue_dir, "done", begun, record={"state": "completed", "outcome": "succeeded"})
    make_in_progress(queue_dir, "dead", begun, record={"state": "failed", "outcome": "failed", "failures": 3})
    make_in_progress(
        queue_dir, "back", begun, record={"state": "pending", "outcome": "failed", "failures": 1}
    )
    make_in_progress(
        queue_dir, "retried", begun, {"event": "retry"}, record={"state": "failed", "outcome": "failed"}
    )
    make_in_progress(queue_dir, "torn-result", begun)
    (queue_dir / "results" / "torn-result.1.json").write_text('{"id": "torn')
    (queue_dir / "in-progress" / "no task.txt").write_text("x")
    (queue_dir / "in-progress" / "unreadable.json").write_text("{")

    processor.start()

    assert eventually(lambda: processor.queue_status().in_progress == 0, 20)
    states = {
        name: processor.result(name).state for name in ("never-begun", "done", "dead", "back", "retried")
    }
    assert states == {
        "never-begun": TaskState.PENDING,
        "done": TaskState.COMPLETED,
        "dead": TaskState.FAILED,
        "back": TaskState.PENDING,
        "retried": TaskState.PENDING,
    }
    assert processor.result("begun").outcome == "lost"
    begun_record = processor._store.records.record("begun", 1)
    assert begun_record is not None
    assert (begun_record.failures, begun_record.lost) == (0, 1), "another one ran beside it"
    assert processor.queue_status().quarantine == 2
    processor.set_slots(4)
    assert eventually(lambda: processor.result("begun").state is TaskState.COMPLETED, 20)
    assert processor.result("begun").attempts == 2


def test_a_task_that_was_begun_and_never_started_counts_nothing(make: MakeProcessor, queue_dir: Path) -> None:
    """The rename was lost with the power, the journal was not: the job waits for both."""
    processor = make(max_attempts=1)
    processor.submit(["true"], id="a")
    (queue_dir / "attempts" / "a.jsonl").write_text('{"event":"claimed","attempt":1}\n{"event":"claim')
    assert processor.run_until_empty(20)
    result = processor.result("a")
    assert (result.state, result.attempts, result.failures) == (TaskState.COMPLETED, 2, 0)


def test_what_an_earlier_processor_has_left_is_swept(make: MakeProcessor, queue_dir: Path) -> None:
    with Doomed(queue_dir) as doomed:
        doomed.kill()
    assert len(list((queue_dir / ".processors").iterdir())) == 1
    processor = make()
    processor.start()
    (mine,) = (queue_dir / ".processors").iterdir()
    assert str(os.getpid()) in mine.name
    processor.stop()
    assert list((queue_dir / ".processors").iterdir()) == []


# ---- killed at any moment ----


def check_after_crashes(
    processor: Processor, journal: Journal, submitted: set[str], names: dict[TaskState, set[str]]
) -> None:
    """What holds after whatever has happened."""
    found = [name for names_there in names.values() for name in names_there]
    assert sorted(found) == sorted(submitted), "each task is in exactly one state, and none is lost"
    assert journal.entries("overlap") == [], "no two live runs of one task"
    assert journal.living() == []
    starts = [entry[1:3] for entry in journal.entries("start")]
    assert len(starts) == len(set(starts)), "no attempt was started twice"
    for name in submitted:
        result = processor.result(name)
        assert result.failures <= 50
        ended = [entry for entry in journal.entries("end") if entry[1] == name]
        if result.state is TaskState.COMPLETED:
            assert ended, "what is completed has been done"


def names_in(queue_dir: Path) -> dict[TaskState, set[str]]:
    return {state: {path.stem for path in (queue_dir / state).glob("*.json")} for state in TaskState}


@pytest.mark.parametrize("recovery", ["adopt", "end"])
def test_killed_at_random_moments_it_loses_nothing_and_runs_nothing_twice(
    make: MakeProcessor,
    queue_dir: Path,
    journal: Journal,
    agent: AgentExecutor,
    agent_args: list[str],
    recovery: str,
) -> None:
    submitter = make(durability="batch")
    submitted: set[str] = set()
    dice = random.Random(recovery)
    for turn in range(3):
        submitted |= set(
            submitter.submit_many(
                [
                    {"id": f"t{turn}-{number}", "prompt": deeds("sleep 0.05", "once"), "max_attempts": 50}
                    for number in range(6)
                ]
            )
        )
        with Doomed(queue_dir, agent=agent_args, recovery=recovery, durability="batch") as doomed:
            time.sleep(dice.uniform(0.0, 0.4))
            doomed.kill()
    processor = make(executor=agent, recovery=recovery, backoff=Backoff(base=0.02, cap=0.1))
    report = processor.run_until_empty(50)
    assert report.empty
    names = names_in(queue_dir)
    assert names[TaskState.COMPLETED] == submitted
    check_after_crashes(processor, journal, submitted, names)
