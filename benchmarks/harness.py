"""How measurements are taken, judged and kept; the questions themselves are in the bench_*.py files.

A measurement is of *rounds*. In each of them every contender does the same job once, the one that begins
changing from round to round, so that what disturbs the machine disturbs all alike. Two contenders are
compared within a round, and the median of these ratios is the result: it repeats within a few percent on
machines where the times themselves differ by half. What is done one at a time is pinned to one CPU, because a
wake-up across CPUs costs about as much as starting a small program, and lands on everybody at random.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import gc
import json
import mmap
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Protocol, Self

HERE = Path(__file__).resolve().parent

CHILD_FLAGS = ("-O2", "-static", "-nostdlib", "-ffreestanding", "-fno-stack-protector", "-fno-pie", "-no-pie")
# One small segment, as few pages as can be, and nothing that the kernel does not need.
CHILD_LINK_FLAGS = ("-Wl,-z,noseparate-code,--build-id=none", "-s")
LIMIT_FLAGS = ("-std=gnu17", "-O2", "-Wall", "-Wextra", "-pthread", "-shared", "-fPIC")


class NotDone(Exception):
    """A contender has not done its job: its time is worth nothing."""


class Contender(Protocol):
    """Somebody who starts children and waits for them."""

    @property
    def name(self) -> str: ...

    def __call__(self, n: int) -> float:
        """Start and reap `n` children, prove it, and return how many seconds that took. Raises NotDone."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is measured."""

    rounds: int
    quick: bool

    def pick(self, full: int, quick: int) -> int:
        """A size: the one for a full run or the one for a quick run."""
        return quick if self.quick else full


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table: a measured value and, perhaps, a goal that it must not exceed.

    Attributes:
        what: the contender or quantity.
        value: a ratio, or a number of `unit`.
        low, high: the quartiles, where the value is a median.
        note: the same in absolute terms, or whatever helps to read it.
    """

    what: str
    value: float
    unit: str = "x"
    goal: float | None = None
    low: float | None = None
    high: float | None = None
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None if there is none."""
        return None if self.goal is None else self.value <= self.goal


