"""A run as a page of HTML that needs nothing else: goals, pictures, all rows; light or dark as one likes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import plots
from findings import Answer, Row, machine_in_words
from tables import Footnotes, goal_of, goals, number, spread, verdict

STRIP_WIDTH, STRIP_HEIGHT = 170, 16

STYLE = """
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 FONT; }
main { max-width: 1180px; margin: 0 auto; padding: 32px 24px 80px; }
h1 { font-size: 30px; margin: 0 0 4px; letter-spacing: -0.01em; }
h2 { font-size: 19px; margin: 44px 0 10px; }
p { margin: 6px 0; max-width: 80ch; }
.muted { color: var(--muted); }
.pictures { display: grid; gap: 20px; grid-template-columns: repeat(auto-fit, minmax(480px, 1fr)); }
@media (max-width: 600px) { .pictures { grid-template-columns: 1fr; } }
.pictures figure { margin: 0; padding: 12px 6px 4px 12px; border: 1px solid var(--grid); border-radius: 9px; }
.pictures svg { width: 100%; height: auto; display: block; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14px; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; color: var(--muted); font-size: 12px; }
th, td { padding: 5px 14px 5px 0; border-bottom: 1px solid var(--grid); vertical-align: middle; }
td.number, th.number { text-align: right; white-space: nowrap; }
td.note { color: var(--muted); font-size: 12.5px; }
td.strip { padding-top: 0; padding-bottom: 0; }
.pill { display: inline-block; padding: 0 9px; border-radius: 9px; font: 600 12px FONT; white-space: nowrap; }
.met { color: var(--asyncio); border: 1px solid var(--asyncio); }
.missed { color: var(--popen); border: 1px solid var(--popen); }
.absent { color: var(--muted); border: 1px solid var(--grid); }
sup { color: var(--muted); }
a { color: var(--ours); text-decoration: none; margin-right: 14px; white-space: nowrap; }
ol.notes { list-style: lower-alpha; color: var(--muted); font-size: 12.5px; padding-left: 20px; }
""".replace("FONT", plots.FONT)


def page(where: Mapping[str, Any], quick: bool, answers: Mapping[str, Answer]) -> str:
    """The whole page."""
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        "<title>fastproc: benchmarks</title>",
        f"<style>:root {{ {plots.colours(plots.LIGHT)} }}",
        f"@media (prefers-color-scheme: dark) {{ :root {{ {plots.colours(plots.DARK)} }} }}",
        f"{STYLE}</style></head><body><main>",
        *_head(where, quick, answers),
        *_goals(answers),
        *_pictures(answers),
        *(line for question, answer in answers.items() for line in _answer(question, answer)),
        "</main></body></html>",
    ]
    return "\n".join(parts) + "\n"


def _head(where: Mapping[str, Any], quick: bool, answers: Mapping[str, Answer]) -> list[str]:
    others = ", ".join(f"{name} {version}" for name, version in where.get("others", {}).items())
    links = " ".join(f'<a href="#{escape(name)}">{escape(name)}</a>' for name in answers)
    kind = "A quick run: few and short rounds, so read the spread. " if quick else ""
    words = (
        f"{kind}Every value with an x is a median of ratios, each taken within one round of all contenders; "
        "beside it the quartiles. The child only exits unless a row says otherwise, and each contender has "
        "proven that it has done the work."
    )
    return [
        "<h1>What starting processes costs</h1>",
        f'<p class="muted">{escape(machine_in_words(where))}, {escape(str(where["when"]))}'
        + (f"; {escape(others)}" if others else "")
        + "</p>",
        f"<p>{words}</p>",
        f"<nav>{links}</nav>",
    ]


def _goals(answers: Mapping[str, Answer]) -> list[str]:
    rows = goals(answers)
    if not rows:
        return []
    lines = ["<h2>Goals</h2>", '<div class="scroll"><table>']
    lines.append(
        "<tr><th>what</th><th class=number>measured</th><th class=number>quartiles</th>"
        "<th class=number>goal</th><th></th><th>question</th></tr>"
    )
    for question, row in rows:
        lines.append(
            f"<tr><td>{escape(row.what)}</td><td class=number>{escape(number(row.value, row.unit))}</td>"
            f"<td class=number>{escape(spread(row))}</td><td class=number>{escape(goal_of(row))}</td>"
            f"<td>{_pill(row)}</td><td><a href='#{escape(question)}'>{escape(question)}</a></td></tr>"
        )
    return [*lines, "</table></div>"]


def _pill(row: Row) -> str:
    words = verdict(row)
    kind = {"met": "met", "MISSED": "missed", "refused": "missed"}.get(words, "absent")
    return f'<span class="pill {kind}">{escape(words.lower())}</span>' if words else ""


def _pictures(answers: Mapping[str, Answer]) -> list[str]:
    pictures = [picture for answer in answers.values() for picture in answer.pictures]
    if not pictures:
        return []
    lines = ["<h2>Pictures</h2>"]
    try:
        drawn = [plots.svg([picture]) for picture in pictures]
    except ImportError:
        return [*lines, "<p class=muted>They need matplotlib: pip install 'fastproc[bench]'</p>"]
    figures = [f"<figure>{svg}</figure>" for svg in drawn]
    return [*lines, '<div class="pictures">', *figures, "</div>"]


def _answer(question: str, answer: Answer) -> list[str]:
    lines = [f'<h2 id="{escape(question)}">{escape(answer.title)}</h2>']
    if answer.absent:
        return [*lines, f"<p class=muted>Not there: {escape(answer.absent)}</p>"]
    notes = Footnotes.of(answer.rows)
    lines += ['<div class="scroll"><table>']
    lines.append(
        "<tr><th>what</th><th class=number>value</th><th class=number>quartiles</th><th>on a log scale</th>"
        "<th class=number>goal</th><th></th><th>in absolute terms</th></tr>"
    )
    reach = _reach(answer.rows)
    for row in answer.rows:
        mark = notes.letters.get(row.differs)
        lines.append(
            f"<tr><td>{escape(row.what)}{f' <sup>{mark}</sup>' if mark else ''}</td>"
            f"<td class=number>{escape(number(row.value, row.unit))}</td>"
            f"<td class=number>{escape(spread(row))}</td><td class=strip>{_strip(row, reach)}</td>"
            f"<td class=number>{escape(goal_of(row))}</td><td>{_pill(row)}</td>"
            f"<td class=note>{escape(row.note)}</td></tr>"
        )
    lines += ["</table></div>"]
    if notes.letters:
        lines += ["<ol class=notes>", *(f"<li>{escape(words)}</li>" for words in notes.letters), "</ol>"]
    return lines


def _reach(rows: Sequence[Row]) -> tuple[float, float]:
    """What the strips of a table have room for: all ratios in it, and 1."""
    ends = [
        end for row in rows if row.unit == "x" for end in (row.low, row.value, row.high) if end and end > 0
    ]
    return min([*ends, 0.8]) / 1.05, max([*ends, 1.25]) * 1.05


def _strip(row: Row, reach: tuple[float, float]) -> str:
    """The median as a dot on a line between its quartiles, beside where 1 is, and where the goal is."""
    if row.value is None or row.unit != "x" or row.value <= 0:
        return ""
    low, high = reach

    def at(value: float) -> float:
        part = math.log(max(value, low) / low) / math.log(high / low)
        return round(4 + (STRIP_WIDTH - 8) * part, 1)

    colour = f"var(--{plots.role_of(row.what.removeprefix('true(1): '))})"
    middle = STRIP_HEIGHT / 2
    marks = [
        f'<line x1="{at(1)}" x2="{at(1)}" y1="0" y2="{STRIP_HEIGHT}" stroke="var(--grid)" stroke-width="1"/>'
    ]
    if row.goal is not None and low <= row.goal <= high:
        goal = at(row.goal)
        marks.append(
            f'<line x1="{goal}" x2="{goal}" y1="2" y2="{STRIP_HEIGHT - 2}" stroke="var(--muted)" '
            'stroke-width="1.5" stroke-dasharray="2 2"/>'
        )
    if row.low and row.high:
        marks.append(
            f'<line x1="{at(row.low)}" x2="{at(row.high)}" y1="{middle}" y2="{middle}" stroke="{colour}" '
            'stroke-width="3" stroke-opacity="0.45" stroke-linecap="round"/>'
        )
    marks.append(f'<circle cx="{at(row.value)}" cy="{middle}" r="3.6" fill="{colour}"/>')
    return (
        f'<svg width="{STRIP_WIDTH}" height="{STRIP_HEIGHT}" role="img" aria-hidden="true">'
        + "".join(marks)
        + "</svg>"
    )
