"""install(): code that knows nothing of fastproc runs on it, and it can be taken back."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from subprocess import run as run_taken_before
from typing import Any
from unittest import mock

import pytest

import fastproc
from fastproc import subprocess as ours

NAMES = ("Popen", "run", "call", "check_call", "check_output", "getoutput", "getstatusoutput")


def what_is_there() -> dict[str, Any]:
    """The functions of the standard module as they are now."""
    return {name: getattr(subprocess, name) for name in NAMES}


def test_it_holds_for_the_length_of_the_block() -> None:
    """Everybody who asks the standard module gets ours, and afterwards the old ones again."""
    before = what_is_there()
    with fastproc.install():
        assert what_is_there() == {name: getattr(ours, name) for name in NAMES}
        from subprocess import Popen, check_output

        assert Popen is ours.Popen
        assert check_output(["echo", "x"]) == b"x\n"
        with subprocess.Popen(["true"]) as process:
            assert isinstance(process, ours.Popen)
    assert what_is_there() == before


def test_it_is_undone_when_the_block_fails_and_by_hand() -> None:
    """More than once does no harm."""
    before = what_is_there()
    with pytest.raises(KeyError), fastproc.install():
        raise KeyError
    assert what_is_there() == before
    installation = fastproc.install()
    assert subprocess.run is ours.run
    installation.undo()
    installation.undo()
    assert what_is_there() == before


def test_the_last_of_several_takes_it_back() -> None:
    """Blocks may be nested, and may overlap."""
    before = what_is_there()
    first, second = fastproc.install(), fastproc.install()
    first.undo()
    assert subprocess.run is ours.run
    second.undo()
    assert what_is_there() == before


def test_what_others_have_replaced_meanwhile_is_left_to_them() -> None:
    """A test double that is put in later survives."""

    def double() -> None:
        """Nothing."""

    before = subprocess.getoutput
    installation = fastproc.install()
    subprocess.getoutput = double  # type: ignore[assignment]
    try:
        installation.undo()
        assert subprocess.getoutput is double
    finally:
        subprocess.getoutput = before
    assert subprocess.run is not ours.run


def test_functions_that_were_taken_before_start_by_it_too() -> None:
    """They look Popen up in their own module."""
    started: list[Any] = []

    class Noting(ours.Popen[bytes]):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            started.append(self)

    with fastproc.install(), mock.patch.object(subprocess, "Popen", Noting):
        assert run_taken_before(["sh", "-c", "exit 3"]).returncode == 3
        assert subprocess.run(["sh", "-c", "exit 4"]).returncode == 4
        assert ours.run(["sh", "-c", "exit 5"]).returncode == 5
    assert [process.returncode for process in started] == [3, 4, 5]
    assert all(process._solo is not None for process in started)


def test_test_doubles_are_asked_instead() -> None:
    """Whoever replaces subprocess.Popen means all that starts processes."""
    double = mock.MagicMock()
    double.return_value.__enter__.return_value = double
    double.communicate.return_value = (b"out", b"err")
    double.poll.return_value = 0
    with fastproc.install(), mock.patch("subprocess.Popen", double):
        assert subprocess.run(["no-such-program"], capture_output=True).stdout == b"out"


def test_asyncio_runs_on_it() -> None:
    """Its transports, its watchers that reap by themselves, its pipes."""

    async def converse() -> tuple[bytes, int | None, int]:
        process = await asyncio.create_subprocess_exec(
            "sh", "-c", "cat; exit 3", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        output, _ = await process.communicate(b"hello")
        many = await asyncio.gather(*(asyncio.create_subprocess_shell(f"exit {n}") for n in range(10)))
        codes = await asyncio.gather(*(each.wait() for each in many))
        assert codes == list(range(10))
        killed = await asyncio.create_subprocess_exec("sleep", "1000")
        killed.kill()
        return output, process.returncode, await killed.wait()

    starts = mock.Mock(wraps=ours.Popen)
    with fastproc.install(), mock.patch("subprocess.Popen", starts):
        assert asyncio.run(converse()) == (b"hello", 3, -9)
    assert starts.call_count == 12


def test_os_popen_and_others_of_the_standard_library_run_on_it() -> None:
    """Whatever starts by subprocess; and multiprocessing, which does not, is not disturbed."""
    program = (
        "import multiprocessing, os\n"
        "import fastproc\n"
        "with fastproc.install():\n"
        "    with os.popen('echo x') as stream: print(stream.read(), type(stream._proc).__module__)\n"
        "    for method in ('fork', 'spawn', 'forkserver'):\n"
        "        with multiprocessing.get_context(method).Pool(1) as pool: print(pool.apply(abs, (-3,)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], stdout=subprocess.PIPE, text=True, check=True
    )
    assert done.stdout == "x\n fastproc.subprocess\n3\n3\n3\n"


def test_it_may_come_and_go_in_many_threads() -> None:
    """In the end the standard functions are back."""
    before = what_is_there()
    wrong = []

    def work() -> None:
        for _ in range(20):
            with fastproc.install():
                if subprocess.run(["true"]).returncode != 0 or subprocess.run is not ours.run:
                    wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert what_is_there() == before


def test_a_program_that_has_imported_it_long_ago_runs_on_it() -> None:
    """A module that holds the module, installed for good at the start of a program."""
    program = (
        "import shutil, subprocess, webbrowser\n"
        "import fastproc\n"
        "fastproc.install()\n"
        "print(subprocess.Popen.__module__, webbrowser.subprocess.Popen.__module__)\n"
        "print(subprocess.run('exit 5', shell=True))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout == (
        "fastproc.subprocess fastproc.subprocess\nCompletedProcess(args='exit 5', returncode=5)\n"
    )
