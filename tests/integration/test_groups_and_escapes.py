"""Families: who leaves the group, whose number is used again, and how their end is proven from outside."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from tests.conftest import eventually
from tests.programs import Programs
from tests.watch import (
    alive,
    can,
    first_line,
    is_alive,
    lines_until,
    nobody_left,
    pids_until,
    run_script,
    state_of,
)

from fastproc import PIPE, ExitReason, Limits, ProcessManager
from fastproc.command import Containment

STRANGER = 100_000 + os.getpid()  # a user id that nothing else here runs under


def skip_if_fugitives_are_lost(containment: Containment) -> None:
    """Who left the group is found in /proc, or held by a cgroup."""
    if containment == "session" and not can("procfs"):
        pytest.skip("without /proc nobody finds who has left the group")


# ---- those who leave the group ----


@pytest.mark.parametrize("ignore", [False, True])
def test_ten_generations_each_in_a_session_of_its_own_are_ended(
    manager: ProcessManager, programs: Programs, containment: Containment, ignore: bool
) -> None:
    """A group signal reaches one of them; the others are followed from parent to child, or held."""
    skip_if_fugitives_are_lost(containment)
    process = manager.start_process(
        "deep", programs.forks_a_tree(10, 1, setsid=True, ignore=ignore), stdout=PIPE, containment=containment
    )
    pids = pids_until(process, "ready")
    assert len({os.getsid(pid) for pid in pids}) == len(pids) == 11

    result = process.terminate(0.2 if ignore else 20)

    assert alive(pids) == []
    assert result.stopped
    assert result.escalated is ignore
    assert result.proof == containment


def test_a_mere_group_has_the_same_proof_whether_its_end_is_seen_at_once_or_not(
    manager: ProcessManager, programs: Programs, containment: Containment
) -> None:
    for name, args in (
        ("one", programs.ready_then_sleep()),
        ("many", programs.forks_a_tree(2, 2, ignore=True)),
    ):
        process = manager.start_process(name, args, stdout=PIPE, containment=containment, start_new="group")
        pids_until(process, "ready")
        assert process.terminate(0.2).proof == containment


def test_a_wide_family_in_sessions_of_their_own_is_ended(
    manager: ProcessManager, programs: Programs, containment: Containment
) -> None:
    skip_if_fugitives_are_lost(containment)
    process = manager.start_process(
        "wide", programs.forks_a_tree(3, 3, setsid=True, ignore=True), stdout=PIPE, containment=containment
    )
    pids = pids_until(process, "ready")
    assert len(pids) == 40

    assert process.terminate(0.1).stopped

    assert alive(pids) == []


@pytest.mark.parametrize("stay", [True, False])
def test_a_daemon_does_not_escape_a_cgroup(manager: ProcessManager, programs: Programs, stay: bool) -> None:
    """Double fork and setsid: it has no parent, group or session of ours; the proof is the kernel's."""
    if not can("cgroup"):
        pytest.skip("no writable directory of cgroup v2")
    process = manager.start_process("d", programs.daemonizes(stay=stay), stdout=PIPE, containment="cgroup")
    daemon = int(first_line(process).split()[1])

    result = process.terminate(10)

    assert not is_alive(daemon)
    assert result.stopped
    assert result.proof == "cgroup"


def test_a_daemon_escapes_a_session_and_the_proof_does_not_claim_otherwise(
    manager: ProcessManager, programs: Programs
) -> None:
    """That is the limit of this containment: its proof is called session, what /proc shows, and no more."""
    process = manager.start_process("d", programs.daemonizes(stay=True), stdout=PIPE, containment="session")
    daemon = int(first_line(process).split()[1])
    try:
        # It leads back to its maker for as long as the one in the middle, who leads its session, is there.
        assert eventually(lambda: state_of(os.getsid(daemon)) == "", 10)
        result = process.terminate(10)

        assert result.proof in {"session", "none"}
        assert not is_alive(process.pid)
    finally:
        escaped = is_alive(daemon)
        os.kill(daemon, signal.SIGKILL)
    assert escaped, "daemons of a session are found now: say so in the documents"


