"""Scenarios that need a program of their own: they change signals or limits, or end the interpreter."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

from tests.programs import SOURCES, Programs

ROOT = Path(__file__).resolve().parents[2]

_numbers = itertools.count(1)

# What every scenario may use.
_PRELUDE = """
import errno, gc, os, resource, signal, subprocess, sys, threading, time
from pathlib import Path
import fastproc
from fastproc import PIPE, DEVNULL, ExitReason, ProcessManager
from tests.programs import Programs

programs = Programs(sys.argv[1])

def first_line(process):
    with process.lines() as lines:
        return next(lines)

def children():
    found = []
    for task in Path("/proc/self/task").iterdir():
        try:
            found += (task / "children").read_text().split()
        except OSError:
            pass  # a thread that has just ended
    return found
"""


def begin(
    source: str,
    programs: Programs,
    *,
    disable: str = "",
    group: bool = False,
    preload: str = "",
    emulator: str = "",
) -> subprocess.Popen[str]:
    """Begin to run Python source in an interpreter of its own, which takes every warning for an error."""
    # Compiled here: a scenario may be unable to, with signals ignored or without descriptors.
    for name in set(re.findall(r"programs\.(\w+)", source)):
        if (SOURCES / f"{name}.c").exists():
            programs.path(name)
    # glibc overwrites what is freed, see mallopt(3): who uses it all the same is found out.
    environment = dict(os.environ, PYTHONPATH=str(ROOT), MALLOC_PERTURB_="165")
    if disable:
        environment["FASTPROC_DISABLE"] = disable
    if preload:
        environment["LD_PRELOAD"] = preload
    # A file, so that tracebacks show lines, and so that multiprocessing can import it.
    script = programs.directory / f"scenario_{next(_numbers)}.py"
    script.write_text(_PRELUDE + textwrap.dedent(source))
    return subprocess.Popen(
        [*emulator.split(), sys.executable, "-W", "error", str(script), str(programs.directory)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        process_group=0 if group else None,
    )


def finish(program: subprocess.Popen[str], seconds: float = 50) -> tuple[int, str, str]:
    """Its return code, and what it has printed on its two streams. It is killed if it takes too long."""
    try:
        out, err = program.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        program.kill()
        out, err = program.communicate()
        raise AssertionError(f"the scenario hangs; it said:\n{out}\n{err}") from None
    return program.returncode, out, err


def run(
    source: str,
    programs: Programs,
    *,
    disable: str = "",
    seconds: float = 50,
    preload: str = "",
    emulator: str = "",
) -> str:
    """What the source prints; it must end well, and complain of nothing."""
    program = begin(source, programs, disable=disable, preload=preload, emulator=emulator)
    code, out, err = finish(program, seconds)
    assert (code, err) == (0, ""), f"{out}\n{err}"
    return out
