"""Where the benchmarks run: programs, CPU, environment, descriptors, memory, threads, who is left over."""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import resource
import shutil
import subprocess
import tempfile
import threading
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

HERE = Path(__file__).resolve().parent

CHILD_CODE = 7
CLONE3, CLONE3_FLAT, POSIX_SPAWN, FORK, VFORK, CLEAN, PIN = (
    0,
    1,
    2,
    3,
    4,
    5,
    1 << 8,
)  # enum limit_how of limit.h

CHILD_FLAGS = ("-O2", "-static", "-nostdlib", "-ffreestanding", "-fno-stack-protector", "-fno-pie", "-no-pie")
# One small segment, as few pages as can be, and nothing that the kernel does not need.
CHILD_LINK_FLAGS = ("-Wl,-z,noseparate-code,--build-id=none", "-s")
LIMIT_FLAGS = ("-std=gnu17", "-O2", "-Wall", "-Wextra", "-pthread", "-shared", "-fPIC")
SHARED_WORKSHOP = "FASTPROC_BENCH_WORKSHOP"
"""The variable that names a directory of compiled programs, for benchmarks that run.py starts."""


class NotDone(Exception):
    """A contender has not done its job: its time is worth nothing."""


class NotThere(Exception):
    """A contender cannot take part here: what it needs is not installed, or not built yet."""


@dataclass(frozen=True, slots=True)
class Program:
    """What is started, and the exit code that proves that it ran."""

    path: str
    code: int
    mode: tuple[str, ...] = ()

    @property
    def args(self) -> list[str]:
        """The whole command."""
        return [self.path, *self.mode]


class Limit:
    """The functions of limit.c and yardsticks.c. Whatever they return below zero is raised as NotDone."""

    def __init__(self, path: str) -> None:
        library = ctypes.CDLL(path)
        text, number, some = ctypes.c_char_p, ctypes.c_int, ctypes.c_void_p
        self._loop = self._function(library.limit_loop, ctypes.c_double, text, *[number] * 5)
        self._each = self._function(library.limit_each, number, text, *[number] * 3, some)
        self._capture = self._function(library.limit_capture, ctypes.c_double, text, text, *[number] * 3)
        self._wake = self._function(library.limit_wake, number, text, text, *[number] * 3, some)
        self._reap = self._function(library.limit_reap, ctypes.c_double, some, *[number] * 3)

    def loop(self, program: Program, n: int, threads: int, how: int, window: int = 1) -> float:
        """Seconds for `n` children, see limit_loop()."""
        return self._loop(os.fsencode(program.path), program.code, n, threads, how, window)

    def each(self, program: Program, n: int, how: int) -> list[float]:
        """Seconds of each of `n` children, one after the other."""
        seconds = array("d", bytes(8 * n))
        self._each(os.fsencode(program.path), program.code, n, how, seconds.buffer_info()[0])
        return list(seconds)

    def capture(self, program: Program, n: int, size: int) -> float:
        """Seconds for `n` children whose output of `size` bytes is read to its end."""
        return self._capture(os.fsencode(program.path), os.fsencode(program.mode[0]), program.code, n, size)

    def wake(self, program: Program, n: int, stamp_fd: int) -> list[float]:
        """Seconds from just before the exit of each child until waitid(2) has returned."""
        taken = array("q", bytes(8 * n))
        path, mode = os.fsencode(program.path), os.fsencode(program.mode[0])
        self._wake(path, mode, program.code, n, stamp_fd, taken.buffer_info()[0])
        return [ns * 1e-9 for ns in taken]

    def reap(self, pids: Sequence[int], code: int, *, whoever: bool = False) -> float:
        """CPU seconds to reap these, all dead, by pid or by asking for whoever is dead."""
        numbers = array("i", pids)
        return self._reap(numbers.buffer_info()[0], len(numbers), code, int(whoever))

    @staticmethod
    def _function(function: Callable[..., float], result: type, *arguments: type) -> Callable[..., float]:
        function.argtypes = arguments  # type: ignore[attr-defined]
        function.restype = result  # type: ignore[attr-defined]

        def call(*values: object) -> float:
            returned = float(function(*values))
            if returned < 0:
                raise NotDone(f"the loop in C: {os.strerror(int(-returned))}")
            return returned

        return call