def test_what_ended_by_itself_leaves_no_daemon_behind(manager: ProcessManager, programs: Programs) -> None:
    """The leader exits 0 and the cgroup is not empty: what is left is stopped; the id is taken until then."""
    if not can("cgroup"):
        pytest.skip("no writable directory of cgroup v2")
    process = manager.start_process("d", programs.daemonizes(), stdout=PIPE, containment="cgroup")
    daemon = int(first_line(process).split()[1])

    status = process.wait(20)
    assert (status.code, status.reason) == (0, ExitReason.EXITED)
    assert eventually(lambda: not manager.is_active("d"), 10)

    assert not is_alive(daemon)


# ---- fork bombs ----


@pytest.mark.parametrize("setsid", [False, True])
def test_a_fork_bomb_is_ended_while_it_goes_off(
    manager: ProcessManager, programs: Programs, containment: Containment, setsid: bool
) -> None:
    """The kill races with the forks, also of those who are born into sessions of their own."""
    if setsid:
        skip_if_fugitives_are_lost(containment)
    with nobody_left(programs):
        process = manager.start_process(
            "bomb", programs.fork_bomb(80, setsid=setsid), stdout=PIPE, containment=containment
        )
        first_line(process)

        assert process.kill()
        result = process.terminate()

        assert programs.running() == []
        assert result.stopped
        assert result.survivors == []


@pytest.mark.parametrize("setsid", [False, True])
def test_a_fork_bomb_that_has_gone_off_is_ended(
    manager: ProcessManager, programs: Programs, containment: Containment, setsid: bool
) -> None:
    """All of it are there, in one group or each in a session of its own: each is asked, and found."""
    if setsid:
        skip_if_fugitives_are_lost(containment)
    with nobody_left(programs):
        process = manager.start_process(
            "bomb", programs.fork_bomb(150, setsid=setsid), stdout=PIPE, containment=containment
        )
        lines_until(process, "full")
        assert eventually(lambda: is_complete(programs.running(), 150, setsid=setsid), 20)

        result = process.terminate(20)

        assert programs.running() == []
        assert result.stopped
        assert not result.escalated


def is_complete(pids: list[int], count: int, *, setsid: bool) -> bool:
    """Whether all are born, and have moved to where they want to be."""
    sessions = set()
    with suppress(ProcessLookupError):
        sessions = {os.getsid(pid) for pid in pids}
    return len(pids) == count and len(sessions) == (count if setsid else 1)


@contextmanager
def for_everybody(program: str) -> Iterator[str]:
    """A copy of a program that other users may execute."""
    directory = tempfile.mkdtemp(prefix="fastproc-test-")
    try:
        os.chmod(directory, 0o755)
        yield shutil.copy(program, directory)
    finally:
        shutil.rmtree(directory)


def test_a_limit_of_processes_holds_a_fork_bomb(
    manager: ProcessManager, programs: Programs, containment: Containment
) -> None:
    """RLIMIT_NPROC counts those of the user, and does not bind root: so another one runs it."""
    if os.geteuid() != 0:
        pytest.skip("only root can run it as another user")
    with for_everybody(programs.fork_bomb()[0]) as program:
        process = manager.start_process(
            "bomb",
            [program, "500", "quick"],
            user=STRANGER,
            group=STRANGER,
            limits=Limits(processes=20),
            stdout=PIPE,
            containment=containment,
        )
        first_line(process)
        assert eventually(lambda: len(executing(program)) == 20, 10)

        result = process.terminate(0)

        assert executing(program) == []
        assert result.stopped


