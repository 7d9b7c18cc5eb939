"""Events are plain frozen facts."""

from __future__ import annotations

import dataclasses
import pickle
import typing

import pytest

from fastproc import events
from fastproc.status import ExitStatus

KINDS = typing.get_args(events.Event)


def test_every_event_of_the_module_is_part_of_the_union() -> None:
    classes = {thing for thing in vars(events).values() if dataclasses.is_dataclass(thing)}

    assert classes - {ExitStatus} == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_an_event_names_its_task_and_time_and_carries_no_arguments(kind: type) -> None:
    names = {item.name for item in dataclasses.fields(kind)}

    assert {"task_id", "at"} <= names
    assert not names & {"args", "command", "env"}


def test_an_event_is_a_value() -> None:
    event = events.Exited(task_id="a", pid=17, at=1.0, status=ExitStatus.exited(0))

    assert pickle.loads(pickle.dumps(event)) == event
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.pid = 18  # type: ignore[misc]
