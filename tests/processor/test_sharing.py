"""Several Processors on one directory: each task is done once, whoever does it, and whoever dies."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tests.conftest import eventually
from tests.processor.conftest import Journal, MakeProcessor, deeds
from tests.processor.doomed import Doomed
from tests.programs import SOURCES

from fastproc.errors import QueueBusy
from fastproc.processor import AgentExecutor, TaskState


def test_two_share_the_work_and_each_task_is_done_once(make: MakeProcessor, tmp_path: Path) -> None:
    done = tmp_path / "done"
    processors = [make(shared=True, slots=3) for _ in range(2)]
    for processor in processors:
        processor.start()
    processors[0].submit_many(
        [{"id": f"t{number}", "args": ["sh", "-c", f"echo t{number} >> {done}"]} for number in range(60)]
    )
    assert eventually(lambda: processors[0].queue_status().completed == 60, 40)
    assert sorted(done.read_text().split()) == sorted(f"t{number}" for number in range(60))
    for processor in processors:
        assert processor.stop()


def test_one_that_does_not_share_is_refused_and_refuses(make: MakeProcessor) -> None:
    sharing, alone = make(shared=True), make()
    sharing.start()
    with pytest.raises(QueueBusy, match="shared=True"):
        alone.start()
    sharing.stop()
    alone.start()
    with pytest.raises(QueueBusy):
        sharing.start()


def test_what_one_has_finished_another_may_wait_for(make: MakeProcessor) -> None:
    first, second = make(shared=True, slots=1), make(shared=True, slots=0)
    first.start()
    second.start()
    first.submit(["sleep", "0.2"], id="a")
    assert eventually(lambda: first.is_task_running("a"), 20)
    second.submit(["true"], id="b", dependencies=["a"])
    first.set_slots(0)
    second.set_slots(1)
    assert eventually(lambda: second.result("b").state is TaskState.COMPLETED, 20)


@pytest.mark.parametrize("recovery", ["end", "adopt"])
def test_the_living_go_on_with_what_a_dead_one_has_left(
    make: MakeProcessor,
    queue_dir: Path,
    journal: Journal,
    agent: AgentExecutor,
    recovery: str,
    tmp_path: Path,
) -> None:
    args = [sys.executable, str(SOURCES / "fake_agent.py"), str(journal.path)]
    living = make(shared=True, slots=0, executor=agent, recovery=recovery)
    other = make(shared=True, slots=0, executor=agent, recovery=recovery)
    living.start()
    other.start()
    gate = tmp_path / "gate"
    living.submit_many([{"id": f"t{n}", "prompt": deeds(f"wait {gate}")} for n in range(4)])
    with Doomed(queue_dir, agent=args, shared=True, slots=4, recovery=recovery) as doomed:
        assert eventually(lambda: len(journal.entries("start")) == 4, 20)
        living.set_slots(2)
        other.set_slots(2)
        doomed.kill()
    attempts = [1 if recovery == "adopt" else 2] * 4

    def running() -> list[str]:
        return sorted(living.list_running_processes() + other.list_running_processes())

    assert eventually(lambda: running() == ["t0", "t1", "t2", "t3"], 20), "each is followed by one of them"
    assert eventually(lambda: [living.result(f"t{n}").attempts for n in range(4)] == attempts, 20)
    gate.touch()
    assert eventually(lambda: living.queue_status().completed == 4, 30)
    assert journal.entries("overlap") == []
    assert [living.result(f"t{n}").attempts for n in range(4)] == attempts


def test_a_rate_limit_of_one_is_kept_by_all_and_ended_by_anybody(
    make: MakeProcessor, agent: AgentExecutor
) -> None:
    first = make(shared=True, slots=1, executor=agent)
    second = make(shared=True, slots=0, executor=agent)
    first.start()
    second.start()
    first.submit(prompt=deeds("structured-limit 900"), id="a")
    assert eventually(lambda: second.queue_status().paused_until is not None, 20)
    make().resume()
    assert eventually(lambda: first.queue_status().paused_until is None, 20)
    assert eventually(lambda: second.queue_status().paused_until is None, 20)
    first.stop()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_eight_processors_and_ten_thousand_tasks(
    make: MakeProcessor, queue_dir: Path, tmp_path: Path
) -> None:
    """Each is done once: each leaves its name in a file that a second one could not make."""
    marks = tmp_path / "marks"
    marks.mkdir()
    submitter = make(durability="batch")
    names = [f"t{number}" for number in range(10_000)]
    submitter.submit_many(
        [{"id": name, "args": ["mkdir", str(marks / name)], "max_attempts": 1} for name in names]
    )
    others = [Doomed(queue_dir, shared=True, slots=2, durability="batch") for _ in range(8)]
    assert eventually(
        lambda: submitter.queue_status().completed + submitter.queue_status().failed == 10_000, 500
    )
    for other in others:
        other.leave()
    assert submitter.queue_status().completed == 10_000
    assert {path.name for path in marks.iterdir()} == set(names)
