"""Forked copies of the program own nothing, disturb nothing, and can start afresh."""

from __future__ import annotations

import faulthandler
import json
import os
import pickle
import signal
import subprocess
import threading
from collections.abc import Callable

import pytest
from tests.conftest import eventually
from tests.integration import fresh
from tests.programs import Programs
from tests.watch import first_line, held, let_go

from fastproc import PIPE, ForkedHandle, Process, ProcessManager


def in_copy(work: Callable[[], object]) -> int:
    """Do something in a forked copy of this program; 0 if it went well."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            # A copy that hangs is a failure: it says where, and does not live on.
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            faulthandler.register(signal.SIGALRM, chain=True)
            signal.alarm(20)
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_all_calls_are_refused_in_a_copy(manager: ProcessManager, programs: Programs) -> None:
    """Each raises ForkedHandle and touches neither the process nor the parent's watch over it."""
    process = manager.start_process("sleeper", programs.ready_then_sleep(), stdout=PIPE)
    first_line(process)
    lines = process.lines()
    calls: list[Callable[[], object]] = [
        lambda: manager.start_process("x", ["true"]),
        lambda: manager.start_many([("x", ["true"])]),
        lambda: list(manager.map([["true"]])),
        lambda: manager.terminate_process("sleeper"),
        manager.terminate_all,
        manager.active_count,
        lambda: manager.is_active("sleeper"),
        manager.active,
        lambda: manager.get("sleeper"),
        lambda: manager.wait("sleeper"),
        manager.wait_all,
        manager.as_completed,
        manager.metrics,
        manager.health,
        manager.tree,
        manager.close,
        process.wait,
        process.poll,
        lambda: process.status,
        lambda: process.running,
        lambda: process.send_signal(signal.SIGKILL),
        lambda: process.send_signal(signal.SIGKILL, group=True),
        process.terminate,
        process.kill,
        lambda: process.add_done_callback(print),
        process.lines,
        lambda: list(lines),
        process.fileno,
    ]

    def try_all() -> None:
        for number, call in enumerate(calls):
            try:
                call()
            except ForkedHandle:
                continue
            os.write(2, f"call {number} was not refused\n".encode())
            raise AssertionError

    assert in_copy(try_all) == 0

    assert process.poll() is None
    assert process.terminate().stopped


def test_a_copy_that_ends_in_any_way_ends_nothing(programs: Programs) -> None:
    """By leaving the block, by the end of the interpreter, an exception, or collected garbage."""
    out = fresh.run(
        """
        manager = ProcessManager(on_event=lambda event: None)
        process = manager.start_process("sleeper", programs.ready_then_sleep(), stdout=PIPE)
        first_line(process)
        forgotten = ProcessManager()
        forgotten.start_process("short", programs.exits_with(3)).wait()
        codes = []
        for way in ("block", "exit", "exception", "garbage"):
            pid = os.fork()
            if pid == 0:
                signal.alarm(20)
                os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
                if way == "block":
                    with manager:
                        pass
                elif way == "exception":
                    raise RuntimeError
                elif way == "garbage":
                    del manager, process, forgotten
                    gc.collect()
                sys.exit(0)
            codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        assert process.poll() is None
        assert process.send_signal(signal.SIGINT)
        assert process.wait(20).signal == signal.SIGINT
        assert manager.start_process("again", programs.exits_with(4)).wait(20).code == 4
        manager.close()
        print(codes)
        """,
        programs,
    )
    assert out == "[0, 0, 1, 0]\n"


def test_the_original_hears_all_while_it_is_copied(manager: ProcessManager, programs: Programs) -> None:
    """Sixty copies misuse, drop and replace what they have inherited; no end is lost meanwhile."""
    heard: list[object] = []
    enough = threading.Event()
    codes = []
    # Made now: a copy shall not meet the lock of `programs` as another thread has left it.
    commands = [programs.exits_with(code) for code in range(256)]

    def keep_starting() -> None:
        number = 0
        while not enough.is_set():
            number += 1
            manager.start_process(number, commands[number % 256], on_exit=heard.append)
            assert manager.wait(number, 20).code == number % 256
        codes.append(number)

    def misuse() -> None:
        with pytest.raises(ForkedHandle):
            manager.terminate_all()
        with ProcessManager() as own:
            assert own.start_process("own", commands[7]).wait(20).code == 7

    threads = [threading.Thread(target=keep_starting)]
    threads[0].start()
    sleepers = manager.start_many([(f"s{n}", programs.ready_then_sleep()) for n in range(5)])
    try:
        for turn in range(60):
            assert in_copy(misuse if turn % 6 == 0 else manager.__repr__) == 0
    finally:
        enough.set()
        threads[0].join(20)

    assert codes
    assert eventually(lambda: len(heard) == codes[0], 10)
    assert manager.active_count() == len(sleepers)
    report = manager.terminate_all()
    assert report
    assert len(report.results) == 5


