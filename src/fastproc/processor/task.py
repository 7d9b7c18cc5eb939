"""What is queued and what came of it: frozen values, checked when made, with no I/O.

Task              what a task file says
Ticket            the little of it that the queue keeps in memory while it is pending
ExecutionResult   what an executor says of one attempt
Attempt           one attempt: when, which process, what came of it
TaskResult        what result() tells: the last attempt, and where the task stands
"""

from __future__ import annotations

import datetime as dt
import math
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import Any, Final, NamedTuple

from ..status import ExitStatus
from .formats import MAX_DEPTH, BadTask

# No separator, no leading dot or dash, nothing that a shell, a terminal or a file system could misread.
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")
_SUFFIXES: Final = (".json", ".yaml", ".yml")


class TaskState(StrEnum):
    """Where a task is; each is a directory of that name."""

    PENDING = "pending"
    IN_PROGRESS = "in-progress"
    COMPLETED = "completed"
    FAILED = "failed"
    QUARANTINE = "quarantine"


class Priority(StrEnum):
    """How urgent a task is. An unknown word counts as medium."""

    CRITICAL = "critical"
    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"

    @property
    def rank(self) -> int:
        """0 for the most urgent."""
        return _RANKS[self]

    @classmethod
    def read(cls, word: object) -> Priority:
        """The priority that a task file means."""
        try:
            return cls(str(word).strip().lower())
        except ValueError:
            return cls.MEDIUM


_RANKS = {Priority.CRITICAL: 0, Priority.HIGH: 1, Priority.MEDIUM: 2, Priority.LOW: 3}


MOST_LOST = 2
"""A task whose Processor has died that often while it ran beside others is run alone from then on."""


