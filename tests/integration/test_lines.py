"""lines(): bytes cut into lines as they come, whatever the bytes and however they come."""

from __future__ import annotations

import os
import sys
import threading
import time

import pytest
from tests.conftest import eventually
from tests.programs import Programs
from tests.watch import first_line, held, let_go

from fastproc import PIPE, ExitReason, ProcessManager, WaitTimeout


def test_a_line_is_there_as_soon_as_it_is_whole(manager: ProcessManager, programs: Programs) -> None:
    """The process lives on, and has written no more than that."""
    process = manager.start_process("talks", programs.ready_then_sleep(), stdout=PIPE)

    with process.lines() as lines:
        assert next(lines) == f"ready {process.pid}"
        assert process.running


def test_one_endless_line_comes_in_pieces(manager: ProcessManager, programs: Programs) -> None:
    """Fifty million bytes without a newline: no piece is longer than allowed, and none is lost."""
    process = manager.start_process("endless", held(programs.spams(50_000_000)), stdout=PIPE)
    lines = process.lines()
    let_go(process)

    lengths = [len(line) for line in lines]

    assert sum(lengths) == 50_000_000
    assert max(lengths) == 1 << 20
    assert set(lengths[:-1]) == {1 << 20}
    assert process.wait(20).ok


@pytest.mark.parametrize("max_line", [1, 7, 100, 65536])
def test_the_length_of_a_piece_may_be_chosen(manager: ProcessManager, max_line: int) -> None:
    process = manager.start_process("long", ["sh", "-c", "printf '%0300d\\nshort\\n' 0"], stdout=PIPE)

    lines = list(process.lines(max_line=max_line))

    assert max(map(len, lines)) <= max_line
    assert "".join(lines) == "0" * 300 + "short"
    assert (max_line < 300) == (len(lines) > 2)


def test_a_character_that_comes_in_two_pieces_is_one(manager: ProcessManager) -> None:
    """Bytes are put together before they are read as text."""
    script = "import os, time\nfor b in 'é€𝄞 é\\n'.encode() * 2: os.write(1, bytes([b])); time.sleep(0.002)"
    process = manager.start_process("split", [sys.executable, "-c", script], stdout=PIPE)

    assert list(process.lines()) == ["é€𝄞 é"] * 2


def test_what_is_no_text_is_shown_as_asked(manager: ProcessManager) -> None:
    """Invalid bytes and NUL hurt nobody; other encodings are read by their name."""
    data = b"a\xff\xfeb\n\x00\n\xc3\n"

    def lines(**options: str) -> list[str]:
        return list(manager.start_process("odd", ["cat"], input=data, stdout=PIPE).lines(**options))  # type: ignore[arg-type]

    assert lines() == ["a\ufffd\ufffdb", "\x00", "\ufffd"]
    manager.wait_all(20)
    assert lines(errors="surrogateescape") == ["a\udcff\udcfeb", "\x00", "\udcc3"]
    manager.wait_all(20)
    assert lines(encoding="latin-1") == ["a\xff\xfeb", "\x00", "\xc3"]
    manager.wait_all(20)
    with pytest.raises(UnicodeDecodeError):
        lines(errors="strict")


def test_bytes_are_kept_exactly(manager: ProcessManager) -> None:
    """Two hundred thousand random ones, NUL and all."""
    data = os.urandom(200_000)
    process = manager.start_process("echo", ["cat"], input=data, stdout=PIPE)
    assert process.wait(20).ok

    assert process.stdout_bytes == data


def test_the_last_line_needs_no_newline_and_carriage_returns_stay(manager: ProcessManager) -> None:
    process = manager.start_process("odd", ["printf", r"one\r\n\n two\rthree"], stdout=PIPE)

    assert list(process.lines()) == ["one\r", "", " two\rthree"]


def test_lines_that_came_before_are_there(manager: ProcessManager) -> None:
    """After the end too, and more than once, as far as they are kept."""
    process = manager.start_process(
        "early", ["sh", "-c", "echo a; echo b; echo c >&2"], stdout=PIPE, stderr=PIPE
    )
    assert process.wait(20).ok

    for _ in range(2):
        assert list(process.lines()) == ["a", "b"]
        assert list(process.lines("stderr")) == ["c"]


