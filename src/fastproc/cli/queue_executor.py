"""Which executor `fastproc queue run` uses, from its options."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import click

from ..command import Command
from ..processor import AgentExecutor, CommandExecutor, End, ExecutionResult, Executor, Run, Task


@dataclass(frozen=True, slots=True)
class ByTask:
    """A task that names a command has it run; any other one is for the agent."""

    command: Executor
    agent: Executor

    def _of(self, task: Task) -> Executor:
        return self.command if task.args is not None else self.agent

    def prepare(self, task: Task, run: Run) -> Command:
        """See Executor."""
        return self._of(task).prepare(task, run)

    def judge(self, task: Task, end: End) -> ExecutionResult:
        """See Executor."""
        return self._of(task).judge(task, end)


def make_executor(
    kind: str,
    *,
    agent_command: str | None,
    cwd: str | None,
    env: Mapping[str, str],
    inherit: Collection[str],
    max_turns: int,
    allowed_tools: Collection[str],
    skip_permissions: bool,
) -> Executor:
    """The executor of that kind: command, agent, or auto for both.

    Raises:
        UsageError: the agent's command cannot be one, or there is no such program.
    """
    commands = CommandExecutor(env=env, inherit=inherit)
    if kind == "command":
        return commands
    settings: dict[str, Any] = {}
    if agent_command is not None:
        settings["command"] = _words(agent_command)
    elif kind == "agent":
        _check_program("claude", hint="; name another agent by --agent-command")
    agent = AgentExecutor(
        **settings,
        cwd=None if cwd is None else os.path.abspath(cwd),
        env=env,
        inherit=inherit,
        max_turns=max_turns,
        allowed_tools=allowed_tools,
        skip_permissions=skip_permissions,
    )
    return agent if kind == "agent" else ByTask(commands, agent)


def _words(text: str) -> list[str]:
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise click.BadParameter(f"{error} in {text!r}", param_hint="--agent-command") from None
    if not words:
        raise click.BadParameter("it names no program", param_hint="--agent-command")
    if "/" in words[0]:
        # The agent works in another directory.
        words[0] = os.path.abspath(os.path.expanduser(words[0]))
    _check_program(words[0])
    return words


def _check_program(name: str, hint: str = "") -> None:
    if shutil.which(name) is None:
        raise click.BadParameter(f"there is no program {name!r}{hint}", param_hint="--agent-command")
