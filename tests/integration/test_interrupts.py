"""Ctrl-C and signal handlers at any point: nothing is lost, nothing is left, nothing blocks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from tests.programs import Programs

# Each turn is interrupted somewhere, a little later every time.
_STORM = """
import itertools, signal, sys, time
import fastproc

def interrupt(*_):
    raise KeyboardInterrupt

manager = fastproc.ProcessManager(grace=0.5)
manager.start_process("first", NOP).wait()
signal.signal(signal.SIGALRM, interrupt)
interrupts = 0
until = time.monotonic() + 3
numbers = itertools.count()
while time.monotonic() < until:
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0002 + interrupts % 97 * 0.00003)
        while True:
            manager.start_process(next(numbers), NOP).wait()
            manager.start_process(next(numbers), SLEEPS)
            manager.start_many([(next(numbers), NOP) for _ in range(3)])
            for process in manager.map([NOP] * 5):
                process.wait()
    except KeyboardInterrupt:
        interrupts += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
report = manager.terminate_all(5)
print(interrupts > 50, bool(report), manager.active_count(), len(manager._roster.feeds))
counted = manager.metrics()
print(counted.started - counted.exited - counted.signaled - counted.status_unknown)
manager.close()
"""

_HANDLER = """
import signal, time
import fastproc

manager = fastproc.ProcessManager(grace=0.5)
slowest = 0.0

def stop_all(*_):
    global slowest
    began = time.monotonic()
    assert manager.terminate_all(1)
    slowest = max(slowest, time.monotonic() - began)
    manager.metrics()
    signal.setitimer(signal.ITIMER_REAL, 0.003)

signal.signal(signal.SIGALRM, stop_all)
signal.setitimer(signal.ITIMER_REAL, 0.003)
until = time.monotonic() + 2
number = 0
while time.monotonic() < until:
    manager.start_process(number, SLEEPS)
    number += 1
signal.setitimer(signal.ITIMER_REAL, 0)
print(bool(manager.close()), manager.active_count())
"""


_POPEN = """
import gc, os, signal, time
from fastproc import subprocess

def standing():
    # Pipes that Ctrl-C has met half made are lost with the standard module as well.
    names = [os.readlink(entry.path) for entry in os.scandir("/proc/self/fd") if os.path.islink(entry.path)]
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return sum("pidfd" in name for name in names), len(file.read().split())

def interrupt(*_):
    if armed:
        raise KeyboardInterrupt

options = [{}, {"env": {"A": "1"}}, {"stdout": subprocess.PIPE, "stdin": subprocess.PIPE}]
for each in options:
    began = time.monotonic()
    subprocess.Popen(NOP, **each).communicate()
    usual = time.monotonic() - began
before = standing()
signal.signal(signal.SIGALRM, interrupt)
interrupts = turns = 0
until = time.monotonic() + 3
while time.monotonic() < until:
    child = None
    try:
        try:
            armed = True
            signal.setitimer(signal.ITIMER_REAL, 0.00005 + turns % 97 * usual / 50)
            child = subprocess.Popen(NOP if turns % 2 else ["sleep", "0.2"], **options[turns % 3])
        finally:
            armed = False
            signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        interrupts += 1
    turns += 1
    if child is not None:
        with child:
            child.kill()
child = None
gc.collect()
for _ in range(100):
    subprocess.Popen(NOP).communicate()
    if standing() == before:
        break
    time.sleep(0.05)
print(interrupts > 50, turns - interrupts > 50, standing() == before or (before, standing()))
"""


def run(script: str, programs: Programs, silent: bool = True) -> str:
    """Run a script in an interpreter of its own; what it prints. It must leave no process."""
    names = f"NOP = {programs.nop()!r}\nSLEEPS = ['sleep', '60.0987']\n"
    ran = subprocess.run(
        [sys.executable, "-c", names + script], capture_output=True, text=True, timeout=50, check=False
    )
    assert ran.stderr == "" or not silent
    assert ran.returncode == 0
    assert subprocess.run(["pgrep", "-f", "sleep 60.0987"], capture_output=True, check=False).stdout == b""
    return ran.stdout


def test_ctrl_c_at_any_point_loses_nothing(programs: Programs) -> None:
    assert run(_STORM, programs).split() == ["True", "True", "0", "0", "0"]


def test_a_signal_handler_may_stop_everything(programs: Programs) -> None:
    assert run(_HANDLER, programs).split() == ["True", "0"]


def test_an_interrupted_popen_leaves_no_child_and_no_descriptor(programs: Programs) -> None:
    """Nobody has a handle of what it has started: it is killed, or at least reaped when it has ended."""
    # The interpreter tells of a Ctrl-C that has come in a __del__().
    assert run(_POPEN, programs, silent=False).split() == ["True", "True", "True"]


_CLEANS_UP = """
import signal, sys, time

def clean_up(*_):
    time.sleep(0.1)
    print("cleaned up", flush=True)
    sys.exit()

signal.signal(signal.SIGINT, clean_up)
print("ready", flush=True)
time.sleep(60)
"""

_CALL = """
import sys
from fastproc import subprocess

command = [sys.executable, "-S", "-c", {program!r}]
assert subprocess._SIGINT_PATIENCE_NS == 250_000_000
# The machine may be busy.
subprocess._SIGINT_PATIENCE_NS *= 100
try:
    {call}
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize(
    "call",
    ["subprocess.run(command)", "subprocess.run(command, timeout=60, cwd='/')", "subprocess.call(command)"],
)
def test_ctrl_c_leaves_the_child_a_moment_for_its_own_end(call: str) -> None:
    """As the standard module: a quarter of a second, before it is killed."""
    with subprocess.Popen(
        [sys.executable, "-c", _CALL.format(program=_CLEANS_UP, call=call)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as ran:
        assert ran.stdout is not None
        assert ran.stdout.readline() == "ready\n"
        os.killpg(ran.pid, signal.SIGINT)
        assert ran.communicate(timeout=30)[0].split("\n") == ["cleaned up", "interrupted", ""]
