"""What a child is born with: no signal blocked or ignored for its host's sake, and core dumps as asked."""

from __future__ import annotations

import json
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.programs import Programs
from tests.watch import first_line

from fastproc import PIPE, Command, Limits, Process, ProcessManager

BLOCKED = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGUSR1, signal.SIGRTMIN + 2}
IGNORED = (signal.SIGPIPE, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD, signal.SIGRTMIN + 3)


@contextmanager
def odd_host() -> Iterator[None]:
    """This thread blocks some signals, and the program ignores or handles others."""
    before = {number: signal.getsignal(number) for number in (*IGNORED, signal.SIGUSR2)}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)
    try:
        for number in IGNORED:
            if number != signal.SIGCHLD:
                signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGUSR2, lambda *_: None)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def both_ways(manager: ProcessManager, command: Command) -> list[Process]:
    """Started in this thread, and in a thread of the engine, which blocks all signals."""
    (many,) = manager.start_many([("by the engine", command)])
    assert isinstance(many, Process)
    return [manager.start_process("by us", command), many]


def signals_of(process: Process) -> dict[str, Any]:
    """The signal sets that it was born with."""
    assert process.wait(20).ok
    found: dict[str, Any] = json.loads(process.stdout_bytes)
    return found


def test_no_signal_is_blocked_or_ignored_at_birth(manager: ProcessManager, programs: Programs) -> None:
    """Masks and ignored signals survive execve(2), so they are reset; real-time signals too."""
    with odd_host():
        processes = both_ways(manager, Command(programs.prints_signals(), stdout=PIPE))

        for process in processes:
            assert signals_of(process) == {"blocked": [], "ignored": [], "caught": [], "pending": []}


def test_the_hosts_own_mask_and_dispositions_stay(manager: ProcessManager, programs: Programs) -> None:
    with odd_host():
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])

        for process in both_ways(manager, Command(programs.nop())):
            process.wait(20)

        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == mask
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_a_child_of_a_host_that_blocks_sigterm_can_be_asked_to_end(
    manager: ProcessManager, programs: Programs
) -> None:
    with odd_host():
        processes = both_ways(manager, Command(programs.ready_then_sleep(), stdout=PIPE))
        for process in processes:
            first_line(process)

            result = process.terminate(20)

            assert result.status is not None
            assert (result.status.signal, result.escalated) == (signal.SIGTERM, False)


# ---- core dumps ----


def test_a_core_dump_is_left_out_on_request(
    manager: ProcessManager, programs: Programs, tmp_path: Path
) -> None:
    """A limit of nothing: no time is spent on writing one."""
    process = manager.start_process(
        "dumps", programs.dies_by(signal.SIGABRT, core=True), cwd=tmp_path, limits=Limits(core=0)
    )

    status = process.wait(20)

    assert (status.signal, status.core_dumped) == (signal.SIGABRT, False)
    assert list(tmp_path.iterdir()) == []


def test_a_core_dump_is_told(manager: ProcessManager, programs: Programs, tmp_path: Path) -> None:
    """That it was left is part of the status."""
    pattern = Path("/proc/sys/kernel/core_pattern").read_text()
    if resource.getrlimit(resource.RLIMIT_CORE)[1] == 0 or pattern.startswith(("|", "/", "@")):
        pytest.skip("no core dumps into the working directory here")
    process = manager.start_process(
        "dumps",
        programs.dies_by(signal.SIGABRT, core=True),
        cwd=tmp_path,
        limits=Limits(core=resource.getrlimit(resource.RLIMIT_CORE)[1]),
    )

    status = process.wait(20)

    assert (status.signal, status.core_dumped) == (signal.SIGABRT, True)
    assert "core dump" in status.explain()
    assert [file for file in tmp_path.iterdir() if file.stat().st_size > 0]
