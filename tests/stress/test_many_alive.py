"""Five thousand children alive at once: what they cost us, and how they are ended."""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.conftest import children_of_ours
from tests.programs import Programs

from fastproc import Command, Process, ProcessManager, SpawnError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

CHILDREN = 5_000
BYTES_EACH = 2048
# Of CPU time in two seconds. One tick of a timer for each child would need more.
IDLE_SECONDS = 0.005
GRACE = 2.0
STUBBORN_EVERY = 10


@contextmanager
def announcements() -> Iterator[tuple[int, int]]:
    """A pipe: to read from, and for the standard output of children that say a line when ready."""
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    try:
        yield read_end, write_end
    finally:
        os.close(read_end)
        os.close(write_end)


def await_lines(fd: int, count: int) -> None:
    """Block until so many lines have been said."""
    while count > 0:
        count -= os.read(fd, 1 << 20).count(b"\n")


def have_room_for(children: int) -> None:
    """Raise the limit of descriptors, or skip."""
    needed = 2 * children + 1000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        pytest.skip(f"{needed} descriptors are needed, the hard limit is {hard}")
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def resident_bytes() -> int:
    """Our resident memory, exactly."""
    gc.collect()
    with open("/proc/self/smaps_rollup", encoding="ascii") as rollup:
        return next(int(line.split()[1]) * 1024 for line in rollup if line.startswith("Rss:"))


def processes(started: list[Process | SpawnError]) -> list[Process]:
    """All of them; a failure is raised."""
    for one in started:
        if isinstance(one, SpawnError):
            raise one
    return [one for one in started if isinstance(one, Process)]


def measure_memory(args: list[str]) -> None:
    """The main program of a fresh process: print the bytes a child and the CPU seconds of idleness."""
    have_room_for(CHILDREN)
    with announcements() as (read_end, write_end), ProcessManager() as manager:

        def start(count: int) -> list[Process]:
            started = [manager.start_process(f"task-{i}", args, stdout=write_end) for i in range(count)]
            await_lines(read_end, count)
            return started

        start(100)
        manager.terminate_all(5.0)
        before = resident_bytes()
        held = start(CHILDREN)
        grown = resident_bytes() - before
        used = time.process_time()
        time.sleep(2.0)
        used = time.process_time() - used
        assert manager.active_count() == len(held) == CHILDREN
        assert manager.terminate_all(10.0)
    print(json.dumps([grown / CHILDREN, used]))


@pytest.fixture(scope="module")
def measured(programs: Programs) -> tuple[float, float]:
    """Bytes a child, and CPU seconds used in two seconds of idleness, in a process of its own."""
    have_room_for(CHILDREN)
    program = f"import runpy; runpy.run_path({__file__!r})['measure_memory']({programs.ready_then_sleep()!r})"
    path = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    each, idle = json.loads(done.stdout)
    print(f"\nalive: {CHILDREN:,} children: {each:.0f} bytes each, {idle * 1000:.2f} ms of CPU time in 2 s")
    return each, idle


def test_a_living_child_takes_less_than_2_kib_of_our_memory(measured: tuple[float, float]) -> None:
    """The object in C, the Process, its name and place in the manager, all together."""
    assert measured[0] <= BYTES_EACH


def test_nothing_is_done_while_nothing_happens(measured: tuple[float, float]) -> None:
    """Neither a thread that polls nor a timer that ticks."""
    assert measured[1] <= IDLE_SECONDS


def test_all_of_5000_end_within_the_grace_and_2_seconds(programs: Programs) -> None:
    """One in ten ignores SIGTERM and must be given its whole grace; all the others end at once."""
    have_room_for(CHILDREN)
    with announcements() as (read_end, write_end), ProcessManager() as manager:
        polite = Command(programs.ready_then_sleep(), stdout=write_end)
        stubborn = Command(programs.ignores_sigterm(), stdout=write_end)
        started = processes(
            manager.start_many(
                (f"task-{i}", polite if i % STUBBORN_EVERY else stubborn) for i in range(CHILDREN)
            )
        )
        await_lines(read_end, CHILDREN)
        begin = time.monotonic()

        report = manager.terminate_all(GRACE)

        elapsed = time.monotonic() - begin
        print(f"\nalive: {CHILDREN:,} children ended in {elapsed:.2f} s, with a grace of {GRACE:g} s")
        assert report
        assert programs.running() == []
        assert elapsed <= GRACE + 2.0
        for i, process in enumerate(started):
            signal_expected = signal.SIGTERM if i % STUBBORN_EVERY else signal.SIGKILL
            assert process.status is not None
            assert process.status.signal == signal_expected, process
        assert len(report.results) == CHILDREN
        assert manager.active_count() == 0
    assert children_of_ours() == set()
