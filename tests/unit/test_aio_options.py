"""From the keyword arguments of subprocess.Popen to those of Command."""

from __future__ import annotations

import os

import pytest

from fastproc._native.tap import Extras
from fastproc.aio.options import (
    drop_text,
    inheritable_descriptors,
    refuse_nameless,
    refuse_text,
    shell_args,
    split,
)


def test_what_means_as_always_is_dropped() -> None:
    """Popen's defaults say nothing."""
    said = {
        "bufsize": 0,
        "close_fds": True,
        "creationflags": 0,
        "executable": None,
        "pipesize": -1,
        "preexec_fn": None,
        "process_group": None,
        "restore_signals": True,
        "start_new_session": False,
        "startupinfo": None,
        "umask": -1,
        "timeout": 3,
    }
    assert split(said) == ({"timeout": 3}, Extras(), -1)


@pytest.mark.parametrize(
    ("said", "options", "extras", "pipe_bytes"),
    [
        ({"umask": 0o22}, {"umask": 0o22}, Extras(), -1),
        ({"process_group": 0}, {"start_new": "group"}, Extras(), -1),
        ({"start_new_session": True}, {"start_new": "session"}, Extras(), -1),
        ({"process_group": 7}, {"start_new": None}, Extras(process_group=7), -1),
        ({"process_group": 7, "start_new": None}, {"start_new": None}, Extras(process_group=7), -1),
        ({"process_group": -1}, {}, Extras(), -1),
        ({"pass_fds": (0, 1, 2, 7)}, {"pass_fds": [7]}, Extras(), -1),
        ({"start_new_session": True, "process_group": 0}, {"start_new": "session"}, Extras(), -1),
        ({"executable": "/bin/x"}, {}, Extras(program=b"/bin/x"), -1),
        ({"restore_signals": False}, {}, Extras(keep_signals=True), -1),
        ({"pipesize": 4096}, {}, Extras(), 4096),
    ],
)
def test_what_popen_calls_otherwise_is_translated(
    said: dict[str, object], options: dict[str, object], extras: Extras, pipe_bytes: int
) -> None:
    """Into options of Command, and into what only a start knows."""
    assert split(said) == (options, extras, pipe_bytes)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"preexec_fn": print}, "say what it does"),
        ({"bufsize": -1}, "bufsize must be 0"),
        ({"process_group": 7, "start_new": "group"}, "say one of them"),
        ({"startupinfo": object()}, "Windows"),
        ({"creationflags": 1}, "Windows"),
        ({"executable": ""}, "executable"),
        ({"executable": "a\0b"}, "executable"),
    ],
)
def test_what_cannot_be_had_is_refused(said: dict[str, object], words: str) -> None:
    """With the way out, where there is one."""
    with pytest.raises(ValueError, match=words):
        split(said)


def test_arguments_are_said_one_by_one() -> None:
    """And whoever has them in a list is told so."""
    with pytest.raises(TypeError, match="one by one"):
        split({"args": ["x"]})


def test_a_program_has_a_name() -> None:
    """Else it is refused as the kernel would do it."""
    for name in ("", b""):
        with pytest.raises(PermissionError, match="name of the program is empty"):
            refuse_nameless((name, "x"), {})
        refuse_nameless((name, "x"), {"executable": "/bin/true"})
    refuse_nameless(("x", ""), {})


def test_the_size_of_a_pipe_is_a_number() -> None:
    """As in Popen."""
    with pytest.raises(TypeError, match="pipesize"):
        split({"pipesize": "big"})


@pytest.mark.parametrize("name", ["text", "universal_newlines", "encoding", "errors"])
def test_text_is_refused_and_its_absence_is_not(name: str) -> None:
    """Streams are of bytes."""
    with pytest.raises(ValueError, match=name):
        refuse_text({name: "utf-8"})
    refuse_text({name: None})
    options = {name: None, "timeout": 1}
    drop_text(options)
    assert options == {"timeout": 1}


def test_a_shell_is_sh_or_what_is_named() -> None:
    """The command line is its second argument."""
    assert shell_args("a b", {}) == ["/bin/sh", "-c", "a b"]
    options = {"executable": "/bin/bash", "timeout": 1}
    assert shell_args(b"a b", options) == ["/bin/bash", "-c", b"a b"]
    assert options == {"timeout": 1}
    with pytest.raises(ValueError, match="string"):
        shell_args(["a"], {})  # type: ignore[arg-type]


def test_only_what_is_inheritable_is_handed_on() -> None:
    """See PEP 446."""
    read, write = os.pipe()
    try:
        os.set_inheritable(write, True)
        assert write in inheritable_descriptors()
        assert read not in inheritable_descriptors()
    finally:
        os.close(read)
        os.close(write)