def test_a_copy_keeps_no_pipe_of_ours(manager: ProcessManager, programs: Programs) -> None:
    """While copies live, a child that reads to the end comes to it, and what it prints has an end for us."""
    size = 1 << 20  # more than a pipe holds: we still hold our end when the copies are made
    command = held(programs.reads_stdin_slowly(1 << 16, 0))
    before = manager.start_process("before", command, stdout=PIPE, input=b"x" * size)
    enough = threading.Event()
    incomplete: list[Process] = []

    def start() -> None:
        number = 0
        while not enough.is_set():
            number += 1
            process = manager.start_process(number, ["cat"], stdout=PIPE, input=b"y")
            process.wait(20)
            if not eventually(lambda process=process: process.output_complete, 10):  # type: ignore[misc]
                incomplete.append(process)

    starter = threading.Thread(target=start)
    starter.start()
    copies = []
    try:
        for _ in range(25):
            pid = os.fork()
            if pid == 0:
                signal.alarm(60)
                while True:
                    signal.pause()
            copies.append(pid)
        let_go(before)
        assert before.wait(20).ok
        assert before.stdout_bytes.split()[-1] == str(size).encode()
    finally:
        enough.set()
        starter.join(30)
        for pid in copies:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    assert incomplete == []


def test_a_copy_of_a_copy_can_start_afresh(manager: ProcessManager, programs: Programs) -> None:
    """Every generation has an engine of its own, and refuses what its parents have made."""
    process = manager.start_process("sleeper", programs.ready_then_sleep(), stdout=PIPE)
    first_line(process)

    def go_on() -> None:
        own = ProcessManager()
        mine = own.start_process("mine", programs.ready_then_sleep(), stdout=PIPE)
        first_line(mine)

        def below() -> None:
            for handle in (process, mine):
                with pytest.raises(ForkedHandle):
                    handle.kill()
            with ProcessManager() as third:
                assert third.start_process("third", programs.exits_with(3)).wait(20).code == 3

        assert in_copy(below) == 0
        assert mine.poll() is None
        assert own.close()

    assert in_copy(go_on) == 0
    assert process.poll() is None


def test_a_copy_made_by_a_thread_amid_starts_is_usable(programs: Programs) -> None:
    """Locks that other threads hold at the fork do not hold up the copy."""
    out = fresh.run(
        """
        enough = False
        manager = ProcessManager(on_event=lambda event: None)
        nop, exits = programs.nop(), programs.exits_with(5)

        def keep_starting(base):
            number = 0
            while not enough:
                number += 1
                manager.start_process((base, number), nop).wait()
                manager.metrics()

        threads = [threading.Thread(target=keep_starting, args=(base,)) for base in range(3)]
        for thread in threads:
            thread.start()
        codes = []
        for turn in range(25):
            pid = os.fork()
            if pid == 0:
                signal.alarm(20)
                try:
                    manager.metrics()
                except fastproc.ForkedHandle:
                    pass
                with ProcessManager() as own:
                    code = own.start_process("own", exits).wait(15).code
                os._exit(code)
            codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        enough = True
        for thread in threads:
            thread.join()
        assert manager.close()
        print(set(codes))
        """,
        programs,
    )
    assert out == "{5}\n"


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_multiprocessing_goes_on_beside_a_live_manager(programs: Programs, method: str) -> None:
    """Its workers can have managers of their own, a handle does not pass, and the original loses nothing."""
    out = fresh.run(
        f"""
        import multiprocessing

        def work(number):
            with ProcessManager() as own:
                return own.start_process("own", programs.exits_with(number)).wait(20).code

        def misuse(_number):
            try:
                manager.active_count()
            except (fastproc.ForkedHandle, NameError) as error:
                return type(error).__name__

        def use(handle):
            return handle.pid

        if __name__ == "__main__":
            warnings.simplefilter("ignore", DeprecationWarning)
            context = multiprocessing.get_context({method!r})
            manager = ProcessManager(on_event=lambda event: None)
            sleeper = manager.start_process("sleeper", programs.ready_then_sleep(), stdout=PIPE)
            first_line(sleeper)
            with context.Pool(2) as pool:
                short = [manager.start_process(number, programs.exits_with(number)) for number in range(20)]
                assert pool.map(work, range(6)) == list(range(6))
                print(set(pool.map(misuse, range(4))))
                for handle in (manager, sleeper):
                    try:
                        pool.apply(use, (handle,))
                    except TypeError as error:
                        assert "pickle" in str(error)
                    else:
                        raise AssertionError
                pool.close()
                pool.join()
            assert [process.wait(20).code for process in short] == list(range(20))
            assert sleeper.poll() is None
            report = manager.close()
            assert report and len(report.results) == 1
        """.replace("import multiprocessing\n", "import multiprocessing, warnings\n"),
        programs,
    )
    assert out == ("{'ForkedHandle'}\n" if method == "fork" else "{'NameError'}\n")