@dataclass(slots=True, kw_only=True)
class Rounds:
    """What was measured: for each contender its seconds a child, round by round."""

    seconds: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, seconds: float) -> None:
        """Enter the next round of one contender."""
        self.seconds.setdefault(name, []).append(seconds)

    def micros(self, name: str) -> str:
        """The median of one contender and its quartiles, in words."""
        low, middle, high = quartiles([1e6 * seconds for seconds in self.seconds[name]])
        return f"{middle:.1f} us ({low:.1f} to {high:.1f})"

    def ratio(
        self, name: str, *against: str, what: str = "", goal: float | None = None, note: str = ""
    ) -> Row:
        """One contender against the best of some others, compared within each round."""
        best = [min(times) for times in zip(*(self.seconds[other] for other in against), strict=True)]
        ratios = [mine / least for mine, least in zip(self.seconds[name], best, strict=True)]
        low, middle, high = quartiles(ratios)
        return Row(
            what=what or name, value=middle, goal=goal, low=low, high=high, note=note or self.micros(name)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """All that one question has brought."""

    title: str
    rows: Sequence[Row]
    rounds: Mapping[str, Sequence[float]] = field(default_factory=dict)


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """The 25th percentile, the median and the 75th percentile."""
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def measure(contenders: Sequence[Contender], n: int, rounds: int, into: Rounds | None = None) -> Rounds:
    """Let each contender start `n` children in each of so many rounds, and each first a few to get warm."""
    result = Rounds() if into is None else into
    for contender in contenders:
        contender(max(1, n // 10))
    for turn in range(rounds):
        first = turn % len(contenders)
        for contender in (*contenders[first:], *contenders[:first]):
            gc.collect()
            result.add(contender.name, contender(n) / n)
    return result


def median_of(rounds: int, once: Callable[[], float]) -> tuple[float, float, float]:
    """Quartiles of what is measured alone, several times over."""
    return quartiles([once() for _ in range(rounds)])


# ---- the surroundings ----


class Workshop:
    """The programs of the benchmarks, compiled when first asked for; they go with the run."""

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="fastproc-bench-")

    @cached_property
    def child(self) -> str:
        """The program to start: ends at once with code CHILD_CODE, see child.c."""
        return self._compile("child", "child.c", *CHILD_FLAGS, after=CHILD_LINK_FLAGS)

    @cached_property
    def limit(self) -> Callable[[str, int, int, int], float]:
        """The loop in C, see limit_loop() in limit.c."""
        library = ctypes.CDLL(self._compile("limit.so", "limit.c", *LIMIT_FLAGS))
        loop = library.limit_loop
        loop.argtypes = [ctypes.c_char_p, ctypes.c_int, ctypes.c_int, ctypes.c_int]
        loop.restype = ctypes.c_double

        def limit(path: str, n: int, threads: int, how: int) -> float:
            seconds = float(loop(os.fsencode(path), n, threads, how))
            if seconds < 0:
                raise NotDone(f"the loop in C: {os.strerror(int(-seconds))}")
            return seconds

        return limit

    def _compile(self, name: str, source: str, *flags: str, after: Sequence[str] = ()) -> str:
        target = os.path.join(self._directory.name, name)
        command = [os.environ.get("CC", "cc"), *flags, "-o", target, str(HERE / source), *after]
        try:
            subprocess.run(command, check=True)
        except FileNotFoundError:
            raise SystemExit("the benchmarks need a C compiler: install gcc or clang, or set CC") from None
        return target


workshop = Workshop()


@contextmanager
def pinned() -> Iterator[int]:
    """This thread, and the threads and processes that it starts meanwhile, on the last CPU we may use."""
    before = os.sched_getaffinity(0)
    cpu = max(before)
    os.sched_setaffinity(0, {cpu})
    try:
        yield cpu
    finally:
        os.sched_setaffinity(0, before)


def small_environment() -> None:
    """Keep only what programs need: each variable costs every start 0.1 us, whoever starts it."""
    kept = {name: os.environ[name] for name in ("HOME", "LANG", "PATH") if name in os.environ}
    os.environ.clear()
    os.environ.update(kept)


def more_open_files(wanted: int) -> None:
    """Raise the limit of open descriptors as far as needed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise SystemExit(f"{wanted} descriptors are needed, and the hard limit is {hard}: see ulimit -Hn")
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@contextmanager
def open_descriptors(count: int) -> Iterator[None]:
    """Hold so many descriptors open, as a busy program does."""
    more_open_files(count + 1000)
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    held = [null]
    try:
        held.extend(os.dup(null) for _ in range(count))
        yield
    finally:
        for fd in held:
            os.close(fd)


@contextmanager
def resident_memory(size: int) -> Iterator[None]:
    """Hold so many bytes resident, in small pages: the tables of these are what fork(2) has to copy."""
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    try:
        if hasattr(mmap, "MADV_NOHUGEPAGE"):
            memory.madvise(mmap.MADV_NOHUGEPAGE)
        pages = range(0, size, mmap.PAGESIZE)
        memory[:: mmap.PAGESIZE] = b"x" * len(pages)
        yield
    finally:
        memory.close()


def resident_bytes() -> int:
    """How much of our memory is resident, exactly: /proc/self/statm lags behind, see proc(5)."""
    with open("/proc/self/smaps_rollup", encoding="ascii") as rollup:
        for line in rollup:
            if line.startswith("Rss:"):
                return int(line.split()[1]) * 1024
    raise SystemExit("/proc/self/smaps_rollup does not say Rss")


def children_left(program: str) -> list[int]:
    """The processes that execute `program`, found without asking anybody who started them."""
    left = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                if os.readlink(f"/proc/{entry}/exe") == program:
                    left.append(int(entry))
            except OSError:
                continue  # gone, a zombie, or not ours to look at
    return left


class Announcements:
    """A pipe for the standard output of many children, each of which writes one byte when it is ready."""

    def __init__(self) -> None:
        self._read, self.fd = os.pipe2(os.O_CLOEXEC)

    def await_all(self, count: int, timeout: float = 60.0) -> None:
        """Block until so many have said that they are ready."""
        until = time.monotonic() + timeout
        os.set_blocking(self._read, False)
        while count > 0:
            try:
                count -= len(os.read(self._read, 65536))
            except BlockingIOError:
                if time.monotonic() > until:
                    raise NotDone(f"{count} children are not ready after {timeout:g} s") from None
                time.sleep(0.002)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        os.close(self._read)
        os.close(self.fd)


# ---- what is kept ----


def machine() -> dict[str, object]:
    """What a result depends on besides the program."""
    return {
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "cpu": _cpu_model(),
        "cpus": len(os.sched_getaffinity(0)),
        "libc": " ".join(platform.libc_ver()),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "fastproc": metadata.version("fastproc"),
        "commit": _commit(),
        "load": [round(load, 2) for load in os.getloadavg()],
    }


def _cpu_model() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _commit() -> str:
    command = ["git", "-C", str(HERE), "describe", "--always", "--dirty"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "unknown"
    return said.stdout.strip() if said.returncode == 0 else "unknown"


def answer_to_json(answer: Answer) -> dict[str, object]:
    """An answer as plain values."""
    return dataclasses.asdict(answer)


def answer_from_json(text: str) -> Answer:
    """The answer that another process has written."""
    said = json.loads(text)
    return Answer(title=said["title"], rows=[Row(**row) for row in said["rows"]], rounds=said["rounds"])


# ---- the table ----


def table(answers: Iterable[Answer]) -> str:
    """All rows under their questions: value, spread, goal, whether it is met."""
    lines = []
    for answer in answers:
        lines += ["", answer.title, "-" * len(answer.title)]
        for row in answer.rows:
            value = _number(row.value, row.unit)
            spread = "" if row.low is None or row.high is None else f"{row.low:.2f}..{row.high:.2f}"
            goal = "" if row.goal is None else f"<= {_number(row.goal, row.unit)}"
            verdict = {True: "met", False: "NOT MET", None: ""}[row.met]
            line = f"  {row.what:<43}{value:>10} {spread:>12}  {goal:<10} {verdict:<8}{row.note}"
            lines.append(line.rstrip())
    return "\n".join(lines[1:])


def _number(value: float, unit: str) -> str:
    if unit == "x":
        return f"x {value:.2f}"
    return f"{value:.0f} {unit}" if value >= 100 else f"{value:.2f} {unit}"


# ---- the command line of a bench_*.py ----


def arguments(description: str | None) -> argparse.ArgumentParser:
    """What every benchmark may be asked."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer and smaller rounds: less exact")
    parser.add_argument("--rounds", type=int, metavar="N", help="how many rounds; 15, or 5 with --quick")
    return parser


def plan_of(options: argparse.Namespace) -> Plan:
    """How much is measured when these options are given."""
    return Plan(rounds=options.rounds or (5 if options.quick else 15), quick=options.quick)


def main(description: str | None, question: Callable[[Plan], Answer]) -> None:
    """Answer one question and print the answer; with --json as one line for run.py."""
    parser = arguments(description)
    parser.add_argument("--json", action="store_true", help="print values instead of a table")
    options = parser.parse_args()
    small_environment()
    answer = question(plan_of(options))
    if options.json:
        json.dump(answer_to_json(answer), sys.stdout)
    else:
        print(table([answer]))
