"""The picture of docs/performance.md: where the time goes, and how much of it the machine's limits would take."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure
from benchmarks.kinds import KINDS

# Paul Tol's "bright" scheme, which colour-blind readers can tell apart.
_COLOURS = dict(zip(KINDS, ("#4477AA", "#EE6677", "#228833", "#CCBB44", "#BBBBBB"), strict=True))


def draw(figures: Sequence[Figure], path: Path) -> None:
    """Write the picture as SVG; the same figures give the same bytes."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    with pyplot.rc_context({"svg.hashsalt": "performance", "svg.fonttype": "none", "font.size": 9}):
        canvas, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
        _draw_kinds(left, figures)
        _draw_limits(right, figures)
        canvas.savefig(path, metadata={"Date": None})
        pyplot.close(canvas)


def _draw_kinds(axes: Any, figures: Sequence[Figure]) -> None:
    """One bar for each piece of work, its kinds side by side."""
    rows = [figure.row for figure in figures if figure.group == "shares"]
    works = list(dict.fromkeys(row.stage.split(", ", 1)[1] for row in rows))
    ends = dict.fromkeys(works, 0.0)
    for kind in KINDS:
        seconds = {row.stage.split(", ", 1)[1]: row.ours for row in rows if row.stage.startswith(f"{kind}, ")}
        widths = [seconds.get(work, 0.0) for work in works]
        axes.barh(works, widths, left=[ends[work] for work in works], color=_COLOURS[kind], label=kind)
        ends = {work: ends[work] + seconds.get(work, 0.0) for work in works}
    _finish(axes, "What one image costs, ViT-B, fp32", has_legend=bool(works))


def _draw_limits(axes: Any, figures: Sequence[Figure]) -> None:
    """One bar for each stage that has a limit, and within it the limit."""
    rows = [figure.row for figure in figures if figure.group == "limits" and figure.row.limit and figure.row.ours > 0.1]
    names = [row.stage for row in rows]
    axes.barh(names, [row.ours for row in rows], color="#BBBBBB", label="measured")
    axes.barh(names, [row.limit for row in rows], height=0.4, color="#4477AA", label="least, by the machine's limits")
    for place, row in enumerate(rows):
        axes.text(row.ours, place, f" {row.share:.0%}", va="center")
    _finish(axes, "How near to the limit", has_legend=bool(names))


def _finish(axes: Any, title: str, *, has_legend: bool) -> None:
    axes.invert_yaxis()
    axes.set_title(title)
    axes.set_xlabel("seconds")
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.12)
    if has_legend:
        axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.45, -0.13), ncols=3)
