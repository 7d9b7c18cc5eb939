"""What a task runs, and what its end means: executors start nothing, so nothing is started here."""

from __future__ import annotations

import dataclasses
import json
import signal
from pathlib import Path
from typing import Any

import pytest

from fastproc.processor import (
    AgentExecutor,
    CommandExecutor,
    End,
    ExecutionResult,
    RateLimit,
    Refused,
    Run,
    Task,
)
from fastproc.processor.agent import agent_verdict, assemble_prompt
from fastproc.processor.executor import bounded_text
from fastproc.status import ExitReason, ExitStatus

RUN = Run(task_id="t", attempt=2, timeout=90.0, idle_timeout=None, queue_dir="/q")


def task(**fields: Any) -> Task:
    return Task.read("t", fields)


def end(code: int = 0, output: str = "", **said: Any) -> End:
    return End(status=ExitStatus(reason=ExitReason.EXITED, code=code, **said), output=output.encode())


# ---- commands ----


def test_a_command_is_what_the_task_says() -> None:
    said = task(
        args=["echo", "$HOME; rm -rf x"],
        cwd="/tmp",
        env={"A": "b"},
        stdin="in",
        limits={"open_files": [8, 9]},
    )
    command = CommandExecutor().prepare(said, RUN)

    assert list(command.args) == ["echo", "$HOME; rm -rf x"]
    assert command.cwd == "/tmp"
    assert command.input == b"in"
    assert command.limits is not None
    assert command.limits.open_files == (8, 9)
    assert command.env is not None
    assert (command.env["A"], command.env["FASTPROC_TASK_ID"], command.env["FASTPROC_ATTEMPT"]) == (
        "b",
        "t",
        "2",
    )


def test_of_our_environment_only_what_is_allowed_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "canary")
    monkeypatch.setenv("LD_PRELOAD", "/evil.so")
    monkeypatch.setenv("LC_ALL", "C")
    monkeypatch.setenv("ASKED_FOR", "1")
    monkeypatch.setenv("PATH", ":/usr/bin:.:relative:/bin:")
    command = CommandExecutor(inherit=["ASKED_FOR"], env={"OURS": "2"}).prepare(task(args=["true"]), RUN)
    assert command.env is not None
    assert "canary" not in command.env.values()
    assert "LD_PRELOAD" not in command.env
    assert command.env["PATH"] == "/usr/bin:/bin"
    assert (command.env["LC_ALL"], command.env["ASKED_FOR"], command.env["OURS"]) == ("C", "1", "2")


@pytest.mark.parametrize(
    "name",
    [
        "LD_PRELOAD",
        "LD_LIBRARY_PATH",
        "PYTHONPATH",
        "BASH_ENV",
        "IFS",
        "NODE_OPTIONS",
        "PATH",
        "GIT_SSH",
        "ENV",
    ],
)
def test_a_task_cannot_have_other_programs_load_its_code(name: str) -> None:
    with pytest.raises(Refused, match=name):
        CommandExecutor().prepare(task(args=["true"], env={name: "x"}), RUN)
    assert CommandExecutor(allow=[name]).prepare(task(args=["true"], env={name: "x"}), RUN).env


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({}, "names no command"),
        ({"args": ["true"], "limits": {"nonsense": 1}}, "nonsense"),
        ({"args": ["true"], "limits": {"open_files": "many"}}, "open_files"),
        ({"args": ["true"], "cwd": ""}, "empty path"),
    ],
)
def test_what_can_never_be_carried_out_is_refused(fields: dict[str, Any], why: str) -> None:
    with pytest.raises(Refused, match=why):
        CommandExecutor().prepare(task(**fields), RUN)


def test_programs_may_be_restricted() -> None:
    executor = CommandExecutor(allowed_programs=["make"])
    assert executor.prepare(task(args=["make"]), RUN)
    with pytest.raises(Refused, match="not one of those allowed"):
        executor.prepare(task(args=["rm"]), RUN)


