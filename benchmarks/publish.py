"""Takes the figures of a run into the documents: README.md, docs/performance.md, and the pictures they show.

    python benchmarks/publish.py [FILE]     FILE from results/; the newest full run if none is named

What stands between the markers is replaced, the rest of the pages is left alone, and the run itself becomes
results/sample.json. So a figure in the documents is never older or newer than the values beside it.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import plots
from findings import Answer, Picture, Row, machine_in_words
from harness import HERE
from run import RESULTS, questions, read
from tables import Footnotes, goal_of, goals, number, spread, verdict

ROOT = HERE.parent
SAMPLE = RESULTS / "sample.json"
README, PAGE = ROOT / "README.md", ROOT / "docs" / "performance.md"
README_PICTURE, PAGE_PICTURE = ROOT / "docs" / "speed.svg", ROOT / "docs" / "performance.svg"
SHOWN_IN_README = ("cost-against-descriptors", "throughput-against-concurrency")

HEADLINES = (
    ("spawn", "fastproc.run", "`run()`, one at a time, against the bare loop of clone3 and waitid in C"),
    ("spawn", "fastproc.run, against subprocess.run", "`run()` against `subprocess.run`"),
    ("spawn", "ProcessManager.start_process, wait", "`start_process` and `wait`, against the same loop in C"),
    ("spawn", "subprocess.Popen, wait", "`subprocess.Popen` and `wait`, against the same loop in C"),
    (
        "parent",
        "ProcessManager, 15,000 open descriptors against 20",
        "`start_process` with 15,000 open descriptors, against 20",
    ),
    (
        "parent",
        "ProcessManager, faster than Popen there (open descriptors)",
        "there, faster than `subprocess.Popen`",
    ),
    ("parent", "ProcessManager, 1,024 MiB resident besides against 0", "the same with 1 GiB resident"),
    ("parent", "ProcessManager, 5,000 living children against 0", "the same with 5,000 living children"),
    (
        "options",
        "four limits with 1 GiB resident, faster than by preexec_fn",
        "four limits with 1 GiB resident, faster than by `preexec_fn`",
    ),
    ("many", "ProcessManager.start_many, wait", "`start_many`, thousands, against the best in C"),
    (
        "many",
        "ProcessManager.start_many, faster than subprocess.Popen in 8 threads",
        "the same, faster than `Popen` in 8 threads",
    ),
    ("many", "ProcessManager.start_many, faster than asyncio, 8 tasks", "the same, faster than asyncio"),
    ("many", "fastproc.aio, 8 tasks, faster than asyncio", "`fastproc.aio`, 8 tasks, faster than asyncio"),
    (
        "capture",
        "ProcessManager.map, 8 at a time, faster than subprocess.run(capture_output) in threads",
        "capture, 8 at a time, faster than `run(capture_output=True)` in threads",
    ),
    (
        "busy",
        "start_many, faster than Popen, one at a time",
        "beside a busy Python thread, faster than `Popen`",
    ),
    ("memory", "ProcessManager, memory a child", "our memory for a living child, of 5,000"),
)
"""Rows for README.md, in plain words; what a run has no value for is left out."""


def headlines(where: Mapping[str, Any], answers: Mapping[str, Answer]) -> str:
    """The block of README.md."""
    words = (
        f"One run of `make bench` on {machine_in_words(where)}; the child is a program that only exits. "
        "Ratios within the run. [All of it, with what differs and why](docs/performance.md)."
    )
    lines = [
        "![What a start costs as descriptors grow, and how many children a second](docs/speed.svg)",
        "",
        words,
        "",
        "| what | measured | goal | |",
        "|---|---|---|---|",
    ]
    for question, what, words in HEADLINES:
        row = _row(answers, question, what)
        if row is not None and row.value is not None:
            lines.append(f"| {words} | {_times(row)} | {goal_of(row) or '-'} | {verdict(row).lower()} |")
    counted = [row for _question, row in goals(answers) if row.met is not None]
    met = sum(row.met is True for row in counted)
    lines += ["", f"{met} of {len(counted)} goals were met in this run."]
    return "\n".join(lines)


def findings(where: Mapping[str, Any], answers: Mapping[str, Answer]) -> str:
    """The block of docs/performance.md."""
    others = ", ".join(f"{name} {version}" for name, version in where.get("others", {}).items())
    lines = [
        f"{machine_in_words(where)}; {where['when']}" + (f"; {others}" if others else "") + ".",
        "",
        "![Latency, growth of the parent, throughput](performance.svg)",
        "",
        "### Goals",
        "",
        "| what | measured | quartiles | goal | | question |",
        "|---|---:|---:|---:|---|---|",
    ]
    for question, row in goals(answers):
        lines.append(
            f"| {_cell(row.what)} | {number(row.value, row.unit)} | {spread(row)} | {goal_of(row)} "
            f"| {verdict(row)} | {question} |"
        )
    for question, answer in answers.items():
        lines += ["", f"### {answer.title}", "", f"`benchmarks/bench_{question}.py`", ""]
        if answer.absent:
            lines.append(f"Not there: {answer.absent}.")
            continue
        lines += ["| what | value | quartiles | in absolute terms |", "|---|---:|---:|---|"]
        notes = Footnotes.of(answer.rows)
        for row in answer.rows:
            what = _cell(row.what)
            if row.differs in notes.letters:
                what += f" ({notes.letters[row.differs]})"
            value = number(row.value, row.unit)
            lines.append(f"| {what} | {value} | {spread(row)} | {_cell(row.note)} |")
        if notes.letters:
            lines.append("")
        lines += [f"({letter}) {words}  " for words, letter in notes.letters.items()]
    return "\n".join(line.rstrip() if not line.endswith("  ") else line for line in lines)


def between(text: str, name: str, block: str) -> str:
    """The page with another block between its markers. Raises ValueError if it has none."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"the page has no place for the figures: {begin} ... {end}")
    return pattern.sub(lambda _match: f"{begin}\n\n{block}\n\n{end}", text, count=1)


