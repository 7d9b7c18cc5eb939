"""What one task runs: the Protocol of executors, and the one for tasks that name their command.

An executor decides twice and starts nothing: prepare() says which command a task means, judge() says what
    its end
means. The Processor does the rest: it starts the command with its output in the log, keeps time limits, ends
it for certain. So an executor is tested without a process, and an attempt that a crash has interrupted can
be judged by the next Processor.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from ..command import Command
from ..limits import Limits
from ..status import ExitReason, ExitStatus
from .task import ExecutionResult, Task

ALLOWED_ENV = ("HOME", "LANG", "LANGUAGE", "LOGNAME", "SHELL", "TERM", "TMPDIR", "TZ", "USER")
"""What a job gets of our own environment, with all LC_* and a PATH without relative directories."""

_ALLOWED_ENV = frozenset(map(os.fsencode, ALLOWED_ENV))

# They make a program load or run what somebody else has chosen, see ld.so(8) and the manuals of the
# interpreters.
_LOADER_PREFIXES = ("LD_", "DYLD_", "PYTHON", "BASH_FUNC_", "GIT_", "GCONV_", "MALLOC_", "RUBY", "PERL5")
# fmt: off
_LOADER_NAMES = frozenset(
    {
        "BASHOPTS", "BASH_ENV", "CDPATH", "CLASSPATH", "EDITOR", "ENV", "GLIBC_TUNABLES", "HOSTALIASES",
        "IFS", "JAVA_TOOL_OPTIONS", "LOCALDOMAIN", "LOCPATH", "NLSPATH", "NODE_OPTIONS", "NODE_PATH",
        "PATH", "PERLLIB", "PROMPT_COMMAND", "PS4", "RESOLV_HOST_CONF", "RES_OPTIONS", "SHELLOPTS",
        "SSLKEYLOGFILE", "_JAVA_OPTIONS",
    }
)
# fmt: on

OUTPUT_BYTES = 64 * 1024
"""How much of the output a result holds: a quarter from its beginning, the rest from its end."""


class Refused(ValueError):
    """A task that can never be carried out, and why. Raised by prepare(); the task fails without further
    attempts.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What an executor may know of the attempt that it prepares."""

    task_id: str
    attempt: int
    timeout: float | None
    idle_timeout: float | None
    queue_dir: str


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """How an attempt ended.

    Attributes:
        status: of the leader; UNKNOWN if nobody knows.
        output: what it printed: all of it, or a beginning and an end with a line about what is left out.
        log_path: where all of it is.
        attempt: which one it was.
    """

    status: ExitStatus
    output: bytes = b""
    log_path: str | None = None
    attempt: int = 1


class Executor(Protocol):
    """Says what a task runs and what its end means. Called by the Processor's thread: be quick, start
    nothing.
    """

    def prepare(self, task: Task, run: Run) -> Command:
        """The command of an attempt.

        The Processor puts its output into the log and its `input` into a file, so that neither hangs on a
        pipe that would break with the Processor; `timeout` and `idle_timeout` of the task apply if the
        command has none.

        Raises:
            Refused: the task can never be carried out.
        """
        ...

    def judge(self, task: Task, end: End) -> ExecutionResult:
        """What the end of an attempt means."""
        ...


class CommandExecutor:
    """Runs the command that the task names: `args`, `cwd`, `env`, `stdin`, `limits`. There is no shell.

    Args:
        env: variables for all jobs.
        inherit: names of further variables of ours that jobs get, see ALLOWED_ENV.
        allow: names that a task may set although they decide what other programs load, such as PATH.
        allowed_programs: if given, the only values that args[0] may have.
    """

    def __init__(
        self,
        *,
        env: Mapping[str, str] | None = None,
        inherit: Collection[str] = (),
        allow: Collection[str] = (),
        allowed_programs: Collection[str] | None = None,
    ) -> None:
        self._env = dict(env or {})
        self._inherit = names_in("inherit", inherit)
        self._allow = frozenset(names_in("allow", allow))
        self._allowed_programs = (
            None if allowed_programs is None else frozenset(names_in("allowed_programs", allowed_programs))
        )

    def prepare(self, task: Task, run: Run) -> Command:
        """See Executor."""
        if task.args is None:
            raise Refused("the task names no command: it needs args, a list such as [sort, -u, names.txt]")
        if self._allowed_programs is not None and task.args[0] not in self._allowed_programs:
            raise Refused(f"program {task.args[0]!r} is not one of those allowed")
        check_task_env(task.env, self._allow)
        env = base_env(self._inherit) | self._env | dict(task.env) | run_env(run)
        return make_command(
            list(task.args),
            env=env,
            cwd=task.cwd,
            text=task.stdin,
            limits=dict(task.limits),
        )

    def judge(self, task: Task, end: End) -> ExecutionResult:
        """See Executor: the exit code decides, and nothing that was printed."""
        return plain_verdict(end)


# ---- for executors ----


def names_in(option: str, value: object) -> tuple[str, ...]:
    """A list of names; a single one would be taken for the list of its letters."""
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise TypeError(f"{option} must be a list of names, not {value!r:.80}")
    names = tuple(value)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"{option} must be a list of names, but has {name!r:.80}")
    return names


def make_command(
    args: list[str],
    *,
    env: Mapping[str, str],
    cwd: str | None = None,
    text: str | None = None,
    limits: Mapping[str, object] | None = None,
) -> Command:
    """A Command from what tasks and settings say; Refused where Command refuses."""
    try:
        given: dict[str, object] = {"env": env}
        if cwd is not None:
            given["cwd"] = os.path.expanduser(cwd)
        if text is not None:
            given["input"] = text.encode("utf-8", "surrogateescape")
        if limits:
            unknown = limits.keys() - Limits.__slots__
            if unknown:
                raise Refused(f"limits has no {min(unknown)!r}, only {', '.join(Limits.__slots__)}")
            given["limits"] = Limits(**limits)  # type: ignore[arg-type]
        return Command.coerce(args, given)
    except (TypeError, ValueError) as error:
        raise Refused(str(error)) from error


def base_env(inherit: Collection[str] = ()) -> dict[str, str]:
    """What jobs get of our environment: a list of what is allowed, since secrets have all sorts of names."""
    wanted = _ALLOWED_ENV.union(map(os.fsencode, inherit)) if inherit else _ALLOWED_ENV
    # As bytes: most of it is not wanted, and decoding it would cost the most.
    env = {
        os.fsdecode(name): os.fsdecode(os.environb[name])
        for name in os.environb
        if name in wanted or name.startswith(b"LC_")
    }
    # An empty or relative entry would run what lies in the job's directory.
    path = os.environ.get("PATH", os.defpath)
    env["PATH"] = os.pathsep.join([entry for entry in path.split(os.pathsep) if entry.startswith("/")])
    return env


def run_env(run: Run) -> dict[str, str]:
    """What tells a job which attempt of what it is."""
    return {"FASTPROC_TASK_ID": run.task_id, "FASTPROC_ATTEMPT": str(run.attempt)}


def check_task_env(env: Mapping[str, str], allow: Collection[str] = ()) -> None:
    """Refuse variables by which a task file could have other programs load its code."""
    for name in env:
        if name not in allow and (name in _LOADER_NAMES or name.startswith(_LOADER_PREFIXES)):
            raise Refused(f"a task may not set {name}: it decides what other programs load; see allow=")


def plain_verdict(end: End) -> ExecutionResult:
    """What exit code, signal and reason say, without a look at the output."""
    status = end.status
    idle = status.reason is ExitReason.IDLE_TIMEOUT
    return ExecutionResult(
        success=status.ok,
        message=status.explain(),
        output=bounded_text(end.output),
        error="" if status.ok else status.explain(),
        idle_timeout=idle,
    )


def bounded_text(output: bytes, most: int = OUTPUT_BYTES) -> str:
    """Output as text, its beginning and its end if it is longer than `most` bytes."""
    if len(output) > most:
        head = most // 4
        left_out = len(output) - most
        output = b"%s\n[... %d bytes are left out ...]\n%s" % (output[:head], left_out, output[head - most :])
    return output.decode("utf-8", "replace")
