"""StreamReader and StreamWriter of a process."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import stat

import pytest
from tests.aio.conftest import Run, line_of
from tests.programs import Programs

import fastproc
from fastproc import aio


def test_they_are_those_of_asyncio_to_whoever_asks(run: Run) -> None:
    """isinstance() is what libraries go by."""

    async def main() -> None:
        process = await aio.create_subprocess_exec("cat", stdin=aio.PIPE, stdout=aio.PIPE, stderr=aio.PIPE)
        assert isinstance(process.stdin, asyncio.StreamWriter)
        assert isinstance(process.stdout, asyncio.StreamReader)
        assert isinstance(process.stderr, asyncio.StreamReader)
        await process.communicate()

    run(main())


def test_a_dialogue_goes_to_and_fro(run: Run) -> None:
    """What is written is there at once, and so is the answer."""

    async def main() -> None:
        process = await aio.create_subprocess_exec("cat", stdin=aio.PIPE, stdout=aio.PIPE)
        assert process.stdin is not None
        assert process.stdout is not None
        for number in range(100):
            process.stdin.write(b"line %d\n" % number)
            await process.stdin.drain()
            assert await process.stdout.readline() == b"line %d\n" % number
        process.stdin.writelines([b"the ", b"end"])
        process.stdin.write_eof()
        assert await process.stdout.read() == b"the end"
        assert process.stdout.at_eof()
        await process.stdin.wait_closed()
        assert await process.wait() == 0

    run(main())


def test_each_way_of_reading_gives_what_is_there(run: Run) -> None:
    """read, readexactly, readline, readuntil, async for; and the end of each."""

    async def main() -> None:
        process = await aio.create_subprocess_shell("printf 'abcdefg|hi\njk\nlm'", stdout=aio.PIPE)
        out = process.stdout
        assert out is not None
        assert await out.read(0) == b""
        assert await out.readexactly(3) == b"abc"
        assert await out.read(2) == b"de"
        assert await out.readuntil(b"|") == b"fg|"
        assert await out.readline() == b"hi\n"
        assert [line async for line in out] == [b"jk\n", b"lm"]
        assert (await out.read(), await out.read(5), await out.readline()) == (b"", b"", b"")
        with pytest.raises(asyncio.IncompleteReadError) as caught:
            await out.readexactly(1)
        assert caught.value.partial == b""
        with pytest.raises(asyncio.IncompleteReadError):
            await out.readuntil(b"x")
        with pytest.raises(ValueError, match="at least one-byte"):
            await out.readuntil(b"")
        with pytest.raises(ValueError, match="less than zero"):
            await out.readexactly(-1)

    run(main())


def test_separators_of_several_bytes_may_be_cut_anywhere(run: Run) -> None:
    """They come in two pieces, with a pause between them."""

    async def main() -> None:
        process = await aio.create_subprocess_shell(
            "printf 'one-'; sleep 0.05; printf -- '->two'; sleep 0.05; printf -- '-->'", stdout=aio.PIPE
        )
        out = process.stdout
        assert out is not None
        assert await out.readuntil(b"-->") == b"one-->"
        assert await out.readuntil((b"-->", b"wo-")) == b"two-"
        assert await out.read() == b"->"

    run(main())


@pytest.mark.parametrize("limit", [10, 2**16])
def test_a_line_of_any_length_is_read_whole(run: Run, limit: int) -> None:
    """Asyncio raises ValueError for what is longer than its limit, and LimitOverrunError."""
    size = 3_000_000

    async def main() -> None:
        process = await aio.create_subprocess_shell(
            f"head -c {size} /dev/zero | tr '\\0' x; echo; head -c {size} /dev/zero; printf 'END tail'",
            stdout=aio.PIPE,
            limit=limit,
        )
        assert process.stdout is not None
        assert await process.stdout.readline() == b"x" * size + b"\n"
        assert await process.stdout.readuntil(b"END") == b"\0" * size + b"END"
        assert await process.stdout.read() == b" tail"

    run(main())


def test_a_child_that_nobody_reads_is_held_back(run: Run, programs: Programs) -> None:
    """It writes without end; what is fetched ahead is bounded, and all of it comes in order."""

    async def main() -> None:
        process = await aio.create_subprocess_exec(*programs.spams(lines=True), stdout=aio.PIPE, limit=1000)
        out = process.stdout
        assert isinstance(out, aio.StreamReader)
        await out.readline()
        held = -1
        # Until it does not get any further: it is at work, so this takes as long as it takes.
        while held != (held := process._flight.child._handle.output(1)[0]):  # type: ignore[index]
            await asyncio.sleep(0.2)
        assert held < 600_000
        assert len(out._buffer) <= 3000
        for number in range(1, 20_000):
            assert (await out.readline()).startswith(b"%015d " % number)
        process.kill()
        assert await process.wait() == -signal.SIGKILL

    run(main())


def test_much_output_comes_whole_through_both_streams(run: Run) -> None:
    """20 MB each, at once; no order of reading can lock it up."""
    size = 20_000_000

    async def main() -> None:
        process = await aio.create_subprocess_shell(
            f"head -c {size} /dev/zero >&2 & head -c {size} /dev/zero; wait", stdout=aio.PIPE, stderr=aio.PIPE
        )
        out, err = await process.communicate()
        assert (len(out or b""), len(err or b"")) == (size, size)

    run(main())


def test_much_input_is_fed_while_output_is_read(run: Run) -> None:
    """20 MB to and fro; the loop turns meanwhile."""
    data = bytes(range(256)) * 80_000
    turns = 0

    async def main() -> None:
        nonlocal turns

        async def tick() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        ticking = asyncio.create_task(tick())
        process = await aio.create_subprocess_exec("cat", stdin=aio.PIPE, stdout=aio.PIPE)
        assert await process.communicate(data) == (data, None)
        ticking.cancel()

    run(main())
    assert turns > 100


def test_a_child_that_never_reads_blocks_nobody(run: Run, programs: Programs) -> None:
    """write() returns, drain() waits and can be cancelled, the loop goes on."""

    async def main() -> None:
        process = await aio.create_subprocess_exec(
            *programs.never_reads_stdin(), stdin=aio.PIPE, stdout=aio.PIPE
        )
        await line_of(process)
        assert process.stdin is not None
        process.stdin.write(b"x" * 5_000_000)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await process.stdin.drain()
        assert process.returncode is None
        assert process.stdin.transport.get_write_buffer_size() > 4_000_000
        process.kill()
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            await process.stdin.drain()
        await process.wait()

    run(main())


def test_a_child_that_ends_unfed_is_no_error_of_communicate(run: Run, programs: Programs) -> None:
    """BrokenPipeError is for those who write themselves."""

    async def main() -> None:
        process = await aio.create_subprocess_exec(*programs.exits_with(3), stdin=aio.PIPE)
        assert await process.communicate(b"x" * 5_000_000) == (None, None)
        assert process.returncode == 3

    run(main())


def test_writing_behind_the_end_does_nothing_and_drain_says_so(run: Run, programs: Programs) -> None:
    """As in asyncio."""

    async def main() -> None:
        process = await aio.create_subprocess_exec(*programs.exits_with(0), stdin=aio.PIPE)
        assert process.stdin is not None
        await process.wait()
        await process.stop()
        process.stdin.write(b"late")
        assert process.stdin.is_closing()
        with pytest.raises(aio.InputClosed) as caught:
            await process.stdin.drain()
        assert isinstance(caught.value, BrokenPipeError)
        assert isinstance(caught.value, ConnectionResetError)
        await process.stdin.wait_closed()

    run(main())


@pytest.mark.parametrize("how", ["closed", "unread", "dropped"])
def test_drain_on_a_closed_input_raises_what_either_handler_catches(
    run: Run, programs: Programs, how: str
) -> None:
    """Programs have learnt one or the other: asyncio raises now this, now that."""

    async def main() -> None:
        process = await aio.create_subprocess_exec(
            *programs.ready_then_sleep(), stdin=aio.PIPE, stdout=aio.PIPE
        )
        assert process.stdin is not None
        await line_of(process)
        if how == "closed":
            process.stdin.close()
        else:
            process.stdin.write(b"x" * (1_000_000 if how == "dropped" else 1))
            waiter = asyncio.create_task(process.stdin.drain())
            await asyncio.sleep(0)
            process.kill()
            await process.wait()
            await process.stop()
            process.stdin.write(b"x")
            if how == "dropped":
                with pytest.raises(BrokenPipeError):
                    await waiter
            else:
                await waiter
        for kind in (BrokenPipeError, ConnectionResetError, aio.InputClosed, fastproc.FastprocError):
            with pytest.raises(kind, match="standard input"):
                await process.stdin.drain()
        await process.stop()

    run(main())


def test_the_pipe_can_be_asked_for(run: Run, programs: Programs) -> None:
    """Its size, say. It is a file, closed with the stream and once only."""

    async def main() -> None:
        process = await aio.create_subprocess_exec("cat", stdin=aio.PIPE, stdout=aio.PIPE)
        assert process.stdin is not None
        pipe = process.stdin.get_extra_info("pipe")
        assert pipe is process.stdin.get_extra_info("pipe")
        assert stat.S_ISFIFO(os.fstat(pipe.fileno()).st_mode)
        assert process.stdin.get_extra_info("peername", "none") == "none"
        assert fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ) > 0
        process.stdin.write(b"said")
        assert not pipe.closed
        assert await process.communicate() == (b"said", None)
        assert pipe.closed
        late = await aio.create_subprocess_exec(*programs.exits_with(0), stdin=aio.PIPE)
        assert late.stdin is not None
        await late.communicate()
        assert late.stdin.get_extra_info("pipe", "gone") == "gone"
        forgotten = await aio.create_subprocess_exec("cat", stdin=aio.PIPE)
        assert forgotten.stdin is not None
        assert forgotten.stdin.get_extra_info("pipe").writable()

    run(main())


def test_closing_waits_for_what_was_written(run: Run, programs: Programs) -> None:
    """A slow reader gets all of it."""
    size = 1_000_000

    async def main() -> None:
        process = await aio.create_subprocess_exec(
            *programs.reads_stdin_slowly(65536, 0.001), stdin=aio.PIPE, stdout=aio.PIPE
        )
        assert process.stdin is not None
        process.stdin.write(bytearray(size))
        process.stdin.close()
        await process.stdin.wait_closed()
        assert await line_of(process) == str(size)

    run(main())


def test_two_readers_at_once_are_a_mistake(run: Run, programs: Programs) -> None:
    """It would be left to chance who gets what."""

    async def main() -> None:
        async with await aio.create_subprocess_exec(*programs.ready_then_sleep(), stdout=aio.PIPE) as process:
            assert process.stdout is not None
            await process.stdout.readline()
            first = asyncio.create_task(process.stdout.readline())
            await asyncio.sleep(0)
            with pytest.raises(RuntimeError, match="already waiting"):
                await process.stdout.read(1)
            first.cancel()

    run(main())


def test_a_reading_that_is_cancelled_loses_nothing_and_stops_nobody(run: Run) -> None:
    """Nor does a readline() that has half a line."""

    async def main() -> None:
        process = await aio.create_subprocess_shell(
            "printf half; read _; echo ' line'", stdin=aio.PIPE, stdout=aio.PIPE
        )
        assert process.stdin is not None
        assert process.stdout is not None
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await process.stdout.readline()
        assert process.returncode is None
        process.stdin.write(b"\n")
        assert await process.stdout.readline() == b"half line\n"
        assert await process.wait() == 0

    run(main())


def test_what_came_before_communicate_was_cancelled_is_not_lost(run: Run, programs: Programs) -> None:
    """It is called again."""

    async def main() -> None:
        process = await aio.create_subprocess_exec(*programs.cleans_up(), stdout=aio.PIPE)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await process.communicate()
        out, _ = await process.communicate()
        assert (out or b"").split(b"\n")[1:] == [b"cleaning", b"clean", b""]
        assert process.returncode == 0

    run(main())


def test_exceptions_and_bytes_can_be_put_into_a_reader(run: Run) -> None:
    """Libraries do that in their tests."""

    async def main() -> None:
        process = await aio.create_subprocess_exec("cat", stdin=aio.PIPE, stdout=aio.PIPE)
        out = process.stdout
        assert out is not None
        out.feed_data(b"put in\n")
        assert await out.readline() == b"put in\n"
        out.set_exception(ZeroDivisionError())
        assert isinstance(out.exception(), ZeroDivisionError)
        with pytest.raises(ZeroDivisionError):
            await out.read(1)
        await process.stop()

    run(main())
