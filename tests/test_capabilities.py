"""The same promises on lesser kernels: capabilities hidden one by one and all, calls refused by filters.

For each a program of its own runs a selection of the tests with real processes: what starts, waits, stops,
captures and keeps deadlines. The whole suite for each is slow: `pytest -m slow tests/test_capabilities.py`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.integration import seccomp
from tests.programs import Programs

ROOT = Path(__file__).resolve().parent.parent
CAPABILITIES = (
    "clone3",
    "clone",
    "pidfd",
    "pidfd_signal",
    "pidfd_wait",
    "pidfd_group",
    "pidfd_info",
    "close_range",
    "cgroup",
    "into_cgroup",
    "cgroup_kill",
    "procfs",
)
HIDDEN = (*CAPABILITIES, "all")
# Two ways that no single one of them opens: fork, and closing one descriptor after the other.
PAIRS = ("clone3,clone", "close_range,procfs")

# One or two of each kind, and quick ones, as they are run two dozen times.
SELECTION = {
    "test_manager_basics.py": [
        "test_a_process_ends_with_its_code",
        "test_a_signal_is_not_an_exit_code",
        "test_a_running_process_is_seen_and_found",
        "test_output_is_captured_by_stream",
        "test_input_is_fed_whole",
        "test_the_step_that_failed_is_named",
        "test_a_task_that_obeys_is_asked_once",
        "test_descendants_are_stopped_with_it",
        "test_leftovers_are_stopped_unless_they_shall_be_kept",
        "test_a_time_limit_ends_it",
        "test_many_are_started_in_one_go",
        "test_limits_and_surroundings_reach_the_child",
    ],
    "test_stopping.py": [
        "test_a_family_that_was_stopped_is_stopped_whole",
        "test_each_process_is_asked_once_however_many_ask[session]",
    ],
    "test_spawn_errors.py": [
        "test_a_program_that_is_missing_is_named",
        "test_a_child_that_is_killed_before_it_is_a_program_was_never_started",
        "test_no_start_succeeds_before_the_program_is_known_to_run",
    ],
    "test_spawn_options.py": [
        "test_it_leads_a_session_or_a_group_or_neither",
        "test_all_options_work_together",
    ],
    "test_descriptors.py": [
        "test_a_child_sees_its_streams_and_nothing_else",
        "test_many_descriptors_are_passed_on",
    ],
}
CHOSEN = [f"tests/integration/{file}::{name}" for file, names in SELECTION.items() for name in names]
WHOLE = ["tests/integration", "tests/unit"]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A directory with all test programs, so that each run need not compile them."""
    programs = Programs(tmp_path_factory.mktemp("compiled"))
    for source in (ROOT / "tests" / "programs").glob("*.c"):
        programs.path(source.stem)
    return str(programs.directory)


def passes(compiled: str, tests: list[str], *, disable: str = "", under: str = "") -> None:
    """Run tests in a program that has these capabilities hidden, or runs under that filter."""
    environment = {**os.environ, "FASTPROC_DISABLE": disable, "FASTPROC_TEST_PROGRAMS": compiled}
    begin = ["-m", "tests.integration.seccomp", under] if under else ["-m", "pytest"]
    options = ["-q", "-x", "-p", "no:cacheprovider", "-p", "no:hypothesispytest"]
    ran = subprocess.run(
        [sys.executable, *begin, *options, *tests],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-6000:]


@pytest.mark.parametrize("hidden", [*HIDDEN, *PAIRS])
def test_the_promises_hold_without_a_capability(compiled: str, hidden: str) -> None:
    """What the library has learnt is hidden from it, as on a kernel without."""
    passes(compiled, CHOSEN, disable=hidden)


@pytest.mark.skipif(not seccomp.is_available(), reason="needs seccomp filters")
@pytest.mark.parametrize("name", seccomp.FILTERS)
def test_the_promises_hold_when_calls_are_refused(compiled: str, name: str) -> None:
    """The library finds out by itself, and goes the next way; so it is in containers and on older kernels."""
    passes(compiled, CHOSEN, under=name)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("hidden", [*HIDDEN, *PAIRS])
def test_the_whole_suite_passes_without_a_capability(compiled: str, hidden: str) -> None:
    """All tests with real processes, and those of values."""
    passes(compiled, WHOLE, disable=hidden)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not seccomp.is_available(), reason="needs seccomp filters")
@pytest.mark.parametrize("name", seccomp.FILTERS)
def test_the_whole_suite_passes_when_calls_are_refused(compiled: str, name: str) -> None:
    """The same under each filter."""
    passes(compiled, WHOLE, under=name)
