"""Who is compared: the same job, done by the loop in C, by the standard library and by fastproc.

The job is to start `n` children and to wait for each. Every child ends with the code of its program, and
each contender counts the ends with that code: one that loses or invents a status is not measured but refused.
All children have the streams of this process, except that standard input is /dev/null for those of fastproc,
its default. Other libraries are in peers.py. A face of fastproc that cannot be imported raises NotThere, and
takes part as soon as it can.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from harness import Contender, NotDone, NotThere, workshop
from jobs import Status, Timed, proven
from surroundings import (
    CHILD_CODE,
    CLEAN,
    CLONE3,
    FORK,
    PIN,
    POSIX_SPAWN,
    VFORK,
    Program,
)

import fastproc

BARE = "no session, no containment, no deadline; signals and descriptors as the caller has them"
CLEANED = "session, clean signals and descriptors, as fastproc; no cgroup, no deadline, nobody watches"
PLAIN = "no session, no containment, no deadline; descriptors closed, the caller's signal mask"
UNCLOSED = "no session, no containment, no deadline; the caller's descriptors and signal mask"
NO_CGROUP = "session as containment, no cgroup"
EVENT_LOOP = "as subprocess; its end comes through the event loop"
COUNTS_BYTES = "proven by a byte from each child; no status of each"


# ---- what contenders are made of ----


@dataclass(frozen=True, slots=True)
class OneByOne:
    """A contender made of a function that starts one child and waits for it."""

    name: str
    one: Callable[[], Status]
    differs: str = ""
    code: int = CHILD_CODE
    slow: int = 1

    def __call__(self, n: int) -> float:
        one = self.one
        start = time.perf_counter()
        statuses = [one() for _ in range(n)]
        seconds = time.perf_counter() - start
        proven(self.name, statuses, n, self.code)
        return seconds

    def each(self, n: int) -> list[float]:
        """The seconds of each child by itself."""
        one, clock = self.one, time.perf_counter
        statuses: list[Status] = []
        seconds = []
        for _ in range(n):
            start = clock()
            status = one()
            seconds.append(clock() - start)
            statuses.append(status)
        proven(self.name, statuses, n, self.code)
        return seconds


@dataclass(frozen=True, slots=True)
class InLoop:
    """The same of a coroutine: so many tasks, each starting one child after the other."""

    name: str
    runner: asyncio.Runner
    one: Callable[[], Awaitable[Status]]
    tasks: int
    differs: str = EVENT_LOOP
    code: int = CHILD_CODE
    slow: int = 1

    def __call__(self, n: int) -> float:
        start = time.perf_counter()
        statuses = self.runner.run(self._all(n))
        seconds = time.perf_counter() - start
        proven(self.name, statuses, n, self.code)
        return seconds

    def each(self, n: int) -> list[float]:
        """The seconds of each child by itself, one at a time."""
        return self.runner.run(self._each(n))

    async def _all(self, n: int) -> list[Status]:
        todo = iter(range(n))

        async def some() -> list[Status]:
            return [await self.one() for _ in todo]

        done = await asyncio.gather(*(some() for _ in range(self.tasks)))
        return [status for statuses in done for status in statuses]

    async def _each(self, n: int) -> list[float]:
        statuses: list[Status] = []
        seconds = []
        for _ in range(n):
            start = time.perf_counter()
            status = await self.one()
            seconds.append(time.perf_counter() - start)
            statuses.append(status)
        proven(self.name, statuses, n, self.code)
        return seconds


@dataclass(frozen=True, slots=True)
class InC:
    """The loop in C; it looks at every status itself."""

    name: str
    threads: int
    how: int
    window: int = 1
    program: Program | None = None
    differs: str = BARE
    slow: int = 1

    def __call__(self, n: int) -> float:
        return workshop.limits.loop(_or_nop(self.program), n, self.threads, self.how, self.window)

    def each(self, n: int) -> list[float]:
        """The seconds of each child by itself."""
        return workshop.limits.each(_or_nop(self.program), n, self.how)


@contextmanager
def idle_pool(threads: int) -> Iterator[ThreadPoolExecutor]:
    """A pool whose threads are there, and wait for work."""
    with ThreadPoolExecutor(threads) as pool:
        all_there = threading.Barrier(threads)
        list(pool.map(lambda _: all_there.wait(), range(threads)))
        yield pool


@dataclass(frozen=True, slots=True)
class InThreads:
    """A pool of threads, each doing one after the other. It is there only while it is this one's turn.

    The kernel offers SIGCHLD of the children of others to such threads: see BesideIdleThreads.
    """

    name: str
    one: Callable[[], Status]
    threads: int
    differs: str = ""
    code: int = CHILD_CODE
    slow: int = 1

    def __call__(self, n: int) -> float:
        with idle_pool(self.threads) as pool:
            return Timed(self.name, lambda n: pool.map(lambda _: self.one(), range(n)), code=self.code)(n)


@dataclass(frozen=True, slots=True)
class BesideIdleThreads:
    """Another contender, beside a pool of threads that have nothing to do.

    Those who make children in threads that block SIGCHLD leave it to the kernel to find one that does not.
    """

    other: Contender
    threads: int
    slow: int = 1

    @property
    def name(self) -> str:
        """Its own."""
        return f"{self.other.name}, beside {self.threads} idle threads"

    @property
    def differs(self) -> str:
        """As the other has it."""
        return getattr(self.other, "differs", "")

    def __call__(self, n: int) -> float:
        with idle_pool(self.threads):
            return self.other(n)


OursT = TypeVar("OursT", Timed, OneByOne, InLoop, InC, InThreads)


def fewer(contender: OursT, slow: int) -> OursT:
    """The same, given fewer children by that factor: each takes long, or no goal is about it."""
    return replace(contender, slow=slow)


def face(path: str) -> Any:
    """A part of fastproc by its dotted name, say "fastproc.aio.run"; NotThere while there is none."""
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        raise NotThere(f"{path} is not there yet") from None


def _or_nop(program: Program | None) -> Program:
    return workshop.program() if program is None else program


# ---- one at a time ----


def c_loop(program: Program | None = None) -> InC:
    """The least that the kernel asks for."""
    return InC("C: clone3, waitid", 1, CLONE3, program=program)


def c_clean_loop() -> InC:
    """What fastproc gives without a cgroup, in C: the price of these guarantees alone."""
    return InC("C: clone3 with session and clean state, waitid", 1, CLEAN, differs=CLEANED)


def c_vfork() -> InC:
    """The old way."""
    return InC("C: vfork, execve, waitid", 1, VFORK)


def c_posix_spawn() -> InC:
    """What C programs do, at best."""
    return InC("C: posix_spawn, waitid", 1, POSIX_SPAWN)


def c_fork(slow: int = 1) -> InC:
    """What C programs do as a rule."""
    return InC("C: fork, execve, waitid", 1, FORK, slow=slow)


def popen(program: Program | None = None) -> OneByOne:
    """subprocess, as fast as it goes."""
    made = _or_nop(program)
    args = made.args
    return OneByOne("subprocess.Popen, wait", lambda: subprocess.Popen(args).wait(), PLAIN, made.code)


def subprocess_run() -> OneByOne:
    """subprocess, as most call it."""
    args = [workshop.child]
    return OneByOne("subprocess.run", lambda: subprocess.run(args, check=False).returncode, PLAIN)


def os_posix_spawn() -> OneByOne:
    """The least that the standard library offers."""
    path, args = workshop.child, [workshop.child]

    def one() -> Status:
        _pid, status = os.waitpid(os.posix_spawn(path, args, os.environ), 0)
        return os.waitstatus_to_exitcode(status)

    return OneByOne("os.posix_spawn, waitpid", one, UNCLOSED)


def start_process(manager: fastproc.ProcessManager, program: Program | None = None) -> OneByOne:
    """fastproc, one call to start and one to wait."""
    made = _or_nop(program)
    args = made.args
    count = iter(range(1 << 60))

    def one() -> Status:
        return manager.start_process(f"task-{next(count)}", args).wait().code

    return OneByOne("ProcessManager.start_process, wait", one, code=made.code)


def start_same_command(manager: fastproc.ProcessManager) -> OneByOne:
    """fastproc, with a Command that was made beforehand and inherits standard input as the others do."""
    command = fastproc.Command([workshop.child], stdin=None)
    count = iter(range(1 << 60))

    def one() -> Status:
        return manager.start_process(f"same-{next(count)}", command).wait().code

    return OneByOne("ProcessManager, one Command, stdin inherited", one)


def start_in_session(manager: fastproc.ProcessManager) -> OneByOne:
    """Fastproc without a cgroup for each child."""
    args = [workshop.child]
    count = iter(range(1 << 60))

    def one() -> Status:
        started = manager.start_process(f"session-{next(count)}", args, containment="session")
        return started.wait().code

    return OneByOne('ProcessManager, containment="session"', one, NO_CGROUP)


def run() -> OneByOne:
    """The drop-in for subprocess.run."""
    call = face("fastproc.run")
    args = [workshop.child]
    return OneByOne("fastproc.run", lambda: call(args, check=False).returncode, "the same as subprocess.run")


# ---- many at once ----


def c_threads(threads: int, program: Program | None = None) -> list[InC]:
    """The best arrangements in C: each thread starts and reaps its own, on any CPU or on one of its own."""
    return [
        InC(f"C: clone3, waitid, {threads} threads", threads, CLONE3, program=program),
        InC(f"C: clone3, waitid, {threads} pinned threads", threads, CLONE3 | PIN, program=program),
        InC(f"C: the same, 8 alive in each of {threads}", threads, CLONE3, 8, program),
    ]


def c_window(alive: int) -> InC:
    """C with so many alive, by as many threads as help, each on a CPU of its own."""
    threads = min(alive, len(os.sched_getaffinity(0)))
    return InC("C: clone3, waitid", threads, CLONE3 | PIN, max(1, alive // threads))


def start_many(manager: fastproc.ProcessManager, program: Program | None = None) -> Timed:
    """fastproc, all in one call."""
    made = _or_nop(program)
    args = made.args

    def job(n: int) -> Iterator[Status]:
        for started in manager.start_many((f"task-{i}", args) for i in range(n)):
            if isinstance(started, fastproc.SpawnError):
                raise started
            yield started.wait().code

    return Timed("ProcessManager.start_many, wait", job, code=made.code)


def fastproc_map(
    manager: fastproc.ProcessManager, program: Program | None = None, alive: int | None = None
) -> Timed:
    """fastproc, bounded in flight."""
    made = _or_nop(program)
    args = made.args

    def job(n: int) -> Iterator[Status]:
        for ended in manager.map((args for _ in range(n)), concurrency=alive):
            yield ended.returncode

    return Timed("ProcessManager.map", job, code=made.code)


def popen_window(width: int) -> Timed:
    """Popen with so many running at a time, from one thread."""
    args = [workshop.child]

    def job(n: int) -> Iterator[Status]:
        running: deque[subprocess.Popen[bytes]] = deque()
        for _ in range(n):
            if len(running) >= width:
                yield running.popleft().wait()
            running.append(subprocess.Popen(args))
        for last in running:
            yield last.wait()

    return Timed(f"subprocess.Popen, {width} running", job, PLAIN)


def popen_in_threads(threads: int, program: Program | None = None) -> InThreads:
    """Popen in a pool of threads, which is what most programs do."""
    made = _or_nop(program)
    args = made.args
    name = f"subprocess.Popen in {threads} threads"
    return InThreads(name, lambda: subprocess.Popen(args).wait(), threads, PLAIN, made.code)


@contextmanager
def in_asyncio(tasks: int, program: Program | None = None) -> Iterator[InLoop]:
    """The event loop with so many tasks, each starting one child after the other."""
    made = _or_nop(program)
    args = made.args

    async def one() -> Status:
        child = await asyncio.create_subprocess_exec(*args)
        return await child.wait()

    with asyncio.Runner() as runner:
        name = f"asyncio, {tasks} tasks" if tasks > 1 else "asyncio.create_subprocess_exec, wait"
        yield InLoop(name, runner, one, tasks, code=made.code)


@contextmanager
def in_aio(tasks: int) -> Iterator[InLoop]:
    """Fastproc's asyncio face, called as that of the standard library."""
    create = face("fastproc.aio.create_subprocess_exec")
    path = workshop.child

    async def one() -> Status:
        child = await create(path)
        code: Status = await child.wait()
        return code

    with asyncio.Runner() as runner:
        name = f"fastproc.aio, {tasks} tasks" if tasks > 1 else "fastproc.aio.create_subprocess_exec, wait"
        yield InLoop(name, runner, one, tasks, "as asyncio.subprocess")


