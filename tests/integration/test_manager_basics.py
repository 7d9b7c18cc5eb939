"""What a ProcessManager promises, shown with real processes."""

from __future__ import annotations

import asyncio
import errno
import logging
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from tests.conftest import eventually
from tests.programs import Programs
from tests.watch import first_line, hold_the_lock, in_threads, is_alive

import fastproc
from fastproc import (
    PIPE,
    STDOUT,
    CancelToken,
    DuplicateTask,
    ExitReason,
    Limits,
    ManagerClosed,
    NotActive,
    Process,
    ProcessManager,
    SpawnError,
    TooManyProcesses,
    WaitTimeout,
)

# ---- one process ----


def test_a_process_ends_with_its_code(manager: ProcessManager, programs: Programs) -> None:
    process = manager.start_process("seven", programs.exits_with(7))

    status = process.wait(10)

    assert status.code == 7
    assert status.signal is None
    assert status.reason is ExitReason.EXITED
    assert not status.ok
    assert process.returncode == 7
    assert process.wait() is status
    assert status.started <= status.ended


@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGSEGV, signal.SIGUSR1, signal.SIGHUP])
def test_a_signal_is_not_an_exit_code(
    manager: ProcessManager, programs: Programs, sig: signal.Signals
) -> None:
    status = manager.start_process("dies", programs.dies_by(sig)).wait(10)

    assert (status.code, status.signal, status.reason) == (None, sig, ExitReason.SIGNALED)
    assert status.returncode == -sig


def test_right_after_wait_the_name_is_free(manager: ProcessManager) -> None:
    for _ in range(200):
        manager.start_process("again", ["true"]).wait(10)
        assert not manager.is_active("again")
        assert manager.active_count() == 0


def test_a_running_process_is_seen_and_found(manager: ProcessManager, programs: Programs) -> None:
    process = manager.start_process("sleeper", programs.ready_then_sleep(), stdout=PIPE)

    assert first_line(process) == f"ready {process.pid}"
    assert process.running
    assert process.status is None
    assert process.returncode is None
    assert manager.is_active("sleeper")
    assert manager.active() == [process]
    assert manager.get("sleeper") is process
    assert manager.active_count() == 1
    assert os.getpgid(process.pid) == process.pid == os.getsid(process.pid)


def test_one_that_ended_can_still_be_asked_for(manager: ProcessManager) -> None:
    process = manager.start_process("done", ["sh", "-c", "echo kept; exit 3"], stdout=PIPE)
    assert eventually(lambda: not manager.is_active("done"))

    assert manager.wait("done").code == 3
    assert manager.get("done") is process
    assert manager.get("done").stdout_bytes == b"kept\n"
    with pytest.raises(NotActive):
        manager.terminate_process("done")
    with pytest.raises(NotActive):
        manager.get("never")


def test_waiting_has_a_limit_and_may_be_repeated(manager: ProcessManager) -> None:
    process = manager.start_process("slow", ["sleep", "0.3"])

    with pytest.raises(WaitTimeout) as caught:
        process.wait(0.02)

    assert isinstance(caught.value, TimeoutError)
    assert process.wait(10).ok


def test_any_hashable_is_a_name_and_nothing_else(manager: ProcessManager) -> None:
    manager.start_process(("build", 7), ["true"]).wait(10)
    with pytest.raises(TypeError):
        manager.start_process(["a", "list"], ["true"])  # type: ignore[arg-type]
    assert manager.active_count() == 0


# ---- output ----


def test_output_is_captured_by_stream(manager: ProcessManager) -> None:
    process = manager.start_process("talks", ["sh", "-c", "echo out; echo err >&2"], stdout=PIPE, stderr=PIPE)
    process.wait(10)

    assert process.stdout_bytes == b"out\n"
    assert process.stderr_bytes == b"err\n"
    assert process.output_complete
    assert not process.output_truncated


def test_stderr_may_go_where_stdout_goes(manager: ProcessManager) -> None:
    process = manager.start_process("talks", ["sh", "-c", "echo a; echo b >&2"], stdout=PIPE, stderr=STDOUT)
    process.wait(10)

    assert process.stdout_bytes == b"a\nb\n"
    assert process.stderr_bytes == b""


