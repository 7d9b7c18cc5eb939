"""The ports are Protocols that simple things satisfy by shape."""

from __future__ import annotations

import time
from collections.abc import Callable

from fastproc.cancel import CancelToken
from fastproc.command import Command
from fastproc.errors import NotActive, TaskId
from fastproc.events import Event, Started
from fastproc.ports import Clock, Launched, Launcher, Observer
from fastproc.status import ExitStatus, StopReport, StopResult


class EndsAtOnce:
    """A process that has ended well before anybody looked."""

    def __init__(self, task_id: TaskId) -> None:
        self.task_id = task_id
        self.pid = 17
        self.started = 0.0
        self.status = ExitStatus.exited(0)
        self.stdout_bytes = b""
        self.stderr_bytes = b""

    def wait(self, timeout: float | None = None) -> ExitStatus:
        return self.status


class FakeLauncher:
    """Launches nothing."""

    def start_process(
        self,
        task_id: TaskId,
        command: Command,
        *,
        cancel: CancelToken | None = None,
        on_exit: Callable[[EndsAtOnce], None] | None = None,
    ) -> EndsAtOnce:
        process = EndsAtOnce(task_id)
        if on_exit is not None:
            on_exit(process)
        return process

    def terminate_process(self, task_id: TaskId, timeout: float = 5.0) -> StopResult:
        raise NotActive(task_id)

    def terminate_all(self, timeout: float = 10.0) -> StopReport:
        return StopReport()

    def active_count(self) -> int:
        return 0

    def is_active(self, task_id: TaskId) -> bool:
        return False

    def get(self, task_id: TaskId) -> EndsAtOnce:
        raise NotActive(task_id)


def test_a_launcher_needs_no_base_class() -> None:
    launcher: Launcher = FakeLauncher()
    heard: list[Launched] = []

    process = launcher.start_process("a", Command(["true"]), on_exit=heard.append)

    assert heard == [process]
    assert process.wait().ok


def test_a_list_can_observe() -> None:
    heard: list[Event] = []
    observer: Observer = heard.append

    observer(Started(task_id="a", pid=17, at=1.0, spawn_seconds=0.0001))

    assert len(heard) == 1


def test_the_standard_module_time_is_a_clock() -> None:
    clock: Clock = time

    assert clock.monotonic() <= clock.monotonic()
    assert clock.time() > 0
