"""Every exception of fastproc, and the words for a start that failed.

    FastprocError
    ├── SpawnError          (OSError)       a program could not be started
    │   ├── SpawnNotFound   (FileNotFoundError)     errno ENOENT
    │   ├── SpawnNotADirectory (NotADirectoryError) errno ENOTDIR
    │   └── SpawnDenied     (PermissionError)       errno EACCES or EPERM
    ├── DuplicateTask       (ValueError)    that task id is active already
    │   └── TaskExists                          that task id is queued, or was, already
    ├── NoSuchTask          (LookupError)   no task of the queue has that id
    ├── QueueBusy           (RuntimeError)  another Processor works on that directory
    ├── NotActive           (LookupError)   no active task has that id
    ├── WaitTimeout         (TimeoutError)  it has not ended yet; it goes on
    ├── ManagerClosed       (RuntimeError)  the manager starts nothing any more
    ├── TooManyProcesses    (RuntimeError)  the manager is at `max_processes`
    └── ForkedHandle        (RuntimeError)  used in a forked copy of the program

Each has a standard base, so code written for the standard library catches it
too. Wrong arguments are plain TypeError and ValueError. All can be pickled.
"""

from __future__ import annotations

import errno as _errno
import os
import signal as _signal
import stat
import struct
from collections.abc import Callable, Hashable
from typing import Any, TypeAlias

TaskId: TypeAlias = Hashable
"""What a caller names a process by: usually a string, but anything hashable will do."""

_RETRYABLE = frozenset({_errno.EAGAIN, _errno.ENOMEM, _errno.EMFILE, _errno.ENFILE})


class FastprocError(Exception):
    """The root of all that fastproc raises by itself."""


class SpawnError(FastprocError, OSError):
    """A program could not be started, and nothing of the attempt is left.

    Attributes:
        errno: the error number of the step that failed.
        strerror: the reason in words.
        stage: the step: ``clone``, ``cgroup``, ``rlimit``, ``cwd``, ``ids``, ``fds``, ``exec``, ...
        filename: the culprit: a program, a directory, a user, a limit, or None.
        signal: the signal that killed the child before it could execute the program, or None.
    """

    stage: str
    signal: int | None

    def __init__(
        self,
        errno: int,
        strerror: str,
        filename: str | bytes | os.PathLike[Any] | None = None,
        *,
        stage: str,
        signal: int | None = None,
    ) -> None:
        super().__init__(errno, strerror, filename)
        self.stage = stage
        self.signal = signal

    @property
    def retryable(self) -> bool:
        """Whether the same start may well succeed later: something was used up for the moment."""
        return self.errno in _RETRYABLE

    def __str__(self) -> str:
        culprit = "" if self.filename is None else f": {self.filename!r}"
        return f"[Errno {self.errno}] {self.strerror}{culprit} (stage: {self.stage})"

    def __reduce__(self) -> tuple[Any, ...]:
        made_from = (type(self), self.errno, self.strerror, self.filename, self.stage, self.signal)
        return _spawn_error_again, made_from, self.__dict__.copy()


class SpawnNotFound(SpawnError, FileNotFoundError):
    """The program, its interpreter or its working directory does not exist."""


class SpawnNotADirectory(SpawnError, NotADirectoryError):
    """A part of a path, or the working directory, is not a directory."""


class SpawnDenied(SpawnError, PermissionError):
    """The kernel does not allow it."""


class DuplicateTask(FastprocError, ValueError):
    """A task of this id is active already."""

    def __init__(self, task_id: TaskId, words: str | None = None) -> None:
        """`words`: what is in its way, if that is not a process that runs."""
        super().__init__(task_id)
        self.task_id = task_id
        self.words = words

    def __str__(self) -> str:
        return self.words or f"task {self.task_id!r} is active already; wait for its end or choose another id"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.task_id, self.words)


class TaskExists(DuplicateTask):
    """A queue has, or had, a task of this id; a finished one can be done again by retry()."""

    def __init__(self, task_id: TaskId, state: str) -> None:
        super().__init__(task_id)
        self.state = state

    def __str__(self) -> str:
        return f"task {self.task_id!r} is {self.state} already; choose another id"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.task_id, self.state)


class NoSuchTask(FastprocError, LookupError):
    """No task of the queue has this id."""

    def __init__(self, task_id: TaskId, where: str = "in the queue") -> None:
        super().__init__(task_id, where)
        self.task_id = task_id
        self.where = where

    def __str__(self) -> str:
        return f"no task {self.task_id!r} is {self.where}"


