"""The tests of the core in each lesser world: kernels that lack something, filters that refuse something.

    python -m tests.lesser [-n 2] [--logs DIRECTORY] [--tests PATH ...] -- [WORLD ...]

prints a table, and ends with 1 if anything has failed. A world is a capability or several joined by commas,
which FASTPROC_DISABLE hides, `all`, or a filter of tests/integration/seccomp.py. `make test-lesser` runs all
of them, which takes some minutes each.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from pathlib import Path

from tests.integration import seccomp
from tests.integration.lesser_kernels import ROOT, Request, Runner
from tests.test_capabilities import HIDDEN, PAIRS

# What is about processes: the queue, the command line and other people's libraries stand upon it.
SUITES = ("tests/unit", "tests/integration", "tests/contract", "tests/aio")
# These run suites of their own, or only look at the interpreter.
NOT_HERE = ("tests/unit/processor", "tests/contract/test_store.py")
SECONDS_A_TEST = 120


@dataclass(kw_only=True)
class Result:
    """What came of one world."""

    world: str
    passed: int = 0
    skipped: int = 0
    failed: list[str] = field(default_factory=list)
    trouble: str = ""
    seconds: float = 0.0

    @property
    def is_good(self) -> bool:
        """Whether everything that can hold there has held."""
        return bool(self.passed) and not self.failed and not self.trouble


def worlds() -> list[str]:
    """All of them; the whole world is the first, to compare with."""
    filters = list(seccomp.FILTERS) if seccomp.is_available() else []
    return ["whole", *HIDDEN, *PAIRS, *filters]


def run(runner: Runner, world: str, options: argparse.Namespace, logs: Path) -> Result:
    """The tests of the core in one world."""
    result = Result(world=world)
    log, report = logs / f"{world}.log", logs / f"{world}.xml"
    report.unlink(missing_ok=True)
    args = ["-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    args += [
        "-n",
        str(options.workers),
        "--dist",
        "loadfile",
        f"--timeout={SECONDS_A_TEST}",
        f"--junitxml={report}",
    ]
    args += [*(f"--ignore={path}" for path in NOT_HERE), *options.tests]
    is_filter = world in seccomp.FILTERS
    hidden = "" if is_filter or world == "whole" else world
    begin = time.monotonic()
    code = runner.run(Request(args=args, log=str(log), disable=hidden, under=world if is_filter else ""))
    result.seconds = time.monotonic() - begin
    if report.exists():
        count(result, report)
    # 1 with failures: some test has failed, and it is named.
    if code and not (code == 1 and result.failed):
        result.trouble = f"pytest ended with {code}, see {log}"
    return result


def count(result: Result, report: Path) -> None:
    """What pytest has written down."""
    for case in ET.parse(report).getroot().iter("testcase"):
        kinds = {child.tag for child in case}
        if kinds & {"failure", "error"}:
            result.failed.append(f"{case.get('classname')}::{case.get('name')}")
        elif "skipped" in kinds:
            result.skipped += 1
        else:
            result.passed += 1


def tell(result: Result) -> None:
    """One line of the table, and who has failed."""
    counts = f"{result.passed:7} {len(result.failed):7} {result.skipped:8}"
    print(f"{result.world:26} {counts} {result.seconds:6.0f} s", flush=True)
    for name in result.failed:
        print(f"    {name}", flush=True)
    if result.trouble:
        print(f"    {result.trouble}", flush=True)


def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.lesser", description=__doc__)
    parser.add_argument("worlds", nargs="*", metavar="WORLD", help="default: all of them")
    parser.add_argument("-n", type=int, default=2, dest="workers", help="files at a time")
    parser.add_argument("--tests", nargs="+", default=SUITES, help="files and directories, instead of all")
    parser.add_argument("--logs", type=Path, help="what pytest says is kept here")
    options = parser.parse_args()
    # A shell ignores SIGINT for what it runs in the background, and nohup SIGHUP: tests are about both.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    with tempfile.TemporaryDirectory(prefix="fastproc-lesser-") as scratch:
        logs = options.logs.resolve() if options.logs else Path(scratch)
        logs.mkdir(parents=True, exist_ok=True)
        # Nothing is lent: each worker compiles programs of its own, and finds those that run by their file.
        runner = Runner("")
        print(f"{'world':26} {'passed':>7} {'failed':>7} {'skipped':>8}", flush=True)
        good = True
        for world in options.worlds or worlds():
            result = run(runner, world, options, logs)
            tell(result)
            good &= result.is_good
        runner.close()
    return 0 if good else 1


if __name__ == "__main__":
    assert Path.cwd() == ROOT, f"run it in {ROOT}"
    sys.exit(main())
