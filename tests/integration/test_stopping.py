"""Stopping: who is asked, who is killed, when, how often, and what is said about it."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import cast

import pytest
from tests.conftest import eventually
from tests.integration import fresh
from tests.programs import Programs
from tests.watch import (
    alive,
    can,
    first_line,
    in_threads,
    is_alive,
    lines_until,
    nobody_left,
    pids_until,
    run_script,
    state_of,
)

from fastproc import (
    DEVNULL,
    PIPE,
    Command,
    ExitReason,
    NotActive,
    Process,
    ProcessManager,
    StopReport,
    StopResult,
)
from fastproc.command import Containment
from fastproc.status import Proof

V1_FREEZER = Path("/sys/fs/cgroup/freezer")


# ---- one that is asked ----


def test_one_that_ignores_sigterm_is_killed_when_its_grace_has_passed(
    manager: ProcessManager, programs: Programs, containment: Containment
) -> None:
    """Not before, and the result says that it was needed."""
    process = manager.start_process("deaf", programs.ignores_sigterm(), stdout=PIPE, containment=containment)
    first_line(process)

    result = manager.terminate_process("deaf", timeout=0.25)

    assert result.status is not None
    assert (result.status.signal, result.status.reason) == (signal.SIGKILL, ExitReason.TERMINATED)
    assert result.status.escalated
    assert result.escalated
    assert result.stopped
    assert 0.25 <= result.elapsed < 5


def test_a_time_limit_climbs_the_same_ladder(
    manager: ProcessManager, programs: Programs, containment: Containment
) -> None:
    """A deadline asks first and kills after the grace of the command."""
    process = manager.start_process(
        "late", programs.reports_signals(), timeout=0.2, grace=0.2, stdout=PIPE, containment=containment
    )

    status = process.wait(20)

    assert (status.signal, status.reason, status.escalated) == (signal.SIGKILL, ExitReason.TIMEOUT, True)
    assert 0.4 <= status.duration < 5
    assert process.stdout_bytes.count(b"got 15") == 1


def test_a_program_that_cleans_up_has_its_time_to_do_so(
    manager: ProcessManager, programs: Programs, containment: Containment
) -> None:
    """Its own exit code counts, and nothing is killed."""
    process = manager.start_process(
        "tidy", programs.cleans_up(0.3, code=7), stdout=PIPE, containment=containment
    )
    first_line(process)

    result = process.terminate(20)

    assert result.status is not None
    assert (result.status.code, result.status.reason) == (7, ExitReason.TERMINATED)
    assert not result.escalated
    assert process.stdout_bytes.split()[2:] == [b"cleaning", b"clean"]


def test_another_signal_may_ask(manager: ProcessManager, programs: Programs) -> None:
    process = manager.start_process(
        "asked", programs.reports_signals(), stdout=PIPE, stop_signal=signal.SIGUSR2, grace=0.2
    )
    first_line(process)

    assert process.terminate().escalated
    assert process.stdout_bytes.count(b"got %d " % signal.SIGUSR2) == 1
    assert b"got 15" not in process.stdout_bytes


def test_without_a_grace_it_is_killed_at_once(
    manager: ProcessManager, programs: Programs, containment: Containment
) -> None:
    """kill(), and terminate(0), reach the whole family; nobody who was not asked can be deaf."""
    ways: list[Callable[[Process], object]] = [Process.kill, lambda process: process.terminate(0)]
    for number, kill in enumerate(ways):
        process = manager.start_process(
            number, programs.forks_a_tree(1, 3, ignore=True), stdout=PIPE, containment=containment
        )
        pids = pids_until(process, "ready")

        assert kill(process)

        assert process.wait(20).signal == signal.SIGKILL
        assert process.wait().reason is ExitReason.TERMINATED
        assert process.terminate().stopped
        assert alive(pids) == []


def test_a_shorter_grace_shortens_and_a_longer_does_not_lengthen(
    manager: ProcessManager, programs: Programs
) -> None:
    """Somebody who is in a hurry does not wait behind somebody who was not."""
    process = manager.start_process("deaf", programs.reports_signals(), stdout=PIPE)
    first_line(process)
    patient = threading.Thread(target=process.terminate, args=(60,))
    patient.start()
    lines_until(process, "got 15")

    began = time.monotonic()
    result = process.terminate(0.2)
    patient.join(10)

    assert result.stopped
    assert result.escalated
    assert time.monotonic() - began < 10
    assert not patient.is_alive()


# ---- the family of one that obeys ----


def test_a_leader_that_obeys_does_not_cover_for_a_child_that_does_not(
    manager: ProcessManager, containment: Containment
) -> None:
    """The task is over when its containment is empty, not when its leader is dead."""
    deaf = 'trap "" TERM; echo "ready $$"; exec sleep 1000'
    process = manager.start_process(
        "obeys", ["sh", "-c", f"sh -c '{deaf}' & wait"], stdout=PIPE, containment=containment
    )
    child = int(first_line(process).split()[1])
    began = time.monotonic()
    stopping = threading.Thread(target=process.terminate, args=(0.4,))
    stopping.start()

    status = process.wait(20)

    assert (status.signal, status.reason) == (signal.SIGTERM, ExitReason.TERMINATED)
    if time.monotonic() - began < 0.25:
        assert is_alive(child)
        assert manager.is_active("obeys")
    stopping.join(20)
    result = process.terminate()
    assert result.stopped
    assert time.monotonic() - began >= 0.4
    assert not is_alive(child)
    if containment == "cgroup" or can("procfs"):  # else its zombie counts until init takes it
        assert not manager.is_active("obeys")


def test_that_a_child_had_to_be_killed_is_said_of_the_task(
    manager: ProcessManager, containment: Containment
) -> None:
    """The leader obeyed, so its status has nothing to say about it; the result of the stop has."""
    deaf = 'trap "" TERM; echo "ready $$"; exec sleep 1000'
    process = manager.start_process(
        "obeys", ["sh", "-c", f"sh -c '{deaf}' & wait"], stdout=PIPE, containment=containment
    )
    first_line(process)

    result = process.terminate(0.3)

    assert result.stopped
    assert result.escalated
    assert result.status is not None
    assert result.status.signal == signal.SIGTERM


# ---- one that is stopped ----


def test_one_that_has_stopped_itself_hears_that_it_shall_end(
    manager: ProcessManager, programs: Programs, containment: Containment
) -> None:
    """SIGTERM stays pending until it goes on, so SIGCONT follows."""
    process = manager.start_process("asleep", programs.stops_itself(), stdout=PIPE, containment=containment)
    first_line(process)
    assert eventually(lambda: state_of(process.pid) == "T")

    result = process.terminate(30)

    assert result.status is not None
    assert result.status.signal == signal.SIGTERM
    assert not result.escalated
    assert result.elapsed < 15


def test_one_that_was_stopped_goes_on_and_cleans_up(
    manager: ProcessManager, programs: Programs, containment: Containment
) -> None:
    process = manager.start_process("held", programs.cleans_up(code=3), stdout=PIPE, containment=containment)
    first_line(process)
    assert process.send_signal(signal.SIGSTOP)
    assert eventually(lambda: state_of(process.pid) == "T")

    result = process.terminate(30)

    assert result.status is not None
    assert result.status.code == 3
    assert b"clean\n" in process.stdout_bytes


def test_a_family_that_was_stopped_is_stopped_whole(
    manager: ProcessManager, programs: Programs, containment: Containment
) -> None:
    """Also when it is killed: SIGKILL needs no SIGCONT."""
    for number, timeout in enumerate((30, 0)):
        process = manager.start_process(
            number, programs.forks_a_tree(2, 2), stdout=PIPE, containment=containment
        )
        pids = pids_until(process, "ready")
        assert process.send_signal(signal.SIGSTOP, group=True)
        assert eventually(lambda: all(state_of(pid) == "T" for pid in pids))

        result = process.terminate(timeout)

        assert result.stopped
        assert alive(pids) == []
        assert result.elapsed < 15


# ---- more than one who stops ----


def test_each_process_is_asked_once_however_many_ask(
    manager: ProcessManager, programs: Programs, containment: Containment, tmp_path: Path
) -> None:
    """The leader, a member of its group and one who has left for a session of its own: one SIGTERM each."""
    if containment == "session" and not can("procfs"):
        pytest.skip("without /proc nobody finds who has left the group")
    files = [tmp_path / name for name in ("member", "fugitive", "leader")]
    program = programs.reports_signals()[0]
    process = manager.start_process(
        "three",
        ["sh", "-c", '"$0" >"$1" & setsid "$0" >"$2" & exec "$0" >"$3"', program, *files],
        containment=containment,
    )
    assert eventually(lambda: all(file.exists() and b"ready" in file.read_bytes() for file in files), 15)

    results = in_threads(
        *[lambda: process.terminate(0.5)] * 4,
        lambda: manager.terminate_all(0.5).results[0],
    )

    assert [file.read_bytes().count(b"got 15") for file in files] == [1, 1, 1]
    assert all(result.stopped and result.escalated for result in results)
    assert len({id(result.status) for result in results}) == 1


def test_a_stop_that_races_with_an_exit_tells_the_truth(
    manager: ProcessManager, programs: Programs, containment: Containment
) -> None:
    """Whoever is first, the status is what the kernel says, and nobody gets an exception."""
    seen = set()
    for number in range(80):
        after = number % 8 * 0.0005
        process = manager.start_process(number, programs.exits_with(7, after=after), containment=containment)
        if number % 2:
            time.sleep(after)

        result = process.terminate(20)

        status = result.status
        assert status is not None
        assert result.stopped
        assert not result.escalated
        seen.add((status.code, status.signal, status.reason))
        assert process.wait() is status
    by_itself = (7, None, ExitReason.EXITED)
    at_once = (7, None, ExitReason.TERMINATED)
    by_us = (None, signal.SIGTERM, ExitReason.TERMINATED)
    assert seen <= {by_itself, at_once, by_us}


def test_one_that_has_ended_already_keeps_its_status(
    manager: ProcessManager, programs: Programs, containment: Containment
) -> None:
    """Although nobody had asked for it yet."""
    for number in range(10):
        process = manager.start_process(number, programs.exits_with(7), containment=containment)
        # Without anything of ours that would notice it.
        assert eventually(lambda: state_of(process.pid) in {"Z", ""}, 20)

        result = process.terminate()

        assert result.status is not None
        assert (result.status.code, result.status.reason) == (7, ExitReason.EXITED)
        assert not result.escalated
        with pytest.raises(NotActive):
            manager.terminate_process(number)


def test_a_stop_right_after_the_start_leaves_nobody(
    manager: ProcessManager, programs: Programs, containment: Containment
) -> None:
    """The program may not have reached its main() yet: the signal ends it all the same."""
    command = Command(programs.ready_then_sleep(), stdout=DEVNULL, containment=containment)
    with nobody_left(programs):
        for number in range(100):
            process = manager.start_process(number, command)

            result = process.terminate(30)

            assert result.stopped
            assert result.status is not None
            assert result.status.signal == signal.SIGTERM
            assert not is_alive(process.pid)


def test_starts_and_stops_of_many_threads_leave_nobody(manager: ProcessManager, programs: Programs) -> None:
    """terminate_all() hits starts at any moment, those in the hands of the engine's threads included."""
    over = threading.Event()
    command = Command(programs.ready_then_sleep(), stdout=DEVNULL)

    def start_some(thread: int) -> None:
        for number in range(15):
            manager.start_process((thread, number), command)

    def start_many(thread: int) -> None:
        for number in range(3):
            manager.start_many([((thread, number, item), command) for item in range(10)])

    def stop_all() -> None:
        while not over.is_set():
            assert manager.terminate_all(20)

    stopper = threading.Thread(target=stop_all)
    with nobody_left(programs):
        stopper.start()
        in_threads(*(partial(start_some, thread) for thread in range(3)), partial(start_many, 9))
        over.set()
        stopper.join(30)

        assert manager.terminate_all(20)
        assert manager.active_count() == 0


