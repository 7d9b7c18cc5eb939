"""Managers beside one another, their ends, and what they count and draw of real processes."""

from __future__ import annotations

import signal
import time

import pytest
from tests.conftest import eventually
from tests.integration import fresh
from tests.programs import Programs
from tests.watch import alive, first_line, is_alive, lines_until, pids_until

from fastproc import (
    PIPE,
    ExitReason,
    Limits,
    ManagerClosed,
    NotActive,
    ProcessManager,
    SpawnError,
    TooManyProcesses,
)
from fastproc.health import Level

# ---- two managers, and their ends ----


def test_two_managers_know_nothing_of_each_other(programs: Programs) -> None:
    """They share the engine, not names, counters, bounds or ends."""
    with ProcessManager(max_processes=1) as first, ProcessManager() as second:
        mine = first.start_process("same", programs.ready_then_sleep(), stdout=PIPE)
        theirs = second.start_process("same", programs.ready_then_sleep(), stdout=PIPE)
        assert mine.pid != theirs.pid
        with pytest.raises(TooManyProcesses):
            first.start_process("more", programs.nop())
        assert second.start_process("more", programs.exits_with(4)).wait(10).code == 4

        assert len(first.terminate_all().results) == 1

        assert theirs.poll() is None
        assert second.active_count() == 1
        assert first.active_count() == 0
        assert (first.metrics().started, second.metrics().started) == (1, 2)
        first.close()
        assert second.start_process("still", programs.exits_with(5)).wait(10).code == 5


def test_many_managers_come_and_go(programs: Programs) -> None:
    """Forty in a row, each with a thread for its callbacks, leave neither threads nor descriptors."""
    heard = []
    for number in range(40):
        with ProcessManager(on_event=heard.append) as manager:
            manager.start_process(number, programs.exits_with(number), on_exit=heard.append).wait(10)
    assert len(heard) == 40 * 4


def test_a_closed_manager_still_answers_and_starts_nothing(programs: Programs) -> None:
    """What it knew can be asked for, what it cannot do any more is an error that says so."""
    manager = ProcessManager()
    done = manager.start_process("done", programs.exits_with(3), stdout=PIPE)
    sleeper = manager.start_process("sleeper", programs.ready_then_sleep(), stdout=PIPE)
    done.wait(10)

    report = manager.close()

    assert report
    assert [result.task_id for result in report.results] == ["sleeper"]
    assert not is_alive(sleeper.pid)
    for start in (
        lambda: manager.start_process("more", programs.nop()),
        lambda: manager.start_many([("more", programs.nop())]),
        lambda: next(manager.map([programs.nop()])),
    ):
        with pytest.raises(ManagerClosed, match="closed"):
            start()
    with pytest.raises(ManagerClosed), manager:
        manager.start_process("more", programs.nop())
    assert manager.close()
    assert manager.terminate_all()
    assert manager.terminate_all().results == []
    assert (manager.active_count(), manager.active(), manager.is_active("done")) == (0, [], False)
    assert manager.get("done") is done
    assert manager.wait("sleeper").reason is ExitReason.TERMINATED
    assert [process.task_id for process in manager.as_completed(0)] == []
    assert manager.wait_all(0) == []
    assert manager.metrics().started == 2
    assert manager.health() == []
    assert manager.tree().children == ()
    assert "closed" in repr(manager)
    with pytest.raises(NotActive):
        manager.terminate_process("sleeper")


def test_a_manager_that_has_done_nothing_can_be_asked_and_closed(_engine: None) -> None:
    """No engine, thread or descriptor is needed for that."""
    manager = ProcessManager()
    assert manager.active_count() == 0
    assert manager.wait_all() == []
    assert list(manager.as_completed()) == []
    assert list(manager.map([])) == []
    assert manager.start_many([]) == []
    assert manager.metrics().started == 0
    assert manager.terminate_all()
    assert manager.close()
    assert manager.close()


def test_importing_and_making_a_manager_starts_no_thread(programs: Programs) -> None:
    """The engine comes with the first start."""
    out = fresh.run(
        """
        def count():
            return len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))

        before = count()
        manager = ProcessManager(max_processes=3)
        manager.active_count(), manager.metrics(), manager.terminate_all()
        print(before == count(), before[0])
        """,
        programs,
    )
    assert out == "True 1\n"


