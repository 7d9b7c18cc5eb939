"""ProcessManager against a model of what it promises: random stories, the same end in both."""

from __future__ import annotations

import signal
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.conftest import eventually
from tests.programs import Programs
from tests.watch import can, is_alive, lines_until

import fastproc
from fastproc import PIPE, DuplicateTask, ExitReason, ManagerClosed, NotActive, Process, ProcessManager

PATIENCE = 20.0


@dataclass(slots=True, kw_only=True)
class Task:
    """What the model knows of a task: how it may end, and who belongs to it."""

    process: Process
    name: str
    pids: list[int]
    # What may come out, as (code, signal); None: anything, as its end was a race.
    ends: set[tuple[int | None, int | None]] | None = None
    ended: bool = False
    stopped: bool = False
    obeys: bool = True
    # It stands still, and no signal but SIGKILL and SIGCONT has an effect.
    paused: bool = False


class Story(RuleBasedStateMachine):
    """One manager, and all that can happen to it, in any order."""

    programs: Programs
    tasks = Bundle("tasks")

    def __init__(self) -> None:
        super().__init__()
        self.manager = ProcessManager(grace=0.05, kill_timeout=5.0)
        self.closed = False
        self.count = 0
        self.started = 0
        self.refused = 0
        self.living: dict[str, Task] = {}

    @initialize(callbacks=st.booleans())
    def _listen(self, callbacks: bool) -> None:
        """With a dispatcher news are read by another thread, without one by whoever asks."""
        if callbacks:
            self.manager.close()
            self.manager = ProcessManager(grace=0.05, kill_timeout=5.0, on_event=lambda _event: None)

    def _start(self, args: list[str], until: str | None, **facts: object) -> Task:
        self.count += 1
        name = f"task-{self.count}"
        process = self.manager.start_process(name, args, stdout=PIPE)
        self.started += 1
        said = [] if until is None else lines_until(process, until)
        # "pid <pid>", "ready <pid>", "daemon <pid>"; but the last line of a tree is "ready <count>".
        if said and said[0].startswith("pid"):
            said.pop()
        pids = [int(line.split()[-1]) for line in said]
        task = Task(process=process, name=name, pids=[process.pid, *pids], **facts)  # type: ignore[arg-type]
        self.living[name] = task
        return task

    # ---- starts ----

    @precondition(lambda self: not self.closed)
    @rule(target=tasks, code=st.integers(0, 255))
    def start_one_that_exits(self, code: int) -> Task:
        return self._start(self.programs.exits_with(code), None, ends={(code, None)})

    @precondition(lambda self: not self.closed)
    @rule(target=tasks, sig=st.sampled_from([signal.SIGKILL, signal.SIGSEGV, signal.SIGUSR1, signal.SIGTERM]))
    def start_one_that_dies(self, sig: signal.Signals) -> Task:
        return self._start(self.programs.dies_by(sig), None, ends={(None, int(sig))})

    @precondition(lambda self: not self.closed)
    @rule(target=tasks)
    def start_one_that_sleeps(self) -> Task:
        return self._start(self.programs.ready_then_sleep(), "ready", ends=set())

    @precondition(lambda self: not self.closed)
    @rule(target=tasks)
    def start_one_that_ignores_sigterm(self) -> Task:
        return self._start(self.programs.ignores_sigterm(), "ready", ends=set(), obeys=False)

    @precondition(lambda self: not self.closed)
    @rule(target=tasks, code=st.integers(0, 3))
    def start_one_that_stops_itself(self, code: int) -> Task:
        # Stopped or not yet: its end is a race until it was continued.
        return self._start(self.programs.stops_itself(code), "ready", ends=set(), paused=True)

    @precondition(lambda self: not self.closed)
    @rule(target=tasks, width=st.integers(1, 3), ignore=st.booleans())
    def start_a_family(self, width: int, ignore: bool) -> Task:
        return self._start(
            self.programs.forks_a_tree(1, width, ignore=ignore), "ready", ends=set(), obeys=not ignore
        )

    @precondition(lambda self: not self.closed)
    @rule(target=tasks)
    def start_one_that_daemonizes(self) -> Task:
        return self._start(self.programs.daemonizes(), "daemon", ends={(0, None)})

    @precondition(lambda self: not self.closed)
    @rule(target=tasks, setsid=st.booleans())
    def start_one_that_leaves_its_pipe_open(self, setsid: bool) -> Task:
        # Who has left the session and lost his parent is held by a cgroup only.
        command = self.programs.holds_the_pipe(setsid=setsid and can("cgroup"))
        return self._start(command, "leader", ends={(0, None)})

    @precondition(lambda self: not self.closed)
    @rule(target=tasks, codes=st.lists(st.integers(0, 255), max_size=4))
    def start_many(self, codes: list[int]) -> object:
        names = [f"task-{self.count + number}" for number in range(1, len(codes) + 1)]
        self.count += len(codes)
        commands = [self.programs.exits_with(code) for code in codes]
        processes = self.manager.start_many(zip(names, commands, strict=True))
        made = []
        for name, code, process in zip(names, codes, processes, strict=True):
            assert isinstance(process, Process)
            self.started += 1
            made.append(Task(process=process, name=name, pids=[process.pid], ends={(code, None)}))
            self.living[name] = made[-1]
        return multiple(*made)

    @precondition(lambda self: not self.closed)
    @rule()
    def fail_to_start(self) -> None:
        with pytest.raises(FileNotFoundError):
            self.manager.start_process("missing", ["/no/such/program"])
        self.refused += 1
        assert not self.manager.is_active("missing")

    @precondition(lambda self: not self.closed)
    @rule(codes=st.lists(st.integers(0, 255), max_size=5), concurrency=st.integers(1, 3))
    def map_some(self, codes: list[int], concurrency: int) -> None:
        commands = [self.programs.exits_with(code) for code in codes]
        found = [p.wait().code for p in self.manager.map(commands, concurrency=concurrency, ordered=True)]
        assert found == codes
        self.started += len(codes)

    @precondition(lambda self: not self.closed)
    @rule(task=tasks)
    def start_under_a_name_in_use(self, task: Task) -> None:
        if task.ends == set() and not task.ended and not task.stopped:
            with pytest.raises(DuplicateTask):
                self.manager.start_process(task.name, self.programs.nop())

    @precondition(lambda self: self.closed)
    @rule()
    def start_after_the_close(self) -> None:
        with pytest.raises(ManagerClosed):
            self.manager.start_process("late", self.programs.nop())

    # ---- asking and waiting ----

    @rule(task=tasks)
    def poll(self, task: Task) -> None:
        self._check(task, task.process.poll())

    @rule(task=tasks, timeout=st.sampled_from([0, 0.001, 0.02]))
    def wait(self, task: Task, timeout: float) -> None:
        try:
            status = task.process.wait(timeout)
        except fastproc.WaitTimeout:
            assert not task.ended
            return
        self._check(task, status)

    @rule(task=tasks)
    def wait_for_a_certain_end(self, task: Task) -> None:
        if task.ends != set() or task.stopped:
            self._check(task, task.process.wait(PATIENCE))
            assert task.ended

    def _check(self, task: Task, status: fastproc.ExitStatus | None) -> None:
        """One answer for ever, and one that the model allows."""
        if status is None:
            assert not task.ended, "it runs again after its end"
            return
        task.ended = True
        assert status is task.process.wait(0)
        assert status is task.process.poll()
        assert status.reason is not ExitReason.UNKNOWN or not fastproc.capabilities()["pidfd_info"]
        if task.ends is not None and not task.stopped:
            assert (status.code, status.signal) in task.ends, (task, status)
        if status.reason is ExitReason.TERMINATED:
            assert task.stopped

    # ---- signals and stops ----

    @rule(task=tasks, sig=st.sampled_from([signal.SIGTERM, signal.SIGKILL, signal.SIGUSR1]))
    def send_a_signal(self, task: Task, sig: signal.Signals) -> None:
        if task.ends is None or task.paused:
            return
        was_certain = task.ends == set() and not task.ended and not task.stopped
        assert task.process.send_signal(sig) or not was_certain
        if task.ended:
            assert not task.process.send_signal(sig)
        elif task.obeys or sig != signal.SIGTERM:
            task.ends.add((None, int(sig)))

    @rule(task=tasks)
    def continue_it(self, task: Task) -> None:
        task.process.send_signal(signal.SIGCONT)
        if task.paused and not task.stopped:
            # It may have been continued before it stopped, and then it stands still for ever.
            task.ends = None

    @rule(task=tasks, timeout=st.sampled_from([0.0, 0.02, 0.3]))
    def terminate_it(self, task: Task, timeout: float) -> None:
        task.stopped = True
        self._check_result(task, task.process.terminate(timeout))

    @rule(task=consumes(tasks))
    def terminate_it_by_name(self, task: Task) -> None:
        try:
            result = self.manager.terminate_process(task.name, 0.1)
        except NotActive:
            assert task.process.poll() is not None
            return
        task.stopped = True
        self._check_result(task, result)

    @rule(task=tasks)
    def kill_it(self, task: Task) -> None:
        task.stopped = True
        if task.process.kill():
            task.process.wait(PATIENCE)
        assert task.process.wait(PATIENCE) is not None

    def _check_result(self, task: Task, result: fastproc.StopResult) -> None:
        assert result.stopped
        assert result.survivors == []
        assert result.task_id == task.name
        self._check(task, result.status)
        assert task.ended
        assert not self.manager.is_active(task.name)
        self._all_gone(task)

    def _all_gone(self, task: Task) -> None:
        """Nobody of it is alive. In a session, a daemon that went before may have escaped for a moment."""
        if task.process.terminate(0).proof != "none":
            assert eventually(lambda: not any(map(is_alive, task.pids)), PATIENCE), task

    @rule(timeout=st.sampled_from([0.0, 0.1]))
    def terminate_all(self, timeout: float) -> None:
        report = self.manager.terminate_all(timeout)
        assert report
        assert self.manager.active_count() == 0
        for task in self.living.values():
            task.stopped = True
            self._check(task, task.process.poll())
            assert task.ended
            self._all_gone(task)
        self.living.clear()

    @precondition(lambda self: self.count > 6)
    @rule()
    def close(self) -> None:
        assert self.manager.close(0.1)
        self.closed = True
        for task in self.living.values():
            task.stopped = True

    # ---- at any time ----

    @invariant()
    def the_registry_is_true(self) -> None:
        """Who is certain to run is active; who is not active has ended; the counts fit."""
        active = {process.task_id for process in self.manager.active()}
        for name, task in self.living.items():
            if task.ends == set() and not task.stopped:
                assert name in active, task
                assert is_alive(task.process.pid), task
            if name not in active:
                assert task.process.poll() is not None
                assert self.manager.get(name) is task.process
        assert active <= self.living.keys()
        metrics = self.manager.metrics()
        assert (metrics.started, metrics.failed_to_start) == (self.started, self.refused)
        assert metrics.exited + metrics.signaled + metrics.status_unknown <= metrics.started

    def teardown(self) -> None:
        assert self.manager.close(0.1)
        metrics = self.manager.metrics()
        assert metrics.active == 0
        assert metrics.exited + metrics.signaled + metrics.status_unknown == metrics.started == self.started
        for task in self.living.values():
            self._all_gone(task)
        assert self.programs.running() == []


@pytest.mark.parametrize(
    ("examples", "steps"),
    [(50, 18), pytest.param(400, 40, marks=[pytest.mark.slow, pytest.mark.timeout(3000)])],
)
def test_any_story_ends_as_the_model_says(
    _engine: None, programs: Programs, examples: int, steps: int
) -> None:
    """Starts of all kinds, signals, waits, stops and a close, in any order."""

    class StoryOfThese(Story):
        pass

    StoryOfThese.programs = programs
    run_state_machine_as_test(
        StoryOfThese,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
