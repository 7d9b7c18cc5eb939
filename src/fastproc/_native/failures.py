"""From a failure record to a SpawnError that names the culprit."""

from __future__ import annotations

import os

from ..command import DEVNULL, PIPE, STDOUT, Command, LogFile
from ..errors import SpawnError, spawn_error
from .kernel import stage_name
from .records import FailureRecord

Culprit = str | bytes | os.PathLike[str] | os.PathLike[bytes] | None


def spawn_error_of(command: Command, failure: FailureRecord) -> SpawnError:
    """The exception for a start of `command` that has failed."""
    error, stage_number, detail = failure
    stage = stage_name(stage_number)
    return spawn_error(
        error,
        stage,
        filename=_culprit(command, stage, detail),
        detail=detail,
        search_path=_search_path(command),
        cwd=command.cwd,
    )


def _culprit(command: Command, stage: str, detail: int) -> Culprit:
    if stage == "exec":
        return command.args[0]
    if stage == "cwd":
        return command.cwd
    if stage == "ids":
        return _identity(command)
    if stage == "fds" and 0 <= detail <= 2:
        return _stream_path((command.stdin, command.stdout, command.stderr)[detail])
    return None


def _identity(command: Command) -> str | None:
    who = next((it for it in (command.user, command.group) if it is not None), None)
    return None if who is None else str(who)


def _stream_path(value: object) -> Culprit:
    if isinstance(value, LogFile):
        return value.path
    if isinstance(value, (str, bytes, os.PathLike)):
        return value
    if value in (None, DEVNULL, PIPE, STDOUT) or isinstance(value, int):
        return None
    name = getattr(value, "name", None)
    return name if isinstance(name, (str, bytes)) else None


def _search_path(command: Command) -> str | None:
    """The PATH that the library has searched: that of the child's own environment."""
    if command.env_block is None:
        return None
    for variable in command.env_block.split(b"\0"):
        if variable.startswith(b"PATH="):
            return os.fsdecode(variable[5:])
    return "/usr/local/bin:/usr/bin:/bin"
