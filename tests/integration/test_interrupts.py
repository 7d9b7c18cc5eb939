"""Ctrl-C and signal handlers at any point: nothing is lost, nothing is left, nothing blocks."""

from __future__ import annotations

import subprocess
import sys

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


def run(script: str, programs: Programs) -> str:
    """Run a script in an interpreter of its own; what it prints. It must leave no process."""
    names = f"NOP = {programs.nop()!r}\nSLEEPS = ['sleep', '60.0987']\n"
    ran = subprocess.run(
        [sys.executable, "-c", names + script], capture_output=True, text=True, timeout=50, check=False
    )
    assert ran.stderr == ""
    assert ran.returncode == 0
    assert subprocess.run(["pgrep", "-f", "sleep 60.0987"], capture_output=True, check=False).stdout == b""
    return ran.stdout


def test_ctrl_c_at_any_point_loses_nothing(programs: Programs) -> None:
    assert run(_STORM, programs).split() == ["True", "True", "0", "0"]


def test_a_signal_handler_may_stop_everything(programs: Programs) -> None:
    assert run(_HANDLER, programs).split() == ["True", "0"]
