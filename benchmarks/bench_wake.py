"""How long after its exit does somebody who waits for a child know?

Pinned. The child lets its starter fall asleep, writes the clock into a file and exits at once; whoever waits
looks at the clock when it has the status. About 9 us of it are the kernel's, which takes the process apart
before anybody is told. Sync: the thread that started it waits. Thread: another one does. Asyncio: a coroutine
does, and what a loop must pay at least is measured beside it: from a byte in a pipe to a coroutine.
"""

from __future__ import annotations

import asyncio
import gc
import os
import queue
import statistics
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import contenders
from harness import Answer, NotDone, NotThere, Plan, Rounds, Row, main, percentile, pinned, workshop

import fastproc

GOAL_SYNC = 1.1
TURN = 20

C, OURS_SYNC, POPEN_SYNC = "C: waitid", "Process.wait", "Popen.wait"
OURS_THREAD, POPEN_THREAD = "Process.wait in another thread", "Popen.wait in another thread"
OURS_CALLBACK = "Process.add_done_callback"
OURS_AWAIT, FACE, LOOP = "await Process", "fastproc.aio", "asyncio"
WAKE_UP = "one wake-up of a loop"


class Stamps:
    """The file that a child writes the clock to before it exits."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("stamps", os.MFD_CLOEXEC)

    def rewind(self) -> None:
        """Make room for the next one."""
        os.lseek(self.fd, 0, os.SEEK_SET)

    def since(self, woken_ns: int) -> float:
        """Seconds from the stamp until then."""
        (stamp,) = struct.unpack("q", os.pread(self.fd, 8, 0))
        seconds: float = (woken_ns - stamp) * 1e-9
        if not 0 < seconds < 10:
            raise NotDone(f"a child has written {stamp} as its time")
        return seconds


Once = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Ways:
    """All who wait, each as a function that starts one child and tells how long the news took."""

    stamps: Stamps
    manager: fastproc.ProcessManager
    runner: asyncio.Runner

    def sync(self) -> Once:
        """Process.wait() by who has started it."""
        command = fastproc.Command([workshop.child, "wake"], stdout=self.stamps.fd)
        names = iter(range(1 << 60))

        def once() -> float:
            self.stamps.rewind()
            code = self.manager.start_process(f"sync-{next(names)}", command).wait().code
            return self._heard(code)

        return once

    def popen(self) -> Once:
        """Popen.wait() by who has started it."""
        args = [workshop.child, "wake"]

        def once() -> float:
            self.stamps.rewind()
            return self._heard(subprocess.Popen(args, stdout=self.stamps.fd).wait())

        return once

    @contextmanager
    def thread(self, start: Callable[[], Callable[[], int | None]]) -> Iterator[Once]:
        """One thread starts, another waits and looks at the clock."""
        waits: queue.SimpleQueue[Callable[[], int | None] | None] = queue.SimpleQueue()
        heard: queue.SimpleQueue[tuple[int | None, int]] = queue.SimpleQueue()

        def waiter() -> None:
            while (wait := waits.get()) is not None:
                code = wait()
                heard.put((code, time.monotonic_ns()))

        def once() -> float:
            self.stamps.rewind()
            waits.put(start())
            return self._heard(*heard.get(timeout=10))

        thread = threading.Thread(target=waiter, daemon=True)
        thread.start()
        try:
            yield once
        finally:
            waits.put(None)
            thread.join()

    def callback(self) -> Once:
        """A callback, in the engine's own thread."""
        command = fastproc.Command([workshop.child, "wake"], stdout=self.stamps.fd)
        names = iter(range(1 << 60))
        heard: queue.SimpleQueue[tuple[int | None, int]] = queue.SimpleQueue()

        def call(process: fastproc.Process) -> None:
            now = time.monotonic_ns()
            heard.put((process.returncode, now))

        def once() -> float:
            self.stamps.rewind()
            self.manager.start_process(f"callback-{next(names)}", command, on_exit=call)
            return self._heard(*heard.get(timeout=10))

        return once

    def started(self) -> Callable[[], int | None]:
        """A child of ours, and what waits for it."""
        command = fastproc.Command([workshop.child, "wake"], stdout=self.stamps.fd)
        process = self.manager.start_process(object(), command)
        return lambda: process.wait().code

    def popened(self) -> Callable[[], int | None]:
        """A child of subprocess, and what waits for it."""
        return subprocess.Popen([workshop.child, "wake"], stdout=self.stamps.fd).wait

    def in_loop(self, one: Callable[[], object]) -> Once:
        """A coroutine function that starts one and waits for it."""

        async def waits() -> float:
            self.stamps.rewind()
            code = await one()  # type: ignore[misc]
            return self._heard(code)

        return lambda: self.runner.run(waits())

    async def awaited(self) -> int | None:
        """Our Process, awaited."""
        command = fastproc.Command([workshop.child, "wake"], stdout=self.stamps.fd)
        return (await self.manager.start_process(object(), command)).code

    async def by_asyncio(self) -> int | None:
        """Asyncio's own."""
        process = await asyncio.create_subprocess_exec(workshop.child, "wake", stdout=self.stamps.fd)
        return await process.wait()

    def wake_up(self) -> Once:
        """From a byte in a pipe to a coroutine that awaits it: what a loop costs when nothing is reaped."""
        args = [workshop.child, "ping"]

        async def waits() -> float:
            self.stamps.rewind()
            loop = asyncio.get_running_loop()
            came: asyncio.Future[None] = loop.create_future()
            reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            loop.add_reader(reading, came.set_result, None)
            process = subprocess.Popen(args, stdout=self.stamps.fd, stderr=writing)
            try:
                await came
                now = time.monotonic_ns()
            finally:
                loop.remove_reader(reading)
                os.close(reading)
                os.close(writing)
                code = process.wait()
            return self._heard(code, now)

        return lambda: self.runner.run(waits())

    def _heard(self, code: int | None, now: int | None = None) -> float:
        woken = time.monotonic_ns() if now is None else now
        if code != 7:
            raise NotDone(f"a child is said to have ended with {code} instead of 7")
        return self.stamps.since(woken)