class QueueBusy(FastprocError, RuntimeError):
    """Another Processor works on this directory, and one of the two does not share it."""

    def __init__(self, path: str, holder: str) -> None:
        super().__init__(path, holder)
        self.path = path
        self.holder = holder

    def __str__(self) -> str:
        return (
            f"the queue {self.path!r} is in use by {self.holder}; "
            "stop that one, or have all of them share it (shared=True)"
        )


class NotActive(FastprocError, LookupError):
    """No task of this id is active: it has ended, or never was."""

    def __init__(self, task_id: TaskId) -> None:
        super().__init__(task_id)
        self.task_id = task_id

    def __str__(self) -> str:
        return f"no active task has the id {self.task_id!r}"


class WaitTimeout(FastprocError, TimeoutError):
    """What was waited for has not come in time. Nothing has been stopped for it."""

    def __init__(self, what: str, timeout: float) -> None:
        super().__init__(f"{what} has not ended within {timeout:g} s")
        self.what = what
        self.timeout = timeout

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.what, self.timeout)


class ManagerClosed(FastprocError, RuntimeError):
    """The manager has been closed and starts nothing any more."""

    def __init__(self, message: str = "the manager is closed and starts nothing any more") -> None:
        super().__init__(message)


class TooManyProcesses(FastprocError, RuntimeError):
    """As many processes are active as the manager allows."""

    def __init__(self, limit: int, asked: int = 1, active: int | None = None) -> None:
        """`asked`: how many were to be started beside the `active` ones; None: the limit has been reached."""
        super().__init__(limit)
        self.limit = limit
        self.asked = asked
        self.active = limit if active is None else active

    def __str__(self) -> str:
        if self.asked == 1:
            return f"{self.active} processes are active, and max_processes={self.limit} allows no more"
        return (
            f"{self.asked} are asked for, {self.active} are active, and max_processes is {self.limit}: "
            "none was started; start fewer, or have map() start them as others end"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.limit, self.asked, self.active)


class ForkedHandle(FastprocError, RuntimeError):
    """This is a forked copy of the program; the process belongs to the original."""

    def __init__(
        self,
        message: str = "made before fork(), and its processes belong to the original; make a new manager",
    ) -> None:
        super().__init__(message)


def spawn_error(
    error: int,
    stage: str,
    *,
    filename: str | bytes | os.PathLike[Any] | None = None,
    detail: int = -1,
    search_path: str | None = None,
    cwd: str | bytes | os.PathLike[Any] | None = None,
    words: str | None = None,
) -> SpawnError:
    """The exception for a failed start, its class chosen by errno and its reason put into words.

    Looks at the file system to tell a missing program from a missing interpreter, so call it
    for failures only.

    Args:
        error: errno, positive.
        stage: name of the step that failed.
        filename: the culprit, where the caller knows it; else the stage and `detail` name it.
        detail: of the C library: a descriptor, a signal, an argument or a limit; -1 for none.
        search_path: the PATH that a program without a slash was looked for in; None: that of this process.
        cwd: the directory that the child was to start in; relative programs are relative to it.
        words: the reason, if the caller knows better.
    """
    signal = detail if stage.replace("_", "-") == "pre-exec" and detail > 0 else None
    if filename is None:
        filename = _culprit(stage, detail)
    if words is None:
        words = _words(error, stage, filename, detail, search_path, cwd)
    return _class_for(error)(error, words, filename, stage=stage, signal=signal)


def _class_for(error: int) -> type[SpawnError]:
    if error == _errno.ENOENT:
        return SpawnNotFound
    if error == _errno.ENOTDIR:
        return SpawnNotADirectory
    if error in (_errno.EACCES, _errno.EPERM):
        return SpawnDenied
    return SpawnError


def _spawn_error_again(
    cls: type[SpawnError], errno: int, strerror: str, filename: Any, stage: str, signal: int | None
) -> SpawnError:
    return cls(errno, strerror, filename, stage=stage, signal=signal)


# The limits of setrlimit(2) that a start can fail at, in the order of enum fp_rlimit_index.
RLIMIT_FIELDS = (
    "cpu",
    "address_space",
    "data",
    "file_size",
    "core",
    "stack",
    "open_files",
    "processes",
    "locked_memory",
)

# The limits that a cgroup keeps, and the controllers of cgroups(7) that do it, in the order of the library.
_CGROUP_LIMITS = (("memory", "memory"), ("pids", "pids"), ("cpus", "cpu"))

