"""Who is compared: the same job, done by the loop in C, by the standard library and by fastproc.

The job is to start `n` children and to wait for each. Every child ends with CHILD_CODE, and each contender
counts the ends with that code: one that loses or invents a status is not measured but fails. All children
have the streams of this process, except that standard input is /dev/null for those of fastproc, its default.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from harness import Contender, NotDone, workshop

import fastproc
from fastproc import aio

CHILD_CODE = 7
CLONE3, CLONE3_FLAT, POSIX_SPAWN, FORK, PIN = 0, 1, 2, 3, 1 << 8  # enum limit_how of limit.c

Status = int | None


@dataclass(frozen=True, slots=True)
class Timed:
    """A contender made of a function that does the job and gives the statuses."""

    name: str
    job: Callable[[int], Iterable[Status]]

    def __call__(self, n: int) -> float:
        start = time.perf_counter()
        statuses = list(self.job(n))
        seconds = time.perf_counter() - start
        right = statuses.count(CHILD_CODE)
        if right != n or len(statuses) != n:
            raise NotDone(f"{self.name}: {right} of {n} children are known to have exited with {CHILD_CODE}")
        return seconds


@dataclass(frozen=True, slots=True)
class InC:
    """The loop in C; it looks at every status itself."""

    name: str
    threads: int
    how: int

    def __call__(self, n: int) -> float:
        return workshop.limit(workshop.child, n, self.threads, self.how)


# ---- one at a time ----


def c_loop() -> Contender:
    """The least that the kernel asks for."""
    return InC("C: clone3, waitid", 1, CLONE3)


def c_flat_loop() -> Contender:
    """The same without a copy of the table of descriptors."""
    return InC("C: clone3, shared descriptors, waitid", 1, CLONE3_FLAT)


def c_posix_spawn() -> Contender:
    """What C programs do, at best."""
    return InC("C: posix_spawn, waitid", 1, POSIX_SPAWN)


def c_fork() -> Contender:
    """What C programs do as a rule."""
    return InC("C: fork, execve, waitid", 1, FORK)


def popen() -> Contender:
    """subprocess, as fast as it goes."""
    args = [workshop.child]
    return Timed("subprocess.Popen, wait", lambda n: (subprocess.Popen(args).wait() for _ in range(n)))


def os_posix_spawn() -> Contender:
    """The least that the standard library offers."""
    path, args = workshop.child, [workshop.child]

    def job(n: int) -> Iterator[Status]:
        for _ in range(n):
            _pid, status = os.waitpid(os.posix_spawn(path, args, os.environ), 0)
            yield os.waitstatus_to_exitcode(status)

    return Timed("os.posix_spawn, waitpid", job)


def start_process(manager: fastproc.ProcessManager) -> Contender:
    """fastproc, one call to start and one to wait."""
    args = [workshop.child]

    def job(n: int) -> Iterator[Status]:
        for i in range(n):
            yield manager.start_process(f"task-{i}", args).wait().code

    return Timed("ProcessManager.start_process, wait", job)


def start_same_command(manager: fastproc.ProcessManager) -> Contender:
    """fastproc, with a Command that was made beforehand and inherits standard input as the others do."""
    command = fastproc.Command([workshop.child], stdin=None)

    def job(n: int) -> Iterator[Status]:
        for i in range(n):
            yield manager.start_process(f"task-{i}", command).wait().code

    return Timed("the same, one Command, stdin inherited", job)


# ---- many at once ----


def c_threads(threads: int) -> list[Contender]:
    """The best arrangements in C: each thread starts and reaps its own, on any CPU or on one of its own."""
    return [
        InC(f"C: clone3, waitid, {threads} threads", threads, CLONE3),
        InC(f"C: clone3, waitid, {threads} pinned threads", threads, CLONE3 | PIN),
    ]


def start_many(manager: fastproc.ProcessManager) -> Contender:
    """fastproc, all in one call."""
    args = [workshop.child]

    def job(n: int) -> Iterator[Status]:
        for started in manager.start_many((f"task-{i}", args) for i in range(n)):
            if isinstance(started, fastproc.SpawnError):
                raise started
            yield started.wait().code

    return Timed("ProcessManager.start_many, wait", job)


def fastproc_map(manager: fastproc.ProcessManager) -> Contender:
    """fastproc, bounded in flight."""
    args = [workshop.child]

    def job(n: int) -> Iterator[Status]:
        for ended in manager.map(args for _ in range(n)):
            yield ended.returncode

    return Timed("ProcessManager.map", job)


def popen_window(width: int) -> Contender:
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

    return Timed(f"subprocess.Popen, {width} running", job)


@contextmanager
def popen_in_threads(threads: int) -> Iterator[Contender]:
    """Popen in a pool of threads, which is what most programs do."""
    args = [workshop.child]

    def one(_: int) -> int:
        return subprocess.Popen(args).wait()

    with ThreadPoolExecutor(threads) as pool:
        yield Timed(f"subprocess.Popen in {threads} threads", lambda n: pool.map(one, range(n)))


Create = Callable[..., Awaitable[aio.Process | asyncio.subprocess.Process]]


@contextmanager
def in_a_loop(
    name: str, create: Create, tasks: int, factory: Callable[[], asyncio.AbstractEventLoop] | None = None
) -> Iterator[Contender]:
    """An event loop with so many tasks, each starting one child after the other."""
    path = workshop.child

    async def one_by_one(todo: Iterator[int]) -> list[Status]:
        statuses: list[Status] = []
        for _ in todo:
            child = await create(path)
            statuses.append(await child.wait())
        return statuses

    async def all_of_them(n: int) -> list[Status]:
        todo = iter(range(n))
        done = await asyncio.gather(*(one_by_one(todo) for _ in range(tasks)))
        return [status for statuses in done for status in statuses]

    with asyncio.Runner(loop_factory=factory) as runner:
        yield Timed(f"{name}, {tasks} tasks", lambda n: runner.run(all_of_them(n)))


def in_asyncio(tasks: int) -> AbstractContextManager[Contender]:
    """That of the standard library, which has a thread for each child before Python 3.12."""
    return in_a_loop("asyncio", asyncio.create_subprocess_exec, tasks)


def in_fastproc_aio(tasks: int) -> AbstractContextManager[Contender]:
    """fastproc.aio, in the same loop."""
    return in_a_loop("fastproc.aio", aio.create_subprocess_exec, tasks)


@contextmanager
def collecting(name: str, collect: Callable[[str], Awaitable[bytes]], tasks: int) -> Iterator[Contender]:
    """So many tasks, each of which has one child after the other write something, and reads it."""

    async def one_by_one(todo: Iterator[int]) -> list[Status]:
        return [CHILD_CODE if await collect("/bin/echo") == b"7\n" else None for _ in todo]

    async def all_of_them(n: int) -> list[Status]:
        todo = iter(range(n))
        done = await asyncio.gather(*(one_by_one(todo) for _ in range(tasks)))
        return [status for statuses in done for status in statuses]

    with asyncio.Runner() as runner:
        yield Timed(f"{name}, {tasks} tasks", lambda n: runner.run(all_of_them(n)))


async def communicate(create: Create, path: str) -> bytes:
    """What it writes, by its reader."""
    child = await create(path, "7", stdout=subprocess.PIPE)
    out, _ = await child.communicate()
    return out or b""


async def run_in_loop(path: str) -> bytes:
    """What it writes, in one await."""
    return bytes((await aio.run([path, "7"], stdout=subprocess.PIPE)).stdout)
