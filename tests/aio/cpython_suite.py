"""Runs the interpreter's own tests of asyncio's subprocesses with the functions of fastproc.aio in place.

A program of its own, as it changes asyncio: `python cpython_suite.py [unittest's arguments]`. What is not run
is listed in EXCLUDED, each with its reason.
"""

from __future__ import annotations

import asyncio
import asyncio.subprocess
import sys
import unittest

from fastproc import aio, capabilities

INTERNALS = "about the transports of asyncio, which nothing here is made of"
WATCHERS = "about child watchers; there are none here"
EXCLUDED = {
    "SubprocessTransportTests": INTERNALS,
    "test_cancel_post_init": INTERNALS + ": it calls loop.subprocess_exec() itself",
    "test_close_kill_running": INTERNALS + ": it calls loop.subprocess_exec() itself",
    "test_close_dont_kill_finished": INTERNALS + ": it calls loop.subprocess_exec() itself",
    "test_subprocess_protocol_events": INTERNALS + ": it calls loop.subprocess_exec() itself",
    "test_pause_reading": INTERNALS
    + ": it puts mocks into loop.connect_read_pipe(); what it is about is shown by "
    "test_streams.py::test_a_child_that_nobody_reads_is_held_back",
    "test_popen_error": "puts a mock in the place of subprocess.Popen, which is not used here",
    "test_popen_error_with_stdin_pipe": "puts a mock in the place of subprocess.Popen, not used here",
    "test_create_subprocess_fails_with_inactive_watcher": WATCHERS,
    "MultiLoopChildWatcherTests": WATCHERS,
}
# It waits for any child, ours among them: only Linux 6.15 says afterwards how such a one has ended.
REAPS_ALL = "SubprocessFastWatcherTests"


def put_in_place() -> None:
    """Have asyncio's names mean ours."""
    for module in (asyncio, asyncio.subprocess):
        module.create_subprocess_exec = aio.create_subprocess_exec  # type: ignore[attr-defined]
        module.create_subprocess_shell = aio.create_subprocess_shell  # type: ignore[attr-defined]
    asyncio.subprocess.Process = aio.Process  # type: ignore[assignment,misc]


def is_excluded(test: unittest.TestCase) -> bool:
    """Whether it is named above, by its class or by its method."""
    _module, kind, method = test.id().rsplit(".", 2)
    return kind in EXCLUDED or method in EXCLUDED


def can_hold(test: unittest.TestCase) -> bool:
    """Whether this kernel has what it takes."""
    return bool(capabilities()["pidfd_info"]) or test.id().split(".")[-2] != REAPS_ALL


def flat(suite: unittest.TestSuite | unittest.TestCase) -> list[unittest.TestCase]:
    """All tests of a suite."""
    if isinstance(suite, unittest.TestCase):
        return [suite]
    return [test for part in suite for test in flat(part)]  # type: ignore[arg-type]


def main() -> int:
    """Run them; the exit code says whether all have passed."""
    from test.test_asyncio import test_subprocess

    put_in_place()
    tests = [
        test
        for test in flat(unittest.defaultTestLoader.loadTestsFromModule(test_subprocess))
        if can_hold(test)
    ]
    chosen = [test for test in tests if not is_excluded(test)]
    if len(sys.argv) > 1:
        chosen = [test for test in chosen if any(word in test.id() for word in sys.argv[1:])]
    # Once before the first test, as the test of asyncio that is run before these does it in CPython's own
    # run.
    asyncio.set_event_loop(None)
    asyncio.run(aio.run(["true"]))
    result = unittest.TextTestRunner(verbosity=2).run(unittest.TestSuite(chosen))
    print(f"ran {result.testsRun} of {len(tests)}", file=sys.stderr)
    return 0 if result.wasSuccessful() and result.testsRun >= 1 else 1


if __name__ == "__main__":
    sys.exit(main())
