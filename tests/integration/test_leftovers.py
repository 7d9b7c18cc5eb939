"""What outlives its leader: stopped with the same ladder, or kept until somebody asks for its end."""

from __future__ import annotations

import time

import pytest
from tests.integration import fresh
from tests.programs import Programs
from tests.watch import alive, can, first_line, in_threads, is_alive, pids_until

from fastproc import DEVNULL, PIPE, DuplicateTask, ExitReason, NotActive, Process, ProcessManager
from fastproc.command import Containment


def skip_if_lost(containment: Containment) -> None:
    """A reaped leader's group is reached by its pidfd, or by number as long as /proc shows who it is."""
    if containment == "session" and not can("pidfd_group") and not can("procfs"):
        pytest.skip("without PIDFD_SIGNAL_PROCESS_GROUP and /proc nobody finds the group of a reaped leader")


def test_a_child_that_outlives_its_leader_is_asked_to_end(
    manager: ProcessManager, programs: Programs, containment: Containment
) -> None:
    """The status is the leader's own; the id is free when all are gone."""
    skip_if_lost(containment)
    process = manager.start_process("left", programs.leaves_a_child(4), stdout=PIPE, containment=containment)
    child = int(first_line(process).split()[1])

    status = process.wait(20)

    assert (status.code, status.reason, status.escalated) == (4, ExitReason.EXITED, False)
    assert all(done is process for done in manager.as_completed(20))  # none, if it is done already
    assert not is_alive(child)
    assert not manager.is_active("left")


def test_deaf_leftovers_are_killed_after_the_grace_of_their_command(
    manager: ProcessManager, programs: Programs, containment: Containment
) -> None:
    """Nobody who waits for the leader waits for them; the id stays taken meanwhile."""
    skip_if_lost(containment)
    process = manager.start_process(
        "deaf",
        programs.forks_a_tree(2, 2, ignore=True, leave=True),
        stdout=PIPE,
        grace=0.6,
        containment=containment,
    )
    pids = pids_until(process, "ready")

    status = process.wait(20)
    after = time.monotonic() - status.ended

    assert (status.code, status.reason) == (0, ExitReason.EXITED)
    if after < 0.4:
        assert manager.is_active("deaf")
        assert len(alive(pids)) == 6
        with pytest.raises(DuplicateTask):
            manager.start_process("deaf", ["true"])
    assert all(done is process for done in manager.as_completed(20))  # none, if it is done already
    assert time.monotonic() - status.ended >= 0.6
    assert alive(pids) == []
    assert manager.start_process("deaf", ["true"]).wait(20).ok


@pytest.mark.parametrize("where", ["group", "session"])
def test_leftovers_that_moved_away_are_stopped(
    manager: ProcessManager, programs: Programs, containment: Containment, where: str
) -> None:
    """A group of one's own is still in the session; a session of one's own only a cgroup holds."""
    if containment == "session" and (where == "session" or not can("procfs")):
        pytest.skip("who has left the session and lost his parent is not found")
    command = programs.leaves_a_child(group=where == "group", session=where == "session", ignore=True)
    process = manager.start_process("away", command, stdout=PIPE, grace=0.2, containment=containment)
    child = int(first_line(process).split()[1])
    assert process.wait(20).ok

    assert all(done is process for done in manager.as_completed(20))  # none, if it is done already

    assert not is_alive(child)


def test_kept_leftovers_run_until_somebody_asks(
    manager: ProcessManager, programs: Programs, containment: Containment
) -> None:
    """The id stays active, the status is known, and terminate_process() reaches who is left."""
    skip_if_lost(containment)
    process = manager.start_process(
        "kept",
        programs.forks_a_tree(1, 3, leave=True),
        stdout=PIPE,
        leftovers="keep",
        timeout=0.3,
        containment=containment,
    )
    pids = pids_until(process, "ready")
    pids.remove(process.pid)
    status = process.wait(20)
    assert status.ok
    time.sleep(max(0.0, status.started + 0.5 - time.monotonic()))  # its time limit was the leader's own

    assert sorted(alive(pids)) == sorted(pids)
    assert manager.is_active("kept")
    assert manager.active() == [process]
    assert not process.running
    with pytest.raises(DuplicateTask):
        manager.start_process("kept", ["true"])

    result = manager.terminate_process("kept", 20)

    assert alive(pids) == []
    assert result.stopped
    assert not result.escalated
    assert result.status is status
    assert status.reason is ExitReason.EXITED
    with pytest.raises(NotActive):
        manager.terminate_process("kept")


def test_kept_leftovers_that_end_by_themselves_free_the_id(
    manager: ProcessManager, containment: Containment
) -> None:
    """Nobody tells when the last of a group has gone: it is looked at now and then."""
    process = manager.start_process(
        "kept", ["sh", "-c", "sleep 0.2 & exit 0"], stdout=DEVNULL, leftovers="keep", containment=containment
    )
    assert process.wait(20).ok

    assert all(done is process for done in manager.as_completed(20))  # none, if it is done already

    assert not manager.is_active("kept")


def test_the_end_of_the_manager_is_the_end_of_what_was_kept(
    programs: Programs, containment: Containment
) -> None:
    skip_if_lost(containment)
    with ProcessManager() as manager:
        process = manager.start_process(
            "kept", programs.leaves_a_child(), stdout=PIPE, leftovers="keep", containment=containment
        )
        child = int(first_line(process).split()[1])
        assert process.wait(20).ok
        assert is_alive(child)
    assert not is_alive(child)


def test_a_stop_while_leftovers_are_being_stopped_joins_that(
    manager: ProcessManager, programs: Programs, containment: Containment
) -> None:
    """The ladder for them is climbed already: it is shortened, not begun again."""
    skip_if_lost(containment)
    process = manager.start_process(
        "left", programs.leaves_a_child(ignore=True), stdout=PIPE, grace=60, containment=containment
    )
    child = int(first_line(process).split()[1])
    status = process.wait(20)

    results = in_threads(*[lambda: Process.terminate(process, 0.2)] * 3)

    assert all(result.stopped for result in results)
    assert not is_alive(child)
    assert {id(result.status) for result in results} == {id(status)}
    assert status.reason is ExitReason.EXITED


def test_nobody_says_that_all_is_over_while_it_is_not(programs: Programs) -> None:
    """Where leftovers can neither be reached nor named, a stop does not claim that nobody is left."""
    out = fresh.run(
        """
        manager = ProcessManager(grace=0.1, kill_timeout=0.2)
        process = manager.start_process("leaves", programs.leaves_a_child(), stdout=PIPE, grace=0.1)
        child = int(first_line(process).split()[1])
        print(process.wait().code)
        result = manager.terminate_process("leaves", 0.1)
        report = manager.terminate_all(0.1)
        print(result.stopped, bool(result), bool(report), result.over, manager.is_active("leaves"))
        os.kill(child, signal.SIGKILL)
        """,
        programs,
        disable="pidfd_group,procfs,cgroup",
    )
    assert out.split() == ["0", "False", "False", "False", "False", "True"]
