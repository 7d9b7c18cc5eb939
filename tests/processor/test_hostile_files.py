"""Whatever lies in the queue: what is no task goes to quarantine with the reason, and the tasks are done."""

from __future__ import annotations

import json
import os
import re
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from tests.conftest import eventually
from tests.processor.conftest import MakeProcessor

from fastproc.processor import Processor, TaskState
from fastproc.processor.events import QueueEvent, TaskQuarantined

GOOD = "args: ['true']\n"
BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{chr(ord(name) - 1)}'] * 10)}]\n" for name in "bcdefghij"
)


def symlink(path: Path) -> None:
    other = path.parent.parent / "other"
    other.write_text(GOOD)
    path.symlink_to(other)


def hard_link(path: Path) -> None:
    other = path.parent.parent / "other"
    other.write_text(GOOD)
    os.link(other, path)


def unix_socket(path: Path) -> None:
    # A path of a socket is at most 108 bytes.
    here = os.open(path.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"/proc/self/fd/{here}/{path.name}")
    os.close(here)


HOSTILE: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "torn": ("a.yaml", lambda path: path.write_text("args: ['true'"), "not YAML"),
    "torn json": ("a.json", lambda path: path.write_text('{"args": ["tr'), "not JSON"),
    "empty": ("a.yaml", lambda path: path.write_text(""), "empty"),
    "binary": ("a.yaml", lambda path: path.write_bytes(os.urandom(2000)), "not UTF-8"),
    "huge": ("a.yaml", lambda path: os.truncate(_touch(path), 1 << 30), "larger than"),
    "deep": ("a.yaml", lambda path: path.write_text("[" * 500_000), "nested deeper|nesting depth"),
    "bomb": ("a.yaml", lambda path: path.write_text(BOMB), "more than"),
    "tag": ("a.yaml", lambda path: path.write_text("!!python/object/apply:os.abort []"), "not YAML"),
    "list": ("a.yaml", lambda path: path.write_text("- a\n- b\n"), "not a mapping"),
    "shell": ("a.yaml", lambda path: path.write_text("args: rm -rf /\n"), "there is no shell"),
    "other id": ("a.yaml", lambda path: path.write_text("id: b\n" + GOOD), "named for 'a'"),
    "path as id": ("a.yaml", lambda path: path.write_text("id: ../x\n" + GOOD), "named for 'a'"),
    "symlink": ("a.yaml", symlink, "symbolic link"),
    "dangling": ("a.yaml", lambda path: path.symlink_to("/nowhere/at/all"), "symbolic link"),
    "hard link": ("a.yaml", hard_link, "2 names"),
    "FIFO": ("a.yaml", os.mkfifo, "FIFO"),
    "directory": ("a.yaml", lambda path: (path.mkdir(), (path / "x").touch()), "directory"),
    "socket": ("a.yaml", unix_socket, "socket"),
    "foreign": ("a.yaml", lambda path: os.chown(_touch(path), 12345, -1), "belongs to user 12345"),
    "no suffix": ("readme.txt", lambda path: path.write_text(GOOD), "no task id"),
    "bad id": ("-rf.yaml", lambda path: path.write_text(GOOD), "no task id"),
    "long id": ("x" * 240 + ".yaml", lambda path: path.write_text(GOOD), "no task id"),
    "odd name": ("a\nb\x1b[31m.yaml", lambda path: path.write_text(GOOD), "no task id"),
}


def _touch(path: Path) -> Path:
    path.touch()
    return path


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_is_no_task_is_quarantined_with_the_reason(
    make: MakeProcessor, queue_dir: Path, kind: str, events: list[QueueEvent]
) -> None:
    name, put, why = HOSTILE[kind]
    if kind == "foreign" and os.geteuid() != 0:
        pytest.skip("only root can give files away")
    processor = make(on_event=events.append)
    processor.submit(["true"], id="good")
    put(queue_dir / "pending" / name)

    report = processor.run_until_empty(20)

    assert report.completed == ("good",)
    assert os.listdir(queue_dir / "pending") == []
    (reason,) = (queue_dir / "quarantine").glob("*.why")
    said = json.loads(reason.read_text())
    assert said["name"] == name
    assert re.search(why, said["reason"])
    assert os.path.lexists(reason.with_suffix(""))
    told = [(event.name, event.reason) for event in events if isinstance(event, TaskQuarantined)]
    assert told == [(name, said["reason"])]
    assert processor.queue_status().health == "ok"


