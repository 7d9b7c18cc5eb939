"""All benchmarks, one after the other, each in a process of its own; a table, a report, a list of goals.

    python benchmarks/run.py [--quick] [--only spawn,many] [--gate]
    python benchmarks/run.py --show results/sample.json [--against results/an-older-one.json]

The values of every round are kept beside the machine they were taken on in results/, as JSON, and drawn in
results/report.html, a page that needs nothing else.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gates
import report
from findings import Answer, answer_from_json, answer_to_json, machine, machine_in_words
from harness import HERE, arguments, plan_of, table
from surroundings import SHARED_WORKSHOP
from tables import table_of_changes, table_of_goals

FIRST = (
    "spawn",
    "latency",
    "wake",
    "many",
    "concurrency",
    "asyncio",
    "dropin",
    "parent",
    "options",
    "capture",
    "bulk",
    "reap",
    "group",
    "terminate_all",
    "busy",
    "memory",
    "processor",
    "queue",
)
"""The order of the table. Whatever else is named bench_*.py comes behind."""

RESULTS = HERE / "results"
REPORT = RESULTS / "report.html"
PATIENCE = 600.0
"""Seconds after which a benchmark is given up. The longest takes one minute."""


def questions() -> list[str]:
    """The benchmarks that there are, in their order."""
    there = {path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py")}
    return [name for name in FIRST if name in there] + sorted(there.difference(FIRST))


def ask(question: str, options: Sequence[str], workshop: str) -> Answer | None:
    """Run one benchmark; None, and its own words on standard error, if it could not be answered."""
    command = [sys.executable, str(HERE / f"bench_{question}.py"), "--json", *options]
    environment = {**os.environ, SHARED_WORKSHOP: workshop}
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, env=environment, timeout=PATIENCE, check=False
        )
    except subprocess.TimeoutExpired:
        print(f"{question}: no answer within {PATIENCE:g} s", file=sys.stderr)
        return None
    # A peer may write on our standard output; the answer is the last line.
    return answer_from_json(json.loads(done.stdout.splitlines()[-1])) if done.returncode == 0 else None


def ask_all(
    chosen: Sequence[str], options: Sequence[str], keep: Callable[[Mapping[str, Answer]], object]
) -> dict[str, Answer]:
    """Print and keep each answer when it is there, and return those that there are."""
    answers: dict[str, Answer] = {}
    with tempfile.TemporaryDirectory(prefix="fastproc-bench-") as workshop:
        for question in chosen:
            start = time.monotonic()
            answer = ask(question, options, workshop)
            took = time.monotonic() - start
            if answer is None:
                print(f"\n{question}: no answer, see above", flush=True)
                continue
            answers[question] = answer
            # Whoever gives up waiting for the rest has these.
            keep(answers)
            print(f"\n{table([answer])}\n  ({question}, {took:.0f} s)", flush=True)
    return answers


def keep(target: Path, where: Mapping[str, Any], quick: bool, answers: Mapping[str, Answer]) -> None:
    """Write the values down."""
    target.parent.mkdir(exist_ok=True)
    values = {question: answer_to_json(answer) for question, answer in answers.items()}
    text = json.dumps({"machine": where, "quick": quick, "answers": values})
    # One line for each question: small, and a change of one of them is seen.
    target.write_text(text.replace('}, "', '},\n"') + "\n", encoding="utf-8")


def read(path: Path) -> tuple[dict[str, Any], bool, dict[str, Answer]]:
    """The machine, whether the run was a quick one, and the answers that were kept."""
    kept = json.loads(path.read_text(encoding="utf-8"))
    return (
        kept["machine"],
        kept["quick"],
        {name: answer_from_json(said) for name, said in kept["answers"].items()},
    )


def main() -> int:
    """Returns 1 if a question could not be answered or, with --gate, a ratio has got worse."""
    there = questions()
    parser = arguments(__doc__)
    parser.add_argument("--only", metavar="NAMES", help=f"some of {','.join(there)}")
    parser.add_argument(
        "--gate",
        action="store_true",
        help="ask what gates.toml judges, and exit with 1 if a ratio of it is lost",
    )
    parser.add_argument("--show", metavar="FILE", type=Path, help="measure nothing, show what was kept")
    parser.add_argument("--against", metavar="FILE", type=Path, help="show what has changed since this run")
    options = parser.parse_args()
    judged = {gate.question for gate in gates.read()} if options.gate else set(there)
    chosen = options.only.split(",") if options.only else [name for name in there if name in judged]
    if unknown := [name for name in chosen if name not in there]:
        parser.error(f"no such question: {', '.join(unknown)}")

    if options.show:
        where, quick, answers = read(options.show)
        answers = {name: answer for name, answer in answers.items() if not options.only or name in chosen}
        print(machine_in_words(where))
        print(table(answers.values()))
        kept, unanswered = options.show, []
    else:
        plan = plan_of(options)
        where, quick = machine(HERE), plan.quick
        print(machine_in_words(where), flush=True)
        passed_on = ["--rounds", str(plan.rounds), *(["--quick"] if quick else [])]
        kept = RESULTS / f"{time.strftime('%Y%m%d-%H%M%S')}.json"
        answers = ask_all(chosen, passed_on, lambda so_far: keep(kept, where, quick, so_far))
        unanswered = [name for name in chosen if name not in answers]

    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(report.page(where, quick, answers), encoding="utf-8")
    print(f"\n{table_of_goals(answers)}\nvalues in {kept}, report in {REPORT}")
    if options.against:
        print(f"\n{table_of_changes(read(options.against)[2], answers)}")
    broken = gates.broken(answers) if options.gate else []
    for words in broken:
        print(f"GATE: {words}")
    if options.gate and not broken:
        print("no gate is broken")
    return 1 if unanswered or broken else 0


if __name__ == "__main__":
    sys.exit(main())
