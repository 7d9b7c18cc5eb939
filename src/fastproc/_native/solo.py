"""Processes without a supervisor: run to their end, waited for and signalled by the calling thread."""

from __future__ import annotations

import errno
import os
import signal
import struct
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from ..command import Command
from . import _direct
from .check import check
from .crew import StartFailed
from .library import ffi, lib
from .owners import SOLO_OWNER, new_solo_owner
from .records import ExitRecord, FailureRecord, read_exit, read_failure
from .specs import _APPLY, Keep

INHERIT: Final[int] = lib.FP_STDIO_INHERIT
NULL_DEVICE: Final[int] = lib.FP_STDIO_DEVNULL
CAPTURED: Final[int] = lib.FP_STDIO_PIPE
DESCRIPTOR: Final[int] = lib.FP_STDIO_FD
WITH_OUTPUT: Final[int] = lib.FP_STDIO_STDOUT

TIMED_OUT: Final[int] = lib.FP_REASON_TIMEOUT
WAS_SILENT: Final[int] = lib.FP_REASON_IDLE_TIMEOUT
UNKNOWN: Final[int] = lib.FP_REASON_UNKNOWN

# After SIGKILL: who times a call out wants it back within a second, whatever becomes of the process.
KILL_TIMEOUT_NS: Final = 900_000_000
AT_ONCE: Final = -1

_NULL = ffi.NULL
_new = ffi.new
_gc = ffi.gc
_buffer = ffi.buffer
_from_buffer = ffi.from_buffer
_start = lib.fp_solo_start
_pass_on = lib.solo_pass_on
_EINTR = -errno.EINTR
_ETIMEDOUT = -errno.ETIMEDOUT
# fp_exit: state, reason, code, signal.
_END = struct.Struct(f"=8x2i{ffi.sizeof('fp_exit') - 16}x").unpack_from

_RESTORED = 1 << (signal.SIGPIPE - 1) | 1 << (signal.SIGXFSZ - 1)
_USUAL_FLAGS: Final[int] = lib.FP_KEEP_SIGNALS | lib.FP_KEEP_MASK | lib.FP_SEARCH_ON | lib.FP_ASK_FOR_ROOM

_TEMPLATE = _new("fp_spec *")
_TEMPLATE.size = ffi.sizeof("fp_spec")
_TEMPLATE.lead = lib.FP_LEAD_NOTHING
_TEMPLATE.flags = _USUAL_FLAGS
_TEMPLATE.sigdefault = _RESTORED
_TEMPLATE.grace_ns = AT_ONCE
_TEMPLATE.kill_timeout_ns = KILL_TIMEOUT_NS


_pack_addresses = struct.Struct("4P").pack


def _address(pointer: Any) -> int:
    return int(ffi.cast("uintptr_t", pointer))


class Berth:
    """A spec and what the library writes into, all made once and lent to one start after the other.

    What `reset` does not put back must not be set in one that is given back: see `usual`.
    """

    __slots__ = (
        "cell",
        "failure",
        "inherits",
        "keep",
        "pointers",
        "result",
        "solo_at",
        "spec",
        "streams",
        "usual",
    )

    def __init__(self) -> None:
        self.spec = _new("fp_spec *", _TEMPLATE[0])
        stdio = self.spec.stdio
        self.inherits = True  # all three streams, as in the template
        self.streams = tuple(ffi.addressof(stdio, index) for index in range(3))
        self.cell = new_solo_owner(SOLO_OWNER)
        self.solo_at = ffi.addressof(self.cell, "solo")
        self.result = _new("fp_result *")
        self.failure = _new("fp_failure *")
        # As direct.c wants them.
        self.pointers = _pack_addresses(*map(_address, (self.spec, self.solo_at, self.result, self.failure)))
        self.keep: Keep = []
        self.usual = True


spare: list[Berth] = []
"""For plain runs, which put nothing into `keep` and have no time for berth() and give_back()."""
SPARE_AT_MOST = 32


def berth() -> Berth:
    """One to fill."""
    try:
        return spare.pop()
    except IndexError:
        return Berth()


def give_back(used: Berth) -> None:
    """Its process has been given up. Only if all went as usual."""
    used.keep.clear()
    if used.usual and len(spare) < SPARE_AT_MOST:
        spare.append(used)


# ---- what to start ----


class _Kept(NamedTuple):
    seen: dict[bytes, bytes] | None
    env: Any
    search_path: Any


_DEFAULT_PATH = _new("char[]", os.fsencode(os.defpath))
_kept = _Kept(None, None, None)