# ---- all of them ----


def test_all_are_asked_at_once_and_only_the_stubborn_are_killed(
    manager: ProcessManager, programs: Programs
) -> None:
    """One grace for two hundred, twenty of them deaf: not one after the other."""
    sleeper = Command(programs.cleans_up(), stdout=PIPE)
    deaf = Command(programs.ignores_sigterm(), stdout=PIPE)
    manager.start_many([(number, deaf if number % 10 == 0 else sleeper) for number in range(200)])
    for process in manager.active():
        first_line(process)

    report = manager.terminate_all(timeout=0.6)

    assert report
    assert 0.6 <= report.elapsed < 2.6
    assert len(report.results) == 200
    assert {result.task_id for result in report.results if result.escalated} == set(range(0, 200, 10))
    for result in report.results:
        assert result.status is not None
        assert result.stopped
        assert result.status.reason is ExitReason.TERMINATED
        assert (result.status.signal == signal.SIGKILL) == result.escalated
        assert result.status.code == (None if result.escalated else 0)
    assert manager.active_count() == 0
    assert programs.end_all() == []


def test_stopping_all_again_finds_nobody(manager: ProcessManager, programs: Programs) -> None:
    manager.start_process("one", programs.ready_then_sleep(), stdout=DEVNULL)
    assert len(manager.terminate_all().results) == 1

    again = manager.terminate_all()

    assert again == StopReport(results=[], survivors=[], elapsed=again.elapsed)
    assert again
    assert again.elapsed < 1


