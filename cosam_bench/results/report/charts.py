"""Charts of the report as SVG, in the colours of the page that holds them.

Text and axes have the colour ``currentColor``, so that one picture is right on a light and on a dark page.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cosam_bench.core.hashing import sha256_text
from cosam_bench.results.cell_text import not_a_formula

_INK = "#010203"  # replaced by currentColor; no data is drawn in it
_PALETTE = (  # Okabe and Ito, "Color Universal Design", 2008; the black is left out
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#8A8A8A",
)
_MARKERS = "osD^vPX*"
_FONT_SIZE = 8.0  # of names, in points
_LETTER_WIDTH = 0.65  # of a letter, as a share of the font's size: about DejaVu Sans's mean
_TICK_LETTERS = 24  # of a domain's name at most, so that slanted names leave the curves their room
_WIDTH = 7.2  # of a picture, in inches
_ROW_HEIGHT = 1.5 * _FONT_SIZE / 72  # of a row of the legend, in inches
_SAMPLE_WIDTH = 5.0 * _FONT_SIZE  # of a line's sample in the legend with the space around it, in points


@dataclass(frozen=True)
class Curve:
    """A method along the stream: one value per step, NaN where it was not measured."""

    name: str
    values: tuple[float, ...]


@dataclass(frozen=True)
class Point:
    """A method by its cost and its score.

    Attributes:
        name: the method's.
        x: the cost; greater than 0 on a logarithmic axis.
        y: the score.
        is_on_front: whether no other is as good at no more cost, and better in one of the two.
    """

    name: str
    x: float
    y: float
    is_on_front: bool = False


def pareto_front(points: Sequence[tuple[float, float]], *, is_higher_better: bool = True) -> list[bool]:
    """For each (cost, score) whether no other point is at least as good in both and better in one.

    NaN is never on the front.

    >>> pareto_front([(1.0, 0.5), (2.0, 0.7), (2.0, 0.6), (3.0, 0.7)])
    [True, True, False, False]
    """
    sign = 1.0 if is_higher_better else -1.0
    known = [(x, sign * y) for x, y in points if not (math.isnan(x) or math.isnan(y))]

    def is_beaten(x: float, y: float) -> bool:
        return any(a <= x and b >= y and (a < x or b > y) for a, b in known)

    return [not (math.isnan(x) or math.isnan(y)) and not is_beaten(x, sign * y) for x, y in points]


def curves_svg(curves: Sequence[Curve], *, steps: Sequence[str], y_title: str, title: str) -> str:
    """One line per method over the steps of the stream."""
    names = [_shortened(curve.name, _legend_letters()) for curve in curves]
    columns = _legend_columns(names)
    figure, axes = _figure(height=3.1 + _ROW_HEIGHT * math.ceil(len(names) / columns))
    lines = [
        axes.plot(range(len(curve.values)), curve.values, **_style(place))[0] for place, curve in enumerate(curves)
    ]
    ticks = [_shortened(step, _TICK_LETTERS) for step in steps]
    if len({*ticks}) < len({*steps}):  # what tells them apart was left out
        ticks = [f"{number}. {tick}" for number, tick in enumerate(ticks, start=1)]
    axes.set_xticks(range(len(steps)), ticks, rotation=30, ha="right", parse_math=False)
    axes.set_ylabel(y_title)
    axes.set_xlabel("after learning")
    _legend(figure, lines, names, columns=columns)
    return _svg(figure, title=title)


def pareto_svg(points: Sequence[Point], *, x_title: str, y_title: str, title: str) -> str:
    """Score against cost on a logarithmic axis; the Pareto front is joined by a line.

    A name that would lie over another is left out, those of the front last.
    """
    figure, axes = _figure(height=3.4)
    drawn = [point for point in points if point.x > 0 and not math.isnan(point.y)]
    for place, point in enumerate(drawn):
        style = _style(place)
        axes.plot([point.x], [point.y], marker=style["marker"], color=style["color"], linestyle="none", markersize=7)
    front = sorted((point.x, point.y) for point in drawn if point.is_on_front)
    axes.plot([x for x, _ in front], [y for _, y in front], color=_INK, linewidth=0.8, linestyle=":")
    axes.set_xscale("log")
    axes.margins(0.15)
    low, high = axes.get_xlim()
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    axes.xaxis.set_minor_formatter(lambda value, _: f"{value:,g}" if high < 10 * low else "")
    axes.set_xlabel(x_title)
    axes.set_ylabel(y_title)
    figure.draw_without_rendering()  # now places are known
    _name(axes, sorted(drawn, key=lambda point: not point.is_on_front))
    return _svg(figure, title=title)


def _name(axes: Any, points: Sequence[Point]) -> None:
    """Write the names beside their points, each at the first free of four places."""
    to_points = 72 / axes.figure.dpi
    places = [tuple(axes.transData.transform((point.x, point.y)) * to_points) for point in points]
    left, _, right, _ = axes.get_window_extent().extents * to_points
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in places]  # the markers
    for point, (x, y) in zip(points, places, strict=True):
        width = _LETTER_WIDTH * _FONT_SIZE * len(point.name)
        for dx, dy in ((6, -3), (-6 - width, -3), (-width / 2, 6), (-width / 2, -6 - _FONT_SIZE)):
            box = (x + dx, y + dy, x + dx + width, y + dy + _FONT_SIZE)
            if left <= box[0] and box[2] <= right + 20 and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                place = {"xytext": (dx, dy), "textcoords": "offset points", "annotation_clip": False}
                look = {"fontsize": _FONT_SIZE, "color": _INK, "parse_math": False}
                axes.annotate(point.name, (point.x, point.y), **look, **place)
                break


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _style(place: int) -> dict[str, str]:
    """Colour, marker and line of the n-th method: told apart also without colour."""
    turn = place // len(_PALETTE)
    return {
        "color": _PALETTE[place % len(_PALETTE)],
        "marker": _MARKERS[place % len(_MARKERS)],
        "linestyle": ("-", "--", "-.", ":")[turn % 4],
    }


def _figure(*, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.06)  # inches: a page's font may be wider
    axes = figure.add_subplot()
    figure.patch.set_alpha(0)
    axes.patch.set_alpha(0)
    for spine in axes.spines.values():
        spine.set_edgecolor(_INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(which="both", colors=_INK, labelsize=8)
    axes.xaxis.label.set_color(_INK)
    axes.yaxis.label.set_color(_INK)
    axes.grid(visible=True, color="#888888", alpha=0.25, linewidth=0.6)
    return figure, axes


def _legend_letters() -> int:
    """Of a name at most that fits into a row of the legend."""
    return int((72 * _WIDTH - _SAMPLE_WIDTH) / (_LETTER_WIDTH * _FONT_SIZE))


def _shortened(name: str, longest: int) -> str:
    """A name of so many letters at most; what is left out of its middle is in the chart's download."""
    if len(name) <= longest:
        return name
    end = (longest - 1) // 2
    return f"{name[: longest - 1 - end]}\N{HORIZONTAL ELLIPSIS}{name[-end:]}"