def test_the_exit_code_decides_whatever_was_printed() -> None:
    words = "error: 429 Too Many Requests, rate limit, max turns reached"
    good = CommandExecutor().judge(task(), end(0, words))
    assert good.success
    assert good.output == words
    bad = CommandExecutor().judge(task(), end(3, words))
    assert (bad.success, bad.rate_limited) == (False, False)
    assert "code 3" in bad.error
    killed = End(status=ExitStatus.signaled(signal.SIGKILL))
    assert "SIGKILL" in CommandExecutor().judge(task(), killed).error


def test_a_time_limit_is_a_failure_even_with_exit_0() -> None:
    """A program that exits with 0 when it is asked to end has not done its work."""
    for reason in (ExitReason.TIMEOUT, ExitReason.IDLE_TIMEOUT, ExitReason.CANCELLED):
        found = CommandExecutor().judge(task(), End(status=ExitStatus(reason=reason, code=0)))
        assert not found.success
        assert found.idle_timeout is (reason is ExitReason.IDLE_TIMEOUT)


def test_long_output_keeps_its_beginning_and_its_end() -> None:
    text = bounded_text(b"a" * 100_000 + b"z" * 100_000, 1000)
    assert text.startswith("a" * 250)
    assert text.endswith("z" * 750)
    assert "199000 bytes are left out" in text
    assert bounded_text(b"\xff\xfe") == "��"


# ---- agents: the command ----


def test_an_agent_is_told_its_task_on_standard_input_and_its_limits_by_the_environment() -> None:
    executor = AgentExecutor(
        max_turns=7, allowed_tools=["Read", "Edit"], skip_permissions=True, cwd="/work", env={"KEY": "k"}
    )
    command = executor.prepare(task(title="Fix it", prompt="The bug.", notes="Careful.", target="x"), RUN)

    assert command.args[0] == "claude"
    words = list(command.args)
    assert words[words.index("--max-turns") + 1] == "7"
    assert words[words.index("--allowedTools") + 1] == "Read,Edit"
    assert "--dangerously-skip-permissions" in words
    assert command.cwd == "/work"
    assert command.env is not None
    found = {
        name: command.env[name] for name in ("MAX_TURNS", "ALLOWED_TOOLS", "TIMEOUT", "SKIP_PERMISSIONS")
    }
    assert found == {
        "MAX_TURNS": "7",
        "ALLOWED_TOOLS": "Read,Edit",
        "TIMEOUT": "90",
        "SKIP_PERMISSIONS": "yes",
    }
    assert (command.env["AGENT_TAG"], command.env["KEY"]) == ("fastproc-t", "k")
    assert command.input is not None
    prompt = command.input.decode()
    assert (
        prompt.index("# Fix it")
        < prompt.index("The bug.")
        < prompt.index("Target: x")
        < prompt.index("Careful.")
    )


def test_options_without_a_value_are_left_out() -> None:
    command = AgentExecutor().prepare(task(prompt="x"), RUN)
    assert "--allowedTools" not in command.args
    assert "--max-turns" in command.args
    assert not [word for word in command.args if "{" in str(word)]


def test_a_command_of_ones_own() -> None:
    executor = AgentExecutor(["agent", "--tag={tag}", "{task_id}", "{attempt}"], tag="x-{task_id}")
    assert list(executor.prepare(task(prompt="x"), RUN).args) == ["agent", "--tag=x-t", "t", "2"]
    mine = AgentExecutor(["agent"], prompt=lambda found: f"only {found.id}")
    assert mine.prepare(task(), RUN).input == b"only t"


def test_an_agent_with_nothing_to_do_is_refused() -> None:
    with pytest.raises(Refused, match="nothing to tell"):
        AgentExecutor().prepare(task(), RUN)
    with pytest.raises(Refused, match="LD_PRELOAD"):
        AgentExecutor().prepare(task(prompt="x", env={"LD_PRELOAD": "x"}), RUN)


@pytest.mark.parametrize("said", [{"command": "claude -p"}, {"command": []}, {"max_turns": 0}])
def test_wrong_settings_of_an_agent_are_refused(said: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError)):
        AgentExecutor(**said)


def test_a_prompt_is_assembled_from_what_is_known() -> None:
    assert assemble_prompt(task()) == ""
    assert "Tags: a, b" in assemble_prompt(task(title="x", tags=["a", "b"]))


