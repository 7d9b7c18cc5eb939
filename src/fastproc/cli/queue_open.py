"""The queue that a command works on: which directory it is, and what is wrong with it, in one clear line."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from ..errors import FastprocError, QueueBusy
from ..processor import Processor, TaskState
from ..processor.task import check_id
from .options import Reading

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

VARIABLE = "FASTPROC_QUEUE"
DEFAULT = "queue"
ID = Reading("id", check_id)
AT_REST = (TaskState.COMPLETED, TaskState.FAILED, TaskState.QUARANTINE)
_STATES = tuple(map(str, TaskState))


def queue_options(function: Decorated) -> Decorated:
    """Which directory, and whether others may write to it."""
    function = click.option(
        "--open-to-others",
        is_flag=True,
        help="Work also on a directory that others can write to; they can then have anything run.",
    )(function)
    return click.option(
        "-q",
        "--queue",
        "queue_dir",
        type=click.Path(file_okay=False, path_type=Path),
        envvar=VARIABLE,
        show_envvar=True,
        default=DEFAULT,
        show_default=True,
        help="The directory of the queue.",
    )(function)


@contextmanager
def opened(
    queue_dir: Path, *, make: bool, open_to_others: bool = False, **settings: Any
) -> Iterator[Processor]:
    """A Processor of that directory, closed in the end; not started.

    Args:
        make: make the directory if it is not there.

    Raises:
        ClickException: there is none, or it cannot be used; the message says what to do.
    """
    _check(queue_dir, make=make)
    with errors_in_words(queue_dir):
        processor = Processor(queue_dir, open_to_others=open_to_others, **settings)
    try:
        with errors_in_words(queue_dir):
            yield processor
    finally:
        processor.close()


@contextmanager
def errors_in_words(queue_dir: Path) -> Iterator[None]:
    """What the Processor raises, as one line for people who know its options and not its arguments."""
    try:
        yield
    except QueueBusy as error:
        raise click.ClickException(
            f"{queue_dir}: in use by {error.holder}; stop that one, or run all of them with --shared"
        ) from None
    except (FastprocError, ValueError, TypeError) as error:
        raise click.ClickException(str(error)) from None
    except BrokenPipeError:
        raise
    except OSError as error:
        words = (error.strerror or str(error)).replace("pass open_to_others=True", "use --open-to-others")
        # A name without a directory is one within the queue, and says nothing to people.
        named = error.filename if os.path.isabs(error.filename or "") else queue_dir
        raise click.ClickException(f"{named}: {words}") from None


def _check(queue_dir: Path, *, make: bool) -> None:
    """Neither look for tasks nor make directories in a place that is no queue."""
    hint = f"name it by --queue DIR or {VARIABLE}"
    try:
        names = set(os.listdir(queue_dir))
    except FileNotFoundError:
        if make:
            return
        raise click.ClickException(
            f"there is no queue {str(queue_dir)!r}; {hint}, or make it: fastproc queue add"
        ) from None
    except NotADirectoryError:
        raise click.ClickException(f"{str(queue_dir)!r} is no directory; {hint}") from None
    except OSError as error:
        raise click.ClickException(f"{queue_dir}: {error.strerror}; {hint}") from None
    if not names.intersection(_STATES) and (names or not make):
        raise click.ClickException(
            f"{str(queue_dir)!r} is no queue"
            + (": there are other things in it" if names else ", it is empty")
            + f"; {hint}"
        )


def state_words(state: str) -> str:
    """A state as it reads in a sentence."""
    return {"in-progress": "in progress", "quarantine": "in quarantine"}.get(state, state)
