"""create_subprocess_exec() and Process: what asyncio's users rely on."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.aio.conftest import Run, line_of
from tests.programs import Programs
from tests.watch import is_alive

import fastproc
from fastproc import aio
from fastproc.status import ExitReason


def test_the_returncode_is_that_of_the_program(run: Run, programs: Programs) -> None:
    """As in asyncio: the exit code, or the signal as a negative number."""

    async def main() -> list[int | None]:
        processes = [
            await aio.create_subprocess_exec(*programs.exits_with(0)),
            await aio.create_subprocess_exec(*programs.exits_with(7)),
            await aio.create_subprocess_exec(*programs.dies_by(signal.SIGUSR1)),
        ]
        codes = [await process.wait() for process in processes]
        assert codes == [process.returncode for process in processes]
        return codes

    assert run(main()) == [0, 7, -signal.SIGUSR1]


def test_a_shell_carries_out_a_command_line(run: Run) -> None:
    """`executable` names another shell."""

    async def main() -> None:
        process = await aio.create_subprocess_shell("echo $0 $((1 + 2)); exit 5", stdout=aio.PIPE)
        assert (await process.communicate(), process.returncode) == ((b"/bin/sh 3\n", None), 5)
        process = await aio.create_subprocess_shell("echo $0", stdout=aio.PIPE, executable="/bin/bash")
        assert await process.communicate() == (b"/bin/bash\n", None)

    run(main())


def test_executable_is_what_is_executed_and_args_what_it_is_told(run: Run, programs: Programs) -> None:
    """As in Popen."""

    async def main() -> bytes | None:
        process = await aio.create_subprocess_exec(
            "another name", "word", executable=programs.path("prints_args"), stdout=aio.PIPE
        )
        return (await process.communicate())[0]

    assert run(main()) == b"another name\0word\0"


@pytest.mark.parametrize(
    ("program", "kind", "error"),
    [
        ("/no/such/program", FileNotFoundError, errno.ENOENT),
        ("no-such-program", FileNotFoundError, errno.ENOENT),
        ("/etc", PermissionError, errno.EACCES),
        ("/etc/passwd/x", NotADirectoryError, errno.ENOTDIR),
    ],
)
def test_a_start_that_fails_raises_what_asyncio_raises(
    run: Run, program: str, kind: type[OSError], error: int
) -> None:
    """And it is a SpawnError, which says more."""

    async def main() -> None:
        with pytest.raises(kind) as caught:
            await aio.create_subprocess_exec(program, stdin=aio.PIPE, stdout=aio.PIPE)
        assert isinstance(caught.value, fastproc.SpawnError)
        assert (caught.value.errno, caught.value.filename) == (error, program)

    run(main())


def test_a_wrong_directory_is_named(run: Run, tmp_path: Path) -> None:
    """It is not the program that is missing."""

    async def main() -> None:
        with pytest.raises(FileNotFoundError) as caught:
            await aio.create_subprocess_exec("true", cwd=tmp_path / "absent")
        assert caught.value.filename == tmp_path / "absent"

    run(main())


def test_one_bad_start_spoils_none_of_the_same_turn(run: Run, programs: Programs) -> None:
    """All that is asked for in one turn of the loop is handed over in one go."""

    async def main() -> None:
        started = await asyncio.gather(
            aio.create_subprocess_exec(*programs.exits_with(1)),
            aio.create_subprocess_exec("/no/such/program"),
            aio.create_subprocess_exec("x" * 200_000),
            aio.create_subprocess_exec(*programs.exits_with(2)),
            return_exceptions=True,
        )
        assert [await p.wait() for p in started if isinstance(p, aio.Process)] == [1, 2]
        assert isinstance(started[1], FileNotFoundError)
        assert isinstance(started[2], OSError)

    run(main())


def test_streams_are_ours_unless_said_otherwise(run: Run, programs: Programs, tmp_path: Path) -> None:
    """Standard input too, as in asyncio; a Command of the manager begins with none."""

    async def main() -> bytes:
        with open(tmp_path / "out", "wb+") as out:
            process = await aio.create_subprocess_exec(*programs.prints_fds(), stdout=out)
            assert (process.stdin, process.stdout, process.stderr) == (None, None, None)
            assert await process.wait() == 0
            out.seek(0)
            return out.read()

    said = json.loads(run(main()))
    assert said["0"] == os.readlink("/proc/self/fd/0")
    assert said["1"] == str(tmp_path / "out")
    assert sorted(said) == ["0", "1", "2"]


def test_standard_error_can_go_where_standard_output_goes(run: Run) -> None:
    """Or nowhere."""

    async def main() -> None:
        line = "echo out; echo err >&2"
        process = await aio.create_subprocess_shell(line, stdout=aio.PIPE, stderr=aio.STDOUT)
        assert await process.communicate() == (b"out\nerr\n", None)
        process = await aio.create_subprocess_shell(line, stdout=aio.DEVNULL, stderr=aio.PIPE)
        assert await process.communicate() == (None, b"err\n")

    run(main())


def test_signals_reach_the_process_and_never_raise_after_its_end(run: Run, programs: Programs) -> None:
    """A process that has ended is not signalled, nor somebody else who has its number."""

    async def main() -> None:
        process = await aio.create_subprocess_exec(*programs.reports_signals(), stdout=aio.PIPE)
        await line_of(process)
        process.send_signal(signal.SIGUSR1)
        assert (await line_of(process)).split()[:2] == ["got", str(int(signal.SIGUSR1))]
        process.terminate()
        assert (await line_of(process)).split()[:2] == ["got", str(int(signal.SIGTERM))]
        process.kill()
        assert await process.wait() == -signal.SIGKILL
        process.kill()
        process.terminate()

    run(main())


def test_many_may_wait_and_all_hear_the_same(run: Run, programs: Programs) -> None:
    """Also who comes later."""

    async def main() -> None:
        process = await aio.create_subprocess_exec(*programs.exits_with(9, 0.05))
        assert await asyncio.gather(*(process.wait() for _ in range(20))) == [9] * 20
        assert await process.wait() == 9

    run(main())


def test_waiting_is_for_the_exit_and_not_for_the_end_of_the_output(run: Run, programs: Programs) -> None:
    """A grandchild holds the pipe for ever."""

    async def main() -> None:
        process = await aio.create_subprocess_exec(*programs.holds_the_pipe(), stdout=aio.PIPE)
        assert await process.wait() == 0
        assert (await line_of(process)).startswith("leader done")

    run(main())


@pytest.mark.parametrize("chatter", [False, True])
def test_communicate_is_bounded_when_a_grandchild_holds_the_pipe(
    run: Run, programs: Programs, chatter: bool
) -> None:
    """It is silent, or it goes on and on: 0.1 s of silence, 2 s in all."""

    async def main() -> None:
        begun = asyncio.get_running_loop().time()
        process = await aio.create_subprocess_exec(
            *programs.holds_the_pipe(setsid=True, chatter=chatter), stdout=aio.PIPE, stderr=aio.PIPE
        )
        out, err = await process.communicate()
        assert asyncio.get_running_loop().time() - begun < 10
        assert out is not None
        assert b"leader done" in out
        assert err == b""
        os.kill(int(out.split(b"leader done ")[1].split()[0]), signal.SIGKILL)

    run(main())


def test_what_is_left_over_runs_on_unless_it_is_to_be_stopped(run: Run, programs: Programs) -> None:
    """As in asyncio; with leftovers="stop" as in a manager."""

    async def main() -> None:
        process = await aio.create_subprocess_exec(*programs.leaves_a_child(), stdout=aio.PIPE)
        left = int((await line_of(process)).split()[1])
        assert await process.wait() == 0
        assert is_alive(left)
        os.kill(left, signal.SIGKILL)
        process = await aio.create_subprocess_exec(
            *programs.leaves_a_child(), stdout=aio.PIPE, leftovers="stop"
        )
        left = int((await line_of(process)).split()[1])
        await process.stop()
        assert not is_alive(left)

    run(main())


def test_leaving_the_block_ends_the_process_and_its_descendants(run: Run, programs: Programs) -> None:
    """Whatever they ignore; also when the block is left by an error."""

    async def main() -> None:
        with pytest.raises(ZeroDivisionError):  # noqa: PT012 - a block is what it is about
            async with await aio.create_subprocess_exec(
                *programs.forks_a_tree(2, 2, ignore=True), stdout=aio.PIPE, grace=0.1
            ) as process:
                while not (await line_of(process)).startswith("ready"):
                    pass
                raise ZeroDivisionError
        assert process.returncode == -signal.SIGKILL
        assert programs.running() == []

    run(main())


def test_the_engine_keeps_time_limits(run: Run, programs: Programs) -> None:
    """Options of Command are options here."""

    async def main() -> None:
        process = await aio.create_subprocess_exec(*programs.ignores_sigterm(), timeout=0.1, grace=0.1)
        assert await process.wait() == -signal.SIGKILL
        assert process.status is not None
        assert process.status.reason is ExitReason.TIMEOUT
        assert process.status.escalated
        process = await aio.create_subprocess_exec(
            *programs.ready_then_sleep(), stdout=aio.PIPE, idle_timeout=0.1
        )
        assert await process.wait() == -signal.SIGTERM
        assert process.status is not None
        assert process.status.reason is ExitReason.IDLE_TIMEOUT

    run(main())


def test_limits_umask_and_environment_reach_the_child(run: Run, programs: Programs) -> None:
    """A sample of what Command knows, and of what Popen calls otherwise."""

    async def main() -> None:
        process = await aio.create_subprocess_exec(
            *programs.prints_limits(), limits=fastproc.Limits(core=0, open_files=99), stdout=aio.PIPE
        )
        said = json.loads((await process.communicate())[0] or b"")
        assert (said["core"], said["open_files"]) == ([0, 0], [99, 99])
        process = await aio.create_subprocess_exec(
            *programs.prints_env(), env={"A": "1", "B": b"\xff"}, stdout=aio.PIPE
        )
        assert (await process.communicate())[0] == b"A=1\0B=\xff\0"
        process = await aio.create_subprocess_exec(
            *programs.prints_ids(), umask=0o27, process_group=0, stdout=aio.PIPE
        )
        ids = json.loads((await process.communicate())[0] or b"")
        assert (ids["umask"], ids["pgid"] == ids["pid"], ids["sid"] == ids["pid"]) == (0o27, True, False)

    run(main())


def test_close_fds_off_hands_on_what_can_be_inherited(run: Run, programs: Programs) -> None:
    """And only that, see PEP 446."""
    read, write = os.pipe()
    try:
        os.set_inheritable(write, True)

        async def main() -> dict[str, str]:
            process = await aio.create_subprocess_exec(
                *programs.prints_fds(), close_fds=False, stdout=aio.PIPE, stdin=aio.DEVNULL
            )
            said: dict[str, str] = json.loads((await process.communicate())[0] or b"")
            return said

        said = run(main())
        assert str(write) in said
        assert str(read) not in said
    finally:
        os.close(read)
        os.close(write)


def test_it_joins_the_group_that_is_named(run: Run, programs: Programs) -> None:
    """As with asyncio since 3.11: it leads nothing then, and the group can be signalled as one."""

    async def main() -> None:
        leader = await aio.create_subprocess_exec(*programs.ready_then_sleep(), process_group=0)
        member = await aio.create_subprocess_exec(*programs.ready_then_sleep(), process_group=leader.pid)
        assert os.getpgid(leader.pid) == leader.pid
        assert os.getpgid(member.pid) == leader.pid
        assert (await aio.run(["true"], process_group=leader.pid)).returncode == 0
        with pytest.raises(PermissionError):
            await aio.create_subprocess_exec("true", process_group=leader.pid, start_new_session=True)
        await member.stop()
        assert leader.returncode is None
        os.killpg(leader.pid, signal.SIGKILL)
        assert await leader.wait() == -signal.SIGKILL
        with pytest.raises(PermissionError):
            await aio.create_subprocess_exec("true", process_group=leader.pid)

    run(main())


def test_it_is_one_of_asyncio_to_whoever_asks(run: Run, programs: Programs) -> None:
    """For isinstance() and annotations; all that this class can do is done here."""

    async def main() -> None:
        for options in ({}, {"stdout": aio.PIPE}):
            process = await aio.create_subprocess_exec(*programs.exits_with(0), **options)  # type: ignore[arg-type]
            assert isinstance(process, asyncio.subprocess.Process)
            await process.wait()
        theirs = await asyncio.create_subprocess_exec(*programs.exits_with(0))
        await theirs.wait()
        public = {name for name in dir(theirs) if not name.startswith("_")}
        assert public <= {name for name in dir(process) if not name.startswith("_")}
        methods = {name for name in vars(asyncio.subprocess.Process) if not name.startswith("_")}
        assert methods <= set(vars(aio.Process))

    run(main())


def test_to_wait_in_another_loop_is_refused_in_clear_words(run: Run, programs: Programs) -> None:
    """And harms nobody: it can still be waited for in its own."""
    home = asyncio.new_event_loop()
    try:
        process = home.run_until_complete(
            aio.create_subprocess_exec(*programs.ready_then_sleep(), stdout=aio.PIPE)
        )

        async def main() -> None:
            for what in (process.wait, process.communicate):
                with pytest.raises(RuntimeError, match="belongs to another event loop"):
                    await what()

        run(main())
        process.kill()
        assert home.run_until_complete(process.wait()) == -signal.SIGKILL
    finally:
        home.close()


def test_a_cancel_token_stops_it(run: Run, programs: Programs) -> None:
    """Also one that is cancelled before the start."""

    async def main() -> None:
        token = fastproc.CancelToken()
        process = await aio.create_subprocess_exec(*programs.ready_then_sleep(), cancel=token)
        token.cancel()
        assert await process.wait() == -signal.SIGTERM
        assert process.status is not None
        assert process.status.reason is ExitReason.CANCELLED
        with pytest.raises(fastproc.SpawnError, match="CancelToken"):
            await aio.create_subprocess_exec("true", cancel=token)

    run(main())


def test_wait_with_a_time_out_does_nothing_to_the_process(run: Run, programs: Programs) -> None:
    """Unlike asyncio.timeout(), which cancels."""

    async def main() -> None:
        async with await aio.create_subprocess_exec(*programs.ready_then_sleep()) as process:
            with pytest.raises(TimeoutError, match=r"0\.05 s"):
                await process.wait(timeout=0.05)
            assert process.returncode is None
        assert process.returncode == -signal.SIGTERM

    run(main())


def test_the_audit_event_of_subprocess_is_raised(run: Run, programs: Programs) -> None:
    """Those who watch over what is executed see us as well."""
    heard: list[object] = []
    listening = True
    args = programs.nop()

    def hook(event: str, args: tuple[object, ...]) -> None:
        if listening and event == "subprocess.Popen":
            heard.append(args[1])

    sys.addaudithook(hook)

    async def main() -> None:
        await (await aio.create_subprocess_exec(*args)).wait()
        await aio.run(args)

    run(main())
    listening = False
    assert heard == [tuple(args)] * 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"text": True}, "text"),
        ({"encoding": "utf-8"}, "encoding"),
        ({"universal_newlines": True}, "universal_newlines"),
        ({"shell": True}, "shell must be False"),
        ({"bufsize": 1}, "bufsize must be 0"),
        ({"preexec_fn": print}, "preexec_fn cannot run here"),
        ({"process_group": 17, "start_new": "group"}, "process_group"),
        ({"creationflags": 1}, "Windows"),
        ({"limit": 0, "stdout": aio.PIPE}, "Limit"),
        ({"max_output": 10, "stdout": aio.PIPE}, "on_max_output"),
        ({"timeout": -1}, "timeout"),
        ({"env": {"a=b": "c"}}, "a=b"),
    ],
)
def test_bad_input_is_refused_before_anything_is_started(
    run: Run, options: dict[str, object], words: str
) -> None:
    """With the name of the culprit."""

    async def main() -> None:
        with pytest.raises(ValueError, match=words):
            await aio.create_subprocess_exec("true", stdin=aio.PIPE, **options)  # type: ignore[arg-type]

    run(main())


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"user": "no-such-user"}, fastproc.SpawnError),
        ({"group": "no-such-group"}, fastproc.SpawnError),
        ({"extra_groups": ["no-such-group"]}, fastproc.SpawnError),
        ({"user": 2**65}, ValueError),
        ({"extra_groups": "root"}, TypeError),
        ({"stdin": "no-such-file"}, FileNotFoundError),
        ({"stdout": object()}, TypeError),
        ({"stdout": -5}, ValueError),
        ({"stdout": True}, TypeError),
        ({"env": 5}, TypeError),
        ({"env": {"": "x"}}, ValueError),
        ({"cwd": ""}, ValueError),
        ({"executable": ""}, ValueError),
        ({"umask": 2**40}, ValueError),
        ({"umask": -5}, ValueError),
        ({"pass_fds": ["x"]}, TypeError),
        ({"timeout": float("nan")}, ValueError),
    ],
)
def test_some_bad_input_is_another_class_than_in_the_standard_library(
    run: Run, options: dict[str, Any], kind: type[Exception]
) -> None:
    """The table of docs/howto/use-it-in-asyncio.md."""

    async def main() -> None:
        with pytest.raises(kind):
            await aio.create_subprocess_exec("true", **options)
        with pytest.raises(kind):
            await aio.run(["true"], **options)

    run(main())


def test_unknown_options_are_type_errors(run: Run) -> None:
    """And the nearest one is named."""

    async def main() -> None:
        with pytest.raises(TypeError, match="did you mean 'timeout'"):
            await aio.create_subprocess_exec("true", timeuot=3)
        with pytest.raises(TypeError):
            await aio.create_subprocess_exec(7)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="args is no option here: say program and arguments one by one"):
            await aio.create_subprocess_exec("true", args=["x"])
        with pytest.raises(ValueError, match="cmd must be a string"):
            await aio.create_subprocess_shell(["true"])  # type: ignore[arg-type]

    run(main())
