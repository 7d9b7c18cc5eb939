"""The command line: `fastproc run`, `fastproc batch`, `fastproc queue`, `fastproc doctor`.

This module imports nothing of what the extra `cli` brings, so that the command can say in words what is
missing instead of showing a traceback. `app.py` holds the commands.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec

OWN_FAILURE = 125
"""The exit code of a failure of fastproc itself, as in timeout(1) and env(1)."""

INTERRUPTED = 130
"""After Ctrl-C: 128 and the number of SIGINT, as in a shell."""

NEEDED = ("click", "rich")


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; `args` are those of the program by default."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        print(
            f"fastproc: the command line needs {' and '.join(missing)}; install it with: "
            "python3 -m pip install 'fastproc[cli]'",
            file=sys.stderr,
        )
        return OWN_FAILURE
    try:
        from .app import run_app

        return run_app(sys.argv[1:] if args is None else list(args))
    except KeyboardInterrupt:  # before there is anything to stop
        return INTERRUPTED
