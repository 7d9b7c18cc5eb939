"""From a failure record to a SpawnError that names the culprit."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

from ..command import DEVNULL, NO_GUARD, PIPE, STDOUT, Command, HasFileno, LogFile
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
        filename=_culprit(command, stage, detail, error),
        detail=detail,
        words=_containment_words(command, error) if stage == "cgroup" and detail < 0 else None,
        search_path=_search_path(command),
        cwd=command.cwd,
    )


def closed_descriptor(command: Command) -> SpawnError | None:
    """The error for a descriptor that the command names and that is not open; None if all are.

    To be asked before a start opens anything: the number of what is closed would go to that, and the child
    would get a descriptor of ours.
    """
    if not command.plain:
        for target, source in _descriptors(command):
            try:
                os.fstat(source if isinstance(source, int) else source.fileno())
            except (OSError, ValueError):  # ValueError is what a closed file object says
                return _not_open(target, source)
    return None


def _descriptors(command: Command) -> Iterator[tuple[int, int | HasFileno]]:
    for target, stream in enumerate((command.stdin, command.stdout, command.stderr)):
        if isinstance(stream, int):
            if stream >= 0:
                yield target, stream
        elif stream is not None and not isinstance(stream, (str, bytes, os.PathLike, LogFile)):
            yield target, stream
    for descriptor in command.pass_fds:
        yield descriptor, descriptor


def _not_open(target: int, source: int | HasFileno) -> SpawnError:
    option = f"as {('stdin', 'stdout', 'stderr')[target]}" if target <= 2 else "in pass_fds"
    if isinstance(source, int):
        name, words = f"fd {source}", f"the descriptor {source}, given {option}, is not open"
    else:
        name, words = f"fd {target}", f"the file given {option} is closed: {source!r}"
    return spawn_error(errno.EBADF, "fds", filename=name, words=words)


def _culprit(command: Command, stage: str, detail: int, error: int) -> Culprit:
    if stage == "request" and error == errno.E2BIG and detail < 0:
        return _longest_variable(command)
    if stage == "exec":
        return command.args[0]
    if stage == "cwd":
        return command.cwd
    if stage == "ids":
        return _identity(command)
    if stage == "affinity" and command.cpu_affinity is not None:
        return f"CPU {', '.join(map(str, sorted(command.cpu_affinity)))}"
    if stage == "fds" and 0 <= detail <= 2:
        return _stream_path((command.stdin, command.stdout, command.stderr)[detail])
    return None


def _containment_words(command: Command, error: int) -> str | None:
    """Which wish of the command it was that needs a cgroup, where there is none."""
    limits = command.limits
    limit = None
    if limits is not None:
        limit = next((name for name in ("memory", "pids", "cpus") if getattr(limits, name) is not None), None)
    if error == errno.EINVAL and limit is not None:
        return f"the limit {limit} needs a cgroup, but the containment asked for is 'session'"
    if error != errno.EOPNOTSUPP:
        return None
    if command.containment == "guard":
        return NO_GUARD
    if limit is None and command.containment != "cgroup":
        return None
    wish = "containment 'cgroup'" if limit is None else f"the limit {limit}"
    asked = os.environ.get("FASTPROC_CGROUP")
    where = "there is none" if asked is None else f"FASTPROC_CGROUP={asked} is not one"
    return f"{wish} needs a cgroup v2 directory that we may write to; {where}, see `fastproc doctor`"


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


def _longest_variable(command: Command) -> str:
    if command.env_block is None:
        variables = [os.fsencode(f"{name}={value}") for name, value in os.environ.items()]
    else:
        variables = command.env_block.split(b"\0")
    return os.fsdecode(max(variables, key=len).partition(b"=")[0])


def _search_path(command: Command) -> str | None:
    """The PATH that the library has searched: that of the child's own environment."""
    if command.env_block is None:
        return None
    for variable in command.env_block.split(b"\0"):
        if variable.startswith(b"PATH="):
            return os.fsdecode(variable[5:])
    return "/usr/local/bin:/usr/bin:/bin"
