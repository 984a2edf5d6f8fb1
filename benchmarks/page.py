"""``python -m benchmarks.page``: puts the figures of docs/performance.csv into docs/performance.md, and draws them."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.figures import Figure, amount, read_figures
from benchmarks.measuring import Row
from benchmarks.picture import draw
from cosam_bench.core.errors import CosamError
from cosam_bench.core.files import write_atomically

DOCS = Path(__file__).resolve().parent.parent / "docs"
# What stands between the two marks of a group is made anew each time.
_PLACE = re.compile(r"(<!-- figures: (\w+) -->\n).*?(<!-- end -->)", flags=re.DOTALL)


def main() -> None:
    """Fill the tables of a page from a file of figures, and draw the picture beside it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.page", description=main.__doc__)
    parser.add_argument("--csv", type=Path, default=DOCS / "performance.csv", metavar="FILE")
    parser.add_argument("--page", type=Path, default=DOCS / "performance.md", metavar="FILE")
    asked = parser.parse_args()
    figures = read_figures(asked.csv)
    write_atomically(asked.page, filled(asked.page.read_text(encoding="utf-8"), figures))
    draw(figures, asked.page.with_suffix(".svg"))


def filled(page: str, figures: Sequence[Figure]) -> str:
    """The page with a table at each pair of marks, ``<!-- figures: GROUP -->`` and ``<!-- end -->``.

    Raises:
        CosamError: the page has no such marks.
    """
    if not _PLACE.search(page):
        raise CosamError(
            "The page has no `<!-- figures: GROUP -->` with an `<!-- end -->`, so there is nothing to fill."
        )

    def table(place: re.Match[str]) -> str:
        group = place[2]
        mine = [figure for figure in figures if figure.group == group]
        return f"{place[1]}\n{_section(group, mine)}\n\n{place[3]}"

    return _PLACE.sub(table, page)


def _section(group: str, figures: Sequence[Figure]) -> str:
    if not figures:
        return "Not measured."
    lay_out: Callable[[Sequence[Row]], list[list[str]]] = _crossed if group in ("growth", "shares") else _listed
    lines = lay_out([figure.row for figure in figures])
    lines.insert(1, ["---"] * len(lines[0]))
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    machines = "; ".join(dict.fromkeys(figure.machine for figure in figures))
    return f"{table}\n\nMeasured on {machines}."


def _listed(rows: Sequence[Row]) -> list[list[str]]:
    """A line a row; columns that no row fills are left out."""
    heads = ["stage", "plain", "ours", "", "times less", "of the limit", "note"]
    lines = [
        [
            row.stage,
            amount(row.plain),
            amount(row.ours),
            row.unit,
            amount(row.ratio, digits=2),
            "" if row.share is None else f"{row.share:.0%}",
            row.note,
        ]
        for row in rows
    ]
    used = [place for place, head in enumerate(heads) if head == "" or any(line[place] for line in lines)]
    if "plain" not in [heads[place] for place in used]:
        heads[2] = "measured"
    return [[line[place] for place in used] for line in [heads, *lines]]


def _crossed(rows: Sequence[Row]) -> list[list[str]]:
    """A line for what stands before a stage's first comma, a column for what stands behind it."""
    cells = {tuple(row.stage.split(", ", 1)): row for row in rows}
    first, across = (list(dict.fromkeys(place[side] for place in cells)) for side in (0, 1))

    def cell(row: Row | None) -> str:
        if row is None:
            return ""
        share = f" ({row.note})" if row.note.endswith("%") else ""
        return f"{amount(row.ours)} {row.unit}{share}"

    lines = [[name, *(cell(cells.get((name, place))) for place in across)] for name in first]
    return [["", *across], *lines]


if __name__ == "__main__":
    main()
