"""What a process may use: resource limits, checked when they are made.

Nine are those of setrlimit(2), set in the child before its program is executed
and inherited by what it starts, each process counting for itself. Three belong
to a cgroup of cgroups(7) and hold for the process and all its descendants
together; asking for them where no cgroup can be had is an error, never a shrug.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from .errors import RLIMIT_FIELDS

Limit: TypeAlias = int | tuple[int, int] | None
"""One number for soft and hard limit, or (soft, hard); -1 means unlimited, None leaves it as it is."""

UNLIMITED = -1
"""The same number as resource.RLIM_INFINITY."""

_KERNEL_UNLIMITED = 2**64 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits for one process, or with the last three for it and all its descendants.

    Args:
        cpu: seconds of CPU time. A single number leaves one second between SIGXCPU and SIGKILL.
        address_space: bytes of virtual memory.
        data: bytes of private writable memory.
        file_size: bytes of the largest file it may write; more is SIGXFSZ.
        core: bytes of a core dump; 0 for none.
        stack: bytes of the main thread's stack.
        open_files: descriptors, that is, one more than the highest number.
        processes: processes and threads of its user. Root is exempt, see setrlimit(2).
        locked_memory: bytes.
        memory: bytes used by all of them together, by cgroup; more ends them as out of memory.
        pids: processes and threads of them together, by cgroup.
        cpus: CPUs they may keep busy on average, by cgroup: 0.5 is half of one.

    The first nine are a number for both, or (soft, hard) as any sequence of two. A cgroup has one bound, so
    the last three are a number; (n, n) is taken for it, and a pair that differs is refused.
    """

    cpu: Limit = None
    address_space: Limit = None
    data: Limit = None
    file_size: Limit = None
    core: Limit = None
    stack: Limit = None
    open_files: Limit = None
    processes: Limit = None
    locked_memory: Limit = None
    memory: int | None = None
    pids: int | None = None
    cpus: float | None = None

    def __post_init__(self) -> None:
        for name in RLIMIT_FIELDS:
            value = getattr(self, name)
            if value is not None:
                if _is_pair(value):
                    object.__setattr__(self, name, value := tuple(value))
                _check_rlimit(name, value)
        for name in _BY_CGROUP:
            value = getattr(self, name)
            if _is_pair(value):
                object.__setattr__(self, name, _one_bound(name, value))
        for name in ("memory", "pids"):
            value = getattr(self, name)
            if value is not None and _whole(name, value) < 1:
                raise ValueError(f"{name} must be at least 1, not {value}; leave it out for no limit")
        if self.cpus is not None:
            if isinstance(self.cpus, bool) or not isinstance(self.cpus, (int, float)):
                raise TypeError(f"cpus must be a number of CPUs such as 0.5, not {self.cpus!r}")
            # The kernel takes no quota below 1 ms in a period of 100 ms, see cpu.max in its cgroup-v2 guide.
            if not 0.01 <= self.cpus < 1_000_000:
                words = "at least 0.01 and below a million"
                raise ValueError(f"cpus must be {words}, not {self.cpus}; leave it out for no limit")

    @property
    def needs_cgroup(self) -> bool:
        """Whether there is a limit that only a cgroup can keep."""
        return self.memory is not None or self.pids is not None or self.cpus is not None

    def rlimits(self) -> Iterator[tuple[int, int, int]]:
        """Yield (index, soft, hard) as the C library wants them: 2**64 - 1 is unlimited."""
        for index, name in enumerate(RLIMIT_FIELDS):
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, tuple):
                soft, hard = value
            elif name == "cpu" and value != UNLIMITED:
                # With both equal the kernel sends SIGKILL at once, and nobody could tell why.
                soft, hard = value, _up_to_our_own(value + 1, at_least=value)
            else:
                soft = hard = value
            yield index, _for_kernel(soft), _for_kernel(hard)


def _up_to_our_own(seconds: int, *, at_least: int) -> int:
    """What may be had without CAP_SYS_RESOURCE of the hard CPU limit wished for."""
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    return seconds if hard == UNLIMITED else max(at_least, min(seconds, hard))


def _for_kernel(value: int) -> int:
    return _KERNEL_UNLIMITED if value == UNLIMITED else value


_BY_CGROUP = ("memory", "pids", "cpus")


def _is_pair(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray, memoryview))


def _one_bound(name: str, value: Sequence[object]) -> object:
    if len(value) == 2 and value[0] == value[1]:
        return value[0]
    raise TypeError(
        f"{name} must be one number, not {value!r}: a cgroup has one bound, which nobody can raise; "
        "(soft, hard) is for the limits of setrlimit(2)"
    )


def _check_rlimit(name: str, value: object) -> None:
    if isinstance(value, tuple):
        if len(value) != 2:
            raise ValueError(f"{name} must be a whole number or (soft, hard), not {value!r}")
        soft, hard = (_check_bound(name, bound) for bound in value)
        if _for_kernel(soft) > _for_kernel(hard):
            raise ValueError(f"{name}: the soft limit {soft} is above the hard limit {hard}")
    else:
        _check_bound(name, value)


def _check_bound(name: str, value: object) -> int:
    bound = _whole(name, value)
    if bound != UNLIMITED and not 0 <= bound < 2**63:
        raise ValueError(f"{name} must be 0 or more, or -1 for unlimited, not {bound}")
    return bound


def _whole(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        pair = "" if name in _BY_CGROUP else " or (soft, hard)"
        raise TypeError(f"{name} must be a whole number{pair}, not {value!r}")
    return value