def test_of_much_output_the_beginning_and_the_end_are_kept(
    manager: ProcessManager, programs: Programs
) -> None:
    process = manager.start_process("spams", programs.spams(10_000_000, lines=True), stdout=PIPE)
    process.wait(20)

    assert process.output_truncated
    assert process.output_complete
    kept = process.stdout_bytes
    assert len(kept) == 256 * 1024
    whole = subprocess.run(programs.spams(10_000_000, lines=True), capture_output=True, check=True).stdout
    assert kept == whole[: 64 * 1024] + whole[-192 * 1024 :]


def test_lines_come_while_it_runs_and_none_is_lost(manager: ProcessManager, programs: Programs) -> None:
    # What came before anybody followed is kept as far as max_output goes: here all of it.
    process = manager.start_process(
        "spams", programs.spams(3_200_000, lines=True), stdout=PIPE, max_output=8 << 20
    )

    lines = list(process.lines())

    assert len(lines) == 50_000
    assert len(set(lines)) == 50_000
    assert process.wait(10).ok


def test_a_forgotten_reader_does_not_hold_the_process(manager: ProcessManager, programs: Programs) -> None:
    process = manager.start_process("spams", programs.spams(4_000_000, lines=True), stdout=PIPE)
    lines = process.lines()
    next(lines)
    del lines

    assert process.wait(10).ok


def test_input_is_fed_whole(manager: ProcessManager) -> None:
    data = os.urandom(1_000_000)
    process = manager.start_process("cat", ["wc", "-c"], input=data, stdout=PIPE)
    process.wait(10)

    assert process.stdout_bytes.strip() == b"1000000"


def test_stdin_is_empty_unless_asked_for(manager: ProcessManager) -> None:
    process = manager.start_process("cat", ["cat"], stdout=PIPE)

    assert process.wait(10).ok
    assert process.stdout_bytes == b""


# ---- starts that fail ----


def test_a_missing_program_is_an_error_of_its_start(manager: ProcessManager) -> None:
    with pytest.raises(SpawnError) as caught:
        manager.start_process("x", ["/no/such/program"])

    assert isinstance(caught.value, FileNotFoundError)
    assert (caught.value.errno, caught.value.stage) == (errno.ENOENT, "exec")
    assert caught.value.filename == "/no/such/program"
    assert manager.active_count() == 0
    assert manager.start_process("x", ["true"]).wait(10).ok
    assert manager.metrics().failed_to_start == 1


def test_the_step_that_failed_is_named(manager: ProcessManager) -> None:
    with pytest.raises(SpawnError, match="working directory") as caught:
        manager.start_process("cwd", ["true"], cwd="/no/such/dir")
    assert (caught.value.stage, caught.value.filename) == ("cwd", "/no/such/dir")

    with pytest.raises(SpawnError) as caught:
        manager.start_process("file", ["true"], stdout="/no/such/dir/log")
    assert (caught.value.stage, caught.value.filename) == ("fds", "/no/such/dir/log")

    with pytest.raises(SpawnError) as caught:
        manager.start_process("ids", ["true"], user="no-such-user")
    assert (caught.value.stage, caught.value.filename) == ("ids", "no-such-user")

    with pytest.raises(SpawnError) as caught:
        manager.start_process("guard", ["true"], containment="guard")
    assert caught.value.stage == "cgroup"

    with pytest.raises(SpawnError) as caught:
        manager.start_process("long", ["true", "x" * 140_000])
    assert (caught.value.errno, caught.value.stage) == (errno.E2BIG, "request")


def test_a_name_is_used_once_at_a_time(manager: ProcessManager, programs: Programs) -> None:
    manager.start_process("one", programs.ready_then_sleep())

    with pytest.raises(DuplicateTask):
        manager.start_process("one", ["true"])

    assert manager.active_count() == 1


def test_no_more_than_max_processes(programs: Programs) -> None:
    with ProcessManager(max_processes=2, grace=1.0) as manager:
        manager.start_process("a", programs.ready_then_sleep())
        short = manager.start_process("b", ["true"])
        # What has ended without being waited for does not count.
        assert eventually(lambda: short.poll() is not None)
        manager.start_process("c", programs.ready_then_sleep())
        with pytest.raises(TooManyProcesses):
            manager.start_process("d", ["true"])
        with pytest.raises(TooManyProcesses):
            manager.start_many([("e", ["true"])])


def test_a_string_is_not_a_command(manager: ProcessManager) -> None:
    with pytest.raises(TypeError, match=r"shlex\.split"):
        manager.start_process("x", "ls -l")
    with pytest.raises(TypeError, match="timeout"):
        manager.start_process("x", ["true"], timout=5)  # type: ignore[call-arg]
    assert manager.active_count() == 0


