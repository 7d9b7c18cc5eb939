"""From a Command to the library's spec of a start.

A spec begins as a copy of a template that holds what all starts of a manager have in common; only what the
command says is then written into it. Nothing is decided or checked here: the Command has been.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final

from ..command import DEFAULT_MAX_OUTPUT, DEVNULL, PIPE, STDOUT, Command, LogFile, resolve_ids
from ..limits import Limits
from .clock import grace_ns, length_ns, nanoseconds
from .crew import Starter
from .environment import Snapshot, pack
from .library import ffi, lib
from .mailbox import Mailbox

Keep = list[object]
"""What must stay alive until the start is over: the spec only points at it."""

_OPEN_FILES: Final = 1 << lib.FP_RLIMIT_OPEN_FILES
_CONTAINMENTS = {
    "auto": lib.FP_CONTAIN_AUTO,
    "session": lib.FP_CONTAIN_SESSION,
    "cgroup": lib.FP_CONTAIN_CGROUP,
    "guard": lib.FP_CONTAIN_GUARD,
}
_LEADS = {"session": lib.FP_LEAD_SESSION, "group": lib.FP_LEAD_GROUP, None: lib.FP_LEAD_NOTHING}
_PACKED_AT_MOST = 64

_new = ffi.new
_from_buffer = ffi.from_buffer


class Specs:
    """Makes the specs of one manager."""

    __slots__ = ("_common", "_mailbox", "_packed", "environment", "starter")

    def __init__(
        self,
        starter: Starter,
        mailbox: Mailbox,
        *,
        grace: float,
        kill_timeout: float,
        containment: str,
        die_with_parent: bool,
        open_files: tuple[int, int] | None,
    ) -> None:
        """With `open_files`, children get that limit (soft, hard) unless their command names another."""
        spec = starter.common
        spec.stdio[0].kind = lib.FP_STDIO_DEVNULL
        spec.grace_ns = grace_ns(grace)
        spec.kill_timeout_ns = length_ns(kill_timeout)
        spec.containment = _CONTAINMENTS[containment]
        if die_with_parent:
            spec.flags = lib.FP_DIE_WITH_PARENT
        if open_files is not None:
            spec.rlimit_set = _OPEN_FILES
            limit = spec.rlimits[lib.FP_RLIMIT_OPEN_FILES]
            limit.soft, limit.hard = open_files
        self.starter = starter
        # It must not go while a start that names it is under way.
        self._mailbox = mailbox
        self._common = spec
        # What gives the environment of now.
        self.environment: Callable[[], Any] = Snapshot().current
        self._packed: dict[bytes, Any] = {}

    def make(self, command: Command, token: int, keep: Keep) -> Any:
        """The `fp_spec *` for one start, valid as long as `command` and what is put into `keep` live."""
        spec = _new("fp_spec *", self._common)
        block = command.args_block
        spec.token = token
        spec.args = _from_buffer(block)
        spec.args_bytes = len(block)
        env = self.environment() if command.env_block is None else self._pack(command.env_block)
        keep.append(env)
        spec.env = env.env
        for name in command._said:
            apply = _APPLY.get(name)
            if apply is not None:
                apply(spec, command, keep)
        return spec

    def begin_as_asyncio_does(self) -> None:
        """What a command does not say is as in asyncio: standard input is ours, what is left over runs on."""
        self._common.stdio[0].kind = lib.FP_STDIO_INHERIT
        self._common.flags |= lib.FP_KEEP_LEFTOVERS

    def start_quietly(self) -> None:
        """That a start has succeeded is heard with the next news of it."""
        self._common.flags |= lib.FP_QUIET_START

    def start_patiently(self) -> None:
        """Nobody waits for a start: it is heard of some milliseconds later."""
        self._common.flags |= lib.FP_PATIENT_START

    def _pack(self, block: bytes) -> Any:
        env = self._packed.get(block)
        if env is None:
            env = pack(block)
            if len(self._packed) >= _PACKED_AT_MOST:
                self._packed.clear()
            self._packed[block] = env
        return env


def set_deadline(spec: Any, deadline: float) -> None:
    """It must have ended at that point on the monotonic clock, whatever else its time-outs are."""
    spec.deadline_ns = max(nanoseconds(deadline), 1)


def _path(path: Any, keep: Keep) -> Any:
    copy = _new("char[]", os.fsencode(path))
    keep.append(copy)
    return copy


def _stream(stream: Any, value: Any, keep: Keep) -> None:
    if value is None:
        stream.kind = lib.FP_STDIO_INHERIT
    elif isinstance(value, LogFile):
        stream.kind = lib.FP_STDIO_APPEND if value.append else lib.FP_STDIO_TRUNCATE
        stream.path = _path(value.path, keep)
    elif not isinstance(value, int):
        stream.kind = lib.FP_STDIO_FD
        stream.fd = value.fileno()
    elif value >= 0:
        stream.kind = lib.FP_STDIO_FD
        stream.fd = value
    else:
        stream.kind = _STREAM_KINDS[value]


_STREAM_KINDS = {PIPE: lib.FP_STDIO_PIPE, STDOUT: lib.FP_STDIO_STDOUT, DEVNULL: lib.FP_STDIO_DEVNULL}


def _stdin(spec: Any, command: Command, keep: Keep) -> None:
    value = command.stdin
    if isinstance(value, (str, bytes, os.PathLike)):
        spec.stdio[0].kind = lib.FP_STDIO_READ
        spec.stdio[0].path = _path(value, keep)
    else:
        _stream(spec.stdio[0], value, keep)


def _stdout(spec: Any, command: Command, keep: Keep) -> None:
    _stream(spec.stdio[1], command.stdout, keep)


def _stderr(spec: Any, command: Command, keep: Keep) -> None:
    _stream(spec.stdio[2], command.stderr, keep)


def _input(spec: Any, command: Command, _keep: Keep) -> None:
    if command.input is not None:
        spec.input = _from_buffer(command.input)
        spec.input_bytes = len(command.input)


def _cwd(spec: Any, command: Command, keep: Keep) -> None:
    if command.cwd is not None:
        spec.cwd = _path(command.cwd, keep)


def _timeout(spec: Any, command: Command, _keep: Keep) -> None:
    spec.timeout_ns = length_ns(command.timeout)


def _idle_timeout(spec: Any, command: Command, _keep: Keep) -> None:
    spec.idle_timeout_ns = length_ns(command.idle_timeout)


def _grace(spec: Any, command: Command, _keep: Keep) -> None:
    spec.grace_ns = grace_ns(command.grace)


def _stop_signal(spec: Any, command: Command, _keep: Keep) -> None:
    spec.stop_signal = command.stop_signal


def _limits(spec: Any, command: Command, _keep: Keep) -> None:
    limits: Limits | None = command.limits
    if limits is None:
        return
    for index, soft, hard in limits.rlimits():
        spec.rlimit_set |= 1 << index
        spec.rlimits[index].soft = soft
        spec.rlimits[index].hard = hard
    spec.memory_max_bytes = limits.memory or 0
    spec.pids_max = limits.pids or 0
    spec.cpu_max_millis = 0 if limits.cpus is None else max(round(limits.cpus * 1000), 1)


def _nice(spec: Any, command: Command, _keep: Keep) -> None:
    if command.nice is not None:
        spec.nice = command.nice
        spec.flags |= lib.FP_SET_NICE


def _umask(spec: Any, command: Command, _keep: Keep) -> None:
    if command.umask is not None:
        spec.umask = command.umask
        spec.flags |= lib.FP_SET_UMASK


def _ids(spec: Any, command: Command, keep: Keep) -> None:
    ids = resolve_ids(command)
    if ids is None:
        return
    if ids.uid is not None:
        spec.uid = ids.uid
        spec.flags |= lib.FP_SET_UID
    if ids.gid is not None:
        spec.gid = ids.gid
        spec.flags |= lib.FP_SET_GID
    if ids.groups is not None:
        groups = _new("uint32_t[]", list(ids.groups))
        keep.append(groups)
        spec.groups = groups
        spec.n_groups = len(ids.groups)
        spec.flags |= lib.FP_SET_GROUPS


def _cpu_affinity(spec: Any, command: Command, keep: Keep) -> None:
    if command.cpu_affinity is None:
        return
    words = [0] * (max(command.cpu_affinity) // 64 + 1)
    for cpu in command.cpu_affinity:
        words[cpu // 64] |= 1 << cpu % 64
    mask = _new("uint64_t[]", words)
    keep.append(mask)
    spec.affinity = mask
    spec.n_affinity = len(words)


def _no_new_privs(spec: Any, command: Command, _keep: Keep) -> None:
    if command.no_new_privs:
        spec.flags |= lib.FP_NO_NEW_PRIVS


def _pass_fds(spec: Any, command: Command, keep: Keep) -> None:
    descriptors = list(command.pass_fds)
    maps = _new("fp_fd_map[]", [(descriptor, descriptor) for descriptor in descriptors])
    keep.append(maps)
    spec.fds = maps
    spec.n_fds = len(descriptors)


def _start_new(spec: Any, command: Command, _keep: Keep) -> None:
    spec.lead = _LEADS[command.start_new]


def _containment(spec: Any, command: Command, _keep: Keep) -> None:
    spec.containment = _CONTAINMENTS[command.containment]


def _leftovers(spec: Any, command: Command, _keep: Keep) -> None:
    spec.flags &= ~lib.FP_KEEP_LEFTOVERS
    spec.flags |= lib.FP_KEEP_LEFTOVERS if command.leftovers == "keep" else 0


def _die_with_parent(spec: Any, command: Command, _keep: Keep) -> None:
    if command.die_with_parent is not None:
        spec.flags &= ~lib.FP_DIE_WITH_PARENT
        spec.flags |= lib.FP_DIE_WITH_PARENT if command.die_with_parent else 0


def _max_output(spec: Any, command: Command, _keep: Keep) -> None:
    spec.head_bytes = command.head_bytes
    spec.tail_bytes = command.tail_bytes


def _on_max_output(spec: Any, command: Command, _keep: Keep) -> None:
    if command.on_max_output == "stop":
        spec.max_output_bytes = DEFAULT_MAX_OUTPUT if command.max_output is None else command.max_output
        spec.flags |= lib.FP_STOP_AT_MAX_OUTPUT
    elif command.on_max_output == "wait":
        spec.flags |= lib.FP_FOLLOW_STDOUT | lib.FP_FOLLOW_STDERR


# What writes an option of Command into a spec. User and groups belong together: doing them twice is harmless.
_APPLY: dict[str, Callable[[Any, Command, Keep], None]] = {
    "cwd": _cwd,
    "stdin": _stdin,
    "stdout": _stdout,
    "stderr": _stderr,
    "input": _input,
    "timeout": _timeout,
    "idle_timeout": _idle_timeout,
    "grace": _grace,
    "stop_signal": _stop_signal,
    "limits": _limits,
    "nice": _nice,
    "umask": _umask,
    "user": _ids,
    "group": _ids,
    "extra_groups": _ids,
    "cpu_affinity": _cpu_affinity,
    "no_new_privs": _no_new_privs,
    "pass_fds": _pass_fds,
    "start_new": _start_new,
    "containment": _containment,
    "leftovers": _leftovers,
    "die_with_parent": _die_with_parent,
    "max_output": _max_output,
    "on_max_output": _on_max_output,
}
