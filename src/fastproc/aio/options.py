"""From the keyword arguments of subprocess.Popen, and ours, to those of Command."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from errno import EACCES
from typing import Any

from .._native.tap import Extras
from ..command import Arg
from ..errors import spawn_error

# What Popen takes, and what of it means "as always". Only the others have a meaning that is not the same
# here.
_AS_ALWAYS: dict[str, object] = {
    "bufsize": 0,
    "close_fds": True,
    "creationflags": 0,
    "executable": None,
    "pipesize": -1,
    "preexec_fn": None,
    "process_group": None,
    "restore_signals": True,
    "startupinfo": None,
    "umask": -1,
}
_TEXT = ("universal_newlines", "text", "encoding", "errors")
# In the child zone nothing of Python can run: clone3(2) borrows our memory until execve(2).
_INSTEAD = (
    "preexec_fn cannot run here; say what it does: cwd, umask, user, group, extra_groups, nice, limits, "
    "cpu_affinity, no_new_privs, start_new or process_group, pass_fds"
)


def split(options: dict[str, Any]) -> tuple[dict[str, Any], Extras, int]:
    """Take out what only Popen knows; returns the options of Command, the rest, and the size of pipes.

    Raises:
        TypeError, ValueError: an option that cannot be had, or a wrong value.
    """
    if not options:
        return options, _NONE, -1
    said = _copied(options)
    program, keep_signals, pipe_bytes, group = None, False, -1, -1
    for name in [name for name in said if name in _AS_ALWAYS]:
        value = said.pop(name)
        if value == _AS_ALWAYS[name] and not (name == "umask" and value is None):
            continue
        if name == "close_fds":
            if not value:
                said["pass_fds"] = sorted({*said.get("pass_fds", ()), *inheritable_descriptors()})
        elif name == "executable":
            program = os.fsencode(value)
            if not program or b"\0" in program:
                raise ValueError(f"executable: {value!r} is not a program")
        elif name == "process_group":
            group = _joined(value, said)
        elif name == "restore_signals":
            keep_signals = True
        elif name == "umask":
            said["umask"] = value
        elif name == "pipesize":
            pipe_bytes = _whole(name, value)
        else:
            raise ValueError(_refusal(name, value))
    start_new_session = said.pop("start_new_session", None)
    if start_new_session:
        said["start_new"] = "session"
    return said, Extras(program=program, keep_signals=keep_signals, process_group=group), pipe_bytes


_NONE = Extras()
_STANDARD_STREAMS = (0, 1, 2)


def _copied(options: dict[str, Any]) -> dict[str, Any]:
    """To take out of, without the standard streams among `pass_fds`: they are handed on in any case."""
    said = dict(options)
    if "args" in said:
        raise TypeError(
            "args is no option here: say program and arguments one by one, as in ('sort', '-u', 'names.txt')"
        )
    descriptors = said.get("pass_fds")
    # What is not iterable is refused by Command.
    if isinstance(descriptors, Iterable):
        said["pass_fds"] = [descriptor for descriptor in descriptors if descriptor not in _STANDARD_STREAMS]
    return said


def _joined(process_group: object, said: dict[str, Any]) -> int:
    """The group to join, -1 for none; who leads a new one (0), or joins one, has that said as well."""
    group = _whole("process_group", process_group)
    if group == 0:
        said["start_new"] = "group"
    elif group > 0:
        if said.setdefault("start_new", None) == "group":
            raise ValueError(
                f"process_group={group} joins a group, and start_new='group' leads a new one: say one of them"
            )
        return group
    return -1


def refuse_nameless(words: Sequence[Any], options: Mapping[str, Any]) -> None:
    """A program without a name, as the standard library has it: the kernel is not even asked.

    Raises:
        SpawnError: a PermissionError.
    """
    if words[0] in ("", b"") and not options.get("executable"):
        raise spawn_error(EACCES, "exec", filename=words[0], words="the name of the program is empty")


def refuse_text(options: Mapping[str, Any]) -> None:
    """As asyncio does: its streams are of bytes.

    Raises:
        ValueError: text was asked for.
    """
    for name in _TEXT:
        if options.get(name):
            raise ValueError(
                f"{name} cannot be had: these streams are of bytes; use run(), or decode what you read"
            )


def drop_text(options: dict[str, Any]) -> None:
    """They are there, and mean nothing."""
    for name in _TEXT:
        options.pop(name, None)


def _refusal(name: str, value: object) -> str:
    match name:
        case "preexec_fn":
            return _INSTEAD
        case "bufsize":
            return f"bufsize must be 0, not {value!r}: what is written goes into the pipe at once"
        case _:
            return f"{name} is only supported on Windows platforms"


def _whole(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    return value


def inheritable_descriptors() -> list[int]:
    """The descriptors above 2 that a child would get by execve(2) alone, see PEP 446."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        descriptor = int(name)
        try:
            if descriptor > 2 and os.get_inheritable(descriptor):
                found.append(descriptor)
        except OSError:
            continue  # the one that was listing
    return found


def shell_args(cmd: str | bytes, options: dict[str, Any]) -> list[Arg]:
    """What has `cmd` carried out by a shell. `executable` names another shell than /bin/sh."""
    if not isinstance(cmd, (str, bytes)):
        raise ValueError("cmd must be a string")  # noqa: TRY004 - as asyncio does
    return [options.pop("executable", None) or "/bin/sh", "-c", cmd]
