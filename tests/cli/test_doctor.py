"""fastproc doctor, and the command line as a whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.cli.conftest import Cli

import fastproc
from fastproc.cli.doctor import ADVICE, _about_limits


def test_the_doctor_lists_every_capability(cli: Cli) -> None:
    ended = cli("doctor")
    assert ended.code == 0
    for name in fastproc.capabilities():
        assert f"\n{name} " in ended.out


def test_the_doctor_speaks_json(cli: Cli) -> None:
    said = json.loads(cli("doctor", "--json").out)
    assert said["fastproc"] == fastproc.__version__
    assert said["capabilities"].keys() == fastproc.capabilities().keys()


def test_there_is_advice_for_whatever_may_be_missing() -> None:
    flags = {name for name, value in fastproc.capabilities().items() if isinstance(value, bool)}
    assert flags == ADVICE.keys()


def test_what_is_missing_comes_with_advice() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "fastproc", "doctor"],
        env=os.environ | {"FASTPROC_DISABLE": "pidfd_info,close_range"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "needs Linux 6.15" in ended.stdout
    assert "needs Linux 5.9" in ended.stdout


def test_missing_controllers_are_told_before_a_limit_needs_them(tmp_path: Path) -> None:
    """Leaves can be made there, and yet no limits be set."""
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu pids\n")
    (tmp_path / "cgroup.procs").write_text("")
    assert "no controller for memory here" in str(_about_limits(tmp_path))

    (tmp_path / "cgroup.controllers").write_text("cpu memory pids\n")
    assert _about_limits(tmp_path) is None

    (tmp_path / "cgroup.type").write_text("domain\n")
    (tmp_path / "cgroup.procs").write_text("17\n")
    assert "as long as processes live in this very directory" in str(_about_limits(tmp_path))

    (tmp_path / "cgroup.subtree_control").write_text("cpu memory pids\n")
    assert _about_limits(tmp_path) is None


def test_help_and_version(cli: Cli) -> None:
    assert "run" in cli("--help").out
    assert "COMMAND" in cli("run", "--help").out
    assert fastproc.__version__ in cli("--version").out


def test_a_missing_extra_is_named() -> None:
    program = (
        "import sys; sys.modules['rich'] = None; from fastproc.cli import main; sys.exit(main(['doctor']))"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ended.returncode == 125
    assert ended.stderr == (
        "fastproc: the command line needs rich; install it with: python3 -m pip install 'fastproc[cli]'\n"
    )
