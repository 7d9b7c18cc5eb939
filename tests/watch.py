"""What tests see of processes from outside, and what they do to an interpreter of their own."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from tests.conftest import eventually
from tests.programs import Programs

from fastproc import Process, capabilities

T = TypeVar("T")


def can(*names: str) -> bool:
    """Whether this kernel has these capabilities, and FASTPROC_DISABLE does not hide one of them."""
    found = capabilities()
    return all(bool(found[name]) for name in names)


def opens_pidfds() -> bool:
    """Whether a process that came without a pidfd can be given one, see pidfd_open(2)."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError:
        return False
    return True


def state_of(pid: int) -> str:
    """The state of a process as a letter, see proc(5); "" when it is gone."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def is_alive(pid: int) -> bool:
    """Whether it exists and is no zombie: unlike signal 0, which reaches those too."""
    return state_of(pid) not in {"", "Z", "X"}


def alive(pids: Iterable[int]) -> list[int]:
    """Those of them that live."""
    return [pid for pid in pids if is_alive(pid)]


def first_line(process: Process) -> str:
    """The first line that a program says: it is ready then."""
    with process.lines() as lines:
        return next(lines)


def lines_until(process: Process, start: str) -> list[str]:
    """What a program says, up to the first line that starts like this."""
    said: list[str] = []
    with process.lines() as lines:
        for line in lines:
            said.append(line)
            if line.startswith(start):
                return said
    raise AssertionError(f"it ended without saying {start!r}: {said}")


def pids_until(process: Process, start: str) -> list[int]:
    """The numbers of all `pid <pid>` lines of a family, up to the first line that starts like this."""
    return [int(line.split()[1]) for line in lines_until(process, start) if line.startswith("pid ")]


def held(args: list[str]) -> list[str]:
    """A program that stops itself before it begins, so that a reader is there first: see let_go()."""
    return ["sh", "-c", 'kill -STOP $$; exec "$@"', "sh", *args]


def let_go(process: Process) -> None:
    """Let one that is held() begin."""
    assert eventually(lambda: state_of(process.pid) == "T", 10)
    assert process.send_signal(signal.SIGCONT)


@contextmanager
def nobody_left(programs: Programs) -> Iterator[None]:
    """Afterwards no process, wherever it has gone, executes one of the programs; if any does, it is ended."""
    try:
        yield
    finally:
        left = programs.end_all()
    assert left == []


def in_threads(*calls: Callable[[], T]) -> list[T]:
    """Call each in a thread of its own; their results, in order."""
    results: dict[int, T] = {}
    threads = [
        threading.Thread(target=lambda number, call: results.update({number: call()}), args=(number, call))
        for number, call in enumerate(calls)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return [results[number] for number in range(len(calls))]


def hold_the_lock(seconds: float) -> None:
    """Keep the interpreter's lock for so long: no other thread of Python runs."""
    # A call of PyDLL keeps it, where one of CDLL would give it up.
    ctypes.PyDLL(None).usleep(int(seconds * 1_000_000))


def run_script(script: str, *args: object, timeout: float = 40) -> list[str]:
    """Run a program in a fresh interpreter that leads a session; the lines it prints.

    For what would harm this one: signals that might hit the whole group, other dispositions, other users.
    """
    words = [str(arg) for arg in args]
    ran = subprocess.run(
        [sys.executable, "-c", script, *words],
        capture_output=True,
        text=True,
        timeout=timeout,
        start_new_session=True,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, ""), f"{ran.stdout}\n{ran.stderr}"
    return ran.stdout.splitlines()
