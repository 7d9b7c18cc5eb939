"""The list of the demonstration: enough in it, every misbehaviour expected, every line understood."""

from __future__ import annotations

import json
import re
from pathlib import Path

from fastproc.cli.joblist import Job, read_jobs

DEMO = Path(__file__).resolve().parents[2] / "demo"


def jobs() -> list[Job]:
    read = list(read_jobs((DEMO / "commands.txt").read_text().splitlines(), shell=True))
    return [job for job in read if isinstance(job, Job)]


def expected() -> set[str]:
    lines = (DEMO / "expected.txt").read_text().splitlines()
    return {line.split()[0] for line in lines if line and not line.startswith("#")}


def test_there_are_more_than_300_real_commands() -> None:
    assert sum(job.name == f"job {job.number}" for job in jobs()) > 300


def test_every_line_is_understood() -> None:
    lines = (DEMO / "commands.txt").read_text().splitlines()
    assert len(jobs()) == sum(bool(line) and not line.startswith("#") for line in lines)


def test_every_program_that_misbehaves_has_its_end_written_down() -> None:
    named = [job.name for job in jobs() if job.name != f"job {job.number}"]
    assert len(named) == len(set(named)) > 40
    assert set(named) == expected()


def test_no_command_is_listed_twice() -> None:
    texts = [job.text for job in jobs()]
    assert len(texts) == len(set(texts))


# ---- the queue ----


def tasks() -> list[dict[str, object]]:
    return [json.loads(line) for line in (DEMO / "queue" / "tasks.jsonl").read_text().splitlines()]


def test_every_task_of_the_queue_has_its_end_written_down() -> None:
    lines = (DEMO / "queue" / "expected.txt").read_text().splitlines()
    written = [line.split()[0] for line in lines if line and not line.startswith("#")]
    by_hand = re.findall(r"--id (\S+)|pending/(\w+)\.yaml", (DEMO / "queue" / "run.sh").read_text())
    queued = [str(task["id"]) for task in tasks()] + [one or other for one, other in by_hand]
    assert sorted(written) == sorted(queued)
    assert len(written) == len(set(written)) >= 12


def test_the_agent_knows_every_behaviour_that_a_task_asks_for() -> None:
    program = (DEMO / "queue" / "agent.py").read_text()
    prompts = [str(task["prompt"]) for task in tasks() if "prompt" in task]
    assert len(prompts) >= 6
    for prompt in prompts:
        assert f"def {prompt.removeprefix('Behave: ')}()" in program