def _own_environment() -> _Kept:
    """os.environ, packed; again only when it has changed. Any thread: one value is replaced by another."""
    global _kept
    kept = _kept
    source: dict[bytes, bytes] | None = getattr(os.environ, "_data", None)
    if source is not None and source == kept.seen:
        return kept
    if source is None:
        seen = {os.fsencode(name): os.fsencode(value) for name, value in os.environ.items()}
    else:
        seen = dict(source)
    block = b"".join([b"%b=%b\0" % item for item in seen.items()])
    kept = _kept = _Kept(seen, _pack(block), _NULL if b"PATH" in seen else _DEFAULT_PATH)
    _direct.keep_environment(seen, kept, _address(kept.env), _address(kept.search_path))
    return kept


def _pack(block: bytes) -> Any:
    cell = _new("fp_env **")
    check(lib.fp_env_new_as_is(block, len(block), cell))
    return _gc(cell[0], lib.fp_env_free)


def set_environment(into: Berth, env: Mapping[Any, Any] | None) -> None:
    """What the child is to find in its environment, and where its program is looked for.

    Raises:
        ValueError: a name with '=', a NUL, or PATH both as str and as bytes.
        TypeError: a name or value that is no str, bytes or path.
    """
    if env is None:
        _, packed, search_path = _own_environment()
    else:
        encode = os.fsencode
        strings = []
        bytes_names = False
        for name, value in env.items():
            bytes_names = bytes_names or isinstance(name, bytes)
            key = encode(name)
            if b"=" in key:
                raise ValueError("illegal environment variable name")
            strings.append(key + b"=" + encode(value))
        if bytes_names:
            os.get_exec_path(env)  # which refuses a PATH in both forms
        block = b"\0".join(strings) + b"\0" if strings else b""
        if block.count(b"\0") != len(strings):
            raise ValueError("embedded null byte")
        packed = _pack(block)
        has_path = any(string.startswith(b"PATH=") for string in strings)
        search_path = _NULL if has_path else _DEFAULT_PATH
    into.keep.append(packed)
    spec = into.spec
    spec.env = packed
    spec.search_path = search_path


_FS_ENCODING = sys.getfilesystemencoding()
_FS_ERRORS = sys.getfilesystemencodeerrors()


def set_arguments(into: Berth, args: Sequence[Any]) -> None:
    """The arguments of the program.

    Raises:
        ValueError: one with a NUL.
        TypeError: one that is no str, bytes or path.
    """
    try:
        block = "\0".join(args).encode(_FS_ENCODING, _FS_ERRORS) + b"\0"
    except TypeError:
        block = b"\0".join([os.fsencode(arg) for arg in args]) + b"\0"
    if block.count(b"\0") != len(args):
        raise ValueError("embedded null byte")
    into.keep.append(block)
    spec = into.spec
    spec.args = _from_buffer(block)
    spec.args_bytes = len(block)


def set_program(into: Berth, executable: Any) -> None:
    """The program, where it is not the first argument."""
    into.usual = False
    into.spec.program = _path(into, executable)


def set_directory(into: Berth, cwd: Any) -> None:
    """Where the child begins."""
    into.usual = False
    into.spec.cwd = _path(into, cwd)


def _path(into: Berth, path: Any) -> Any:
    encoded = os.fsencode(path)
    if b"\0" in encoded:
        raise ValueError("embedded null byte")
    copy = _new("char[]", encoded)
    into.keep.append(copy)
    return copy


def set_options(
    into: Berth,
    *,
    inherit_fds: bool = False,
    pass_fds: Sequence[int] = (),
    restore_signals: bool = True,
    new_session: bool = False,
    process_group: int = -1,
    uid: int | None = None,
    gid: int | None = None,
    groups: Sequence[int] | None = None,
    umask: int = -1,
) -> None:
    """What the other arguments of Popen say."""
    into.usual = False
    spec = into.spec
    flags = spec.flags
    if inherit_fds:
        flags |= lib.FP_INHERIT_FDS
    if pass_fds:
        maps = _new("fp_fd_map[]", [(fd, fd) for fd in pass_fds])
        into.keep.append(maps)
        spec.fds = maps
        spec.n_fds = len(pass_fds)
    if not restore_signals:
        spec.sigdefault = 0
    if new_session:
        spec.lead = lib.FP_LEAD_SESSION
    if process_group >= 0:
        flags |= lib.FP_JOIN_GROUP
        spec.process_group = process_group
    if uid is not None:
        flags |= lib.FP_SET_UID
        if uid >= 2**32:
            raise OverflowError("uid is greater than maximum")
        spec.uid = uid
    if gid is not None:
        flags |= lib.FP_SET_GID
        if gid >= 2**32:
            raise OverflowError("gid is greater than maximum")
        spec.gid = gid
    if groups is not None:
        flags |= lib.FP_SET_GROUPS
        if any(group >= 2**32 - 1 for group in groups):
            raise ValueError("invalid group id")
        array = _new("uint32_t[]", list(groups))
        into.keep.append(array)
        spec.groups = array
        spec.n_groups = len(groups)
    if umask >= 0:
        flags |= lib.FP_SET_UMASK
        spec.umask = umask & 0o777
    spec.flags = flags