_WORDS: dict[tuple[str, int], str] = {
    ("request", _errno.E2BIG): "a variable of the environment is longer than the kernel takes (128 KiB)",
    ("pipe", _errno.EMFILE): "this process has no free descriptor for a pipe",
    ("pipe", _errno.ENFILE): "the system has no free descriptor for a pipe",
    ("clone", _errno.EAGAIN): "the user or the cgroup is at its process limit (RLIMIT_NPROC, pids.max)",
    ("clone", _errno.ENOMEM): "the kernel has no memory for one more process",
    ("clone", _errno.EMFILE): "this process has no free descriptor for one more child",
    ("clone", _errno.ENFILE): "the system has no free descriptor for one more child",
    ("session", _errno.EPERM): "the child could not become the leader of a session or group",
    ("cgroup", _errno.EOPNOTSUPP): "this containment is not available here; see `fastproc doctor`",
    ("cgroup", _errno.ENODEV): "the cgroup has been removed by somebody else",
    ("cgroup", _errno.ENOENT): "no writable cgroup v2 directory with the needed controllers; "
    "memory, pids and cpus limits and containment='cgroup' need one",
    ("cgroup", _errno.EACCES): "the cgroup is not writable for us; "
    "memory, pids and cpus limits and containment='cgroup' need a delegated one",
    ("nice", _errno.EACCES): "a higher priority needs CAP_SYS_NICE or a suitable RLIMIT_NICE",
    ("nice", _errno.EPERM): "a higher priority needs CAP_SYS_NICE or a suitable RLIMIT_NICE",
    ("affinity", _errno.EINVAL): "none of the CPUs asked for may be used here",
    ("cwd", _errno.ENOENT): "no such working directory",
    ("cwd", _errno.ENOTDIR): "the working directory is not a directory",
    ("cwd", _errno.EACCES): "no permission to enter the working directory",
    ("ids", _errno.EPERM): "no privilege to become that user or group",
    ("ids", _errno.EAGAIN): "that user is at its process limit (RLIMIT_NPROC)",
    ("exec", _errno.E2BIG): "arguments and environment together are larger than the kernel takes",
    ("exec", _errno.ETXTBSY): "the program is open for writing",
    ("exec", _errno.ELOOP): "too many symbolic links on the way to the program",
    ("exec", _errno.ENAMETOOLONG): "the name of the program is too long",
    ("exec", _errno.ENOTDIR): "a part of the path to the program is not a directory",
    ("exec", _errno.ENOMEM): "the kernel has no memory for the program",
    ("exec", _errno.EAGAIN): "that user is at its process limit (RLIMIT_NPROC)",
    ("exec", _errno.EPERM): "the kernel does not allow to execute the program",
}


def _culprit(stage: str, detail: int) -> str | None:
    if stage == "rlimit" and 0 <= detail < len(RLIMIT_FIELDS):
        return RLIMIT_FIELDS[detail]
    if stage == "fds" and detail >= 0:
        return f"fd {detail}"
    if stage == "request" and detail >= 0:
        return f"args[{detail}]"
    if stage == "cgroup" and 0 <= detail < len(_CGROUP_LIMITS):
        return _CGROUP_LIMITS[detail][0]
    return None


def _words(
    error: int,
    stage: str,
    filename: str | bytes | os.PathLike[Any] | None,
    detail: int,
    search_path: str | None,
    cwd: str | bytes | os.PathLike[Any] | None,
) -> str:
    if stage == "exec" and filename is not None and error in _EXEC_INQUIRIES:
        found = _locate(os.fsdecode(filename), search_path, None if cwd is None else os.fsdecode(cwd))
        words = _EXEC_INQUIRIES[error](found, "/" in os.fsdecode(filename))
        if words is not None:
            return words
    if stage == "request" and error == _errno.E2BIG and detail >= 0:
        return f"argument {detail} is longer than the kernel takes in one string (128 KiB)"
    if stage == "cgroup" and 0 <= detail < len(_CGROUP_LIMITS):
        limit, controller = _CGROUP_LIMITS[detail]
        return (
            f"the limit {limit} needs the controller {controller!r} in a cgroup v2 directory that we may "
            f"write to, and could not be set: {_plain(error)}"
        )
    if stage == "rlimit":
        limit = RLIMIT_FIELDS[detail] if 0 <= detail < len(RLIMIT_FIELDS) else "a resource limit"
        if error == _errno.EPERM:
            return f"the limit {limit} is above our own hard limit, and to raise that needs CAP_SYS_RESOURCE"
        return f"the limit {limit} was refused: {_plain(error)}"
    if stage == "fds":
        if error == _errno.EBADF:
            return f"the descriptor given to the child as {detail} is not open" if detail >= 0 else "not open"
        stream = {0: "standard input", 1: "standard output", 2: "standard error"}.get(detail)
        return f"{stream or f'descriptor {detail}'} could not be set up: {_plain(error)}"
    if stage.replace("_", "-") == "pre-exec":
        return f"the child was killed by {_signal_name(detail)} before it could execute the program"
    return _WORDS.get((stage, error)) or _plain(error)


