"""AgentExecutor: a coding agent such as Claude Code. Its prompt, its surroundings, and what its end means.

Verdicts come from exit code, signal and reason, and from structured output: lines that are JSON objects, as
    Claude Code
prints with `--output-format json` or `stream-json`. Words in other output are believed only of a run that
has failed
already: they may say that it was a rate limit or the turns, and never that an exit 0 was a failure.
"""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from ..command import Command
from ..status import ExitReason
from .executor import (
    End,
    Refused,
    Run,
    base_env,
    bounded_text,
    check_task_env,
    make_command,
    names_in,
    plain_verdict,
    run_env,
)
from .task import ExecutionResult, Task

CLAUDE_CODE = (
    "claude",
    "-p",
    "--output-format",
    "stream-json",
    "--verbose",
    "--max-turns",
    "{max_turns}",
    "--allowedTools",
    "{allowed_tools}",
    "{skip_permissions}",
)
"""The command line of Claude Code without a terminal. A word that is one placeholder and comes out empty is
left out, together with the option before it."""

# The number alone may be that of a line in a traceback, which would pause the whole queue.
_RATE_LIMIT = re.compile(
    r"rate[ _-]?limit|usage limit reached|too many requests|quota exceeded|overloaded_error"
    r"|\b(?:http(?:/[\d.]+)?|status(?:_?code)?|error|code)\W{0,12}429\b"
    r"|^\W{0,4}429\b|\b429\W{1,4}(?:retry|try again)",
    re.IGNORECASE | re.MULTILINE,
)
_TURNS = r"max(?:imum)?[ _-]?(?:number of )?turns\b"
_SUBTYPE_MAX_TURNS = re.compile(_TURNS, re.IGNORECASE)
# Not the name alone: an agent that has failed otherwise may have printed its options, or MAX_TURNS=60.
_MAX_TURNS = re.compile(
    rf"\b(?:reached|exceeded|hit|used(?: up)?)\W+(?:\w+\W+){{0,2}}{_TURNS}"
    rf"|{_TURNS}\W+(?:\w+\W+){{0,2}}(?:reached|exceeded|hit|used)\b|\berror_max_turns\b",
    re.IGNORECASE,
)
_RETRY_AFTER = re.compile(
    r"(?:retry[ _-]?after|try again in|wait)\W{0,4}(\d{1,9}(?:\.\d+)?)\s*"
    r"(h|m|s|hours?|min(?:ute)?s?|sec(?:ond)?s?)?\b",
    re.IGNORECASE,
)
_RESET_AT = re.compile(r"limit reached\|(\d{10})\b")
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0}


