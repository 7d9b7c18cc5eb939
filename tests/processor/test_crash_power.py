"""Power loss: what was acknowledged is there and whole, in every state that the disk may show afterwards.

By a model of file systems, see disk_model.py, and for real on a loop-mounted ext4 that is shut down without
a last commit.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import random
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import eventually
from tests.processor.crashes import AT_ONCE, Scene
from tests.processor.disk_model import Recorder, State, Tape, materialise, states_after
from tests.programs import Programs

from fastproc.processor import Processor
from fastproc.processor.events import QueueEvent, TaskCompleted, TaskFailed

AT_REST = ("completed", "failed")


def one_story(place: Path, programs: Programs, durability: Any) -> Tape:
    """Tasks are submitted, run, fail and are tried again, cancelled and retried: each step on the tape."""
    tape = Tape()

    def heard(event: QueueEvent) -> None:
        if isinstance(event, TaskCompleted):
            tape.acknowledge(f"completed {event.task_id}")
        elif isinstance(event, TaskFailed) and event.final:
            tape.acknowledge(f"failed {event.task_id}")

    disk = Recorder(place, tape)
    with contextlib.closing(
        Processor(place / "q", durability=durability, slots=2, backoff=AT_ONCE, on_event=heard, disk=disk)
    ) as processor:
        before = dataclasses.replace(processor._store.machine, boot="the boot before")
        processor._store.presence.machine = before
        processor.submit(programs.nop(), id="one")
        tape.acknowledge("submitted one")
        processor.submit_many(
            [
                {"id": "two", "args": programs.nop()},
                {"id": "bad", "args": ["false"], "max_attempts": 2},
                {"id": "off", "args": programs.nop(), "not_before": 4e9},
            ]
        )
        for name in ("two", "bad", "off"):
            tape.acknowledge(f"submitted {name}")
        processor.run_until_empty(1.0)
        processor.cancel("off")
        processor.process_queue()
        processor.stop()
        tape.acknowledge("retrying bad")
        processor.retry("bad")
        tape.acknowledge("submitted bad")
        processor.process_queue()
        processor.run_until_empty(20)
    return tape


def check(state: State, acks: list[str], place: Path) -> None:
    """Open a state with a fresh Processor, have it finish, and compare with what was acknowledged."""
    materialise(state, place)
    queue = place / "q"
    records = {path.name: path.read_bytes() for path in (queue / "results").glob("*")}
    last = {}
    for ack in acks:
        what, task_id = ack.split()
        last[task_id] = what
    for task_id, what in last.items():
        if what in AT_REST:
            assert (queue / what / f"{task_id}.json").exists(), f"{task_id} is not {what}"
    for task_id in [path.stem for state_name in AT_REST for path in (queue / state_name).glob("*.json")]:
        # Nothing comes to rest before what came of it is durable.
        kept = [content for name, content in records.items() if name.startswith(f"{task_id}.")]
        assert any(_outcome(content) for content in kept), f"{task_id} has no result"
    if not queue.exists():
        assert not acks
        return
    with contextlib.closing(
        Processor(queue, durability="none", slots=4, backoff=AT_ONCE, max_attempts=3)
    ) as processor:
        if (queue / "pending/off.json").exists() or (queue / "in-progress/off.json").exists():
            processor.process_queue()
            processor.cancel("off")
        report = processor.run_until_empty(20)
        status = processor.queue_status()
        assert report.empty
        assert (status.pending, status.in_progress, status.health) == (0, 0, "ok")
        for task_id, what in last.items():
            found = str(processor.result(task_id).state)
            wanted = {"one": "completed", "two": "completed", "bad": "failed", "off": "failed"}[task_id]
            assert found == wanted, f"{task_id} was {what} and is {found}"
    assert [str(path) for path in (queue / "quarantine").glob("*")] == []
    for state_name in ("completed", "failed"):
        for path in (queue / state_name).iterdir():
            assert json.loads(path.read_bytes())["id"] == path.stem
            others = [name for name in ("pending", "in-progress", *AT_REST) if name != state_name]
            assert not any((queue / name / path.name).exists() for name in others), "in two states"
    for name, content in records.items():
        # One that is not whole was never acknowledged; one that is is never written over.
        with contextlib.suppress(ValueError):
            json.loads(content)
            assert (queue / "results" / name).read_bytes() == content, name


def _outcome(content: bytes) -> str:
    """What a whole record says; nothing for one that is not whole."""
    try:
        return str(json.loads(content)["outcome"])
    except ValueError:
        return ""


def check_all(quick_place: Path, tape: Tape, most: int, chance: random.Random, total: int | None) -> int:
    """Check what may be after each moment; `total` states at random, or all of them. How many there were."""
    seen: dict[State, list[str]] = {}
    for moment in range(tape.moment + 1):
        acks = [words for at, words in tape.acks if at <= moment]
        for state in states_after(tape, moment, most, chance):
            if len(seen.get(state, ())) <= len(acks):
                seen[state] = acks
    found = list(seen.items())
    if total is not None and len(found) > total:
        found = chance.sample(found, total)
    for number, (state, acks) in enumerate(found):
        place = quick_place / str(number)
        try:
            check(state, acks, place)
        except BaseException as error:
            error.add_note(f"acknowledged: {acks}")
            error.add_note("\n".join(f"{path}: {what}" for path, what in state[0] if what))
            error.add_note("\n".join(f"{number}: {content!r:.300}" for number, content in state[1]))
            raise
        shutil.rmtree(place)
    return len(seen)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("total", [120, pytest.param(6000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("durability", ["full", "batch"])
def test_whatever_the_disk_shows_after_a_power_loss_nothing_acknowledged_is_lost(
    quick_place: Path, programs: Programs, durability: str, total: int
) -> None:
    """Each state is opened by a fresh Processor: so many of them, at random."""
    tape = one_story(quick_place, programs, durability)
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")

    states = check_all(quick_place / "states", tape, 6 if total < 1000 else 64, random.Random(seed), total)
    assert states > total


def test_with_durability_none_nothing_is_promised_and_nothing_waited_for(
    quick_place: Path, programs: Programs
) -> None:
    """Not one fsync(2): a crash of the machine may lose all, and none of the time is lost."""
    assert one_story(quick_place, programs, "none").syncs == []


# ---- for real ----

_SHUTDOWN, _WITHOUT_LAST_COMMIT = 0x8004587D, 2  # FS_IOC_SHUTDOWN, see fs/ext4/ioctl.c


class LoopDisk:
    """An ext4 in a file, whose power can be cut."""

    def __init__(self, place: Path) -> None:
        self.image, self.mount_point = place / "disk.img", place / "disk"
        self.mount_point.mkdir()
        with open(self.image, "wb") as image:
            image.truncate(32 << 20)
        _run("mkfs.ext4", "-q", "-F", str(self.image))
        self.mount()

    def mount(self) -> None:
        _run("mount", "-o", "loop", str(self.image), str(self.mount_point))

    def unmount(self) -> None:
        _run("umount", str(self.mount_point))

    def cut_power(self) -> None:
        """Nothing that has not been committed is written any more."""
        fd = os.open(self.mount_point, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, _SHUTDOWN, struct.pack("I", _WITHOUT_LAST_COMMIT))
        finally:
            os.close(fd)


def _run(*args: str) -> None:
    subprocess.run(args, check=True, capture_output=True)


@pytest.fixture
def loop_disk(tmp_path: Path) -> Iterator[LoopDisk]:
    """One, if we may have one."""
    if os.geteuid() != 0:
        pytest.skip("only root mounts disks")
    try:
        disk = LoopDisk(tmp_path)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no loop-mounted ext4 here: {error} {getattr(error, 'stderr', b'')!r}")
    yield disk
    subprocess.run(["umount", "-l", str(disk.mount_point)], check=False, capture_output=True)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("rounds", [4, pytest.param(150, marks=pytest.mark.slow)])
@pytest.mark.parametrize("durability", ["full", "batch"])
def test_when_the_power_of_a_real_disk_is_cut_nothing_acknowledged_is_lost(
    loop_disk: LoopDisk, programs: Programs, durability: str, rounds: int
) -> None:
    """Amid submits and runs, after any number of acknowledgements."""

    def work(processor: Processor, acknowledge: Callable[[str], None]) -> None:
        for number in range(1000):
            names = [f"task-{number}-{part}" for part in range(3)]
            processor.submit_many({"id": name, "args": scene.programs.nop()} for name in names)
            for name in names:
                acknowledge(f"submitted {name}")
            processor.process_queue()
        processor.run_until_empty(20)

    for turn in range(rounds):
        scene = Scene(loop_disk.mount_point / str(turn), programs, durability)
        victim = scene.begin(work)
        victim.let_go()
        for _ in range(random.randint(1, 40)):
            victim.hear()
        loop_disk.cut_power()
        victim.kill()
        victim.bury()
        assert eventually(lambda: not programs.running())
        loop_disk.unmount()
        loop_disk.mount()
        scene.check_promises()
        scene.recover()
        scene.check_promises()
        states = scene.states()
        assert all(places == ["completed"] for places in states.values()), states
        scene.remove()
    loop_disk.unmount()
