"""The tables of docs/metrics.md and README.md against those of metrics, figures and costs."""

from __future__ import annotations

from pathlib import Path

from cosam_bench.evaluation.figures import FIGURES
from cosam_bench.evaluation.metrics import METRICS
from cosam_bench.results.costs import COSTS

ROOT = Path(__file__).resolve().parents[2]
BETTER = {"higher": "higher", "lower": "lower", "score": "as the metric"}


def table_with_head(document: str, head: str) -> list[str]:
    """The rows of the document's only table with this head, without the head."""
    lines = (ROOT / document).read_text(encoding="utf-8").splitlines()
    assert lines.count(head) == 1
    first = lines.index(head) + 2
    last = next(number for number, line in enumerate(lines[first:], start=first) if not line.startswith("|"))
    return lines[first:last]


def row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def test_the_page_has_every_metric() -> None:
    assert table_with_head("docs/metrics.md", "| metric | formula | meaning | better |") == [
        row(f"`{metric.name}`", metric.formula, metric.meaning, BETTER[metric.better]) for metric in METRICS.values()
    ]


def test_the_page_has_every_figure() -> None:
    assert table_with_head("docs/metrics.md", "| column | title | formula | meaning | better |") == [
        row(f"`{figure.name}`", figure.title, f"`{figure.formula}`", figure.meaning, BETTER[figure.better])
        for figure in FIGURES.values()
    ]


def test_the_page_has_every_cost() -> None:
    assert table_with_head("docs/metrics.md", "| column | what is measured |") == [
        row(f"`{column.name}`", column.meaning) for column in COSTS.values()
    ]


def test_the_readme_shows_figures_as_they_are_defined() -> None:
    found = table_with_head("README.md", "| figure | formula | meaning |")
    known = [row(figure.title, figure.formula, figure.meaning) for figure in FIGURES.values()]
    assert len(found) > 5
    assert found == [line for line in known if line in found]