def _legend_columns(names: Sequence[str]) -> int:
    """How many of the names stand side by side: up to four, one if they are long."""
    width = _SAMPLE_WIDTH + _LETTER_WIDTH * _FONT_SIZE * max(map(len, names), default=0)
    return max(1, min(4, len(names), int(72 * _WIDTH / width)))


def _legend(figure: Any, lines: Sequence[Any], names: Sequence[str], *, columns: int) -> None:
    """Name the lines above the axes."""
    numbers = [str(place) for place in range(len(names))]
    look = {"fontsize": _FONT_SIZE, "frameon": False, "labelcolor": _INK, "ncols": columns}
    legend = figure.legend(lines, numbers, loc="outside upper center", **look)
    for text, name in zip(legend.get_texts(), names, strict=True):  # matplotlib 3.9 drops names that begin with "_"
        text.set(text=name, parse_math=False)


def _svg(figure: Any, *, title: str) -> str:
    """The figure as an ``<svg>`` element without ids of chance, with a title that is read aloud."""
    import matplotlib
    from markupsafe import escape

    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": title, "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    for length in ("width", "height"):
        svg = re.sub(rf'(<svg[^>]*?) {length}="[^"]*"', r"\1", svg, count=1)
    prefix = f"c{sha256_text(title)[:8]}-"  # ids of several pictures on one page differ
    svg = re.sub(r"<[^<>]*>", lambda tag: _on_a_page(tag[0], prefix), svg)  # names between the tags stay as they are
    return svg.replace(">", f' role="img" aria-label="{escape(title)}">', 1)


def _on_a_page(tag: str, prefix: str) -> str:
    """A tag in the page's ink, without inline styles, and with a prefix to its ids."""
    tag = tag.replace(_INK, "currentColor")
    tag = re.sub(r' style="([^"]*)"', lambda found: _as_attributes(found[1]), tag)
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\1{prefix}", tag)


def _as_attributes(style: str) -> str:
    """A style as presentation attributes, which a page may hold whose policy forbids inline styles."""
    attributes = []
    for declaration in filter(None, (part.strip() for part in style.split(";"))):
        name, value = (part.strip() for part in declaration.split(":", 1))
        if name == "font":  # the family is the page's
            name, value = "font-size", value.split("px")[0].split()[-1]
        attributes.append(f' {name}="{value}"')
    return "".join(attributes)


def csv_of(columns: Mapping[str, Sequence[object]]) -> str:
    """A small table as CSV text with a header, for the numbers behind a chart.

    A text that a spreadsheet would take for a formula has an apostrophe before it; NaN is empty.

    >>> csv_of({"method": ["=1+1", "regcl"], "last": [-0.5, math.nan]})
    "method,last\\n'=1+1,-0.5\\nregcl,\\n"
    """
    import csv

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_csv_value(value) for value in row] for row in zip(*columns.values(), strict=True))
    return text.getvalue()


def _csv_value(value: object) -> object:
    return "" if isinstance(value, float) and math.isnan(value) else not_a_formula(value)
