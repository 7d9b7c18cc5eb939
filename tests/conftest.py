"""Fixtures of all tests. No test may leave anything behind: no child, zombie, thread or descriptor."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.programs import Programs

if TYPE_CHECKING:
    from fastproc import ProcessManager

# The engine's own: they are made with the first start and stay until the program ends.
_ENGINE_THREADS = "fastproc-supervisor-"
_PATIENCE = 3.0


def pytest_configure() -> None:
    """A shell lets jobs in the background ignore these; what is tested must not depend on it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)


def pytest_collection_finish() -> None:
    """What is there before the first test need not be looked at by the collection of garbage after each."""
    # Its plugins, that of trio for one, ask who holds an object: what is frozen is not found then.
    import hypothesis  # noqa: F401

    gc.collect()
    gc.freeze()


def children_of_ours() -> set[int]:
    """The children of this process, zombies included."""
    children: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        try:
            children.update(map(int, (task / "children").read_text().split()))
        except OSError:
            continue  # a thread that has just ended
    return children


def open_descriptors() -> dict[int, str]:
    """What this process has open, without the cgroups that the engine keeps for the next job."""
    descriptors = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue  # the one that was listing
        if not target.startswith("/sys/fs/cgroup"):
            descriptors[int(name)] = target
    return descriptors


def threads_of_ours() -> set[str]:
    """The threads that were started in Python, without those of the engine."""
    names = {thread.name for thread in threading.enumerate()}
    return {name for name in names if not name.startswith(_ENGINE_THREADS)}


def eventually(is_so: Callable[[], bool], patience: float = _PATIENCE) -> bool:
    """Whether something becomes true in time. Only for what gives no sign: better to read a line."""
    until = time.monotonic() + patience
    while not is_so():
        if time.monotonic() > until:
            return False
        time.sleep(0.005)
    return True


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Programs]:
    """The tiny programs that tests start."""
    # A suite that runs another one lends it what it has compiled.
    made = Programs(os.environ.get("FASTPROC_TEST_PROGRAMS") or tmp_path_factory.mktemp("programs"))
    yield made
    made.end_all()


@pytest.fixture(scope="session")
def _engine() -> None:
    """The engine, made before the first test counts descriptors and threads."""
    import fastproc

    with fastproc.ProcessManager() as manager:
        manager.start_process("first", ["true"]).wait()


@pytest.fixture
def manager(_engine: None) -> Iterator[ProcessManager]:
    """A manager that is closed after the test."""
    import fastproc

    with fastproc.ProcessManager(grace=2.0, kill_timeout=2.0) as made:
        yield made


@pytest.fixture(autouse=True)
def no_leftovers(request: pytest.FixtureRequest) -> Iterator[None]:
    """What is there after a test was there before it."""
    # A test of values starts nothing, and shall not make an engine. The others see it made before they count.
    if "unit" not in Path(request.node.path).parts and "fastproc" in sys.modules:
        request.getfixturevalue("_engine")
    children = children_of_ours()
    descriptors = open_descriptors()
    threads = threads_of_ours()
    yield
    # What was forgotten in a reference cycle is closed when that is collected.
    gc.collect()
    eventually(
        lambda: (
            threads_of_ours() <= threads
            and children_of_ours() <= children
            and open_descriptors().keys() <= descriptors.keys()
        )
    )
    assert children_of_ours() - children == set(), "children are left, zombies perhaps"
    assert threads_of_ours() - threads == set(), "threads are left"
    assert open_descriptors().keys() - descriptors.keys() == set(), "descriptors are left open"