def _plain(error: int) -> str:
    words = os.strerror(error)
    return words[:1].lower() + words[1:]


def _signal_name(number: int) -> str:
    try:
        return _signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _locate(program: str, search_path: str | None, cwd: str | None) -> str | None:
    """The file that execve(2) stumbled over, or None if there is none of that name."""
    base = cwd or "."
    if "/" in program:
        candidates = [os.path.join(base, program)]
    else:
        path = os.environ.get("PATH", os.defpath) if search_path is None else search_path
        candidates = [os.path.join(base, directory, program) for directory in path.split(":")]
    existing = [candidate for candidate in candidates if os.path.exists(candidate)]
    executable = [path for path in existing if os.path.isfile(path) and os.access(path, os.X_OK)]
    return next(iter(executable or existing), None)


def _why_not_found(found: str | None, has_slash: bool) -> str | None:
    if found is None:
        return "no such program" if has_slash else "no such program in any directory of PATH"
    interpreter = _script_interpreter(found)
    if interpreter is not None:
        return f"script found, but its interpreter {interpreter!r} is missing"
    loader = _elf_loader(found)
    if loader is not None:
        return f"program found, but its dynamic loader {loader!r} is missing"
    return None


def _why_denied(found: str | None, _has_slash: bool) -> str | None:
    if found is None:
        return "no permission to search a directory on the way to the program"
    for role, path in (("the program", found), ("its interpreter", _script_interpreter(found))):
        if path is None:
            continue
        try:
            mode = os.stat(path).st_mode
            no_exec = os.statvfs(path).f_flag & os.ST_NOEXEC
        except OSError:
            continue
        name = role if path == found else f"{role} {path!r}"
        if stat.S_ISDIR(mode):
            return f"{name} is a directory"
        if not mode & 0o111:
            return f"{name} is not executable (no x in its mode)"
        if no_exec:
            return f"{name} lies on a file system mounted noexec"
        if not os.access(path, os.X_OK):
            return f"{name} is not executable for this user"
    return None


def _why_no_format(found: str | None, _has_slash: bool) -> str | None:
    if found is not None and not _head(found, 1):
        return "the program is an empty file, or cannot be read"
    return "the kernel knows no such program format; a script needs a first line such as #!/bin/sh"


_EXEC_INQUIRIES: dict[int, Callable[[str | None, bool], str | None]] = {
    _errno.ENOENT: _why_not_found,
    _errno.EACCES: _why_denied,
    _errno.ENOEXEC: _why_no_format,
}


def _head(path: str, size: int) -> bytes:
    """The first bytes of a regular file; nothing if it cannot be read."""
    try:
        # O_NONBLOCK: opening a FIFO must not wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return b""
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return b""
        return os.read(descriptor, size)
    except OSError:
        return b""
    finally:
        os.close(descriptor)


def _script_interpreter(path: str) -> str | None:
    # 256 bytes are what the kernel looks at, see execve(2), "Interpreter scripts".
    head = _head(path, 256)
    if not head.startswith(b"#!"):
        return None
    words = head[2:].split(b"\n", 1)[0].split(None, 1)
    return os.fsdecode(words[0]) if words else None


def _elf_loader(path: str) -> str | None:
    """The PT_INTERP of a 64-bit ELF file in this machine's byte order, see elf(5)."""
    head = _head(path, 4096)
    if len(head) < 64 or head[:5] != b"\x7fELF\x02":
        return None
    (table,) = struct.unpack_from("=Q", head, 32)
    entry_size, entries = struct.unpack_from("=HH", head, 54)
    for index in range(entries):
        entry = table + index * entry_size
        if entry + 56 > len(head):
            break
        kind, _flags, offset, _vaddr, _paddr, size = struct.unpack_from("=IIQQQQ", head, entry)
        if kind == 3 and size > 0 and offset + size <= len(head):
            return os.fsdecode(head[offset : offset + size].rstrip(b"\0"))
    return None
