"""Hundreds of thousands of mixed starts from several threads: nothing is lost, wrong or left over.

FASTPROC_SOAK says how many starts (200,000, about two minutes on two CPUs), FASTPROC_SOAK_SEED repeats a run.
"""

from __future__ import annotations

import gc
import logging
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.conftest import children_of_ours, eventually, open_descriptors
from tests.programs import Programs

from fastproc import DEVNULL, PIPE, ExitReason, ExitStatus, Process, ProcessManager, SpawnError

pytestmark = pytest.mark.slow

STARTS = int(os.environ.get("FASTPROC_SOAK", "200000"))
SEED = int(os.environ.get("FASTPROC_SOAK_SEED", str(time.time_ns() % 1_000_000)))
THREADS = 8
# Each thread has so many under way at a time.
IN_FLIGHT = 12
# A process that is not heard of for so long is lost.
LOST_AFTER = 60.0
# Growth between the first quarter and the end. A manager remembers its last 10,000 processes with their
# output, so a run whose first quarter is shorter than that says nothing about memory.
DRIFT_BYTES = 8 << 20
TELLING_FROM = 12_000

DEADLY = [
    signal.SIGABRT,
    signal.SIGALRM,
    signal.SIGBUS,
    signal.SIGFPE,
    signal.SIGHUP,
    signal.SIGILL,
    signal.SIGINT,
    signal.SIGKILL,
    signal.SIGPIPE,
    signal.SIGQUIT,
    signal.SIGSEGV,
    signal.SIGSYS,
    signal.SIGTERM,
    signal.SIGTRAP,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGRTMIN + 3,
]

# Says what is wrong with an end, or nothing.
Judge = Callable[[Process, ExitStatus], str]


@dataclass
class Tally:
    """What one thread has seen; added up at the end."""

    kinds: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


def expect(status: ExitStatus, reason: ExitReason, *, code: int | None = None, sig: int | None = None) -> str:
    """Nothing if it ended like this, else what it did instead."""
    if (status.reason, status.code, status.signal) == (reason, code, sig):
        return ""
    return f"{reason} {code} {sig} was expected, not {status!r}"


class Soak:
    """The starts of one thread, a mixture by weight."""

    def __init__(self, manager: ProcessManager, programs: Programs, number: int, folder: Path) -> None:
        self.manager = manager
        self.programs = programs
        self.random = random.Random(f"{SEED} {number}")
        self.tally = Tally()
        self.name = f"thread-{number}"
        self.folder = folder
        self.count = 0
        self.flying: list[tuple[Process, str, Judge]] = []

    def run(self, starts: int) -> None:
        """So many starts; every one is waited for and judged."""
        kinds: list[Callable[[], None]] = [
            self.exits,
            self.dies,
            self.prints,
            self.fails,
            self.times_out,
            self.leaves,
            self.is_terminated,
        ]
        weights = [480, 150, 150, 150, 20, 30, 20]
        for _ in range(starts):
            self.random.choices(kinds, weights)[0]()
            if len(self.flying) >= IN_FLIGHT:
                self.judge(self.random.randrange(IN_FLIGHT))
        while self.flying:
            self.judge(0)

    def launch(self, kind: str, args: list[str], judge: Judge, **options: object) -> None:
        """Start one and remember what must come of it."""
        self.count += 1
        self.tally.kinds[kind] += 1
        process = self.manager.start_process(f"{self.name}/{self.count}", args, **options)  # type: ignore[arg-type]
        self.flying.append((process, kind, judge))

    def judge(self, index: int) -> None:
        """Wait for one of those under way."""
        process, kind, judge = self.flying.pop(index)
        status = process.wait(LOST_AFTER)
        wrong = judge(process, status)
        if wrong:
            self.tally.wrong.append(f"{kind} {process.task_id}: {wrong}")

    def exits(self) -> None:
        code = self.random.randrange(256)
        self.launch(
            "exit",
            self.programs.exits_with(code),
            lambda _, status: expect(status, ExitReason.EXITED, code=code),
        )

    def dies(self) -> None:
        sig = self.random.choice(DEADLY)
        self.launch(
            "signal",
            self.programs.dies_by(sig),
            lambda _, status: expect(status, ExitReason.SIGNALED, sig=sig),
        )

    def prints(self) -> None:
        # Mostly little; at most a pipe full.
        size = int(65_536 ** self.random.random())

        def judge(process: Process, status: ExitStatus) -> str:
            got = process.stdout_bytes
            if got != b"x" * size:
                return f"{len(got)} of {size} bytes came"
            return expect(status, ExitReason.EXITED, code=0)

        self.launch("output", self.programs.spams(size), judge, stdout=PIPE)

    def fails(self) -> None:
        missing = str(self.folder / "missing")
        args, options, errors = self.random.choice(
            [
                ([missing], {}, FileNotFoundError),
                ([str(self.folder)], {}, PermissionError),
                (self.programs.exits_with(0), {"cwd": missing}, FileNotFoundError),
                (self.programs.exits_with(0), {"stdin": missing}, FileNotFoundError),
                (self.programs.exits_with(0), {"pass_fds": (999_999,)}, OSError),
            ]
        )
        self.count += 1
        self.tally.kinds["failing start"] += 1
        try:
            process = self.manager.start_process(f"{self.name}/{self.count}", args, **options)  # type: ignore[arg-type]
        except SpawnError as error:
            if errors is not OSError and OSError(error.errno, "").__class__ is not errors:
                self.tally.wrong.append(f"failing start of {args} {options}: {error!r}")
        else:
            process.kill()
            self.tally.wrong.append(f"{args} {options} did start")

    def times_out(self) -> None:
        stubborn = self.random.random() < 0.3
        if stubborn:
            args, sig = self.programs.ignores_sigterm(), signal.SIGKILL
        else:
            args, sig = self.programs.ready_then_sleep(), signal.SIGTERM

        def judge(_: Process, status: ExitStatus) -> str:
            # A busy machine may not have let the program say that it ignores the signal.
            if stubborn and status.signal == signal.SIGTERM:
                return expect(status, ExitReason.TIMEOUT, sig=signal.SIGTERM)
            return expect(status, ExitReason.TIMEOUT, sig=sig)

        self.launch("timeout", args, judge, timeout=0.02, grace=0.05, stdout=DEVNULL)

    def leaves(self) -> None:
        code = self.random.randrange(256)
        ignore = self.random.random() < 0.2
        self.launch(
            "leftover",
            self.programs.leaves_a_child(code, ignore=ignore),
            lambda _, status: expect(status, ExitReason.EXITED, code=code),
            grace=0.05,
            stdout=DEVNULL,
        )

    def is_terminated(self) -> None:
        def judge(process: Process, status: ExitStatus) -> str:
            return expect(status, ExitReason.TERMINATED, sig=signal.SIGTERM)

        self.launch("terminated", self.programs.ready_then_sleep(), judge, stdout=DEVNULL)
        process = self.flying[-1][0]
        result = self.manager.terminate_process(process.task_id, timeout=5.0)
        if not result:
            self.tally.wrong.append(f"terminated {process.task_id}: {result!r}")


