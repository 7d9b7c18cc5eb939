"""fastproc queue: tasks are added, run, watched, cancelled and done again, from as many processes."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import PATIENCE, Cli, Ended, line_of, until
from tests.programs import SOURCES, Programs

from fastproc.cli import main

QUICK = ("--durability=none", "--retry-delay=20ms")


Ask = Callable[..., Ended]


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Ask:
    """The command line without a process of its own: for what only asks or is refused, and much quicker."""
    monkeypatch.chdir(tmp_path)

    def call(*args: object, stdin: bytes = b"") -> Ended:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        began = time.monotonic()
        code = main([*map(str, args)])
        said = capfd.readouterr()
        return Ended(code, said.out, said.err, time.monotonic() - began)

    return call


def state_of(tmp_path: Path, task_id: str) -> str | None:
    """The directory that a task is in."""
    found = [path.parent.name for path in (tmp_path / "queue").glob(f"*/{task_id}.[jy]*") if _is_state(path)]
    return found[0] if found else None


def _is_state(path: Path) -> bool:
    return path.parent.name in ("pending", "in-progress", "completed", "failed", "quarantine")


def file_of(tmp_path: Path, task_id: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((tmp_path / "queue" / "pending" / f"{task_id}.json").read_text())
    return found


def lines_of(ended: Ended) -> list[str]:
    """What it said of tasks, without the time of day."""
    return [line[9:] for line in ended.err.splitlines() if line[2:3] == ":"]


def running(process: subprocess.Popen[bytes], task_id: str) -> None:
    """Read what `queue run` says until that task has been started."""
    while "started" not in (line := line_of(process, error=True)) or task_id not in line:
        assert line, "it has ended"


# ---- add ----


def test_a_command_is_added_and_run(cli: Cli, ask: Ask, tmp_path: Path) -> None:
    added = ask("queue", "add", "--id=a", "--", "sh", "-c", "pwd; echo $HOME -x", "--timeout")
    assert (added.code, added.out, added.err) == (0, "a\n", "")
    assert file_of(tmp_path, "a")["args"] == ["sh", "-c", "pwd; echo $HOME -x", "--timeout"]

    ended = cli("queue", "run", "--until-empty", *QUICK)

    assert ended.code == 0, ended.err
    assert "1 completed, 0 failed" in ended.err
    assert ask("queue", "logs", "a").out.splitlines()[1] == str(tmp_path), "it runs where it was added"


def test_an_id_is_made_up_and_printed(ask: Ask, tmp_path: Path) -> None:
    made = [ask("queue", "add", "true").out.strip() for _ in range(2)]
    assert made[0] != made[1]
    assert {state_of(tmp_path, name) for name in made} == {"pending"}


def test_every_option_becomes_a_field(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    ask("queue", "add", "--id", "first", "true")
    ended = ask(
        *("queue", "add", "--id", "a", "--title", "A title", "--priority", "HIGH", "--depends", "first"),
        *("--not-before", "2030-01-31T12:00:00+02:00", "--timeout", "1h30m", "--idle-timeout", "250ms"),
        *("--max-attempts", "7", "--cwd", "sub", "--env", "X=1=2", "--tag", "t", "--tag", "u"),
        *("--set", "operation=improve", "--set", "notes=n", "--prompt", "do it"),
    )
    assert ended.code == 0, ended.err
    fields = file_of(tmp_path, "a")
    assert fields.pop("created_at")
    assert fields == {
        "id": "a",
        "title": "A title",
        "prompt": "do it",
        "priority": "high",
        "dependencies": ["first"],
        "not_before": "2030-01-31T10:00:00.000Z",
        "timeout": 5400,
        "idle_timeout": 0.25,
        "max_attempts": 7,
        "cwd": str(tmp_path / "sub"),
        "env": {"X": "1=2"},
        "tags": ["t", "u"],
        "operation": "improve",
        "notes": "n",
    }


def test_a_moment_may_be_so_long_from_now(ask: Ask, tmp_path: Path) -> None:
    from datetime import datetime

    before = time.time()
    ask("queue", "add", "--id=a", "--not-before=+1h", "true")
    said = datetime.fromisoformat(file_of(tmp_path, "a")["not_before"]).timestamp()
    assert before + 3599 < said < time.time() + 3601


def test_prompts_come_from_files_and_from_standard_input(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "prompt.md").write_text("# ä\nb\n")
    assert ask("queue", "add", "--id=a", "--prompt-file=prompt.md").code == 0
    assert ask("queue", "add", "--id=b", "--prompt-file=-", stdin=b"c\n").code == 0
    assert file_of(tmp_path, "a")["prompt"] == "# ä\nb\n"
    assert file_of(tmp_path, "b")["prompt"] == "c\n"


def test_tasks_come_from_files_of_three_kinds(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text("id: y\ntitle: from YAML\nprompt: |\n  do\n  it\n")
    assert ask("queue", "add", "-f", "one.yaml", "--priority=low").out == "y\n"
    assert ask("queue", "add", "-f-", stdin=b'{"id": "j",\n "args": ["true"]}').out == "j\n"
    many = b'{"id": "l1", "args": ["true"]}\n\n{"id": "l2", "title": "t", "env": {"A": "1"}}\n'
    assert ask("queue", "add", "-f-", "--env=B=2", stdin=many).out == "l1\nl2\n"
    assert file_of(tmp_path, "y")["prompt"] == "do\nit\n"
    assert file_of(tmp_path, "y")["priority"] == "low"
    assert file_of(tmp_path, "l2")["env"] == {"A": "1", "B": "2"}


@pytest.mark.parametrize(
    ("args", "stdin", "words"),
    [
        ([], b"", "nothing to queue: give a COMMAND after --, or --prompt"),
        (["--prompt=x", "--", "true"], b"", "COMMAND and --prompt exclude each other"),
        (["--prompt="], b"", "the prompt is empty"),
        (["--id=../x", "true"], b"", "'../x' is no task id"),
        (["--id", "a" * 129, "true"], b"", "is no task id"),
        (["--priority=urgent", "true"], b"", "'urgent' is not one of"),
        (["--depends=-x", "true"], b"", "'-x' is no task id"),
        (["--not-before=tomorrow", "true"], b"", "'tomorrow' is no point in time; write for example +30m"),
        (["--not-before=+99999999999h", "true"], b"", "is no point in time; write for example +30m"),
        (["--timeout=soon", "true"], b"", "'soon' is no length of time"),
        (["--timeout=0", "true"], b"", "timeout must be a number of seconds above 0, not 0"),
        (["--max-attempts=0", "true"], b"", "0 is not in the range"),
        (["--cwd=no/such", "true"], b"", "there is no directory"),
        (["--env=X", "true"], b"", "'X' is not of the form NAME=VALUE"),
        (["--set=args=x", "--prompt=x"], b"", "--set args=...: there is an option or argument for that"),
        (["--set=targets", "--prompt=x"], b"", "'targets' is not of the form NAME=VALUE"),
        (["--", ""], b"", "args[0] is empty"),
        (["--file=no-such"], b"", "no-such: No such file or directory"),
        (["--file=."], b"", "is a directory"),
        (["--file=-"], b"", "standard input: empty; nothing has been queued"),
        (["--file=-"], b"- a\n- b\n", "holds a list, not a mapping"),
        (["--file=-"], b'{"id": "x"', "nothing has been queued"),
        (["--file=-"], b"\xff\xfe", "not UTF-8 at byte 0"),
        (["--file=-"], b'{"args": ["a"]}\n{"args": "a b"}\n', "args must be a list such as"),
        (["--file=-"], b'{"id": "x", "args": ["a"]}\n{"id": "x", "args": ["a"]}\n', "submitted twice"),
        (["--file=-"], b'{"args": ["a"]}\n{"args": nope}\n', "standard input, line 2: not JSON"),
        (["--file=-", "--id=x"], b'{"args": ["a"]}\n{"args": ["b"]}\n', "--id can name one task only"),
        (
            ["--file=-"],
            b"a: &a [x, x, x, x]\nb: &b [*a, *a, *a, *a]\n" + b"c: *d\n",
            "nothing has been queued",
        ),
        (["--prompt-file=-"], b"\xff", "not UTF-8 at byte 0"),
    ],
)
def test_what_cannot_be_a_task_is_refused_in_words(
    ask: Ask, tmp_path: Path, args: list[str], stdin: bytes, words: str
) -> None:
    ended = ask("queue", "add", *args, stdin=stdin)
    assert ended.code == 125
    assert words in ended.err
    assert "Traceback" not in ended.err
    assert len(ended.err.splitlines()) <= 4
    assert not list(tmp_path.glob("queue/pending/*")), "nothing has been queued"


def test_an_id_that_is_taken_is_refused(ask: Ask) -> None:
    ask("queue", "add", "--id=a", "true")
    again = ask("queue", "add", "--id=a", "true")
    assert (again.code, again.err) == (125, "Error: task 'a' is pending already; choose another id\n")


def test_a_dependency_that_is_not_there_is_noted(ask: Ask) -> None:
    ended = ask("queue", "add", "--id=a", "--depends=b", "true")
    assert (ended.code, ended.out) == (0, "a\n")
    assert ended.err == "note: 'b' is not in the queue yet; the task waits for it\n"


# ---- which queue ----


def test_a_place_that_is_no_queue_is_left_alone(cli: Cli, ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letters").touch()
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    for args in (["status"], ["logs", "a"], ["show", "a"], ["cancel", "a"], ["retry", "a"]):
        ended = ask("queue", *args)
        assert ended.code == 125
        assert "there is no queue 'queue'; name it by --queue DIR or FASTPROC_QUEUE" in ended.err
        assert "'empty' is no queue, it is empty" in ask("queue", *args, "-q", "empty").err
    for args in (["add", "-q", "home", "true"], ["run", "-q", "home", "--until-empty"]):
        assert "'home' is no queue: there are other things in it" in ask("queue", *args).err
    assert "file" in ask("queue", "add", "-q", "file", "true").err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file", "home"]
    assert cli("queue", "run", "-q", "empty", "--until-empty").code == 0


def test_of_a_disk_that_is_read_only_the_queue_is_named_and_no_file_within(
    cli: Cli, ask: Ask, tmp_path: Path
) -> None:
    (tmp_path / "disk").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", str(tmp_path / "disk")]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("cannot mount a tmpfs")
    try:
        ask("queue", "add", "--queue", "disk/q", "--id", "a", "--", "true")
        subprocess.run(["mount", "-o", "remount,ro", str(tmp_path / "disk")], check=True)
        for words in (["add", "--", "true"], ["cancel", "a"], ["resume"]):
            ended = cli("queue", words[0], "--queue", "disk/q", *words[1:])
            assert (ended.code, ended.err) == (125, "Error: disk/q: Read-only file system\n")
        assert cli("queue", "status", "--queue", "disk/q").code == 0
    finally:
        subprocess.run(["umount", "-l", str(tmp_path / "disk")], check=True)


def test_a_queue_that_others_can_write_to_is_refused_unless_meant(cli: Cli, ask: Ask, tmp_path: Path) -> None:
    ask("queue", "add", "--id=a", "true")
    (tmp_path / "queue").chmod(0o777)
    ended = cli("queue", "run", "--until-empty")
    assert ended.code == 125
    assert "can be written by everybody (mode 0777)" in ended.err
    assert "use --open-to-others" in ended.err
    assert cli("queue", "run", "--until-empty", "--open-to-others").code == 0


# ---- run ----


def test_the_exit_code_counts_what_went_wrong_and_each_is_explained(
    cli: Cli, ask: Ask, tmp_path: Path
) -> None:
    ask("queue", "add", "--id=good", "true")
    ask("queue", "add", "--id=bad", "--max-attempts=2", "--", "sh", "-c", "exit 3")
    ask("queue", "add", "--id=none", "no-such-program-anywhere")
    ask("queue", "add", "--id=blocked", "--depends=nobody", "true")
    (tmp_path / "queue" / "pending" / "torn.json").write_text('{"args": ')

    ended = cli("queue", "run", "--until-empty", *QUICK)

    assert ended.code == 4
    said = lines_of(ended)
    assert any(line.startswith("done        good  ") for line in said)
    assert any(line.startswith("failed      bad  attempt 1, again ") for line in said)
    assert any(
        line.startswith("FAILED      bad  after 2 attempts: Exited with code 3, after") for line in said
    )
    assert any("FAILED      none  after 1 attempt: Failed to start" in line for line in said)
    assert any(line.startswith("QUARANTINE  torn.json  not JSON") for line in said)
    assert "1 completed, 2 failed, 1 in quarantine" in ended.err
    assert "  blocked      blocked waits for nobody" in ended.err


def test_an_empty_queue_is_done_at_once(cli: Cli) -> None:
    ended = cli("queue", "run", "--until-empty")
    assert ended.code == 0
    assert ended.err.startswith("0 tasks in ")


def test_events_come_as_json_too(cli: Cli, ask: Ask) -> None:
    ask("queue", "add", "--id=a", "--", "sh", "-c", "echo x; exit 1")
    ended = cli("queue", "run", "--until-empty", "--json", "--max-attempts=1", *QUICK)
    events = [json.loads(line) for line in ended.out.splitlines()]
    kinds = [event["event"] for event in events if event["event"] != "task_progress"]
    assert kinds == ["task_status_changed", "task_started", "task_status_changed", "task_failed"]
    assert events[-1]["execution"]["output"] == "x\n"
    assert events[-1]["final"] is True


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--slots=0"], "0 is not in the range"),
        (["--executor=robot"], "'robot' is not one of"),
        (["--agent-command=no-such-agent -p"], "there is no program 'no-such-agent'"),
        (["--agent-command='unclosed"], "No closing quotation"),
        (["--agent-command="], "it names no program"),
        (["--rate-limit-least=5m", "--rate-limit-most=1m"], "none may be shorter than the one before: 5 min"),
        (["--cwd=no/such"], "does not exist"),
        (["--env=X"], "'X' is not of the form NAME=VALUE"),
        (["--grace=long"], "'long' is no length of time"),
        (["extra"], "unexpected extra argument"),
    ],
)
def test_wrong_options_of_run_are_refused_before_anything_happens(
    ask: Ask, tmp_path: Path, args: list[str], words: str
) -> None:
    ended = ask("queue", "run", "--until-empty", *args)
    assert ended.code == 125
    assert words in ended.err
    assert not (tmp_path / "queue").exists()


def test_a_second_processor_is_refused_and_told_by_whom(cli: Cli, ask: Ask) -> None:
    ask("queue", "add", "--id=a", "--", "sleep", "60")
    process = cli.start("queue", "run", *QUICK)
    running(process, "a")

    ended = cli("queue", "run", "--until-empty")

    assert ended.code == 125
    assert f"queue: in use by process {process.pid} on " in ended.err
    assert "--shared" in ended.err
    assert cli.end(process, signal.SIGINT).code == 130


def test_two_that_share_do_each_task_once(cli: Cli, ask: Ask, tmp_path: Path) -> None:
    tasks = "".join(
        json.dumps({"args": ["sh", "-c", "echo x >> out"], "cwd": str(tmp_path)}) + "\n" for _ in range(40)
    )
    ask("queue", "add", "-f-", "--durability=none", stdin=tasks.encode())
    both = [cli.start("queue", "run", "--until-empty", "--shared", *QUICK) for _ in range(2)]
    assert [process.wait(PATIENCE) for process in both] == [0, 0]
    assert (tmp_path / "out").read_text() == "x\n" * 40


def test_ctrl_c_ends_gracefully_says_so_and_gives_back(cli: Cli, ask: Ask, tmp_path: Path) -> None:
    ask("queue", "add", "--id=a", "--", "sh", "-c", "trap 'echo bye; exit 0' TERM; echo up; sleep 60 & wait")
    ask("queue", "add", "--id=b", "--depends=a", "true")
    process = cli.start("queue", "run", *QUICK)
    running(process, "a")
    until(lambda: "up" in (tmp_path / "queue/logs/a.1.log").read_text())

    ended = cli.end(process, signal.SIGINT)

    assert ended.code == 130
    assert (
        "SIGINT: nothing new is started, 1 task asked to end, killed after 5 s, and given back" in ended.err
    )
    assert "bye" in (tmp_path / "queue/logs/a.1.log").read_text()
    assert state_of(tmp_path, "b") == "pending"


def test_a_second_ctrl_c_kills(cli: Cli, ask: Ask, tmp_path: Path, programs: Programs) -> None:
    ask("queue", "add", "--id=a", "--", *programs.ignores_sigterm())
    process = cli.start("queue", "run", "--grace=50s", *QUICK)
    running(process, "a")
    until(lambda: (tmp_path / "queue/logs/a.1.log").read_text() != "")

    process.send_signal(signal.SIGINT)
    # Two signals in one moment may be heard as one.
    while "once more to kill at once" not in line_of(process, error=True):
        assert process.poll() is None
    ended = cli.end(process, signal.SIGINT)

    assert ended.code == 130
    assert ended.seconds < 20
    assert "SIGINT again: killing 1 task" in ended.err
    assert "  given back   1" in ended.err
    assert state_of(tmp_path, "a") == "pending"
    assert programs.running() == []


def test_a_quit_kills_at_once(cli: Cli, ask: Ask, tmp_path: Path, programs: Programs) -> None:
    ask("queue", "add", "--id=a", "--", *programs.ignores_sigterm())
    process = cli.start("queue", "run", "--grace=50s", *QUICK)
    running(process, "a")
    until(lambda: (tmp_path / "queue/logs/a.1.log").read_text() != "")

    ended = cli.end(process, signal.SIGQUIT)

    assert ended.code == 128 + signal.SIGQUIT
    assert ended.seconds < 20
    assert "SIGQUIT: killing 1 task" in ended.err
    assert state_of(tmp_path, "a") == "pending"
    assert programs.running() == []


def test_sigterm_ends_it_too_and_what_runs_may_be_cancelled(cli: Cli, ask: Ask, tmp_path: Path) -> None:
    ask("queue", "add", "--id=a", "--", "sleep", "60")
    process = cli.start("queue", "run", "--unfinished=cancel", *QUICK)
    running(process, "a")
    ended = cli.end(process, signal.SIGTERM)
    assert ended.code == 143
    assert "finished as cancelled" in ended.err
    assert state_of(tmp_path, "a") == "failed"


def test_what_runs_may_finish_first(cli: Cli, ask: Ask, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    ask("queue", "add", "--id=a", "--", "sh", "-c", "read line < gate")
    process = cli.start("queue", "run", "--unfinished=finish", *QUICK)
    running(process, "a")
    process.send_signal(signal.SIGINT)
    said = line_of(process, error=True)
    while "may finish; once more to end them" not in said:
        said = line_of(process, error=True)
    gate.write_text("go\n")
    assert cli.end(process).code == 130
    assert state_of(tmp_path, "a") == "completed"


def test_an_agent_gets_prompts_and_commands_are_run_beside_it(cli: Cli, ask: Ask, tmp_path: Path) -> None:
    """Executor `auto`: what each task has."""
    agent = f"{sys.executable} {SOURCES / 'fake_agent.py'} {tmp_path / 'journal'}"
    cli(
        "queue",
        "add",
        "--id=agent",
        "--prompt",
        "do: env MAX_TURNS ALLOWED_TOOLS SECRET\ndo: result well done",
    )
    ask("queue", "add", "--id=command", "true")

    ended = cli(
        *("queue", "run", "--until-empty", "--agent-command", agent, "--max-turns=7"),
        *("--allowed-tool=Read", "--allowed-tool=Edit", "--env=SECRET=s", *QUICK),
    )

    assert ended.code == 0, ended.err
    assert (
        "{'MAX_TURNS': '7', 'ALLOWED_TOOLS': 'Read,Edit', 'SECRET': 's'}" in ask("queue", "logs", "agent").out
    )
    assert any(
        line.startswith("done        agent  ") and line.endswith("well done.") for line in lines_of(ended)
    )


def test_a_rate_limit_pauses_visibly_for_as_long_as_the_options_allow(
    cli: Cli, ask: Ask, tmp_path: Path
) -> None:
    (tmp_path / "agent").write_text(
        '#!/bin/sh\nif [ "$FASTPROC_ATTEMPT" = 1 ]; then\n'
        'echo \'{"type": "error", "error": {"type": "rate_limit_error"}, "retry_after": 3000}\'; exit 1; fi\n'
    )
    (tmp_path / "agent").chmod(0o700)
    ask("queue", "add", "--id=a", "--prompt=x")

    ended = cli(
        *("queue", "run", "--until-empty", "--agent-command=./agent"),
        *("--rate-limit-least=10ms", "--rate-limit-most=300ms", *QUICK),
    )

    assert ended.code == 0, ended.err
    said = lines_of(ended)
    assert any("PAUSED      a  meets a rate limit: nothing new until" in line for line in said)
    assert "resumed     the rate limit's pause is over" in said
    assert "1 completed, 0 failed" in ended.err


def test_a_pause_outlives_its_processor_and_may_be_ended(cli: Cli, ask: Ask, tmp_path: Path) -> None:
    ask("queue", "add", "--id=a", "true")
    (tmp_path / "queue" / ".pause.json").write_text(json.dumps({"until": time.time() + 3600}))
    assert "paused for a rate limit until " in ask("queue", "status").out
    assert json.loads(ask("queue", "status", "--json").out)["paused"] is True
    process = cli.start("queue", "run", "--until-empty", *QUICK)
    until(lambda: ask("queue", "status", "--json").out.count('"pid"') == 1)
    assert state_of(tmp_path, "a") == "pending"
    assert ask("queue", "resume").out == "goes on\n"
    assert process.wait(PATIENCE) == 0
    assert state_of(tmp_path, "a") == "completed"
    assert ask("queue", "resume").out == "was not paused\n"


def test_a_terminal_shows_what_runs(tmp_path: Path) -> None:
    """Its id, its last line, the counts; and plain words in the end."""
    import pty

    os.mkfifo(tmp_path / "gate")
    command = [sys.executable, "-m", "fastproc", "queue"]
    work = "echo first line; read line < gate; exit 1"
    for args in (
        ["--id=sleepy", "--title=A long night", "--", "sh", "-c", work],
        ["--id=quick", "--", "true"],
    ):
        subprocess.run([*command, "add", *args], cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [*command, "run", "--until-empty", "--max-attempts=1", *QUICK],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=slave,
        stderr=slave,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "100", "LINES": "30"},
    )
    os.close(slave)
    shown = b""
    opened = False
    try:
        while piece := os.read(master, 65536):
            shown += piece
            if not opened and b"first line" in shown:
                (tmp_path / "gate").write_text("go\n")
                opened = True
    except OSError:
        pass  # EIO: the last holder of the terminal has closed it
    finally:
        os.close(master)
    assert process.wait(PATIENCE) == 1
    text = shown.decode()
    for words in (
        "sleepy",
        "A long night",
        "in progress",
        "of 4 slots",
        "quick",
        "FAILED",
        "1 completed, 1 failed",
    ):
        assert words in text
    assert "first line" in text, "what it printed last"


# ---- looking, while another process works ----


def test_status_logs_and_cancel_work_beside_one_that_runs(cli: Cli, ask: Ask, tmp_path: Path) -> None:
    """From processes of their own."""
    work = "for i in 1 2 3; do echo line $i; done; sleep 60"
    ask("queue", "add", "--id=a", "--title=Night shift", "--", "sh", "-c", work)
    ask("queue", "add", "--id=b", "--depends=a", "true")
    process = cli.start("queue", "run", *QUICK)
    running(process, "a")
    until(lambda: "line 3" in (tmp_path / "queue/logs/a.1.log").read_text())

    status = json.loads(ask("queue", "status", "--json").out)
    table = ask("queue", "status").out
    follower = cli.start("queue", "logs", "-f", "a")
    begun = [line_of(follower) for _ in range(4)]
    cancelled = ask("queue", "cancel", "--wait=20s", "a")

    assert [worker["pid"] for worker in status["processors"]] == [process.pid]
    (info,) = status["running"]
    assert (info["id"], info["attempt"], info["last_line"]) == ("a", 1, "line 3")
    assert f"worked on by process {process.pid} on " in table
    assert "Night shift" in table
    assert "line 3" in table
    assert begun[0].endswith("attempt 1 begins")
    assert begun[1:] == ["line 1", "line 2", "line 3"]
    assert cancelled.code == 0
    assert cancelled.out in ("a: asked to end\na: cancelled\n", "a: cancelled\n"), "it may be quick"
    followed = cli.end(follower)
    assert followed.code == 1, "it has not been completed"
    assert "attempt 1: cancelled" in followed.out
    until(lambda: state_of(tmp_path, "b") == "failed")
    assert cli.end(process, signal.SIGINT).code == 130


def test_a_task_that_is_pending_is_followed_from_its_beginning(cli: Cli, ask: Ask) -> None:
    ask("queue", "add", "--id=a", "--", "sh", "-c", "echo out; exec echo end")
    follower = cli.start("queue", "logs", "-f", "a")
    assert line_of(follower, error=True).startswith("a is pending, and nobody works on this queue")
    assert cli("queue", "run", "--until-empty", *QUICK).code == 0
    followed = cli.end(follower)
    assert followed.code == 0
    assert followed.out.splitlines()[1:3] == ["out", "end"]


def test_logs_of_all_attempts_or_one_and_the_last_lines(cli: Cli, ask: Ask) -> None:
    work = 'echo "try $FASTPROC_ATTEMPT"; printf "\\033[2Jx\\n"; test "$FASTPROC_ATTEMPT" = 2'
    ask("queue", "add", "--id=a", "--", "sh", "-c", work)
    cli("queue", "run", "--until-empty", *QUICK)

    entries = [json.loads(line) for line in ask("queue", "logs", "--json", "a").out.splitlines()]

    assert [entry["sequence"] for entry in entries] == list(range(1, 9))
    assert [entry["message"] for entry in entries if entry["stream"] == "output"] == [
        *("try 1", "\\x1b[2Jx"),
        *("try 2", "\\x1b[2Jx"),
    ]
    assert "\x1b[2J" not in ask("queue", "logs", "a").out
    assert "try 1" not in ask("queue", "logs", "--attempt=2", "a").out
    assert len(ask("queue", "logs", "-n2", "a").out.splitlines()) == 2
    assert ask("queue", "logs", "-n0", "a").out == ""
    assert "'x' is no count of lines" in ask("queue", "logs", "-nx", "a").err


def test_no_count_of_lines_is_too_large(cli: Cli, ask: Ask) -> None:
    ask("queue", "add", "--id=a", "--", "echo", "out")
    cli("queue", "run", "--until-empty")
    ended = ask("queue", "logs", "a", "-n", "9" * 50)
    assert (ended.code, ended.out.splitlines()[1]) == (0, "out")


def test_a_reader_that_goes_away_ends_logs_quietly(cli: Cli, ask: Ask, tmp_path: Path) -> None:
    ask("queue", "add", "--id=a", "--", "sh", "-c", "seq 200000")
    cli("queue", "run", "--until-empty", *QUICK)
    program = [sys.executable, "-m", "fastproc", "queue", "logs", "a"]
    piped = ["sh", "-c", '"$@" | head -n 2 >/dev/null', "sh", *program]
    ended = subprocess.run(piped, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.stderr == ""


def test_show_tells_a_task_whole(cli: Cli, ask: Ask) -> None:
    ask("queue", "add", "--id=a", "--title=T", "--", "sh", "-c", 'echo said; test "$FASTPROC_ATTEMPT" = 2')
    assert "a  Waits for its first attempt." in ask("queue", "show", "a").out
    cli("queue", "run", "--until-empty", *QUICK)

    text = ask("queue", "show", "a").out
    shown = json.loads(ask("queue", "show", "--json", "a").out)

    assert text.startswith("a  Completed at the second attempt: Exited with code 0, after ")
    assert "title         T" in text
    assert "    1  " in text
    assert "failed: Exited with code 1, after " in text
    assert text.rstrip().endswith("said")
    assert shown["state"] == "completed"
    assert shown["fields"]["title"] == "T"
    assert [attempt["outcome"] for attempt in shown["attempts"]] == ["failed", "succeeded"]
    assert shown["attempts"][0]["exit"]["code"] == 1
    assert shown["verdict"].startswith("Completed at the second attempt")


def test_show_says_why_something_is_in_quarantine(cli: Cli, ask: Ask, tmp_path: Path) -> None:
    ask("queue", "add", "--id=a", "true")
    (tmp_path / "queue" / "pending" / "b.yaml").write_text("args: [")
    cli("queue", "run", "--until-empty", *QUICK)
    assert "b  Put away: it is no task: not YAML" in ask("queue", "show", "b").out
    assert ask("queue", "status", "quarantine").out.startswith("b.yaml   ")


def test_names_and_reasons_play_no_tricks_on_a_terminal(cli: Cli, ask: Ask, tmp_path: Path) -> None:
    ask("queue", "add", "--id=a", "true")
    (tmp_path / "queue" / "pending" / "\x1b[2J\nx\udcff.json").write_text("{}")
    ended = cli("queue", "run", "--until-empty", *QUICK)
    assert ended.code == 1
    (said,) = [line for line in lines_of(ended) if line.startswith("QUARANTINE")]
    assert "\\x1b[2J x" in said
    listed = ask("queue", "status", "quarantine")
    assert listed.code == 0, listed.err
    assert "\x1b" not in listed.out
    assert "its name is no task id" in listed.out
    (found,) = [json.loads(line) for line in ask("queue", "status", "--json", "quarantine").out.splitlines()]
    assert found["name"] == "\x1b[2J\nx\udcff.json"


def test_status_lists_the_tasks_of_a_state(cli: Cli, ask: Ask) -> None:
    ask("queue", "add", "--id=a", "--title=The title", "true")
    ask("queue", "add", "--id=b", "--", "sh", "-c", "exit 4")
    cli("queue", "run", "--until-empty", "--max-attempts=1", *QUICK)
    ask("queue", "add", "--id=c", "true")
    text = ask("queue", "status", "completed", "failed").out.splitlines()
    assert len(text) == 2
    assert "The title" in text[0]
    assert "Failed after 1 attempt: Exited with code 4" in text[1]
    (found,) = [json.loads(line) for line in ask("queue", "status", "--json", "failed").out.splitlines()]
    assert (found["id"], found["state"], found["outcome"]) == ("b", "failed", "failed")
    overview = ask("queue", "status").out
    assert "nobody works on it" in overview
    assert "1 pending · 0 in progress · 1 completed · 1 failed" in overview
    assert "b  Failed after 1 attempt" in overview


def test_unknown_tasks_are_named_before_anything_is_done(ask: Ask, tmp_path: Path) -> None:
    ask("queue", "add", "--id=a", "true")
    for args in (["logs", "x"], ["show", "x"], ["cancel", "a", "x"], ["retry", "a", "x"]):
        ended = ask("queue", *args)
        assert ended.code == 125
        assert "'x'" in ended.err
        assert len(ended.err.splitlines()) == 1
    assert state_of(tmp_path, "a") == "pending"


def test_what_is_pending_is_cancelled_and_done_again(cli: Cli, ask: Ask, tmp_path: Path) -> None:
    """While nobody works on the queue."""
    ask("queue", "add", "--id=a", "true")
    assert ask("queue", "cancel", "a").out == "a: cancelled\n"
    assert state_of(tmp_path, "a") == "failed"
    again = ask("queue", "cancel", "a")
    assert (again.code, again.out) == (1, "a: cancelled already\n")
    assert "a  Cancelled." in ask("queue", "show", "a").out
    assert ask("queue", "retry", "a").out == "a: pending again\n"
    assert ask("queue", "retry", "a").out == "a: pending already\n"
    assert cli("queue", "run", "--until-empty", *QUICK).code == 0
    assert ask("queue", "cancel", "a").out == "a: completed already\n"


def test_all_that_have_failed_are_done_again(cli: Cli, ask: Ask, tmp_path: Path) -> None:
    for name in "ab":
        ask("queue", "add", f"--id={name}", "--", "test", "-e", "gate")
    assert ask("queue", "retry", "--failed").out == "none has failed\n"
    assert cli("queue", "run", "--until-empty", "--max-attempts=1", *QUICK).code == 2
    (tmp_path / "gate").touch()
    assert ask("queue", "retry", "--failed").out == "a: pending again\nb: pending again\n"
    assert "which tasks?" in ask("queue", "retry").err
    assert cli("queue", "run", "--until-empty", *QUICK).code == 0


# ---- crashes ----


def test_after_a_crash_status_says_so_and_the_next_run_goes_on(cli: Cli, ask: Ask, tmp_path: Path) -> None:
    ask("queue", "add", "--id=a", "--", "sh", "-c", 'test "$FASTPROC_ATTEMPT" = 2 || exec sleep 60')
    process = cli.start("queue", "run", *QUICK)
    running(process, "a")
    assert cli.end(process, signal.SIGKILL).code == -signal.SIGKILL

    assert "has lost its Processor" in ask("queue", "status").out
    asked = ask("queue", "cancel", "--wait=0", "a")
    assert (asked.code, asked.out.splitlines()[1]) == (1, "a: still runs after 0.000 s")
    assert "nobody works on this queue" in asked.out
    (tmp_path / "queue" / ".requests" / "a.cancel").unlink()
    ended = cli("queue", "run", "--until-empty", "--grace=500ms", *QUICK)

    assert ended.code == 0, ended.err
    said = lines_of(ended)
    assert any(line.startswith("found alive a  process ") for line in said)
    assert any("its Processor has died" in line for line in said)
    assert state_of(tmp_path, "a") == "completed"


def test_what_still_runs_after_a_crash_may_be_adopted(cli: Cli, ask: Ask, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "gate")
    ask(
        "queue",
        "add",
        "--id=a",
        "--",
        "sh",
        "-c",
        "echo begun; test -e done || { touch done; read line < gate; }",
    )
    process = cli.start("queue", "run", *QUICK)
    running(process, "a")
    until(lambda: "begun" in (tmp_path / "queue/logs/a.1.log").read_text())
    cli.end(process, signal.SIGKILL)
    process = cli.start("queue", "run", "--until-empty", "--recovery=adopt", *QUICK)
    said = line_of(process, error=True)
    assert "found alive a  process " in said
    assert ", started " in said
    (tmp_path / "gate").write_text("go\n")

    ended = cli.end(process)

    # Where the kernel does not keep the status of another's child it is not known, and it is done again.
    assert ended.code == 0, ended.err
    assert (tmp_path / "queue/logs/a.1.log").read_text() == "begun\n"
