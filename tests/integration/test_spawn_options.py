"""The options of a Command, as the program that was started finds them carried out."""

from __future__ import annotations

import ctypes
import json
import os
import pwd
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import eventually
from tests.integration import fresh
from tests.programs import Programs
from tests.watch import can, in_threads, is_alive

from fastproc import PIPE, Command, Limits, Process, ProcessManager, subprocess

Start = Callable[..., Process]

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

# Somebody whom no database knows.
STRANGER = 54321


@pytest.fixture(params=["start_process", "start_many", "die_with_parent", "map"])
def start(request: pytest.FixtureRequest, manager: ProcessManager) -> Start:
    """Each way to start a program; what is said about it must arrive by each."""

    def start_process(args: Any, **options: Any) -> Process:
        return manager.start_process("x", args, **options)

    def start_many(args: Any, **options: Any) -> Process:
        (process,) = manager.start_many([("x", Command(args, **options))])
        assert isinstance(process, Process)
        return process

    def die_with_parent(args: Any, **options: Any) -> Process:
        return manager.start_process("x", args, **{"die_with_parent": True, **options})

    def by_map(args: Any, **options: Any) -> Process:
        (process,) = manager.map([Command(args, **options)])
        return process

    ways = {
        "start_process": start_process,
        "start_many": start_many,
        "die_with_parent": die_with_parent,
        "map": by_map,
    }
    return ways[request.param]


def told_by(process: Process) -> Any:
    """What a program of the mirror kind says of itself."""
    assert process.wait(20).ok, process.stdout_bytes
    return json.loads(process.stdout_bytes)


def status_of(start: Start, **options: Any) -> dict[str, list[str]]:
    """What /proc/self/status says in the child: for users who may not execute our programs."""
    process = start(["cat", "/proc/self/status"], stdout=PIPE, **options)
    assert process.wait(20).ok
    lines = process.stdout_bytes.decode().splitlines()
    return {name: words.split() for name, _, words in (line.partition(":") for line in lines)}


# ---- where and as whom ----


def test_it_leads_a_session_or_a_group_or_neither(start: Start, programs: Programs) -> None:
    """A session is the default: what is signalled as its group can then not be ours."""
    told = told_by(start(programs.prints_ids(), stdout=PIPE))
    assert told["sid"] == told["pgid"] == told["pid"]

    told = told_by(start(programs.prints_ids(), stdout=PIPE, start_new="group"))
    assert (told["pgid"], told["sid"]) == (told["pid"], os.getsid(0))

    told = told_by(start(programs.prints_ids(), stdout=PIPE, start_new=None))
    assert (told["pgid"], told["sid"]) == (os.getpgrp(), os.getsid(0))
    assert told["ppid"] == os.getpid()


def test_it_starts_in_its_directory(start: Start, programs: Programs, tmp_path: Path) -> None:
    """Given as str, bytes or Path; a relative one is relative to ours, and so is a relative log."""
    place = (tmp_path / "place").resolve()
    place.mkdir()
    for given in (str(place), os.fsencode(place), place, os.path.relpath(place)):
        assert told_by(start(programs.prints_ids(), stdout=PIPE, cwd=given))["cwd"] == str(place)
    assert told_by(start(programs.prints_ids(), stdout=PIPE))["cwd"] == os.getcwd()

    log = tmp_path / "log"
    assert start(["pwd"], cwd=place, stdout=os.path.relpath(log)).wait(20).ok
    assert log.read_text() == f"{place}\n"


@pytest.mark.parametrize("number", [None, 700])
def test_its_directory_may_be_one_of_our_descriptors(
    start: Start, tmp_path: Path, number: int | None
) -> None:
    """It does not get the descriptor, and is in the directory all the same, whatever its path is by now."""
    directory = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    if number is not None:
        os.dup2(directory, number, inheritable=False)
        os.close(directory)
        directory = number
    try:
        process = start(["/bin/pwd"], stdout=PIPE, cwd=f"/proc/self/fd/{directory}")
        process.wait(20)
        here = subprocess.check_output(["/bin/pwd"], cwd=f"/dev/fd/{directory}")
    finally:
        os.close(directory)
    assert process.stdout_bytes == here == f"{tmp_path}\n".encode()


