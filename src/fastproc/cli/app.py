"""The command `fastproc` and what is common to its subcommands: version, log, exit codes."""

from __future__ import annotations

import logging
import os
import sys

import click

from .. import __version__
from ..errors import FastprocError
from . import INTERRUPTED, OWN_FAILURE
from .batch import batch
from .doctor import doctor
from .queue import queue
from .run import run

LOG_FORMAT = "%(asctime)s %(levelname)s %(message)s"


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="fastproc")
@click.option(
    "--log", type=click.Choice(["debug", "info", "warning"]), help="Show what happens, on standard error."
)
def app(log: str | None) -> None:
    """Start processes, keep their deadlines, end them for certain, and know how each ended."""
    if log is not None:
        logging.basicConfig(level=log.upper(), stream=sys.stderr, format=LOG_FORMAT)


app.add_command(run)
app.add_command(batch)
app.add_command(queue)
app.add_command(doctor)


def run_app(args: list[str]) -> int:
    """Run the command line; wrong usage is a failure of ours, 125, not one of a command."""
    _replace_closed_streams()
    try:
        code = app.main(args, prog_name="fastproc", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return OWN_FAILURE
    except click.ClickException as error:
        error.show()
        return OWN_FAILURE
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except (BrokenPipeError, SystemExit):
        # click turns the first into the second, with code 1, which would mean one failed job.
        return OWN_FAILURE
    except (FastprocError, OSError) as error:
        print(f"fastproc: {error}", file=sys.stderr)
        return OWN_FAILURE
    return code if isinstance(code, int) else 0


def _replace_closed_streams() -> None:
    """What we write to a stream that was closed before us goes nowhere; commands find it closed as we did."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - as long as we live
