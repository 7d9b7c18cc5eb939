"""run(): what subprocess.run() does, in a loop."""

from __future__ import annotations

import asyncio
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from tests.aio.conftest import PATIENCE, Run
from tests.programs import Programs

import fastproc
from fastproc import ExitStatus, aio
from fastproc._engine.flight import Flight

CASES: list[tuple[Any, dict[str, Any]]] = [
    (["echo", "hi"], {"capture_output": True}),
    (["echo", "hi"], {"capture_output": True, "text": True}),
    ("echo", {"stdout": aio.PIPE}),
    ("echo out; echo err >&2; exit 3", {"shell": True, "capture_output": True}),
    (["echo $0 $1", "a", "b"], {"shell": True, "capture_output": True}),
    ("echo $0", {"shell": True, "executable": "/bin/bash", "capture_output": True}),
    ("echo out; echo err >&2", {"shell": True, "stdout": aio.PIPE, "stderr": aio.STDOUT}),
    (["cat"], {"input": b"a\r\nb\n", "stdout": aio.PIPE}),
    (["cat"], {"input": "a\r\nb\xe9\n", "stdout": aio.PIPE, "encoding": "latin-1"}),
    (["cat"], {"input": bytearray(b"bytes"), "stdout": aio.PIPE}),
    (["cat"], {"input": b"", "stdout": aio.PIPE}),
    (["cat"], {"input": "", "stdout": aio.PIPE}),
    (["cat"], {"input": b"x", "stdout": aio.PIPE, "bufsize": 100}),
    (["true"], {"pass_fds": (0, 1, 2)}),
    (["true"], {"text": True, "universal_newlines": True}),
    (["cat"], {"input": "x" * 3_000_000, "stdout": aio.PIPE, "universal_newlines": True}),
    (["printf", "\\377"], {"stdout": aio.PIPE, "encoding": "ascii", "errors": "replace"}),
    (["cat"], {"stdin": aio.DEVNULL, "capture_output": True}),
    (["true"], {"stdout": aio.DEVNULL}),
    (["sh", "-c", "kill -9 $$"], {}),
    (["pwd"], {"cwd": "/", "stdout": aio.PIPE}),
    (["env"], {"env": {"A": "b"}, "stdout": aio.PIPE}),
    (Path("/bin/true"), {}),
    (["head", "-c", "20000000", "/dev/zero"], {"stdout": aio.PIPE}),
]


@pytest.mark.parametrize(("args", "options"), CASES, ids=range(len(CASES)))
def test_it_gives_what_subprocess_gives(run: Run, args: Any, options: dict[str, Any]) -> None:
    """The same call to both, the same result."""
    expected = subprocess.run(args, **options)  # noqa: PLW1510 - check may be among them

    done = run(aio.run(args, **options))

    assert isinstance(done, subprocess.CompletedProcess)
    assert (done.args, done.returncode, done.stdout, done.stderr) == (
        expected.args,
        expected.returncode,
        expected.stdout,
        expected.stderr,
    )


@pytest.mark.parametrize(
    ("args", "options"),
    [
        (["/no/such/program"], {}),
        (["true"], {"cwd": "/no/such/directory"}),
        (["false"], {"check": True}),
        ("echo out; echo err >&2; exit 3", {"shell": True, "check": True, "capture_output": True}),
        (["true"], {"input": b"", "stdin": aio.PIPE}),
        (["true"], {"capture_output": True, "stdout": aio.PIPE}),
        (["true"], {"input": b"x", "text": True}),
        (["true"], {"text": False, "universal_newlines": True}),
        (["cat"], {"input": "x"}),
        ([], {}),
        ("", {}),
        ([""], {"stdout": aio.PIPE}),
        (["printf", "\\377"], {"stdout": aio.PIPE, "encoding": "ascii"}),
        (["true"], {"no_such_option": 1}),
    ],
)
def test_it_raises_what_subprocess_raises(run: Run, args: Any, options: dict[str, Any]) -> None:
    """Or a clearer subclass of it; for bytes in text mode a TypeError instead of an AttributeError."""
    with pytest.raises(Exception) as expected:
        subprocess.run(args, **options)  # noqa: PLW1510 - check may be among them
    kind = TypeError if expected.type is AttributeError else expected.type

    with pytest.raises(kind) as caught:
        run(aio.run(args, **options))

    if isinstance(expected.value, subprocess.CalledProcessError):
        assert vars(caught.value) == vars(expected.value)
        assert caught.value.args == expected.value.args


