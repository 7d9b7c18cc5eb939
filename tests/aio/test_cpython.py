"""CPython's own tests of asyncio's subprocesses, with our functions in place."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.aio.cpython_suite import EXCLUDED

SUITE = Path(__file__).with_name("cpython_suite.py")


@pytest.mark.timeout(180)
@pytest.mark.skipif(
    importlib.util.find_spec("test") is None or importlib.util.find_spec("test.test_asyncio") is None,
    reason="this interpreter was installed without CPython's tests",
)
def test_all_but_the_excluded_pass() -> None:
    """In an interpreter of its own, as it changes asyncio; a ResourceWarning is an error."""
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", str(SUITE)],
        capture_output=True,
        text=True,
        check=False,
        timeout=170,
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)),
    )

    said = done.stderr
    assert done.returncode == 0, said
    ran = re.search(r"^ran (\d+) of (\d+)$", said, re.MULTILINE)
    assert ran is not None, said
    # The same tests run once for each of asyncio's child watchers: most of them have to be there.
    assert int(ran[1]) >= 0.7 * int(ran[2]) > 60


def test_each_exclusion_has_its_reason() -> None:
    """A word or two about what it is that is not ours."""
    assert len(EXCLUDED) <= 10
    assert all(len(reason) > 20 for reason in EXCLUDED.values())
