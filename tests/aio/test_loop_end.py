"""Loops that end, are closed, are forgotten, are forked: nothing is left behind and nothing complains."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
import weakref
from collections.abc import Callable

import pytest
from tests.aio.conftest import Run, line_of
from tests.conftest import eventually, open_descriptors
from tests.integration import fresh
from tests.programs import Programs

from fastproc import aio
from fastproc._engine import loops

SCENARIO = "import asyncio, warnings\nfrom fastproc import aio\n"


def scenario(source: str, programs: Programs, *, seconds: float = 50) -> list[str]:
    """What the source prints in an interpreter of its own, which takes every warning for an error."""
    return fresh.run(
        "\n".join(["import asyncio, weakref", "from fastproc import aio", _dedented(source)]),
        programs,
        seconds=seconds,
    ).splitlines()


def _dedented(source: str) -> str:
    import textwrap

    return textwrap.dedent(source)


def nothing_is_known_of_old_loops() -> bool:
    """The next loop sweeps up what those before have left."""
    asyncio.run(aio.run(["true"]))
    return loops.loose_roster().feeds == set()


def test_a_loop_that_ends_ends_what_was_forgotten_in_it(run: Run, programs: Programs) -> None:
    """Processes nobody waits for, with and without streams, and those of a manager that was left open."""
    managers = []

    async def main() -> None:
        await aio.create_subprocess_exec(*programs.ready_then_sleep())
        await aio.create_subprocess_exec(*programs.cleans_up(0.1), stdin=aio.PIPE, stdout=aio.PIPE)
        await aio.create_subprocess_exec(*programs.spams(), stdout=aio.PIPE, stderr=aio.PIPE)
        managers.append(manager := aio.ProcessManager())
        await manager.start_process("x", programs.forks_a_tree(1, 3))
        process = await aio.create_subprocess_exec(*programs.leaves_a_child(), stdout=aio.PIPE)
        await line_of(process)

    run(main())
    assert programs.running() == []
    assert managers[0].active_count() == 0


def test_the_end_waits_for_the_grace_of_the_stubborn(run: Run, programs: Programs) -> None:
    """And no longer."""

    async def main() -> None:
        process = await aio.create_subprocess_exec(*programs.ignores_sigterm(), stdout=aio.PIPE, grace=0.3)
        await line_of(process)

    begun = time.monotonic()
    run(main())
    assert 0.25 < time.monotonic() - begun < 10
    assert programs.running() == []


@pytest.mark.parametrize("uv", [False, True])
def test_a_loop_that_is_just_closed_ends_what_runs_in_the_background(uv: bool, programs: Programs) -> None:
    """There is nobody who could wait for it; the engine does it. Its mailbox is closed with it."""
    loop = pytest.importorskip("uvloop").new_event_loop() if uv else asyncio.new_event_loop()
    before = open_descriptors()

    async def main() -> None:
        await aio.create_subprocess_exec(*programs.ready_then_sleep(), stdin=aio.PIPE, stdout=aio.PIPE)

    loop.run_until_complete(main())
    mail = weakref.ref(loops._mails[loop])
    assert mail() is not None
    loop.close()
    assert eventually(lambda: programs.running() == [], 10)
    gc.collect()
    assert (
        len([name for name in open_descriptors().values() if "eventfd" in name])
        < len([name for name in before.values() if "eventfd" in name]) + 1
    )
    assert eventually(nothing_is_known_of_old_loops)
    del loop
    # The thread that has ended them may be about to let go of it.
    assert eventually(lambda: gc.collect() >= 0 and mail() is None)


def test_a_loop_that_is_forgotten_takes_its_processes_with_it(programs: Programs) -> None:
    """It is not even closed; asyncio warns of that."""

    async def main() -> None:
        await aio.create_subprocess_exec(*programs.ready_then_sleep(), stdout=aio.DEVNULL)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
    with pytest.warns(ResourceWarning, match="unclosed event loop"):  # noqa: PT031 - it goes here
        del loop
        gc.collect()
    assert eventually(lambda: programs.running() == [], 10)


def test_thousands_of_loops_leave_nothing(programs: Programs) -> None:
    """Made and closed one after the other, some with a process that still runs."""
    args = programs.ready_then_sleep()
    eventfds = len(open_descriptors())

    async def main(number: int) -> None:
        if number % 10:
            assert (await aio.run(["true"])).returncode == 0
        else:
            await aio.create_subprocess_exec(*args, stdout=aio.DEVNULL)

    for number in range(1000):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(main(number))
        loop.close()
    assert len(loops._mails) <= 1
    assert eventually(lambda: programs.running() == [], 10)
    assert eventually(nothing_is_known_of_old_loops)
    assert len(open_descriptors()) <= eventfds + 1


def test_loops_in_many_threads_at_once_do_not_hear_each_other(programs: Programs) -> None:
    """Each has a mailbox of its own; none needs the main thread."""
    wrong: list[object] = []

    async def main(number: int) -> None:
        async with aio.ProcessManager() as manager:
            started = [await manager.start_process(i, programs.exits_with(number)) for i in range(20)]
            codes = {(await process.wait()).code for process in started}
            processes = await asyncio.gather(
                *(
                    aio.create_subprocess_exec(*programs.exits_with(number), stdout=aio.PIPE)
                    for _ in range(20)
                )
            )
            codes |= {await process.wait() for process in processes}
        if codes != {number}:
            wrong.append((number, codes))

    threads = [threading.Thread(target=lambda n=n: asyncio.run(main(n))) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert wrong == []


def test_one_wake_up_serves_a_batch_of_news(programs: Programs) -> None:
    """Fifty exits that wait in the mailbox are read in one go, and nothing is registered for one of them."""
    args = programs.exits_with(0, 0.05)

    async def main() -> int:
        loop = asyncio.get_running_loop()
        processes = await asyncio.gather(*(aio.create_subprocess_exec(*args) for _ in range(50)))
        mail = loops._mails[loop]
        readers = len(loop._selector.get_map())  # type: ignore[attr-defined]
        assert readers == 2, "the loop's own pipe, and the mailbox"
        reads = 0
        read = type(mail).read

        def counted(self: loops.LoopMail) -> None:
            nonlocal reads
            reads += 1
            read(self)

        time.sleep(0.5)
        try:
            loops.LoopMail.read = counted  # type: ignore[method-assign]
            await asyncio.gather(*(process.wait() for process in processes))
        finally:
            loops.LoopMail.read = read  # type: ignore[method-assign]
        return reads

    assert asyncio.run(main()) <= 3


def test_no_thread_and_no_signal_is_needed(programs: Programs) -> None:
    """SIGCHLD may be blocked and handled by others; there is no thread for a child."""

    async def main() -> None:
        processes = [await aio.create_subprocess_exec(*programs.ready_then_sleep()) for _ in range(30)]
        assert {t.name for t in threading.enumerate() if "supervisor" not in t.name} == {"MainThread"}
        for process in processes:
            process.kill()
            await process.wait()

    asyncio.run(main())


def test_a_context_is_not_kept_by_the_loop(programs: Programs) -> None:
    """Whoever starts the first process does not leave his variables behind."""
    import contextvars

    class Big:
        pass

    variable: contextvars.ContextVar[Big] = contextvars.ContextVar("variable")

    async def first() -> weakref.ref[Big]:
        big = Big()
        variable.set(big)
        await aio.run(programs.nop())
        return weakref.ref(big)

    async def main() -> None:
        kept = await asyncio.create_task(first())
        await asyncio.sleep(0)
        gc.collect()
        assert kept() is None

    asyncio.run(main())


def test_processes_and_streams_are_not_kept_when_they_are_done(run: Run, programs: Programs) -> None:
    """Nor do they need the garbage collector."""

    async def main() -> list[weakref.ref[object]]:
        gc.disable()
        try:
            kept: list[weakref.ref[object]] = []
            for _ in range(3):
                process = await aio.create_subprocess_exec(
                    "cat", stdin=aio.PIPE, stdout=aio.PIPE, stderr=aio.PIPE
                )
                await process.communicate(b"x")
                await process.stop()
                kept += [weakref.ref(process), weakref.ref(process._flight)]
                del process
            await asyncio.sleep(0)
            return [one for one in kept if one() is not None]
        finally:
            gc.enable()

    assert run(main()) == []


def test_a_forked_copy_can_run_a_loop_of_its_own(programs: Programs) -> None:
    """And what the original runs is none of its business."""
    said = scenario(
        """
        async def in_copy():
            process = await aio.create_subprocess_exec(*programs.exits_with(5))
            return await process.wait()

        async def main():
            process = await aio.create_subprocess_exec(*programs.ready_then_sleep(), stdout=aio.PIPE)
            await process.stdout.readline()
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
            if not pid:
                asyncio.events._set_running_loop(None)
                try:
                    try:
                        process.kill()
                    except fastproc.errors.ForkedHandle:
                        print("inert", flush=True)
                    print("copy", asyncio.run(in_copy()), flush=True)
                finally:
                    gc.collect()
                    os._exit(0)
            await asyncio.to_thread(os.waitpid, pid, 0)
            print("running", process.returncode)
            process.kill()
            print("ended", await process.wait())

        import warnings
        asyncio.run(main())
        """,
        programs,
    )
    assert said == ["inert", "copy 5", "running None", "ended -9"]


def test_ctrl_c_ends_a_program_and_what_it_runs(programs: Programs) -> None:
    """asyncio.run() cancels the main task; whoever waits takes his process with him; all has its grace."""
    program = fresh.begin(
        """
        import asyncio
        from fastproc import aio

        async def main():
            async with aio.ProcessManager() as manager:
                await manager.start_process("forgotten", programs.ready_then_sleep(), stdout=-3)
                process = await aio.create_subprocess_exec(*programs.cleans_up(0.2), stdout=aio.PIPE)
                await process.stdout.readline()
                print("ready", flush=True)
                try:
                    await process.wait()
                except asyncio.CancelledError:
                    print((await process.stdout.read()).decode().split(), process.returncode, flush=True)
                    raise
        try:
            asyncio.run(main())
        except KeyboardInterrupt:
            print("interrupted", children())
        """,
        programs,
    )
    assert program.stdout is not None
    assert program.stdout.readline() == "ready\n"
    program.send_signal(2)
    code, out, err = fresh.finish(program)
    assert (code, err) == (0, "")
    assert out.splitlines() == ["['cleaning', 'clean'] 0", "interrupted []"]


@pytest.mark.parametrize("times", [2, 3])
def test_ctrl_c_again_and_again_leaves_nothing_either(programs: Programs, times: int) -> None:
    """The second one is raised wherever the program is."""
    program = fresh.begin(
        """
        import asyncio
        from fastproc import aio

        async def main():
            process = await aio.create_subprocess_exec(*programs.ignores_sigterm(), stdout=aio.PIPE, grace=1)
            print((await process.stdout.readline()).decode(), end="", flush=True)
            await process.wait()

        try:
            asyncio.run(main())
        except KeyboardInterrupt:
            pass
        """,
        programs,
    )
    assert program.stdout is not None
    pid = int(program.stdout.readline().split()[1])
    for _ in range(times):
        program.send_signal(2)
        time.sleep(0.1)
    _code, _out, err = fresh.finish(program)
    assert "Event loop is closed" not in err
    assert "ResourceWarning" not in err
    assert eventually(lambda: not os.path.exists(f"/proc/{pid}"), 10)


def test_the_interpreter_may_exit_with_loops_and_processes_around(programs: Programs) -> None:
    """A loop that was never closed, one in a daemon thread, processes everywhere: all end quietly."""
    said = scenario(
        """
        import threading
        kept = []
        async def start(*options):
            kept.append(await aio.create_subprocess_exec(*programs.ready_then_sleep(), stdin=-1, stdout=-1))
            kept.append(manager := aio.ProcessManager())
            await manager.start_process("x", programs.ready_then_sleep(), stdout=-3)
            print("started", flush=True)
            for event in options:
                event.set()
                await asyncio.sleep(100)
        event = threading.Event()
        threading.Thread(target=lambda: asyncio.run(start(event)), daemon=True).start()
        event.wait()
        loop = asyncio.new_event_loop()
        kept.append(loop)
        loop.run_until_complete(start())
        import atexit
        atexit.register(lambda: print(len(programs.running()), flush=True))
        """,
        programs,
    )
    assert said[:2] == ["started", "started"]
    assert eventually(lambda: programs.running() == [], 10)


@pytest.mark.parametrize(
    "end",
    [
        "asyncio.run(main())",
        "asyncio.run(main(), debug=True)",
        "loop = asyncio.new_event_loop(); loop.run_until_complete(main()); loop.close()",
    ],
)
def test_nothing_complains_at_the_end(programs: Programs, end: str) -> None:
    """No "Event loop is closed", no ResourceWarning, no exception that was never retrieved."""
    said = scenario(
        f"""
        async def main():
            # What asyncio's debug mode says of a slow machine is no complaint.
            asyncio.get_running_loop().slow_callback_duration = 60
            args = programs.ready_then_sleep()
            process = await aio.create_subprocess_exec(*args, stdin=-1, stdout=-1, stderr=-1)
            process.stdin.write(b"x" * 1_000_000)
            await aio.create_subprocess_exec(*programs.spams(), stdout=-1)
            await aio.create_subprocess_exec(*programs.exits_with(0), stdout=-1)
            done = await aio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
            await done.communicate(b"x")
            try:
                await aio.create_subprocess_exec("/no/such/program", stdin=-1, stdout=-1)
            except FileNotFoundError:
                pass

        {end}
        gc.collect()
        print("quiet")
        """,
        programs,
    )
    assert said == ["quiet"]


def test_news_that_come_while_the_loop_is_being_closed_harm_nobody(programs: Programs) -> None:
    """Processes end right then, many times over."""
    args = programs.exits_with(0)

    async def main() -> None:
        await asyncio.gather(*(aio.create_subprocess_exec(*args, stdout=aio.PIPE) for _ in range(20)))

    for _ in range(20):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(main())
        loop.close()
    assert eventually(nothing_is_known_of_old_loops)


def test_a_signal_handler_of_the_loop_may_start_and_stop_processes(run: Run, programs: Programs) -> None:
    """It is an ordinary callback."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        started: asyncio.Queue[int | None] = asyncio.Queue()

        async def start() -> None:
            process = await aio.create_subprocess_exec(*programs.exits_with(6))
            started.put_nowait(await process.wait())

        tasks: set[asyncio.Task[None]] = set()
        loop.add_signal_handler(10, lambda: tasks.add(loop.create_task(start())))
        try:
            os.kill(os.getpid(), 10)
            assert await started.get() == 6
        finally:
            loop.remove_signal_handler(10)

    run(main())


def test_a_callback_that_raises_harms_no_other_process(programs: Programs) -> None:
    """on_exit of a manager: the exception goes to the handler of the loop, as with any callback."""
    heard: list[dict[str, object]] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: heard.append(context))
        async with aio.ProcessManager() as manager:
            bad: Callable[[object], object] = lambda _process: 1 / 0  # noqa: E731
            await manager.start_process("bad", programs.nop(), on_exit=bad)
            await manager.start_process("good", programs.exits_with(4))
            assert (await manager.wait("good")).code == 4
            await manager.wait("bad")
            await asyncio.sleep(0.05)

    asyncio.run(main())
    assert isinstance(heard[0]["exception"], ZeroDivisionError)
