"""``python -m benchmarks.performance_page``: puts docs/performance.csv into docs/performance.md, and draws it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import pages
from benchmarks.figures import Figure, amount, read_figures, table
from benchmarks.shares import KINDS
from cosam_bench.core.errors import CosamError
from cosam_bench.core.files import write_atomically

DOCS = Path(__file__).resolve().parent.parent / "docs"
# Paul Tol's "bright" scheme, which colour-blind readers can tell apart.
_COLOURS = dict(zip(KINDS, ("#4477AA", "#EE6677", "#228833", "#CCBB44", "#BBBBBB"), strict=True))


def main() -> None:
    """Fill the tables of a page from a file of figures, and draw the picture beside it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.performance_page", description=main.__doc__)
    parser.add_argument("--csv", type=Path, default=DOCS / "performance.csv", metavar="FILE")
    parser.add_argument("--page", type=Path, default=DOCS / "performance.md", metavar="FILE")
    given = parser.parse_args()
    figures = read_figures(given.csv)
    write_atomically(given.page, filled(given.page.read_text(encoding="utf-8"), figures))
    draw(figures, given.page.with_suffix(".svg"))


def filled(page: str, figures: Sequence[Figure]) -> str:
    """The page with a table at each pair of marks, ``<!-- figures: GROUP -->`` and ``<!-- end -->``.

    Raises:
        CosamError: the page has no such marks.
    """
    if not pages.places(page, "figures"):
        raise CosamError("The page has no `<!-- figures: GROUP -->` with an `<!-- end -->`; add a pair for each table.")
    return pages.filled(page, "figures", lambda group: _section(group, figures))


def _section(group: str, figures: Sequence[Figure]) -> str:
    found = [figure for figure in figures if figure.group == group]
    if not found:
        return "Not measured."
    lines = _crossed(found) if group in ("growth", "shares") else table(found)
    return f"{pages.markdown(lines)}\n\nMeasured on {'; '.join(dict.fromkeys(figure.machine for figure in found))}."


def _crossed(figures: Sequence[Figure]) -> list[list[str]]:
    """One line for what comes before a stage's first comma, one column for what comes after it."""
    cells = {}
    for figure in figures:
        share = f" ({figure.note})" if figure.note.endswith("%") else ""
        cells[tuple(figure.stage.split(", ", 1))] = f"{amount(figure.ours)} {figure.unit}{share}"
    first, across = (list(dict.fromkeys(place[side] for place in cells)) for side in (0, 1))
    return [["", *across], *([name, *(cells.get((name, place), "") for place in across)] for name in first)]


def draw(figures: Sequence[Figure], path: Path) -> None:
    """Write as SVG where the time goes, and how much of it the machine's limits take; always the same bytes."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    with pyplot.rc_context({"svg.hashsalt": "performance", "svg.fonttype": "none", "font.size": 9}):
        canvas, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
        _draw_kinds(left, [figure for figure in figures if figure.group == "shares"])
        _draw_limits(right, [figure for figure in figures if figure.group == "limits" and figure.ours > 0.1])
        canvas.savefig(path, metadata={"Date": None})
        pyplot.close(canvas)


def _draw_kinds(axes: Any, figures: Sequence[Figure]) -> None:
    """One bar for each piece of work, its kinds side by side."""
    ends = {figure.stage.split(", ", 1)[1]: 0.0 for figure in figures}
    works = list(ends)
    for kind in KINDS:
        seconds = {figure.stage: figure.ours for figure in figures}
        widths = [seconds.get(f"{kind}, {work}", 0.0) for work in works]
        axes.barh(works, widths, left=[ends[work] for work in works], color=_COLOURS[kind], label=kind)
        ends = {work: ends[work] + width for work, width in zip(works, widths, strict=True)}
    _finish(axes, "What one image costs, ViT-B, fp32", has_legend=bool(works))


def _draw_limits(axes: Any, figures: Sequence[Figure]) -> None:
    """One bar for each stage that has a limit, and within it the limit."""
    limited = [figure for figure in figures if figure.limit]
    names = [figure.stage for figure in limited]
    axes.barh(names, [figure.ours for figure in limited], color="#BBBBBB", label="measured")
    least = [figure.limit for figure in limited]
    axes.barh(names, least, height=0.4, color="#4477AA", label="least, by the machine's limits")
    for place, figure in enumerate(limited):
        axes.text(figure.ours, place, f" {figure.share:.0%}", va="center")
    _finish(axes, "How near to the limit", has_legend=bool(names))


def _finish(axes: Any, title: str, *, has_legend: bool) -> None:
    axes.invert_yaxis()
    axes.set_title(title)
    axes.set_xlabel("seconds")
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.12)
    if has_legend:
        axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.45, -0.13), ncols=3)


if __name__ == "__main__":
    main()
