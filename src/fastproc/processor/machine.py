"""Which machine and which boot this is, and what that means for pids and locks that were written down."""

from __future__ import annotations

import contextlib
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Where flock(2) and fsync(2) may mean less than on a disk of one's own.
_REMOTE = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "glusterfs", "fuse", "fuse.sshfs", "afs", "lustre"}
)


@dataclass(frozen=True, slots=True)
class Machine:
    """What makes a pid of one record comparable to one of now: machine, boot, and namespace of pids."""

    host: str
    machine: str
    boot: str
    pid_namespace: int

    @classmethod
    def here(cls) -> Machine:
        """This one."""
        host = "".join(letter if letter.isalnum() else "-" for letter in socket.gethostname())[:40] or "host"
        machine = ""
        with contextlib.suppress(OSError):
            machine = Path("/etc/machine-id").read_text().strip()
        boot = ""
        with contextlib.suppress(OSError):
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = 0
        with contextlib.suppress(OSError):
            namespace = os.stat("/proc/self/ns/pid").st_ino
        return cls(host, machine or host, boot, namespace)

    def fields(self) -> dict[str, Any]:
        """As plain values."""
        return {"host": self.host, "machine": self.machine, "boot": self.boot, "pidns": self.pid_namespace}

    def is_remote(self, directory_fd: int) -> bool:
        """Whether a directory lies on a file system that other machines may see."""
        device = os.fstat(directory_fd).st_dev
        number = f"{os.major(device)}:{os.minor(device)}"
        try:
            mounts = Path("/proc/self/mountinfo").read_text().splitlines()
        except OSError:
            return False
        for mount in mounts:
            words = mount.split()
            if words[2] == number and "-" in words:
                return words[words.index("-") + 1] in _REMOTE
        return False
