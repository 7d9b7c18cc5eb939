"""Processes that an earlier Processor has started: found again by identity, waited for, ended.

A pid alone says nothing, it may be a stranger's by now. What was written down names a process by machine,
boot, pid namespace, pid and start time, and where the kernel has pidfs (6.9) by the inode of its pidfd,
which is never used twice in a boot. All that is compared after a pidfd was opened, so the number cannot
change hands in between; signals go through the pidfd.

They are not our children. Their status is asked with PIDFD_GET_INFO (Linux 6.15) through a pidfd that was
open before they were reaped; a zombie that nobody reaps shows it in field 52 of /proc/PID/stat to its own
user. Else nobody knows.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import select
import signal
import struct
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..status import ExitReason, ExitStatus
from .machine import Machine

_SIGNAL_GROUP = 1 << 2  # PIDFD_SIGNAL_PROCESS_GROUP, Linux 6.9
_REAP_SECONDS = 1.0
_GET_INFO = 0xC040FF0B  # _IOWR(0xff, 11, 64 bytes)
_INFO_EXIT = 1 << 3
_INFO = struct.Struct("=QQ12i")  # struct pidfd_info: mask, cgroup id, ids, and last the exit code


@dataclass(frozen=True, slots=True)
class Person:
    """What /proc/PID/stat says of a process, see proc_pid_stat(5)."""

    pid: int
    state: str
    parent: int
    group: int
    session: int
    start: int
    status: int

    @classmethod
    def read(cls, pid: int) -> Person | None:
        """The process of that pid, or None."""
        try:
            text = _proc(f"/proc/{pid}/stat")
        except OSError:
            return None
        # The name is the program's to choose, brackets and all: it ends at the last one.
        words = text[text.rfind(b")") + 2 :].split()
        if len(words) < 50:
            return None
        return cls(pid, words[0].decode(), *(int(words[field - 3]) for field in (4, 5, 6, 22, 52)))

    @property
    def is_dead(self) -> bool:
        return self.state in "ZXx"


def _proc(path: str) -> bytes:
    """What a small file of /proc says. Without the layers of open(), which cost more than the kernel does."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        pieces = [os.read(fd, 8192)]
        while len(pieces[-1]) == 8192:
            pieces.append(os.read(fd, 8192))
        return b"".join(pieces)
    finally:
        os.close(fd)


def everybody() -> Iterator[Person]:
    """Everybody that /proc shows."""
    for name in os.listdir("/proc"):
        if name.isdigit() and (person := Person.read(int(name))) is not None:
            yield person


# ---- writing down ----


def identity(pid: int, machine: Machine) -> dict[str, Any]:
    """What makes a child of ours that was just started known again: plain values.

    If it has ended and was reaped meanwhile, its number may be a stranger's: then there is nothing to say.
    """
    said: dict[str, Any] = {"pid": pid, "boot": machine.boot, "pidns": machine.pid_namespace}
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        return said
    try:
        person = Person.read(pid)
        if person is not None and person.parent == os.getpid() and person.session == pid:
            said |= {"start": person.start, "session": pid, "pidfs_inode": os.fstat(fd).st_ino}
            said |= _cgroup(pid)
    finally:
        os.close(fd)
    return said


def _cgroup(pid: int) -> dict[str, Any]:
    """The leaf that holds it and nobody else of us: one of fastproc's own, or nothing."""
    try:
        place = os.fsdecode(_proc(f"/proc/{pid}/cgroup"))
    except OSError:
        return {}
    for line in place.splitlines():
        if line.startswith("0::") and "/fastproc-" in line:
            mount = _cgroup_mount()
            if mount is not None:
                path = mount[0] + line[3:].removeprefix(mount[1])
                with contextlib.suppress(OSError):
                    return {"cgroup": path, "cgroup_inode": os.stat(path).st_ino}
    return {}


_mount: list[tuple[str, str] | None] = []


def _cgroup_mount() -> tuple[str, str] | None:
    """Where cgroup v2 is mounted, and which part of its tree is seen there."""
    if not _mount:
        _mount.append(None)
        with contextlib.suppress(OSError):
            for line in Path("/proc/self/mountinfo").read_text().splitlines():
                words = line.split()
                if " - cgroup2 " in line:
                    _mount[0] = (words[4], "" if words[3] == "/" else words[3])
                    break
    return _mount[0]


# ---- finding again ----