def test_a_fast_writer_waits_for_a_slow_reader(manager: ProcessManager, programs: Programs) -> None:
    """Ten megabytes, and a pause in the middle of which nothing gets lost although only 256 KiB are kept."""
    process = manager.start_process("spams", held(programs.spams(10_240_000, lines=True)), stdout=PIPE)
    lines = process.lines()
    let_go(process)
    numbers: list[int] = []
    for line in lines:
        if len(numbers) in {10, 5_000, 100_000}:
            time.sleep(0.1)
        numbers.append(int(line.split()[0]))

    assert numbers == list(range(160_000))
    assert process.wait(20).ok


def test_who_stops_reading_lets_it_write_on(manager: ProcessManager, programs: Programs) -> None:
    """close(), the end of the block, and forgetting the iterator are alike."""
    for number in range(3):
        process = manager.start_process(number, programs.spams(4_000_000, lines=True), stdout=PIPE)
        lines = process.lines()
        next(lines)
        time.sleep(0.02)
        if number == 0:
            lines.close()
        elif number == 1:
            with lines:
                pass
        else:
            del lines

        assert process.wait(20).ok


def test_what_is_printed_before_the_first_reader_comes_is_kept_on_request(
    manager: ProcessManager, programs: Programs
) -> None:
    """With on_max_output="wait" it holds its breath when the buffer is full; without, the middle is gone."""
    command = programs.spams(1_280_000, lines=True)
    waits = manager.start_process("waits", command, stdout=PIPE, on_max_output="wait")
    drops = manager.start_process("drops", command, stdout=PIPE)
    assert drops.wait(20).ok
    with pytest.raises(WaitTimeout):
        waits.wait(0.2)

    assert not waits.output_truncated
    assert sum(1 for _ in waits.lines()) == 20_000
    assert waits.wait(20).ok
    assert sum(1 for _ in drops.lines()) < 20_000
    # Once it had its reader it is like any other.
    assert waits.output_truncated


# Byte by byte each of them wakes a thread: a tenth as many are tens of thousands still.
@pytest.mark.parametrize(("size", "lines"), [(1, 1000), (1000, 10_000), (1 << 20, 10_000)])
def test_the_buffer_in_which_a_reader_is_waited_for_may_have_any_size(
    manager: ProcessManager, programs: Programs, size: int, lines: int
) -> None:
    process = manager.start_process(
        "waits", programs.spams(64 * lines, lines=True), stdout=PIPE, on_max_output="wait", max_output=size
    )
    time.sleep(0.05)
    assert sum(1 for _ in process.lines()) == lines
    assert process.wait(20).ok


def test_one_that_nobody_reads_can_be_stopped_and_has_its_time_limit(
    manager: ProcessManager, programs: Programs
) -> None:
    """It waits for a reader, and nobody waits for it."""
    command = programs.spams(10_000_000)
    late = manager.start_process("late", command, stdout=PIPE, on_max_output="wait", timeout=0.2)
    stopped = manager.start_process("stopped", command, stdout=PIPE, on_max_output="wait")
    assert late.wait(20).reason is ExitReason.TIMEOUT
    assert stopped.terminate(5).stopped
    assert eventually(lambda: manager.active_count() == 0, 10)
    # What it was stopped in the middle of is there as far as it was kept.
    assert set("".join(late.lines())) == {"x"}


def test_a_reader_is_woken_by_the_end(manager: ProcessManager, programs: Programs) -> None:
    """Of one that is stopped from another thread nothing more comes."""
    process = manager.start_process("silent", programs.ready_then_sleep(), stdout=PIPE)
    first_line(process)
    said: list[list[str]] = []
    reader = threading.Thread(target=lambda: said.append(list(process.lines())))
    reader.start()

    assert process.terminate(20).stopped
    reader.join(20)

    assert said == [[f"ready {process.pid}"]]


def test_wrong_words_are_refused_before_anything_is_read(manager: ProcessManager) -> None:
    process = manager.start_process("x", ["true"], stdout=PIPE)
    with pytest.raises(LookupError):
        process.lines(encoding="no-such-encoding")
    with pytest.raises(LookupError):
        process.lines(errors="no-such-handler")
    with pytest.raises(ValueError, match="max_line"):
        process.lines(max_line=0)
    with pytest.raises(ValueError, match="stream"):
        process.lines("stdin")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not captured"):
        process.lines("stderr")
    assert process.wait(20).ok
