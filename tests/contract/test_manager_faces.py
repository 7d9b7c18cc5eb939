"""What every face of the manager promises. Each case runs over all of them."""

from __future__ import annotations

import errno
import inspect
import math
import pickle
import signal
import threading
import time
from typing import Any

import pytest
from tests.contract.conftest import Direct
from tests.programs import Programs
from tests.watch import is_alive

import fastproc
from fastproc import PIPE, CancelToken, Command
from fastproc.errors import DuplicateTask, ManagerClosed, NotActive, SpawnError, TooManyProcesses, WaitTimeout
from fastproc.events import Event, Exited, Started
from fastproc.status import ExitReason


def test_a_program_is_started_and_its_end_is_told(face: Direct, manager: Any, programs: Programs) -> None:
    """The same status to all who ask, however they ask."""
    process = face(manager.start_process, "x", programs.exits_with(7))
    status = face(process.wait)
    assert (status.code, status.signal, status.reason) == (7, None, ExitReason.EXITED)
    assert face(manager.wait, "x") == status
    assert (process.status, process.returncode, process.poll(), process.running) == (status, 7, status, False)
    assert (process.task_id, process.pid > 0, process.args) == ("x", True, tuple(programs.exits_with(7)))


def test_a_signal_that_kills_is_told_apart_from_a_code(
    face: Direct, manager: Any, programs: Programs
) -> None:
    """137 is a code, 9 a signal."""
    process = face(manager.start_process, "x", programs.dies_by(signal.SIGUSR1))
    status = face(process.wait)
    assert (status.code, status.signal, status.returncode) == (None, signal.SIGUSR1, -signal.SIGUSR1)


def test_what_cannot_be_started_raises_and_leaves_its_name(face: Direct, manager: Any) -> None:
    """With stage, errno and culprit."""
    with pytest.raises(FileNotFoundError) as caught:
        face(manager.start_process, "x", ["/no/such/program"])
    assert isinstance(caught.value, SpawnError)
    assert (caught.value.errno, caught.value.stage) == (errno.ENOENT, "exec")
    assert caught.value.filename == "/no/such/program"
    assert not manager.is_active("x")
    assert face(face(manager.start_process, "x", ["true"]).wait).ok


def test_a_culprit_that_only_the_system_finds_is_named(face: Direct, manager: Any) -> None:
    """A number that is not open, a CPU that is not there."""
    with pytest.raises(SpawnError, match="descriptor 999, given as stdin, is not open") as caught:
        face(manager.start_process, "x", ["true"], stdin=999)
    assert caught.value.filename == "fd 999"
    with pytest.raises(SpawnError, match="none of the CPUs") as caught:
        face(manager.start_process, "x", ["true"], cpu_affinity=[8191, 8190])
    assert caught.value.filename == "CPU 8190, 8191"


def test_bad_input_is_refused(face: Direct, manager: Any) -> None:
    """Before anything is started."""
    with pytest.raises(TypeError, match="hidden shell"):
        face(manager.start_process, "x", "ls -l")
    with pytest.raises(TypeError, match="timeout"):
        face(manager.start_process, "x", ["true"], timeuot=1)
    with pytest.raises(ValueError, match="timeout"):
        face(manager.start_process, "x", ["true"], timeout=-1)
    with pytest.raises(ValueError, match="concurrency"):
        face.list(manager.map, [["true"]], concurrency=0)
    with pytest.raises(ValueError, match="timeout"):
        face(manager.terminate_all, -1)
    assert manager.active_count() == 0


