"""Start processes in great number, keep every deadline, end everything for certain, know how each ended.

with fastproc.ProcessManager() as manager:
    process = manager.start_process("build", ["make", "-j2"], timeout=600, stdout=fastproc.PIPE)
    print(process.wait().explain())
"""

from __future__ import annotations

import os
from subprocess import DEVNULL, PIPE, STDOUT

from ._native.kernel import version
from .cancel import CancelToken
from .capabilities import capabilities
from .command import Command, LogFile
from .errors import (
    DuplicateTask,
    FastprocError,
    ForkedHandle,
    ManagerClosed,
    NotActive,
    SpawnError,
    TooManyProcesses,
    WaitTimeout,
)
from .limits import Limits
from .manager import ProcessManager
from .process import Process
from .status import ExitReason, ExitStatus, ResourceUsage, StopReport, StopResult

__version__ = version()


def get_include() -> str:
    """The directory of fastproc.h, for those who build against libfastproc."""
    return os.path.join(os.path.dirname(__file__), "_native", "include")


def get_library_dir() -> str:
    """The directory of libfastproc.a and libfastproc.so."""
    return os.path.join(os.path.dirname(__file__), "_native", "lib")


__all__ = [
    "DEVNULL",
    "PIPE",
    "STDOUT",
    "CancelToken",
    "Command",
    "DuplicateTask",
    "ExitReason",
    "ExitStatus",
    "FastprocError",
    "ForkedHandle",
    "Limits",
    "LogFile",
    "ManagerClosed",
    "NotActive",
    "Process",
    "ProcessManager",
    "ResourceUsage",
    "SpawnError",
    "StopReport",
    "StopResult",
    "TooManyProcesses",
    "WaitTimeout",
    "__version__",
    "capabilities",
    "get_include",
    "get_library_dir",
]
