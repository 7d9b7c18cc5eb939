"""What this kernel and this build offer, and the library's words."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import MappingProxyType

from .check import text
from .library import ffi, lib


def capabilities() -> Mapping[str, bool | str]:
    """What this kernel and this container allow, by name, found out by trying.

    Hidden is what the environment variable FASTPROC_DISABLE lists. Further entries: ``kernel``, the release;
    ``cgroup_dir``, the directory for cgroups of children, "" if there is none; ``containment``, what "auto"
    means here.
    """
    found: dict[str, bool | str] = {
        text(lib.fp_capability_name(index)): lib.fp_probe(index) == 1 for index in range(lib.FP_CAP_COUNT)
    }
    path = lib.fp_cgroup_dir()
    found["kernel"] = os.uname().release
    found["cgroup_dir"] = "" if path == ffi.NULL else text(path)
    found["containment"] = "cgroup" if found["cgroup"] else "session"
    return MappingProxyType(found)


def stage_name(stage: int) -> str:
    """The word for a step of a start."""
    return text(lib.fp_stage_name(stage))


__version__ = text(lib.fp_version())
"""That of the library, which is that of the package."""
