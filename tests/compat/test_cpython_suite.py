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
