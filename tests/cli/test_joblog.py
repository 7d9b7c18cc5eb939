"""The job log: what is written, and what a later run skips because of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fastproc.cli.joblog import FIELDS, Done, Entry, JobLog, JobLogError, read_done


def entry(command: str, *, number: int = 1, code: int | None = 0, reason: str = "exited") -> Entry:
    return Entry(
        number=number,
        name=f"job {number}",
        started_at=1_700_000_000.25,
        seconds=1.5,
        code=code,
        signal=None if code is not None else 9,
        reason=reason,
        max_rss=4096,
        command=command,
    )


def write(path: Path, *entries: Entry) -> None:
    with JobLog(path) as log:
        for line in entries:
            log.add(line)


def skipped(done: Done, command: str, *, retry_failed: bool = False) -> list[str | None]:
    return [done.skip(command, retry_failed=retry_failed) for _ in range(3)]


def test_a_line_has_the_fields_of_the_header(tmp_path: Path) -> None:
    path = tmp_path / "log"
    write(path, entry("true"), entry("sleep 9", number=2, code=None, reason="timeout"))
    header, *lines = path.read_text().splitlines()
    assert header.split("\t") == list(FIELDS)
    assert lines[0].split("\t") == [
        "1", "job 1", "2023-11-14T22:13:20.250Z", "1.500000", "0", "", "exited", "4096", "true",
    ]  # fmt: skip
    assert lines[1].split("\t")[4:7] == ["", "9", "timeout"]


def test_the_header_is_written_once(tmp_path: Path) -> None:
    path = tmp_path / "log"
    write(path, entry("a"))
    write(path, entry("b"))
    assert path.read_text().count("command\n") == 1


@pytest.mark.parametrize("command", ["a\tb", "a\\tb", "a\\\tb\\\\t", "printf '\\n'", "é \udcff", "\\"])
def test_any_command_is_known_again(tmp_path: Path, command: str) -> None:
    path = tmp_path / "log"
    write(path, entry(command))
    assert read_done(path).succeeded == {command: 1}


def test_what_has_ended_is_skipped_once_for_each_end(tmp_path: Path) -> None:
    path = tmp_path / "log"
    write(path, entry("a"), entry("a", number=2), entry("b", number=3, code=1))
    assert skipped(read_done(path), "a") == ["succeeded", "succeeded", None]
    assert skipped(read_done(path), "b") == ["failed", None, None]
    assert skipped(read_done(path), "b", retry_failed=True) == [None, None, None]
    assert skipped(read_done(path), "c") == [None, None, None]


def test_a_code_of_0_at_the_time_limit_is_no_success(tmp_path: Path) -> None:
    path = tmp_path / "log"
    write(path, entry("a", reason="timeout"))
    assert read_done(path).failed == {"a": 1}


def test_what_we_have_stopped_ourselves_is_run_again(tmp_path: Path) -> None:
    path = tmp_path / "log"
    write(path, entry("a", code=None, reason="terminated"), entry("b", reason="cancelled"))
    done = read_done(path)
    assert not done.succeeded
    assert not done.failed


def test_the_last_try_of_a_job_counts(tmp_path: Path) -> None:
    path = tmp_path / "log"
    write(path, entry("a", code=1), entry("a", code=0))
    done = read_done(path)
    assert (done.succeeded, done.failed) == ({"a": 1}, {})


def test_a_missing_log_says_nothing(tmp_path: Path) -> None:
    done = read_done(tmp_path / "none")
    assert not done.succeeded
    assert not done.failed


def test_a_torn_last_line_is_passed_over_and_kept_apart(tmp_path: Path) -> None:
    path = tmp_path / "log"
    write(path, entry("a"), entry("b", number=2))
    path.write_text(path.read_text()[:-1])
    assert read_done(path).succeeded == {"a": 1}
    write(path, entry("c", number=3))
    assert read_done(path).succeeded == {"a": 1, "b": 1, "c": 1}


def test_another_file_is_not_taken_for_a_log(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("milk\nbread\n")
    with pytest.raises(JobLogError, match="something else"):
        JobLog(path)
    with pytest.raises(JobLogError, match="something else"):
        read_done(path)
    assert path.read_text() == "milk\nbread\n"


def test_two_batches_do_not_write_one_log(tmp_path: Path) -> None:
    with JobLog(tmp_path / "log"), pytest.raises(JobLogError, match="another batch"):
        JobLog(tmp_path / "log")


def test_a_log_that_cannot_be_written_says_so() -> None:
    """Also one that could be opened: its disk is full."""
    with pytest.raises(JobLogError, match="'/dev/full' cannot be written: No space left on device"):
        JobLog("/dev/full")


def test_a_fifo_is_no_log(tmp_path: Path) -> None:
    """Its reader, who need not come, would hold up the batch."""
    os.mkfifo(tmp_path / "log")
    with pytest.raises(JobLogError, match="is a FIFO"):
        JobLog(tmp_path / "log")