@dataclass(slots=True)
class Adopted:
    """A job of an earlier Processor. Not thread-safe.

    Attributes:
        pid: of its leader, or 0 if that is not known.
        pidfd: of its leader, while we follow it.
        session: where its members are looked for.
        cgroup: path of its leaf, or None.
        started_at: seconds since 1970.
        status: how the leader ended.
    """

    pid: int = 0
    pidfd: int | None = None
    session: int = 0
    cgroup: str | None = None
    started_at: float = 0.0
    mono: float = field(default_factory=time.monotonic)
    status: ExitStatus | None = None
    escalated: bool = False
    noticed: float | None = None
    """When the leader was first seen to have ended."""

    @classmethod
    def find(cls, said: Mapping[str, Any] | None, machine: Machine) -> Adopted:
        """Who of a job that was written down lives still. A stranger under its number is not touched."""
        found = cls()
        if said is None or said.get("boot") != machine.boot or said.get("pidns") != machine.pid_namespace:
            return found
        pid, start = said.get("pid"), said.get("start")
        if not isinstance(pid, int) or pid <= 1 or not isinstance(start, int):
            return found
        with contextlib.suppress(TypeError, ValueError):
            found.started_at = float(said.get("at", 0.0))
        found.cgroup = _same_cgroup(said)
        leader = _open(pid, start, said.get("pidfs_inode"))
        if leader is not None:
            found.pid, found.pidfd = pid, leader
        if said.get("session") == pid and leader is not None:
            found.session = pid
        return found

    def add_by_lock(self, device: int, inode: int, locker: int) -> None:
        """Find who lives of a job whose leader is not known, or gone, by the lock that they have inherited.

        Number and name of a session say nothing without its leader: strangers may have both by now. `locker`
        is the pid of the Processor that has taken the lock.
        """
        for pid in lock_holders(device, inode, locker):
            person = Person.read(pid)
            if person is None or person.session in (0, os.getsid(0)):
                continue
            leader = Person.read(person.session)
            if leader is None or leader.is_dead:
                self.session = person.session
            elif leader.pid == pid and self.pidfd is None:
                # What the Processor starts leads a session, and passes the lock on to its children.
                self.pidfd = _open(leader.pid, leader.start)
                self.pid = leader.pid if self.pidfd is not None else 0
                self.session = self.pid or self.session

    def close(self) -> None:
        """Give back the pidfd."""
        if self.pidfd is not None:
            os.close(self.pidfd)
            self.pidfd = None

    @property
    def has_leader(self) -> bool:
        """Whether the leader lives, as far as is known; a zombie does not."""
        return self.pidfd is not None and not _is_readable(self.pidfd)

    def poll(self) -> bool:
        """Ask the kernel whether the leader has ended; enters its status. True if it has, or was not
        there.
        """
        if self.pidfd is None:
            return True
        if not _is_readable(self.pidfd):
            return False
        now = time.monotonic()
        if self.noticed is None:
            self.noticed = now
        # Its parent may take a while to reap it, and only then the kernel can tell.
        status = _status(self.pid, self.pidfd, is_late=now > self.noticed + _REAP_SECONDS)
        if status is None:
            return False
        self.status = dataclasses.replace(status, started=self.mono, ended=self.noticed)
        self.close()
        return True

    def members(self) -> list[int]:
        """The pids of all that is known to live of it, without zombies."""
        pids = set()
        if self.cgroup is not None:
            with contextlib.suppress(OSError, ValueError):
                pids |= {int(pid) for pid in Path(self.cgroup, "cgroup.procs").read_text().split()}
        if self.session:
            pids |= {person.pid for person in everybody() if person.session == self.session}
        if self.pidfd is not None:
            pids.add(self.pid)
        pids.discard(0)
        return sorted(pid for pid in pids if (one := Person.read(pid)) is not None and not one.is_dead)

    def signal(self, number: int) -> None:
        """Signal all of it that is known: cgroup and session by pidfd, each one looked at again after
        opening.
        """
        if number == signal.SIGKILL and self.cgroup is not None:
            with contextlib.suppress(OSError):
                Path(self.cgroup, "cgroup.kill").write_text("1")
        if self.pidfd is not None:
            with contextlib.suppress(OSError):
                try:
                    signal.pidfd_send_signal(self.pidfd, number, None, _SIGNAL_GROUP)
                except OSError:
                    signal.pidfd_send_signal(self.pidfd, number)
        for pid in self.members():
            if pid != self.pid or self.pidfd is None:
                self._signal_member(pid, number)

    def _signal_member(self, pid: int, number: int) -> None:
        with contextlib.suppress(OSError):
            fd = os.pidfd_open(pid)
            try:
                person = Person.read(pid)
                if person is not None and (person.session == self.session or self._is_in_cgroup(pid)):
                    signal.pidfd_send_signal(fd, number)
            finally:
                os.close(fd)

    def _is_in_cgroup(self, pid: int) -> bool:
        if self.cgroup is None:
            return False
        try:
            return str(pid) in Path(self.cgroup, "cgroup.procs").read_text().split()
        except OSError:
            return False