class Ticket(NamedTuple):
    """What the queue keeps of a pending task."""

    id: str
    name: str
    """Its file name."""
    rank: int
    since: float
    """When it was queued, in seconds since 1970."""
    not_before: float = 0.0
    """Not earlier than that, in seconds since 1970."""
    dependencies: tuple[str, ...] = ()
    blocks: tuple[str, ...] = ()
    lost: int = 0
    """How often in a row its Processor has died while it ran beside others."""

    @property
    def is_suspect(self) -> bool:
        """Whether it may be what kills the Processor: then it runs alone, so that the next time shows."""
        return self.lost >= MOST_LOST


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What a task file says. Made by Task.read(); fields that nobody here knows are kept in `fields`.

    Attributes:
        id: its name: letters, digits, dots, underscores and dashes, 128 at most.
        args: program and arguments, for CommandExecutor.
        prompt: what to tell an agent, for AgentExecutor; `title`, `notes` and the rest go with it.
        cwd, env, stdin, limits: surroundings of the program.
        timeout, idle_timeout: seconds, instead of the Processor's.
        max_attempts: instead of the Processor's.
        not_before: seconds since 1970.
        dependencies: ids of tasks that must be completed first; `blocks` says the same of this one to others.
        auto_requeue: queue it again once it is completed.
        fields: all that the file says, as plain values.
    """

    id: str
    title: str = ""
    type: str = ""
    operation: str = ""
    targets: tuple[str, ...] = ()
    priority: Priority = Priority.MEDIUM
    dependencies: tuple[str, ...] = ()
    blocks: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    notes: str = ""
    created_at: str = ""
    args: tuple[str, ...] | None = None
    prompt: str | None = None
    cwd: str | None = None
    env: Mapping[str, str] = field(default_factory=dict, hash=False)
    stdin: str | None = None
    limits: Mapping[str, Any] = field(default_factory=dict, hash=False)
    timeout: float | None = None
    idle_timeout: float | None = None
    max_attempts: int | None = None
    not_before: float = 0.0
    auto_requeue: bool = False
    fields: Mapping[str, Any] = field(default_factory=dict, hash=False, repr=False)

    @classmethod
    def read(cls, task_id: str, fields: Mapping[str, Any]) -> Task:
        """Check the fields of a task, and make it.

        Raises:
            BadTask: a ValueError that names the field and what is wrong with it.
        """
        check_id(task_id)
        said = fields.get("id")
        # Unquoted digits are a number in YAML.
        if said is not None and said != task_id and (isinstance(said, bool) or str(said) != task_id):
            hint = "" if isinstance(said, str) else "; an id that looks like a number needs quotes"
            raise BadTask(f"id is {said!r:.140}, but the file is named for {task_id!r}{hint}")
        # Only what it says is read: of all that it may say, most tasks say very little.
        values = {}
        for name in fields:
            known = _FIELDS.get(name)
            if known is not None:
                values[known[0]] = known[1](fields, name)
        return cls(id=task_id, fields=dict(fields), **values)

    def ticket(self, name: str, since: float, not_before: float = 0.0) -> Ticket:
        """What the queue keeps of it."""
        return Ticket(
            self.id,
            name,
            self.priority.rank,
            since,
            max(self.not_before, not_before),
            self.dependencies,
            self.blocks,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionResult:
    """What an executor says of one attempt.

    Attributes:
        success: whether the task is done.
        message: one sentence for people.
        output: what the program printed, its beginning and its end; all of it is in the log.
        error: what went wrong, or "".
        rate_limited: a service has had enough: not a failure, try again after `retry_after` seconds.
        max_turns_exceeded: the agent has used all its turns.
        idle_timeout: it was stopped because it had printed nothing for too long.
        permanent: trying again would not help.
    """

    success: bool
    message: str = ""
    output: str = ""
    error: str = ""
    rate_limited: bool = False
    retry_after: float | None = None
    max_turns_exceeded: bool = False
    idle_timeout: bool = False
    permanent: bool = False

    def as_fields(self) -> dict[str, Any]:
        """As plain values, which its fields are already."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One attempt of a task, from its beginning to what came of it.

    Attributes:
        number: 1 for the first.
        begun_at, finished_at: seconds since 1970; the second is None while it runs.
        pid: of its leader, if one was started.
        outcome: as in TaskResult; None while it runs, and of one that a crash has cut off before it began.
        retry_at: when the next one may begin.
    """

    number: int
    begun_at: float
    pid: int | None = None
    outcome: str | None = None
    exit: ExitStatus | None = None
    execution: ExecutionResult | None = None
    reason: str = ""
    retry_at: float | None = None
    finished_at: float | None = None
    log_path: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskResult:
    """Where a task stands, and what came of its last attempt.

    Attributes:
        state: the directory it is in.
        attempts: how many were begun.
        failures: how many of them count against `max_attempts`.
        outcome: of the last attempt: succeeded, failed, refused, rate_limited, lost, cancelled, given_back;
            or None while there is none.
        exit: how its process ended; None if none was started or nobody knows.
        execution: what the executor said.
        reason: why it is where it is, in words.
        started_at, finished_at: seconds since 1970.
        log_path: what it printed.
    """

    task_id: str
    state: TaskState
    attempts: int = 0
    failures: int = 0
    outcome: str | None = None
    exit: ExitStatus | None = None
    execution: ExecutionResult | None = None
    reason: str = ""
    started_at: float | None = None
    finished_at: float | None = None
    log_path: str | None = None


# ---- names ----


def check_id(task_id: object) -> str:
    """A task id as it was given, or BadTask."""
    if not isinstance(task_id, str) or not _ID.match(task_id):
        raise BadTask(
            f"{task_id!r:.140} is no task id: letters, digits, '.', '_' and '-', 128 at most, "
            "the first a letter or digit"
        )
    if task_id.endswith(_SUFFIXES):
        raise BadTask(f"{task_id!r} is no task id: it ends like a file name")
    return task_id


@lru_cache(maxsize=64)  # it is asked several times on the way of one file
def split_name(name: str) -> tuple[str, str] | None:
    """Task id and suffix of a file name in the queue, or None if it is none."""
    for suffix in _SUFFIXES:
        if name.endswith(suffix):
            stem = name[: -len(suffix)]
            return (stem, suffix) if _ID.match(stem) and not stem.endswith(_SUFFIXES) else None
    return None


def names_of(task_id: str) -> tuple[str, ...]:
    """The file names that a task may have."""
    return (f"{task_id}.json", f"{task_id}.yaml", f"{task_id}.yml")


# ---- fields ----

# Beyond it a whole number is no float any more, and cannot be compared with the time.
_MOST: Final = sys.float_info.max


def _shown(value: object) -> str:
    """A wrong value for people. One of thousands of digits cannot even be printed, see sys.int_info."""
    if isinstance(value, int) and not -_MOST <= value <= _MOST:
        return "a number of hundreds of digits"
    return f"{value!r:.80}"


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    if value is None:
        return ""
    if isinstance(value, (list, dict)):
        raise BadTask(f"{name} must be text, not a {type(value).__name__}")
    return str(value)


def _optional_text(fields: Mapping[str, Any], name: str) -> str | None:
    value = fields.get(name)
    if value is not None and not isinstance(value, str):
        raise BadTask(f"{name} must be text, not {value!r:.80}")
    if value is not None and name == "cwd" and "\0" in value:
        raise BadTask(f"{name} has a NUL character in it")
    return value


def _words(fields: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = fields.get(name)
    if value is None or value == "":
        return ()
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list) or not all(isinstance(word, (str, int, float)) for word in value):
        raise BadTask(f"{name} must be a list of words, not {value!r:.80}")
    return tuple(map(str, value))


def _args(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        raise BadTask(
            f"args must be a list such as [sort, -u, names.txt], not the text {value!r:.80}: "
            "there is no shell"
        )
    if not isinstance(value, list) or not value:
        raise BadTask(f"args must be a list of words, not {value!r:.80}")
    for word in value:
        if isinstance(word, bool) or not isinstance(word, (str, int, float)):
            raise BadTask(f"args must be a list of words, but has {word!r:.80}")
        if isinstance(word, str) and "\0" in word:
            raise BadTask("args has a NUL character in it")
    if not str(value[0]):
        raise BadTask("args[0] is empty: it must name a program")
    return tuple(map(str, value))


def _env(value: object) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BadTask(f"env must be a mapping of names to values, not {value!r:.80}")
    env = {}
    for name, item in value.items():
        if not name or "=" in name or "\0" in name:
            raise BadTask(f"env has a name that cannot be one: {name!r:.80}")
        if isinstance(item, bool) or not isinstance(item, (str, int, float)) or "\0" in str(item):
            raise BadTask(f"env: the value of {name!r:.80} must be text")
        env[name] = str(item)
    return env


def _limits(value: object) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BadTask(f"limits must be a mapping such as {{memory: 1000000000}}, not {value!r:.80}")
    # Limits itself checks names and numbers when the executor makes it; pairs come as lists.
    return {name: tuple(item) if isinstance(item, list) else item for name, item in value.items()}


def _seconds(fields: Mapping[str, Any], name: str) -> float | None:
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= _MOST:
        raise BadTask(f"{name} must be a number of seconds above 0, not {_shown(value)}")
    return float(value)


def _count(fields: Mapping[str, Any], name: str) -> int | None:
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1_000_000:
        raise BadTask(f"{name} must be a whole number from 1 to 1000000, not {value!r:.80}")
    return value


def _flag(fields: Mapping[str, Any], name: str) -> bool:
    value = fields.get(name, False)
    if not isinstance(value, bool):
        raise BadTask(f"{name} must be true or false, not {value!r:.80}")
    return value


def _moment(value: object) -> float:
    """Seconds since 1970, from a number or from text such as 2030-01-31T12:00:00Z; without a zone it is
    UTC.
    """
    if value is None:
        return 0.0
    if isinstance(value, (int, float)) and not isinstance(value, bool) and -_MOST <= value <= _MOST:
        return float(value)
    try:
        moment = dt.datetime.fromisoformat(str(value))
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=dt.UTC)
        return moment.timestamp()
    except (ValueError, OverflowError):
        raise BadTask(
            f"not_before must be seconds since 1970 or like 2030-01-31T12:00:00Z, not {_shown(value)}"
        ) from None


def _both_targets(fields: Mapping[str, Any], _name: str) -> tuple[str, ...]:
    return _words(fields, "targets") + _words(fields, "target")


def _command(fields: Mapping[str, Any], _name: str) -> tuple[str, ...] | None:
    args = fields.get("args", fields.get("command"))
    return None if args is None else _args(args)


def _ids(fields: Mapping[str, Any], name: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(map(check_id, _words(fields, name))))


# What a file may say: the attribute of Task that means it, and what reads it.
_FIELDS: Final[dict[str, tuple[str, Callable[[Mapping[str, Any], str], Any]]]] = {
    "title": ("title", _text),
    "type": ("type", _text),
    "operation": ("operation", _text),
    "targets": ("targets", _both_targets),
    "target": ("targets", _both_targets),
    "priority": ("priority", lambda fields, name: Priority.read(fields[name])),
    "dependencies": ("dependencies", _ids),
    "blocks": ("blocks", _ids),
    "tags": ("tags", _words),
    "notes": ("notes", _text),
    "created_at": ("created_at", _text),
    "args": ("args", _command),
    "command": ("args", _command),
    "prompt": ("prompt", _optional_text),
    "cwd": ("cwd", _optional_text),
    "env": ("env", lambda fields, name: _env(fields[name])),
    "stdin": ("stdin", _optional_text),
    "limits": ("limits", lambda fields, name: _limits(fields[name])),
    "timeout": ("timeout", _seconds),
    "idle_timeout": ("idle_timeout", _seconds),
    "max_attempts": ("max_attempts", _count),
    "not_before": ("not_before", lambda fields, name: _moment(fields[name])),
    "processor_auto_requeue": ("auto_requeue", _flag),
}


def plain_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What submit() was given, as values that JSON can say."""
    return {str(name): _plain(name, value, 1) for name, value in fields.items() if value is not None}


def _plain(name: str, value: object, depth: int) -> Any:
    # What formats.py would refuse in a file is refused here: nobody is told that such a task is queued.
    if isinstance(value, (bool, int, float, str)) or value is None:
        if isinstance(value, float) and not math.isfinite(value):
            raise BadTask(f"{name} has a number that is not finite: {value}")
        return str(value) if isinstance(value, StrEnum) else value
    if isinstance(value, (bytes, os.PathLike)):
        return os.fsdecode(value)
    if isinstance(value, (dt.datetime, dt.date)):
        return value.isoformat()
    if depth >= MAX_DEPTH:
        raise BadTask(f"{name} is nested deeper than {MAX_DEPTH}")
    if isinstance(value, Mapping):
        return {str(key): _plain(name, item, depth + 1) for key, item in value.items()}
    if isinstance(value, (Sequence, set, frozenset)):
        return [_plain(name, item, depth + 1) for item in value]
    raise BadTask(f"{name} has a value that a task file cannot hold: {value!r:.80}")
