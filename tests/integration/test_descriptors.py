"""Descriptors: a child has those that were declared, wherever they were, and no others."""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from tests.integration import fresh
from tests.programs import Programs

from fastproc import DEVNULL, PIPE, STDOUT, Command, Process, ProcessManager


def seen_by(process: Process) -> dict[int, str]:
    """What prints_fds has found open, by its number."""
    assert process.wait(20).ok
    return {int(number): target for number, target in json.loads(process.stdout_bytes).items()}


@contextmanager
def opened(directory: Path, bases: list[int], inheritable: list[bool]) -> Iterator[list[int]]:
    """A file for each base, open under the first free number from there on."""
    descriptors: list[int] = []
    try:
        for number, base in enumerate(bases):
            with open(directory / f"file-{number}", "wb") as file:
                descriptor = fcntl.fcntl(file.fileno(), fcntl.F_DUPFD_CLOEXEC, base)
            os.set_inheritable(descriptor, inheritable[number % len(inheritable)])
            descriptors.append(descriptor)
        yield descriptors
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def test_a_child_sees_its_streams_and_nothing_else(manager: ProcessManager, programs: Programs) -> None:
    """Not what a careless library of the host has left inheritable, be it low or high."""
    careless = [os.dup(0), fcntl.fcntl(0, fcntl.F_DUPFD, 900), fcntl.fcntl(0, fcntl.F_DUPFD, 70)]
    for descriptor in careless:
        os.set_inheritable(descriptor, True)
    try:
        commands = [Command(programs.prints_fds(), stdout=PIPE, stderr=DEVNULL)] * 4
        processes = [manager.start_process("x", commands[0])]
        processes += [it for it in manager.start_many(enumerate(commands)) if isinstance(it, Process)]
        for process in processes:
            assert seen_by(process).keys() == {0, 1, 2}
    finally:
        for descriptor in careless:
            os.close(descriptor)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_descriptors_arrive_in_any_permutation(
    manager: ProcessManager, programs: Programs, tmp_path: Path, data: st.DataObject
) -> None:
    """Streams and passed descriptors overlap, are used twice, stand high and low; none is lost by that."""
    bases = data.draw(st.lists(st.sampled_from([3, 3, 20, 63, 64, 65, 300, 1000]), min_size=1, max_size=6))
    inheritable = data.draw(st.lists(st.booleans(), min_size=1, max_size=6))
    with opened(tmp_path, bases, inheritable) as descriptors:
        passed = data.draw(st.lists(st.sampled_from(descriptors), unique=True))
        streams: dict[str, Any] = {
            "stdin": data.draw(st.sampled_from([DEVNULL, *descriptors])),
            "stdout": data.draw(st.sampled_from(descriptors)),
            "stderr": data.draw(st.sampled_from([DEVNULL, STDOUT, *descriptors])),
        }
        names = {number: os.readlink(f"/proc/self/fd/{number}") for number in descriptors}
        process = manager.start_process("x", programs.prints_fds(), pass_fds=passed, **streams)
        assert process.wait(20).ok
        with open(names[streams["stdout"]], "rb") as output:
            seen = {int(number): target for number, target in json.load(output).items()}

    expected = {number: names[number] for number in passed}
    for number, stream in enumerate(streams.values()):
        source = streams["stdout"] if stream == STDOUT else stream
        expected[number] = "/dev/null" if source == DEVNULL else names[source]
    assert seen == expected


def test_our_own_streams_may_be_swapped_in_any_way(programs: Programs, tmp_path: Path) -> None:
    """Each of the child's three from each of ours: 27 ways, the swap of output and error among them."""
    said = fresh.run(
        f"""
        import itertools, json
        said = os.fdopen(os.dup(1), "w")
        files = [Path({str(tmp_path)!r}) / name for name in "abc"]
        for number, file in enumerate(files):
            os.dup2(os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND), number)
        with ProcessManager() as manager:
            for way in itertools.product(range(3), repeat=3):
                for file in files:
                    os.truncate(file, 0)
                stdin, stdout, stderr = way
                status = manager.start_process(
                    way, programs.prints_fds(), stdin=stdin, stdout=stdout, stderr=stderr
                ).wait(20)
                seen = json.loads(files[stdout].read_text())
                right = {{str(number): str(files[source]) for number, source in enumerate(way)}}
                if not status.ok or seen != right:
                    print(way, seen, file=said)
            print("done", file=said)
        said.close()
        """,
        programs,
    )

    assert said == "done\n"