def _same_cgroup(said: Mapping[str, Any]) -> str | None:
    path, inode = said.get("cgroup"), said.get("cgroup_inode")
    if not isinstance(path, str) or "/fastproc-" not in path:
        return None
    try:
        return path if os.stat(path).st_ino == inode else None
    except OSError:
        return None


def _open(pid: int, start: int, inode: object = None) -> int | None:
    """A pidfd of the process that has this pid and this start time, or None."""
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        return None
    # Read after opening: from here on the descriptor cannot come to mean another one.
    person = Person.read(pid)
    # Before pidfs, that is before Linux 6.9, all pidfds of a boot have one inode: then the start time
    # decides.
    if person is None or person.start != start or (inode is not None and os.fstat(fd).st_ino != inode):
        os.close(fd)
        return None
    return fd


def lock_holders(device: int, inode: int, locker: int) -> list[int]:
    """Who has inherited the flock(2) of a file that the process `locker` has taken, as /proc/PID/fdinfo shows
    of each descriptor, see proc(5).

    Not who has merely opened the file, or locked it for itself. Needs no record, so it finds a job whose
    Processor died before it could write one; costs a walk through /proc.
    """
    ours = {os.getpid(), locker}
    return [
        int(name)
        for name in os.listdir("/proc")
        if name.isdigit() and int(name) not in ours and _holds_lock(name, device, inode, locker)
    ]


def _holds_lock(pid: str, device: int, inode: int, locker: int) -> bool:
    try:
        for descriptor in os.listdir(f"/proc/{pid}/fd"):
            status = os.stat(f"/proc/{pid}/fd/{descriptor}")
            if (status.st_dev, status.st_ino) == (device, inode):
                told = Path(f"/proc/{pid}/fdinfo/{descriptor}").read_text()
                if any(_is_lock_of(line, locker) for line in told.splitlines()):
                    return True
    except OSError:
        pass
    return False


def _is_lock_of(line: str, locker: int) -> bool:
    """Whether a line such as `lock: 1: FLOCK ADVISORY WRITE 123 fe:00:45 0 EOF` is of that process's lock."""
    words = line.split()
    # A dead one's pid is shown as 0 in namespaces of pids other than the first.
    return words[:1] == ["lock:"] and "FLOCK" in words and words[5] in (str(locker), "0")


def _is_readable(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def _status(pid: int, pidfd: int, *, is_late: bool) -> ExitStatus | None:
    """How a process that is not our child has ended; UNKNOWN if nobody knows, None if it may be known
    soon.
    """
    wait_status = _info(pidfd)
    if wait_status is None:
        person = Person.read(pid)
        if person is not None and person.is_dead:
            if not is_late:
                return None
            # Nobody reaps it. Others than its user and root are shown 0 there, which then means nothing.
            if person.status != 0 or os.geteuid() == 0:
                wait_status = person.status
    if wait_status is None:
        return ExitStatus.unknown()
    if os.WIFSIGNALED(wait_status):
        return ExitStatus(
            reason=ExitReason.SIGNALED,
            signal=os.WTERMSIG(wait_status),
            core_dumped=os.WCOREDUMP(wait_status),
            foreign=True,
        )
    return ExitStatus(reason=ExitReason.EXITED, code=os.WEXITSTATUS(wait_status), foreign=True)


def _info(pidfd: int) -> int | None:
    asked = bytearray(_INFO.size)
    _INFO.pack_into(asked, 0, _INFO_EXIT, *([0] * 13))
    try:
        fcntl.ioctl(pidfd, _GET_INFO, asked)
    except OSError:
        return None
    mask, *_rest, code = _INFO.unpack(asked)
    return int(code) if mask & _INFO_EXIT else None