def test_what_would_be_called_or_cancel_is_checked_first(
    face: Direct, manager: Any, programs: Programs
) -> None:
    """By the name of the argument, before anything is started: later it would be too late."""
    with pytest.raises(TypeError, match="on_exit must be callable, not 5"):
        face(manager.start_process, "x", ["true"], on_exit=5)
    with pytest.raises(TypeError, match="cancel must be a CancelToken or None, not 5"):
        face(manager.start_process, "x", ["true"], cancel=5)
    assert manager.active_count() == 0
    process = face(manager.start_process, "x", ["true"])
    assert list(inspect.signature(process.add_done_callback).parameters) == ["fn"]
    with pytest.raises(TypeError, match="fn must be callable, not 5"):
        face(process.add_done_callback, 5)
    assert face(process.wait).ok


@pytest.mark.parametrize("ended", [False, True])
@pytest.mark.parametrize(
    ("wrong", "error"),
    [(math.nan, ValueError), (-1, ValueError), ("5", TypeError), (True, TypeError), ([], TypeError)],
    ids=repr,
)
def test_a_time_that_is_none_is_refused_by_all_who_wait(
    face: Direct, manager: Any, programs: Programs, wrong: Any, error: type[Exception], ended: bool
) -> None:
    """Whether or not there is anything to wait for; what runs is left alone."""
    process = face(manager.start_process, "x", programs.ready_then_sleep())
    if ended:
        process.kill()
        face(process.wait)
    for call in (process.terminate, manager.terminate_all, manager.close):
        with pytest.raises(error, match="timeout must be"):
            face(call, timeout=wrong)
    # Who waits may have less than nothing left of his time.
    if wrong != -1:
        for call, args in ((process.wait, ()), (manager.wait, ("x",)), (manager.wait_all, ())):
            with pytest.raises(error, match="timeout must be"):
                face(call, *args, timeout=wrong)
        with pytest.raises(error, match="timeout must be"):
            face.list(manager.as_completed, timeout=wrong)
    assert process.running is not ended


@pytest.mark.parametrize("long", [10**400, math.inf, 1e300])
def test_a_time_beyond_all_measure_is_for_ever(face: Direct, manager: Any, long: float) -> None:
    """For all who wait."""
    process = face(manager.start_process, "x", ["sleep", "0.05"])
    assert face(process.wait, long).ok
    assert face(face(manager.start_process, "y", ["true"]).wait, long).ok
    face(manager.start_process, "a", ["sleep", "0.05"])
    assert [status.code for status in face(manager.wait_all, long)] == [0]
    face(manager.start_process, "z", ["sleep", "0.05"])
    assert [ended.task_id for ended in face.list(manager.as_completed, long)][-1:] == ["z"]


def test_options_about_output_need_some_that_is_captured(
    face: Direct, manager: Any, programs: Programs
) -> None:
    """A Command may be completed before the start; then it is checked, however it is started."""
    quiet = Command(programs.exits_with(3), idle_timeout=20)
    for call in (
        lambda: face(manager.start_process, "x", quiet),
        lambda: face(manager.start_process, "x", ["true"], max_output=10, on_max_output="stop"),
        lambda: face(manager.start_process, "x", quiet, cancel=CancelToken()),
        lambda: face(manager.start_many, [("x", quiet)]),
        lambda: face.list(manager.map, [quiet]),
    ):
        with pytest.raises(ValueError, match="needs stdout=PIPE or stderr=PIPE"):
            call()
    assert manager.active_count() == 0
    assert face(face(manager.start_process, "x", quiet, stdout=PIPE).wait).code == 3
    assert face(face(manager.start_process, "y", quiet.replace(stderr=PIPE)).wait).code == 3


def test_a_name_is_taken_until_nothing_is_left(face: Direct, manager: Any, programs: Programs) -> None:
    """And free then."""
    face(manager.start_process, "x", programs.ready_then_sleep())
    with pytest.raises(DuplicateTask):
        face(manager.start_process, "x", ["true"])
    assert face(manager.terminate_process, "x").stopped
    assert face(face(manager.start_process, "x", ["true"]).wait).ok