def test_a_time_out_leaves_nobody_and_brings_what_was_written(run: Run, programs: Programs) -> None:
    """A grandchild holds the pipe, and all ignore SIGTERM: killed at once, as subprocess.run() does."""

    async def main() -> None:
        begun = time.monotonic()
        with pytest.raises(subprocess.TimeoutExpired) as caught:
            await aio.run(programs.forks_a_tree(2, 2, ignore=True), stdout=aio.PIPE, timeout=0.5, text=True)
        assert time.monotonic() - begun < 5
        assert caught.value.timeout == 0.5
        assert isinstance(caught.value.output, str)
        assert caught.value.output.endswith("ready 7\n")
        assert programs.running() == []

    run(main())


def test_a_time_out_with_grace_asks_first(run: Run, programs: Programs) -> None:
    """What it says while it cleans up is there."""

    async def main() -> None:
        with pytest.raises(subprocess.TimeoutExpired) as caught:
            await aio.run(programs.cleans_up(0.1), stdout=aio.PIPE, timeout=0.3, grace=10)
        assert (caught.value.output or b"").split(b"\n")[1:] == [b"cleaning", b"clean", b""]

    run(main())


@pytest.mark.parametrize(
    ("line", "options"),
    [
        ("exec sleep 60", {}),
        ("exec sleep 60", {"capture_output": True}),
        ("exec sleep 60", {"capture_output": True, "text": True}),
        ("echo out; exec sleep 60", {"stdout": aio.PIPE}),
        ("printf 'a\\r\\nh\\303'; exec sleep 60", {"stdout": aio.PIPE, "encoding": "utf-8"}),
        ("printf '\\377h'; exec sleep 60", {"stdout": aio.PIPE, "encoding": "utf-8"}),
        ("trap 'echo bye; exit 5' TERM; echo hello; sleep 60 & wait", {"stdout": aio.PIPE}),
        ("trap 'echo bye; exit 5' TERM; echo hello; sleep 60 & wait", {"stdout": aio.PIPE, "grace": 10}),
        ("echo out; exec sleep 60", {"stdout": aio.PIPE, "timeout": 30, "idle_timeout": 0.3}),
    ],
)
def test_a_time_out_is_told_as_the_drop_in_tells_it(run: Run, line: str, options: dict[str, Any]) -> None:
    """The class, the number, and what had come: nothing, half a character, the last words after SIGTERM."""
    options = {"timeout": 0.4, "shell": True, **options}
    with pytest.raises(subprocess.TimeoutExpired) as expected:
        fastproc.run(line, **options)

    with pytest.raises(subprocess.TimeoutExpired) as caught:
        run(aio.run(line, **options))

    assert type(caught.value) is type(expected.value)
    assert vars(caught.value) == vars(expected.value)
    assert caught.value.args == expected.value.args


