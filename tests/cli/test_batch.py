"""fastproc batch: a list of commands, its log, its summary, its interrupts."""

from __future__ import annotations

import os
import pty
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.conftest import PATIENCE, Cli, line_of, until
from tests.programs import Programs


def listed(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "list"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def log_of(path: Path) -> list[dict[str, str]]:
    header, *lines = path.read_text().splitlines()
    return [dict(zip(header.split("\t"), line.split("\t"), strict=True)) for line in lines]


def summary_of(text: str) -> dict[str, str]:
    """The labelled lines at the end, by label."""
    return {
        label: rest for line in text.splitlines() if line.startswith("  ") for label, rest in [_cut(line)]
    }


def _cut(line: str) -> tuple[str, str]:
    return line[2:16].strip(), line[16:].strip()


def test_every_job_is_run_and_its_output_shown_in_one_piece(cli: Cli, tmp_path: Path) -> None:
    lines = [f"for i in 1 2 3; do echo {job}; sleep 0.02; done" for job in "abcdef"]
    ended = cli("batch", "-j4", listed(tmp_path, *lines))
    assert ended.code == 0
    pieces = [ended.out[at : at + 6] for at in range(0, len(ended.out), 6)]
    assert sorted(pieces) == [f"{job}\n" * 3 for job in "abcdef"]
    assert "6 jobs in " in ended.err
    assert "6 succeeded, 0 failed" in ended.err
    assert summary_of(ended.err)["survivors"] == "0"
    assert summary_of(ended.err)["zombies"] == "0"


def test_the_exit_code_counts_failures_and_each_is_explained(
    cli: Cli, tmp_path: Path, programs: Programs
) -> None:
    ended = cli(
        "batch",
        listed(
            tmp_path,
            "true",
            "exit 3",
            f"@name=crash exec {' '.join(programs.dies_by(11))}",
            f"@timeout=200ms,grace=200ms exec {' '.join(programs.ignores_sigterm())}",
            "@cwd=/no/such/place true",
            "no-such-program-anywhere",
        ),
    )
    assert ended.code == 5
    assert "FAILED job 2: exit 3\n       Exited with code 3" in ended.err
    assert "FAILED crash:" in ended.err
    assert "Killed by SIGSEGV (invalid memory reference)" in ended.err
    assert "Stopped at its time limit" in ended.err
    assert "Not started, stage cwd: no such working directory (/no/such/place)." in ended.err
    assert "command not found" in ended.err
    assert "1 succeeded, 5 failed" in ended.err


def test_the_exit_code_stops_at_125(cli: Cli, tmp_path: Path) -> None:
    assert cli("batch", "-j8", listed(tmp_path, *["exit 1"] * 130)).code == 125


def test_a_list_comes_from_standard_input_too(cli: Cli) -> None:
    assert sorted(cli("batch", "-", stdin=b"echo a\n\n# no\necho b").out.split()) == ["a", "b"]
    assert cli("batch", stdin=b"echo c\n").out == "c\n"


def test_a_job_from_a_pipe_is_finished_before_the_next_line_comes(cli: Cli) -> None:
    process = cli.start("batch", "-", stdin=subprocess.PIPE)
    assert process.stdin is not None
    for word in ("one", "two"):
        process.stdin.write(f"echo {word}\n".encode())
        process.stdin.flush()
        assert line_of(process) == word
    process.stdin.close()
    assert process.wait(PATIENCE) == 0


def test_only_so_many_run_at_a_time(cli: Cli, tmp_path: Path) -> None:
    job = "mkdir n$$; ls -d n* | wc -l; sleep 0.1; rmdir n$$"
    ended = cli("batch", "-j3", listed(tmp_path, *[job] * 12))
    assert ended.code == 0
    assert max(map(int, ended.out.split())) <= 3


def test_a_list_with_bad_lines_is_refused_as_a_whole(cli: Cli, tmp_path: Path) -> None:
    ended = cli("batch", listed(tmp_path, "touch started", "@tiemout=3 true", "true", "@nice=99 true"))
    assert ended.code == 125
    assert "line 2: unknown option 'tiemout'; did you mean 'timeout'?" in ended.err
    assert "line 4: nice" in ended.err
    assert not (tmp_path / "started").exists()


def test_a_bad_line_of_a_pipe_is_a_failed_job(cli: Cli) -> None:
    ended = cli("batch", "-", stdin=b"echo a\n@x=1 true\necho b\n")
    assert ended.code == 1
    assert "FAILED line 2: unknown option 'x'" in ended.err
    assert sorted(ended.out.split()) == ["a", "b"]


@pytest.mark.parametrize(
    "args",
    [["none"], ["--resume", "list"], ["-j0", "list"], ["--idle-timeout=1s", "--keep-output=o", "list"]],
)
def test_wrong_use_is_125(cli: Cli, tmp_path: Path, args: list[str]) -> None:
    listed(tmp_path, "touch started")
    ended = cli("batch", *args)
    assert ended.code == 125
    assert "Traceback" not in ended.err
    assert not (tmp_path / "started").exists()


def test_without_a_shell_words_are_executed_as_they_are(cli: Cli, tmp_path: Path) -> None:
    ended = cli("batch", "--no-shell", listed(tmp_path, "echo '$HOME' | cat"))
    assert ended.out == "$HOME | cat\n"
    assert cli("batch", "--no-shell", listed(tmp_path, "no-such-program-anywhere")).code == 1


def test_the_log_has_a_line_for_each_job(cli: Cli, tmp_path: Path) -> None:
    log = tmp_path / "log"
    cli(
        "batch",
        "-j1",
        "--joblog",
        log,
        listed(tmp_path, "true", "@name=x,timeout=100ms sleep 60", "kill -9 $$"),
    )
    ok, late, killed = log_of(log)
    assert [ok[name] for name in ("seq", "name", "exit", "signal", "reason", "command")] == [
        "1", "job 1", "0", "", "exited", "true",
    ]  # fmt: skip
    assert [late[name] for name in ("name", "exit", "signal", "reason", "command")] == [
        "x", "", "15", "timeout", "sleep 60",
    ]  # fmt: skip
    assert [killed[name] for name in ("exit", "signal", "reason")] == ["", "9", "signaled"]
    assert 0.1 <= float(late["seconds"]) < 5
    assert ok["max_rss"] == ""


def test_the_largest_jobs_are_named(cli: Cli, tmp_path: Path, programs: Programs) -> None:
    # Whoever starts fastproc hands his own peak on to it, see Outcome.max_rss; this one is above that.
    size = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10) + 150
    large = " ".join(programs.eats_memory(size << 20))
    log = tmp_path / "log"
    # It has what it wants when it says so, however long that takes.
    until_ready = "until [ -s ready ]; do sleep 0.05; done"
    ended = cli(
        "batch",
        "--joblog",
        log,
        listed(tmp_path, "true", f"@name=large {large} > ready & {until_ready}; kill $!; wait"),
    )
    assert size << 20 <= int(log_of(log)[1]["max_rss"]) < size + 50 << 20
    named = summary_of(ended.err)["most memory"]
    assert size <= float(named.split()[0]) < size + 50
    assert "true" not in named


