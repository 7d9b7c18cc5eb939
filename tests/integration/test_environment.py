"""Surroundings that mislead: names that look like something else in /proc, and clocks that jump."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.conftest import eventually
from tests.integration import fresh
from tests.programs import Programs, compiler
from tests.watch import can, is_alive, pids_until

from fastproc import PIPE, ExitReason, ProcessManager

# In proc(5) the name stands in brackets, and behind it the state, the parent, the group, the session.
HOSTILE = ") Z 1 1 1 ("


def under_a_hostile_name(args: list[str], directory: Path) -> list[str]:
    """The same program under a name that ends the brackets early: its file gives it, see execve(2)."""
    copy = directory / HOSTILE
    shutil.copy(args[0], copy)
    return [str(copy), *args[1:]]


def test_a_name_that_says_zombie_hides_no_leftover(
    manager: ProcessManager, programs: Programs, tmp_path: Path
) -> None:
    """It is found in the session, asked and killed, though it seems dead and somebody else's."""
    args = under_a_hostile_name(programs.leaves_a_child(group=True, ignore=True), tmp_path)
    process = manager.start_process("x", args, stdout=PIPE, containment="session", grace=0.2)
    assert process.wait(20).ok
    child = int(process.stdout_bytes.split()[1])
    try:
        assert eventually(lambda: not manager.is_active("x"), 20)
        # Without /proc nobody can be found who has left the group.
        assert not is_alive(child) or not can("procfs")
    finally:
        if is_alive(child):
            os.kill(child, 9)


def test_a_name_that_says_zombie_is_drawn_and_judged_as_the_living(
    manager: ProcessManager, programs: Programs, tmp_path: Path
) -> None:
    """Parent, state and processor time are read from behind the last bracket."""
    args = under_a_hostile_name(programs.forks_a_tree(1, 2), tmp_path)
    process = manager.start_process("x", args, stdout=PIPE)
    pids = pids_until(process, "ready")

    tree = manager.tree("x")

    assert {tree.pid, *(child.pid for child in tree.children)} == set(pids)
    assert tree.name == HOSTILE
    assert tree.state != "zombie"
    assert HOSTILE in str(tree)
    (report,) = manager.health()
    assert report.level == "ok"
    assert process.terminate(1).stopped
    assert not any(map(is_alive, pids))


# The clock of the wall goes a day forward and a day back with every look at it.
JUMPING_CLOCK = """
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static time_t jump(void) {
    static int looks;
    return (__atomic_add_fetch(&looks, 1, __ATOMIC_RELAXED) % 3 - 1) * 86400;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    int result = (int)syscall(SYS_clock_gettime, clock, time);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        time->tv_sec += jump();
    return result;
}

time_t time(time_t *ret_time) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (ret_time)
        *ret_time = now.tv_sec;
    return now.tv_sec;
}

int gettimeofday(struct timeval *restrict ret_time, void *restrict zone) {
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    ret_time->tv_sec = now.tv_sec;
    ret_time->tv_usec = now.tv_nsec / 1000;
    return 0;
}
"""


def test_a_wall_clock_that_jumps_changes_no_time_limit(
    programs: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a timeout, a grace, an idle limit, a token nor a wait ends early or late by a day."""
    source = tmp_path / "clock.c"
    source.write_text(JUMPING_CLOCK)
    library = tmp_path / "clock.so"
    cc = compiler()
    assert cc is not None
    subprocess.run([cc, "-shared", "-fPIC", "-O2", "-o", library, source], check=True)
    monkeypatch.setenv("LD_PRELOAD", str(library))

    said = fresh.run(
        """
        looks = [time.time() for _ in range(4)]
        print(max(looks) - min(looks) > 80_000)
        began = time.monotonic()
        with ProcessManager() as manager:
            sleeper = programs.ready_then_sleep()
            late = manager.start_process("late", sleeper, stdout=DEVNULL, timeout=0.3)
            deaf = manager.start_process(
                "deaf", programs.ignores_sigterm(), stdout=DEVNULL, timeout=0.2, grace=0.2
            )
            idle = manager.start_process("idle", sleeper, stdout=PIPE, idle_timeout=0.3)
            token = fastproc.CancelToken(timeout=0.3)
            tied = manager.start_process("tied", sleeper, stdout=DEVNULL, cancel=token)
            free = manager.start_process("free", sleeper, stdout=DEVNULL)
            try:
                free.wait(0.2)
            except fastproc.WaitTimeout:
                print("waited", time.monotonic() - began >= 0.2)
            for process in (late, deaf, idle, tied):
                status = process.wait(20)
                print(status.reason.value, 0.19 <= status.duration < 15, status.ended > status.started)
            print(free.running, manager.terminate_all(timeout=5).elapsed < 15)
        print(time.monotonic() - began < 20)
        """,
        programs,
    )

    late, idle = ExitReason.TIMEOUT.value, ExitReason.IDLE_TIMEOUT.value
    assert said.splitlines() == [
        "True",
        "waited True",
        f"{late} True True",
        f"{late} True True",
        f"{idle} True True",
        f"{late} True True",
        "True True",
        "True",
    ]
