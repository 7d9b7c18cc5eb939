"""System calls that are refused, fail, kill or wait at the wish of a test, by a filter of seccomp(2).

A filter belongs to the thread that installs it and to all that this thread makes, and cannot be taken off.
Hence `in_a_filtered_thread` for one start that goes wrong, a `Gate` for a child that is held at a system
call, and for whole suites a program of its own: see lesser_kernels.py.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import select
import struct
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

T = TypeVar("T")

# Each architecture has numbers of its own for what is older than Linux 5.1, see syscalls(2).
_MACHINES: Final = {
    "x86_64": (
        0xC000003E,
        {"ioctl": 16, "execve": 59, "setsid": 112, "setgroups": 116, "setresuid": 117, "waitid": 247},
        {"seccomp": 317, "epoll_ctl": 233, "pipe2": 293, "mkdirat": 258},
    ),
    "aarch64": (
        0xC00000B7,
        {"ioctl": 29, "execve": 221, "setsid": 157, "setgroups": 159, "setresuid": 147, "waitid": 95},
        {"seccomp": 277, "epoll_ctl": 21, "pipe2": 59, "mkdirat": 34},
    ),
}
_NEWER: Final = {"pidfd_send_signal": 424, "pidfd_open": 434, "clone3": 435, "close_range": 436}

# Where struct seccomp_data has number, architecture, instruction pointer and arguments; then instructions.
_NUMBER, _ARCHITECTURE, _POINTER, _ARGUMENTS = 0, 4, 8, 16
_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06

_ALLOW: Final = 0x7FFF0000
_ERRNO: Final = 0x00050000
KILL: Final = 0x80000000
"""The process dies by SIGSYS."""
_NOTIFY: Final = 0x7FC00000

_NEW_LISTENER = 1 << 3
_RECEIVE, _SEND = 0xC0502100, 0xC0182101  # SECCOMP_IOCTL_NOTIF_RECV, _SEND
_NOTICE, _ANSWER = struct.Struct("=QIIiIQ6Q"), struct.Struct("=QqiI")
_CONTINUE = 1


def is_available() -> bool:
    """Whether the kernel has filters, and the numbers of this architecture are known."""
    return platform.machine() in _MACHINES and os.path.exists("/proc/sys/kernel/seccomp/actions_avail")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What becomes of one system call.

    Args:
        call: its name.
        answer: the errno it gives, 0 for a success without effect; or KILL.
        argument: it is meant only with this argument (number, value).
        not_from_libc: it is not meant when the C library makes it. glibc from 2.34 makes threads by clone3(2)
            and knows of no other way when that fails with anything but ENOSYS.
    """

    call: str
    answer: int
    argument: tuple[int, int] | None = None
    not_from_libc: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Some rules, and the capabilities that are gone with them."""

    rules: tuple[Rule, ...]
    hides: frozenset[str]


def _refused(call: str, error: int, *hides: str) -> Filter:
    rule = Rule(call=call, answer=error, not_from_libc=call == "clone3" and error != errno.ENOSYS)
    return Filter(rules=(rule,), hides=frozenset(hides))


_GROUP_FLAG = Rule(call="pidfd_send_signal", answer=errno.EINVAL, argument=(3, 4))
_GET_INFO = Rule(call="ioctl", answer=errno.ENOTTY, argument=(1, 0xC040FF0B))
_P_PIDFD = Rule(call="waitid", answer=errno.EINVAL, argument=(0, 3))

FILTERS: Final = {
    "no_clone3": _refused("clone3", errno.ENOSYS, "clone3", "into_cgroup"),
    "forbidden_clone3": _refused("clone3", errno.EPERM, "clone3", "into_cgroup"),
    # The descriptor comes with the child, so this one is needed for descendants only.
    "no_pidfd_open": _refused("pidfd_open", errno.ENOSYS),
    "forbidden_pidfd_open": _refused("pidfd_open", errno.EPERM),
    "no_pidfd_send_signal": _refused("pidfd_send_signal", errno.ENOSYS, "pidfd_signal", "pidfd_group"),
    "forbidden_pidfd_send_signal": _refused("pidfd_send_signal", errno.EPERM, "pidfd_signal", "pidfd_group"),
    "no_close_range": _refused("close_range", errno.ENOSYS, "close_range"),
    "forbidden_close_range": _refused("close_range", errno.EPERM, "close_range"),
    # Linux before 6.9, before 6.13, before 5.4.
    "no_group_flag": Filter(rules=(_GROUP_FLAG,), hides=frozenset({"pidfd_group"})),
    "no_get_info": Filter(rules=(_GET_INFO,), hides=frozenset({"pidfd_info"})),
    "no_p_pidfd": Filter(rules=(_P_PIDFD,), hides=frozenset({"pidfd_wait"})),
    "nothing_new": Filter(
        rules=(*(Rule(call=call, answer=errno.ENOSYS) for call in _NEWER), _GET_INFO, _P_PIDFD),
        hides=frozenset(
            {
                "clone3",
                "into_cgroup",
                "pidfd_signal",
                "pidfd_group",
                "pidfd_info",
                "pidfd_wait",
                "close_range",
            }
        ),
    ),
}


def _number(call: str) -> int:
    _, common, others = _MACHINES[platform.machine()]
    return {**common, **others, **_NEWER}[call]


def _text_of_libc() -> list[tuple[int, int]]:
    """Where the code of the C library lies, as [start, end), cut where the upper 32 bits change."""
    found = []
    with open("/proc/self/maps") as maps:
        for line in maps:
            words = line.split()
            if "x" in words[1] and os.path.basename(words[-1]).startswith(("libc.so", "libc-", "ld-musl")):
                start, end = (int(number, 16) for number in words[0].split("-"))
                middle = end >> 32 << 32
                found += [(start, middle), (middle, end)] if start < middle < end else [(start, end)]
    return found


def _rule(rule: Rule, answer: int) -> list[tuple[int, int, int, int]]:
    """Instructions (code, jump if true, jump if false, value); when it is not meant, what follows is next."""
    out = -1  # to the end of this rule
    code = [(_LOAD, 0, 0, _NUMBER), (_JUMP_EQUAL, 0, out, _number(rule.call))]
    if rule.argument is not None:
        index, value = rule.argument
        code += [(_LOAD, 0, 0, _ARGUMENTS + 8 * index), (_JUMP_EQUAL, 0, out, value)]
    for start, end in _text_of_libc() if rule.not_from_libc else []:
        code += [
            (_LOAD, 0, 0, _POINTER + 4),
            (_JUMP_EQUAL, 0, 3, start >> 32),
            (_LOAD, 0, 0, _POINTER),
            (_JUMP_AT_LEAST, 0, 1, start & 0xFFFFFFFF),
            (_JUMP_AT_LEAST, 0, out, (end - 1 & 0xFFFFFFFF) + 1),
        ]
    code.append((_RETURN, 0, 0, answer))
    last = len(code) - 1
    return [(op, yes, last - at if no == out else no, value) for at, (op, yes, no, value) in enumerate(code)]


def _assemble(rules: Sequence[Rule], notify: bool) -> bytes:
    # A call by the numbers of another architecture is none of our business.
    code = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_JUMP_EQUAL, 1, 0, _MACHINES[platform.machine()][0]),
        (_RETURN, 0, 0, _ALLOW),
    ]
    for rule in rules:
        answer = rule.answer if rule.answer == KILL else _ERRNO | rule.answer
        code += _rule(rule, _NOTIFY if notify else answer)
    code.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))


def install(rules: Sequence[Rule], *, notify: bool = False) -> int:
    """Filter the calls of this thread from now on. With `notify` returns the descriptor of who decides."""
    code = _assemble(rules, notify)
    program = _Program(len(code) // 8, code)
    libc = ctypes.CDLL(None, use_errno=True)
    flags = _NEW_LISTENER if notify else 0
    for may_gain_privileges in (True, False):
        if not may_gain_privileges:
            libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS, which only root can do without
        result = int(libc.syscall(_number("seccomp"), 1, flags, ctypes.byref(program)))
        if result >= 0:
            return result
    error = ctypes.get_errno()
    raise OSError(error, os.strerror(error), "seccomp")


class _Call(threading.Thread, Generic[T]):
    """A call in a thread of its own, and what came of it."""

    def __init__(self, call: Callable[[], T]) -> None:
        super().__init__(daemon=True)
        self._call = call
        self._results: list[T] = []
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._results.append(self._call())
        except BaseException as error:
            self._error = error

    def result(self, patience: float = 30) -> T:
        self.join(patience)
        assert not self.is_alive(), "it is still under way"
        if self._error is not None:
            raise self._error
        return self._results[0]


def in_a_thread(call: Callable[[], T]) -> T:
    """What `call` returns or raises in a thread of its own; what it forbids itself goes with that."""
    thread = _Call(call)
    thread.start()
    return thread.result()


def in_a_filtered_thread(rules: Sequence[Rule], call: Callable[[], T]) -> T:
    """What `call` returns or raises in a thread with these rules, which ends with it."""

    def filtered() -> T:
        install(rules)
        return call()

    return in_a_thread(filtered)


class Gate(Generic[T]):
    """Runs a call in a thread of its own, and holds whoever makes a certain system call there.

    Needs Linux 5.5, see seccomp_unotify(2).
    """

    def __init__(self, name: str, call: Callable[[], T]) -> None:
        self._installed = threading.Event()
        self._listener = -1
        rule = Rule(call=name, answer=0)

        def guarded() -> T:
            try:
                self._listener = install([rule], notify=True)
            finally:
                self._installed.set()
            return call()

        self._thread = _Call(guarded)
        self._thread.start()

    @property
    def is_open(self) -> bool:
        """Whether the call has returned or raised."""
        return not self._thread.is_alive()

    def arrival(self, patience: float = 20) -> tuple[int, int]:
        """Wait for somebody to arrive; his ticket and his pid."""
        assert self._installed.wait(patience)
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        assert poll.poll(patience * 1000), "nobody makes that call"
        notice = bytearray(_NOTICE.size)
        fcntl.ioctl(self._listener, _RECEIVE, notice)
        ticket, pid, *_ = _NOTICE.unpack(notice)
        return ticket, pid

    def let_go(self, ticket: int) -> None:
        """Have the kernel carry the call out."""
        fcntl.ioctl(self._listener, _SEND, _ANSWER.pack(ticket, 0, 0, _CONTINUE))

    def refuse(self, ticket: int, error: int) -> None:
        """Have the call fail."""
        fcntl.ioctl(self._listener, _SEND, _ANSWER.pack(ticket, 0, -error, 0))

    def result(self, patience: float = 30) -> T:
        """What the call has returned, or raise what it has raised."""
        try:
            return self._thread.result(patience)
        finally:
            os.close(self._listener)


def fix_addresses() -> None:
    """Begin this program again with the C library where it will also be in the interpreters that it starts.

    For filters with rules for what is `not_from_libc`: those interpreters inherit them, and have threads.
    """
    no_randomization, ask = 0x0040000, 0xFFFFFFFF
    personality = ctypes.CDLL(None).personality
    before = personality(ctypes.c_ulong(ask))
    if not before & no_randomization and personality(ctypes.c_ulong(before | no_randomization)) >= 0:
        os.execv(sys.executable, sys.orig_argv)
