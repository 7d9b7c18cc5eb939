"""`fastproc queue add`: from words, a prompt or a file to tasks, all of them or none."""

from __future__ import annotations

import datetime as dt
import os
import shlex
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, cast

import click

from ..errors import NoSuchTask
from ..processor import Priority, Processor, TaskState
from ..processor.formats import MAX_FILE_BYTES, BadTask, YamlMissing, parse
from .options import TIME, Reading
from .quantities import seconds
from .queue_open import ID, opened, queue_options, state_words

STDIN = "-"


def _moment(text: str) -> str:
    """A point in time as a task file says it: from a length to wait, or a date in local time or a zone of
    its own.
    """
    try:
        if text.startswith("+"):
            at = dt.datetime.fromtimestamp(time.time() + seconds(text[1:]), dt.UTC)
        else:
            at = dt.datetime.fromisoformat(text).astimezone(dt.UTC)
    except (ValueError, OverflowError, OSError):
        raise ValueError(
            f"{text!r} is no point in time; write for example +30m, 2030-01-31T12:00 or 2030-01-31T12:00:00Z"
        ) from None
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _assignment(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ValueError(f"{text!r} is not of the form NAME=VALUE")
    return name, value


MOMENT = Reading("when", _moment)
ASSIGNMENT = Reading("name=value", _assignment)


@click.command(
    short_help="Queue a command, a prompt, or tasks from a file.",
    context_settings={"allow_interspersed_args": False},
)
@queue_options
@click.option("-p", "--prompt", metavar="TEXT", help="What to tell an agent.")
@click.option(
    "--prompt-file",
    type=click.Path(dir_okay=False, allow_dash=True),
    help="Read that from a file, or standard input: -.",
)
@click.option(
    "-f",
    "--file",
    "task_file",
    type=click.Path(dir_okay=False, allow_dash=True),
    help="Take tasks from a file, or standard input (-): one in JSON or YAML, or many, a JSON object a line.",
)
@click.option("--id", "task_id", type=ID, help="Its name; without it one is made up.")
@click.option("-t", "--title", help="What it is about, in a few words.")
@click.option(
    "-P",
    "--priority",
    type=click.Choice([str(priority) for priority in Priority], case_sensitive=False),
    help="How urgent it is.",
)
@click.option(
    "-d", "--depends", multiple=True, type=ID, metavar="ID", help="Only after this task is completed."
)
@click.option("--not-before", type=MOMENT, help="Not earlier: +30m, 2030-01-31T12:00 (local), …Z (UTC).")
@click.option("--timeout", type=TIME, help="End it after so long: 5, 250ms, 1h30m.")
@click.option("--idle-timeout", type=TIME, help="End it when silent for so long.")
@click.option("--max-attempts", type=click.IntRange(1, 1_000_000), help="Try it so often, if it fails.")
@click.option(
    "--cwd",
    type=click.Path(path_type=Path),
    help="Directory to run in; a command runs in the present one without it.",
)
@click.option("--env", "variables", multiple=True, type=ASSIGNMENT, help="Add to its environment.")
@click.option("--tag", "tags", multiple=True, help="A word to find it by.")
@click.option(
    "--set",
    "others",
    multiple=True,
    type=ASSIGNMENT,
    help="Any other field of a task, such as operation=improve or notes='...'.",
)
@click.option(
    "--durability",
    type=click.Choice(["full", "batch", "none"]),
    default="full",
    show_default=True,
    help="full, batch: on the disk when this returns; none: left to the kernel.",
)
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[--] [COMMAND...]")
def add(
    words: tuple[str, ...],
    queue_dir: Path,
    open_to_others: bool,
    durability: str,
    prompt: str | None,
    prompt_file: str | None,
    task_file: str | None,
    **options: Any,
) -> int:
    """Queue a task: a COMMAND, a prompt for an agent, or tasks from a file; and print its id.

    \b
        fastproc queue add -- make test
        fastproc queue add --priority high --prompt 'Mend the failing test in tests/parser'
        generate-tasks | fastproc queue add --file -

    It is on the disk when the id is printed. Tasks of one file are queued all together or not at all. No
    Processor need be running: `fastproc queue run` will find it.
    """
    given = {
        "COMMAND": bool(words),
        "--prompt": prompt is not None,
        "--prompt-file": prompt_file is not None,
        "--file": task_file is not None,
    }
    _check_sources([name for name, there in given.items() if there])
    fields = _fields(options, is_command=bool(words))
    if words:
        tasks: list[dict[str, Any]] = [{"args": list(words), **fields}]
    elif task_file is not None:
        tasks = [
            _with_env({**task, **fields}, task.get("env"), fields.get("env")) for task in _tasks_in(task_file)
        ]
        if "id" in fields and len(tasks) > 1:
            raise click.UsageError(f"--id can name one task only, and {_called(task_file)} has {len(tasks)}")
    else:
        text = _prompt_in(cast("str", prompt_file)) if prompt is None else prompt
        if not text.strip():
            raise click.UsageError("the prompt is empty: say what is to be done")
        tasks = [{"prompt": text, **fields}]
    with opened(queue_dir, make=True, open_to_others=open_to_others, durability=durability) as processor:
        for task_id in processor.submit_many(tasks):
            click.echo(task_id)
        _note(processor, queue_dir, [name for task in tasks for name in _names(task.get("dependencies"))])
    return 0


def _check_sources(given: list[str]) -> None:
    if not given:
        raise click.UsageError(
            "nothing to queue: give a COMMAND after --, or --prompt TEXT, --prompt-file FILE or --file FILE"
        )
    if len(given) > 1:
        raise click.UsageError(f"{' and '.join(given)} exclude each other: queue one of them at a time")


def _fields(options: Mapping[str, Any], *, is_command: bool) -> dict[str, Any]:
    """The fields of a task that the options say."""
    fields: dict[str, Any] = dict(options["others"])
    known = {
        "id": options["task_id"],
        "title": options["title"],
        "priority": options["priority"],
        "dependencies": list(options["depends"]) or None,
        "not_before": options["not_before"],
        "timeout": options["timeout"],
        "idle_timeout": options["idle_timeout"],
        "max_attempts": options["max_attempts"],
        "env": dict(options["variables"]) or None,
        "tags": list(options["tags"]) or None,
        "cwd": _directory(options["cwd"], is_command=is_command),
    }
    own = fields.keys() & {*known, "args", "command", "prompt"}
    if own:
        raise click.UsageError(f"--set {min(own)}=...: there is an option or argument for that")
    return fields | {name: value for name, value in known.items() if value is not None}


def _directory(chosen: Path | None, *, is_command: bool) -> str | None:
    """Absolute: the Processor may work in another one."""
    if chosen is None:
        return os.getcwd() if is_command else None
    path = os.path.abspath(chosen.expanduser())
    if not os.path.isdir(path):
        raise click.BadParameter(f"there is no directory {path!r}", param_hint="--cwd")
    return path


def _with_env(task: dict[str, Any], own: object, added: object) -> dict[str, Any]:
    if isinstance(own, dict) and isinstance(added, dict):
        task["env"] = {**own, **added}
    return task


def _names(value: object) -> list[str]:
    return (
        [value]
        if isinstance(value, str)
        else [str(name) for name in value]
        if isinstance(value, list)
        else []
    )


# ---- files ----


def _called(path: str) -> str:
    return "standard input" if path == STDIN else path


def _content(path: str, most: int) -> bytes:
    if path == STDIN and sys.stdin is not None and sys.stdin.isatty():
        click.echo("Reading from the terminal; end with Ctrl-D on a line of its own.", err=True)
    try:
        stream: IO[bytes] = click.open_file(path, "rb")
        with stream:
            content = stream.read(most + 1)
    except OSError as error:
        raise click.ClickException(f"{_called(path)}: {error.strerror}") from None
    if len(content) > most:
        raise click.ClickException(f"{_called(path)}: larger than {most} bytes; nothing has been queued")
    return content


def _prompt_in(path: str) -> str:
    try:
        return _content(path, MAX_FILE_BYTES).decode()
    except UnicodeDecodeError as error:
        raise click.ClickException(f"{_called(path)}: not UTF-8 at byte {error.start}") from None


MOST_BYTES = 256 << 20
"""Of a file of many tasks."""


def _tasks_in(path: str) -> list[dict[str, Any]]:
    """The tasks in a file: a JSON object a line, or one document in JSON or YAML."""
    content = _content(path, MOST_BYTES)
    try:
        lines = list(_lines(content))
        if len(lines) > 1 and all(line.startswith(b"{") and line.endswith(b"}") for _number, line in lines):
            return [_line(path, number, line) for number, line in lines]
        # JSON says for certain what YAML would guess; what is no JSON may be YAML.
        return [
            parse(content, yaml=not content.lstrip().startswith(b"{") or path.endswith((".yaml", ".yml")))
        ]
    except (BadTask, YamlMissing) as error:
        raise click.ClickException(f"{_called(path)}: {error}; nothing has been queued") from None


def _lines(content: bytes) -> Iterator[tuple[int, bytes]]:
    for number, line in enumerate(content.split(b"\n"), 1):
        if line.strip():
            yield number, line.strip()


def _line(path: str, number: int, line: bytes) -> dict[str, Any]:
    try:
        return parse(line, yaml=False)
    except BadTask as error:
        raise click.ClickException(
            f"{_called(path)}, line {number}: {error}; nothing has been queued"
        ) from None


# ---- afterwards ----


def _note(processor: Processor, queue_dir: Path, dependencies: list[str]) -> None:
    """What a person may not know yet. Not for programs: they have no terminal."""
    for name in dict.fromkeys(dependencies):
        try:
            state = processor.result(name).state
        except NoSuchTask:
            click.echo(f"note: {name!r} is not in the queue yet; the task waits for it", err=True)
            continue
        if state in (TaskState.FAILED, TaskState.QUARANTINE):
            click.echo(f"note: {name!r} is {state_words(state)}: see fastproc queue show {name}", err=True)
    if sys.stdout.isatty() and not processor.queue_status().processing:
        chosen = "" if str(queue_dir) == "queue" else f" --queue {shlex.quote(str(queue_dir))}"
        click.echo(f"Nobody works on this queue now; to start: fastproc queue run{chosen}", err=True)