@pytest.mark.parametrize(
    ("option", "value"),
    [("die_with_parent", "no"), ("reap_orphans", None), ("name", 5), ("grace", "5"), ("kill_timeout", True)],
)
def test_a_manager_is_not_told_what_makes_no_sense(option: str, value: object) -> None:
    with pytest.raises(TypeError, match=option):
        ProcessManager(**{option: value})  # type: ignore[arg-type]


def test_a_length_of_time_is_a_number_from_nought(manager: ProcessManager, programs: Programs) -> None:
    process = manager.start_process("x", programs.ready_then_sleep())
    for wrong in (math.nan, -1):
        for call in (process.terminate, manager.terminate_all, lambda it: manager.health(stuck_after=it)):
            with pytest.raises(ValueError, match="0 or more seconds"):
                call(wrong)
    with pytest.raises(TypeError):
        process.send_signal(1.5)  # type: ignore[arg-type]
    assert process.running
    assert manager.terminate_process("x", timeout=10**400).stopped


# ---- stopping ----


def test_a_task_that_obeys_is_asked_once(manager: ProcessManager, programs: Programs) -> None:
    process = manager.start_process("obeys", programs.cleans_up(code=5), stdout=PIPE)
    assert first_line(process).startswith("ready")

    result = manager.terminate_process("obeys")

    assert result.stopped
    assert result.status is not None
    assert (result.status.code, result.status.reason) == (5, ExitReason.TERMINATED)
    assert not result.escalated
    assert result.survivors == []
    assert result.proof in ("session", "cgroup")
    assert process.stdout_bytes.count(b"cleaning") == 1
    assert not manager.is_active("obeys")


def test_a_task_that_does_not_is_killed_after_its_grace(manager: ProcessManager, programs: Programs) -> None:
    process = manager.start_process("stubborn", programs.ignores_sigterm(), stdout=PIPE)
    first_line(process)

    result = manager.terminate_process("stubborn", timeout=0.2)

    assert result.stopped
    assert result.escalated
    assert result.status is not None
    assert result.status.signal == signal.SIGKILL
    assert 0.15 < result.elapsed < 1.5
    assert manager.metrics().escalated == 1


def test_descendants_are_stopped_with_it(manager: ProcessManager, programs: Programs) -> None:
    process = manager.start_process("family", programs.forks_a_tree(2, 2, ignore=True), stdout=PIPE)
    pids = []
    with process.lines() as lines:
        for line in lines:
            if line.startswith("ready"):
                break
            pids.append(int(line.split()[1]))

    result = process.terminate(0.1)

    assert result.stopped
    assert len(pids) == 7
    assert not any(is_alive(pid) for pid in pids)


def test_what_ended_by_itself_keeps_its_true_status(manager: ProcessManager) -> None:
    process = manager.start_process("quick", ["sh", "-c", "exit 9"])
    assert eventually(lambda: process.poll() is not None)

    assert process.terminate().status == process.wait()
    assert process.wait().reason is ExitReason.EXITED
    assert not process.kill()
    assert not process.send_signal(signal.SIGTERM)


def test_all_are_stopped_at_once(manager: ProcessManager, programs: Programs) -> None:
    for number in range(20):
        manager.start_process(number, programs.ready_then_sleep())
    stubborn = manager.start_process("stubborn", programs.ignores_sigterm(), stdout=PIPE)
    first_line(stubborn)

    report = manager.terminate_all(timeout=0.3)

    assert report
    assert len(report.results) == 21
    assert report.survivors == []
    assert report.elapsed < 2
    assert manager.active_count() == 0
    assert not manager.terminate_all().results


def test_more_than_one_may_stop_the_same_task(manager: ProcessManager, programs: Programs) -> None:
    process = manager.start_process("s", programs.reports_signals(), stdout=PIPE)
    first_line(process)

    results = in_threads(*[lambda: process.terminate(0.3)] * 4)

    assert all(result.stopped for result in results)
    assert len({result.status for result in results}) == 1
    assert process.stdout_bytes.count(b"got 15") == 1


def test_the_end_of_the_block_ends_everything(programs: Programs) -> None:
    with ProcessManager() as manager:
        process = manager.start_process("a", programs.ready_then_sleep())
    assert process.wait().reason is ExitReason.TERMINATED
    with pytest.raises(ManagerClosed):
        manager.start_process("b", ["true"])
    assert manager.close()


