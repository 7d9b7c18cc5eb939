"""Health is judged over the whole tree, by what changed between two looks."""

from __future__ import annotations

import os
from collections.abc import Iterable

import pytest

from fastproc.health import HealthReport, HealthWatch, Level, Sample, Subject, judge, sample
from fastproc.tree import Family, ProcessTree


def member(
    pid: int, state: str = "sleeping", *, cpu: float = 0.0, waited: float = 0.0, name: str = "sh"
) -> ProcessTree:
    return ProcessTree(pid=pid, name=name, state=state, cpu_seconds=cpu, waited_cpu_seconds=waited)


def verdict(*members: ProcessTree, quiet: float = 100.0, subject: Subject | None = None) -> HealthReport:
    look = Sample(at=1000.0, members=members)
    return judge(subject or Subject(task_id="a", pid=1), look, 1000.0 - quiet, stuck_after=10.0)


def test_what_has_been_quiet_for_a_short_time_is_ok() -> None:
    report = verdict(member(1), quiet=5.0)

    assert report.level is Level.OK
    assert report.ok
    assert (report.task_id, report.pid) == ("a", 1)
    assert "quiet for 5.0 s" in report.evidence


@pytest.mark.parametrize(
    ("states", "level"),
    [
        (["sleeping"], Level.IDLE),
        (["sleeping", "idle"], Level.IDLE),
        (["sleeping", "disk-sleep"], Level.STALLED),
        (["running"], Level.STALLED),
        (["zombie"], Level.STALLED),
        (["zombie", "sleeping"], Level.IDLE),
        (["stopped"], Level.STOPPED),
        (["sleeping", "stopped"], Level.STOPPED),
        (["tracing-stop"], Level.STOPPED),
        ([], Level.STALLED),
    ],
)
def test_what_is_quiet_for_long_is_called_by_the_states_of_its_members(
    states: list[str], level: Level
) -> None:
    report = verdict(*(member(pid, state) for pid, state in enumerate(states, 1)))

    assert report.level is level
    assert report.cause


def test_what_is_stopped_as_a_whole_is_reported_at_once() -> None:
    assert verdict(member(1, "stopped"), member(2, "stopped"), quiet=0.0).level is Level.STOPPED
    assert verdict(member(1, "stopped"), member(2), quiet=0.0).level is Level.OK


def test_what_the_manager_knows_comes_first() -> None:
    unkillable = Subject(task_id="a", pid=1, unkillable=True)
    leaking = Subject(task_id="a", pid=1, output_leaking=True)

    assert verdict(member(1, "disk-sleep"), quiet=0.0, subject=unkillable).level is Level.UNKILLABLE
    assert verdict(member(2), quiet=0.0, subject=leaking).level is Level.LEAKING_OUTPUT


def test_the_cause_names_the_culprit() -> None:
    report = verdict(member(1), member(2, "disk-sleep", name="dd"))

    assert "dd(2) disk-sleep" in report.cause


def test_a_crowd_is_not_listed_whole() -> None:
    assert "and 95 more" in verdict(*(member(pid) for pid in range(1, 101))).evidence


class World:
    """A made-up /proc and clock for a HealthWatch."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.trees: dict[int, list[ProcessTree]] = {}

    def look(self, roots: Iterable[int]) -> Family:
        heads = frozenset(roots)
        members = {node.pid: node for head in heads for node in self.trees.get(head, ())}
        children = {
            head: [node.pid for node in self.trees.get(head, ()) if node.pid != head] for head in heads
        }
        return Family(heads, members, children)

    def clock(self) -> float:
        return self.now

    def watch(self) -> HealthWatch:
        return HealthWatch(look=self.look, clock=self.clock)


def test_a_leader_that_waits_while_its_child_works_is_ok() -> None:
    world, subject = World(), Subject(task_id="a", pid=1)
    watch = world.watch()

    levels = []
    for step in range(4):
        world.now += 20
        world.trees[1] = [member(1), member(2, cpu=1.0 + 0.01 * step)]
        levels.append(watch.check([subject], stuck_after=10)[0].level)

    assert levels == [Level.OK] * 4


def test_a_loop_of_short_commands_is_ok() -> None:
    """Each is gone when looked for, but the shell has waited for it."""
    world, subject = World(), Subject(task_id="a", pid=1)
    watch = world.watch()

    world.trees[1] = [member(1, waited=1.0)]
    watch.check([subject], stuck_after=10)
    world.now += 20
    world.trees[1] = [member(1, waited=1.01)]

    assert watch.check([subject], stuck_after=10)[0].ok


def test_a_tree_without_progress_is_idle_after_a_while() -> None:
    world, subject = World(), Subject(task_id="a", pid=1)
    watch = world.watch()
    world.trees[1] = [member(1, cpu=3.0)]

    levels = []
    for _ in range(4):
        levels.append(watch.check([subject], stuck_after=10)[0].level)
        world.now += 4

    assert levels == [Level.OK, Level.OK, Level.OK, Level.IDLE]


def test_output_is_progress() -> None:
    world = World()
    watch = world.watch()
    world.trees[1] = [member(1)]
    watch.check([Subject(task_id="a", pid=1)], stuck_after=10)

    world.now += 20

    subject = Subject(task_id="a", pid=1, last_output=world.now - 1)
    assert watch.check([subject], stuck_after=10)[0].ok
    world.now += 10
    assert not watch.check([subject], stuck_after=10)[0].ok


def test_the_first_look_believes_that_who_used_no_cpu_has_waited_all_along() -> None:
    world = World()
    world.trees = {1: [member(1, cpu=0.01)], 2: [member(2, cpu=30.0)]}
    subjects = [Subject(task_id=pid, pid=pid, started=world.now - 60) for pid in (1, 2)]

    idle, busy = world.watch().check(subjects, stuck_after=10)

    assert idle.level is Level.IDLE
    assert busy.level is Level.OK


def test_a_task_of_the_same_name_starts_afresh() -> None:
    world = World()
    watch = world.watch()
    world.trees = {1: [member(1)], 2: [member(2)]}
    watch.check([Subject(task_id="a", pid=1)], stuck_after=10)

    world.now += 20

    assert watch.check([Subject(task_id="a", pid=2)], stuck_after=10)[0].ok


def test_nothing_to_look_at_gives_no_reports() -> None:
    assert World().watch().check([], stuck_after=10) == []


def test_this_process_makes_progress_between_two_looks() -> None:
    before = sample(os.getpid())
    first = before.cpu_seconds
    while sample(os.getpid()).cpu_seconds <= first:
        sum(range(100_000))

    after = sample(os.getpid())

    assert after.progress_since(before)
    assert not after.progress_since(after)
