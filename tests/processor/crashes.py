"""A queue whose Processor is killed, and what must hold afterwards.

A Scene is a queue directory beside a directory where each run proves that it is alone, see holds_its_lock.c.
The Processor that is to be killed lives in a forked copy of this program, which acknowledges through a pipe
what it has been told is done. Then the invariants are looked for in the directory, by code of the test's
own:

I1  each task is in exactly one state      I4  whatever lives belongs to a task in progress
I2  what was acknowledged is there, whole  I5  what came of an attempt never changes
I3  no two runs of a task at once          I6  no more attempts count than are allowed
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.conftest import eventually
from tests.programs import Programs

from fastproc.processor import Processor
from fastproc.processor.events import QueueEvent, TaskCompleted, TaskFailed
from fastproc.processor.processor import Backoff

STATES = ("pending", "in-progress", "completed", "failed", "quarantine")
AT_REST = ("completed", "failed")
AT_ONCE = Backoff(base=0.0)


@dataclass
class Scene:
    """See the head of this file."""

    place: Path
    programs: Programs
    durability: str = "full"
    slots: int = 2
    acks: list[str] = field(default_factory=list)
    """`submitted <id>`, `completed <id>`, `failed <id>`, as the killed Processor was sure of them."""

    victims: list[Victim] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.queue = self.place / "q"
        self.marks = self.place / "marks"
        self.marks.mkdir(parents=True, exist_ok=True)

    def job(self, name: str, seconds: float = 0, code: int = 0, *words: str) -> list[str]:
        return self.programs.holds_its_lock(self.marks, name, seconds, code, *words)

    def processor(self, **options: Any) -> Processor:
        """One that loses no time."""
        given = {
            "durability": self.durability,
            "slots": self.slots,
            "backoff": AT_ONCE,
            "poll_interval": 0.05,
            "grace": 2.0,
            **options,
        }
        return Processor(self.queue, **given)

    # ---- before the crash ----

    def begin(self, work: Callable[[Processor, Callable[[str], None]], object], **options: Any) -> Victim:
        """Fork a copy of this program that works with a Processor of its own once it is let go."""
        go_read, go_write = os.pipe()
        ack_read, ack_write = os.pipe()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: it ends with us at the latest
                os.close(go_write)
                os.close(ack_read)
                os.read(go_read, 1)

                def acknowledge(words: str) -> None:
                    os.write(ack_write, f"{words}\n".encode())

                def heard(event: QueueEvent) -> None:
                    if isinstance(event, TaskCompleted):
                        acknowledge(f"completed {event.task_id}")
                    elif isinstance(event, TaskFailed) and event.final:
                        acknowledge(f"failed {event.task_id}")

                work(self.processor(on_event=heard, **options), acknowledge)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        os.close(go_read)
        os.close(ack_write)
        self.victims.append(Victim(self, pid, go_write, ack_read))
        return self.victims[-1]

    def end_all(self) -> None:
        """After a test that has failed: nothing of it lives on."""
        for victim in self.victims:
            if victim.status is None:
                with contextlib.suppress(ProcessLookupError, ChildProcessError):
                    victim.kill()
                    os.waitpid(victim.pid, 0)

    # ---- after the crash ----

    def recover(self, timeout: float = 30.0, **options: Any) -> None:
        """The next Processor finishes everything."""
        before = self.records()
        with contextlib.closing(self.processor(**options)) as processor:
            report = processor.run_until_empty(timeout)
            assert report.empty, f"{report}\n{self.picture()}"
            assert processor.queue_status().health == "ok"
        now = self.records()
        assert {name: now.get(name) for name in before} == before, "I5: what came of an attempt has changed"

    def records(self) -> dict[str, bytes]:
        """What came of attempts."""
        place = self.queue / "results"
        return {path.name: path.read_bytes() for path in place.iterdir()} if place.exists() else {}

    def states(self) -> dict[str, list[str]]:
        """In which states each task is."""
        found: dict[str, list[str]] = {}
        for state in STATES:
            with contextlib.suppress(FileNotFoundError):
                for path in (self.queue / state).iterdir():
                    if path.suffix != ".why":
                        found.setdefault(path.stem, []).append(state)
        return found

    def journal(self) -> list[list[str]]:
        """What the runs have said: lines of what, name, pid."""
        try:
            text = (self.marks / "journal").read_text()
        except FileNotFoundError:
            return []
        return [line.split() for line in text.splitlines()]

    def attempts(self, task_id: str) -> list[dict[str, Any]]:
        """What came of the attempts of a task, in order."""
        found = [
            json.loads(content)
            for name, content in self.records().items()
            if name.rsplit(".", 2)[0] == task_id
        ]
        return sorted(found, key=lambda record: int(record["attempt"]))

    def check_promises(self) -> None:
        """What holds at any moment, with or without a Processor."""
        states = self.states()
        for task_id, places in states.items():
            assert len(places) == 1, f"I1: {task_id} is in {places}\n{self.picture()}"
            assert places != ["quarantine"], self.picture()
            content = (self.queue / places[0] / f"{task_id}.json").read_bytes()
            assert json.loads(content)["id"] == task_id, "I2: torn"
        for ack in self.acks:
            what, task_id = ack.split()
            assert task_id in states, f"I2: {task_id} is lost, although it was {what}\n{self.picture()}"
            if what in AT_REST:
                assert states[task_id] == [what], f"I2: {ack}, and now {states[task_id]}\n{self.picture()}"
        for name, content in self.records().items():
            assert json.loads(content), f"torn: {name}"
        runs = self.journal()
        assert [run for run in runs if run[0] == "twice"] == [], f"I3: two at once\n{self.picture()}"

    def check_finished(self, codes: dict[str, int], most: int = 3) -> None:
        """All those tasks are at rest, each where its exit code says; nothing is left behind."""
        self.check_promises()
        states = self.states()
        started = Counter(name for what, name, _pid in self.journal() if what == "start")
        ended = Counter(name for what, name, _pid in self.journal() if what == "end")
        for task_id in states:
            code = codes[task_id]
            records = self.attempts(task_id)
            assert records, self.picture()
            outcomes = [record["outcome"] for record in records]
            # An attempt that nobody could see the end of is told as that, never as what it was not.
            assert outcomes[-1] in ("succeeded", "failed", "lost"), self.picture()
            if code == 0:
                assert states[task_id] == ["completed"], self.picture()
                assert outcomes.count("succeeded") == 1, f"I5\n{self.picture()}"
            else:
                assert states[task_id] == ["failed"], self.picture()
            for record in records:
                told = record["exit"]
                if told is not None and told["reason"] == "exited":
                    assert told["code"] == code, f"an untrue status\n{self.picture()}"
            assert records[-1]["failures"] <= most, f"I6\n{self.picture()}"
            assert len([outcome for outcome in outcomes if outcome in ("failed", "lost")]) <= most, "I6"
            assert started[task_id] <= len(records), f"I6: a run without a record\n{self.picture()}"
            assert ended[task_id] >= outcomes.count("succeeded"), self.picture()
        assert eventually(lambda: not self.programs.running()), f"I4: {self.alive()}\n{self.picture()}"
        for leftover in (".processors", ".requests", ".new"):
            assert list((self.queue / leftover).iterdir()) == [], f"{leftover} was not swept"

    def alive(self) -> list[str]:
        """Whoever still runs one of the programs."""
        found = []
        for pid in self.programs.running():
            with contextlib.suppress(OSError):
                found.append(f"{pid}: {Path(f'/proc/{pid}/cmdline').read_text()!r}")
        return found

    def picture(self) -> str:
        """All of it, for whoever reads a failure."""
        lines = [f"acknowledged: {self.acks}", f"runs: {[' '.join(run) for run in self.journal()]}"]
        for path in sorted(self.queue.rglob("*")):
            if path.is_file() and path.stat().st_size < 20000:
                kept = path.parent.name in ("attempts", "results", "quarantine", ".processors")
                lines.append(f"{path.relative_to(self.queue)}: {path.read_text() if kept else ''}")
        return "\n".join(lines)

    def remove(self) -> None:
        """So that thousands of them need no room."""
        shutil.rmtree(self.place)


@dataclass
class Victim:
    """A forked copy with a Processor that is going to be killed."""

    scene: Scene
    pid: int
    go_fd: int
    ack_fd: int
    status: int | None = None
    pending: bytes = b""

    def let_go(self) -> None:
        os.write(self.go_fd, b"g")

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def hear(self, patience: float = 30.0) -> str | None:
        """The next thing that it acknowledges; None when it is dead."""
        while b"\n" not in self.pending:
            poll = select.poll()
            poll.register(self.ack_fd, select.POLLIN)
            assert poll.poll(patience * 1000), f"it says nothing more\n{self.scene.picture()}"
            piece = os.read(self.ack_fd, 65536)
            if not piece:
                return None
            self.pending += piece
        line, _, self.pending = self.pending.partition(b"\n")
        self.scene.acks.append(line.decode())
        return line.decode()

    def bury(self, patience: float = 30.0) -> int:
        """Hear the rest, and how it ended: negative for a signal."""
        try:
            while self.hear(patience) is not None:
                pass
        finally:
            with contextlib.suppress(ProcessLookupError):
                if self.status is None and not eventually(self._is_dead, 5.0):
                    os.kill(self.pid, signal.SIGKILL)
                    os.waitpid(self.pid, 0)
            os.close(self.go_fd)
            os.close(self.ack_fd)
        assert self.status is not None
        return os.waitstatus_to_exitcode(self.status)

    def _is_dead(self) -> bool:
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid:
            self.status = status
        return bool(pid)


class NoPtrace(Exception):
    """ptrace(2) is not allowed here."""


@contextlib.contextmanager
def killer(programs: Programs, victim: Victim, n: int, *, every: bool = False) -> Iterator[Callable[[], str]]:
    """Follows a victim; what is yielded waits for its end and gives the killer's last words."""
    args = programs.kills_at_call(victim.pid, n, every=every)
    with subprocess.Popen(args, stdout=subprocess.PIPE, text=True) as follower:
        assert follower.stdout is not None
        first = follower.stdout.readline()
        if not first.startswith("ready"):
            victim.kill()
            victim.bury()
            raise NoPtrace(first)

        def last_words() -> str:
            victim.bury()
            said, _ = follower.communicate(timeout=30)
            return said

        try:
            yield last_words
        finally:
            follower.kill()


def wait_until(is_so: Callable[[], bool], patience: float = 20.0) -> None:
    """For what gives no sign."""
    until = time.monotonic() + patience
    while not is_so():
        assert time.monotonic() < until, "it does not come to that"
        time.sleep(0.002)
