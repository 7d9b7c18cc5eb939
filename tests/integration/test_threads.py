"""Many threads do everything at once to the same processes: one answer for all, and nothing left."""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Callable

import pytest
from tests.conftest import eventually
from tests.integration import fresh
from tests.programs import Programs
from tests.watch import held, in_threads, let_go

import fastproc
from fastproc import PIPE, ExitReason, ExitStatus, NotActive, Process, ProcessManager, WaitTimeout
from fastproc.process import Lines


def all_together(works: list[Callable[[], object]], seconds: float = 40) -> None:
    """Do all these in threads of their own, from one moment on; raise what one of them has raised."""
    barrier = threading.Barrier(len(works))
    errors: list[BaseException] = []

    def run(work: Callable[[], object]) -> None:
        try:
            barrier.wait(20)
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds)
        assert not thread.is_alive(), "a thread hangs"
    if errors:
        raise errors[0]


@pytest.mark.parametrize("turns", [12, pytest.param(600, marks=pytest.mark.slow)])
def test_sixteen_threads_hear_one_answer(manager: ProcessManager, programs: Programs, turns: int) -> None:
    """Each waits, polls, signals, stops and asks at random; the first answer is the answer for ever."""

    def meddle(process: Process, seed: int, answers: list[ExitStatus]) -> None:
        dice = random.Random(seed)
        for _ in range(6):
            match dice.randrange(7):
                case 0:
                    status = process.poll()
                    if status is not None:
                        answers.append(status)
                        assert process.poll() is not None, "it ran again after its end"
                case 1:
                    try:
                        answers.append(process.wait(dice.random() / 500))
                    except WaitTimeout:
                        pass
                case 2:
                    result = process.terminate(0.2)
                    assert result.stopped
                    assert result.status is not None
                    answers.append(result.status)
                case 3:
                    process.kill()
                case 4:
                    process.send_signal(15, group=dice.random() < 0.5)
                case 5:
                    try:
                        manager.terminate_process(process.task_id, 0.2)
                    except NotActive:
                        assert process.poll() is not None
                case 6:
                    manager.is_active(process.task_id)
                    manager.metrics()
                    str(process)
        answers.append(process.wait(20))

    for turn in range(turns):
        args = programs.exits_with(turn % 256) if turn % 3 == 0 else programs.ready_then_sleep()
        process = manager.start_process(turn, args, stdout=PIPE)
        answers: list[ExitStatus] = []
        works = [
            lambda seed=seed: meddle(process, seed, answers) for seed in range(turn * 16, turn * 16 + 16)
        ]  # type: ignore[misc]
        all_together(list(works))

        assert {id(answer) for answer in answers} == {id(process.wait())}
        assert len(answers) >= 16
    assert eventually(lambda: manager.active_count() == 0)
    metrics = manager.metrics()
    assert metrics.started == turns
    assert metrics.exited + metrics.signaled == turns


