"""What observers of a Processor are told: small frozen facts, each after it has become durable.

Times are seconds since 1970. `kind` is the name that logs and other programs use. No event carries arguments,
environment or prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from .task import ExecutionResult, TaskState


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskStarted:
    """An attempt runs; or goes on, adopted after a crash of an earlier Processor."""

    kind: ClassVar[str] = "task_started"
    task_id: str
    attempt: int
    pid: int
    at: float
    adopted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskProgress:
    """A running task has printed something. Told once a poll_interval at most."""

    kind: ClassVar[str] = "task_progress"
    task_id: str
    attempt: int
    at: float
    log_bytes: int
    last_line: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskStatusChanged:
    """A task has moved. `outcome` is what came of the attempt that ended with it, as in TaskResult."""

    kind: ClassVar[str] = "task_status_changed"
    task_id: str
    at: float
    before: TaskState | None
    after: TaskState
    reason: str = ""
    outcome: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskCompleted:
    """A task is done."""

    kind: ClassVar[str] = "task_completed"
    task_id: str
    attempt: int
    at: float
    execution: ExecutionResult | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFailed:
    """An attempt has failed; `final` if there will be no further one."""

    kind: ClassVar[str] = "task_failed"
    task_id: str
    attempt: int
    at: float
    outcome: str
    final: bool
    reason: str
    retry_at: float | None = None
    execution: ExecutionResult | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskQuarantined:
    """A file was no task, and has been put away."""

    kind: ClassVar[str] = "task_quarantined"
    name: str
    at: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimitPause:
    """The queue starts nothing until then."""

    kind: ClassVar[str] = "rate_limit_pause"
    task_id: str
    at: float
    until: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimitResume:
    """The queue goes on."""

    kind: ClassVar[str] = "rate_limit_resume"
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthChanged:
    """The queue is "ok" again, or "degraded"."""

    kind: ClassVar[str] = "health_changed"
    at: float
    health: str
    causes: tuple[str, ...]


QueueEvent: TypeAlias = (
    TaskStarted
    | TaskProgress
    | TaskStatusChanged
    | TaskCompleted
    | TaskFailed
    | TaskQuarantined
    | RateLimitPause
    | RateLimitResume
    | HealthChanged
)
