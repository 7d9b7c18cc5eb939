"""What a Processor was told, and what its executor says: asked in one place, whatever it answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from logging import getLogger
from typing import Literal, TypeAlias

from ..command import Command
from ..ports import Clock
from .events import QueueEvent
from .executor import End, Executor, Refused, Run
from .retry import Backoff, RateLimit
from .runs import NotStarted
from .task import ExecutionResult, Task

_log = getLogger("fastproc.processor")

Recovery: TypeAlias = Literal["end", "adopt"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a Processor was told, see there."""

    executor: Executor
    max_attempts: int
    poll_interval: float
    task_timeout: float | None
    idle_timeout: float | None
    recovery: Recovery
    shared: bool
    grace: float
    max_log_bytes: int | None
    starts_per_second: float | None
    backoff: Backoff
    rate_limit: RateLimit
    on_event: Callable[[QueueEvent], object] | None
    clock: Clock

    def limits(self, task: Task) -> tuple[float | None, float | None]:
        """Time and idle limit of a task: its own, the executor's, the queue's."""
        own_idle = getattr(self.executor, "idle_timeout", None)
        idles = (task.idle_timeout, own_idle, self.idle_timeout)
        timeout = task.timeout if task.timeout is not None else self.task_timeout
        return timeout, next((idle for idle in idles if idle is not None), None)

    def prepare(self, task: Task, run: Run) -> Command:
        try:
            command = self.executor.prepare(task, run)
        except Refused as error:
            raise NotStarted(f"Failed to start {task.id}: {error}", permanent=True) from error
        except Exception as error:
            _log.exception("the executor cannot prepare task %s", task.id)
            raise NotStarted(
                f"Failed to start {task.id}: {type(error).__name__}: {error}", permanent=True
            ) from error
        if not isinstance(command, Command):
            raise NotStarted(
                f"Failed to start {task.id}: the executor gave {type(command).__name__}, not a Command",
                permanent=True,
            )
        return command

    def judge(self, task: Task, end: End) -> ExecutionResult:
        try:
            execution: object = self.executor.judge(task, end)
        except Exception as error:  # noqa: BLE001 - an executor may be anybody's
            _log.exception("the executor cannot judge task %s", task.id)
            words = f"the executor cannot judge it: {type(error).__name__}: {error}"
            return ExecutionResult(success=False, message=words, error=words)
        if not isinstance(execution, ExecutionResult):
            words = f"the executor gave {type(execution).__name__}, not an ExecutionResult"
            return ExecutionResult(success=False, message=words, error=words)
        return execution
