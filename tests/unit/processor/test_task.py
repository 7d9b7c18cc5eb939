"""What a task file may say, and what submit() makes of what it is given."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from fastproc.processor.arguments import make_task
from fastproc.processor.formats import BadTask
from fastproc.processor.task import Priority, Task, check_id, names_of, plain_fields, split_name


def test_the_fields_of_the_ecosystem_are_understood_and_all_are_kept() -> None:
    fields = {
        "id": "resource-generator-1",
        "title": "Make a resource",
        "type": "resource",
        "operation": "generator",
        "target": "postgres",
        "targets": ["redis"],
        "priority": "High",
        "dependencies": ["a", "b", "a"],
        "blocks": "c",
        "tags": ["x"],
        "notes": "note",
        "status": "pending",
        "created_at": "2025-01-01",
        "results": {"success": True},
        "processor_auto_requeue": True,
        "unheard_of": [1, 2],
    }
    task = Task.read("resource-generator-1", fields)

    assert task.targets == ("redis", "postgres")
    assert task.priority is Priority.HIGH
    assert (task.dependencies, task.blocks) == (("a", "b"), ("c",))
    assert task.auto_requeue
    assert task.fields == fields


@pytest.mark.parametrize("word", [None, "urgent", 7, "", ["x"], "MEDIUM "])
def test_an_unknown_priority_is_medium(word: object) -> None:
    assert Priority.read(word) is Priority.MEDIUM


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"id": "other"}, "the file is named for 'a'"),
        ({"args": "rm -rf x"}, "there is no shell"),
        ({"command": "rm -rf x"}, "there is no shell"),
        ({"args": []}, "list of words"),
        ({"args": [""]}, "must name a program"),
        ({"args": ["a\0b"]}, "NUL"),
        ({"args": [True]}, "list of words"),
        ({"args": [["x"]]}, "list of words"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": "5"}, "timeout"),
        ({"timeout": True}, "timeout"),
        ({"idle_timeout": -1}, "idle_timeout"),
        ({"max_attempts": 0}, "max_attempts"),
        ({"max_attempts": 1.5}, "max_attempts"),
        ({"env": ["A=b"]}, "env"),
        ({"env": {"A=": "b"}}, "env"),
        ({"env": {"": "b"}}, "env"),
        ({"env": {"A": "b\0"}}, "env"),
        ({"env": {"A": ["b"]}}, "env"),
        ({"cwd": 5}, "cwd"),
        ({"cwd": "a\0"}, "cwd"),
        ({"stdin": 5}, "stdin"),
        ({"limits": [1]}, "limits"),
        ({"dependencies": ["../x"]}, "no task id"),
        ({"dependencies": {"a": 1}}, "dependencies"),
        ({"blocks": [None]}, "blocks"),
        ({"not_before": "tomorrow"}, "not_before"),
        ({"processor_auto_requeue": "yes"}, "processor_auto_requeue"),
        ({"title": ["x"]}, "title"),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, Any], why: str) -> None:
    with pytest.raises(BadTask, match=why):
        Task.read("a", fields)


@pytest.mark.parametrize(
    "task_id",
    ["", ".", "..", "../x", "a/b", "/etc/passwd", "-rf", ".hidden", "a\0b", "a b", "a\n", "ä", "a" * 129,
     "x" * 300, "a.json", "a.yaml", "a.yml", "a\u202eb", "*", "~", None, 5],
)  # fmt: skip
def test_an_id_is_a_plain_name(task_id: object) -> None:
    with pytest.raises(ValueError, match="no task id"):
        check_id(task_id)


@given(st.text(max_size=200))
def test_an_id_that_passes_can_be_nothing_but_a_name_in_a_directory(text: str) -> None:
    try:
        task_id = check_id(text)
    except BadTask:
        return
    assert Path(task_id).name == task_id
    assert task_id.isascii()
    assert len(task_id) <= 128
    for name in names_of(task_id):
        assert split_name(name) == (task_id, name[len(task_id) :])


@pytest.mark.parametrize("name", ["a", "a.txt", ".json", "..yaml", "a/b.json", "a.json.json", "a.yaml.json"])
def test_other_names_are_no_tasks(name: str) -> None:
    assert split_name(name) is None


@pytest.mark.parametrize(
    ("task_id", "said"), [("5", 5), ("1.5", 1.5), ("a", None), ("2024-01-02", "2024-01-02")]
)
def test_an_id_may_be_written_as_a_number(task_id: str, said: object) -> None:
    """In YAML `id: 5` is one."""
    assert Task.read(task_id, {"id": said}).id == task_id


@pytest.mark.parametrize(("task_id", "said"), [("007", 7), ("True", True), ("a", 5), ("a", ["a"])])
def test_an_id_that_is_another_is_refused_with_a_hint(task_id: str, said: object) -> None:
    with pytest.raises(BadTask, match=r"named for .* needs quotes"):
        Task.read(task_id, {"id": said})


def test_a_date_is_seconds_or_text() -> None:
    assert Task.read("a", {"not_before": 12}).not_before == 12.0
    assert Task.read("a", {"not_before": "1970-01-01T00:01:00Z"}).not_before == 60.0
    assert Task.read("a", {"not_before": "1970-01-01T00:01:00"}).not_before == 60.0


def test_submit_takes_lists_mappings_and_tasks() -> None:
    by_list = make_task(["echo", Path("/x"), b"y", 1], {"id": "a", "priority": Priority.LOW, "timeout": None})
    assert by_list.args == ("echo", "/x", "y", "1")
    assert by_list.priority is Priority.LOW
    by_mapping = make_task({"id": "a", "args": ("echo",), "env": {"A": 1}}, {"title": "t"})
    assert (by_mapping.args, by_mapping.env, by_mapping.title) == (("echo",), {"A": "1"}, "t")
    assert make_task(by_mapping, {}).fields == by_mapping.fields
    assert make_task(None, {"prompt": "hello"}).prompt == "hello"
    first, second = (make_task(["true"], {}) for _ in range(2))
    assert first.id != second.id


@pytest.mark.parametrize("task", ["rm -rf x", b"x"])
def test_submit_takes_no_command_line(task: Any) -> None:
    with pytest.raises(TypeError, match="must be a list"):
        make_task(task, {})


def test_submit_takes_nothing_empty_and_nothing_strange() -> None:
    with pytest.raises(ValueError, match="needs args, or a prompt"):
        make_task(None, {})
    with pytest.raises(ValueError, match="cannot hold"):
        make_task(["true"], {"odd": object()})
    with pytest.raises(ValueError, match="must be words"):
        make_task(["true", object()], {})  # type: ignore[list-item]
    with pytest.raises(ValueError, match="no task id"):
        make_task(["true"], {"id": 5})


def test_values_become_what_json_can_say() -> None:
    moment = dt.datetime(2030, 1, 1, tzinfo=dt.UTC)
    assert plain_fields({"a": (1, {2}), "b": moment, "c": {"d": Path("/x")}, "e": None}) == {
        "a": [1, [2]],
        "b": "2030-01-01T00:00:00+00:00",
        "c": {"d": "/x"},
    }