def test_no_more_than_allowed_are_active(face: Direct, programs: Programs) -> None:
    """One that has ended makes room."""
    with face.manager(max_processes=2) as manager:
        for name in ("a", "b"):
            face(manager.start_process, name, programs.ready_then_sleep())
        with pytest.raises(TooManyProcesses):
            face(manager.start_process, "c", ["true"])
        with pytest.raises(TooManyProcesses):
            face(manager.start_many, [("c", ["true"])])
        with pytest.raises(TooManyProcesses, match="3 are asked for, 2 are active, and max_processes is 2"):
            face(manager.start_many, [(number, ["true"]) for number in range(3)])
        face(manager.terminate_process, "a")
        assert face(face(manager.start_process, "c", ["true"]).wait).ok


def test_who_is_not_there_is_not_active(face: Direct, manager: Any) -> None:
    """For every verb that takes a name."""
    for call in (manager.get, manager.wait, manager.terminate_process, manager.tree):
        with pytest.raises(NotActive):
            face(call, "nobody")
    assert not manager.is_active("nobody")


def test_what_is_active_is_counted_and_listed(face: Direct, manager: Any, programs: Programs) -> None:
    """In the order of the starts."""
    started = [face(manager.start_process, n, programs.ready_then_sleep()) for n in range(3)]
    assert manager.active_count() == 3
    assert [process.task_id for process in face(manager.active)] == [0, 1, 2]
    assert face(manager.get, 1).pid == started[1].pid
    assert len(manager.health()) == 3
    assert str(manager.tree(1)).startswith("ready_then_sleep")
    face(manager.terminate_all)
    assert (manager.active_count(), face(manager.active)) == (0, [])


def test_ended_ones_are_remembered(face: Direct, manager: Any, programs: Programs) -> None:
    """By their names."""
    face(face(manager.start_process, "x", programs.exits_with(3)).wait)
    assert face(manager.get, "x").returncode == 3


def test_a_wait_that_is_too_long_does_nothing_to_the_process(
    face: Direct, manager: Any, programs: Programs
) -> None:
    """WaitTimeout is a TimeoutError."""
    process = face(manager.start_process, "x", programs.ready_then_sleep())
    for call, args in ((process.wait, ()), (manager.wait, ("x",)), (manager.wait_all, ())):
        with pytest.raises(WaitTimeout):
            face(call, *args, timeout=0.01)
    with pytest.raises(WaitTimeout):
        face.list(manager.as_completed, timeout=0.01)
    assert process.running
    assert manager.is_active("x")


def test_one_that_cleans_up_is_given_its_time(face: Direct, manager: Any, programs: Programs) -> None:
    """SIGTERM, and its own code."""
    process = face(manager.start_process, "x", programs.cleans_up(0.1, 4), stdout=PIPE)
    while not process.stdout_bytes:
        time.sleep(0.005)
    result = face(manager.terminate_process, "x", 10)
    assert (result.task_id, result.stopped, result.escalated, result.survivors) == ("x", True, False, [])
    assert (result.status.code, result.status.reason) == (4, ExitReason.TERMINATED)
    assert process.stdout_bytes.split(b"\n")[1:] == [b"cleaning", b"clean", b""]


def test_a_stubborn_family_is_killed(face: Direct, manager: Any, programs: Programs) -> None:
    """After the grace, all of it."""
    process = face(manager.start_process, "x", programs.forks_a_tree(2, 2, ignore=True), stdout=PIPE)
    while b"ready" not in process.stdout_bytes:
        time.sleep(0.005)
    pids = [int(line.split()[1]) for line in process.stdout_bytes.splitlines() if line.startswith(b"pid")]
    result = face(process.terminate, 0.1)
    assert (result.stopped, result.escalated) == (True, True)
    assert [pid for pid in pids if is_alive(pid)] == []