class AgentExecutor:
    """Runs a coding agent for each task, the prompt on its standard input.

    Args:
        command: program and arguments; `{max_turns}`, `{allowed_tools}`, `{skip_permissions}`, `{task_id}`,
            `{attempt}`, `{tag}` and `{title}` in them are filled in. By default that of Claude Code.
        cwd: where it works; a task's own `cwd` comes before it.
        env: variables for the agent, such as its key.
        inherit: names of further variables of ours that it gets.
        max_turns, allowed_tools: what it is told in MAX_TURNS and ALLOWED_TOOLS.
        skip_permissions: whether it may work without asking; SKIP_PERMISSIONS is yes or no.
        idle_timeout: seconds without output until it is stopped, for tasks that do not say.
        tag: what AGENT_TAG says, `{task_id}` filled in.
        prompt: makes the prompt of a task, instead of assemble_prompt().
    """

    def __init__(
        self,
        command: Sequence[str | os.PathLike[str]] = CLAUDE_CODE,
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        inherit: Collection[str] = (),
        max_turns: int = 60,
        allowed_tools: Collection[str] | str = (),
        skip_permissions: bool = False,
        idle_timeout: float | None = None,
        tag: str = "fastproc-{task_id}",
        prompt: Callable[[Task], str] | None = None,
    ) -> None:
        if not _is_words(command) or not command:
            raise TypeError(f"command must be a list of words such as ['claude', '-p'], not {command!r}")
        if isinstance(max_turns, bool) or not isinstance(max_turns, int):
            raise TypeError(f"max_turns must be a whole number, not {max_turns!r}")
        if max_turns < 1:
            raise ValueError(f"max_turns must be a whole number above 0, not {max_turns!r}")
        # The text "no" would count as true, and let the agent do anything.
        if not isinstance(skip_permissions, bool):
            raise TypeError(f"skip_permissions must be True or False, not {skip_permissions!r}")
        if idle_timeout is not None:
            if isinstance(idle_timeout, bool) or not isinstance(idle_timeout, (int, float)):
                raise TypeError(f"idle_timeout must be a number of seconds or None, not {idle_timeout!r}")
            if not idle_timeout > 0:
                raise ValueError(f"idle_timeout must be above 0 seconds, not {idle_timeout!r}")
        if not isinstance(tag, str):
            raise TypeError(f"tag must be a str, not {tag!r}")
        if prompt is not None and not callable(prompt):
            raise TypeError(f"prompt must be a function that makes the prompt of a task, not {prompt!r}")
        self._command = tuple(os.fspath(word) for word in command)
        self._cwd = cwd
        self._env = dict(env or {})
        self._inherit = names_in("inherit", inherit)
        self._max_turns = max_turns
        self._tools = (
            allowed_tools
            if isinstance(allowed_tools, str)
            else ",".join(names_in("allowed_tools", allowed_tools))
        )
        self._skip_permissions = skip_permissions
        self.idle_timeout = idle_timeout
        self._tag = tag
        self._prompt = prompt if prompt is not None else assemble_prompt

    def prepare(self, task: Task, run: Run) -> Command:
        """See Executor."""
        check_task_env(task.env)
        prompt = self._prompt(task)
        if not prompt.strip():
            raise Refused("there is nothing to tell the agent: the task needs a prompt, a title or notes")
        tag = self._tag.replace("{task_id}", task.id)
        values = {
            "{max_turns}": str(self._max_turns),
            "{allowed_tools}": self._tools,
            "{skip_permissions}": "--dangerously-skip-permissions" if self._skip_permissions else "",
            "{task_id}": task.id,
            "{attempt}": str(run.attempt),
            "{tag}": tag,
            "{title}": task.title,
        }
        env = base_env(self._inherit) | self._env | dict(task.env) | run_env(run)
        env |= {
            "MAX_TURNS": str(self._max_turns),
            "ALLOWED_TOOLS": self._tools,
            "TIMEOUT": "" if run.timeout is None else str(round(run.timeout)),
            "SKIP_PERMISSIONS": "yes" if self._skip_permissions else "no",
            "AGENT_TAG": tag,
        }
        cwd = task.cwd if task.cwd is not None else self._cwd
        return make_command(
            _fill(self._command, values), env=env, cwd=cwd, text=prompt, limits=dict(task.limits)
        )

    def judge(self, task: Task, end: End) -> ExecutionResult:
        """See Executor, and the head of this file."""
        return agent_verdict(end, time.time())


def _is_words(value: object) -> bool:
    """Whether it is a list of text, and not one text."""
    return (
        isinstance(value, Sequence)
        and not isinstance(value, (str, bytes))
        and all(isinstance(word, (str, os.PathLike)) for word in value)
    )


def assemble_prompt(task: Task) -> str:
    """The prompt of a task: what is to be done, then what is known of it."""
    parts = []
    if task.title:
        parts.append(f"# {task.title}")
    if task.prompt:
        parts.append(task.prompt)
    facts = [
        ("Task", task.id),
        ("Type", task.type),
        ("Operation", task.operation),
        ("Target", ", ".join(task.targets)),
        ("Priority", str(task.priority)),
        ("Tags", ", ".join(task.tags)),
    ]
    if task.title or task.prompt or task.notes:
        parts.append("\n".join(f"{name}: {value}" for name, value in facts if value))
    if task.notes:
        parts.append(f"## Notes\n\n{task.notes}")
    return "\n\n".join(parts) + "\n" if parts else ""


def _fill(command: Sequence[str], values: Mapping[str, str]) -> list[str]:
    words: list[str] = []
    for word in command:
        if word in values:
            if values[word]:
                words.append(values[word])
            elif words and words[-1].startswith("--") and word != "{skip_permissions}":
                words.pop()
            continue
        for placeholder, value in values.items():
            word = word.replace(placeholder, value)
        words.append(word)
    return words