def test_the_bound_counts_what_is_left_of_a_task(programs: Programs) -> None:
    """A leader that has ended holds its place until its leftovers are gone."""
    with ProcessManager(max_processes=1) as manager:
        keeper = manager.start_process("a", programs.leaves_a_child(), stdout=PIPE, leftovers="keep")
        child = int(first_line(keeper).split()[1])
        assert keeper.wait(10).ok
        for start in (
            lambda: manager.start_process("b", programs.nop()),
            lambda: manager.start_many([("b", programs.nop())]),
        ):
            with pytest.raises(TooManyProcesses, match="max_processes=1"):
                start()
        assert manager.is_active("a")
        assert manager.terminate_process("a").stopped
        assert not is_alive(child)
        assert manager.start_process("a", programs.exits_with(2)).wait(10).code == 2
        assert [process.wait(10).ok for process in manager.map([programs.nop()] * 3, concurrency=9)] == [
            True
        ] * 3


def test_a_refused_start_takes_neither_name_nor_place(programs: Programs) -> None:
    """Whatever the reason was, the same name can be used at once."""
    with ProcessManager(max_processes=1) as manager:
        for _ in range(3):
            with pytest.raises(SpawnError):
                manager.start_process("a", ["/no/such/program"])
            with pytest.raises(SpawnError):
                manager.start_process("a", programs.nop(), cwd="/no/such/directory")
            with pytest.raises(TypeError):
                manager.start_process("a", "a string")
            with pytest.raises(ValueError, match="NUL"):
                manager.start_process("a", ["a\0b"])
        assert manager.active_count() == 0
        assert manager.start_process("a", programs.exits_with(2)).wait(10).code == 2
        assert manager.metrics().failed_to_start == 6


# ---- counting ----


def test_the_counts_are_true_after_a_mix(programs: Programs) -> None:
    """Each end is counted once, in its kind and under its reason, however it was started."""
    with ProcessManager(grace=0.1) as manager:
        for number in range(10):
            manager.start_process(number, programs.exits_with(number)).wait(10)
        manager.start_many([(number, programs.exits_with(0)) for number in range(10)])
        for process in manager.map([programs.exits_with(1)] * 10 + [["/no/such/program"]]):
            assert process.error is not None or process.wait().code == 1
        with pytest.raises(SpawnError):
            manager.start_process("missing", ["/no/such/program"])
        assert isinstance(manager.start_many([("missing", ["/no/such/program"])])[0], SpawnError)
        assert (
            manager.start_process("segv", programs.dies_by(signal.SIGSEGV)).wait(10).signal == signal.SIGSEGV
        )
        assert (
            manager.start_process("kill", programs.dies_by(signal.SIGKILL)).wait(10).signal == signal.SIGKILL
        )
        late = manager.start_process("late", programs.ready_then_sleep(), timeout=0.05, stdout=PIPE)
        assert late.wait(10).reason is ExitReason.TIMEOUT
        idle = manager.start_process("idle", programs.ready_then_sleep(), idle_timeout=0.05, stdout=PIPE)
        assert idle.wait(10).reason is ExitReason.IDLE_TIMEOUT
        stubborn = manager.start_process("stubborn", programs.ignores_sigterm(), stdout=PIPE)
        first_line(stubborn)
        assert stubborn.terminate(0.1).escalated
        burner = manager.start_process("burner", programs.burns_cpu(0.15), stdout=PIPE)
        assert burner.wait(20).ok
        sleeper = manager.start_process("sleeper", programs.ready_then_sleep(), stdout=PIPE)
        first_line(sleeper)
        assert manager.metrics().active == 1
        manager.terminate_all()
        metrics = manager.metrics()

    assert metrics.started == 10 + 10 + 10 + 7
    assert metrics.failed_to_start == 3
    assert (metrics.exited, metrics.signaled, metrics.status_unknown) == (31, 6, 0)
    assert metrics.timed_out == 2
    assert metrics.escalated == 1
    assert metrics.killed == 2
    assert metrics.active == 0
    assert metrics.orphans_reaped == 0
    assert {reason: count for reason, count in metrics.reasons.items() if count} == {
        ExitReason.EXITED: 31,
        ExitReason.SIGNALED: 2,
        ExitReason.TIMEOUT: 1,
        ExitReason.IDLE_TIMEOUT: 1,
        ExitReason.TERMINATED: 2,
    }
    assert sum(metrics.reasons.values()) == metrics.run_seconds.count == metrics.started
    # What map() has queued has no time of its own between request and start.
    assert metrics.spawn_seconds.count == metrics.started - 10
    assert 0.1 <= metrics.cpu_seconds < 30
    assert metrics.max_rss_bytes > 0