def test_the_first_starts_of_a_manager_may_come_from_many_threads(programs: Programs) -> None:
    """Each manager connects with the engine once, whoever comes first, and no event is lost."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(25):
            events: list[object] = []
            with ProcessManager(on_event=events.append) as manager:
                works = [
                    lambda base=base: manager.start_process(base, programs.exits_with(base)).wait(10)  # type: ignore[misc]
                    for base in range(6)
                ]
                all_together(list(works))
                assert manager.metrics().exited == 6
                assert eventually(lambda: len(events) == 3 * 6, 10), events
    finally:
        sys.setswitchinterval(interval)


def test_the_first_start_of_all_may_come_from_many_threads(programs: Programs) -> None:
    """There is one engine, with one set of threads, though six ask for it at once."""
    out = fresh.run(
        """
        barrier = threading.Barrier(6)
        codes = []

        def start(base):
            barrier.wait()
            with ProcessManager() as manager:
                codes.append(manager.start_process(base, programs.exits_with(base)).wait(20).code)

        threads = [threading.Thread(target=start, args=(base,)) for base in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        names = [thread.name for thread in threading.enumerate() if "supervisor" in thread.name]
        print(sorted(codes), len(names) == len(set(names)), len(names) >= 2)
        """,
        programs,
    )
    assert out == "[0, 1, 2, 3, 4, 5] True True\n"


def test_a_name_is_given_to_one_of_many_who_ask(manager: ProcessManager, programs: Programs) -> None:
    """Eight threads start the same id: one process runs, the others are refused."""
    for turn in range(15):
        started: list[Process] = []
        refused: list[fastproc.DuplicateTask] = []

        def start(turn: int = turn, started: list[Process] = started) -> None:
            try:
                started.append(manager.start_process(turn, programs.ready_then_sleep(), stdout=PIPE))
            except fastproc.DuplicateTask as error:
                refused.append(error)

        all_together([start] * 8)

        assert len(started) == 1
        assert len(refused) == 7
        assert manager.active() == started
        assert started[0].kill()
        started[0].wait(10)
        assert eventually(lambda turn=turn: not manager.is_active(turn))  # type: ignore[misc]


def test_the_bound_holds_however_many_ask(programs: Programs) -> None:
    """Of twenty threads five get a place, and nobody a sixth."""
    with ProcessManager(max_processes=5) as manager:
        refused = []

        def start(number: int) -> None:
            try:
                manager.start_process(number, programs.ready_then_sleep(), stdout=PIPE)
            except fastproc.TooManyProcesses as error:
                refused.append(error)

        all_together([lambda number=number: start(number) for number in range(20)])  # type: ignore[misc]

        assert manager.active_count() == 5
        assert len(refused) == 15


def test_a_close_amid_starts_leaves_nobody(programs: Programs) -> None:
    """Who comes too late is refused; whoever has got in is stopped, and in the report."""
    for turn in range(8):
        manager = ProcessManager(grace=1)
        started: list[Process] = []

        def start(base: int, manager: ProcessManager = manager, started: list[Process] = started) -> None:
            number = 0
            try:
                while True:
                    number += 1
                    args = programs.ready_then_sleep() if number % 2 else programs.nop()
                    started.append(manager.start_process((base, number), args, stdout=PIPE))
                    started += manager.start_many([((base, number, "m"), programs.ready_then_sleep())])  # type: ignore[arg-type]
            except fastproc.ManagerClosed:
                pass

        def close(manager: ProcessManager = manager, turn: int = turn) -> None:
            if turn % 2:
                manager.active_count()
                manager.active()
            assert manager.close()

        all_together([*[lambda base=base: start(base) for base in range(4)], close, close])  # type: ignore[misc]

        assert [process for process in started if process.wait(10) is None] == []
        assert not manager._roster.active


def test_maps_in_many_threads_do_not_mix(manager: ProcessManager, programs: Programs) -> None:
    """Each gets its own processes, in its order, and nobody else's."""

    def carry_out(base: int) -> list[int | None]:
        commands = [programs.exits_with(base + number) for number in range(30)]
        return [process.wait(10).code for process in manager.map(commands, concurrency=2, ordered=True)]

    found = in_threads(*[lambda base=base: carry_out(base) for base in (0, 50, 100, 150)])  # type: ignore[misc]

    assert found == [list(range(base, base + 30)) for base in (0, 50, 100, 150)]
    assert manager.active_count() == 0


def test_a_task_that_is_just_being_started_is_not_met_half_made(
    manager: ProcessManager, programs: Programs
) -> None:
    """Who looks at the tasks meanwhile sees them with all that belongs to them, or not at all."""
    enough = threading.Event()

    def start() -> None:
        try:
            for number in range(300):
                process = manager.start_process(number % 5, programs.nop())
                process.wait(10)
                assert eventually(lambda: not manager.is_active(process.task_id))
        finally:
            enough.set()

    def look() -> None:
        while not enough.is_set():
            for process in manager.active():
                assert process.pid > 0
                process.poll()
            for number in range(5):
                try:
                    assert manager.get(number).pid > 0
                    manager.terminate_process(number, 1)
                except NotActive:
                    pass

    all_together([start, look, look])


def test_the_slowest_reader_of_an_output_misses_nothing(manager: ProcessManager, programs: Programs) -> None:
    """One has read all before the other begins; the program was to wait for both."""
    process = manager.start_process("tells", held(programs.spams(640_000, lines=True)), stdout=PIPE)
    fast, slow = process.lines(), process.lines()
    let_go(process)
    counts: dict[str, int] = {}
    reader = threading.Thread(target=lambda: counts.update(fast=sum(1 for _ in fast)))
    reader.start()

    # The fast one has read all that may come before the other begins.
    with pytest.raises(WaitTimeout):
        process.wait(0.3)
    counts["slow"] = sum(1 for _ in slow)
    reader.join(20)

    assert counts == {"fast": 10_000, "slow": 10_000}
    assert process.wait(20).ok


def test_who_is_no_reader_any_more_is_not_waited_for(manager: ProcessManager, programs: Programs) -> None:
    """The slowest closes his iterator, or forgets it: the others go on."""
    for number, forget in enumerate((Lines.close, lambda lines: None)):
        process = manager.start_process(number, held(programs.spams(640_000, lines=True)), stdout=PIPE)
        fast, slow = process.lines(), process.lines()
        let_go(process)
        next(slow)
        forget(slow)
        del slow
        assert sum(1 for _ in fast) == 10_000
        assert process.wait(20).ok


def test_who_only_looks_is_told_the_whole_status(manager: ProcessManager, programs: Programs) -> None:
    """While another thread enters an end, nobody sees a status that says less than is known."""
    for number in range(200):
        process = manager.start_process(number, programs.exits_with(7, 0.01))

        def look(process: Process = process) -> ExitReason:
            while (status := process.status) is None:
                pass
            return status.reason

        assert in_threads(look, look, look, look) == [ExitReason.EXITED] * 4