# ---- verdicts ----


def agent_verdict(end: End, now: float) -> ExecutionResult:
    """What the end of an agent means; `now` in seconds since 1970, for limits that name a point in time."""
    plain = plain_verdict(end)
    final, limit = _structured(end.output)
    said = _final_text(final)
    stopped = end.status.reason in (ExitReason.IDLE_TIMEOUT, ExitReason.TIMEOUT, ExitReason.OUTPUT_LIMIT)
    if stopped:
        return plain
    if final is not None:
        subtype = found if isinstance(found := final.get("subtype"), str) else ""
        failed = bool(final.get("is_error")) or subtype.startswith("error")
        if not failed and end.status.ok:
            return _result(plain, success=True, message=said or "The agent has finished.")
        if _SUBTYPE_MAX_TURNS.search(subtype):
            return _result(plain, error=f"The agent has used all its turns. {said}".strip(), max_turns=True)
        if failed and (limit is not None or _RATE_LIMIT.search(said)):
            return _limited(plain, said, limit, now)
        if failed:
            return _result(plain, error=said or subtype or "The agent reports an error.")
        return plain
    if end.status.ok:
        return _result(plain, success=True, message=plain.message)
    # It has failed without a word that can be parsed. Only now free words count, and only the last ones.
    tail = end.output[-8192:].decode("utf-8", "replace")
    if limit is not None or _RATE_LIMIT.search(tail):
        return _limited(plain, tail, limit, now)
    if _MAX_TURNS.search(tail):
        return _result(plain, error="The agent has used all its turns.", max_turns=True)
    return plain


def _structured(output: bytes) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """The last result that the agent has printed, and the last word of a service that refuses."""
    final = limit = None
    for found in _objects(output):
        kind = found.get("type")
        if kind == "result":
            final = found
        elif kind == "rate_limit_event":
            told = found.get("rate_limit_info")
            limit = told if isinstance(told, dict) and told.get("status") == "rejected" else None
        elif kind == "error" and isinstance(found.get("error"), dict):
            error = found["error"]
            if error.get("type") in ("rate_limit_error", "overloaded_error"):
                limit = {**found, **error}
        elif found.get("rate_limited") is True:
            limit = found
    return final, limit


def _objects(output: bytes) -> Iterator[dict[str, Any]]:
    for line in output.split(b"\n"):
        line = line.strip()
        if not line.startswith(b"{"):
            continue
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict):
            yield found


def _final_text(final: Mapping[str, Any] | None) -> str:
    if final is None:
        return ""
    for name in ("result", "error", "message"):
        value = final.get(name)
        if isinstance(value, str) and value:
            return bounded_text(value.encode("utf-8", "replace"), 4096)
    return ""


def _limited(
    plain: ExecutionResult, words: str, limit: Mapping[str, Any] | None, now: float
) -> ExecutionResult:
    return ExecutionResult(
        success=False,
        message="Rate limited.",
        output=plain.output,
        error="The service refuses for a while: its rate limit is reached.",
        rate_limited=True,
        retry_after=_retry_after(words, limit, now),
    )


def _retry_after(words: str, limit: Mapping[str, Any] | None, now: float) -> float | None:
    for name in ("retry_after", "retryAfter"):
        value = (limit or {}).get(name)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return _as_float(value)
    for name in ("resetsAt", "resets_at", "reset_at"):
        value = (limit or {}).get(name)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return max(0.0, _as_float(value) - now)
    if (reset := _RESET_AT.search(words)) is not None:
        return max(0.0, float(reset[1]) - now)
    if (wait := _RETRY_AFTER.search(words)) is not None:
        return float(wait[1]) * _UNITS[(wait[2] or "s")[0].lower()]
    return None


def _as_float(value: float) -> float:
    """A whole number of hundreds of digits is a number, too, for whoever writes JSON."""
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _result(
    plain: ExecutionResult,
    *,
    success: bool = False,
    message: str = "",
    error: str = "",
    max_turns: bool = False,
) -> ExecutionResult:
    return ExecutionResult(
        success=success,
        message=message or plain.message,
        output=plain.output,
        error="" if success else (error or plain.error),
        max_turns_exceeded=max_turns,
        # The same limit would be met again.
        permanent=max_turns,
    )