def set_extras(into: Berth, extras: Command, names: Sequence[str]) -> None:
    """Those options of a Command that the drop-in takes as well."""
    into.usual = False
    for name in names:
        _APPLY[name](into.spec, extras, into.keep)


def set_timeouts(into: Berth, timeout_ns: int, idle_timeout_ns: int = 0) -> None:
    """From its start; 0 for none."""
    into.usual = False
    into.spec.timeout_ns = timeout_ns
    into.spec.idle_timeout_ns = idle_timeout_ns


def set_input(into: Berth, data: Any) -> None:
    """What standard input is fed with; it must be a pipe."""
    into.usual = False
    into.keep.append(data)
    into.spec.input = _from_buffer(data)
    into.spec.input_bytes = len(_buffer(_from_buffer(data)))


# ---- running ----

End = tuple[int, ...]
"""Exit code, or -1; signal, or 0."""

Ended = tuple[int | None, int, bytes | None, bytes | None]
"""What became of a run: returncode, reason, standard output and error; None where they are not captured."""


def run(filled: Berth) -> Ended:
    """Run the program to its end, without the interpreter's lock.

    If it raises, and `filled.cell` holds a process, that is running perhaps: see `rescue`.

    Raises:
        StartFailed: nothing is left of it.
    """
    answer = _direct.run(filled.pointers)
    if answer is False:
        raise StartFailed(read_failure(filled.failure))
    return answer


def why_not_started(filled: Berth) -> FailureRecord:
    """What a start by `run_plain` or `start_plain` has met with."""
    return read_failure(filled.failure)


def _function(name: str) -> int:
    return _address(ffi.addressof(lib, name))


_direct.set_up(
    _function("fp_run"),
    _function("fp_solo_start"),
    _function("fp_solo_talk"),
    _function("fp_solo_lend"),
    _function("fp_solo_free"),
    _function("fp_solo_pid"),
    _own_environment,
)

# These take a str for what UTF-8 makes of it.
_is_utf8 = _FS_ENCODING == "utf-8"
run_plain = _direct.run_plain if _is_utf8 else None
"""`run` of a call's own arguments: a berth's pointers, args, keywords, whether both outputs are captured.

None: they are not plain, nothing has happened. False: it could not be started. Else as `run`.
"""
start_plain = _direct.start_plain if _is_utf8 else None
"""Likewise for `start`: pointers, args, three descriptors or -1. The pid, None or False."""

OVER, INPUT_OVER, SILENT = range(3)
_TALK_BYTES = ffi.sizeof("fp_talk")
_TALK_FLAGS = lib.FP_TALK_AND_WAIT | lib.FP_TALK_ASK_FOR_ROOM