def test_a_relative_program_is_looked_for_in_the_childs_directory(start: Start, tmp_path: Path) -> None:
    """As with execvp(3) after chdir(2)."""
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\nexit 7\n")
    program.chmod(0o755)

    assert start(["./program"], cwd=tmp_path).wait(20).code == 7


@as_root
def test_it_runs_as_the_user_and_with_no_group_of_ours(start: Start) -> None:
    """All four ids, and the groups: those that the database knows of, or none for a stranger."""
    stranger = [str(STRANGER)] * 4
    told = status_of(start, user=STRANGER, group=STRANGER)
    assert (told["Uid"], told["Gid"], told["Groups"]) == (stranger, stranger, [])

    told = status_of(start, user=STRANGER, group=STRANGER, extra_groups=[7, 5, 70000])
    assert (told["Uid"], set(told["Groups"])) == (stranger, {"5", "7", "70000"})

    nobody = pwd.getpwnam("nobody")
    told = status_of(start, user="nobody")
    assert (told["Uid"], told["Gid"]) == ([str(nobody.pw_uid)] * 4, [str(nobody.pw_gid)] * 4)
    assert set(told["Groups"]) == set(map(str, os.getgrouplist("nobody", nobody.pw_gid)))

    told = status_of(start, group=STRANGER, extra_groups=[])
    assert (told["Uid"], told["Gid"], told["Groups"]) == (["0"] * 4, stranger, [])
    # And what root may do, the stranger may not.
    assert status_of(start, user=STRANGER)["CapEff"] == ["0" * 16]


@as_root
def test_a_start_as_somebody_else_does_not_change_us(manager: ProcessManager) -> None:
    """Nor does it leave us without core dumps and debuggers, see PR_SET_DUMPABLE in prctl(2)."""
    libc = ctypes.CDLL(None)
    before = (os.getresuid(), os.getresgid(), os.getgroups(), libc.prctl(3, 0, 0, 0, 0))
    in_threads(
        *[
            lambda name=name: manager.start_process(name, ["true"], user=STRANGER, extra_groups=[]).wait(20)  # type: ignore[misc]
            for name in range(8)
        ]
    )

    assert (os.getresuid(), os.getresgid(), os.getgroups(), libc.prctl(3, 0, 0, 0, 0)) == before


def test_its_files_have_the_mode_that_the_mask_leaves(
    start: Start, programs: Programs, tmp_path: Path
) -> None:
    """Also the log that the child opens by itself; our own mask stays."""
    before = os.umask(0o022)
    try:
        told = told_by(start(programs.prints_ids(), stdout=PIPE, umask=0o077))
        assert told["umask"] == 0o077
        assert told_by(start(programs.prints_ids(), stdout=PIPE, umask=0))["umask"] == 0
        assert told_by(start(programs.prints_ids(), stdout=PIPE))["umask"] == 0o022
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)


@as_root
def test_its_priority_is_absolute(start: Start, programs: Programs) -> None:
    """Also upward, with the privilege to do so."""
    for nice in (5, 19, 0, -3):
        assert told_by(start(programs.prints_ids(), stdout=PIPE, nice=nice))["nice"] == nice
    ours = os.getpriority(os.PRIO_PROCESS, 0)
    assert told_by(start(programs.prints_ids(), stdout=PIPE))["nice"] == ours


def test_it_runs_on_the_processors_it_may_use(start: Start, programs: Programs) -> None:
    """What is not there is left out, as sched_setaffinity(2) does."""
    ours = sorted(os.sched_getaffinity(0))
    for cpus in ({ours[0]}, {ours[-1]}, set(ours), {ours[0], 4000}):
        told = told_by(start(programs.prints_ids(), stdout=PIPE, cpu_affinity=cpus))
        assert set(told["affinity"]) == cpus & set(ours)
    assert told_by(start(programs.prints_ids(), stdout=PIPE))["affinity"] == ours


def test_it_can_be_kept_from_gaining_privileges(start: Start, programs: Programs) -> None:
    """Only if asked for, and then for good."""
    assert told_by(start(programs.prints_ids(), stdout=PIPE, no_new_privs=True))["no_new_privs"] == 1
    ours = ctypes.CDLL(None).prctl(39, 0, 0, 0, 0)
    assert told_by(start(programs.prints_ids(), stdout=PIPE))["no_new_privs"] == ours