# ---- what is said about it ----


def test_the_result_says_all_there_is_to_say(
    manager: ProcessManager, programs: Programs, containment: Containment
) -> None:
    process = manager.start_process(
        "named", programs.ready_then_sleep(), stdout=PIPE, containment=containment
    )
    first_line(process)

    result = manager.terminate_process("named", 20)

    assert result == StopResult(
        task_id="named",
        status=process.wait(),
        escalated=False,
        proof=cast(Proof, containment),
        survivors=[],
        elapsed=result.elapsed,
    )
    assert result.stopped
    assert bool(result)
    assert 0 < result.elapsed < 15


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """Keep a process in the freezer of cgroup v1, where even SIGKILL waits until it thaws."""
    if not os.access(V1_FREEZER / "tasks", os.W_OK):
        pytest.skip("no writable freezer of cgroup v1")
    ice = V1_FREEZER / f"fastproc-test-{os.getpid()}"
    ice.mkdir()
    try:
        (ice / "cgroup.procs").write_text(str(pid))
        (ice / "freezer.state").write_text("FROZEN")
        assert eventually(lambda: (ice / "freezer.state").read_text() == "FROZEN\n")
        yield
    finally:
        (ice / "freezer.state").write_text("THAWED")
        assert eventually(lambda: (ice / "cgroup.procs").read_text() == "", 10)
        ice.rmdir()


