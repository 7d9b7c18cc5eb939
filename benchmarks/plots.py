"""Pictures as SVG, by matplotlib: text stays text, and colours follow the reader's light or dark theme.

matplotlib writes plain colours; each of ours is a name here, drawn as a colour that nothing else has and
replaced by a CSS variable afterwards. Alone, a picture brings the variables and a ground of its own with it.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from typing import Any

from findings import Curve, Picture

LIGHT = {
    "ink": "#1f2328",
    "muted": "#59636e",
    "grid": "#d9dee3",
    "paper": "#ffffff",
    "ours": "#0969da",
    "face": "#0d8a94",
    "run": "#5a4fcf",
    "popen": "#bc4c00",
    "asyncio": "#1a7f37",
    "other": "#a0348a",
    "fork": "#86631a",
}
DARK = {
    "ink": "#e6edf3",
    "muted": "#9198a1",
    "grid": "#30363d",
    "paper": "#0d1117",
    "ours": "#58a6ff",
    "face": "#39c5cf",
    "run": "#a5a0ff",
    "popen": "#f0883e",
    "asyncio": "#3fb950",
    "other": "#e07bc9",
    "fork": "#d4a72c",
}
_DRAWN = {name: f"#f{index:x}e{index:x}d{index:x}" for index, name in enumerate(LIGHT)}

_ROLES = (
    ("C: fork", "fork"),
    ("C:", "ink"),
    ("fastproc.aio", "face"),
    ("fastproc.run", "run"),
    ("fastproc", "ours"),
    ("Process", "ours"),
    ("asyncio", "asyncio"),
    ("subprocess", "popen"),
    ("Popen", "popen"),
)

FONT = "system-ui, -apple-system, 'Segoe UI', 'Helvetica Neue', Arial, sans-serif"
WIDTH, HEIGHT = 5.8, 3.7
"""Of one picture, in inches of 72 units."""
LABEL_GAP = 13.0
"""Units between two labels at the ends of curves."""


def colours(palette: dict[str, str]) -> str:
    """CSS variables of a palette."""
    return " ".join(f"--{name}: {value};" for name, value in palette.items())


def role_of(name: str) -> str:
    """Whose colour a contender has."""
    return next((role for beginning, role in _ROLES if name.startswith(beginning)), "other")


def svg(pictures: Sequence[Picture], *, columns: int = 1, alone: bool = False) -> str:
    """Some pictures side by side. `alone`: for a file of its own, else for a page that has the colours.

    Raises:
        ImportError: matplotlib is not installed; it is in the extra `bench`.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    rows = math.ceil(len(pictures) / columns)
    with mpl.rc_context(_style()):
        figure = Figure(figsize=(WIDTH * columns, HEIGHT * rows))
        for index, picture in enumerate(pictures):
            column, row = index % columns, index // columns
            left, bottom, width, height = 0.11, 0.15, 0.61, 0.695
            box = (
                (column + left) / columns,
                (rows - 1 - row + bottom) / rows,
                width / columns,
                height / rows,
            )
            _draw(figure.add_axes(box), picture)
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _finish(out.getvalue(), pictures, alone=alone)


def _style() -> Any:
    return {
        "svg.fonttype": "none",
        "svg.hashsalt": "fastproc",
        "font.family": "sans-serif",
        "font.size": 9.5,
        "axes.edgecolor": _DRAWN["muted"],
        "axes.labelcolor": _DRAWN["muted"],
        "axes.linewidth": 0.8,
        "xtick.color": _DRAWN["muted"],
        "ytick.color": _DRAWN["muted"],
        "text.color": _DRAWN["ink"],
        "xtick.major.size": 3,
        "ytick.major.size": 0,
        "xtick.minor.size": 0,
        "ytick.minor.size": 0,
    }


def _draw(axes: Any, picture: Picture) -> None:
    for curve in picture.curves:
        colour = _DRAWN[role_of(curve.name)]
        at = [tail(x) for x in curve.x] if picture.tail_x else list(curve.x)
        yardstick = curve.name.startswith("C:")
        if curve.low and len(at) > 1:
            axes.fill_between(at, curve.low, curve.high, color=colour, alpha=0.16, linewidth=0)
        marker = "" if picture.tail_x else "o"
        axes.plot(
            at,
            curve.y,
            color=colour,
            linewidth=1.6 if yardstick else 2.0,
            linestyle=(0, (4, 2)) if yardstick else "-",
            marker=marker,
            markersize=4,
            markeredgewidth=0,
            solid_capstyle="round",
        )
    _scale(axes, picture)
    _label_ends(axes, picture)


