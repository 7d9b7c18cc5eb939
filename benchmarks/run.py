"""All benchmarks, one after the other, each in a process of its own; one table of goals and results.

    python benchmarks/run.py [--quick] [--only spawn,many] [--gate]

The values of every round are kept beside the machine they were taken on in results/, as JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time

from harness import HERE, Answer, answer_from_json, answer_to_json, arguments, machine, plan_of, table

QUESTIONS = ("spawn", "parent", "many", "memory", "terminate_all", "processor")
RESULTS = HERE / "results"


def ask(question: str, options: list[str]) -> Answer | None:
    """Run one benchmark; None, and its own words on standard error, if it could not be answered."""
    command = [sys.executable, str(HERE / f"bench_{question}.py"), "--json", *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    return answer_from_json(done.stdout) if done.returncode == 0 else None


def main() -> int:
    """Returns 1 if a question could not be answered or, with --gate, a goal was missed."""
    parser = arguments(__doc__)
    parser.add_argument("--only", metavar="NAMES", help=f"some of {','.join(QUESTIONS)}")
    parser.add_argument("--gate", action="store_true", help="exit with 1 if a goal is not met")
    options = parser.parse_args()
    chosen = options.only.split(",") if options.only else list(QUESTIONS)
    if unknown := [name for name in chosen if name not in QUESTIONS]:
        parser.error(f"no such question: {', '.join(unknown)}")
    plan = plan_of(options)
    passed_on = ["--rounds", str(plan.rounds), *(["--quick"] if plan.quick else [])]

    where = machine()
    print(", ".join(f"{name} {value}" for name, value in where.items() if name != "when"), flush=True)
    answers: dict[str, Answer] = {}
    unanswered = []
    for question in chosen:
        answer = ask(question, passed_on)
        if answer is None:
            unanswered.append(question)
            print(f"\n{question}: no answer, see above", flush=True)
            continue
        answers[question] = answer
        print(f"\n{table([answer])}", flush=True)

    RESULTS.mkdir(exist_ok=True)
    target = RESULTS / f"{time.strftime('%Y%m%d-%H%M%S')}.json"
    values = {question: answer_to_json(answer) for question, answer in answers.items()}
    target.write_text(json.dumps({"machine": where, "quick": plan.quick, "answers": values}, indent=1) + "\n")

    goals = [row for answer in answers.values() for row in answer.rows if row.goal is not None]
    missed = [row.what for row in goals if not row.met]
    met = len(goals) - len(missed)
    print(f"\n{met} of {len(goals)} goals met; values in {target.relative_to(HERE.parent)}")
    for what in missed:
        print(f"  not met: {what}")
    return 1 if unanswered or (options.gate and missed) else 0


if __name__ == "__main__":
    sys.exit(main())
