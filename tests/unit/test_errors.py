"""Errors say what happened, can be caught as the standard library's, and survive pickling."""

from __future__ import annotations

import errno
import os
import pickle
import struct
from pathlib import Path

import pytest

from fastproc import errors
from fastproc.errors import (
    DuplicateTask,
    FastprocError,
    ForkedHandle,
    ManagerClosed,
    NotActive,
    SpawnDenied,
    SpawnError,
    SpawnNotADirectory,
    SpawnNotFound,
    TooManyProcesses,
    WaitTimeout,
    spawn_error,
)

ALL = [
    SpawnError(errno.EAGAIN, "no room", "true", stage="clone"),
    SpawnNotFound(errno.ENOENT, "no such program", b"/no/such", stage="exec"),
    SpawnDenied(errno.EACCES, "is a directory", "/tmp", stage="exec"),
    SpawnNotADirectory(errno.ENOTDIR, "no directory", "/etc/passwd", stage="cwd"),
    SpawnError(errno.ESRCH, "killed", None, stage="pre-exec", signal=9),
    DuplicateTask("a"),
    DuplicateTask("a", "it is there twice"),
    NotActive(("b", 1)),
    WaitTimeout("task 'a'", 0.5),
    ManagerClosed(),
    TooManyProcesses(4),
    TooManyProcesses(4, 3, 2),
    ForkedHandle(),
]


@pytest.mark.parametrize("error", ALL, ids=lambda error: type(error).__name__)
def test_an_error_is_the_same_after_pickling(error: FastprocError) -> None:
    again = pickle.loads(pickle.dumps(error))

    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)


def test_a_spawn_error_keeps_its_numbers_and_notes_through_pickling() -> None:
    error = SpawnError(errno.ESRCH, "killed", "true", stage="pre-exec", signal=9)
    error.add_note("in batch 7")

    again = pickle.loads(pickle.dumps(error))

    assert (again.errno, again.strerror, again.filename) == (errno.ESRCH, "killed", "true")
    assert (again.stage, again.signal, again.__notes__) == ("pre-exec", 9, ["in batch 7"])


@pytest.mark.parametrize(
    ("cls", "base"),
    [
        (SpawnError, OSError),
        (SpawnNotFound, FileNotFoundError),
        (SpawnNotADirectory, NotADirectoryError),
        (SpawnDenied, PermissionError),
        (DuplicateTask, ValueError),
        (NotActive, LookupError),
        (WaitTimeout, TimeoutError),
        (ManagerClosed, RuntimeError),
        (TooManyProcesses, RuntimeError),
        (ForkedHandle, RuntimeError),
    ],
)
def test_each_error_has_a_standard_base_too(cls: type[Exception], base: type[Exception]) -> None:
    assert issubclass(cls, FastprocError)
    assert issubclass(cls, base)
    assert cls.__name__ in (errors.__doc__ or "")


@pytest.mark.parametrize(
    ("number", "cls"),
    [
        (errno.ENOENT, SpawnNotFound),
        (errno.ENOTDIR, SpawnNotADirectory),
        (errno.EACCES, SpawnDenied),
        (errno.EPERM, SpawnDenied),
        (errno.EAGAIN, SpawnError),
        (errno.E2BIG, SpawnError),
    ],
)
def test_errno_chooses_the_class(number: int, cls: type[SpawnError]) -> None:
    error = spawn_error(number, "exec", filename="/no/such/program")

    assert type(error) is cls
    assert (error.errno, error.stage, error.filename) == (number, "exec", "/no/such/program")


def test_what_is_used_up_for_the_moment_may_be_tried_again() -> None:
    retryable = {n for n in errno.errorcode if spawn_error(n, "clone").retryable}

    assert retryable == {errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE}


def test_the_message_names_errno_culprit_and_stage() -> None:
    error = spawn_error(errno.ENOENT, "exec", filename="/no/such")

    assert str(error) == "[Errno 2] no such program: '/no/such' (stage: exec)"
    assert error.strerror == "no such program"


def test_a_program_that_path_does_not_lead_to_is_told_so(tmp_path: Path) -> None:
    error = spawn_error(errno.ENOENT, "exec", filename="frobnicate", search_path=str(tmp_path))

    assert error.strerror == "no such program in any directory of PATH"