def test_leftovers_are_stopped_unless_they_shall_be_kept(manager: ProcessManager, programs: Programs) -> None:
    leaver = manager.start_process("leaves", programs.leaves_a_child(), stdout=PIPE)
    status = leaver.wait(10)
    assert (status.code, status.reason) == (0, ExitReason.EXITED)
    assert eventually(lambda: not manager.is_active("leaves"))
    assert not is_alive(int(leaver.stdout_bytes.split()[1]))

    keeper = manager.start_process("keeps", programs.leaves_a_child(), stdout=PIPE, leftovers="keep")
    assert keeper.wait(10).ok
    kept = int(keeper.stdout_bytes.split()[1])
    with pytest.raises(WaitTimeout):
        next(manager.as_completed(0.3))
    assert is_alive(kept)
    assert manager.is_active("keeps")

    assert manager.terminate_all()
    assert not is_alive(kept)
    assert keeper.wait().reason is ExitReason.EXITED


# ---- deadlines ----


def test_a_time_limit_ends_it(manager: ProcessManager, programs: Programs) -> None:
    status = manager.start_process("late", programs.ready_then_sleep(), timeout=0.1).wait(10)

    assert status.reason is ExitReason.TIMEOUT
    assert status.signal == signal.SIGTERM
    assert 0.1 <= status.duration < 0.5


def test_silence_ends_it_if_asked(manager: ProcessManager, programs: Programs) -> None:
    command = programs.ready_then_sleep()
    status = manager.start_process("silent", command, stdout=PIPE, idle_timeout=0.1).wait(10)

    assert status.reason is ExitReason.IDLE_TIMEOUT


def test_a_deadline_is_kept_while_python_is_busy(manager: ProcessManager, programs: Programs) -> None:
    """The interpreter's lock is held for half a second; the whole ladder is climbed meanwhile."""
    process = manager.start_process("late", programs.ignores_sigterm(), timeout=0.1, grace=0.1, stdout=PIPE)
    first_line(process)

    hold_the_lock(0.6)

    status = process.wait(0)
    assert status.escalated
    assert 0.19 <= status.duration < 0.3


def test_a_token_cancels_what_was_started_with_it(manager: ProcessManager, programs: Programs) -> None:
    parent = CancelToken()
    child = CancelToken(parent=parent)
    first = manager.start_process("first", programs.ready_then_sleep(), cancel=parent)
    second = manager.start_process("second", programs.ready_then_sleep(), cancel=child)
    other = manager.start_process("other", programs.ready_then_sleep())

    parent.cancel("enough")

    assert first.wait(10).reason is ExitReason.CANCELLED
    assert second.wait(10).reason is ExitReason.CANCELLED
    assert other.running
    with pytest.raises(SpawnError) as caught:
        manager.start_process("late", ["true"], cancel=child)
    assert caught.value.errno == errno.ECANCELED


def test_the_deadline_of_a_token_is_a_time_limit(manager: ProcessManager, programs: Programs) -> None:
    token = CancelToken(timeout=0.1)
    status = manager.start_process("late", programs.ready_then_sleep(), cancel=token).wait(10)

    assert status.reason is ExitReason.TIMEOUT


# ---- many ----


def test_many_are_started_in_one_go(manager: ProcessManager) -> None:
    items = [(number, ["true"] if number % 10 else ["/no/such"]) for number in range(300)]

    results = manager.start_many(items)

    assert [isinstance(result, SpawnError) for result in results] == [
        number % 10 == 0 for number in range(300)
    ]
    statuses = manager.wait_all(20)
    assert len(statuses) == 270
    assert all(status.ok for status in statuses)
    assert manager.wait_all() == []
    assert manager.active_count() == 0


def test_one_bad_item_spoils_only_itself_unless_it_is_a_mistake(manager: ProcessManager) -> None:
    results = manager.start_many([("a", ["true"]), ("b", ["true", "x" * 140_000]), ("c", ["true"])])
    assert isinstance(results[0], Process)
    assert isinstance(results[1], SpawnError)
    assert isinstance(results[2], Process)
    assert results[1].stage == "request"
    manager.wait_all(10)

    with pytest.raises(DuplicateTask):
        manager.start_many([("a", ["true"]), ("a", ["true"])])
    with pytest.raises(TypeError):
        manager.start_many([("a", ["true"]), ("b", "true")])
    assert manager.active_count() == 0