def test_all_are_stopped_at_once(face: Direct, manager: Any, programs: Programs) -> None:
    """With one grace for all; again is harmless."""
    for number in range(4):
        face(manager.start_process, number, programs.ignores_sigterm(), stdout=PIPE)
    while not all(process.stdout_bytes for process in face(manager.active)):
        time.sleep(0.005)
    begun = time.monotonic()
    report = face(manager.terminate_all, 0.2)
    assert time.monotonic() - begun < 5
    assert report
    assert {result.task_id for result in report.results} == {0, 1, 2, 3}
    assert all(result.escalated for result in report.results)
    assert face(manager.terminate_all, 0.2).results == []


def test_after_the_close_nothing_is_started(face: Direct, programs: Programs) -> None:
    """What runs is ended by the close, and can still be asked for."""
    with face.manager() as manager:
        process = face(manager.start_process, "x", programs.ready_then_sleep())
        assert face(manager.close)
        assert process.status.signal == signal.SIGTERM
        for call, args in (
            (manager.start_process, ("y", ["true"])),
            (manager.start_many, ([("y", ["true"])],)),
        ):
            with pytest.raises(ManagerClosed):
                face(call, *args)
        with pytest.raises(ManagerClosed):
            face.list(manager.map, [["true"]])
        assert face(manager.close)
        assert face(manager.get, "x").returncode == -signal.SIGTERM
        assert face(manager.wait, "x").signal == signal.SIGTERM


def test_leaving_the_block_ends_everything(face: Direct, programs: Programs) -> None:
    """Also by an error."""
    with pytest.raises(ZeroDivisionError), face.manager() as manager:  # noqa: PT012
        face(manager.start_process, "x", programs.forks_a_tree(1, 3), stdout=PIPE)
        raise ZeroDivisionError
    assert programs.running() == []


def test_many_are_started_in_one_go(face: Direct, manager: Any, programs: Programs) -> None:
    """Errors are of single items, in their places."""
    started = face(
        manager.start_many,
        [("a", programs.exits_with(1)), ("b", ["/no/such/program"]), ("c", Command(programs.exits_with(3)))],
    )
    assert isinstance(started[1], FileNotFoundError)
    assert [face(started[index].wait).code for index in (0, 2)] == [1, 3]
    assert face(manager.start_many, []) == []


@pytest.mark.parametrize("bad", [("a", ["true"]), ("taken", ["true"])])
def test_of_many_that_cannot_all_be_admitted_none_is_started(
    face: Direct, manager: Any, programs: Programs, bad: tuple[str, list[str]]
) -> None:
    """A name that is there twice, or active already."""
    face(manager.start_process, "taken", programs.ready_then_sleep())
    words = "'a' is there twice, at items 0 and 2" if bad[0] == "a" else "'taken' is active already"
    with pytest.raises(DuplicateTask, match=words):
        face(manager.start_many, [("a", ["true"]), ("b", ["true"]), bad])
    assert manager.active_count() == 1
    assert not manager.is_active("b")


@pytest.mark.parametrize(
    "bad",
    [["true"], ["true", "a", "b"], "ab", ("b",), Command(["true"]), 5, None],
    ids=lambda bad: repr(bad)[:20],
)
def test_what_is_no_pair_is_refused_with_the_way_out(face: Direct, manager: Any, bad: object) -> None:
    """Named by its place, before anything is started. Any pair will do."""
    with pytest.raises(TypeError, match=r"item 1 is .*map\(\).*items\(\)"):
        face(manager.start_many, [("a", ["true"]), bad])
    assert manager.active_count() == 0
    started = face(manager.start_many, [["a", ["true"]], iter(("b", ["true"]))])
    assert [face(process.wait).code for process in started] == [0, 0]


@pytest.mark.parametrize(
    ("bad", "error", "words"),
    [("ls -l", TypeError, "hidden shell"), (["a\0b"], ValueError, "NUL"), ([], ValueError, "empty")],
    ids=repr,
)
def test_a_bad_command_of_many_is_named(
    face: Direct, manager: Any, bad: Any, error: type[Exception], words: str
) -> None:
    """By its place and its id; of start_many() none is started."""
    with pytest.raises(error, match=f"item 1, 'b': .*{words}"):
        face(manager.start_many, [("a", ["true"]), ("b", bad)])
    assert manager.active_count() == 0
    with pytest.raises(error, match=f"item 1, 'map-.*-2': .*{words}"):
        face.list(manager.map, [["true"], bad])