class Solo:
    """A process of its caller's. It is left running when this object goes, and reaped one day."""

    __slots__ = ("_owner", "_proc", "_result", "_said")

    def __init__(self, cell: Any) -> None:
        """Take over what is in a cell. At each point in between one of the two cells owns it."""
        self._owner = owner = new_solo_owner(SOLO_OWNER)
        _pass_on(cell, owner)
        self._proc = owner.solo
        self._result: Any = None
        self._said: tuple[list[bytes], list[bytes]] | None = None

    @property
    def pid(self) -> int:
        """Its pid, also when it has ended."""
        return int(lib.fp_solo_pid(self._proc))

    @property
    def pidfd(self) -> int:
        """Its pidfd, borrowed. OSError (EBADF) where there is none."""
        return check(lib.fp_solo_pidfd(self._proc))

    def wait(self, timeout_ns: int, _wait: Any = lib.fp_solo_wait, _new: Any = ffi.new) -> End | None:
        """How it ended, or None if it has not by then; -1: wait for ever, 0: ask once."""
        pointer = _new("fp_exit *")
        answer = _wait(self._proc, timeout_ns, pointer)
        if answer == 0:
            return _END(_buffer(pointer))
        if answer in (-110, -4):  # ETIMEDOUT, EINTR: the caller asks again, after the handlers have run
            return None
        check(answer)
        return None

    def wait_for(self, timeout_ns: int) -> End | None:
        """The same for all of that time: wait() returns before, for signal handlers to run."""
        until = time.monotonic_ns() + timeout_ns
        while True:
            left = until - time.monotonic_ns()
            end = self.wait(max(left, 0))
            if end is not None or left <= 0:
                return end

    def wait_a_moment(self, fd: int) -> End | None:
        """The same for a moment, as long as little comes on `fd`, a pipe that it writes to."""
        pointer = _new("fp_exit *")
        answer = lib.fp_solo_wait_a_moment(self._proc, fd, pointer)
        return _END(_buffer(pointer)) if answer == 0 else None

    def signal(self, number: int) -> bool:
        """Send a signal; False if it has ended."""
        answer = lib.fp_solo_signal(self._proc, number)
        return answer != -errno.ESRCH and check(answer) == 0

    def stop(self, grace_ns: int, kill_timeout_ns: int) -> bool:
        """Stop it and its descendants; whether nobody is left that could be found."""
        while True:
            answer = lib.fp_solo_stop(self._proc, grace_ns, kill_timeout_ns, _NULL)
            if answer == _ETIMEDOUT:
                return False
            if answer != _EINTR:
                return check(answer) == 0

    def talk(
        self,
        fds: tuple[int, int, int],
        data: Any,
        timeout_ns: int,
        *,
        idle_timeout_ns: int = 0,
        to_the_end: bool = False,
    ) -> int | None:
        """Feed and empty its pipes, and wait for its exit.

        OVER; INPUT_OVER: close that pipe and go on; SILENT; None: not yet, at the time-out.

        What a signal handler raises is raised, and nothing is lost.
        """
        talk = _new("fp_talk *")
        talk.size = _TALK_BYTES
        talk.fds = fds
        talk.flags = _TALK_FLAGS | (lib.FP_TALK_TO_THE_END if to_the_end else 0)
        if data is not None:
            talk.input = view = _from_buffer(data)
            talk.input_bytes = len(_buffer(view))
        talk.timeout_ns = timeout_ns
        if self._result is None:
            self._result = _new("fp_result *")
        if self._said is None:
            self._said = [], []
        talk.idle_timeout_ns = idle_timeout_ns
        answer, *new, raised = _direct.talk(_address(self._proc), _address(talk), _address(self._result))
        for parts, more in zip(self._said, new, strict=True):
            if more:
                parts.append(more)
        if raised is not None:
            raise raised
        if answer >= 0:
            return int(answer)
        if answer in (_ETIMEDOUT, _EINTR):
            return None
        if answer == -errno.ETIME:
            return SILENT
        return check(answer)

    def exit(self) -> End:
        """How it has ended, as the talk has found it."""
        return _END(_buffer(self._result))

    def record(self) -> ExitRecord | None:
        """All that is known of its end, or None if it has not ended."""
        pointer = _new("fp_exit *")
        return read_exit(pointer) if lib.fp_solo_wait(self._proc, 0, pointer) == 0 else None

    def said(self, stream: int) -> bytes:
        """All that has come on a stream in the talks so far."""
        if self._said is None:
            return b""
        parts = self._said[stream - 1]
        if len(parts) > 1:
            parts[:] = [b"".join(parts)]
        return parts[0] if parts else b""

    def ended(self, stream: int) -> bool:
        """Whether a stream has ended."""
        return self._result is not None and bool(self._result.said[stream - 1].complete)


def start(filled: Berth) -> Solo:
    """Start the program; it has passed execve(2) on return.

    Raises:
        StartFailed: nothing is left of it.
    """
    if _start(filled.spec, filled.solo_at, filled.failure) < 0:
        raise StartFailed(read_failure(filled.failure))
    return Solo(filled.cell)


def started(filled: Berth) -> Solo:
    """What `start_plain` has started; the berth is given back."""
    begun = Solo(filled.cell)
    give_back(filled)
    return begun


def rescue(filled: Berth) -> Solo | None:
    """The process that a run has left when it raised, if there is one."""
    return Solo(filled.cell) if filled.cell.solo != _NULL else None


def adopt(pid: int, *, leads: bool) -> Solo:
    """Take over a child that other code has started."""
    cell = new_solo_owner(SOLO_OWNER)
    check(lib.fp_solo_adopt(pid, leads, ffi.addressof(cell, "solo")))
    return Solo(cell)