def newest() -> Path:
    """The newest full run: neither a quick one nor one of some questions."""
    for path in sorted(RESULTS.glob("2*.json"), reverse=True):
        _where, quick, answers = read(path)
        if not quick and answers.keys() >= set(questions()):
            return path
    raise SystemExit("no full run is kept in benchmarks/results: make bench")


def with_plain_kernel(text: str) -> str:
    """The run with no more of the kernel's name than its numbers: the rest is of whoever built it."""
    return re.sub(r'("kernel": "\d+(?:\.\d+)*)[^"]*"', r'\1"', text)


def pictures_of(answers: Mapping[str, Answer], slugs: Sequence[str] | None = None) -> list[Picture]:
    """Those pictures, or all that can be drawn."""
    there = {picture.slug: picture for answer in answers.values() for picture in answer.pictures}
    return [there[slug] for slug in slugs or there if slug in there]


def publish(source: Path) -> None:
    """Write documents, pictures and results/sample.json from one kept run."""
    _where, _quick, answers = read(source)
    README_PICTURE.write_text(
        plots.svg(pictures_of(answers, SHOWN_IN_README), columns=2, alone=True), encoding="utf-8"
    )
    PAGE_PICTURE.write_text(plots.svg(pictures_of(answers), columns=2, alone=True), encoding="utf-8")
    SAMPLE.write_text(with_plain_kernel(source.read_text(encoding="utf-8")), encoding="utf-8")
    where, _quick, answers = read(SAMPLE)
    for page, name, block in (
        (README, "benchmarks", headlines(where, answers)),
        (PAGE, "results", findings(where, answers)),
    ):
        page.write_text(between(page.read_text(encoding="utf-8"), name, block), encoding="utf-8")


def _row(answers: Mapping[str, Answer], question: str, what: str) -> Row | None:
    answer = answers.get(question)
    return next((row for row in answer.rows if row.what == what), None) if answer else None


def _times(row: Row) -> str:
    assert row.value is not None
    if row.unit != "x":
        return number(row.value, row.unit)
    digits = 0 if row.value >= 20 else 1 if row.value >= 4 else 2
    return f"{row.value:.{digits}f} times"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def main() -> int:
    """Returns 0."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "file", nargs="?", type=Path, help="a run in results/; the newest full one if not given"
    )
    source = parser.parse_args().file or newest()
    publish(source)
    written = (README, PAGE, README_PICTURE, PAGE_PICTURE, SAMPLE)
    print(f"from {source}: {', '.join(path.name for path in written)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
