"""fastproc in an event loop, with the names and the manners of asyncio.subprocess.

    from fastproc import aio

    async def main():
        async with await aio.create_subprocess_exec("make", "-j2", stdout=aio.PIPE, timeout=600) as process:
            async for line in process.stdout:
                print(line.decode(), end="")
        print(process.status.explain())

Works in any thread's loop, and in loops of others that have ``add_reader``, such as uvloop's.
"""

from __future__ import annotations

from subprocess import DEVNULL, PIPE, STDOUT

from .managed import ManagedProcess
from .manager import ProcessManager
from .process import Process, create_subprocess_exec, create_subprocess_shell
from .running import run
from .streams import InputClosed, StreamReader, StreamWriter

__all__ = [
    "DEVNULL",
    "PIPE",
    "STDOUT",
    "InputClosed",
    "ManagedProcess",
    "Process",
    "ProcessManager",
    "StreamReader",
    "StreamWriter",
    "create_subprocess_exec",
    "create_subprocess_shell",
    "run",
]
