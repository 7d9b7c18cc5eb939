"""What happened, as observers are told: small frozen facts, each after the state has changed.

Times are seconds on the monotonic clock. No event carries arguments or environment: they may be
secret, and an observer may write all it hears into a log.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from .errors import FastprocError, TaskId
from .status import ExitStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A program runs: execve(2) has succeeded."""

    task_id: TaskId
    pid: int
    at: float
    spawn_seconds: float
    """From the request to the running program."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A start has failed, and nothing of it is left."""

    task_id: TaskId
    at: float
    error: FastprocError


@dataclass(frozen=True, slots=True, kw_only=True)
class Escalated:
    """It did not end within its grace: SIGKILL has been sent."""

    task_id: TaskId
    pid: int
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Exited:
    """The process has ended, and how is known. Descendants or output may remain: see Done."""

    task_id: TaskId
    pid: int
    at: float
    status: ExitStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """Nothing of the task remains, or what remains was let go on request: its id is free again."""

    task_id: TaskId
    pid: int
    at: float
    status: ExitStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Unkillable:
    """It has outlived SIGKILL, probably in state ``D`` of proc(5); it is watched on."""

    task_id: TaskId
    pid: int
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OrphanReaped:
    """A descendant of ours that had lost its parent has ended and was reaped."""

    task_id: TaskId | None
    """Whose descendant it was, where that is known."""
    pid: int
    at: float
    status: ExitStatus


Event: TypeAlias = Started | Refused | Escalated | Exited | Done | Unkillable | OrphanReaped
