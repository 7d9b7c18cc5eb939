"""KeyboardInterrupt wherever it can come in the package, and SIGINT from outside at any moment."""

from __future__ import annotations

import random
import signal
import time

import pytest
from tests.integration import fresh
from tests.programs import Programs

# What an interrupted call must leave: a registry that tells the truth, and an engine that works.
_CHECKS = """
def check(manager, what):
    for process in manager.active():
        # A start that waits for its turn has no process yet.
        alive = process.pid == 0 or os.path.exists(f"/proc/{process.pid}")
        assert alive or process.poll() is not None, (what, process)
    report = manager.terminate_all(2)
    assert report, (what, report)
    assert manager.active_count() == 0, (what, manager.active())
    assert manager._roster.feeds == set(), what
    assert manager._roster.by_token == {}, (what, manager._roster.by_token)
    assert manager.start_process("after", programs.exits_with(5)).wait(20).code == 5, what
    assert manager.wait_all(20) is not None

def descriptors():
    gc.collect()
    targets = []
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
        if not target.startswith("/sys/fs/cgroup"):
            targets.append(target.partition(":[")[0])
    return sorted(targets)
"""

# KeyboardInterrupt comes where the interpreter looks for signals: on entry into a function, after a call of
# one written in C, and when a loop jumps back. The k-th such place in the package raises, for growing k.
_SWEEP = """
import dis

package = os.path.dirname(fastproc.__file__)
codes = {}

def looks_for_signals(frame):
    code = frame.f_code
    if code not in codes:
        codes[code] = code.co_code
    name = dis.opname[codes[code][frame.f_lasti]]
    return name == "RESUME" or name.startswith("CALL") or "JUMP_BACKWARD" in name

class Interrupter:
    def __init__(self, at):
        self.left = at
        self.looked = None
        self.where = ""

    def __call__(self, frame, event, arg):
        # Before the instruction that follows, and only if nothing has happened in other frames since.
        if event == "opcode":
            if self.looked is frame:
                self.left -= 1
                if self.left == 0:
                    sys.settrace(None)
                    self.where = f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"
                    raise KeyboardInterrupt
            self.looked = frame if looks_for_signals(frame) else None
        elif event in ("call", "return", "exception"):
            self.looked = None
        if not frame.f_code.co_filename.startswith(package):
            return None
        # In this order: since CPython 3.13 the second takes effect only where the first is set.
        frame.f_trace = self
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return self

def sweep(work, make, every, patience):
    before = None
    at = 1 + int(time.monotonic() * 1000) % every
    points = kept = 0
    whole = False
    while not whole:
        manager = make()
        manager.start_process("first", programs.nop()).wait(20)
        interrupter = Interrupter(at)
        # CPython 3.12 looks here whether opcodes are to be traced at all.
        sys._getframe().f_trace_opcodes = True
        sys.settrace(interrupter)
        try:
            work(manager)
            whole = True
        except KeyboardInterrupt:
            points += 1
        finally:
            sys.settrace(None)
        what = (at, interrupter.where)
        for process in manager.active() if not whole else ():
            try:
                process.wait(patience)
            except fastproc.WaitTimeout:
                kept += 1
            except fastproc.SpawnError:
                pass  # its queued start has failed, or was withdrawn
        interrupter.looked = None
        check(manager, what)
        assert manager.close(), what
        assert children() == [], what
        del manager
        now = descriptors()
        assert before is None or len(now) <= len(before), (what, before, now)
        before = now
        at += every
    return points, kept
"""

_WORKS = {
    "start": """
def work(manager):
    manager.start_process("a", programs.ready_then_sleep(), stdout=PIPE, input=b"x")
""",
    "start-wait": """
def work(manager):
    manager.start_process("a", programs.exits_with(3)).wait(20)
    # Not by the short way, which hardly ever looks for signals.
    manager.start_process("b", programs.exits_with(3), stdout=PIPE).wait(20)
""",
    "start-many": """
def work(manager):
    manager.start_many([(number, programs.nop() if number else ["/no/such/program"]) for number in range(3)])
""",
    "terminate": """
def work(manager):
    manager.start_process("a", sleeper, stdout=DEVNULL)
    manager.terminate_process("a")
""",
    "terminate-all": """
def work(manager):
    manager.start_process("a", sleeper, stdout=DEVNULL, cancel=fastproc.CancelToken())
    manager.terminate_all()
""",
    "map": """
def work(manager):
    for process in manager.map([programs.nop()] * 3, concurrency=2):
        process.wait()
""",
    "callback": """
def work(manager):
    manager.start_process("a", programs.nop(), on_exit=lambda process: None).wait(20)
    list(manager.as_completed(20))
""",
}