def executable(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    path.chmod(0o755)
    return path


def test_a_script_without_its_interpreter_is_not_called_missing(tmp_path: Path) -> None:
    script = executable(tmp_path / "script", b"#! /no/such/python -u\nprint()\n")

    error = spawn_error(errno.ENOENT, "exec", filename=script)

    assert isinstance(error, FileNotFoundError)
    assert error.strerror == "script found, but its interpreter '/no/such/python' is missing"
    assert error.filename == script


def test_a_script_is_found_through_path_and_working_directory(tmp_path: Path) -> None:
    executable(tmp_path / "script", b"#!/no/such\n")

    by_path = spawn_error(errno.ENOENT, "exec", filename="script", search_path=f"/nowhere:{tmp_path}")
    by_cwd = spawn_error(errno.ENOENT, "exec", filename=b"./script", cwd=tmp_path)

    assert by_path.strerror == by_cwd.strerror == "script found, but its interpreter '/no/such' is missing"


def test_a_program_without_its_dynamic_loader_is_not_called_missing(tmp_path: Path) -> None:
    loader = b"/no/such/ld.so\0"
    header = struct.pack(
        "=16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 3, 62, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0
    )
    segment = struct.pack("=IIQQQQQQ", 3, 4, 120, 0, 0, len(loader), len(loader), 1)
    program = executable(tmp_path / "program", header + segment + loader)

    error = spawn_error(errno.ENOENT, "exec", filename=str(program))

    assert error.strerror == "program found, but its dynamic loader '/no/such/ld.so' is missing"


def test_cut_off_and_strange_files_do_not_confuse_the_inquiry(tmp_path: Path) -> None:
    for content in (b"", b"#!", b"#!\n", b"\x7fELF\x02", b"\x7fELF\x02" + b"\xff" * 100):
        program = executable(tmp_path / "program", content)
        assert spawn_error(errno.ENOENT, "exec", filename=program).strerror == "no such file or directory"
    os.mkfifo(tmp_path / "fifo", 0o755)
    assert spawn_error(errno.ENOENT, "exec", filename=tmp_path / "fifo").errno == errno.ENOENT


def test_a_directory_and_a_file_without_x_are_told_apart(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_bytes(b"hello")
    script = executable(tmp_path / "script", f"#!{plain}\n".encode())

    assert spawn_error(errno.EACCES, "exec", filename=tmp_path).strerror == "the program is a directory"
    assert (
        spawn_error(errno.EACCES, "exec", filename=plain).strerror
        == "the program is not executable (no x in its mode)"
    )
    assert (
        spawn_error(errno.EACCES, "exec", filename=script).strerror
        == f"its interpreter {str(plain)!r} is not executable (no x in its mode)"
    )


def test_a_file_of_no_known_format_gets_a_way_out(tmp_path: Path) -> None:
    text = executable(tmp_path / "text", b"echo hello\n")
    empty = executable(tmp_path / "empty", b"")

    assert "#!/bin/sh" in (spawn_error(errno.ENOEXEC, "exec", filename=text).strerror or "")
    assert "empty" in (spawn_error(errno.ENOEXEC, "exec", filename=empty).strerror or "")


@pytest.mark.parametrize(
    ("stage", "number", "detail", "words", "filename"),
    [
        ("rlimit", errno.EPERM, 6, "open_files is above our own hard limit", "open_files"),
        ("rlimit", errno.EINVAL, 0, "the limit cpu was refused: invalid argument", "cpu"),
        ("fds", errno.EBADF, 7, "given to the child as 7 is not open", "fd 7"),
        ("fds", errno.ENOSPC, 1, "standard output could not be set up: no space left", "fd 1"),
        ("request", errno.E2BIG, 3, "argument 3 is longer than the kernel takes", "args[3]"),
        ("request", errno.E2BIG, -1, "environment", None),
        ("clone", errno.EAGAIN, -1, "process limit", None),
        ("cgroup", errno.ENOENT, -1, "no writable cgroup v2 directory", None),
        ("session", errno.EIO, -1, "input/output error", None),
    ],
)
def test_stage_and_detail_become_words(
    stage: str, number: int, detail: int, words: str, filename: str | None
) -> None:
    error = spawn_error(number, stage, detail=detail)

    assert words in (error.strerror or "")
    assert error.filename == filename


def test_a_working_directory_is_not_confused_with_the_program() -> None:
    error = spawn_error(errno.ENOENT, "cwd", filename="/no/such")

    assert isinstance(error, FileNotFoundError)
    assert str(error) == "[Errno 2] no such working directory: '/no/such' (stage: cwd)"


@pytest.mark.parametrize("stage", ["pre-exec", "pre_exec"])
def test_a_child_killed_before_its_program_names_the_signal(stage: str) -> None:
    error = spawn_error(errno.ESRCH, stage, filename="true", detail=9)

    assert error.signal == 9
    assert "SIGKILL" in (error.strerror or "")


def test_an_error_tells_what_the_caller_asked_about() -> None:
    assert DuplicateTask("job-1").task_id == "job-1"
    assert "'job-1'" in str(DuplicateTask("job-1"))
    assert NotActive(7).task_id == 7
    assert str(WaitTimeout("task 'a'", 0.25)) == "task 'a' has not ended within 0.25 s"
    assert WaitTimeout("task 'a'", 0.25).timeout == 0.25
    assert "max_processes=4" in str(TooManyProcesses(4))
    assert "3 are asked for, 2 are active, and max_processes is 4" in str(TooManyProcesses(4, 3, 2))
    assert "closed" in str(ManagerClosed())
