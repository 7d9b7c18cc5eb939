"""The end of the program ends what it has started, in every way that leaves us a say."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.conftest import eventually
from tests.integration import fresh
from tests.programs import Programs
from tests.watch import is_alive

# One that obeys, one that does not, a family whose members ignore SIGTERM, a leader that has left somebody.
_LIVELY = """
def start_all(manager):
    processes = [
        manager.start_process("obeys", programs.ready_then_sleep(), stdout=PIPE),
        manager.start_process("stubborn", programs.ignores_sigterm(), stdout=PIPE),
        manager.start_process("family", programs.forks_a_tree(1, 2, ignore=True), stdout=PIPE),
        manager.start_process("leaves", programs.leaves_a_child(), stdout=PIPE, leftovers="keep"),
    ]
    for process in processes:
        lines = process.lines()
        for line in lines:
            if line.split()[0] in ("pid", "child"):
                print(line.split()[1])
            if line.split()[0] in ("ready", "child"):
                break
        lines.close()
    print(*(process.pid for process in processes if process.task_id != "leaves"), flush=True)
"""


def pids_in(out: str) -> list[int]:
    """What a scenario has said about whom it has started."""
    return [int(word) for word in out.split() if word.isdigit()]


@pytest.mark.parametrize(
    ("end", "code"),
    [
        pytest.param("", 0, id="end-of-main"),
        pytest.param("sys.exit(3)", 3, id="sys.exit"),
        pytest.param("raise RuntimeError('on purpose')", 1, id="exception"),
        pytest.param("signal.raise_signal(signal.SIGINT)", -signal.SIGINT, id="ctrl-c"),
        pytest.param(
            "thread = threading.Thread(target=sys.exit, args=(5,)); thread.start(); thread.join()",
            0,
            id="sys.exit-in-a-thread",
        ),
    ],
)
def test_an_interpreter_that_exits_leaves_nobody(programs: Programs, end: str, code: int) -> None:
    """The manager is left open; whoever lives is stopped, with grace, before the interpreter is gone."""
    source = f"{_LIVELY}\nmanager = ProcessManager(grace=0.3)\nstart_all(manager)\n{end}\n"
    ended, out, err = fresh.finish(fresh.begin(source, programs))

    assert ended == code
    pids = pids_in(out)
    assert len(set(pids)) == 6
    assert not any(map(is_alive, pids))
    # Nothing else is said: no thread has stumbled over the end of the interpreter.
    complaints = [line for line in err.splitlines() if line and not line.startswith((" ", "Traceback"))]
    assert len(complaints) == (code in (1, -signal.SIGINT)), err


def test_threads_that_wait_or_start_do_not_stumble_over_the_exit(programs: Programs) -> None:
    """Daemon threads are amid everything when the main thread ends; no word is said, nobody is left."""
    source = f"""
{_LIVELY}
manager = ProcessManager(grace=0.3, on_event=lambda event: None)
start_all(manager)

def quietly(work):
    def run():
        try:
            while True:
                work()
        except fastproc.FastprocError:
            pass
    threading.Thread(target=run, daemon=True).start()

def all_of_a_map():
    for process in manager.map([programs.nop()] * 20):
        pass

