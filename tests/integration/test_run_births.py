"""A run() waits for the end of its child from its birth on, while the child is in our memory still."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest
from tests.integration import fresh, seccomp
from tests.integration.seccomp import Gate
from tests.programs import Programs
from tests.watch import can, is_alive, state_of

import fastproc

# Otherwise we stand still until it is a program, or even know of that by a pipe only.
beside_births = pytest.mark.skipif(not can("clone3", "pidfd"), reason="nobody stays beside a birth")
with_filters = pytest.mark.skipif(not seccomp.is_available(), reason="this kernel has no filters")


@with_filters
@pytest.mark.parametrize("captured", [False, True])
def test_the_end_of_one_that_is_killed_before_it_is_a_program_is_told(captured: bool) -> None:
    """As subprocess tells it. It has not left our memory by execve(2) then, but it has left."""
    gate = Gate("execve", lambda: fastproc.run(["/bin/true"], capture_output=captured))
    _, pid = gate.arrival()
    os.kill(pid, signal.SIGKILL)

    assert gate.result().returncode == -signal.SIGKILL
    assert state_of(pid) == ""


@with_filters
@pytest.mark.parametrize("captured", [False, True])
def test_one_that_takes_its_time_to_become_a_program_is_waited_for(captured: bool) -> None:
    """Longer than anybody stays beside a birth for its end; its memory is ours all the while."""
    gate = Gate("execve", lambda: fastproc.run(["/bin/echo", "said"], capture_output=captured))
    ticket, pid = gate.arrival()
    time.sleep(0.2)
    assert is_alive(pid)
    assert not gate.is_open
    gate.let_go(ticket)

    ran = gate.result()

    assert (ran.returncode, ran.stdout) == (0, b"said\n" if captured else None)


@with_filters
def test_what_execve_says_late_is_raised() -> None:
    """Also when nobody has waited for it any more."""
    gate = Gate("execve", lambda: fastproc.run(["/bin/true"]))
    ticket, pid = gate.arrival()
    time.sleep(0.05)
    gate.refuse(ticket, 13)

    with pytest.raises(PermissionError) as caught:
        gate.result()

    assert caught.value.filename == "/bin/true"
    assert state_of(pid) == ""


@with_filters
def test_one_that_dumps_core_before_it_is_a_program_is_not_waited_for_in_vain(
    programs: Programs, tmp_path: Path
) -> None:
    """The kernel does not clear the word then that tells who has left our memory."""
    said = fresh.run(
        f"""
        os.chdir({str(tmp_path)!r})
        from tests.integration import seccomp
        resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        rule = seccomp.Rule(call="execve", answer=seccomp.KILL)
        for captured in (False, True):
            call = lambda: fastproc.run(["/bin/true"], capture_output=captured)
            print(seccomp.in_a_filtered_thread([rule], call).returncode, children())
        """,
        programs,
    )

    assert said.splitlines() == [f"{-signal.SIGSYS} []"] * 2


@pytest.mark.parametrize("kibibytes", [1, 63, 64, 65, 200, 5_000])
def test_output_of_any_length_is_whole(kibibytes: int) -> None:
    """What comes during the birth, what fills the pipe, and what comes later."""
    script = f"import sys, time; print('x' * {kibibytes * 1024}, end='', flush=True); sys.stderr.write('e')"
    for more in ("", "; time.sleep(0.05); print('more')"):
        ran = fastproc.run([sys.executable, "-c", script + more], capture_output=True)
        assert len(ran.stdout) == kibibytes * 1024 + (5 if more else 0)
        assert ran.stdout.endswith(b"more\n" if more else b"x")
        assert ran.stderr == b"e"


def test_a_signal_that_comes_beside_a_birth_is_handled(programs: Programs) -> None:
    """All are blocked meanwhile; its handler runs as soon as they are let in, and may raise."""
    said = fresh.run(
        """
        import itertools
        sleeper = programs.ready_then_sleep()
        heard = 0
        fastproc.run([programs.nop()[0]])
        for turn in itertools.count():
            signal.signal(signal.SIGALRM, lambda *_: 1 / 0)
            signal.setitimer(signal.ITIMER_REAL, 0.0002 + turn % 100 * 0.0001)
            try:
                fastproc.run(sleeper, stdout=DEVNULL)
            except ZeroDivisionError:
                heard += 1
            if heard == 100:
                break
        print(heard, children())
        """,
        programs,
    )

    assert said == "100 []\n"


@beside_births
def test_a_signal_that_comes_beside_a_birth_is_not_forgotten_when_the_child_ends(programs: Programs) -> None:
    """What the child has left holds the pipe, and so the call."""
    said = fresh.run(
        """
        signal.signal(signal.SIGUSR1, lambda *_: 1 / 0)
        fastproc.run(["true"], stdout=PIPE)
        began = time.monotonic()
        try:
            fastproc.run(["sh", "-c", "kill -USR1 $PPID; sleep 5 & exit 3"], stdout=PIPE, timeout=30)
        except ZeroDivisionError:
            print(time.monotonic() - began < 4)
        """,
        programs,
    )

    assert said == "True\n"


@beside_births
def test_who_closes_descriptors_that_are_not_his_takes_no_memory_from_the_child(programs: Programs) -> None:
    """That the pidfd is gone does not mean that the child has left our memory."""
    said = fresh.run(
        """
        program = programs.exits_with(7)
        directory, name = os.path.split(program[0])
        # It takes a while to be found.
        path = ":".join([*(f"/nonexistent/directory{n}" for n in range(3000)), directory])
        fastproc.run(program)
        lowest = os.dup(0)
        os.close(lowest)
        over = False

        def close():
            while not over:
                os.closerange(lowest, lowest + 4)
                time.sleep(0.0003)

        closing = threading.Thread(target=close, daemon=True)
        closing.start()
        codes = {fastproc.run([name, *program[1:]], env={"PATH": path}).returncode for _ in range(60)}
        over = True
        closing.join()
        print(codes)
        """,
        programs,
    )

    assert said == "{7}\n"