@contextmanager
def awaited(manager: fastproc.ProcessManager) -> Iterator[InLoop]:
    """A Process of the manager, awaited in a loop; starting it holds the loop."""
    args = [workshop.child]
    count = iter(range(1 << 60))

    async def one() -> Status:
        return (await manager.start_process(f"awaited-{next(count)}", args)).code

    with asyncio.Runner() as runner:
        yield InLoop("await ProcessManager.start_process", runner, one, 1, "the start holds the loop")


# ---- programs ----


def xargs(width: int) -> Timed:
    """Xargs -P."""
    path = _command("xargs")
    return shell_tool(f"xargs -P {width}", [path, f"-P{width}", "-n1", workshop.child], wanted=123)


def gnu_parallel(width: int) -> Timed:
    """GNU parallel, which keeps the output of each job apart and writes a log of statuses."""
    path = _command("parallel")
    if b"GNU parallel" not in subprocess.run([path, "--version"], capture_output=True, check=False).stdout:
        raise NotThere("parallel is not GNU parallel")

    def job(n: int) -> list[Status]:
        with tempfile.TemporaryDirectory() as home:
            log = Path(home) / "log"
            args = [path, f"-j{width}", "--joblog", str(log), "--no-run-if-empty", workshop.child]
            environment = {**os.environ, "HOME": home, "PARALLEL_HOME": home}
            words = "announce\n" * n
            subprocess.run(
                args, input=words, text=True, env=environment, stdout=subprocess.DEVNULL, check=False
            )
            lines = log.read_text(encoding="utf-8").splitlines()[1:]
            return [int(line.split("\t")[6]) for line in lines]

    return Timed(f"GNU parallel -j {width}", job, "keeps output apart, writes a log", slow=40)


def shell_tool(name: str, args: list[str], wanted: int) -> Timed:
    """A tool that is fed words, appends each to its command, and gives one code for all of them."""

    def job(n: int) -> list[Status]:
        done = subprocess.run(args, input=b"announce\n" * n, stdout=subprocess.PIPE, check=False)
        if done.returncode != wanted:
            raise NotDone(f"{name}: {done.returncode} instead of {wanted}")
        return [CHILD_CODE] * len(done.stdout)

    return Timed(name, job, COUNTS_BYTES)


def _command(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise NotThere(f"{name} is not installed")
    return path
