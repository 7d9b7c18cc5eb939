"""Other libraries that start processes, each in an interpreter of its own.

Some of them replace the handler of SIGCHLD or wait for any child: in one process with others they would take
each other's statuses. So each has a process that reads how many children it shall start, does that, counts
the statuses and says how many seconds it took:

    python peers.py trio 8 /path/to/child 7
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Self

from jobs import Timed
from surroundings import HERE, SHARED_WORKSHOP, NotDone, NotThere, Program, small_environment, workshop

Job = Callable[[int], Iterable[int | None]]

SLOW = {"uvloop": 8, "gevent": 8, "sh": 16, "plumbum": 2}
"""By how much fewer children these are given: they fork, or start a thread or more for each."""

PATIENCE = 60.0


# ---- in a process of its own ----


def with_psutil(program: Program, width: int) -> Job:
    import psutil

    return _pooled(lambda: psutil.Popen(program.args).wait(), width)


def with_uvloop(program: Program, width: int) -> Job:
    import uvloop

    return _in_loop(program, width, asyncio.Runner(loop_factory=uvloop.new_event_loop))


def with_trio(program: Program, width: int) -> Job:
    import trio

    async def some(todo: Iterator[int], statuses: list[int | None]) -> None:
        for _ in todo:
            done = await trio.run_process(program.args, check=False)
            statuses.append(done.returncode)

    async def everything(n: int) -> list[int | None]:
        todo = iter(range(n))
        statuses: list[int | None] = []
        async with trio.open_nursery() as nursery:
            for _ in range(width):
                nursery.start_soon(some, todo, statuses)
        return statuses

    return lambda n: trio.run(everything, n)


def with_anyio(program: Program, width: int) -> Job:
    import anyio

    async def some(todo: Iterator[int], statuses: list[int | None]) -> None:
        for _ in todo:
            child = await anyio.open_process(program.args, stdin=None, stdout=None, stderr=None)
            statuses.append(await child.wait())

    async def everything(n: int) -> list[int | None]:
        todo = iter(range(n))
        statuses: list[int | None] = []
        async with anyio.create_task_group() as group:
            for _ in range(width):
                group.start_soon(some, todo, statuses)
        return statuses

    return lambda n: anyio.run(everything, n)


def with_gevent(program: Program, width: int) -> Job:
    from gevent import pool, subprocess as gevent_subprocess

    def one(_: int) -> int | None:
        status: int | None = gevent_subprocess.Popen(program.args).wait()
        return status

    return lambda n: pool.Pool(width).map(one, range(n))


def with_sh(program: Program, width: int) -> Job:
    import sh

    command = sh.Command(program.path)

    def one() -> int | None:
        ended = command(*program.mode, _ok_code=[program.code], _return_cmd=True)
        code: int | None = ended.exit_code
        return code

    return _pooled(one, width)


def with_plumbum(program: Program, width: int) -> Job:
    from plumbum import local

    command = local[program.path]
    return _pooled(lambda: command.run(program.mode, retcode=program.code)[0], width)


WAYS: dict[str, tuple[Callable[[Program, int], Job], str]] = {
    "psutil": (with_psutil, "as subprocess, and a psutil.Process"),
    "uvloop": (with_uvloop, "as subprocess; its end comes through the event loop"),
    "trio": (with_trio, "trio.run_process: standard input is a pipe; ends with its nursery"),
    "anyio": (with_anyio, "as subprocess; its end comes through the event loop"),
    "gevent": (with_gevent, "as subprocess; its end comes through the hub"),
    "sh": (with_sh, "captures output through a terminal, by threads"),
    "plumbum": (with_plumbum, "captures output"),
}


def _pooled(one: Callable[[], int | None], width: int) -> Job:
    if width == 1:
        return lambda n: (one() for _ in range(n))
    pool = ThreadPoolExecutor(width)
    return lambda n: pool.map(lambda _: one(), range(n))


def _in_loop(program: Program, width: int, runner: asyncio.Runner) -> Job:
    async def some(todo: Iterator[int]) -> list[int | None]:
        statuses: list[int | None] = []
        for _ in todo:
            child = await asyncio.create_subprocess_exec(*program.args)
            statuses.append(await child.wait())
        return statuses

    async def everything(n: int) -> list[int | None]:
        todo = iter(range(n))
        done = await asyncio.gather(*(some(todo) for _ in range(width)))
        return [status for statuses in done for status in statuses]

    return lambda n: runner.run(everything(n))


def serve(name: str, width: int, program: Program) -> None:
    """Answer one JSON line for each number that is read."""
    small_environment()
    try:
        contender = Timed(name, WAYS[name][0](program, width), code=program.code)
    except ImportError as why:
        _say({"not_there": f"{name} is not installed: {why}"})
        return
    _say({"ready": True})
    for line in sys.stdin:
        try:
            _say({"seconds": contender(int(line))})
        except Exception as why:  # noqa: BLE001 - whatever a library raises, it has not done the work
            _say({"refused": f"{type(why).__name__}: {why}"})


def _say(words: dict[str, object]) -> None:
    print(json.dumps(words), file=_answers, flush=True)


# ---- on the other side ----


@dataclass(slots=True)
class Peer:
    """A contender that is asked through a pipe."""

    name: str
    differs: str
    slow: int
    process: subprocess.Popen[str]

    def __call__(self, n: int) -> float:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(f"{n}\n")
            self.process.stdin.flush()
        except OSError as why:
            raise NotDone(f"{self.name}: its process has gone: {why}") from None
        said = self.hear()
        if "seconds" not in said:
            raise NotDone(str(said.get("refused", said)))
        return float(str(said["seconds"]))

    def hear(self) -> dict[str, object]:
        """Its next answer."""
        import select

        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], PATIENCE)[0]:
            self.process.kill()
            raise NotDone(f"{self.name}: no answer within {PATIENCE:g} s")
        line = self.process.stdout.readline()
        if not line:
            raise NotDone(f"{self.name}: its process has ended")
        said: dict[str, object] = json.loads(line)
        return said


class Peers:
    """All of them, started at once; a context that ends them."""

    def __init__(
        self, width: int = 1, program: Program | None = None, names: Iterable[str] = WAYS, fewer: int = 1
    ) -> None:
        self._fewer = fewer
        self._width = width
        self._program = workshop.program() if program is None else program
        self._names = list(names)
        self._stack = ExitStack()
        self._peers: dict[str, Peer] = {}

    def __enter__(self) -> Self:
        for name in self._names:
            title = name if self._width == 1 else f"{name}, {self._width} at a time"
            process = self._start(name)
            self._stack.callback(_end, process)
            self._peers[title] = Peer(title, WAYS[name][1], SLOW.get(name, 1) * self._fewer, process)
        return self

    def __exit__(self, *_exc: object) -> None:
        # All are told before any is waited for: an interpreter takes its time to end.
        for peer in self._peers.values():
            assert peer.process.stdin is not None
            peer.process.stdin.close()
        self._stack.close()

    @property
    def wanted(self) -> list[tuple[str, Callable[[], Peer]]]:
        """For those_there()."""
        return [(title, functools.partial(_when_ready, peer)) for title, peer in self._peers.items()]

    def _start(self, name: str) -> subprocess.Popen[str]:
        program = self._program
        command = [sys.executable, str(HERE / "peers.py"), name, str(self._width)]
        return subprocess.Popen(
            [*command, program.path, str(program.code), *program.mode],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, SHARED_WORKSHOP: workshop.directory},
        )


def _when_ready(peer: Peer) -> Peer:
    try:
        said = peer.hear()
    except NotDone as why:
        raise NotThere(str(why)) from None
    if "ready" not in said:
        raise NotThere(str(said.get("not_there", said)))
    return peer


def _end(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    process.stdout.close()
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


_answers = sys.stdout

if __name__ == "__main__":
    # What children write must not be taken for an answer.
    _answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    with open(os.devnull, "w", encoding="utf-8") as null:
        os.dup2(null.fileno(), 1)
    serve(sys.argv[1], int(sys.argv[2]), Program(sys.argv[3], int(sys.argv[4]), tuple(sys.argv[5:])))