@pytest.mark.parametrize(
    ("name", "every"),
    [
        ("start", 1),
        *((name, 9) for name in _WORKS if name != "start"),
        *(pytest.param(name, 1, marks=pytest.mark.slow) for name in _WORKS if name != "start"),
    ],
)
def test_an_interrupt_at_any_place_leaves_everything_in_order(
    programs: Programs, name: str, every: int
) -> None:
    """No orphan, no lost name, no descriptor; afterwards the manager works on."""
    patience = 1 if name.startswith("start") else 0
    source = f"sleeper = programs.ready_then_sleep()\nprograms.nop()\n{_CHECKS}{_SWEEP}{_WORKS[name]}"
    source += f"print(*sweep(work, lambda: ProcessManager(grace=0.3), {every}, {patience}))\n"
    points, kept = map(int, fresh.run(source, programs, seconds=500).split())
    assert points >= 20 // every
    # What was amid its start has been stopped; of what was started before, some runs on under its name.
    assert kept == 0 or not patience


# The same at the exit of the interpreter, which is gone through again and again.
_EXITS = """
import itertools
from fastproc._engine import engine

points = 0
for at in itertools.count(1 + EVERY):
    if at % EVERY:
        continue
    engine._exiting = False
    managers = [ProcessManager(grace=20) for _ in range(2)]
    processes = [manager.start_process("x", sleeper, stdout=PIPE) for manager in managers]
    for process in processes:
        first_line(process)
    interrupter = Interrupter(at)
    sys._getframe().f_trace_opcodes = True
    sys.settrace(interrupter)
    try:
        engine._at_exit()
        break
    except KeyboardInterrupt:
        points += 1
    finally:
        sys.settrace(None)
    left = children()
    for pid in left:
        os.kill(int(pid), signal.SIGKILL)
    assert left == [], (at, interrupter.where)
print(points)
"""


@pytest.mark.parametrize("every", [5, pytest.param(1, marks=[pytest.mark.slow, pytest.mark.timeout(520)])])
def test_an_interrupt_anywhere_in_the_exit_spares_nobody(programs: Programs, every: int) -> None:
    """Also one that comes before anything was told to end."""
    source = f"EVERY = {every}\nsleeper = programs.ready_then_sleep()\n{_SWEEP}{_EXITS}"

    assert int(fresh.run(source, programs, seconds=500)) >= 50 // every


@pytest.mark.parametrize("count", [60, pytest.param(3_000, marks=pytest.mark.slow)])
def test_sigint_from_outside_loses_nothing(programs: Programs, count: int) -> None:
    """A program in full work gets SIGINT at random moments; it goes on, and nothing is left."""
    program = fresh.begin(
        _CHECKS
        + """
import itertools, random
sleeper, nop = programs.ready_then_sleep(), programs.nop()
numbers = itertools.count()
manager = ProcessManager(grace=0.3, on_event=lambda event: None)
manager.start_process("first", nop).wait(20)
before = descriptors()

def work():
    manager.start_process(next(numbers), nop).wait(20)
    process = manager.start_process(next(numbers), sleeper, stdout=PIPE, input=b"text")
    try:
        process.wait(0.002)
    except fastproc.WaitTimeout:
        pass
    manager.start_many([(next(numbers), nop) for _ in range(3)])
    for finished in manager.map([nop] * 6, concurrency=3):
        finished.wait()
    process.terminate(0.2)
    manager.wait_all(20)
    if next(numbers) % 3 == 0:
        manager.terminate_all(0.3)

interrupted = {signal.SIGINT}
signal.pthread_sigmask(signal.SIG_BLOCK, interrupted)
print("ready", flush=True)
turns = interrupts = 0
while interrupts < COUNT:
    try:
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, interrupted)
            while True:
                work()
                turns += 1
        finally:
            signal.pthread_sigmask(signal.SIG_BLOCK, interrupted)
    except KeyboardInterrupt:
        interrupts += 1
        if interrupts % 10 == 0:
            check(manager, interrupts)
        print("caught", flush=True)
check(manager, "in the end")
metrics = manager.metrics()
assert metrics.active == 0
# A start that was interrupted may be counted by its end only.
ended = metrics.exited + metrics.signaled
assert metrics.started <= ended <= metrics.started + 3 * interrupts, metrics
assert manager.close()
assert children() == []
assert len(descriptors()) <= len(before), (descriptors(), before)
print(turns)
""".replace("COUNT", str(count)),
        programs,
    )
    assert program.stdout is not None
    dice = random.Random(count)
    assert program.stdout.readline() == "ready\n"
    for _ in range(count):
        # Only how long to work, not an order of events: any moment will do.
        time.sleep(dice.random() * 0.02)
        program.send_signal(signal.SIGINT)
        if program.stdout.readline() != "caught\n":
            break
    code, out, err = fresh.finish(program, 60)

    assert (code, err) == (0, ""), f"{out}\n{err}"
    assert out.strip().isdigit()
    assert programs.running() == []