quietly(lambda: manager.wait("stubborn"))
quietly(lambda: manager.start_process(threading.get_ident(), programs.nop()).wait())
quietly(lambda: manager.start_many([(object(), programs.nop()) for _ in range(3)]))
quietly(all_of_a_map)
quietly(lambda: list(manager.get("obeys").lines()) and time.sleep(0.01))
time.sleep(0.2)
"""
    code, out, err = fresh.finish(fresh.begin(source, programs))

    assert (code, err) == (0, "")
    assert not any(map(is_alive, pids_in(out)))
    assert programs.running() == []


def test_callbacks_hear_of_the_end_before_the_interpreter_goes(programs: Programs) -> None:
    """What is stopped at the exit is told to observers like any other end."""
    code, out, err = fresh.finish(
        fresh.begin(
            """
            def ended(process):
                print(process.task_id, process.status.reason.value, flush=True)

            manager = ProcessManager(grace=5)
            for name in "ab":
                process = manager.start_process(name, programs.ready_then_sleep(), stdout=PIPE, on_exit=ended)
                first_line(process)
            """,
            programs,
        )
    )
    assert (code, err) == (0, "")
    assert sorted(out.splitlines()) == ["a terminated", "b terminated"]


def test_the_exit_takes_a_bounded_time(programs: Programs) -> None:
    """The grace is one for all of a manager; two managers with stubborn ones need little more."""
    out = fresh.run(
        """
        import atexit
        began = 0.0
        # Registered first, so it runs last.
        atexit.register(lambda: print(time.monotonic() - began))
        for name in "ab":
            manager = ProcessManager(grace=0.3)
            globals()[name] = manager
            for number in range(10):
                process = manager.start_process(number, programs.ignores_sigterm(), stdout=PIPE)
                first_line(process)
        began = time.monotonic()
        """,
        programs,
    )
    assert 0.3 <= float(out) < 4
    assert programs.running() == []


def test_a_map_that_was_left_half_way_ends_with_the_program(programs: Programs) -> None:
    """Neither what runs nor what waits for its turn is left, and nothing is said."""
    out = fresh.run(
        """
        manager = ProcessManager(grace=0.3)
        running = manager.map([programs.nop()] + [programs.ready_then_sleep()] * 50, concurrency=4)
        print(next(running).wait().ok)
        """.replace(
            "programs.ready_then_sleep()", "fastproc.Command(programs.ready_then_sleep(), stdout=DEVNULL)"
        ),
        programs,
    )
    assert out == "True\n"
    assert programs.running() == []


def test_a_start_after_the_exit_has_begun_is_refused(programs: Programs) -> None:
    """Exit handlers that run after ours get an error, and nothing that could be left behind."""
    out = fresh.run(
        """
        import atexit

        def late():
            for manager in (old, open, ProcessManager()):
                for start in (
                    lambda: manager.start_process("late", programs.ready_then_sleep()),
                    lambda: manager.start_many([("late", programs.ready_then_sleep())]),
                    lambda: next(manager.map([programs.ready_then_sleep()])),
                ):
                    try:
                        start()
                    except fastproc.FastprocError as error:
                        print(type(error).__name__)
            print(old.wait("early").code)

        atexit.register(late)
        old = ProcessManager()
        old.start_process("early", programs.exits_with(3)).wait()
        open = ProcessManager(grace=0.3)
        open.start_process("sleeps", programs.ready_then_sleep(), stdout=DEVNULL)
        """,
        programs,
    )
    assert out.split() == ["ManagerClosed"] * 6 + ["SpawnError"] * 3 + ["3"]


def test_the_first_start_of_all_is_refused_in_an_exit_handler(programs: Programs) -> None:
    """What is registered then is called no more: nobody would end what it has started."""
    out = fresh.run(
        """
        import atexit

        def late():
            manager = ProcessManager()
            for start in (
                lambda: manager.start_process("late", programs.ready_then_sleep(), stdout=DEVNULL),
                lambda: manager.start_many([("late", programs.ready_then_sleep())]),
            ):
                try:
                    start()
                except fastproc.SpawnError as error:
                    print(errno.errorcode[error.errno], "the interpreter is exiting" in str(error))

        atexit.register(late)
        """,
        programs,
    )
    assert out.split() == ["ESHUTDOWN", "True"] * 2
    assert programs.running() == []


@contextmanager
def reaped(out: list[int]) -> Iterator[None]:
    """Kill what a program has deliberately left behind."""
    try:
        yield
    finally:
        for pid in out:
            if is_alive(pid):
                os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("end", "code"),
    [
        pytest.param("os._exit(4)", 4, id="os._exit"),
        pytest.param("os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM, id="SIGTERM"),
        pytest.param("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, id="SIGKILL"),
    ],
)
def test_a_program_that_dies_at_once_takes_along_who_should_die_with_it(
    programs: Programs, end: str, code: int
) -> None:
    """Nothing of ours runs then. With die_with_parent the kernel ends them; the others live on."""
    source = f"""
