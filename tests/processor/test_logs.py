"""Logs are numbered through all attempts, can be followed while they grow, and harm no terminal."""

from __future__ import annotations

from pathlib import Path

from tests.conftest import eventually
from tests.processor.conftest import MakeProcessor

from fastproc.processor import LogEntry, Processor
from fastproc.processor.logs import MAX_LINE_BYTES


def follow(processor: Processor, task_id: str, entries: list[LogEntry]) -> list[LogEntry]:
    entries += processor.task_logs(task_id, after=entries[-1].sequence if entries else 0)
    return entries


def test_a_log_is_followed_while_it_grows(make: MakeProcessor, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    processor = make(max_attempts=2)
    processor.start()
    wait = f"while [ ! -e {gate} ]; do sleep 0.02; done"
    script = f"echo one; printf half; {wait}; echo ' whole'; printf end; exit 3"
    processor.submit(["sh", "-c", script], id="a")
    entries: list[LogEntry] = []
    assert eventually(lambda: len(follow(processor, "a", entries)) >= 2, 20)
    assert [entry.message for entry in entries] == ["attempt 1 begins", "one"]
    assert processor.task_logs("a", after=2) == [], "half a line is no line"
    gate.touch()
    assert eventually(lambda: len(follow(processor, "a", entries)) >= 10, 20)

    assert [entry.sequence for entry in entries] == list(range(1, len(entries) + 1))
    words = [entry.message.split(":")[0] for entry in entries]
    once = ["one", "half whole", "end"]
    assert words == ["attempt 1 begins", *once, "attempt 1", "attempt 2 begins", *once, "attempt 2"]
    assert [entry.attempt for entry in entries] == [1] * 5 + [2] * 5
    assert {entry.stream for entry in entries if entry.message in once} == {"output"}
    assert entries[-1].level == "error"
    assert processor.task_logs("a") == entries, "whoever comes later reads the same"
    assert make().task_logs("a", after=4) == entries[4:]
    assert processor.task_logs("a", after=2, limit=3) == entries[2:5]


def test_what_was_printed_cannot_move_a_terminal(processor: Processor) -> None:
    processor.submit(["printf", r"\033[31mred\007\r\n\tplain \303\244\n\377\n"], id="a")
    processor.run_until_empty(20)
    lines = [entry.message for entry in processor.task_logs("a") if entry.stream == "output"]
    assert lines == ["\\x1b[31mred\\x07", "\tplain ä", "\ufffd" if lines[2].isprintable() else lines[2]]


def test_a_line_without_end_comes_in_pieces(processor: Processor) -> None:
    length = 3 * MAX_LINE_BYTES + 5
    processor.submit(["sh", "-c", f"head -c {length} /dev/zero | tr '\\0' x"], id="a")
    processor.run_until_empty(20)
    lines = [entry.message for entry in processor.task_logs("a") if entry.stream == "output"]
    assert [len(line) for line in lines] == [MAX_LINE_BYTES] * 3 + [5]


def test_a_large_log_is_read_in_portions(processor: Processor) -> None:
    processor.submit(["seq", "50000"], id="a")
    processor.run_until_empty(20)
    after, numbers = 0, []
    while entries := processor.task_logs("a", after=after, limit=9_000):
        assert len(entries) <= 9_000
        numbers += [int(entry.message) for entry in entries if entry.stream == "output"]
        after = entries[-1].sequence
    assert numbers == list(range(1, 50_001))


def test_a_task_that_was_never_begun_has_no_entries(processor: Processor) -> None:
    processor.submit(["true"], id="a")
    assert processor.task_logs("a") == []
