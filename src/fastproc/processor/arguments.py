"""What is given to a Processor and to submit(), checked."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..command import Arg
from .formats import BadTask
from .task import Task, plain_fields

_SUBSTANCE = {"args", "command", "prompt", "title", "notes", "operation", "type", "target", "targets"}
"""A task that has none of these says nothing to any executor: a misspelt field, most likely."""


def make_task(
    task: Task | Mapping[str, Any] | Sequence[Arg] | None,
    given: Mapping[str, Any],
    made_up: set[str] | None = None,
) -> Task:
    """A task from what submit() takes, checked. An id that had to be made up is added to `made_up`."""
    fields: dict[str, Any]
    if isinstance(task, Task):
        fields = {**task.fields, "id": task.id}
    elif isinstance(task, Mapping):
        fields = plain_fields(task)
    elif task is None:
        fields = {}
    elif isinstance(task, (str, bytes)):
        raise TypeError(
            f"a task must be a list such as ['sort', 'names.txt'] or a mapping of fields, not the text "
            f"{task!r:.80}; a prompt is passed as prompt="
        )
    elif isinstance(task, Iterable):
        fields = {"args": [_word(word) for word in task]}
    else:
        raise TypeError(f"a task must be a list of words or a mapping of fields, not {task!r:.80}")
    fields |= plain_fields(given)
    if not fields.keys() & _SUBSTANCE:
        raise BadTask("a task needs args, or a prompt, or at least a title, a type or a target")
    if "id" not in fields:
        # Sorts by time, and is nobody else's: nobody looks whether it is taken.
        fields["id"] = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{os.urandom(8).hex()}"
        if made_up is not None:
            made_up.add(fields["id"])
    if not isinstance(fields["id"], str):
        raise BadTask(f"{fields['id']!r:.80} is no task id: it must be text")
    fields.setdefault("created_at", time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
    return Task.read(fields["id"], fields)


def _word(word: object) -> str:
    if isinstance(word, (str, bytes, os.PathLike)):
        return os.fsdecode(word)
    if isinstance(word, (int, float)) and not isinstance(word, bool):
        return str(word)
    raise BadTask(f"args must be words, not {word!r:.80}")


def check_count(name: str, value: object, *, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {value}")


def check_seconds(
    name: str, value: object, *, optional: bool = False, zero: bool = False, past: bool = False
) -> None:
    """Whether it is a length of time; with `past` also one that is over already."""
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, not {value!r}")
    if past and value < 0:
        return
    if not (value >= 0 if zero else value > 0):
        raise ValueError(f"{name} must be {'0 seconds or more' if zero else 'above 0 seconds'}, not {value}")


def check_rate(name: str, value: object) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, not {value!r}")
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be above 0, not {value}")


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be {' or '.join(map(repr, choices))}, not {value!r}")


def check_kind(name: str, value: object, kind: type) -> None:
    if value is not None and not isinstance(value, kind):
        raise TypeError(f"{name} must be a {kind.__name__}, not {value!r:.80}")


def check_methods(name: str, value: object, *methods: str) -> None:
    """Whether it can be what a Protocol asks for, before the first task finds out."""
    if value is None:
        return
    for method in methods:
        if isinstance(value, type) or not callable(getattr(value, method, None)):
            raise TypeError(f"{name} must be an object with {method}(), not {value!r:.80}")