@pytest.mark.parametrize("one", ["ls", b"ls", Command(["ls"]), 5], ids=repr)
def test_map_takes_many(face: Direct, manager: Any, one: Any) -> None:
    """One command would be taken for many of a letter each."""
    with pytest.raises(TypeError, match=r"map\(\) takes many commands.*start_process\(\)"):
        face(manager.map, one)
    with pytest.raises(TypeError, match="ordered must be True or False, not 'x'"):
        face(manager.map, [["true"]], ordered="x")


@pytest.mark.parametrize("ordered", [False, True])
def test_map_gives_back_all_when_they_are_done(
    face: Direct, manager: Any, programs: Programs, ordered: bool
) -> None:
    """Those as well that could not be started."""
    commands = [programs.exits_with(n) if n % 10 else [f"/no/such/{n}"] for n in range(50)]
    done = face.list(manager.map, commands, concurrency=4, ordered=ordered)
    codes = [process.returncode if process.error is None else 0 for process in done]
    assert sorted(codes) == sorted(n if n % 10 else 0 for n in range(50))
    if ordered:
        assert codes == [n if n % 10 else 0 for n in range(50)]
    assert manager.active_count() == 0


def test_all_ends_are_waited_for_in_the_order_of_the_starts(
    face: Direct, manager: Any, programs: Programs
) -> None:
    """Each is heard once."""
    for number in (3, 2, 1):
        face(manager.start_process, number, programs.exits_with(number, number * 0.02))
    assert [status.code for status in face(manager.wait_all, timeout=20)] == [3, 2, 1]
    assert face(manager.wait_all) == []


@pytest.mark.parametrize(
    ("leftovers", "words"), [("stop", "are still being stopped"), ("keep", "still run, as leftovers='keep'")]
)
def test_a_name_that_descendants_hold_says_so(
    face: Direct, manager: Any, programs: Programs, leftovers: Any, words: str
) -> None:
    """Who has waited would not know what to wait for."""
    command = programs.leaves_a_child(4, ignore=True)
    process = face(manager.start_process, "x", command, stdout=PIPE, grace=60, leftovers=leftovers)
    assert face(process.wait, 20).code == 4
    for call, args in ((manager.start_process, ("x", ["true"])), (manager.start_many, ([("x", ["true"])],))):
        with pytest.raises(
            DuplicateTask, match=f"descendants of it {words}.*as_completed.*terminate_process"
        ):
            face(call, *args)
    assert face(manager.terminate_process, "x", 0).stopped


def test_an_end_is_not_told_again_while_something_is_left(
    face: Direct, manager: Any, programs: Programs
) -> None:
    """What runs on is active, but who has waited for the program itself knows how that ended."""
    command = programs.leaves_a_child(4, ignore=True)
    process = face(manager.start_process, "left", command, stdout=PIPE, grace=60)
    assert face(process.wait, 20).code == 4
    assert manager.is_active("left")

    face(manager.start_process, "other", programs.exits_with(3))

    assert [status.code for status in face(manager.wait_all, timeout=20)] == [3]
    assert face(manager.wait_all) == []
    assert process.kill()


def test_ends_are_told_as_they_come(face: Direct, manager: Any, programs: Programs) -> None:
    """The last one started is the first one done."""
    for number in (2, 1, 0):
        face(manager.start_process, number, programs.exits_with(number, number * 0.3))
    assert [process.task_id for process in face.list(manager.as_completed, timeout=20)] == [0, 1, 2]