class Workshop:
    """The programs of the benchmarks, compiled when first asked for.

    In a directory of its own that goes with the run, or in that of a run.py which has compiled them already.
    """

    def __init__(self) -> None:
        self.directory = os.environ.get(SHARED_WORKSHOP, "")
        if not self.directory:
            self._own = tempfile.TemporaryDirectory(prefix="fastproc-bench-")
            self.directory = self._own.name

    @cached_property
    def child(self) -> str:
        """The program to start: ends at once with code CHILD_CODE, see child.c."""
        return self._compile("child", "child.c", flags=CHILD_FLAGS, after=CHILD_LINK_FLAGS)

    @cached_property
    def limits(self) -> Limit:
        """What C can do at best."""
        return Limit(self._compile("limit.so", "limit.c", "yardsticks.c", flags=LIMIT_FLAGS))

    @cached_property
    def live(self) -> str:
        """The C program that keeps many children with libfastproc, see live.c."""
        import fastproc

        library = Path(fastproc.get_library_dir()) / "libfastproc.a"
        flags = ("-std=gnu17", "-O2", "-Wall", "-Wextra", f"-I{fastproc.get_include()}")
        return self._compile("live", "live.c", flags=flags, after=(str(library), "-pthread"))

    def program(self, *mode: str) -> Program:
        """The child in one of its modes."""
        return Program(self.child, CHILD_CODE, mode)

    def limit(self, path: str, n: int, threads: int, how: int, window: int = 1) -> float:
        """The loop in C over the child that only exits, see limit_loop() in limit.c."""
        return self.limits.loop(Program(path, CHILD_CODE), n, threads, how, window)

    def _compile(self, name: str, *sources: str, flags: Sequence[str], after: Sequence[str] = ()) -> str:
        target = os.path.join(self.directory, name)
        if os.path.exists(target):
            return target
        half_done = f"{target}.{os.getpid()}"
        files = [str(HERE / source) for source in sources]
        command = [os.environ.get("CC", "cc"), *flags, "-o", half_done, *files, *after]
        try:
            subprocess.run(command, check=True)
        except FileNotFoundError:
            raise SystemExit("the benchmarks need a C compiler: install gcc or clang, or set CC") from None
        os.rename(half_done, target)
        return target


workshop = Workshop()


@functools.cache
def true_program() -> Program:
    """A real program with libc and loader that does nothing: true(1)."""
    path = shutil.which("true")
    if path is None:
        raise NotThere("true is not in PATH")
    return Program(path, 0)


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
    """Raise the limit of open descriptors as far as needed. Raises NotThere if that is not allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    if hard != resource.RLIM_INFINITY:
        hard = max(hard, wanted)
    try:
        # Beyond the hard limit only root may go, see setrlimit(2).
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (ValueError, OSError):
        raise NotThere(f"{wanted} descriptors are needed, and no more are allowed: see ulimit -Hn") from None


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
    if size == 0:
        yield
        return
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    try:
        if hasattr(mmap, "MADV_NOHUGEPAGE"):
            memory.madvise(mmap.MADV_NOHUGEPAGE)
        pages = range(0, size, mmap.PAGESIZE)
        memory[:: mmap.PAGESIZE] = b"x" * len(pages)
        yield
    finally:
        memory.close()


@contextmanager
def idle_threads(count: int) -> Iterator[None]:
    """Hold so many threads that wait for something else."""
    over = threading.Event()
    threads = [threading.Thread(target=over.wait, daemon=True) for _ in range(count)]
    try:
        for thread in threads:
            thread.start()
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


@contextmanager
def busy_thread() -> Iterator[None]:
    """A Python thread that computes all the while and so holds the interpreter's lock."""
    over = False

    def work() -> None:
        count = 0
        while not over:
            count += 1

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over = True
        thread.join()


def resident_bytes() -> int:
    """How much of our memory is resident, exactly: /proc/self/statm lags behind, see proc(5)."""
    with open("/proc/self/smaps_rollup", encoding="ascii") as rollup:
        for line in rollup:
            if line.startswith("Rss:"):
                return int(line.split()[1]) * 1024
    raise SystemExit("/proc/self/smaps_rollup does not say Rss")


@contextmanager
def memory_growth() -> Iterator[Callable[[], int]]:
    """What is yielded tells by how many bytes our memory was larger at its peak than at the beginning."""
    # 5 resets the peak, see proc(5) under /proc/pid/clear_refs.
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = _peak_bytes()
    yield lambda: _peak_bytes() - before


def _peak_bytes() -> int:
    with open("/proc/self/status", encoding="ascii") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    raise SystemExit("/proc/self/status does not say VmHWM")


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
