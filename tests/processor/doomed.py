"""Processors in programs of their own, to be killed."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.conftest import eventually

PROGRAM = """
import sys
from fastproc.processor import AgentExecutor, Backoff, Processor
settings = {settings!r}
agent = {agent!r}
if agent:
    settings["executor"] = AgentExecutor(agent)
settings |= dict(backoff=Backoff(base=0.02, cap=0.1), grace=0.5, poll_interval=0.1)
processor = Processor({queue_dir!r}, **settings)
processor.start()
print("up", flush=True)
sys.stdin.read()
processor.stop()
"""


class Doomed:
    """A program that is a Processor until it is killed, or until leave()."""

    def __init__(self, queue_dir: Path, *, agent: list[str] | None = None, **settings: Any) -> None:
        code = PROGRAM.format(settings=settings, agent=agent, queue_dir=str(queue_dir))
        self.process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        # One that runs a task which kills it may not get that far.
        assert line in ("up\n", ""), line

    def kill(self) -> None:
        """SIGKILL, and wait."""
        self.process.send_signal(signal.SIGKILL)
        self._close()

    def leave(self) -> None:
        """Have it stop in order."""
        self._close()
        assert self.process.returncode == 0

    def _close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(30)
        self.process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        assert self.process.stdin is not None
        if not self.process.stdin.closed:
            self.kill()


def is_gone(pid: int) -> bool:
    """Whether a process that is not ours ends soon."""
    return eventually(lambda: not Path(f"/proc/{pid}").exists() or "\nState:\tZ" in _status(pid), 20)


def _status(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return "\nState:\tZ"
