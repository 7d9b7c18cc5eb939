"""Tables, gates, the report and the documents, from a run that is kept: nothing is measured here."""

from __future__ import annotations

import itertools
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import gates
import publish
import pytest
import report
from findings import Answer, Curve, Picture, Row, answer_from_json, answer_to_json, machine_in_words
from publish import between, headlines
from run import keep, questions, read
from surroundings import HERE
from tables import goal_of, goals, table, table_of_changes, table_of_goals, verdict

ROOT = HERE.parent
SAMPLE = HERE / "results" / "sample.json"

PICTURE = Picture(
    slug="cost",
    title="Cost & more",
    x="open descriptors",
    y="microseconds",
    curves=[
        Curve(name="C: clone3", x=[0, 10, 20], y=[10, 11, 12], low=[9, 10, 11], high=[11, 12, 13]),
        Curve(name="ProcessManager", x=[0, 10, 20], y=[12, 12, 12]),
        Curve(name="subprocess.Popen", x=[0, 10, 20], y=[12, 60, 900]),
    ],
    log_y=True,
)
ANSWER = Answer(
    title="A question <of> ours",
    rows=[
        Row(what="ours", value=1.05, goal=1.1, low=1.0, high=1.2, note="10.0 us", differs="a session"),
        Row(what="slow", value=3.2, goal=4.0, at_least=True, low=3.0, high=3.4),
        Row(what="memory", value=1024.0, unit="B", goal=256.0),
        Row(what="to come", value=None, goal=1.0, note="not there yet"),
        Row(what="liar", value=None, goal=1.0, note="refused: 3 of 4", refused=True),
    ],
    rounds={"ours": [1.0000123456, 2.0]},
    pictures=[PICTURE],
)
MACHINE = {
    "when": "2026-01-01T00:00:00Z",
    "kernel": "6.18",
    "cpu": "a CPU",
    "cpus": 2,
    "libc": "glibc 2.36",
    "python": "CPython 3.11.7",
    "fastproc": "0.1.0",
    "commit": "abc",
    "load": [0.5, 0.4, 0.3],
}