def executing(program: str) -> list[int]:
    """The processes that execute this file."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and os.readlink(entry / "exe") == program:
                found.append(int(entry.name))
        except OSError:
            continue  # gone, or a zombie
    return found


# ---- numbers that are used again ----


def reborn(programs: Programs, pid: int) -> subprocess.Popen[str]:
    """Somebody else's process that has this pid now, and leads a session of that number."""
    maker = subprocess.Popen(programs.reborn_as(pid), stdout=subprocess.PIPE, text=True)
    assert maker.stdout is not None
    said = maker.stdout.readline().split()
    if said[0] != "ready":
        maker.wait()
        maker.stdout.close()
        pytest.skip(f"clone3 with set_tid is refused: {os.strerror(int(said[1]))}")
    assert said == ["ready", str(pid)]
    return maker


def end(maker: subprocess.Popen[str], pid: int) -> str:
    """End the reborn process; what its maker says about that."""
    os.kill(pid, signal.SIGHUP)
    said, _ = maker.communicate(timeout=20)
    return said.strip()


def test_a_pid_that_is_used_again_is_not_signalled(
    manager: ProcessManager, programs: Programs, containment: Containment
) -> None:
    """Nothing that one can still do with the handle of an ended process reaches who has its number now."""
    process = manager.start_process("old", programs.exits_with(0), containment=containment)
    process.wait(20)
    assert eventually(lambda: not manager.is_active("old"))
    stranger = reborn(programs, process.pid)

    assert not process.send_signal(signal.SIGKILL)
    assert not process.send_signal(signal.SIGKILL, group=True)
    assert not process.kill()
    process.terminate(0)
    manager.terminate_all(0)

    assert is_alive(process.pid)
    assert end(stranger, process.pid) == f"ended {signal.SIGHUP.value}"


def test_a_group_number_that_is_used_again_is_not_signalled(
    manager: ProcessManager, programs: Programs
) -> None:
    """The leader is reaped and its group is gone, a daemon is left in the cgroup: only that is stopped."""
    if not can("cgroup"):
        pytest.skip("no writable directory of cgroup v2")
    process = manager.start_process(
        "old", programs.daemonizes(), stdout=PIPE, containment="cgroup", leftovers="keep"
    )
    daemon = int(first_line(process).split()[1])
    process.wait(20)
    stranger = reborn(programs, process.pid)
    assert os.getpgid(process.pid) == process.pid

    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM, group=True)
    result = process.terminate(0.2)

    assert result.stopped
    assert not is_alive(daemon)
    assert is_alive(process.pid)
    assert end(stranger, process.pid) == f"ended {signal.SIGHUP.value}"


# ---- leaders that move ----


def test_the_leader_of_a_session_cannot_join_our_group(
    manager: ProcessManager, programs: Programs, containment: Containment
) -> None:
    """EPERM: a signal to its group can thus never become a signal to ours, see setpgid(2)."""
    process = manager.start_process(
        "mover", programs.joins_the_group_of(os.getpid()), stdout=PIPE, containment=containment
    )

    assert first_line(process) == "ready 1"
    assert process.terminate(10).stopped