# ---- agents: verdicts ----

RESULT = {
    "type": "result",
    "subtype": "success",
    "is_error": False,
    "result": "Done: handled the rate limit of 429.",
}


def lines(*found: dict[str, Any]) -> str:
    return "\n".join(json.dumps(item) for item in ({"type": "system"}, *found)) + "\n"


def verdict(ended: End, now: float = 1000.0) -> ExecutionResult:
    return agent_verdict(ended, now)


def test_words_never_turn_an_exit_0_into_a_failure() -> None:
    for words in ("rate limit exceeded, 429", "Error: max turns reached", "error: failed\n## Summary"):
        assert verdict(end(0, words)).success
    found = verdict(end(0, lines(RESULT)))
    assert (found.success, found.message) == (True, RESULT["result"])


@pytest.mark.parametrize("code", [0, 1])
def test_structured_turns_are_believed(code: int) -> None:
    said = {"type": "result", "subtype": "error_max_turns", "is_error": True, "num_turns": 60}
    found = verdict(end(code, lines(said)))
    assert (found.success, found.max_turns_exceeded, found.permanent) == (False, True, True)


@pytest.mark.parametrize(
    ("items", "seconds"),
    [
        ([{"type": "error", "error": {"type": "rate_limit_error"}, "retry_after": 77}], 77.0),
        ([{"type": "rate_limit_event", "rate_limit_info": {"status": "rejected", "resetsAt": 1600}}], 600.0),
        (
            [{"type": "result", "is_error": True, "result": "Claude AI usage limit reached|1700000000"}],
            1.7e9 - 1000,
        ),
        ([{"type": "result", "is_error": True, "result": "429: retry after 3 minutes"}], 180.0),
        ([{"rate_limited": True}], None),
    ],
)
def test_a_structured_rate_limit_is_one(items: list[dict[str, Any]], seconds: float | None) -> None:
    found = verdict(end(1, lines(*items)))
    assert found.rate_limited
    assert found.retry_after == seconds


def test_a_limit_that_was_overcome_is_none() -> None:
    warned = {"type": "rate_limit_event", "rate_limit_info": {"status": "allowed_warning", "resetsAt": 5}}
    refused = {"type": "error", "error": {"type": "rate_limit_error"}}
    assert verdict(end(0, lines(refused, warned, RESULT))).success


@pytest.mark.parametrize(
    ("words", "seconds"),
    [
        ("Error: 429 Too Many Requests", None),
        ("API rate limit reached. Try again in 20 minutes.", 1200.0),
        ("rate_limit_error; Retry-After: 90", 90.0),
        ("usage limit reached, wait 2 hours", 7200.0),
    ],
)
def test_words_of_a_failed_run_may_tell_of_a_rate_limit(words: str, seconds: float | None) -> None:
    found = verdict(end(1, words))
    assert (found.rate_limited, found.retry_after) == (True, seconds)


@pytest.mark.parametrize(
    "words",
    [
        'File "client.py", line 429, in ask\nKeyError: 429',
        "1429 tests, 1 failed",
        '{"MAX_TURNS": "60", "ALLOWED_TOOLS": "Read"}',
        "+ claude -p --max-turns 60\nerror: unknown option '--max-turns'",
        "MAX_TURNS=60\nTraceback",
    ],
)
def test_a_number_or_an_option_that_is_only_named_is_neither(words: str) -> None:
    """The one would pause the whole queue, the other give the task up at once."""
    found = verdict(end(1, words))
    assert (found.success, found.rate_limited, found.max_turns_exceeded) == (False, False, False)
    assert not found.permanent


@pytest.mark.parametrize(
    "words",
    [
        "Reached max turns (30)",
        "Error: max turns reached",
        "Maximum number of turns exceeded",
        "error_max_turns",
    ],
)
def test_turns_that_are_used_up_are_told_in_several_ways(words: str) -> None:
    assert verdict(end(1, words)).max_turns_exceeded


@pytest.mark.parametrize(
    "words", ["HTTP/1.1 429", "status: 429", "status_code=429", "error 429", "429: retry later"]
)
def test_a_status_of_429_is_told_in_several_ways(words: str) -> None:
    assert verdict(end(1, words)).rate_limited