@pytest.mark.parametrize("before", [True, False])
def test_a_host_without_streams_can_start_and_capture(
    programs: Programs, tmp_path: Path, before: bool
) -> None:
    """Whichever of 0, 1 and 2 are closed, before the engine is made or after: nothing of ours gets there."""
    report = tmp_path / "report"
    fresh.run(
        f"""
        import fcntl, itertools, json
        report = os.open({str(report)!r}, os.O_WRONLY | os.O_CREAT, 0o600)
        report = fcntl.fcntl(report, fcntl.F_DUPFD_CLOEXEC, 100)
        ours = [fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 100) for number in range(3)]
        if not {before}:
            with ProcessManager() as manager:
                manager.start_process("first", ["true"]).wait(20)
        for gone in itertools.chain.from_iterable(itertools.combinations(range(3), n) for n in (3, 2, 1, 0)):
            for number in gone:
                os.close(number)
            with ProcessManager() as manager:
                echo = manager.start_process(
                    "echo", ["sh", "-c", "cat; echo error >&2"], input=b"in", stdout=PIPE, stderr=PIPE
                )
                (mirror,) = manager.start_many(
                    [("x", fastproc.Command(programs.prints_fds(), stdout=PIPE, stderr=DEVNULL))]
                )
                file = manager.start_process(
                    "y", programs.prints_fds(), stdin=report, stdout=PIPE, stderr=report
                )
                for process in (echo, mirror, file):
                    process.wait(20)
                # The engine goes on when the host opens something there later.
                right = (
                    not any(os.path.lexists(f"/proc/self/fd/{{number}}") for number in gone)
                    and (echo.stdout_bytes, echo.stderr_bytes) == (b"in", b"error\\n")
                    and sorted(json.loads(mirror.stdout_bytes)) == ["0", "1", "2"]
                    and [json.loads(file.stdout_bytes)[name] for name in "02"] == [{str(report)!r}] * 2
                )
            for number in range(3):
                os.dup2(ours[number], number)
            if not right:
                os.write(report, f"{{gone}}: {{echo.stdout_bytes}} {{mirror.stdout_bytes}}\\n".encode())
        os.write(report, b"done")
        """,
        programs,
    )

    assert report.read_text() == "done"


def test_a_stream_that_the_host_has_closed_is_closed_for_the_child(programs: Programs) -> None:
    """Nothing of ours stands in for it, neither when the engine is made nor later."""
    said = fresh.run(
        """
        said = os.fdopen(os.dup(1), "w")
        os.close(1)
        with ProcessManager() as manager:
            for _ in range(3):
                process = manager.start_process("x", ["sh", "-c", "test ! -e /proc/$$/fd/1"])
                print(process.wait(20).code, file=said)
        said.close()
        """,
        programs,
    )

    assert said.split() == ["0"] * 3


def test_what_is_passed_on_stays_ours_as_it_was(manager: ProcessManager, programs: Programs) -> None:
    """Neither closed nor made inheritable here; and the child can write to it."""
    read_fd, write_fd = os.pipe()
    try:
        shell = f"echo passed >&{write_fd}" if write_fd < 10 else f"echo passed > /proc/self/fd/{write_fd}"
        assert manager.start_process("x", ["sh", "-c", shell], pass_fds=[write_fd]).wait(20).ok
        assert not os.get_inheritable(write_fd)
        assert os.read(read_fd, 100) == b"passed\n"
        mirror = manager.start_process("y", programs.prints_fds(), pass_fds=[read_fd], stdout=PIPE)
        assert seen_by(mirror).keys() == {0, 1, 2, read_fd}
    finally:
        os.close(read_fd)
        os.close(write_fd)


def test_many_descriptors_are_passed_on(manager: ProcessManager, programs: Programs) -> None:
    """More than there are reserved low numbers for."""
    many = [fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, 200) for _ in range(150)]
    try:
        process = manager.start_process("x", programs.prints_fds(), pass_fds=many, stdout=PIPE)
        assert seen_by(process).keys() == {0, 1, 2, *many}
    finally:
        for descriptor in many:
            os.close(descriptor)


def test_threads_that_open_and_start_at_once_do_not_mix_descriptors(
    manager: ProcessManager, programs: Programs
) -> None:
    """While others open and close inheritable descriptors, every child sees the declared set."""
    stop = threading.Event()

    def open_and_close() -> None:
        while not stop.is_set():
            descriptors = [os.dup(0) for _ in range(20)]
            for descriptor in descriptors:
                os.set_inheritable(descriptor, True)
            for descriptor in descriptors:
                os.close(descriptor)

    threads = [threading.Thread(target=open_and_close) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for number in range(60):
            process = manager.start_process(number, programs.prints_fds(), stdout=PIPE, stderr=DEVNULL)
            assert seen_by(process).keys() == {0, 1, 2}
    finally:
        stop.set()
        for thread in threads:
            thread.join()
