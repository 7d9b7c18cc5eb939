"""Runs tests as on other kernels, each run in a copy of one program that has made all the dear imports.

Requests are lines of JSON on standard input, see Request; the answer to each is the exit code of pytest.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from tests.integration import seccomp

ROOT = Path(__file__).resolve().parents[2]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One run of pytest.

    Args:
        args: for pytest.
        log: the file that it writes to.
        disable: capabilities that are hidden by FASTPROC_DISABLE.
        under: the name of a filter that it runs under.
    """

    args: Sequence[str]
    log: str
    disable: str = ""
    under: str = ""


class Runner:
    """The program that takes the requests."""

    def __init__(self, programs: str) -> None:
        """With `programs`, a directory that has the test programs compiled."""
        self._program = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.lesser_kernels"],
            cwd=ROOT,
            env={**os.environ, "FASTPROC_TEST_PROGRAMS": programs},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, request: Request) -> int:
        """The exit code of pytest for that request."""
        assert self._program.stdin is not None
        assert self._program.stdout is not None
        print(json.dumps(dataclasses.asdict(request)), file=self._program.stdin, flush=True)
        return int(self._program.stdout.readline())

    def close(self) -> None:
        """End the program; it has no request left."""
        self._program.communicate(timeout=20)


def _carry_out(request: Request) -> int:
    log = os.open(request.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    for number, descriptor in enumerate((null, log, log)):
        os.dup2(descriptor, number)
    os.environ["FASTPROC_DISABLE"] = request.disable
    hides = frozenset(request.disable.split(",")) - {"all", ""}
    if request.under:
        seccomp.install(seccomp.FILTERS[request.under].rules)
        hides = seccomp.FILTERS[request.under].hides
    import pytest

    import fastproc

    code = int(pytest.main(list(request.args)))
    missed = [name for name in sorted(hides) if fastproc.capabilities()[name] is not False]
    if missed:
        print(f"the library believes to have {', '.join(missed)}")
    return code or (1 if missed else 0)


def main() -> None:
    """Answer requests until there are no more."""
    seccomp.fix_addresses()
    # Only what neither asks the kernel for anything nor starts a thread.
    import asyncio  # noqa: F401

    import hypothesis  # noqa: F401
    import psutil  # noqa: F401
    import pytest  # noqa: F401

    import fastproc.health  # noqa: F401

    # What is there already need not be looked at by the collection of garbage that ends each test.
    gc.freeze()
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                code = _carry_out(Request(**json.loads(line)))
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
