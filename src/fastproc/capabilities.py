"""What this kernel and this container allow, found out by trying."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import MappingProxyType

from ._native import kernel


def capabilities() -> Mapping[str, bool | str]:
    """What is there, by name; hidden is what the environment variable FASTPROC_DISABLE lists.

    Further entries: ``kernel``, the release; ``cgroup_dir``, the directory for cgroups of children, "" if
    there is none; ``containment``, what "auto" means here.
    """
    found: dict[str, bool | str] = dict(kernel.capabilities())
    found["kernel"] = os.uname().release
    found["cgroup_dir"] = kernel.cgroup_dir() or ""
    found["containment"] = "cgroup" if found["cgroup"] else "session"
    return MappingProxyType(found)
