"""A status says what the kernel said, and nothing else."""

from __future__ import annotations

import dataclasses
import pickle
import signal

import pytest

from fastproc.status import ExitReason, ExitStatus, ResourceUsage, StopReport, StopResult


def test_reasons_stand_in_the_order_of_the_c_library() -> None:
    assert [str(reason) for reason in ExitReason] == [
        "exited",
        "signaled",
        "timeout",
        "idle_timeout",
        "terminated",
        "cancelled",
        "output_limit",
        "cpu_limit",
        "oom",
        "unknown",
    ]


def test_an_exit_code_is_the_returncode() -> None:
    status = ExitStatus.exited(3)

    assert (status.code, status.signal, status.returncode) == (3, None, 3)
    assert status.reason is ExitReason.EXITED
    assert not status.ok
    assert ExitStatus.exited(0).ok


def test_a_signal_is_a_negative_returncode() -> None:
    status = ExitStatus.signaled(signal.SIGSEGV, core_dumped=True)

    assert (status.code, status.signal, status.returncode) == (None, 11, -11)
    assert status.core_dumped
    assert not status.ok


def test_an_unknown_status_is_never_invented() -> None:
    status = ExitStatus.unknown()

    assert (status.code, status.signal, status.returncode) == (None, None, None)
    assert not status.ok


def test_code_zero_after_a_timeout_is_not_ok() -> None:
    assert not ExitStatus(reason=ExitReason.TIMEOUT, code=0).ok


def test_equal_are_those_that_ended_alike_whenever_that_was() -> None:
    early = ExitStatus.exited(7, started=1.0, ended=2.0)
    late = dataclasses.replace(early, started=5.0, ended=9.0, rusage=ResourceUsage(user=1.0))

    assert early == late == ExitStatus.exited(7)
    assert hash(early) == hash(late)
    assert early != ExitStatus.exited(8)
    assert early.duration == 1.0


def test_a_status_is_frozen_and_can_be_pickled() -> None:
    status = ExitStatus.exited(7, started=1.0, ended=2.5)

    assert pickle.loads(pickle.dumps(status)).duration == 1.5
    with pytest.raises(dataclasses.FrozenInstanceError):
        status.code = 0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        (ExitStatus.exited(0, started=1.0, ended=1.012), "Exited with code 0, after 12 ms."),
        (ExitStatus.exited(1), "Exited with code 1."),
        (ExitStatus.exited(127), "Exited with code 127 (by shell custom: command not found)."),
        (
            ExitStatus.exited(137),
            "Exited with code 137 (by shell custom: a command of its own was ended by SIGKILL).",
        ),
        (ExitStatus.exited(255), "Exited with code 255."),
        (
            ExitStatus.signaled(signal.SIGSEGV, core_dumped=True, started=0.0, ended=0.5),
            "Killed by SIGSEGV (invalid memory reference), after 0.5 s, leaving a core dump.",
        ),
        (
            ExitStatus.signaled(signal.SIGKILL, started=0.0, ended=75.2),
            "Killed by SIGKILL, after 1 min 15 s.",
        ),
        (ExitStatus.signaled(40), "Killed by signal 40."),
        (
            ExitStatus(reason=ExitReason.TIMEOUT, signal=15, started=0.0, ended=5.0),
            "Stopped at its time limit, ended by SIGTERM, after 5 s.",
        ),
        (
            ExitStatus(reason=ExitReason.TIMEOUT, signal=9, escalated=True, started=0.0, ended=7200.0),
            "Stopped at its time limit, killed when its grace had passed, after 2 h 0 min 0 s.",
        ),
        (
            ExitStatus(reason=ExitReason.IDLE_TIMEOUT, signal=15),
            "Stopped because it had written nothing for too long, ended by SIGTERM.",
        ),
        (
            ExitStatus(reason=ExitReason.TERMINATED, code=3, leftovers=True),
            "Stopped on request, exiting with code 3; descendants outlived it.",
        ),
        (
            ExitStatus(reason=ExitReason.CANCELLED, signal=15),
            "Stopped because it was cancelled, ended by SIGTERM.",
        ),
        (
            ExitStatus(reason=ExitReason.OUTPUT_LIMIT, signal=15),
            "Stopped because it had written more than it may, ended by SIGTERM.",
        ),
        (
            ExitStatus(reason=ExitReason.CPU_LIMIT, signal=24),
            "Ended by the kernel at its CPU time limit, ended by SIGXCPU.",
        ),
        (
            ExitStatus(reason=ExitReason.OOM, signal=9),
            "Ended by the kernel because memory was used up, ended by SIGKILL.",
        ),
        (
            ExitStatus.unknown(started=0.0, ended=2.0),
            "Ended, but nobody knows how: somebody else took its status, after 2 s.",
        ),
    ],
)
def test_explain_says_it_in_one_sentence(status: ExitStatus, sentence: str) -> None:
    assert status.explain() == sentence


def test_every_reason_is_explained_with_every_outcome() -> None:
    for reason in ExitReason:
        for code, number in ((0, None), (None, 9), (None, None)):
            sentence = ExitStatus(reason=reason, code=code, signal=number).explain()
            assert sentence.endswith(".")
            assert "\n" not in sentence


def test_a_stop_result_is_true_when_nothing_is_left() -> None:
    stopped = StopResult(task_id="a", status=ExitStatus.exited(0), proof="session")
    survived = StopResult(task_id="b", status=ExitStatus.exited(0), survivors=[17])
    unkillable = StopResult(task_id="c", status=None)

    assert stopped
    assert stopped.stopped
    assert stopped.survivors == []
    assert not survived
    assert not unkillable


def test_a_stop_report_is_true_when_nobody_is_left() -> None:
    stopped = StopResult(task_id="a", status=ExitStatus.exited(0))
    unkillable = StopResult(task_id="c", status=None)

    assert StopReport()
    assert StopReport(results=[stopped], elapsed=0.1)
    assert not StopReport(results=[stopped], survivors=[17])
    assert not StopReport(results=[stopped, unkillable])
