"""Libraries that lean on subprocess run their own tests on the drop-in: the outcome of each is as without it.

They come from PyPI, in fixed versions; where that cannot be reached the tests are skipped.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import xml.etree.ElementTree as ET
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

import fastproc

PLUGIN = Path(__file__).with_name("plugin")
SOURCES = Path(fastproc.__file__).parents[1]


@dataclass(frozen=True)
class Library:
    """What is taken from PyPI, which of its tests are run, and what these need besides."""

    name: str
    version: str
    tests: tuple[str, ...]
    needs: tuple[str, ...] = ()
    at_least: int = 10


LIBRARIES = [
    Library("pexpect", "4.9.0", ("tests/test_popen_spawn.py",)),
    Library(
        "plumbum",
        "2.0.2",
        ("tests/test_local.py", "tests/test_pipelines.py", "tests/test_nohup.py"),
        needs=("pytest-asyncio", "pytest-mock", "pytest-timeout", "psutil"),
        at_least=100,
    ),
    Library("nox", "2026.10.20", ("tests/test_command.py", "tests/test_virtualenv.py"), at_least=150),
    Library("execnet", "2.1.2", ("testing/test_gateway.py", "testing/test_termination.py"), at_least=100),
]


def pip(*arguments: str) -> None:
    """Skip the test if PyPI has not got it for us."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    if done.returncode != 0:
        pytest.skip(f"not to be had from PyPI: {done.stderr.strip().splitlines()[-1:]}")


def fetch(library: Library, where: Path) -> tuple[Path, Path]:
    """Its unpacked source distribution, and a directory in which it is installed."""
    pinned = f"{library.name}=={library.version}"
    pip("download", "--no-deps", "--no-binary", ":all:", "--dest", str(where), pinned)
    (archive,) = where.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(where / "source", filter="data")
    (source,) = (where / "source").iterdir()
    installed = where / "installed"
    pip("install", "--target", str(installed), str(archive), *library.needs)
    for name in ("pytest", "_pytest", "pluggy"):  # ours, which is made for this interpreter, comes first
        subprocess.run(["rm", "-rf", str(installed / name)], check=True)
    return source, installed


def outcomes(
    library: Library, source: Path, installed: Path, *, ours: bool, only: Collection[str] = ()
) -> dict[str, str]:
    """What became of each test, or of those alone whose names are given, and their namesakes."""
    report = installed / f"report-{ours}.xml"
    note = installed / "note"
    path = [str(installed), str(PLUGIN), str(SOURCES)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path), "RUNS_ON_FASTPROC_NOTE": str(note)}
    options = ["-q", "-p", "no:cacheprovider", "-W", "ignore", "-o", "addopts=", f"--junitxml={report}"]
    if ours:
        options += ["-p", "runs_on_fastproc"]
    if only:
        options += ["-k", " or ".join(sorted({name.rpartition("::")[2].partition("[")[0] for name in only}))]
    report.unlink(missing_ok=True)
    note.unlink(missing_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *library.tests],
        cwd=source,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    assert report.exists(), done.stdout + done.stderr
    assert not ours or note.read_text() == "fastproc.subprocess"
    found = {}
    for case in ET.parse(report).getroot().iter("testcase"):
        ends = [child.tag for child in case if child.tag in {"failure", "error", "skipped"}]
        found[f"{case.get('classname')}::{case.get('name')}"] = ends[0] if ends else "passed"
    return found


def one_sided(
    names: Collection[str], library: Library, source: Path, installed: Path, with_standard: Mapping[str, str]
) -> dict[str, tuple[list[str | None], set[str | None]]]:
    """Which tests really differ: those of `names` are run again, five times on each.

    Some wait half a second for what a machine with other work does in a whole one, and fail on either module.
    Ours has to do each time what the standard module has done at least once.
    """
    standard = {name: {with_standard.get(name)} for name in names}
    ours: dict[str, list[str | None]] = {name: [] for name in names}
    for _round in range(5 if names else 0):
        again = outcomes(library, source, installed, ours=False, only=names)
        ours_again = outcomes(library, source, installed, ours=True, only=names)
        for name in names:
            standard[name].add(again.get(name))
            ours[name].append(ours_again.get(name))
    return {name: (ours[name], standard[name]) for name in names if not standard[name].issuperset(ours[name])}


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.name)
def test_a_library_passes_its_own_tests_as_before(library: Library, tmp_path: Path) -> None:
    """Each test has the same outcome on the standard module and on ours."""
    source, installed = fetch(library, tmp_path)

    with_standard = outcomes(library, source, installed, ours=False)
    with_ours = outcomes(library, source, installed, ours=True)

    assert list(with_standard.values()).count("passed") >= library.at_least
    differing = {
        name
        for name in with_standard.keys() | with_ours.keys()
        if with_standard.get(name) != with_ours.get(name)
    }
    assert one_sided(differing, library, source, installed, with_standard) == {}