def test_a_status_that_nobody_knows_is_no_success(
    run: Run, programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `check` it is an error of its own, as in the drop-in."""
    for owner in (Flight, ExitStatus):
        monkeypatch.setattr(owner, "returncode", property(lambda _it: None))

    for options in ({}, {"stdout": aio.PIPE}):
        with pytest.raises(fastproc.subprocess.StatusUnknown) as caught:
            run(aio.run(programs.exits_with(0), check=True, **options))
        assert caught.value.returncode is None
        assert caught.value.args == (None, programs.exits_with(0))


def test_an_exception_does_not_show_the_output(run: Run) -> None:
    """Whoever prints or logs one would have all of it, escaped."""

    async def main() -> None:
        tail = "head -c 5000000 /dev/zero; exec sleep 60"
        with pytest.raises(subprocess.TimeoutExpired) as caught:
            await aio.run(tail, shell=True, capture_output=True, timeout=0.5)
        assert len(caught.value.stdout or b"") == 5_000_000
        assert caught.value.args == (tail, 0.5)
        assert len(repr(caught.value)) < 100

    begun = time.monotonic()
    run(main())
    assert time.monotonic() - begun < PATIENCE / 5


def test_the_deadline_of_a_token_is_told_as_the_time_that_it_ran(run: Run, programs: Programs) -> None:
    """There is no other number; and where there is one, it was not that."""

    async def main() -> None:
        for options in ({}, {"timeout": 60}):
            token = fastproc.CancelToken(timeout=0.3)
            with pytest.raises(subprocess.TimeoutExpired) as caught:
                await aio.run(programs.ready_then_sleep(), stdout=aio.PIPE, cancel=token, **options)
            assert 0.1 < caught.value.timeout < 30
        token = fastproc.CancelToken(timeout=60)
        with pytest.raises(subprocess.TimeoutExpired) as caught:
            await aio.run(programs.ready_then_sleep(), stdout=aio.PIPE, cancel=token, timeout=0.3)
        assert caught.value.timeout == 0.3

    run(main())


def test_a_time_limit_is_kept_while_the_loop_is_held_up(run: Run, programs: Programs) -> None:
    """The engine keeps it."""

    async def main() -> float:
        running = asyncio.create_task(aio.run(programs.ready_then_sleep(), timeout=0.2))
        await asyncio.sleep(0.05)
        time.sleep(1.0)
        begun = time.monotonic()
        with pytest.raises(subprocess.TimeoutExpired):
            await running
        return time.monotonic() - begun

    assert run(main()) < 0.5


def test_silence_is_a_time_out_too(run: Run, programs: Programs) -> None:
    """With `idle_timeout`."""

    async def main() -> None:
        with pytest.raises(subprocess.TimeoutExpired) as caught:
            await aio.run(programs.ready_then_sleep(), stdout=aio.PIPE, idle_timeout=0.2)
        assert caught.value.timeout == 0.2

    run(main())


@pytest.mark.parametrize("chatter", [False, True])
def test_somebody_else_who_holds_the_output_open_is_not_waited_for(
    run: Run, programs: Programs, chatter: bool
) -> None:
    """He may be silent or not."""

    async def main() -> None:
        begun = time.monotonic()
        done = await aio.run(programs.holds_the_pipe(chatter=chatter), capture_output=True)
        assert time.monotonic() - begun < 10
        assert done.returncode == 0
        assert b"leader done" in done.stdout

    run(main())


def test_with_max_output_only_so_much_is_kept(run: Run, programs: Programs) -> None:
    """The beginning and the end."""

    async def main() -> None:
        done = await aio.run(programs.spams(6_400_000, lines=True), stdout=aio.PIPE, max_output=6400)
        assert len(done.stdout) == 6400
        assert done.stdout.startswith(b"%015d " % 0)
        assert done.stdout[-64:].startswith(b"%015d " % 99_999)

    run(main())


def test_hundreds_at_a_time_do_not_mix(run: Run) -> None:
    """Each gets its own output and its own returncode."""

    async def main() -> None:
        done = await asyncio.gather(
            *(aio.run(f"echo {n}; exit {n % 100}", shell=True, stdout=aio.PIPE) for n in range(300))
        )
        assert [(int(one.stdout), one.returncode) for one in done] == [(n, n % 100) for n in range(300)]

    run(main())
