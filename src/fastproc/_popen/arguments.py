"""What the arguments of Popen and run mean, and which error a failed start is."""

from __future__ import annotations

import codecs
import errno
import locale
import math
import operator
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from .._native import solo
from .._native.kernel import stage_name
from .._native.records import FailureRecord
from ..command import MOST_GROUPS, Command
from ..errors import spawn_error

EXTRAS: Final = ("limits", "grace", "idle_timeout", "no_new_privs", "cpu_affinity", "nice")
"""The keywords that subprocess does not know."""

_AS_OPTIONS: Final = ("limits", "no_new_privs", "cpu_affinity", "nice")
_OUR_STAGES: Final = frozenset({"cgroup", "rlimit", "nice", "affinity", "sandbox"})


class Extras(NamedTuple):
    """The extra keywords, checked."""

    command: Command
    names: tuple[str, ...]
    grace: float | None
    idle_timeout: float | None

    @classmethod
    def of(cls, given: dict[str, Any]) -> Extras | None:
        """What was given of them, or None.

        Raises:
            TypeError, ValueError: one of them makes no sense.
        """
        said = {name: value for name, value in given.items() if value is not None and value is not False}
        if not said:
            return None
        command = Command(("-",), **said)
        names = tuple(name for name in _AS_OPTIONS if name in said)
        grace = command.grace if "grace" in said else None
        return cls(command, names, grace, command.idle_timeout)


def command_line(args: Any, executable: Any, shell: Any) -> tuple[list[Any], Any]:
    """The arguments as a list, and the program, as subprocess makes them of what it is given."""
    if isinstance(args, (str, bytes)):
        args = [args]
    elif isinstance(args, os.PathLike):
        if shell:
            raise TypeError("path-like args is not allowed when shell is true")
        args = [args]
    else:
        args = list(args)
    if shell:
        args = ["/bin/sh", "-c", *args]
        if executable:
            args[0] = executable
    if executable is None:
        executable = args[0]
    return args, executable


def set_command(filled: solo.Berth, args: list[Any], executable: Any, cwd: Any, env: Any) -> None:
    """What is to be executed, where, and in which environment."""
    solo.set_environment(filled, env)
    solo.set_arguments(filled, args)
    if executable is not args[0]:
        solo.set_program(filled, executable)
    if not executable:
        # The directories of PATH themselves are what is then tried, and all of them refuse.
        there = [path for path in os.get_exec_path(env) if os.path.isdir(path)]
        solo.set_program(filled, os.path.join(there[0] if there else "/nonexistent", ""))
    if cwd is not None:
        solo.set_directory(filled, cwd)


def kept_descriptors(pass_fds: Iterable[Any]) -> list[int]:
    """The descriptors to hand on, beside the standard streams."""
    kept = sorted({int(fd) for fd in pass_fds})
    if kept and (kept[0] < 0 or kept[-1] >= 2**31):
        raise ValueError("bad value(s) in fds_to_keep")
    return [fd for fd in kept if fd > 2]


def point_in_time(timeout: float) -> float:
    """When it is over, on the monotonic clock.

    Raises:
        ValueError: it is NaN, of which no comparison is true.
    """
    until = time.monotonic() + timeout
    if math.isnan(until):
        raise ValueError("timeout is not a number (NaN): give seconds, or None to wait for ever")
    return until


def refuse_wide(umask: int, groups: Sequence[int] | None) -> None:
    """What the kernel would cut off, or not take.

    Raises:
        OverflowError, ValueError: as subprocess does.
    """
    if not -(2**31) <= operator.index(umask) < 2**31:
        raise OverflowError(f"umask={umask} is out of range: a mask has nine bits, as 0o022 has")
    if groups is not None and len(groups) > MOST_GROUPS:
        raise ValueError(f"too many extra_groups: {len(groups)}, and the kernel takes {MOST_GROUPS}")


def start_error(failure: FailureRecord, executable: Any, cwd: Any) -> OSError:
    """The exception for a failed start: that of subprocess, and ours for what only we can do."""
    error, number, detail = failure
    stage = stage_name(number)
    if stage in _OUR_STAGES:
        return spawn_error(error, stage, detail=detail)
    words = os.strerror(error)
    if stage == "cwd":
        return OSError(error, words, cwd)
    if stage == "exec" or (stage == "request" and error == errno.E2BIG):
        return OSError(error, words, executable)
    return OSError(error, words)


# ---- text ----


def text_encoding() -> str:
    """That of text mode where none is named. Warns as subprocess does, of the caller outside of us."""
    if sys.flags.warn_default_encoding:
        warnings.warn("'encoding' argument not specified.", EncodingWarning, _frames_of_ours() + 1)
    return "utf-8" if sys.flags.utf8_mode else locale.getencoding()


def _frames_of_ours() -> int:
    ours = (os.path.dirname(os.path.dirname(__file__)), subprocess.__file__)
    count = 1
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(ours):
        frame = frame.f_back
        count += 1
    return count - 1


def is_text_encoding(encoding: str) -> bool:
    """Whether a stream could be opened with it."""
    try:
        return bool(codecs.lookup(encoding)._is_text_encoding)
    except (LookupError, TypeError, ValueError):
        return False


def translated(data: bytes, encoding: str, errors: str | None) -> str:
    """As a stream in text mode reads it."""
    text = data.decode(encoding, errors or "strict")
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def so_far(data: bytes, encoding: str, errors: str | None) -> str:
    """An output that was cut off: half a character at its end is left out, a wrong one is replaced."""
    try:
        text = codecs.getincrementaldecoder(encoding)(errors or "strict").decode(data)
    except UnicodeError:
        text = codecs.getincrementaldecoder(encoding)("replace").decode(data)
    return text.replace("\r\n", "\n").replace("\r", "\n")


# ---- statuses ----


def warn_of_lost_status(pid: int, args: Any) -> None:
    """There is no returncode, and nothing to take for one."""
    warnings.warn(
        f"the exit status of process {pid} ({args!r}) was taken by other code of this program, and the "
        "kernel cannot tell it any more: its returncode is None",
        RuntimeWarning,
        _frames_of_ours() + 1,
    )
