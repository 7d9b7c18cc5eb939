"""`fastproc run`: one command, with limits and a certain end."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from contextlib import nullcontext
from queue import SimpleQueue
from typing import Any

import click

from ..command import PIPE, Command
from ..errors import SpawnError
from ..events import Unkillable
from ..limits import Limits
from ..manager import ProcessManager
from ..process import Process
from ..status import ExitReason, ExitStatus, StopReport
from . import OWN_FAILURE
from .copying import KEPT, Copying
from .inbox import AT_ONCE, Inbox, Interrupt, Interrupts, next_note, stop_all
from .options import LIMIT_NAMES, chosen, shared_options
from .quantities import signal_name

TIMED_OUT = 124
CANNOT_EXECUTE = 126
NOT_FOUND = 127


@click.command(context_settings={"allow_interspersed_args": False})
@shared_options
@click.option("--cwd", type=click.Path(), help="Directory to start in.")
@click.option("--env", "variables", multiple=True, metavar="NAME=VALUE", help="Add to its environment.")
@click.option("--json", "as_json", is_flag=True, help="Say on standard error, as JSON, how it ended.")
@click.argument("words", nargs=-1, required=True, type=click.UNPROCESSED, metavar="[--] COMMAND...")
def run(words: tuple[str, ...], variables: tuple[str, ...], as_json: bool, **options: Any) -> int:
    """Run COMMAND, end it and all that it has started when its time is up, and exit as it did.

    The exit code is that of the command; 128 and the signal's number if a signal ended it; 124 if its
    time was up; 125 if fastproc failed; 126 if the command could not be executed, 127 if there is no such
    command.
    """
    command = _command(words, variables, options)
    inbox: Inbox = SimpleQueue()
    with Interrupts(inbox), ProcessManager(name="run", on_event=_unkillable_to(inbox)) as manager:
        try:
            process = manager.start_process("run", command, on_exit=inbox.put)
        except SpawnError as error:
            culprit = words[0] if error.filename is None else os.fsdecode(error.filename)
            _say(f"{culprit}: {error.strerror}")
            if as_json:
                _say_json(
                    {
                        "command": words,
                        "error": error.strerror,
                        "errno": error.errno,
                        "stage": error.stage,
                        "culprit": culprit,
                    }
                )
            return _code_of_failure(error)
        with nullcontext() if command.idle_timeout is None else Copying(process) as copying:
            interrupt, report = _wait(process, manager, inbox, options["grace"])
        if report is None:
            report = manager.close()
    status = process.status
    if as_json:
        _say_json(_as_dict(words, process, status, report))
    if report.survivors:
        _say(f"still alive: {', '.join(map(str, report.survivors))}")
    code = _exit_code(status, interrupt)
    if code == 0 and copying is not None and copying.failure is not None:
        # It had ended before it could hear of it; a success it is not.
        if copying.failure.errno == errno.EPIPE:
            return 128 + signal.SIGPIPE
        _say(f"its output could not be written: {copying.failure.strerror}")
        return OWN_FAILURE
    return code


def _command(words: tuple[str, ...], variables: tuple[str, ...], options: dict[str, Any]) -> Command:
    env = None
    if variables:
        env = dict(os.environ)
        for variable in variables:
            name, equals, value = variable.partition("=")
            if not equals or not name:
                raise click.BadParameter(f"{variable!r} is not of the form NAME=VALUE", param_hint="--env")
            env[name] = value
    settings = chosen(options, ("timeout", "idle_timeout", "grace", "cwd", "containment"))
    limits = chosen(options, LIMIT_NAMES)
    # Silence can only be noticed by who reads the output: then it goes through us.
    streams: dict[str, Any] = {}
    if options["idle_timeout"] is not None:
        streams = {"stdout": PIPE, "stderr": PIPE, "max_output": KEPT}
    try:
        return Command(
            words,
            stdin=None,
            env=env,
            limits=Limits(**limits) if limits else None,
            die_with_parent=True,
            **settings,
            **streams,
        )
    except (TypeError, ValueError) as error:
        raise click.UsageError(str(error)) from None


def _unkillable_to(inbox: Inbox) -> Any:
    def observe(event: object) -> None:
        if isinstance(event, Unkillable):
            inbox.put(event)

    return observe


def _wait(
    process: Process, manager: ProcessManager, inbox: Inbox, grace: float
) -> tuple[int | None, StopReport | None]:
    """Wait for its end; pass interrupts on. Returns the first interrupt, and who was left if somebody was."""
    interrupt: int | None = None
    stopping = False
    while True:
        note = next_note(inbox)
        match note:
            case Process():
                return interrupt, None
            case Unkillable():
                _say(f"process {process.pid} cannot be killed, it hangs in the kernel; giving it up")
                return interrupt, manager.close(timeout=0)
            case StopReport():
                if process.status is None:
                    return interrupt, note
            case Interrupt(number):
                kill = stopping or number in AT_ONCE
                if stopping:
                    _say(f"{signal_name(number)} again: killing")
                elif kill:
                    _say(f"{signal_name(number)}: killing the command and all it started")
                else:
                    _say(f"{signal_name(number)}: stopping the command and all it started; again to kill")
                interrupt = interrupt or number
                stop_all(manager, 0 if kill else grace, inbox)
                stopping = True


def _exit_code(status: ExitStatus | None, interrupt: int | None) -> int:
    if interrupt is not None:
        return 128 + interrupt
    if status is None or status.reason is ExitReason.UNKNOWN:
        return OWN_FAILURE
    if status.reason in (ExitReason.TIMEOUT, ExitReason.IDLE_TIMEOUT):
        return TIMED_OUT
    if status.signal is not None:
        return 128 + status.signal
    return OWN_FAILURE if status.code is None else status.code


def _code_of_failure(error: SpawnError) -> int:
    if error.stage != "exec":
        return OWN_FAILURE
    return NOT_FOUND if error.errno == errno.ENOENT else CANNOT_EXECUTE


def _as_dict(
    words: tuple[str, ...], process: Process, status: ExitStatus | None, report: StopReport
) -> dict[str, Any]:
    result: dict[str, Any] = {"command": words, "pid": process.pid, "survivors": report.survivors}
    if status is None:
        return result | {"reason": "unkillable"}
    usage = status.rusage
    return result | {
        "reason": status.reason.value,
        "exit": status.code,
        "signal": None if status.signal is None else signal_name(status.signal),
        "core_dumped": status.core_dumped,
        "escalated": status.escalated,
        "seconds": round(status.duration, 6),
        "user": usage.user,
        "system": usage.system,
        "max_rss": usage.max_rss,
        "explanation": status.explain(),
    }


def _say(text: str) -> None:
    print(f"fastproc: {text}", file=sys.stderr, flush=True)


def _say_json(value: dict[str, Any]) -> None:
    print(json.dumps(value), file=sys.stderr, flush=True)
