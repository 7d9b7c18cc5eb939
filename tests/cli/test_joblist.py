"""A list of commands, and what its lines mean."""

from __future__ import annotations

import signal

import pytest

from fastproc.cli.joblist import BadLine, Job, read_jobs


def jobs(*lines: str, shell: bool = True) -> list[Job]:
    read = list(read_jobs(lines, shell=shell))
    assert all(isinstance(job, Job) for job in read), read
    return [job for job in read if isinstance(job, Job)]


def error(line: str, *, shell: bool = True) -> str:
    (read,) = read_jobs([line], shell=shell)
    assert isinstance(read, BadLine)
    return str(read)


def test_comments_and_blank_lines_are_skipped_but_counted_as_lines() -> None:
    read = jobs("# a list\n", "\n", "  \t\n", "  true  \r\n", "#false", "echo '#' # not ours\n")
    assert [(job.number, job.line, job.text) for job in read] == [
        (1, 4, "true"),
        (2, 6, "echo '#' # not ours"),
    ]


def test_a_line_goes_to_the_shell_as_it_is() -> None:
    (job,) = jobs('a | b > "$C" && d\n')
    assert job.words == ("/bin/sh", "-c", 'a | b > "$C" && d')
    assert job.name == "job 1"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("cp  a\tb", ("cp", "a", "b")),
        ("cp 'a b' c\\ d \"e'f\"", ("cp", "a b", "c d", "e'f")),
        ("echo a\u00a0b é", ("echo", "a\u00a0b", "é")),
        ("echo a\x1cb", ("echo", "a\x1cb")),
        ("echo $HOME # *", ("echo", "$HOME", "#", "*")),
        ("echo ''", ("echo", "")),
    ],
)
def test_without_a_shell_a_line_is_cut_as_a_shell_would(line: str, words: tuple[str, ...]) -> None:
    (job,) = jobs(line, shell=False)
    assert job.words == words


def test_a_line_may_have_options_of_its_own() -> None:
    (job,) = jobs(
        "@timeout=2s,idle-timeout=1m,grace=250ms,stop_signal=INT,cwd=/tmp,nice=5,"
        "containment=session,memory=1G,address-space=2G,cpu-time=3,file_size=unlimited,"
        "open-files=10,pids=5,cpus=0.5,name=big\tmake all"
    )
    assert (job.name, job.text) == ("big", "make all")
    assert job.settings == {
        "timeout": 2.0,
        "idle_timeout": 60.0,
        "grace": 0.25,
        "stop_signal": signal.SIGINT,
        "cwd": "/tmp",
        "nice": 5,
        "containment": "session",
    }
    assert job.limits == {
        "memory": 1 << 30,
        "address_space": 2 << 30,
        "cpu": 3,
        "file_size": -1,
        "open_files": 10,
        "pids": 5,
        "cpus": 0.5,
    }


def test_its_own_options_overrule_the_common_ones() -> None:
    (job,) = jobs("@timeout=2,open-files=10 true")
    command = job.command({"timeout": 9.0, "grace": 1.0}, {"open_files": 20, "file_size": 30})
    assert (command.timeout, command.grace) == (2.0, 1.0)
    assert command.limits is not None
    assert (command.limits.open_files, command.limits.file_size) == (10, 30)


def test_a_timeout_of_zero_means_none() -> None:
    (job,) = jobs("@timeout=0 true")
    assert job.command({"timeout": 9.0}, {}).timeout is None


def test_a_command_that_begins_with_an_at_stands_behind_an_empty_list_of_options() -> None:
    (job,) = jobs("@ @home-grown --flag=1,x")
    assert job.text == "@home-grown --flag=1,x"


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("@tiemout=2s true", "did you mean 'timeout'?"),
        ("@frobnicate=1 true", "there are name, timeout"),
        ("@timeout=soon true", "timeout: 'soon' is no length of time"),
        ("@memory=much true", "memory: 'much' is no size"),
        ("@containment=jail true", "there are auto, session, cgroup and guard"),
        ("@cpus=0 true", "no number above 0"),
        ("@timeout true", "has no value"),
        ("@timeout=2s", "no command behind them"),
        ("true\0false", "NUL"),
    ],
)
def test_a_line_that_is_not_understood_says_why_and_where(line: str, part: str) -> None:
    message = error(line)
    assert message.startswith("line 1: ")
    assert part in message


def test_an_unfinished_quotation_is_an_error_without_a_shell_only() -> None:
    assert "no closing quotation" in error("echo 'a", shell=False)
    assert jobs("echo 'a")


def test_a_bad_line_keeps_its_place_among_the_others() -> None:
    read = list(read_jobs(["true", "@x=1 true", "false"], shell=True))
    assert [type(job) for job in read] == [Job, BadLine, Job]
    assert isinstance(read[2], Job)
    assert read[2].number == 3
