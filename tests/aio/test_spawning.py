"""Starting holds nobody: the crew starts, and the loop goes on meanwhile."""

from __future__ import annotations

import asyncio
import time

import pytest
from tests.integration import fresh, seccomp
from tests.programs import Programs

pytestmark = pytest.mark.skipif(not seccomp.is_available(), reason="needs seccomp filters")

# The crew's threads are made by the thread that starts first, and inherit its filter.
SCENARIO = """
import asyncio
from fastproc import aio
from tests.integration.seccomp import Gate

ticks = 0
passed = threading.Event()

async def tick():
    global ticks
    while True:
        await asyncio.sleep(0.005)
        ticks += 1

async def main():
    asyncio.get_running_loop().create_task(tick())
    {body}

gate = Gate("execve", lambda: asyncio.run(main()))
ticket, pid = gate.arrival()
before = ticks
until = time.monotonic() + 20
while ticks < before + 50 and time.monotonic() < until:
    time.sleep(0.01)
print("ticks" if ticks >= before + 50 else f"the loop stands still after {{ticks}}")
{then}
"""


def hung(body: str, then: str, programs: Programs) -> list[str]:
    """What is printed when execve(2) of the first start hangs until `then` lets it go."""
    return fresh.run(SCENARIO.format(body=body, then=then), programs).splitlines()


def test_the_loop_goes_on_while_an_execve_hangs(programs: Programs) -> None:
    """As it may for seconds, on a cold disk or a file system of the network."""
    said = hung(
        'process = await aio.create_subprocess_exec("/bin/true"); return await process.wait()',
        'gate.let_go(ticket); print("returncode", gate.result())',
        programs,
    )
    assert said == ["ticks", "returncode 0"]


def test_an_error_that_comes_late_is_an_exception_of_the_await(programs: Programs) -> None:
    """execve(2) fails in the end."""
    said = hung(
        """try:
        await aio.run(["/bin/true"])
    except PermissionError as error:
        return error.filename""",
        'gate.refuse(ticket, errno.EACCES); print("refused", gate.result())',
        programs,
    )
    assert said == ["ticks", "refused /bin/true"]


def test_a_manager_admits_others_while_one_start_hangs(programs: Programs) -> None:
    """The name is taken, the others of the crew go on."""
    said = hung(
        """async with aio.ProcessManager() as manager:
        start = asyncio.create_task(manager.start_process("slow", ["/bin/true"]))
        await asyncio.sleep(0)
        try:
            await manager.start_process("slow", ["/bin/true"])
        except fastproc.errors.DuplicateTask:
            print("taken", flush=True)
        await start
        return (await manager.wait("slow")).code""",
        'gate.let_go(ticket); print("code", gate.result())',
        programs,
    )
    assert said == ["taken", "ticks", "code 0"]


def test_a_start_that_hangs_can_be_called_off(programs: Programs) -> None:
    """It is stopped at the moment of its birth, before the cancellation is raised."""
    said = hung(
        """start = asyncio.create_task(aio.create_subprocess_exec("/bin/sleep", "100"))
    while ticks < 20:
        await asyncio.sleep(0.01)
    start.cancel()
    try:
        await start
    except asyncio.CancelledError:
        return "cancelled"
    """,
        "gate.let_go(ticket); print(gate.result(), children())",
        programs,
    )
    assert said == ["ticks", "cancelled []"]


def test_hundreds_of_starts_in_one_turn_let_the_loop_turn(programs: Programs) -> None:
    """They are handed over in one call, which takes no longer than making the arguments of each."""
    from fastproc import aio

    args = programs.nop()

    async def main() -> float:
        longest = 0.0

        async def tick() -> None:
            nonlocal longest
            while True:
                begun = time.monotonic()
                await asyncio.sleep(0)
                longest = max(longest, time.monotonic() - begun)

        ticking = asyncio.create_task(tick())
        await asyncio.sleep(0)
        processes = await asyncio.gather(*(aio.create_subprocess_exec(*args) for _ in range(500)))
        await asyncio.gather(*(process.wait() for process in processes))
        ticking.cancel()
        return longest

    # 500 starts take 20 ms at the very least, and ten times that under asyncio.
    assert min(asyncio.run(main()) for _ in range(5)) < 0.2