def resident_bytes() -> int:
    """Our resident memory, exactly."""
    gc.collect()
    with open("/proc/self/smaps_rollup", encoding="ascii") as rollup:
        return next(int(line.split()[1]) * 1024 for line in rollup if line.startswith("Rss:"))


def run_in_threads(soaks: list[Soak], starts: int) -> None:
    """Share the starts out; what a thread raises counts as wrong."""

    def work(soak: Soak, share: int) -> None:
        try:
            soak.run(share)
        except BaseException as error:
            soak.tally.wrong.append(f"{soak.name}: {error!r}")

    shares = [starts // len(soaks) + (i < starts % len(soaks)) for i in range(len(soaks))]
    threads = [threading.Thread(target=work, args=pair) for pair in zip(soaks, shares, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def settle(manager: ProcessManager) -> None:
    """Wait until nothing is left of any task: the last leftovers are given their grace."""
    manager.wait_all(LOST_AFTER)
    eventually(lambda: manager.active_count() == 0, LOST_AFTER)


@pytest.mark.timeout(3600)
def test_no_start_of_hundreds_of_thousands_is_lost_or_left_over(
    manager: ProcessManager, programs: Programs, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Exit codes, signals, output, failing starts, time-outs and leftovers, from eight threads at once."""
    # pytest keeps every record, and there are thousands of warnings of graces that were not enough.
    caplog.set_level(logging.CRITICAL, "fastproc")
    for args in (programs.exits_with(0), programs.dies_by(15), programs.spams(1), programs.ignores_sigterm()):
        assert Path(args[0]).exists()
    soaks = [Soak(manager, programs, number, tmp_path) for number in range(THREADS)]
    begin = time.monotonic()

    # A quarter first: the engine, the arenas of malloc and the history of the manager have their size then.
    run_in_threads(soaks, STARTS // 4)
    settle(manager)
    descriptors = open_descriptors()
    memory = resident_bytes()
    run_in_threads(soaks, STARTS - STARTS // 4)
    settle(manager)
    grown = resident_bytes() - memory

    kinds = sum((soak.tally.kinds for soak in soaks), Counter[str]())
    wrong = [word for soak in soaks for word in soak.tally.wrong]
    seconds = time.monotonic() - begin
    print(
        f"\nsoak: {sum(kinds.values()):,} starts from {THREADS} threads in {seconds:.0f} s (seed {SEED}): "
        f"{', '.join(f'{count:,} {kind}' for kind, count in sorted(kinds.items()))}; "
        f"{len(wrong)} wrong or lost, {len(children_of_ours())} children left, "
        f"{len(open_descriptors()) - len(descriptors):+} descriptors, {grown / 1024:+,.0f} KiB"
    )
    assert wrong[:20] == []
    assert sum(kinds.values()) == STARTS
    assert manager.active_count() == 0
    assert children_of_ours() == set(), "children are left, zombies perhaps"
    assert programs.running() == [], "descendants are left"
    assert {fd: what for fd, what in open_descriptors().items() if fd not in descriptors} == {}
    assert grown <= DRIFT_BYTES or STARTS // 4 < TELLING_FROM
    counts = manager.metrics()
    assert counts.started == STARTS - kinds["failing start"]
    assert counts.failed_to_start == kinds["failing start"]
    assert counts.status_unknown == 0