@pytest.mark.parametrize("hidden", ["", "pidfd_group"])
def test_a_leader_that_joins_our_group_is_stopped_and_we_are_not(
    programs: Programs, containment: Containment, hidden: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """start_new="group" lets it: the leader is signalled by itself, and so is the group that it has left."""
    script = """
import fastproc, os, signal, sys
heard = []
signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
with fastproc.ProcessManager() as manager:
    process = manager.start_process(
        "mover", ["sh", "-c", 'sleep 1000 & echo $!; exec "$0" "$1"', sys.argv[1], str(os.getpid())],
        stdout=fastproc.PIPE, start_new="group", containment=sys.argv[2],
    )
    with process.lines() as lines:
        member = int(next(lines))
        print(next(lines))
    print(os.getpgid(process.pid) == os.getpgid(0), os.getpgid(member) == process.pid)
    result = process.terminate(20)
    print(result.stopped, result.escalated, result.status.signal)
    try:
        state = open(f"/proc/{member}/stat").read().rpartition(")")[2].split()[0]
    except OSError:
        state = "gone"
    print(state in ("Z", "gone"))
print(heard)
"""
    if hidden:
        monkeypatch.setenv("FASTPROC_DISABLE", hidden)

    said = run_script(script, programs.joins_the_group_of(0)[0], containment)

    assert said == ["ready joined", "True True", "True False 15", "True", "[]"]


# ---- zombies that nobody takes ----


def test_zombies_that_nobody_reaps_do_not_count_as_left(programs: Programs, containment: Containment) -> None:
    """As under an init that is lazy, or none: signal 0 still reaches the group, and that proves nothing.

    The script is a subreaper and does not reap what it is given.
    """
    skip_if_fugitives_are_lost(containment)
    script = """
import ctypes, fastproc, os, sys
assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0  # PR_SET_CHILD_SUBREAPER
with fastproc.ProcessManager(containment=sys.argv[1]) as manager:
    for words in (sys.argv[2:], [*sys.argv[2:], "leave"]):
        process = manager.start_process("family", words, stdout=fastproc.PIPE)
        pids = []
        with process.lines() as lines:
            for line in lines:
                if line.startswith("ready"):
                    break
                pids.append(int(line.split()[1]))
        pids.remove(process.pid)
        if "leave" in words:
            ended = list(manager.as_completed(20)) == [process]
        else:
            ended = process.terminate(20).stopped
        states = {open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0] for pid in pids}
        os.killpg(process.pid, 0)
        print(ended, len(pids), states, manager.active_count())
        for pid in pids:
            os.waitpid(pid, 0)
"""
    said = run_script(script, containment, *programs.forks_a_tree(1, 3))

    assert said == ["True 3 {'Z'} 0"] * 2


# ---- cgroups of their own ----

_HAS_CGROUPS_OF_ITS_OWN = """
import signal, sys, time
from fastproc import PIPE, ProcessManager

signal.signal(signal.SIGTERM, signal.SIG_IGN)
inner = ProcessManager()
process = inner.start_process("inner", sys.argv[1:], stdout=PIPE)
for line in process.lines():
    print(process.pid, flush=True)
    break
print(open(f"/proc/{process.pid}/cgroup").read().split("0::")[1].split()[0], flush=True)
time.sleep(300)
"""


@pytest.mark.parametrize("killed", [False, True])
def test_cgroups_that_a_program_has_made_are_asked_and_removed_too(
    manager: ProcessManager, tmp_path: Path, killed: bool
) -> None:
    """Here by another fastproc, which hears nothing of its end: who lives there is asked, nothing is left."""
    if not can("cgroup"):
        pytest.skip("no cgroup can be made here")
    heard = tmp_path / "heard"
    script = f"trap 'echo yes > {heard}; exit' TERM; echo ready; while :; do sleep 0.05; done"
    process = manager.start_process(
        "outer", [sys.executable, "-c", _HAS_CGROUPS_OF_ITS_OWN, "sh", "-c", script], stdout=PIPE, grace=1
    )
    pid, own = (line.strip() for line in (first_line(process), *itertools.islice(process.lines(), 1, 2)))
    outer = Path(f"/proc/{process.pid}/cgroup").read_text().split("0::")[1].split()[0]
    assert own.startswith(outer + "/"), (own, outer)

    result = process.terminate(0 if killed else 1)

    assert result.stopped
    assert not is_alive(int(pid))
    assert heard.exists() is not killed
    assert eventually(lambda: not list_cgroup(outer))
    manager.start_process("after", ["true"]).wait(20)


def list_cgroup(path: str) -> list[Path]:
    """What is there of a cgroup."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if after.startswith("cgroup2 "):
            return list(Path(before.split()[4] + path).glob("*"))
    return []
