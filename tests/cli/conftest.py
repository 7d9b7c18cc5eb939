"""The command line as its users meet it: a process of its own, looked at from outside."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import pytest
from tests.programs import Programs

PATIENCE = 30.0


@dataclass(frozen=True)
class Ended:
    """What became of one run of the command line."""

    code: int
    out: str
    err: str
    seconds: float


class Cli:
    """Starts the command line of the package under test."""

    def __init__(self, cwd: Path) -> None:
        self._cwd = cwd
        self.running: list[subprocess.Popen[bytes]] = []

    def start(self, *args: object, stdin: int | IO[bytes] = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", "fastproc", *map(str, args)],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self._cwd,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )
        self.running.append(process)
        return process

    def __call__(self, *args: object, stdin: bytes = b"") -> Ended:
        began = time.monotonic()
        process = self.start(*args, stdin=subprocess.PIPE)
        out, err = process.communicate(stdin, timeout=PATIENCE)
        return Ended(process.returncode, out.decode(), err.decode(), time.monotonic() - began)

    def end(self, process: subprocess.Popen[bytes], *signals: signal.Signals) -> Ended:
        """Send signals, a moment between them, and wait for the end."""
        began = time.monotonic()
        for number in signals:
            process.send_signal(number)
            time.sleep(0.3)
        out, err = process.communicate(timeout=PATIENCE)
        return Ended(process.returncode, out.decode(), err.decode(), time.monotonic() - began)


@pytest.fixture(scope="session")
def programs() -> Programs:
    return Programs()


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    started = Cli(tmp_path)
    yield started
    for process in started.running:
        if process.poll() is None:
            process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()


@pytest.fixture(autouse=True)
def nothing_left(programs: Programs) -> Iterator[None]:
    """No program that a test has started outlives it."""
    yield
    if programs.running():
        time.sleep(0.2)  # a kill that has been sent may still be on its way
    assert programs.end_all() == []


def line_of(process: subprocess.Popen[bytes], *, error: bool = False) -> str:
    """The next line that it writes."""
    stream = cast("IO[bytes]", process.stderr if error else process.stdout)
    return stream.readline().decode().rstrip("\n")


def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait for what another process does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it has not come about"
        time.sleep(0.01)
