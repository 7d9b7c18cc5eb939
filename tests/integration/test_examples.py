"""The examples are built as a stranger would build them, and do what they say."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from tests.conftest import eventually
from tests.watch import can

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def scheduler() -> str:
    """The C scheduler, built through pkg-config against an installed libfastproc."""
    if not (ROOT / "csrc" / "Makefile").exists():
        pytest.skip("not in a source tree")
    for tool in ("make", "cc", "pkg-config"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not here")
    made = subprocess.run(
        ["make", "-s", "-C", str(ROOT / "csrc"), "examples"], capture_output=True, text=True, check=False
    )
    if "Operation not permitted" in made.stderr and not can("clone3"):
        pytest.skip("a filter refuses clone3, by which make starts what it needs")
    assert made.returncode == 0, made.stdout + made.stderr
    return str(ROOT / "csrc" / "build" / "examples" / "scheduler")


def threads_of(pid: int) -> int:
    """How many threads a process has."""
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def counts(said: str) -> dict[str, int]:
    """The lines of the summary: how many of what."""
    return {what: int(count) for count, what in re.findall(r"^ *(\d+) ([a-z ]+)$", said, re.MULTILINE)}


def test_the_scheduler_carries_out_a_thousand_commands(scheduler: str) -> None:
    """64 at a time, each ended as it should: the program itself compares, and says so by its exit code."""
    done = subprocess.run([scheduler], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("1000 commands, at most 64 at a time, ")
    assert counts(done.stdout) == {
        "exited": 600,
        "signaled": 100,
        "timeout": 200,
        "not started": 100,
        "other than expected": 0,
    }


def test_the_scheduler_stops_what_runs_when_it_is_interrupted(scheduler: str) -> None:
    """It says so, starts nothing more, and leaves with the code of a failure."""
    # On a busy machine all that run may end by themselves before they are told to.
    assert any("terminated" in counts(_interrupted(scheduler)) for _ in range(5))


def _interrupted(scheduler: str) -> str:
    with subprocess.Popen([scheduler, "100000", "64"], stdout=subprocess.PIPE, text=True) as process:
        try:
            # Its threads block all signals, its main thread has blocked SIGINT before it has made them.
            assert eventually(lambda: threads_of(process.pid) >= 3)
            process.send_signal(signal.SIGINT)
            said, _ = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 1
    assert "interrupted: stopping" in said
    return said
