"""fastproc run: exit codes, limits, time, interrupts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.conftest import Cli, line_of, until
from tests.programs import Programs


@pytest.mark.parametrize("code", [0, 1, 42, 124, 255])
def test_the_exit_code_is_that_of_the_command(cli: Cli, programs: Programs, code: int) -> None:
    ended = cli("run", "--", *programs.exits_with(code))
    assert (ended.code, ended.out, ended.err) == (code, "", "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV])
def test_a_death_by_signal_is_128_and_its_number(cli: Cli, programs: Programs, number: int) -> None:
    assert cli("run", *programs.dies_by(number)).code == 128 + number


def test_what_is_not_there_is_127(cli: Cli) -> None:
    ended = cli("run", "no-such-program-anywhere")
    assert ended.code == 127
    assert ended.err == "fastproc: no-such-program-anywhere: no such program in any directory of PATH\n"


def test_what_cannot_be_executed_is_126(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "script").write_text("#!/bin/sh\n")
    assert cli("run", "./script").code == 126
    assert cli("run", tmp_path).code == 126


@pytest.mark.parametrize(
    "args",
    [
        "run",
        "run --timeout soon true",
        "run --no-such-option true",
        "run --cwd=/none true",
        "run --env =x true",
        "run --containment guard true",
        "no-such-command",
    ],
)
def test_a_failure_of_ours_is_125(cli: Cli, args: str) -> None:
    ended = cli(*args.split())
    assert ended.code == 125
    assert ended.err
    assert "Traceback" not in ended.err


def test_options_behind_the_command_belong_to_it(cli: Cli) -> None:
    assert cli("run", "echo", "--timeout", "5", "--", "-x").out == "--timeout 5 -- -x\n"


def test_streams_are_inherited(cli: Cli) -> None:
    ended = cli("run", "sh", "-c", "cat; echo error >&2", stdin=b"from outside\n")
    assert (ended.out, ended.err) == ("from outside\n", "error\n")


def test_environment_and_directory_are_as_told(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    ended = cli(
        "run", "--cwd", "there", "--env", "A=1=2", "--env", "B=", "sh", "-c", 'pwd; echo "$A|$B|$HOME"'
    )
    assert ended.out == f"{tmp_path}/there\n1=2||{os.environ.get('HOME', '')}\n"


def test_limits_are_set(cli: Cli, programs: Programs) -> None:
    ended = cli(
        "run",
        "--open-files=17",
        "--file-size=1M",
        "--address-space=2G",
        "--cpu-time=5s",
        *programs.prints_limits(),
    )
    limits = json.loads(ended.out)
    assert limits["open_files"] == [17, 17]
    assert limits["file_size"] == [1 << 20, 1 << 20]
    assert limits["address_space"] == [2 << 30, 2 << 30]
    assert limits["cpu"][0] == 5


def test_the_time_limit_ends_a_whole_family(cli: Cli, programs: Programs) -> None:
    ended = cli("run", "--timeout=300ms", "--grace=300ms", *programs.forks_a_tree(2, 3, ignore=True))
    assert ended.code == 124
    assert "ready 13" in ended.out
    assert programs.running() == []


def test_a_child_that_cleans_up_in_its_grace_is_not_killed(cli: Cli, programs: Programs) -> None:
    ended = cli("run", "--timeout=300ms", "--json", *programs.cleans_up(0.2, 3))
    assert ended.code == 124
    assert ended.out.split("\n")[1:] == ["cleaning", "clean", ""]
    said = json.loads(ended.err)
    assert (said["reason"], said["exit"], said["escalated"], said["survivors"]) == ("timeout", 3, False, [])


def test_a_grandchild_that_holds_the_pipe_does_not_hold_us(cli: Cli, programs: Programs) -> None:
    ended = cli("run", *programs.holds_the_pipe())
    assert ended.code == 0
    assert ended.seconds < 5
    assert programs.running() == []


def test_the_idle_limit_ends_what_falls_silent(cli: Cli) -> None:
    ended = cli(
        "run", "--idle-timeout=500ms", "sh", "-c", "for i in 1 2 3 4; do echo $i; sleep 0.2; done; sleep 60"
    )
    assert (ended.code, ended.out) == (124, "1\n2\n3\n4\n")
    assert ended.seconds < 10


def test_with_an_idle_limit_no_byte_is_lost(cli: Cli, programs: Programs) -> None:
    ended = cli("run", "--idle-timeout=20s", *programs.spams(20_000_000, lines=True))
    assert ended.code == 0
    assert len(ended.out) == 20_000_000
    lines = ended.out.split("\n")
    assert lines[-2].startswith(f"{20_000_000 // 64 - 1:015d} ")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_ends_the_command_politely_and_says_so(
    cli: Cli, programs: Programs, number: signal.Signals
) -> None:
    process = cli.start("run", *programs.cleans_up())
    assert line_of(process).startswith("ready")
    ended = cli.end(process, number)
    assert ended.code == 128 + number
    assert ended.out == "cleaning\nclean\n"
    assert f"{number.name}: stopping the command" in ended.err


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGALRM, signal.SIGABRT, signal.SIGRTMIN])
def test_whatever_would_end_us_ends_the_command_first(
    cli: Cli, programs: Programs, number: signal.Signals
) -> None:
    """Real-time signals too."""
    process = cli.start("run", *programs.cleans_up())
    assert line_of(process).startswith("ready")
    ended = cli.end(process, number)
    assert (ended.code, ended.out) == (128 + number, "cleaning\nclean\n")
    assert programs.running() == []


def test_a_quit_kills_at_once(cli: Cli, programs: Programs) -> None:
    """As the second interrupt does."""
    process = cli.start("run", "--grace=60s", *programs.ignores_sigterm())
    assert line_of(process).startswith("ready")
    ended = cli.end(process, signal.SIGQUIT)
    assert ended.code == 128 + signal.SIGQUIT
    assert ended.seconds < 10
    assert "SIGQUIT: killing the command" in ended.err
    assert programs.running() == []


def test_a_failed_start_names_what_failed(cli: Cli) -> None:
    """Not the program, if it is the directory."""
    ended = cli("run", "--json", "--cwd=/no/such", "true")
    assert ended.code == 125
    said, as_json = ended.err.splitlines()
    assert said == "fastproc: /no/such: no such working directory"
    assert json.loads(as_json)["culprit"] == "/no/such"
    assert (
        json.loads(cli("run", "--json", "no-such-program").err.splitlines()[-1])["culprit"]
        == "no-such-program"
    )


def test_a_second_interrupt_kills(cli: Cli, programs: Programs) -> None:
    process = cli.start("run", "--grace=60s", *programs.ignores_sigterm())
    assert line_of(process).startswith("ready")
    ended = cli.end(process, signal.SIGINT, signal.SIGINT)
    assert ended.code == 130
    assert ended.seconds < 10
    assert "SIGINT again: killing" in ended.err


def test_what_stopped_itself_can_be_interrupted(cli: Cli, programs: Programs) -> None:
    process = cli.start("run", *programs.stops_itself())
    assert line_of(process).startswith("ready")
    assert cli.end(process, signal.SIGINT).seconds < 5


def test_the_command_does_not_outlive_our_sudden_death(cli: Cli, programs: Programs) -> None:
    process = cli.start("run", *programs.ready_then_sleep())
    assert line_of(process).startswith("ready")
    process.kill()
    until(lambda: programs.running() == [])


def test_json_tells_how_it_ended(cli: Cli, programs: Programs) -> None:
    said = json.loads(cli("run", "--json", *programs.dies_by(9)).err)
    assert (said["reason"], said["exit"], said["signal"]) == ("signaled", None, "SIGKILL")
    assert said["explanation"].startswith("Killed by SIGKILL")
    said = json.loads(cli("run", "--json", "no-such-program").err.splitlines()[-1])
    assert (said["errno"], said["stage"]) == (2, "exec")


def test_a_closed_output_is_no_traceback(cli: Cli) -> None:
    process = cli.start("run", "--idle-timeout=20s", "sh", "-c", "yes", stdin=subprocess.DEVNULL)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    process.stdout = None
    assert process.stderr is not None
    assert b"Traceback" not in process.stderr.read()
    assert process.wait(10) == 128 + signal.SIGPIPE


def test_closed_streams_are_no_traceback_and_stay_closed(tmp_path: Path) -> None:
    """As from a daemon that has closed all three."""
    look = "import os, sys; found = [fd for fd in range(3) if os.path.exists(f'/proc/self/fd/{fd}')]"
    look += "; open('found', 'w').write(str(found))"
    command = [sys.executable, "-m", "fastproc", "run", sys.executable, "-c", f"{look}; sys.exit(3)"]
    with_all_closed = ["sh", "-c", 'exec "$@" 0<&- 1>&- 2>&-', "sh", *command]

    assert subprocess.run(with_all_closed, cwd=tmp_path, check=False).returncode == 3
    assert (tmp_path / "found").read_text() == "[]"


def test_output_that_nobody_could_take_is_no_success(cli: Cli) -> None:
    with open("/dev/full", "wb") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "fastproc", "run", "--idle-timeout=20s", "echo", "lost"],
            stdin=subprocess.DEVNULL,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (ended.returncode, ended.stderr) == (
        125,
        "fastproc: its output could not be written: No space left on device\n",
    )