def test_what_somebody_still_writes_is_waited_for(make: MakeProcessor, queue_dir: Path) -> None:
    processor = make()
    processor.start()
    with open(queue_dir / "pending" / "a.yaml", "w") as file:
        file.write("args: ['echo',")
        file.flush()
        assert eventually(lambda: "a.yaml" in processor._store.files.complaints, 20)
        assert processor.queue_status().quarantine == 0
        file.write(" 'whole']\n")
    assert eventually(lambda: processor.queue_status().completed == 1, 20)
    execution = processor.result("a").execution
    assert execution is not None
    assert execution.output == "whole\n"


def test_half_a_file_that_is_a_task_too_is_not_taken_for_the_whole(
    make: MakeProcessor, queue_dir: Path
) -> None:
    processor = make()
    processor.start()
    with open(queue_dir / "pending" / "a.yaml", "w") as file:
        file.write("args: [sh, -c, 'echo $WORD']\n")
        file.flush()
        assert eventually(lambda: "a.yaml" in processor._store.files.complaints, 20)
        file.write("env: {WORD: whole}\n")
    assert eventually(lambda: processor.queue_status().completed == 1, 20)
    execution = processor.result("a").execution
    assert execution is not None
    assert execution.output == "whole\n"


def test_hidden_files_are_left_alone(make: MakeProcessor, queue_dir: Path) -> None:
    processor = make()
    (queue_dir / "pending" / ".gitkeep").touch()
    (queue_dir / "pending" / ".a.yaml.swp").write_text("half")
    assert processor.run_until_empty(20)
    assert sorted(os.listdir(queue_dir / "pending")) == [".a.yaml.swp", ".gitkeep"]
    assert os.listdir(queue_dir / "quarantine") == []


def test_of_two_files_with_one_id_one_is_run(make: MakeProcessor, queue_dir: Path) -> None:
    processor = make()
    (queue_dir / "pending" / "a.yaml").write_text(GOOD)
    (queue_dir / "pending" / "a.json").write_text('{"args": ["true"]}')
    (queue_dir / "completed" / "b.yaml").write_text(GOOD)
    (queue_dir / "pending" / "b.yaml").write_text(GOOD)

    report = processor.run_until_empty(20)

    assert report.completed == ("a",)
    status = processor.queue_status()
    assert (status.completed, status.quarantine) == (2, 2)
    for reason in (queue_dir / "quarantine").glob("*.why"):
        assert "duplicate id" in reason.read_text()


def test_a_copy_of_a_running_task_is_never_started(make: MakeProcessor, queue_dir: Path) -> None:
    processor = make()
    processor.start()
    processor.submit(["sleep", "60"], id="a")
    assert eventually(lambda: processor.is_task_running("a"), 20)
    (queue_dir / "pending" / "a.json").write_text('{"args": ["true"]}')
    (queue_dir / "pending" / "a.yaml").write_text(GOOD)
    assert eventually(lambda: processor.queue_status().pending == 0, 20)
    assert processor.list_running_processes() == ["a"]
    assert processor.queue_status().quarantine >= 1
    assert processor.result("a").state is TaskState.IN_PROGRESS


def test_a_task_that_is_edited_while_pending_runs_as_it_is_then(make: MakeProcessor, queue_dir: Path) -> None:
    processor = make(slots=0)
    processor.submit(["echo", "old"], id="a")
    processor.submit(["echo", "old"], id="b")
    processor.start()
    (queue_dir / "pending" / "a.json").write_text('{"args": ["echo", "new"]}')
    (queue_dir / "pending" / "b.json").write_text('{"args": ["echo", "new"], "dependencies": ["a"]}')
    processor.set_slots(2)
    assert eventually(lambda: processor.queue_status().completed == 2, 20)
    for name in "ab":
        execution = processor.result(name).execution
        assert execution is not None
        assert execution.output == "new\n"
    first, second = processor.result("a"), processor.result("b")
    assert first.finished_at is not None
    assert second.started_at is not None
    assert first.finished_at <= second.started_at


def test_a_task_that_is_removed_while_pending_is_forgotten(make: MakeProcessor, queue_dir: Path) -> None:
    processor = make(slots=0)
    processor.submit(["true"], id="a")
    processor.start()
    (queue_dir / "pending" / "a.json").unlink()
    processor.set_slots(1)
    assert eventually(lambda: not processor._shift or not processor._shift.state.entries, 20)
    assert processor.queue_status().failed == 0


