"""What this kernel and this build offer, and the library's words."""

from __future__ import annotations

from ._cffi import ffi, lib
from .check import text


def capabilities() -> dict[str, bool]:
    """What the kernel and the container allow, found out by trying."""
    return {
        text(lib.fp_capability_name(index)): lib.fp_probe(index) == 1 for index in range(lib.FP_CAP_COUNT)
    }


def cgroup_dir() -> str | None:
    """The directory that cgroups for children are made in."""
    path = lib.fp_cgroup_dir()
    return None if path == ffi.NULL else text(path)


def stage_name(stage: int) -> str:
    """The word for a step of a start."""
    return text(lib.fp_stage_name(stage))


def version() -> str:
    """The version of the library, which is that of the package."""
    return text(lib.fp_version())