@pytest.mark.parametrize("name", ["retry_after", "resetsAt"])
def test_a_wait_beyond_all_floats_is_no_number(name: str) -> None:
    found = verdict(end(1, json.dumps({"rate_limited": True, name: 10**400})))
    assert found.rate_limited
    assert RateLimit().pause(found.retry_after) == RateLimit().usual


def test_a_subtype_that_is_no_text_is_not_an_error_by_its_name() -> None:
    said = {"type": "result", "subtype": None, "is_error": True}
    assert verdict(end(0, json.dumps(said))).error == "The agent reports an error."


def test_words_of_a_failed_run_may_tell_of_turns() -> None:
    found = verdict(end(1, "Reached max turns (30)"))
    assert (found.max_turns_exceeded, found.rate_limited) == (True, False)


def test_a_structured_success_with_a_bad_exit_is_a_plain_failure() -> None:
    """Its words are its work: that it speaks of rate limits is no rate limit."""
    found = verdict(end(1, lines(RESULT)))
    assert (found.success, found.rate_limited) == (False, False)


def test_an_error_of_the_agent_is_one_even_with_exit_0() -> None:
    said = {"type": "result", "subtype": "error_during_execution", "is_error": True, "result": "broken"}
    found = verdict(end(0, lines(said)))
    assert (found.success, found.error) == (False, "broken")


def test_what_we_have_stopped_is_judged_by_that() -> None:
    for reason in (ExitReason.TIMEOUT, ExitReason.IDLE_TIMEOUT):
        ended = End(status=ExitStatus(reason=reason, signal=15), output=b"429 rate limit")
        found = verdict(ended)
        assert (found.success, found.rate_limited) == (False, False)
        assert found.idle_timeout is (reason is ExitReason.IDLE_TIMEOUT)


@pytest.mark.parametrize(
    "junk", ["{", '{"type": "result"', "{}" * 1000, '{"type": ["result"]}', '{"type":"error"}']
)
def test_broken_structure_is_only_words(junk: str) -> None:
    assert verdict(end(0, junk)).success
    assert not verdict(end(1, junk)).success


def test_an_execution_result_is_plain_values() -> None:
    assert json.loads(json.dumps(dataclasses.asdict(verdict(end(1, "x")))))["success"] is False


# ---- what they are told ----


@pytest.mark.parametrize(
    "said",
    [
        {"skip_permissions": "no"},
        {"skip_permissions": None},
        {"inherit": "HOME"},
        {"inherit": [5]},
        {"max_turns": 1.5},
        {"max_turns": True},
        {"max_turns": 0},
        {"idle_timeout": -1},
        {"idle_timeout": "60"},
        {"allowed_tools": 5},
        {"allowed_tools": ["Read", 5]},
        {"command": "claude -p"},
        {"command": ["claude", 5]},
        {"command": []},
        {"tag": 5},
        {"prompt": "Mend it."},
    ],
    ids=str,
)
def test_an_agent_is_not_told_what_makes_no_sense(said: dict[str, Any]) -> None:
    """Least of all that the text "no" means yes."""
    with pytest.raises((TypeError, ValueError), match=next(iter(said))):
        AgentExecutor(**said)


@pytest.mark.parametrize("option", ["inherit", "allow", "allowed_programs"])
@pytest.mark.parametrize("value", ["PATH", b"PATH", 5, ["PATH", 5]], ids=repr)
def test_one_name_is_no_list_of_its_letters(option: str, value: Any) -> None:
    with pytest.raises(TypeError, match=option):
        CommandExecutor(**{option: value})


def test_a_limit_that_is_not_known_is_named_with_those_that_are() -> None:
    with pytest.raises(Refused, match=r"limits has no 'memry', only .*memory"):
        CommandExecutor().prepare(task(args=["true"], limits={"memry": 1}), RUN)


def test_an_agent_may_be_named_by_a_path() -> None:
    command = AgentExecutor([Path("/opt/agent"), "-p"]).prepare(task(prompt="x"), RUN)
    assert list(command.args) == ["/opt/agent", "-p"]