def test_as_completed_yields_each_once(manager: ProcessManager) -> None:
    manager.start_process("slow", ["sleep", "0.3"])
    manager.start_process("quick", ["true"])

    assert [process.task_id for process in manager.as_completed(10)] == ["quick", "slow"]

    manager.start_process("slow", ["sleep", "10"])
    with pytest.raises(WaitTimeout):
        list(manager.as_completed(0.05))


def test_map_yields_all_and_bounds_what_runs(manager: ProcessManager) -> None:
    commands = (["sh", "-c", f"exit {number % 7}"] for number in range(200))
    seen = []
    for process in manager.map(commands, concurrency=3):
        assert manager.active_count() <= 3
        status = process.status
        assert status is not None
        seen.append(status.code)

    assert sorted(code for code in seen if code is not None) == sorted(number % 7 for number in range(200))
    assert manager.active_count() == 0


def test_map_in_order_with_a_failure_inside(manager: ProcessManager) -> None:
    commands = [["sh", "-c", f"sleep 0.0{9 - number}; exit {number}"] for number in range(9)]
    commands[4] = ["/no/such"]

    found = list(manager.map(commands, concurrency=4, ordered=True))

    assert [process.status.code if process.status else None for process in found] == [
        0,
        1,
        2,
        3,
        None,
        5,
        6,
        7,
        8,
    ]
    assert isinstance(found[4].error, SpawnError)
    with pytest.raises(SpawnError):
        found[4].wait()


def test_map_reads_lazily_and_stops_when_closed(manager: ProcessManager, programs: Programs) -> None:
    taken = 0

    def endless() -> Iterator[list[str]]:
        nonlocal taken
        while True:
            taken += 1
            yield ["true"] if taken < 5 else programs.ready_then_sleep()

    running = manager.map(endless(), concurrency=2)
    for _ in range(4):
        next(running)
    running.close()  # type: ignore[attr-defined]

    assert taken < 1000
    assert manager.active_count() == 0
    assert eventually(lambda: not programs.running())


def test_terminate_all_ends_a_map(manager: ProcessManager, programs: Programs) -> None:
    running = manager.map([programs.ready_then_sleep()] * 50, concurrency=4)
    threading.Timer(0.2, manager.terminate_all).start()

    found = list(running)

    assert len(found) == 50
    assert sum(process.error is None for process in found) == 4


# ---- callbacks, events, awaiting ----


def test_callbacks_are_called_once_when_it_is_done(manager: ProcessManager) -> None:
    called: list[tuple[str, bool]] = []
    event = threading.Event()

    def on_exit(process: Process) -> None:
        called.append(("on_exit", manager.is_active(process.task_id)))

    def raises(_process: Process) -> None:
        called.append(("raises", False))
        raise RuntimeError("a mistake in a callback")

    process = manager.start_process("cb", ["sleep", "0.1"], on_exit=on_exit)
    process.add_done_callback(raises)
    process.add_done_callback(lambda _process: event.set())

    assert event.wait(10)
    assert called == [("on_exit", False), ("raises", False)]
    process.add_done_callback(lambda _process: called.append(("late", False)))
    assert called[-1] == ("late", False)


def test_events_come_in_order() -> None:
    events: list[object] = []
    with ProcessManager(on_event=events.append) as manager:
        manager.start_process("a", ["true"]).wait(10)
        with pytest.raises(SpawnError):
            manager.start_process("b", ["/no/such"])
    kinds = [(type(event).__name__, event.task_id) for event in events]  # type: ignore[attr-defined]
    assert [kind for kind in kinds if kind[1] == "a"] == [("Started", "a"), ("Exited", "a"), ("Done", "a")]
    assert ("Refused", "b") in kinds


def test_the_log_names_tasks_and_no_arguments(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "fastproc"), ProcessManager() as manager:
        manager.start_process("quiet", ["sh", "-c", "exit 4", "a-secret"], env={"KEY": "a-secret"}).wait(10)

    assert "task 'quiet' started" in caplog.text
    assert "code 4" in caplog.text
    assert "secret" not in caplog.text


def test_a_process_can_be_awaited(manager: ProcessManager, programs: Programs) -> None:
    async def story() -> None:
        process = manager.start_process("a", programs.exits_with(3, after=0.1))
        status = await process
        assert status.code == 3
        assert await process is status

        sleeper = manager.start_process("b", programs.ready_then_sleep())
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(_awaited(sleeper), 0.05)
        assert sleeper.running

        both = [manager.start_process(number, ["sleep", "0.1"]) for number in range(20)]
        assert all(status.ok for status in await asyncio.gather(*map(_awaited, both)))

    asyncio.run(story())