def test_whoever_wants_to_be_called_is_called_once(face: Direct, manager: Any, programs: Programs) -> None:
    """on_exit, and callbacks that come later or too late."""
    heard: list[tuple[str, Any]] = []
    done = threading.Semaphore(0)

    def tell(how: str) -> Any:
        def call(process: Any) -> None:
            heard.append((how, process.returncode))
            done.release()

        return call

    process = face(manager.start_process, "x", programs.exits_with(5, 0.05), on_exit=tell("on_exit"))
    face(process.add_done_callback, tell("added"))
    face(process.wait)
    while manager.is_active("x"):
        face(time.sleep, 0.005)
    face(process.add_done_callback, tell("late"))
    for _ in range(1000):
        if len(heard) == 3:
            break
        face(manager.start_process, object(), ["true"])
    assert sorted(heard) == [("added", 5), ("late", 5), ("on_exit", 5)]


def test_a_token_stops_what_was_started_with_it(face: Direct, manager: Any, programs: Programs) -> None:
    """And one that is cancelled already prevents it."""
    token = CancelToken()
    process = face(manager.start_process, "x", programs.ready_then_sleep(), cancel=token)
    token.cancel()
    assert face(process.wait, 20).reason is ExitReason.CANCELLED
    with pytest.raises(SpawnError, match="CancelToken"):
        face(manager.start_process, "y", ["true"], cancel=token)


def test_time_limits_are_kept(face: Direct, manager: Any, programs: Programs) -> None:
    """The reason says which one."""
    slow = face(manager.start_process, "slow", programs.ready_then_sleep(), timeout=0.1)
    quiet = face(manager.start_process, "quiet", programs.ready_then_sleep(), stdout=PIPE, idle_timeout=0.1)
    assert face(slow.wait, 20).reason is ExitReason.TIMEOUT
    assert face(quiet.wait, 20).reason is ExitReason.IDLE_TIMEOUT


def test_output_is_captured_and_bounded(face: Direct, manager: Any, programs: Programs) -> None:
    """Its beginning and its end."""
    process = face(
        manager.start_process, "x", programs.spams(6_400_000, lines=True), stdout=PIPE, max_output=6400
    )
    assert face(process.wait).ok
    assert len(process.stdout_bytes) == 6400
    assert process.stdout_bytes.startswith(b"%015d " % 0)
    assert process.stdout_bytes[-64:].startswith(b"%015d " % 99_999)
    assert (process.output_truncated, process.output_complete) == (True, True)


@pytest.mark.parametrize("most", [1, 2, 3, 5])
def test_exactly_so_many_bytes_are_kept_as_were_asked_for(face: Direct, manager: Any, most: int) -> None:
    """Also of a stream that is followed."""
    process = face(manager.start_process, "x", ["printf", "0123456789"], stdout=PIPE, max_output=most)
    assert face(process.wait).ok
    head = min(1, most - 1)
    assert process.stdout_bytes == b"0123456789"[:head] + b"0123456789"[head - most :]
    process = face(
        manager.start_process,
        "y",
        ["printf", "0123456789"],
        stdout=PIPE,
        max_output=most,
        on_max_output="wait",
    )
    assert face.list(process.lines) == ["0123456789"]
    assert len(process.stdout_bytes) == most


def test_lines_are_followed_while_it_runs(face: Direct, manager: Any, programs: Programs) -> None:
    """None is lost, though there are more than are kept."""
    process = face(manager.start_process, "x", programs.spams(1_280_000, lines=True), stdout=PIPE)
    lines = face.list(process.lines)
    assert [int(line.split()[0]) for line in lines[-3:]] == [19_997, 19_998, 19_999]
    assert len(lines) >= 20_000 - (1_280_000 - 200_000) // 64
    with pytest.raises(ValueError, match="not captured"):
        face(process.lines, "stderr")


def test_somebody_else_who_holds_the_pipe_holds_up_nobody(
    face: Direct, manager: Any, programs: Programs
) -> None:
    """wait() is for the exit."""
    process = face(manager.start_process, "x", programs.holds_the_pipe(), stdout=PIPE)
    assert face(process.wait, 20).ok
    assert b"leader done" in process.stdout_bytes


