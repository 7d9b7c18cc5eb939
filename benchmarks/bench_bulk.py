"""How fast is much output taken in, and what does it cost in memory?

One child writes a gibibyte (64 MiB in a quick run) in pieces of 64 KiB. Who keeps everything needs the memory
for it; a Process keeps the beginning and the end and counts the rest, so its memory must stay as it was.
"""

from __future__ import annotations

import gc
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from contenders import face
from harness import Answer, NotDone, NotThere, Plan, Rounds, Row, main, workshop
from surroundings import memory_growth

import fastproc

PIECE = 1 << 16
GOAL_FASTER = 3.5
GOAL_GROWTH_MIB = 8.0
GOAL_RUN_FASTER = 1.0
BOUNDED = "keeps 256 KiB and counts the rest; the others keep all of it"

OURS, FILE = "Process, stdout=PIPE", "Process, stdout to a file"
COMMUNICATE, RUN, LOOP = "Popen.communicate", "fastproc.run(stdout=PIPE)", "Popen, read in a loop"


@dataclass(frozen=True, slots=True)
class Job:
    """So many pieces, taken in by one of several ways; each looks whether all bytes have come."""

    manager: fastproc.ProcessManager
    pieces: int

    @property
    def args(self) -> list[str]:
        """The child."""
        return [workshop.child, "bulk", str(self.pieces)]

    def bounded(self) -> None:
        """A Process that captures: it keeps both ends."""
        process = self.manager.start_process(object(), self.args, stdout=fastproc.PIPE)
        for ended in self.manager.as_completed():
            if ended is process:
                break
        total = process.stdout_bytes
        if process.wait().code != 7 or not process.output_truncated or not process.output_complete:
            raise NotDone("the capture is not complete")
        if len(total) != 256 * 1024:
            raise NotDone(f"{len(total)} bytes are kept")

    def into_file(self) -> None:
        """A Process that writes into a file by itself."""
        with tempfile.TemporaryFile() as file:
            code = self.manager.start_process(object(), self.args, stdout=file).wait().code
            self._check(os.fstat(file.fileno()).st_size, code)

    def communicate(self) -> None:
        """All bytes in one object."""
        child = subprocess.Popen(self.args, stdout=subprocess.PIPE)
        output, _ = child.communicate()
        self._check(len(output), child.returncode)

    def by_loop(self) -> None:
        """Popen, read in pieces that are thrown away."""
        child = subprocess.Popen(self.args, stdout=subprocess.PIPE, bufsize=0)
        assert child.stdout is not None
        total, buffer = 0, bytearray(PIECE)
        with child.stdout as stream:
            while count := stream.readinto(buffer):  # type: ignore[attr-defined]
                total += count
        self._check(total, child.wait())

    def by_run(self) -> Callable[[], None]:
        """The drop-in, which keeps all bytes as subprocess does."""
        run: Callable[..., Any] = face("fastproc.run")

        def once() -> None:
            done = run(self.args, stdout=subprocess.PIPE, check=False)
            self._check(len(done.stdout), done.returncode)

        return once

    def _check(self, total: int, code: int | None) -> None:
        if code != 7 or total != self.pieces * PIECE:
            raise NotDone(f"code {code}, {total} of {self.pieces * PIECE} bytes")


def question(plan: Plan) -> Answer:
    """Seconds a MiB in rounds; the growth of memory in the last of them."""
    pieces = plan.pick(16_384, 1_024)
    mib = pieces * PIECE >> 20
    rounds, growth = Rounds(), dict[str, float]()
    with fastproc.ProcessManager() as manager:
        job = Job(manager, pieces)
        ways: dict[str, Callable[[], None]] = {
            OURS: job.bounded,
            FILE: job.into_file,
            COMMUNICATE: job.communicate,
            LOOP: job.by_loop,
        }
        try:
            ways[RUN] = job.by_run()
        except NotThere as why:
            rounds.not_there[RUN] = str(why)
        names = list(ways)
        for turn in range(plan.pick(5, 3)):
            first = turn % len(names)
            for name in (*names[first:], *names[:first]):
                if name in rounds.refused:
                    continue
                gc.collect()
                try:
                    with memory_growth() as grown:
                        start = time.perf_counter()
                        ways[name]()
                        rounds.add(name, (time.perf_counter() - start) / mib)
                        growth[name] = grown() / 2**20
                except NotDone as why:
                    rounds.refuse(name, str(why))
    rows = [
        rounds.faster(
            OURS, COMMUNICATE, what=f"{OURS}, faster than {COMMUNICATE}", goal=GOAL_FASTER, differs=BOUNDED
        ),
        rounds.faster(RUN, COMMUNICATE, what=f"{RUN}, faster than {COMMUNICATE}", goal=GOAL_RUN_FASTER),
        rounds.faster(OURS, LOOP, what=f"{OURS}, faster than {LOOP}"),
        rounds.faster(
            FILE, COMMUNICATE, what=f"{FILE}, faster than {COMMUNICATE}", differs="no byte comes to us"
        ),
    ]
    for name in (OURS, FILE, RUN, LOOP, COMMUNICATE):
        if name in growth:
            # Who keeps all of it has it once, and no second time on the way.
            goal = {OURS: GOAL_GROWTH_MIB, RUN: mib + GOAL_GROWTH_MIB}.get(name)
            rows.append(Row(what=f"{name}, growth of our memory", value=growth[name], unit="MiB", goal=goal))
    title = f"{mib:,} MiB of output from one child, times per MiB"
    return Answer(title=title, rows=rows, rounds=rounds.seconds)


if __name__ == "__main__":
    main(__doc__, question)