async def _awaited(process: Process) -> fastproc.ExitStatus:
    return await process


# ---- the host program ----


def test_every_waiter_hears_the_same_answer(manager: ProcessManager, programs: Programs) -> None:
    process = manager.start_process("seven", programs.exits_with(7, after=0.05))

    answers = in_threads(*[process.wait] * 8)

    assert answers == [answers[0]] * 8
    assert answers[0].code == 7


def test_ctrl_c_interrupts_a_wait(manager: ProcessManager, programs: Programs) -> None:
    process = manager.start_process("s", programs.ready_then_sleep())
    timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        process.wait(10)
    timer.join()
    assert time.monotonic() - began < 5
    assert process.running


def test_a_program_that_exits_ends_what_it_started(programs: Programs) -> None:
    script = f"""
import fastproc, sys
manager = fastproc.ProcessManager()
process = manager.start_process("left", {programs.ready_then_sleep()!r}, stdout=fastproc.DEVNULL)
print(process.pid, flush=True)
"""
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=20, check=True
    )

    assert ran.stderr == ""
    assert not is_alive(int(ran.stdout))


def test_a_forked_copy_owns_nothing(manager: ProcessManager, programs: Programs) -> None:
    process = manager.start_process("s", programs.ready_then_sleep())
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            refused: list[Callable[[], object]] = [
                manager.active_count,
                manager.terminate_all,
                process.wait,
                process.kill,
                lambda: manager.start_process("x", ["true"]),
            ]
            for call in refused:
                with pytest.raises(fastproc.ForkedHandle):
                    call()
            with ProcessManager() as own:
                code = 0 if own.start_process("own", ["true"]).wait(10).ok else 2
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    assert process.running
    assert process.terminate().stopped


def test_limits_and_surroundings_reach_the_child(manager: ProcessManager, tmp_path: object) -> None:
    process = manager.start_process(
        "env",
        ["sh", "-c", 'echo "$NAME"; pwd; umask; ulimit -n'],
        env={"NAME": "value", "PATH": os.environ["PATH"]},
        cwd=str(tmp_path),
        umask=0o027,
        limits=Limits(open_files=77),
        stdout=PIPE,
    )
    process.wait(10)

    assert process.stdout_bytes.decode().split() == ["value", str(tmp_path), "0027", "77"]


def test_a_change_of_the_environment_is_seen(
    manager: ProcessManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    for value in ("one", "two"):
        monkeypatch.setenv("FASTPROC_TEST", value)
        process = manager.start_process("env", ["sh", "-c", 'echo "$FASTPROC_TEST"'], stdout=PIPE)
        process.wait(10)
        assert process.stdout_bytes.decode().strip() == value


def test_children_get_the_limit_of_descriptors_that_the_program_had(programs: Programs) -> None:
    script = """
import fastproc, resource
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
with fastproc.ProcessManager() as manager:
    process = manager.start_process("n", ["sh", "-c", "ulimit -Sn; ulimit -Hn"], stdout=fastproc.PIPE)
    process.wait()
    print(process.stdout_bytes.decode().split() == ["100", str(hard) if hard != -1 else "unlimited"])
    print(resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 100 or hard == 100)
"""
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=20, check=True
    )
    assert ran.stdout.split() == ["True", "True"], ran.stderr


def test_die_with_parent_is_started_by_a_thread_that_stays(
    manager: ProcessManager, programs: Programs
) -> None:
    """The thread that asks for it ends at once, the process lives on, see PR_SET_PDEATHSIG in prctl(2)."""
    (process,) = in_threads(
        lambda: manager.start_process("s", programs.ready_then_sleep(), die_with_parent=True, stdout=PIPE)
    )
    first_line(process)
    with pytest.raises(WaitTimeout):
        process.wait(0.2)
    with pytest.raises(SpawnError):
        manager.start_process("x", ["/no/such"], die_with_parent=True)


def test_trees_and_health_are_drawn(manager: ProcessManager, programs: Programs) -> None:
    process = manager.start_process("family", programs.forks_a_tree(1, 2), stdout=PIPE)
    with process.lines() as lines:
        for line in lines:
            if line.startswith("ready"):
                break
    tree = manager.tree("family")
    assert tree.pid == process.pid
    assert len(tree.children) == 2
    assert str(process.pid) in str(manager.tree())
    assert [report.task_id for report in manager.health(stuck_after=10)] == ["family"]