def question(plan: Plan) -> Answer:
    """Turns of a few children each; the medians of the turns are compared."""
    rounds = Rounds()
    samples: dict[str, list[float]] = {}
    with ExitStack() as stack:
        stack.enter_context(pinned())
        manager = stack.enter_context(fastproc.ProcessManager())
        runner = stack.enter_context(asyncio.Runner())
        stamps = Stamps()
        ways = Ways(stamps, manager, runner)
        program = workshop.program("wake")
        onces: dict[str, Once] = {
            OURS_SYNC: ways.sync(),
            POPEN_SYNC: ways.popen(),
            OURS_THREAD: stack.enter_context(ways.thread(ways.started)),
            POPEN_THREAD: stack.enter_context(ways.thread(ways.popened)),
            OURS_CALLBACK: ways.callback(),
            OURS_AWAIT: ways.in_loop(ways.awaited),
            LOOP: ways.in_loop(ways.by_asyncio),
            WAKE_UP: ways.wake_up(),
        }
        try:
            create = contenders.face("fastproc.aio.create_subprocess_exec")

            async def by_face() -> int | None:
                process = await create(workshop.child, "wake", stdout=stamps.fd)
                code: int | None = await process.wait()
                return code

            onces[FACE] = ways.in_loop(by_face)
        except NotThere as why:
            rounds.not_there[FACE] = str(why)
        names = [C, *onces]
        for turn in range(plan.pick(18, 3) + 1):
            first = turn % len(names)
            for name in (*names[first:], *names[:first]):
                gc.collect()
                try:
                    if name == C:
                        stamps.rewind()
                        taken = workshop.limits.wake(program, TURN, stamps.fd)
                    else:
                        taken = [onces[name]() for _ in range(TURN)]
                except NotDone as why:
                    rounds.refuse(name, str(why))
                    continue
                # The first turn is to get warm.
                if turn > 0 and name not in rounds.refused:
                    rounds.add(name, statistics.median(taken))
                    samples.setdefault(name, []).extend(taken)
    rows = [
        rounds.ratio(C, C),
        rounds.ratio(OURS_SYNC, C, goal=GOAL_SYNC, what=f"{OURS_SYNC}, against C"),
        rounds.ratio(POPEN_SYNC, C),
        rounds.ratio(OURS_THREAD, C),
        rounds.ratio(POPEN_THREAD, C),
        rounds.ratio(OURS_CALLBACK, C, differs="told when nothing is left of it, not only of its exit"),
        rounds.ratio(WAKE_UP, C, differs="nothing is reaped"),
        rounds.ratio(OURS_AWAIT, C),
        rounds.ratio(FACE, C),
        rounds.ratio(LOOP, C),
        above(rounds, FACE),
        above(rounds, OURS_AWAIT, goal=False),
    ]
    for name, taken in samples.items():
        ordered = sorted(taken)
        rows.append(
            Row(
                what=f"{name}, p99",
                value=1e6 * percentile(ordered, 99),
                unit="us",
                note=f"p50 {1e6 * percentile(ordered, 50):.1f}",
            )
        )
    return Answer(title="From the exit to who waits for it", rows=rows, rounds=rounds.seconds)


def above(rounds: Rounds, name: str, *, goal: bool = True) -> Row:
    """How long a coroutine waits, in parts of what C and one wake-up of a loop take together."""
    what = f"{name}, against C and {WAKE_UP}"
    if any(other not in rounds.seconds for other in (name, C, WAKE_UP)):
        return rounds.ratio(name, C, what=what, goal=1.0 if goal else None)
    both = Rounds(seconds={name: rounds.seconds[name]})
    for one, wake in zip(rounds.seconds[C], rounds.seconds[WAKE_UP], strict=True):
        both.add(what, one + wake)
    return both.ratio(name, what, what=what, goal=1.0 if goal else None)


if __name__ == "__main__":
    main(__doc__, question)