class Wellformed(HTMLParser):
    """Looks whether what is opened is closed."""

    VOID = frozenset({"meta", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        self.loaded += [str(value) for name, value in attrs if name in {"src", "href"}]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loaded += [str(value) for name, value in attrs if name in {"src", "href", "xlink:href"}]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_an_answer_survives_being_kept() -> None:
    """With as many digits as mean something."""
    again = answer_from_json(json.loads(json.dumps(answer_to_json(ANSWER))))

    assert list(again.rows) == list(ANSWER.rows)
    assert answer_to_json(again) == answer_to_json(ANSWER)
    assert again.pictures[0].curves[0] == PICTURE.curves[0]
    assert again.rounds == {"ours": [1.0, 2.0]}


def test_a_run_can_be_read_again(tmp_path: Path) -> None:
    """The file has machine, kind and answers."""
    kept = tmp_path / "results" / "run.json"

    keep(kept, MACHINE, True, {"spawn": ANSWER})
    where, quick, answers = read(kept)

    assert (where, quick) == (MACHINE, True)
    assert answers["spawn"].rows == list(ANSWER.rows)


def test_what_was_not_recorded_is_not_said_of_the_machine() -> None:
    """An older run does not know whether there were cgroups."""
    assert "cgroup" not in machine_in_words(MACHINE)
    assert "no cgroups" in machine_in_words({**MACHINE, "capabilities": {"cgroup": False}})
    assert "a cgroup for each child" in machine_in_words({**MACHINE, "capabilities": {"cgroup": True}})


def test_verdicts() -> None:
    """Bounds are kept from above or from below; what is not there is neither; a lie is missed."""
    said = [(goal_of(row), verdict(row)) for row in ANSWER.rows]

    assert said == [
        ("<= x 1.1", "met"),
        (">= x 4", "MISSED"),
        ("<= 256 B", "MISSED"),
        ("<= x 1", "not there"),
        ("<= x 1", "MISSED"),
    ]


def test_the_table_says_what_differs_under_the_rows() -> None:
    """A letter behind the name, the words below."""
    text = table([ANSWER])

    assert re.search(r"ours \[a\] +x 1\.05 +1\.00\.\.1\.20 +<= x 1\.1 +met +10\.0 us", text)
    assert "[a] a session" in text
    assert not any(line.endswith(" ") for line in text.splitlines())


def test_the_list_of_goals_counts() -> None:
    """One of four is met; the fifth cannot be measured yet and counts for nothing."""
    text = table_of_goals({"spawn": ANSWER})

    assert text.splitlines()[-1] == "1 of 4 goals met, 1 of what is not there yet"
    assert len(goals({"spawn": ANSWER})) == 5


def test_changes_are_marked_where_the_quartiles_lie_apart() -> None:
    """What both runs have is compared, the rest left out."""
    before = Answer(
        title="t",
        rows=[
            Row(what="better", value=2.0, low=1.9, high=2.1),
            Row(what="as before", value=2.0, low=1.5, high=2.5),
            Row(what="gone", value=1.0),
        ],
    )
    after = Answer(
        title="t",
        rows=[
            Row(what="better", value=1.0, low=0.9, high=1.1),
            Row(what="as before", value=1.8, low=1.7, high=1.9),
            Row(what="new", value=1.0),
        ],
    )

    lines = table_of_changes({"q": before}, {"q": after, "other": after}).splitlines()[2:]

    assert [line.split() for line in lines] == [
        ["*", "better", "x", "2.00", "->", "x", "1.00", "-50.0%", "q"],
        ["as", "before", "x", "2.00", "->", "x", "1.80", "-10.0%", "q"],
    ]


def gate(row: str, **bounds: float) -> gates.Gate:
    """A gate of the question that the tests have."""
    return gates.Gate(question="spawn", row=row, tolerance=bounds.pop("tolerance", 0.1), **bounds)


@pytest.mark.parametrize(
    ("tried", "words"),
    [
        (gate("ours", at_most=1.0), None),
        (gate("ours", at_most=0.9), "x 1.05 is more than x 0.90, even with 10% allowed"),
        (gate("slow", at_least=3.5), None),
        (gate("slow", at_least=4.0), "x 3.20 is less than x 4.00"),
        (gate("slow", at_least=4.0, tolerance=0.25), None),
        (gate("to come", at_most=1.0), None),
        (gate("liar", at_most=1.0), "refused: 3 of 4"),
        (gate("renamed", at_most=1.0), "spawn has no row 'renamed'"),
    ],
)
def test_a_gate_is_tolerant_but_not_blind(tried: gates.Gate, words: str | None) -> None:
    """What is worse than allowed, was refused or is gone is said; what is not there yet is not."""
    complaints = gates.broken({"spawn": ANSWER}, [tried])

    assert len(complaints) == (words is not None)
    assert words is None or words in complaints[0]


def test_a_question_that_was_not_asked_breaks_no_gate() -> None:
    """`--only` with `--gate` judges what was measured."""
    assert gates.broken({}, [gate("ours", at_most=0.1)]) == []


def test_a_gate_has_one_bound() -> None:
    """Two would be a mistake, none as well."""
    with pytest.raises(ValueError, match="either at_most or at_least"):
        gate("ours")
    with pytest.raises(ValueError, match="either at_most or at_least"):
        gate("ours", at_most=1.0, at_least=1.0)


def test_the_gates_of_the_project_name_rows_that_there_are() -> None:
    """In the run that is published: what was renamed there is renamed here."""
    _where, _quick, answers = read(SAMPLE)

    for one in gates.read():
        assert one.row in {row.what for row in answers[one.question].rows}, one


def test_the_report_needs_nothing_else_and_shows_everything() -> None:
    """One file: nothing is loaded, everything closed, and markup in names is text."""
    text = report.page(MACHINE, True, {"spawn": ANSWER})

    parser = Wellformed()
    parser.feed(text)
    words = " ".join(parser.words)
    assert parser.open == []
    assert all(target.startswith("#") for target in parser.loaded)
    assert "A question <of> ours" in words
    assert {row.what for row in ANSWER.rows} <= set(parser.words)
    assert "a session" in words
    assert "A quick run" in words
    assert "url(http" not in text


def test_the_report_of_the_published_run_can_be_made() -> None:
    """Also with whatever is installed here: without matplotlib it has no pictures and says why."""
    where, quick, answers = read(SAMPLE)

    text = report.page(where, quick, answers)

    assert all(f'id="{question}"' in text for question in answers)
    assert "<svg" in text


def test_without_matplotlib_the_report_has_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """It belongs to an extra."""
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)

    text = report.page(MACHINE, False, {"spawn": ANSWER})

    assert "need matplotlib" in text
    assert "10.0 us" in text


def test_a_picture_is_an_svg_with_names_and_units() -> None:
    """Text is text, colours are named, and both themes are in a file of its own."""
    pytest.importorskip("matplotlib", reason="the extra `bench` is not installed")
    import plots

    text = plots.svg([PICTURE, PICTURE], columns=2, alone=True)

    root = ET.fromstring(text)
    words = [word for element in root.iter() if element.tag.endswith("text") for word in element.itertext()]
    for expected in ("Cost & more", "open descriptors", "microseconds", "ProcessManager", "Popen"):
        assert expected in words
    assert "prefers-color-scheme: dark" in text
    assert "var(--ours)" in text
    assert not re.search(r"#f\w?e\w?d", text), "a colour has kept its drawing's value"


def test_labels_at_the_ends_of_curves_do_not_overlap() -> None:
    """They move as little as is needed, together."""
    import plots

    assert plots.spread_out([10, 100], 12) == [10, 100]
    assert plots.spread_out([50, 50], 12) == [44, 56]
    placed = plots.spread_out([0, 1, 2, 30, 31], 12)
    assert all(upper - lower >= 12 - 1e-9 for lower, upper in itertools.pairwise(placed))


def test_what_is_published_is_the_newest_full_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where, _quick, answers = read(SAMPLE)
    keep(tmp_path / "20260101-000000.json", where, False, answers)
    keep(tmp_path / "20260102-000000.json", where, False, {"spawn": answers["spawn"]})
    keep(tmp_path / "20260103-000000.json", where, True, answers)
    monkeypatch.setattr(publish, "RESULTS", tmp_path)

    assert publish.newest().stem == "20260101-000000"


def test_publishing_replaces_what_is_between_the_markers() -> None:
    """And nothing else; a page without them is not touched."""
    page = "before\n<!-- results: begin -->\nold\n<!-- results: end -->\nafter\n"

    assert between(page, "results", r"new \1") == (
        "before\n<!-- results: begin -->\n\nnew \\1\n\n<!-- results: end -->\nafter\n"
    )
    with pytest.raises(ValueError, match="no place for the figures"):
        between("nothing", "results", "new")


def test_of_the_kernel_only_the_numbers_are_published() -> None:
    """The rest of its name is that of a build, and tells a reader nothing."""
    kept = '{"kernel": "6.18.44-of-ours", "cpu": "a 6.1-CPU", "capabilities": {"kernel": "6.18.44-of-ours"}}'

    published = json.loads(publish.with_plain_kernel(kept))

    assert published == {"kernel": "6.18.44", "cpu": "a 6.1-CPU", "capabilities": {"kernel": "6.18.44"}}
    assert publish.with_plain_kernel('{"kernel": "6.18"}') == '{"kernel": "6.18"}'


@pytest.mark.parametrize(("page", "name"), [("README.md", "benchmarks"), ("docs/performance.md", "results")])
def test_the_published_figures_are_those_of_the_kept_run(page: str, name: str) -> None:
    """Nobody has written a figure by hand."""
    import publish

    where, _quick, answers = read(SAMPLE)
    block = headlines(where, answers) if name == "benchmarks" else publish.findings(where, answers)
    text = (ROOT / page).read_text(encoding="utf-8")

    assert between(text, name, block) == text


def test_every_benchmark_is_a_question() -> None:
    """What is named bench_*.py is asked without being entered anywhere."""
    there = questions()

    assert len(there) == len(set(there)) == len(list(HERE.glob("bench_*.py")))
    assert there[:2] == ["spawn", "latency"]
    for name in there:
        first = (HERE / f"bench_{name}.py").read_text(encoding="utf-8").splitlines()[0]
        assert first.startswith('"""'), name
        assert "?" in (HERE / f"bench_{name}.py").read_text(encoding="utf-8").partition('"""')[2][:200], name