manager = ProcessManager(die_with_parent=True)
dies = manager.start_process("dies", programs.ready_then_sleep(), stdout=PIPE, stderr=DEVNULL)
lives = manager.start_process(
    "lives", programs.ready_then_sleep(), stdout=PIPE, stderr=DEVNULL, die_with_parent=False
)
first_line(dies), first_line(lives)
print(dies.pid, lives.pid, flush=True)
{end}
"""
    ended, out, err = fresh.finish(fresh.begin(source, programs))

    dies, lives = pids_in(out)
    with reaped([dies, lives]):
        assert (ended, err) == (code, "")
        assert eventually(lambda: not is_alive(dies), 10)
        assert is_alive(lives)
    assert eventually(lambda: not is_alive(lives), 10)


def test_ctrl_c_of_a_terminal_ends_the_program_and_all_it_has_started(programs: Programs) -> None:
    """SIGINT comes to the whole group of the program; its children lead sessions, and are stopped by it."""
    program = fresh.begin(
        f"{_LIVELY}\nmanager = ProcessManager(grace=0.3)\nstart_all(manager)\nmanager.wait('stubborn')\n",
        programs,
        group=True,
    )
    assert program.stdout is not None
    said = ""
    while len(pids_in(said)) < 7:
        line = program.stdout.readline()
        assert line, "it has ended too early"
        said += line
    os.killpg(program.pid, signal.SIGINT)
    code, _out, err = fresh.finish(program)

    assert code == -signal.SIGINT
    assert err.rstrip().endswith("KeyboardInterrupt")
    assert not any(map(is_alive, pids_in(said)))


def test_a_manager_that_is_forgotten_says_so_and_ends_nothing(programs: Programs) -> None:
    """ResourceWarning is all that comes of it: no signal; at the exit its processes end."""
    out = fresh.run(
        """
        import warnings

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            manager = ProcessManager(grace=0.3)
            process = manager.start_process("sleeper", programs.ready_then_sleep(), stdout=PIPE)
            first_line(process)
            del manager
            gc.collect()
            print([warning.category.__name__ for warning in caught])
        assert process.poll() is None
        del process
        gc.collect()

        class Circle:
            pass

        circle = Circle()
        circle.itself = circle
        circle.manager = ProcessManager()
        circle.process = circle.manager.start_process("short", programs.exits_with(3))
        circle.process.wait()
        del circle
        gc.collect()
        print(len(programs.running()))
        """,
        programs,
    )
    assert out.splitlines() == ["['ResourceWarning']", "1"]
    assert programs.running() == []


def test_collecting_garbage_at_any_moment_does_no_harm(programs: Programs) -> None:
    """The collector runs at nearly every allocation, and finds managers and handles in circles."""
    out = fresh.run(
        """
        class Circle:
            def __init__(self, **names):
                self.__dict__.update(names, itself=self)

        gc.set_threshold(7, 2, 2)

        def turn(base):
            for number in range(25):
                manager = ProcessManager(grace=0.2, on_event=(lambda event: None) if number % 2 else None)
                process = manager.start_process("a", programs.exits_with(number), stdout=PIPE)
                sleeper = manager.start_process("b", programs.ready_then_sleep(), stdout=PIPE)
                lines = sleeper.lines()
                Circle(process=process, lines=lines, sleeper=sleeper)
                del lines
                assert process.wait(20).code == number
                assert sleeper.terminate().stopped
                while manager.active_count():
                    time.sleep(0.001)
                Circle(manager=manager, process=process)
                Circle(lines=process.lines())
                running = manager.map([programs.nop()] * 2)
                next(running), next(running)
                Circle(running=running)
                del running

        threads = [threading.Thread(target=turn, args=(base,)) for base in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        gc.collect()
        print(len(programs.running()), children())
        """,
        programs,
    )
    assert out == "0 []\n"


def test_a_finaliser_may_use_what_goes_with_it(programs: Programs) -> None:
    """In a circle of garbage the __del__() of a user may be called last, and still finds everything whole."""
    out = fresh.run(
        """
        class Circle:
            def __init__(self):
                self.itself = self

            def __del__(self):
                process, manager, lines, running = self.things
                assert process.poll().code == 3 and process.stdout_bytes == b"" and "3" in repr(process)
                assert not process.send_signal(0) and not process.kill() and process.terminate().stopped
                assert list(lines) == [] and manager.active_count() == 0
                # Unless the manager was collected before, it still starts.
                try:
                    assert manager.start_process("again", programs.nop()).wait().ok
                except fastproc.ManagerClosed:
                    print("closed")
                else:
                    print("again")
                print(len(list(running)))
                manager.close()

        gc.disable()
        for first in (True, False):
            circle = Circle() if first else None
            manager = ProcessManager(grace=0.2)
            process = manager.start_process("a", programs.exits_with(3), stdout=PIPE)
            process.wait(), manager.wait_all()
            running = manager.map([programs.nop()] * 2)
            next(running), next(running)
            circle = circle or Circle()
            circle.things = (process, manager, process.lines(), running)
            del circle, process, manager, running
            gc.collect()
        """,
        programs,
    )
    assert sorted(out.split()) in (["0", "0", "again", "closed"], ["0", "0", "again", "again"])


def test_maps_that_are_forgotten_under_locks_of_others_hold_up_nobody(programs: Programs) -> None:
    """The collector runs in any thread, also in one that holds the lock of another manager just then."""
    out = fresh.run(
        """
        managers = [ProcessManager(grace=0.2) for _ in range(2)]
        sleeper = fastproc.Command(programs.ready_then_sleep(), stdout=DEVNULL)
        maps = [manager.map([programs.nop(), sleeper, sleeper], concurrency=2) for manager in managers]
        for running in maps:
            next(running)
        del running
        both = threading.Barrier(2)

        def turn(number):
            with managers[number]._roster.lock:
                both.wait()
                maps[1 - number] = None
                os.write(1, b"forgotten\\n")  # in one piece, whatever the other thread writes

        threads = [threading.Thread(target=turn, args=(number,), daemon=True) for number in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        print(len(programs.running()), [manager.active_count() for manager in managers])
        """,
        programs,
    )
    assert out == "forgotten\nforgotten\n0 [0, 0]\n"


def test_a_program_that_was_stopped_from_outside_can_go_on(programs: Programs) -> None:
    """SIGSTOP and SIGCONT to the program while a deadline passes: the deadline is kept after that."""
    program = fresh.begin(
        """
        with ProcessManager(grace=0.2) as manager:
            process = manager.start_process("late", programs.ready_then_sleep(), timeout=0.3, stdout=PIPE)
            print(first_line(process), flush=True)
            print(process.wait(30).reason.value)
        """,
        programs,
    )
    assert program.stdout is not None
    assert program.stdout.readline().startswith("ready")
    program.send_signal(signal.SIGSTOP)
    with pytest.raises(subprocess.TimeoutExpired):
        program.wait(0.5)
    program.send_signal(signal.SIGCONT)
    code, out, err = fresh.finish(program)

    assert (code, out, err) == (0, "timeout\n", "")


def test_ctrl_c_in_the_grace_of_one_manager_spares_no_other(programs: Programs) -> None:
    """At exit managers are ended one after the other: who is impatient with the first has all killed."""
    program = fresh.begin(
        """
        managers = [ProcessManager(grace=20) for _ in range(3)]
        for manager in managers:
            process = manager.start_process("stubborn", programs.ignores_sigterm(), stdout=PIPE)
            first_line(process)
            print(process.pid)
        print("at the end", flush=True)
        """,
        programs,
    )
    assert program.stdout is not None
    pids = [int(program.stdout.readline()) for _ in range(3)]
    assert program.stdout.readline() == "at the end\n"
    began = time.monotonic()
    # The first may come before the atexit handler has begun.
    while program.poll() is None and time.monotonic() < began + 10:
        program.send_signal(signal.SIGINT)
        time.sleep(0.3)
    fresh.finish(program)

    assert not any(map(is_alive, pids))
    assert time.monotonic() < began + 10