def _scale(axes: Any, picture: Picture) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter, NullLocator

    thousands = FuncFormatter(lambda value, _position: f"{value:,.0f}")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    if picture.log_x:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(sorted({x for curve in picture.curves for x in curve.x})))
        axes.xaxis.set_minor_locator(NullLocator())
    if picture.log_y:
        axes.set_yscale("log")
        low, high = (pick(y for curve in picture.curves for y in curve.y) for pick in (min, max))
        axes.set_ylim(low / 1.3, high * 1.3)
        axes.yaxis.set_major_locator(FixedLocator(log_ticks(low / 1.3, high * 1.3)))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(bottom=0)
    axes.xaxis.set_major_formatter(thousands)
    axes.yaxis.set_major_formatter(thousands)
    if picture.tail_x:
        shares = (50, 90, 99, 99.9)
        axes.xaxis.set_major_locator(FixedLocator([tail(share) for share in shares]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda _x, position: f"{shares[position or 0]:g} %"))
    axes.grid(axis="y", color=_DRAWN["grid"], linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.set_xlabel(picture.x, labelpad=6)
    axes.text(0, 1.035, picture.y, transform=axes.transAxes, color=_DRAWN["muted"], fontsize=9)
    axes.text(0, 1.115, picture.title, transform=axes.transAxes, fontsize=11.5, fontweight="bold")


def _label_ends(axes: Any, picture: Picture) -> None:
    """The name of each curve at its end, moved apart where they would overlap."""
    ends = []
    for curve in picture.curves:
        x = tail(curve.x[-1]) if picture.tail_x else curve.x[-1]
        _across, up = axes.transData.transform((x, curve.y[-1]))
        ends.append((float(up), curve))
    ends.sort(key=lambda end: end[0])
    figure_box = axes.get_window_extent()
    places = spread_out([up for up, _curve in ends], LABEL_GAP * axes.figure.dpi / 72)
    for place, (_up, curve) in zip(places, ends, strict=True):
        axes.annotate(
            _short(curve),
            xy=(1.02, (place - figure_box.y0) / figure_box.height),
            xycoords="axes fraction",
            va="center",
            color=_DRAWN[role_of(curve.name)],
            fontsize=9.5,
            annotation_clip=False,
        )


def _short(curve: Curve) -> str:
    """A label that fits: the rest of a name is in the table."""
    name = curve.name.partition(",")[0].replace("subprocess.Popen", "Popen").partition("_subprocess_exec")[0]
    return name.removesuffix(".create").removesuffix(".start_process")


def spread_out(places: Sequence[float], gap: float) -> list[float]:
    """These ascending places, moved to be `gap` apart: each cluster around the middle of what it wants."""
    clusters: list[list[float]] = []  # [sum of wishes, count]
    for place in places:
        clusters.append([place, 1])
        while len(clusters) > 1 and _top(clusters[-2], gap) + gap > _bottom(clusters[-1], gap):
            total, count = clusters.pop()
            clusters[-1][0] += total
            clusters[-1][1] += count
    return [_bottom(cluster, gap) + index * gap for cluster in clusters for index in range(int(cluster[1]))]


def _bottom(cluster: Sequence[float], gap: float) -> float:
    return cluster[0] / cluster[1] - (cluster[1] - 1) * gap / 2


def _top(cluster: Sequence[float], gap: float) -> float:
    return cluster[0] / cluster[1] + (cluster[1] - 1) * gap / 2


def tail(share: float) -> float:
    """Where a percentile stands on an axis that gives as much room to 99.9 as to 90."""
    return -math.log10(1 - min(share, 99.99) / 100)


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 in each decade between these, or only 1 where that would be many."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if high / low < 300 else (1,)
    return [step * 10.0**decade for decade in decades for step in steps if low <= step * 10.0**decade <= high]


def _finish(text: str, pictures: Sequence[Picture], *, alone: bool) -> str:
    """Colours by name, one font, no fixed size in a page; a title for those who do not see it."""
    text = text[text.index("<svg") :]
    for name, drawn in _DRAWN.items():
        text = text.replace(drawn, f"var(--{name})")
    text = re.sub(r"font: ([^;\"]*?)'?[A-Za-z][^;\"]*", _plain_font, text)
    text = re.sub(r"font-family: [^;\"]*", f"font-family: {FONT}", text)
    # Ids are unique within one drawing; a page has several.
    text = re.sub(r'(id="|#)([a-zA-Z])', rf"\g<1>{pictures[0].slug}-\2", text)
    title = " and ".join(picture.title for picture in pictures)
    head = f"<title>{_escaped(title)}</title>"
    if alone:
        head += (
            f"<style>:root {{ {colours(LIGHT)} }} "
            f"@media (prefers-color-scheme: dark) {{ :root {{ {colours(DARK)} }} }}</style>"
            '<rect width="100%" height="100%" rx="10" fill="var(--paper)"/>'
        )
    beginning = text.index(">") + 1
    tag = re.sub(r'\s(width|height)="[^"]*"', "", text[:beginning]) if not alone else text[:beginning]
    tag = tag.replace("<svg ", '<svg role="img" ', 1)
    return "\n".join(line.rstrip() for line in (tag + head + text[beginning:]).splitlines()) + "\n"


def _plain_font(match: re.Match[str]) -> str:
    """The shorthand that matplotlib writes, with our family."""
    size = re.search(r"(bold |\d+ )?[\d.]+px", match[0])
    return f"font: {size[0] if size else '10px'} {FONT}"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")
