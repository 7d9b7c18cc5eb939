"""Fixtures of the tests with real processes."""

from __future__ import annotations

from typing import Literal

import pytest

import fastproc


@pytest.fixture(params=["session", "cgroup"])
def containment(request: pytest.FixtureRequest) -> Literal["session", "cgroup"]:
    """Each of the two sets that keep the descendants of a process together."""
    if request.param == "cgroup" and not fastproc.capabilities()["cgroup"]:
        pytest.skip("no writable directory of cgroup v2")
    found: Literal["session", "cgroup"] = request.param
    return found