# ---- health and trees ----


def test_health_is_judged_over_the_whole_tree(manager: ProcessManager, programs: Programs) -> None:
    """A leader that waits for a busy child is well; one that is stopped, or does nothing, is not."""
    busy = manager.start_process(
        "busy", ["sh", "-c", f"{programs.burns_cpu()[0]} & wait"], stdout=PIPE, limits=Limits(cpu=20)
    )
    stopped = manager.start_process("stopped", programs.stops_itself(), stdout=PIPE)
    idle = manager.start_process("idle", programs.ready_then_sleep(), stdout=PIPE)
    for process in (busy, stopped, idle):
        first_line(process)

    def levels() -> dict[object, Level]:
        return {report.task_id: report.level for report in manager.health(stuck_after=0.2)}

    expected = {"busy": Level.OK, "stopped": Level.STOPPED, "idle": Level.IDLE}
    assert eventually(lambda: levels() == expected, 20), levels()
    reports = {report.task_id: report for report in manager.health(stuck_after=0.2)}
    assert reports["stopped"].pid == stopped.pid
    assert "SIGCONT" in reports["stopped"].cause
    assert "2 alive" in reports["busy"].evidence or "3 alive" in reports["busy"].evidence

    assert stopped.send_signal(signal.SIGCONT)
    assert stopped.wait(10).ok
    manager.terminate_all()
    assert manager.health() == []


def test_a_tree_has_all_members_and_is_drawn(manager: ProcessManager, programs: Programs) -> None:
    """Also those that have left for a session of their own, as long as their parents live."""
    family = manager.start_process("family", programs.forks_a_tree(2, 2, setsid=True), stdout=PIPE)
    pids = set(pids_until(family, "ready"))
    single = manager.start_process("single", programs.ready_then_sleep(), stdout=PIPE)
    first_line(single)

    tree = manager.tree("family")

    assert len(pids) == 7
    assert {node.pid for node in tree.walk()} == pids
    assert tree.pid == family.pid
    assert [len(node.children) for node in tree.walk()].count(2) == 3
    assert len(str(tree).splitlines()) == 7
    assert all(str(pid) in str(tree) for pid in pids)
    forest = manager.tree()
    assert [child.pid for child in forest.children] == sorted([family.pid, single.pid])

    manager.terminate_all()
    assert manager.tree().children == ()
    assert alive(pids) == []
    with pytest.raises(NotActive):
        manager.tree("family")


def test_what_a_leader_has_left_hangs_in_its_place(manager: ProcessManager, programs: Programs) -> None:
    """The leader is gone, its child is found by the session."""
    keeper = manager.start_process("keeper", programs.leaves_a_child(), stdout=PIPE, leftovers="keep")
    child = int(lines_until(keeper, "child")[-1].split()[1])
    assert keeper.wait(10).ok

    tree = manager.tree("keeper")

    assert (tree.pid, tree.state) == (keeper.pid, "gone")
    assert [node.pid for node in tree.children] == [child]
    assert str(child) in str(tree)
    assert manager.is_active("keeper")


def test_looking_does_not_disturb(manager: ProcessManager, programs: Programs) -> None:
    """While processes come and go by the hundred, trees and health are drawn without an error."""
    until = time.monotonic() + 1.0
    number = 0
    while time.monotonic() < until:
        number += 1
        manager.start_many([((number, n), programs.nop()) for n in range(5)])
        manager.health()
        manager.tree()
        for process in manager.active():
            try:
                manager.tree(process.task_id)
            except NotActive:
                continue
        manager.wait_all(10)
    assert manager.metrics().failed_to_start == 0