def test_it_dies_with_us_if_asked(manager: ProcessManager, programs: Programs) -> None:
    """For one process or for all of a manager, with an exception each."""
    (process,) = manager.start_many([("x", Command(programs.prints_ids(), stdout=PIPE))])
    assert isinstance(process, Process)
    assert told_by(process)["pdeathsig"] == 0
    process = manager.start_process("x", programs.prints_ids(), stdout=PIPE, die_with_parent=True)
    assert told_by(process)["pdeathsig"] == 9

    with ProcessManager(die_with_parent=True) as strict:
        for asked, number in ((None, 9), (True, 9), (False, 0)):
            process = strict.start_process("x", programs.prints_ids(), stdout=PIPE, die_with_parent=asked)
            assert told_by(process)["pdeathsig"] == number


def test_who_dies_with_us_dies_also_as_another_user(programs: Programs) -> None:
    """A change of ids clears the wish, see PR_SET_PDEATHSIG in prctl(2), so it comes after."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    program = fresh.begin(
        """
        manager = ProcessManager(die_with_parent=True)
        process = manager.start_process("x", ["sleep", "100"], user=54321, group=54321)
        print(process.pid, flush=True)
        time.sleep(100)
        """,
        programs,
    )
    assert program.stdout is not None
    pid = int(program.stdout.readline())
    program.kill()
    fresh.finish(program)

    try:
        assert eventually(lambda: not is_alive(pid), 20)
    finally:
        if is_alive(pid):
            os.kill(pid, signal.SIGKILL)


# ---- what it may use ----

# Below every hard limit that a system is likely to have, and enough for the program to say so.
WISHES = {
    "cpu": (50, 60),
    "address_space": (2**33, 2**34),
    "data": (2**32, 2**33),
    "file_size": (2**20, 2**21),
    "core": (0, 0),
    "stack": (2**21, 2**22),
    "open_files": (50, 60),
    "processes": (500, 600),
    "locked_memory": (2**14, 2**15),
}
NUMBERS = ("CPU", "AS", "DATA", "FSIZE", "CORE", "STACK", "NOFILE", "NPROC", "MEMLOCK")


def test_all_nine_limits_are_set(start: Start, programs: Programs) -> None:
    """Soft and hard each."""
    told = told_by(start(programs.prints_limits(), stdout=PIPE, limits=Limits(**WISHES)))

    assert told == {name: list(wish) for name, wish in WISHES.items()}


@pytest.mark.parametrize("name", WISHES)
def test_a_limit_is_set_and_the_others_are_ours(
    manager: ProcessManager, programs: Programs, name: str
) -> None:
    """A single number is both; for the CPU it leaves a second between SIGXCPU and SIGKILL."""
    soft = WISHES[name][0]
    process = manager.start_process(
        "x",
        programs.prints_limits(),
        stdout=PIPE,
        limits=Limits(**{name: soft}),  # type: ignore[arg-type]
    )
    told = told_by(process)

    ours = {
        other: list(resource.getrlimit(getattr(resource, f"RLIMIT_{number}")))
        for other, number in zip(WISHES, NUMBERS, strict=True)
    }
    ours[name] = [soft, soft + 1 if name == "cpu" else soft]
    # Ours was raised for the engine's sake, which children do not see.
    for limits in (told, ours):
        if name != "open_files":
            del limits["open_files"]
    assert told == ours


def test_a_limit_may_be_taken_off(manager: ProcessManager, programs: Programs) -> None:
    """With the privilege to do so; -1 is no limit."""
    held = Path("/proc/self/status").read_text().partition("CapEff:")[2].split()[0]
    if not int(held, 16) >> 24 & 1:
        pytest.skip("needs CAP_SYS_RESOURCE")
    limits = Limits(core=-1, stack=(2**22, -1), locked_memory=-1)
    told = told_by(manager.start_process("x", programs.prints_limits(), stdout=PIPE, limits=limits))

    assert (told["core"], told["stack"], told["locked_memory"]) == ([-1, -1], [2**22, -1], [-1, -1])


def test_it_is_born_into_a_cgroup_of_its_own(start: Start, manager: ProcessManager) -> None:
    """Two at a time are in two; with the session as containment it stays in ours."""
    ours = [line for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::")]
    process = start(["cat", "/proc/self/cgroup"], stdout=PIPE, containment="session")
    assert process.wait(20).ok
    assert ours[:1] == [line for line in process.stdout_bytes.decode().splitlines() if line[:3] == "0::"][:1]
    if not can("cgroup"):
        pytest.skip("no writable directory of cgroup v2")

    shell = ["sh", "-c", "grep ^0:: /proc/self/cgroup; cat"]
    for containment in ("cgroup", "auto"):
        process = start(shell, stdout=PIPE, containment=containment)
        assert process.wait(20).ok
        assert f"fastproc-{os.getpid()}-" in process.stdout_bytes.decode()
    read_fd, write_fd = os.pipe()
    both = [manager.start_process(name, shell, stdout=PIPE, stdin=read_fd) for name in "ab"]
    os.close(read_fd)
    os.close(write_fd)
    assert all(process.wait(20).ok for process in both)
    assert both[0].stdout_bytes != both[1].stdout_bytes


# ---- what it is told ----


def test_its_environment_is_what_was_given(
    start: Start, programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole, nothing of ours added; or a copy of ours as it is at the start."""
    environment = {"A": "1", "EMPTY": "", "LONG": "x" * 100_000, "SPACES": "a  b\n"}
    process = start(programs.prints_env(), env=environment, stdout=PIPE)
    assert process.wait(20).ok
    assert process.stdout_bytes == b"".join(
        f"{name}={value}\0".encode() for name, value in environment.items()
    )

    process = start(programs.prints_env(), env={}, stdout=PIPE)
    assert process.wait(20).ok
    assert process.stdout_bytes == b""

    monkeypatch.setenv("FASTPROC_TEST_NOW", "seen")
    process = start(programs.prints_env(), stdout=PIPE)
    assert process.wait(20).ok
    assert set(process.stdout_bytes.split(b"\0")[:-1]) == {
        os.fsencode(f"{name}={value}") for name, value in os.environ.items()
    }