def test_a_copy_does_not_hold_up_the_output_of_a_run(programs: Programs) -> None:
    """Copies are made again and again while children are born, and live longer than those."""
    out = fresh.run(
        """
        copies, over = [], threading.Event()

        def copy():
            while not over.is_set():
                pid = os.fork()
                if pid == 0:
                    time.sleep(60)
                    os._exit(0)
                copies.append(pid)
                over.wait(0.003)

        copying = threading.Thread(target=copy)
        copying.start()
        try:
            for _ in range(150):
                assert fastproc.run(programs.exits_with(5, after=0.002), capture_output=True).returncode == 5
        finally:
            over.set()
            copying.join()
            for pid in copies:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        print(len(copies) > 10)
        """,
        programs,
    )

    assert out == "True\n"


def test_handles_are_not_pickled(manager: ProcessManager, programs: Programs) -> None:
    """The refusal says why."""
    process = manager.start_process("a", programs.nop())
    for handle in (manager, process):
        with pytest.raises(TypeError, match="belong"):
            pickle.dumps(handle)
    process.wait(10)
    assert pickle.loads(pickle.dumps(process.wait())) == process.wait()


def test_descriptors_of_the_engine_reach_nobody(programs: Programs) -> None:
    """Four threads fork and exec by themselves while two start processes: only 0, 1 and 2 are inherited."""
    enough = threading.Event()
    wrong: list[object] = []
    count = [0]

    def start(manager: ProcessManager, base: int) -> None:
        number = 0
        while not enough.is_set():
            number += 1
            command = programs.prints_fds()
            process = manager.start_process((base, number), command, stdout=PIPE, stderr=PIPE, input=b"x")
            process.wait(20)
            manager.wait_all(20)
            assert eventually(lambda process=process: process.output_complete, 10)  # type: ignore[misc]
            found = json.loads(process.stdout_bytes)
            if set(found) != {"0", "1", "2"}:
                wrong.append(found)

    def fork_and_exec() -> None:
        while not enough.is_set() and count[0] < 150:
            # As careless as can be: close_fds=False lets everything through that is not CLOEXEC.
            ran = subprocess.run(
                programs.prints_fds(),
                capture_output=True,
                stdin=subprocess.DEVNULL,
                close_fds=False,
                check=True,
            )
            count[0] += 1
            if set(json.loads(ran.stdout)) != inherited:
                wrong.append(json.loads(ran.stdout))

    ran = subprocess.run(
        programs.prints_fds(), capture_output=True, stdin=subprocess.DEVNULL, close_fds=False, check=True
    )
    inherited = set(json.loads(ran.stdout))
    with ProcessManager() as manager:
        forkers = [threading.Thread(target=fork_and_exec) for _ in range(4)]
        starters = [threading.Thread(target=start, args=(manager, base)) for base in range(2)]
        for thread in (*forkers, *starters):
            thread.start()
        for thread in forkers:
            thread.join(40)
        enough.set()
        for thread in starters:
            thread.join(20)
        started = manager.metrics().started

    assert wrong == []
    assert count[0] >= 150
    assert started > 0
