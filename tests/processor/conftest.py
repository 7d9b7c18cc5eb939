"""Fixtures of the tests of the queue with real files and real processes."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.programs import SOURCES

from fastproc.processor import AgentExecutor, Backoff, Processor
from fastproc.processor.events import QueueEvent

MakeProcessor = Callable[..., Processor]


@pytest.fixture
def queue_dir(tmp_path: Path) -> Path:
    """Where the queue of a test is; not made yet."""
    return tmp_path / "queue"


@pytest.fixture
def quick_place(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory where there is one: for tests that make thousands of files and need no disk."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="fastproc-test-", dir="/dev/shm") as made:
        yield Path(made)


@pytest.fixture
def make(queue_dir: Path) -> Iterator[MakeProcessor]:
    """Makes Processors of one directory that retry quickly, and closes them."""
    made: list[Processor] = []

    def make_one(**settings: Any) -> Processor:
        given = {
            "durability": "none",
            "backoff": Backoff(base=0.02, cap=0.1),
            "poll_interval": 0.1,
            "grace": 0.5,
        }
        processor = Processor(settings.pop("queue_dir", queue_dir), **{**given, **settings})
        made.append(processor)
        return processor

    yield make_one
    for processor in made:
        processor.close()


@pytest.fixture
def processor(make: MakeProcessor) -> Processor:
    """One of them."""
    return make()


@pytest.fixture
def events() -> list[QueueEvent]:
    """For on_event=events.append."""
    return []


class Journal:
    """What fake agents have written down."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def entries(self, kind: str | None = None) -> list[tuple[str, str, int, int]]:
        """(what, task, attempt, pid), in order."""
        if not self.path.exists():
            return []
        words = [line.split() for line in self.path.read_text().splitlines()]
        found = [(what, task, int(attempt), int(pid)) for what, task, attempt, pid in words]
        return [entry for entry in found if kind is None or entry[0] == kind]

    def living(self) -> list[int]:
        """The pids of agents that live."""
        return [pid for _what, _task, _attempt, pid in self.entries("start") if is_agent(pid, self.path)]


def is_agent(pid: int, journal: Path) -> bool:
    """Whether a process is a fake agent with this journal."""
    try:
        return os.fsencode(str(journal)) in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    """The journal of this test's agents."""
    return Journal(tmp_path / "journal")


@pytest.fixture
def agent(journal: Journal) -> AgentExecutor:
    """Runs fake agents."""
    return AgentExecutor([sys.executable, str(SOURCES / "fake_agent.py"), str(journal.path)], max_turns=5)


def deeds(*lines: str) -> str:
    """The prompt that has a fake agent do this."""
    return "\n".join(f"do: {line}" for line in lines)
