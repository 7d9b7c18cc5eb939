"""CPython's own tests of subprocess, with ours in its place."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.compat.cpython_suite import EXPECTED_TO_FAIL

RUNNER = Path(__file__).with_name("cpython_suite.py")


@pytest.mark.timeout(420)
def test_the_tests_of_the_standard_module_pass() -> None:
    """All but the few that replace its machinery; those must fail, or they are to be taken from the list."""
    if importlib.util.find_spec("test") is None or importlib.util.find_spec("test.test_subprocess") is None:
        pytest.skip("this interpreter was installed without its tests")

    # Its own output is no matter, and warnings of its tests are not ours.
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(RUNNER), "--json"],
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )

    assert done.stdout, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    failed = {name.rpartition(".")[2]: words for name, words in found["failed"].items()}
    surprises = {name: words for name, words in failed.items() if name not in EXPECTED_TO_FAIL}
    assert surprises == {}
    assert found["ran"] > 290
    assert set(EXPECTED_TO_FAIL) - set(failed) == set()


BUILT_UPON_IT = ("test.test_popen", "test.test_asyncio.test_subprocess")
UNDER_INSTALL = """
import test.support.script_helper, sys, unittest
import fastproc
fastproc.install()
import subprocess
assert subprocess.Popen is fastproc.Popen
tests = unittest.defaultTestLoader.loadTestsFromNames(sys.argv[1:])
result = unittest.TextTestRunner().run(tests)
sys.exit(not result.wasSuccessful() or result.testsRun < 50)
"""


@pytest.mark.timeout(240)
def test_the_tests_of_what_is_built_upon_the_standard_module_pass_too() -> None:
    """os.popen and asyncio start by it: unchanged, under fastproc.install()."""
    if (
        importlib.util.find_spec("test") is None
        or importlib.util.find_spec("test.test_asyncio.test_subprocess") is None
    ):
        pytest.skip("this interpreter was installed without its tests")

    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", UNDER_INSTALL, *BUILT_UPON_IT],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )

    assert done.returncode == 0, done.stderr
