"""Many tasks are submitted all together or not at all, however many there are."""

from __future__ import annotations

import math
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastproc import FastprocError, ManagerClosed
from fastproc.errors import TaskExists
from fastproc.processor import Backoff, CommandExecutor, Processor, RateLimit, TaskState


@pytest.mark.parametrize("durability", ["full", "batch", "none"])
def test_if_one_cannot_be_queued_none_is(tmp_path: Path, durability: str) -> None:
    processor = Processor(tmp_path / "q", durability=durability)  # type: ignore[arg-type]
    processor.submit(["true"], id="there")
    first = {"id": "a", "args": ["true"]}
    try:
        with pytest.raises(TaskExists, match="twice in one call"):
            processor.submit_many([first, {"id": "b", "args": ["true"]}, first])
        with pytest.raises(TaskExists, match="there"):
            processor.submit_many([first, {"id": "there", "args": ["true"]}])
        assert processor.tasks("pending") == ["there"]
    finally:
        processor.close()


def test_more_are_submitted_than_files_may_be_open(tmp_path: Path) -> None:
    processor = Processor(tmp_path / "q", durability="none")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (400, hard))
        ids = processor.submit_many(["true"] for _ in range(1000))
        assert len(set(ids)) == 1000
        assert len(processor.tasks("pending")) == 1000
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        processor.close()


def test_those_that_have_their_name_are_withdrawn_when_a_later_one_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a disk that runs full."""
    processor = Processor(tmp_path / "q", durability="none")
    disk = processor._store.place.disk
    publish = disk.publish
    calls = iter([publish, publish])

    def fails_at_last(*args: Any) -> None:
        call = next(calls, None)
        if call is None:
            raise OSError(28, "No space left on device")
        call(*args)

    try:
        with monkeypatch.context() as patch:
            patch.setattr(type(disk), "publish", lambda _self, *args: fails_at_last(*args))
            with pytest.raises(OSError, match="No space"):
                processor.submit_many(["true"] for _ in range(4))
        assert processor.tasks("pending") == []
        assert len(processor.submit_many(["true"] for _ in range(4))) == 4
    finally:
        processor.close()


@pytest.mark.parametrize(
    "fields",
    [
        {"not_before": math.nan},
        {"not_before": math.inf},
        {"not_before": 10**400},
        {"timeout": 10**400},
        {"anything": math.nan},
        {"anything": [{"deep": -math.inf}]},
    ],
    ids=str,
)
def test_what_no_file_may_say_is_refused_at_once(tmp_path: Path, fields: dict[str, Any]) -> None:
    """Else it would be acknowledged, and end in quarantine."""
    processor = Processor(tmp_path / "q", durability="none")
    try:
        with pytest.raises(ValueError, match=next(iter(fields))):
            processor.submit(["true"], **fields)
        assert processor.tasks("pending") == []
    finally:
        processor.close()


def test_what_is_nested_as_deep_as_a_file_may_be_is_taken_and_done(tmp_path: Path) -> None:
    processor = Processor(tmp_path / "q", durability="none")

    def nested(levels: int) -> object:
        return {"x": nested(levels - 1)} if levels else "bottom"

    endless: list[object] = []
    endless.append(endless)
    try:
        processor.submit(["true"], id="deep", anything=nested(31))
        for too_deep in (nested(32), endless):
            with pytest.raises(ValueError, match="deeper than 32"):
                processor.submit(["true"], anything=too_deep)
        report = processor.run_until_empty(timeout=30)
        assert report.completed == ("deep",), processor.quarantined()
    finally:
        processor.close()


@pytest.mark.parametrize(
    ("setting", "values"),
    [
        ("slots", [-1, 1.5, True, None]),
        ("max_attempts", [0, "3"]),
        ("task_timeout", [0, math.nan, "1", True]),
        ("grace", [-1, math.nan, None]),
        ("max_log_bytes", [0, -1, "1G", 1.5]),
        ("executor", [5, CommandExecutor, object()]),
        ("manager", [5, object()]),
        ("shared", ["no", None]),
        ("open_to_others", ["no", None]),
        ("backoff", [5, RateLimit()]),
        ("rate_limit", [5, Backoff()]),
        ("on_event", [5]),
    ],
)
def test_a_wrong_setting_is_named_before_anything_is_made(
    tmp_path: Path, setting: str, values: list[Any]
) -> None:
    for value in values:
        if value is None and setting in ("executor", "manager"):
            continue
        with pytest.raises((TypeError, ValueError), match=setting):
            Processor(tmp_path / "q", **{setting: value})
    assert not (tmp_path / "q").exists()


def test_an_empty_name_is_not_the_present_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="queue_dir is empty"):
        Processor("")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.timeout(30)
def test_a_time_that_is_no_number_is_refused_and_one_that_is_over_is_not(tmp_path: Path) -> None:
    """NaN is never reached: it would be waited for without an end."""
    processor = Processor(tmp_path / "q", durability="none")
    processor.submit(["true"], id="later", not_before="2999-01-01")
    try:
        with pytest.raises(ValueError, match="timeout"):
            processor.run_until_empty(math.nan)
        with pytest.raises(TypeError, match="timeout"):
            processor.run_until_empty("5")  # type: ignore[arg-type]
        assert not processor.run_until_empty(-1).empty
        for wrong in ({"after": -1}, {"after": "1"}, {"limit": -1}):
            with pytest.raises((TypeError, ValueError), match=next(iter(wrong))):
                processor.task_logs("later", **wrong)  # type: ignore[arg-type]
        assert processor.task_logs("later", limit=0) == []
    finally:
        processor.close()


@pytest.mark.parametrize(
    "ask",
    [
        lambda processor: processor.submit(["true"]),
        lambda processor: processor.queue_status(),
        lambda processor: processor.start(),
        lambda processor: processor.run_until_empty(1),
        lambda processor: processor.process_queue(),
        lambda processor: processor.cancel("a"),
        lambda processor: processor.retry("a"),
        lambda processor: processor.result("a"),
        lambda processor: processor.task_logs("a"),
        lambda processor: processor.tasks(TaskState.PENDING),
        lambda processor: processor.resume(),
    ],
)
def test_a_closed_one_says_so(tmp_path: Path, ask: Callable[[Processor], object]) -> None:
    processor = Processor(tmp_path / "q", durability="none")
    processor.submit(["true"], id="a")
    processor.close()

    with pytest.raises(ManagerClosed, match="is closed") as caught:
        ask(processor)

    assert isinstance(caught.value, FastprocError)
    processor.close()
    assert not processor.stop().results