def test_its_arguments_are_what_was_given(start: Start, programs: Programs, tmp_path: Path) -> None:
    """No shell comes between: spaces, quotes, stars and empty strings arrive."""
    arguments = ["", " a  b ", "*", "$HOME", "'\"", "--", "-x", "ü", "line\nline"]
    process = start([*programs.prints_args(), *arguments, tmp_path], stdout=PIPE)
    assert process.wait(20).ok

    assert process.stdout_bytes.split(b"\0")[1:-1] == [*(a.encode() for a in arguments), bytes(tmp_path)]


@as_root
def test_all_options_work_together(start: Start, tmp_path: Path) -> None:
    """In one start, in the one order in which they can: descriptors, limits, directory, ids, sandbox."""
    place = tmp_path / "place"
    place.mkdir()
    log = tmp_path / "log"
    cpu = min(os.sched_getaffinity(0))
    witness = tmp_path / "witness"
    witness.touch()
    witness.chmod(0o666)
    with open(witness, "wb") as file:
        status = start(
            [
                "sh",
                "-c",
                "ulimit -n; umask; echo $NAME; cat /proc/self/status; echo passed > /proc/self/fd/$FD",
            ],
            cwd=place,
            env={"NAME": "value", "PATH": os.environ["PATH"], "FD": str(file.fileno())},
            stdout=log,
            limits=Limits(open_files=512, core=0),
            nice=7,
            umask=0o027,
            user=STRANGER,
            group=STRANGER + 1,
            extra_groups=[STRANGER + 2],
            cpu_affinity=[cpu],
            no_new_privs=True,
            pass_fds=[file.fileno()],
            die_with_parent=True,
        ).wait(20)

    assert witness.read_text() == "passed\n"
    assert status.ok
    lines = log.read_text().splitlines()
    told = {name: words.split() for name, _, words in (line.partition(":") for line in lines[3:])}
    assert lines[:3] == ["512", "0027", "value"]
    assert told["Uid"] == [str(STRANGER)] * 4
    assert told["Gid"] == [str(STRANGER + 1)] * 4
    assert told["Groups"] == [str(STRANGER + 2)]
    assert (told["NoNewPrivs"], told["Cpus_allowed_list"]) == (["1"], [str(cpu)])