def test_signals_are_sent_to_one_or_to_the_group(face: Direct, manager: Any, programs: Programs) -> None:
    """False when it has ended."""
    process = face(manager.start_process, "x", programs.reports_signals(), stdout=PIPE)
    while b"ready" not in process.stdout_bytes:
        time.sleep(0.005)
    assert process.send_signal(signal.SIGUSR1)
    assert process.send_signal(signal.SIGUSR2, group=True)
    while b"got %d" % signal.SIGUSR2 not in process.stdout_bytes:
        time.sleep(0.005)
    assert process.kill()
    assert face(process.wait).signal == signal.SIGKILL
    assert not process.send_signal(signal.SIGUSR1)


@pytest.mark.parametrize(
    ("sig", "error"),
    [(True, TypeError), ("TERM", TypeError), (65, ValueError), (-1, ValueError), (10**20, ValueError)],
)
def test_what_is_no_signal_is_refused(
    face: Direct, manager: Any, programs: Programs, sig: Any, error: type[Exception]
) -> None:
    """In words, and nothing is sent."""
    process = face(manager.start_process, "x", programs.ready_then_sleep())
    with pytest.raises(error, match="sig must be"):
        process.send_signal(sig)
    assert process.send_signal(0)
    assert process.running


def test_one_that_leads_no_group_cannot_be_signalled_as_one(
    face: Direct, manager: Any, programs: Programs
) -> None:
    """It is in ours."""
    process = face(manager.start_process, "x", programs.ready_then_sleep(), start_new=None)
    with pytest.raises(ValueError, match=r"leads no process group.*start_new"):
        process.send_signal(signal.SIGTERM, group=True)
    assert process.send_signal(signal.SIGTERM)
    assert face(process.wait, 20).signal == signal.SIGTERM


def test_everything_is_counted(face: Direct, programs: Programs) -> None:
    """Once."""
    with face.manager() as manager:
        for number in range(5):
            face(face(manager.start_process, number, programs.exits_with(number)).wait)
        with pytest.raises(SpawnError):
            face(manager.start_process, "x", ["/no/such/program"])
        face(manager.start_process, "y", programs.ready_then_sleep())
        face(manager.terminate_process, "y")
        metrics = manager.metrics()
    assert (metrics.started, metrics.failed_to_start, metrics.exited, metrics.signaled) == (6, 1, 5, 1)


def test_events_are_told_in_order(face: Direct, programs: Programs) -> None:
    """All of them are heard when the manager is closed."""
    events: list[Event] = []
    with face.manager(on_event=events.append) as manager:
        face(face(manager.start_process, "x", programs.exits_with(0)).wait)
    kinds = [type(event).__name__ for event in events]
    assert kinds == ["Started", "Exited", "Done"]
    assert isinstance(events[0], Started)
    assert isinstance(events[1], Exited)


def test_neither_manager_nor_process_can_be_pickled(face: Direct, manager: Any) -> None:
    """They belong to the program that has made them."""
    process = face(manager.start_process, "x", ["true"])
    face(process.wait)
    for one in (manager, process):
        with pytest.raises(TypeError, match="pickled"):
            pickle.dumps(one)
    assert "'x'" in repr(process)
    assert manager.name in repr(manager)


def test_manager_options_are_checked(face: Direct) -> None:
    """When it is made."""
    for options in ({"max_processes": 0}, {"grace": -1}, {"containment": "x"}):
        with pytest.raises(ValueError, match=next(iter(options))):
            face.manager_class(**options)
    with pytest.raises(TypeError, match="on_event"):
        face.manager_class(on_event=7)
    with pytest.raises(ValueError, match="'guard' is not available in this version"):
        face.manager_class(containment="guard")
    assert fastproc.ProcessManager is not None
