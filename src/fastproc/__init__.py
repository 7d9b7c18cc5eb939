"""Start processes in great number, keep every deadline, end everything for certain, know how each ended.

with fastproc.ProcessManager() as manager:
    process = manager.start_process("build", ["make", "-j2"], timeout=600, stdout=fastproc.PIPE)
    print(process.wait().explain())
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from subprocess import (
        DEVNULL,
        PIPE,
        STDOUT,
        CalledProcessError,
        CompletedProcess,
        SubprocessError,
        TimeoutExpired,
    )

    from . import subprocess
    from ._install import install
    from ._native.kernel import capabilities
    from .cancel import CancelToken
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
    from .subprocess import Popen, call, check_call, check_output, getoutput, getstatusoutput, run

    __version__: str

# Where each name comes from. What is not used is not imported: most of the time goes into modules of the
# standard library such as dataclasses and logging.
_HOMES = {
    "DEVNULL": "subprocess",
    "PIPE": "subprocess",
    "STDOUT": "subprocess",
    "CalledProcessError": "subprocess",
    "CompletedProcess": "subprocess",
    "SubprocessError": "subprocess",
    "TimeoutExpired": "subprocess",
    "Popen": ".subprocess",
    "call": ".subprocess",
    "check_call": ".subprocess",
    "check_output": ".subprocess",
    "getoutput": ".subprocess",
    "getstatusoutput": ".subprocess",
    "run": ".subprocess",
    "install": "._install",
    "CancelToken": ".cancel",
    "Command": ".command",
    "DuplicateTask": ".errors",
    "ExitReason": ".status",
    "ExitStatus": ".status",
    "FastprocError": ".errors",
    "ForkedHandle": ".errors",
    "Limits": ".limits",
    "LogFile": ".command",
    "ManagerClosed": ".errors",
    "NotActive": ".errors",
    "Process": ".process",
    "ProcessManager": ".manager",
    "ResourceUsage": ".status",
    "SpawnError": ".errors",
    "StopReport": ".status",
    "StopResult": ".status",
    "TooManyProcesses": ".errors",
    "WaitTimeout": ".errors",
    "__version__": "._native.kernel",
    "capabilities": "._native.kernel",
}


def __getattr__(name: str) -> object:
    """Import a name when it is first used."""
    if name == "subprocess":
        return importlib.import_module(".subprocess", __name__)
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(home, __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, "subprocess"})


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
    "CalledProcessError",
    "CancelToken",
    "Command",
    "CompletedProcess",
    "DuplicateTask",
    "ExitReason",
    "ExitStatus",
    "FastprocError",
    "ForkedHandle",
    "Limits",
    "LogFile",
    "ManagerClosed",
    "NotActive",
    "Popen",
    "Process",
    "ProcessManager",
    "ResourceUsage",
    "SpawnError",
    "StopReport",
    "StopResult",
    "SubprocessError",
    "TimeoutExpired",
    "TooManyProcesses",
    "WaitTimeout",
    "__version__",
    "call",
    "capabilities",
    "check_call",
    "check_output",
    "get_include",
    "get_library_dir",
    "getoutput",
    "getstatusoutput",
    "install",
    "run",
    "subprocess",
]
