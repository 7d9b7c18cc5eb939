"""Many tasks are submitted all together or not at all, however many there are."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import pytest

from fastproc.errors import TaskExists
from fastproc.processor import Processor


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