def test_directories_that_are_removed_come_back(make: MakeProcessor, queue_dir: Path) -> None:
    processor = make()
    processor.start()
    processor.submit(["sh", "-c", "sleep 0.3; echo done"], id="a")
    assert eventually(lambda: processor.is_task_running("a"), 20)
    for name in ("results", "logs", "attempts"):
        for file in (queue_dir / name).iterdir():
            file.unlink()
        (queue_dir / name).rmdir()
    assert eventually(lambda: processor.queue_status().completed == 1, 20)
    processor.submit(["echo", "again"], id="b")
    assert eventually(lambda: processor.queue_status().completed == 2, 20)
    execution = processor.result("b").execution
    assert execution is not None
    assert execution.output == "again\n"


def test_a_log_that_its_job_removes_or_replaces_is_still_read(make: MakeProcessor, queue_dir: Path) -> None:
    processor = make()
    log = queue_dir / "logs" / "a.1.log"
    processor.submit(["sh", "-c", f"echo one; rm {log}; ln -s /etc/passwd {log}; echo two"], id="a")
    assert processor.run_until_empty(20)
    execution = processor.result("a").execution
    assert execution is not None
    assert execution.output == "one\ntwo\n"
    assert [entry for entry in processor.task_logs("a") if "root" in entry.message] == [], "never followed"


@pytest.mark.parametrize("mode", [0o777, 0o757])
def test_a_directory_that_others_can_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    (tmp_path / "q").mkdir()
    (tmp_path / "q").chmod(mode)
    with pytest.raises(PermissionError, match="open_to_others"):
        Processor(tmp_path / "q")
    Processor(tmp_path / "q", open_to_others=True).close()


def test_what_is_made_is_for_its_user_alone(make: MakeProcessor, queue_dir: Path) -> None:
    before = os.umask(0)
    try:
        processor = make()
        processor.submit(["echo", "x"], id="a")
        assert processor.run_until_empty(20)
    finally:
        os.umask(before)
    for path in (queue_dir, *queue_dir.rglob("*")):
        assert path.stat().st_mode & 0o077 == 0, path


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=400), suffix=st.sampled_from([".json", ".yaml"]))
def test_no_content_harms_the_loop(
    processor: Processor, queue_dir: Path, content: bytes, suffix: str
) -> None:
    """Bytes that happen to be a task are one that names no command, and fail."""
    name = f"t{abs(hash((content, suffix)))}"
    (queue_dir / "pending" / f"{name}{suffix}").write_bytes(content)
    report = processor.run_until_empty(20)
    assert report.empty
    assert report.pending == 0
    assert processor.result(name).state in (TaskState.QUARANTINE, TaskState.FAILED)


@pytest.mark.parametrize("kind", ["symlink", "hard link", "fifo", "directory"])
def test_a_log_is_never_written_through_what_somebody_has_put_in_its_place(
    make: MakeProcessor, queue_dir: Path, tmp_path: Path, kind: str
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    processor = make()
    processor.submit(["echo", "hello"], id="a")
    place = queue_dir / "logs" / "a.1.log"
    match kind:
        case "symlink":
            place.symlink_to(victim)
        case "hard link":
            os.link(victim, place)
        case "fifo":
            os.mkfifo(place)
        case _:
            place.mkdir()

    assert processor.run_until_empty(30)

    assert victim.read_text() == "untouched"
    assert place.read_text() == "hello\n"
    assert not place.is_symlink()
    assert processor.queue_status().health == "ok"


def test_a_job_that_swaps_the_logs_of_others_all_the_time_leads_nobody_elsewhere(
    make: MakeProcessor, queue_dir: Path, tmp_path: Path
) -> None:
    """It replaces them by symlinks as fast as it can, while they are made, written and read."""
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    swapper = (
        "import os, sys, time\n"
        "logs, victim = sys.argv[1:]\n"
        "until = time.monotonic() + 3\n"
        "while time.monotonic() < until:\n"
        "    for number in range(40):\n"
        "        try:\n"
        "            os.symlink(victim, f'{logs}/.spare')\n"
        "            os.rename(f'{logs}/.spare', f'{logs}/t{number}.1.log')\n"
        "        except OSError:\n"
        "            pass\n"
    )
    processor = make(slots=4)
    processor.submit([sys.executable, "-c", swapper, str(queue_dir / "logs"), str(victim)], id="swapper")
    processor.start()
    assert eventually((queue_dir / "logs" / "t39.1.log").is_symlink, 20)
    processor.submit_many({"id": f"t{number}", "args": ["echo", "said"]} for number in range(40))

    assert eventually(lambda: processor.queue_status().completed == 41, 60)

    assert victim.read_text() == "untouched"
    for number in range(40):
        assert all("untouched" not in entry.message for entry in processor.task_logs(f"t{number}"))
        execution = processor.result(f"t{number}").execution
        assert execution is not None
        assert execution.output == "said\n", "its own log, by the descriptor that it was opened with"