def test_one_that_cannot_be_killed_is_named_and_not_waited_for(
    programs: Programs, containment: Containment
) -> None:
    """The verdict comes when the ladder is over; the task stays active, and ends when it can."""
    with ProcessManager(grace=0.1, kill_timeout=0.3) as manager:
        process = manager.start_process(
            "ice", programs.ready_then_sleep(), stdout=PIPE, containment=containment
        )
        first_line(process)
        with frozen(process.pid):
            result = process.terminate()
            report = manager.terminate_all(0.1)

            assert result.survivors == [process.pid]
            assert result.status is None
            assert not result.stopped
            assert not result
            assert result.proof == "none"
            assert result.escalated
            assert 0.4 <= result.elapsed < 2
            assert not report
            assert report.survivors == [process.pid]
            assert manager.is_active("ice")
            assert process.running

        status = process.wait(20)
        assert status.signal in {signal.SIGTERM, signal.SIGKILL}
        assert eventually(lambda: not manager.is_active("ice"))


# ---- the one place that signals ----


def test_a_signal_goes_to_the_process_or_to_its_group(
    manager: ProcessManager, programs: Programs, tmp_path: Path
) -> None:
    files = [tmp_path / name for name in ("member", "leader")]
    process = manager.start_process(
        "two", ["sh", "-c", '"$0" >"$1" & exec "$0" >"$2"', programs.reports_signals()[0], *files]
    )
    assert eventually(lambda: all(file.exists() and b"ready" in file.read_bytes() for file in files), 15)

    assert process.send_signal(signal.SIGUSR1)
    assert process.send_signal(signal.SIGUSR2, group=True)

    wanted = (b"got %d " % signal.SIGUSR2, b"got %d " % signal.SIGUSR1)
    assert eventually(lambda: all(wanted[0] in file.read_bytes() for file in files))
    assert [wanted[1] in file.read_bytes() for file in files] == [False, True]
    with pytest.raises((ValueError, OSError)):
        process.send_signal(-1)
    with pytest.raises((ValueError, OSError)):
        process.send_signal(65)
    assert process.terminate(0)


