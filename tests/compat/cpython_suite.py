"""Run the interpreter's own test.test_subprocess with fastproc.subprocess in the place of the module.

    python tests/compat/cpython_suite.py [--json] [PATTERN ...]

With patterns only tests whose name contains one of them. Prints what has failed; with --json one object:
how many have run, and the names and last lines of those that failed or were skipped.
"""

from __future__ import annotations

import importlib
import io
import json
import sys
import unittest
from collections.abc import Iterator

SUITE = "test.test_subprocess"

# What looks into the machinery that is replaced, and why it cannot find what it looks for.
EXPECTED_TO_FAIL = {
    "test__use_vfork": "replaces _fork_exec(), by which the standard class starts children, and ours none",
    "test_exception_errpipe_normal": "replaces _fork_exec() by what writes into a pipe that we do not have",
    "test_exception_errpipe_bad_data": "the same",
    "test_stopped": "replaces os.waitpid() by one that tells of a stopped child, without being asked to; "
    "ours asks the kernel by waitid(2), and finds the true status",
}


def tests_in(suite: unittest.TestSuite) -> Iterator[unittest.TestCase]:
    """All tests, one by one."""
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from tests_in(test)
        else:
            yield test


def main(arguments: list[str]) -> int:
    """Returns 1 if a test has failed that is not expected to."""
    as_json = "--json" in arguments
    patterns = [argument for argument in arguments if argument != "--json"]
    # What the suite itself is made of may have the standard module.
    importlib.import_module("test.support.script_helper")
    sys.modules["subprocess"] = importlib.import_module("fastproc.subprocess")
    suite = importlib.import_module(SUITE)
    assert suite.subprocess is sys.modules["subprocess"]

    loaded = unittest.defaultTestLoader.loadTestsFromModule(suite)
    chosen = unittest.TestSuite(
        test for test in tests_in(loaded) if not patterns or any(it in test.id() for it in patterns)
    )
    words = io.StringIO() if as_json else sys.stderr
    result = unittest.TextTestRunner(words, verbosity=1).run(chosen)
    failed = {
        test.id().removeprefix(f"{SUITE}."): trace.strip().splitlines()[-1]
        for test, trace in [*result.failures, *result.errors]
    }
    skipped = {test.id().removeprefix(f"{SUITE}."): reason for test, reason in result.skipped}
    if as_json:
        print(json.dumps({"ran": result.testsRun, "failed": failed, "skipped": skipped}))
    return int(any(name.rpartition(".")[2] not in EXPECTED_TO_FAIL for name in failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
