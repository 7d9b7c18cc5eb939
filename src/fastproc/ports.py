"""The Protocols where parts meet: what the Processor needs of a manager, and the manager of the world.

Nobody inherits from these. ProcessManager is a Launcher, and the standard module `time` a Clock, by shape.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from .cancel import CancelToken
from .command import Command
from .errors import TaskId
from .events import Event
from .status import ExitStatus, StopReport, StopResult


class Launched(Protocol):
    """A started process, as far as a Launcher's client sees it."""

    @property
    def task_id(self) -> TaskId: ...
    @property
    def pid(self) -> int: ...
    @property
    def started(self) -> float:
        """When it was started, on the monotonic clock."""
        ...

    @property
    def status(self) -> ExitStatus | None:
        """How it ended, or None while it runs."""
        ...

    @property
    def stdout_bytes(self) -> bytes: ...
    @property
    def stderr_bytes(self) -> bytes: ...
    def wait(self, timeout: float | None = None) -> ExitStatus:
        """Block until it has ended; WaitTimeout if it has not by then."""
        ...


class Launcher(Protocol):
    """Starts commands under a name, keeps their deadlines, and ends them for certain. Thread-safe."""

    def start_process(
        self,
        task_id: TaskId,
        command: Command,
        *,
        cancel: CancelToken | None = None,
        on_exit: Callable[[Launched], None] | None = None,
    ) -> Launched:
        """Start it, or raise SpawnError, DuplicateTask, TooManyProcesses or ManagerClosed.

        `on_exit` is called once, in a thread of the launcher, when the task is done.
        """
        ...

    def terminate_process(self, task_id: TaskId, timeout: float = 5.0) -> StopResult:
        """Stop it and all that it started; NotActive if there is no such task."""
        ...

    def terminate_all(self, timeout: float = 10.0) -> StopReport: ...
    def active_count(self) -> int: ...
    def is_active(self, task_id: TaskId) -> bool: ...
    def get(self, task_id: TaskId) -> Launched:
        """The active process of that name; NotActive if there is none."""
        ...


class Observer(Protocol):
    """Is told what happened. It must be quick; what it raises is logged and harms nobody."""

    def __call__(self, event: Event, /) -> object: ...


class Clock(Protocol):
    """Tells the time: seconds that never jump, and seconds since 1970 that may."""

    def monotonic(self) -> float: ...
    def time(self) -> float: ...