@pytest.mark.parametrize("hidden", ["", "all"])
def test_numbers_that_mean_everybody_are_never_signalled(
    programs: Programs, hidden: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was not started has no pid, what leads nothing has no group: 0, -1 and our own group are safe.

    Also where all there is are numbers.
    """
    script = """
import fastproc, signal, sys
heard = []
signal.signal(signal.SIGUSR1, lambda number, frame: heard.append(number))
with fastproc.ProcessManager() as manager:
    failed, = manager.map([["/no/such/program"]])
    print(failed.pid, failed.send_signal(signal.SIGUSR1, group=True), failed.kill())
    process = manager.start_process("member", sys.argv[1:], start_new=None, stdout=fastproc.DEVNULL)
    try:
        print(process.send_signal(signal.SIGUSR1, group=True))
    except ValueError as error:
        print("refused")
    result = process.terminate(20)
    print(result.stopped, result.status.signal)
print(heard)
"""
    if hidden:
        monkeypatch.setenv("FASTPROC_DISABLE", hidden)

    said = run_script(script, *programs.ready_then_sleep())

    assert said == ["0 False False", "refused", "True 15", "[]"]


def test_a_host_that_was_told_to_end_is_not_ended_by_us(programs: Programs) -> None:
    """The default action of SIGTERM stays the host's own; a stop of ours does not come back to it."""
    script = """
import fastproc, os, signal, sys
with fastproc.ProcessManager() as manager:
    for number in range(20):
        leads = ("session", "group", None)[number % 3]
        manager.start_process(number, sys.argv[1:], stdout=fastproc.DEVNULL, start_new=leads)
    print(bool(manager.terminate_all(20)))
print(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, os.getpid() == os.getsid(0))
"""
    assert run_script(script, *programs.ready_then_sleep()) == ["True", "True True"]


@pytest.mark.parametrize("what", ["KeyboardInterrupt", "SystemExit", "ValueError"])
def test_what_a_signal_handler_raises_ends_the_grace(programs: Programs, what: str) -> None:
    """Whatever it is: nobody is left when it comes out, and it does come out."""
    out = fresh.run(
        f"""
        def interrupt(*_):
            raise {what}("on purpose")

        signal.signal(signal.SIGALRM, interrupt)
        for name in ("terminate_all", "close", "__exit__"):
            manager = ProcessManager(grace=30)
            stubborn = manager.start_process("stubborn", programs.ignores_sigterm(), stdout=PIPE)
            first_line(stubborn)
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            try:
                getattr(manager, name)(*(() if name != "__exit__" else (None, None, None)))
            except {what}:
                print(stubborn.running, manager.active_count())
        """,
        programs,
    )
    assert out.split() == ["False", "0"] * 3