def test_what_is_done_is_not_done_again(cli: Cli, tmp_path: Path) -> None:
    log, work = tmp_path / "log", listed(tmp_path, "echo a >> a", "echo b >> b; exit 1")
    assert cli("batch", "--joblog", log, work).code == 1
    ended = cli("batch", "--joblog", log, "--resume", work)
    assert ended.code == 0
    assert "2 that the job log says to be done, 1 of them failed" in ended.err
    listed(tmp_path, "echo c >> c", "echo a >> a", "echo b >> b; exit 1")
    assert cli("batch", "--joblog", log, "--resume", work).code == 0
    assert cli("batch", "--joblog", log, "--retry-failed", work).code == 1
    counts = [(tmp_path / name).read_text().count("\n") for name in "abc"]
    assert counts == [1, 2, 1]


def test_a_log_that_can_hold_no_more_ends_the_batch_in_words(tmp_path: Path, programs: Programs) -> None:
    """As on a full disk: files may have 512 bytes. What is not in the log would be done again."""
    work = listed(tmp_path, " ".join(programs.ready_then_sleep()), *["true"] * 50)
    ended = subprocess.run(
        ["sh", "-c", f'ulimit -f 1; exec "{sys.executable}" -m fastproc batch -j2 --joblog log "{work}"'],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert ended.returncode == 125
    assert ended.stderr.endswith(
        "Error: the job log 'log' cannot be written: File too large; what still ran has been stopped\n"
    ), ended.stderr
    assert programs.running() == []


def test_an_interrupted_list_is_taken_up_where_it_was(cli: Cli, tmp_path: Path, programs: Programs) -> None:
    log = tmp_path / "log"
    work = listed(
        tmp_path, "echo a >> a", *[f"{' '.join(programs.ready_then_sleep())} > s"] * 3, "echo b >> b"
    )
    process = cli.start("batch", "-j2", "--joblog", log, work)
    until(lambda: len(programs.running()) == 2)
    ended = cli.end(process, signal.SIGINT)
    assert ended.code == 130
    assert "SIGINT: no further job is started, 2 jobs asked to end" in ended.err
    assert "stopped by us before its end" in ended.err
    assert summary_of(ended.err)["not started"] == "2"
    assert [line["reason"] for line in log_of(log)] == ["exited", "terminated", "terminated"]

    listed(tmp_path, "echo a >> a", *[f"{' '.join(programs.ready_then_sleep(0.1))} > s"] * 3, "echo b >> b")
    ended = cli("batch", "-j2", "--joblog", log, "--resume", work)
    assert ended.code == 0
    assert "4 succeeded" in ended.err
    assert ((tmp_path / "a").read_text(), (tmp_path / "b").read_text()) == ("a\n", "b\n")


def test_a_second_interrupt_kills_what_is_stubborn(cli: Cli, tmp_path: Path, programs: Programs) -> None:
    stubborn = " ".join(programs.forks_a_tree(1, 3, ignore=True))
    process = cli.start("batch", "--grace=60s", "-j2", listed(tmp_path, stubborn, stubborn))
    until(lambda: len(programs.running()) >= 8)
    ended = cli.end(process, signal.SIGINT, signal.SIGINT)
    assert ended.code == 130
    assert ended.seconds < 10
    assert "SIGINT again: killing 2 jobs" in ended.err
    assert programs.running() == []


def test_a_quit_kills_all_jobs_at_once(cli: Cli, tmp_path: Path, programs: Programs) -> None:
    stubborn = " ".join(programs.forks_a_tree(1, 3, ignore=True))
    process = cli.start("batch", "--grace=60s", "-j2", listed(tmp_path, stubborn, stubborn))
    until(lambda: len(programs.running()) >= 8)
    ended = cli.end(process, signal.SIGQUIT)
    assert ended.code == 128 + signal.SIGQUIT
    assert ended.seconds < 10
    assert "SIGQUIT: no further job is started, 2 jobs killed at once" in ended.err
    assert programs.running() == []


def test_silence_of_a_job_that_is_not_listened_to_is_no_limit(cli: Cli, tmp_path: Path) -> None:
    ended = cli("batch", "--output=inherit", listed(tmp_path, "@idle-timeout=300ms true"))
    assert ended.code == 1
    assert "idle-timeout listens to the output" in ended.err


def test_sigterm_ends_a_batch_too(cli: Cli, tmp_path: Path, programs: Programs) -> None:
    process = cli.start("batch", listed(tmp_path, " ".join(programs.ready_then_sleep())))
    until(lambda: len(programs.running()) >= 1)
    assert cli.end(process, signal.SIGTERM).code == 143


def test_so_does_any_signal_that_would_end_it(cli: Cli, tmp_path: Path, programs: Programs) -> None:
    process = cli.start("batch", listed(tmp_path, " ".join(programs.ready_then_sleep())))
    until(lambda: len(programs.running()) >= 1)
    ended = cli.end(process, signal.SIGUSR1)
    assert ended.code == 128 + signal.SIGUSR1
    assert "SIGUSR1: no further job is started" in ended.err
    assert programs.running() == []


def test_jobs_do_not_outlive_our_sudden_death(cli: Cli, tmp_path: Path, programs: Programs) -> None:
    process = cli.start("batch", listed(tmp_path, f"exec {' '.join(programs.ready_then_sleep())}"))
    until(lambda: len(programs.running()) >= 1)
    process.kill()
    # Who lives on is one for whom this waits in vain.
    until(lambda: programs.running() == [])


def test_the_first_failure_may_stop_all(cli: Cli, tmp_path: Path, programs: Programs) -> None:
    sleeper = f"exec {' '.join(programs.ready_then_sleep())}"
    ended = cli(
        "batch", "-j3", "--fail-fast", listed(tmp_path, sleeper, sleeper, "sleep 0.3; exit 7", "touch late")
    )
    assert "The first failure" in ended.err
    assert ended.code == 3
    assert not (tmp_path / "late").exists()


def test_output_may_be_kept_in_files(cli: Cli, tmp_path: Path) -> None:
    work = listed(tmp_path, "echo out; echo err >&2; exit 1", "@name=a/b echo named")
    for _ in range(2):
        ended = cli("batch", "--keep-output", tmp_path / "kept", work)
        assert ended.out == ""
        assert "Its last words: err" in ended.err
        kept = {path.name: path.read_text() for path in (tmp_path / "kept").iterdir()}
        assert kept == {
            "000001.out": "out\n",
            "000001.err": "err\n",
            "000002-a_b.out": "named\n",
            "000002-a_b.err": "",
        }


def test_output_may_be_discarded_or_inherited(cli: Cli, tmp_path: Path) -> None:
    work = listed(tmp_path, "echo out; echo err >&2")
    assert cli("batch", "--output=discard", work).out == ""
    inherited = cli("batch", "--output=inherit", work)
    assert inherited.out == "out\n"
    assert "err\n" in inherited.err


def test_too_much_output_is_kept_in_part_and_that_is_said(
    cli: Cli, tmp_path: Path, programs: Programs
) -> None:
    ended = cli("batch", listed(tmp_path, " ".join(programs.spams(10_000_000))))
    assert ended.code == 0
    assert 200_000 < len(ended.out) < 300_000
    assert "Of its output 256.0 KiB were kept" in ended.err


def test_silence_ends_a_job(cli: Cli, tmp_path: Path) -> None:
    ended = cli("batch", "--output=discard", listed(tmp_path, "@idle-timeout=300ms echo a; sleep 60"))
    assert ended.code == 1
    assert "written nothing for too long" in ended.err


def test_grandchildren_that_hold_the_pipe_hold_nobody(cli: Cli, tmp_path: Path, programs: Programs) -> None:
    lines = [" ".join(programs.holds_the_pipe(chatter=chatter)) for chatter in (False, True)]
    ended = cli("batch", listed(tmp_path, *lines, " ".join(programs.leaves_a_child(0, group=True))))
    assert ended.code == 0
    assert ended.seconds < 15
    assert programs.running() == []


def test_many_jobs_are_quick(cli: Cli, tmp_path: Path, programs: Programs) -> None:
    ended = cli("batch", "-j4", "--no-shell", listed(tmp_path, *programs.nop() * 3000))
    assert ended.code == 0
    assert "3000 succeeded" in ended.err
    assert ended.seconds < 15


def test_a_reader_that_goes_away_stops_the_batch(cli: Cli, tmp_path: Path) -> None:
    process = cli.start("batch", "-j1", listed(tmp_path, *[f"echo {n}; sleep 0.05" for n in range(100)]))
    assert line_of(process) == "0"
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    assert process.stderr is not None
    said = process.stderr.read().decode()
    assert "Nobody takes the output" in said
    assert "Traceback" not in said
    assert process.wait(PATIENCE) == 128 + signal.SIGPIPE


def test_a_reader_of_all_that_goes_away_is_a_failure_of_ours(cli: Cli, tmp_path: Path) -> None:
    """Standard error is gone as well, so nobody can be told; 1 would mean one failed job."""
    program = [sys.executable, "-m", "fastproc", "batch", listed(tmp_path, *["echo x; exit 1"] * 300)]
    piped = ["sh", "-c", '{ "$@" 2>&1; echo $? > code; } | true', "sh", *program]
    ended = subprocess.run(piped, cwd=tmp_path, check=False)
    assert ended.returncode == 0
    assert (tmp_path / "code").read_text() in ("125\n", "141\n")


def test_closed_streams_and_odd_lists_are_told_in_words(cli: Cli, tmp_path: Path) -> None:
    program = [sys.executable, "-m", "fastproc", "batch"]
    closed = ["sh", "-c", 'exec "$@" 0<&-', "sh", *program]
    ended = subprocess.run(closed, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (125, "Error: standard input: it is closed\n")

    ended = subprocess.run([*program, str(tmp_path)], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (125, f"Error: {tmp_path}: Is a directory\n")

    silent = ["sh", "-c", 'exec "$@" 1>&- 2>&-', "sh", *program, str(listed(tmp_path, "echo x", "false"))]
    assert subprocess.run(silent, stdin=subprocess.DEVNULL, check=False).returncode == 1


def test_a_terminal_gets_a_bar(tmp_path: Path) -> None:
    work = listed(tmp_path, *["sleep 0.1; printf 'o%st\\n' u"] * 10, "exit 1")
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "fastproc", "batch", "-j2", str(work)],
        stdin=subprocess.DEVNULL,
        stdout=slave,
        stderr=slave,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "120"},
    )
    os.close(slave)
    shown = b""
    try:
        while piece := os.read(master, 65536):
            shown += piece
    except OSError:
        pass  # EIO: the last holder of the terminal has closed it
    finally:
        os.close(master)
    assert process.wait(PATIENCE) == 1
    text = shown.decode()
    assert "1 failed" in text
    assert "/11" in text
    assert "10 succeeded, 1 failed" in text
    assert text.count("out\r\n") == 10
