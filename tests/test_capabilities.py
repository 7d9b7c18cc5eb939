"""The same promises on lesser kernels: capabilities hidden one by one and all, calls refused by filters.

For each a program of its own runs a selection of the tests with real processes: what starts, waits, stops,
captures and keeps deadlines. The whole suite for each is slow: `pytest -m slow tests/test_capabilities.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration import seccomp
from tests.integration.lesser_kernels import Request, Runner
from tests.programs import SOURCES, Programs

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
# Two ways that no single one of them opens: fork, and closing every descriptor that there may be.
PAIRS = ("clone3,clone", "close_range,procfs")

# One or two of each kind, and quick ones, as they are run two dozen times.
SELECTION = {
    "test_manager_basics.py": [
        "test_a_process_ends_with_its_code",
        "test_a_signal_is_not_an_exit_code[9]",
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
        "test_a_program_that_is_missing_is_named[start_many]",
        "test_a_child_that_is_killed_before_it_is_a_program_was_never_started",
        "test_no_start_succeeds_before_the_program_is_known_to_run",
    ],
    "test_spawn_options.py": [
        "test_it_leads_a_session_or_a_group_or_neither[start_process]",
        "test_all_options_work_together[start_process]",
        "test_all_options_work_together[start_many]",
    ],
    "test_descriptors.py": [
        "test_a_child_sees_its_streams_and_nothing_else",
        "test_many_descriptors_are_passed_on",
    ],
}
CHOSEN = [f"tests/integration/{file}::{name}" for file, names in SELECTION.items() for name in names]
WHOLE = ["tests/integration", "tests/unit"]


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    """What runs the tests, with all test programs compiled."""
    programs = Programs(tmp_path_factory.mktemp("compiled"))
    for source in SOURCES.glob("*.c"):
        programs.path(source.stem)
    made = Runner(str(programs.directory))
    yield made
    made.close()


def passes(runner: Runner, directory: Path, tests: list[str], *, disable: str = "", under: str = "") -> None:
    """Run tests with these capabilities hidden, or under that filter."""
    log = directory / "log"
    # Hypothesis is there already, and its own asserts need no rewriting.
    options = ["-q", "-x", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    code = runner.run(Request(args=[*options, *tests], log=str(log), disable=disable, under=under))
    assert code == 0, log.read_text()[-8000:]


@pytest.mark.parametrize("hidden", [*HIDDEN, *PAIRS])
def test_the_promises_hold_without_a_capability(runner: Runner, tmp_path: Path, hidden: str) -> None:
    """What the library has learnt is hidden from it, as on a kernel without."""
    passes(runner, tmp_path, CHOSEN, disable=hidden)


@pytest.mark.skipif(not seccomp.is_available(), reason="needs seccomp filters")
@pytest.mark.parametrize("name", seccomp.FILTERS)
def test_the_promises_hold_when_calls_are_refused(runner: Runner, tmp_path: Path, name: str) -> None:
    """The library finds out by itself, and goes the next way; so it is in containers and on older kernels."""
    passes(runner, tmp_path, CHOSEN, under=name)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("hidden", [*HIDDEN, *PAIRS])
def test_the_whole_suite_passes_without_a_capability(runner: Runner, tmp_path: Path, hidden: str) -> None:
    """All tests with real processes, and those of values."""
    passes(runner, tmp_path, WHOLE, disable=hidden)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not seccomp.is_available(), reason="needs seccomp filters")
@pytest.mark.parametrize("name", seccomp.FILTERS)
def test_the_whole_suite_passes_when_calls_are_refused(runner: Runner, tmp_path: Path, name: str) -> None:
    """The same under each filter."""
    passes(runner, tmp_path, WHOLE, under=name)
