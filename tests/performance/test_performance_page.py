"""The page of measured performance: its tables are those of its file of figures, and so is its picture."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from benchmarks.figures import Figure, amount, read_figures
from benchmarks.performance_page import draw, filled
from benchmarks.shares import KINDS, kind_of
from cosam_bench.core.errors import CosamError

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


def place(group: str, content: str = "old\n") -> str:
    return f"<!-- figures: {group} -->\n{content}<!-- end -->\n"


def test_a_table_holds_a_line_a_row_without_empty_columns() -> None:
    figures = [
        Figure("one", 6.0, 2.0, "s", "well", group="a", machine="a machine"),
        Figure("two", 2398.6, 158.04, "MiB", group="a", machine="a machine"),
    ]
    page = filled("before\n" + place("a") + "after", figures)
    assert page == (
        "before\n<!-- figures: a -->\n\n"
        "| stage | plain | ours |  | times less | note |\n| --- | --- | --- | --- | --- | --- |\n"
        "| one | 6 | 2 | s | 3 | well |\n| two | 2,399 | 158 | MiB | 15 |  |\n\n"
        "Measured on a machine.\n\n<!-- end -->\nafter"
    )


def test_filling_twice_changes_nothing_and_a_group_without_figures_says_so() -> None:
    figures = [Figure("one", None, 2.0, "s", limit=1.0, group="a", machine="a machine")]
    page = filled(place("a") + place("b"), figures)
    assert filled(page, figures) == page
    assert "| one | 2 | s | 50% |" in page
    assert page.count("Not measured.") == 1


def test_growth_stands_in_columns() -> None:
    figures = [
        Figure(f"{what}, average, {count} domains", None, count / 2, "s", group="growth")
        for what in ("fitting", "scoring")
        for count in (4, 8)
    ]
    assert (
        "|  | average, 4 domains | average, 8 domains |\n| --- | --- | --- |\n"
        "| fitting | 2 s | 4 s |\n| scoring | 2 s | 4 s |"
    ) in filled(place("growth"), figures)


def test_a_page_without_marks_is_refused() -> None:
    with pytest.raises(CosamError, match=r"has no `<!-- figures: GROUP -->`.*; add a pair"):
        filled("# Performance\n", [])


@pytest.mark.parametrize(
    ("number", "text"),
    [(2398.6, "2,399"), (100.4, "100"), (99.96, "100"), (0.01234, "0.0123"), (19.71, "19.7"), (0.0, "0"), (None, "")],
)
def test_a_figure_has_three_digits(number: float | None, text: str) -> None:
    assert amount(number) == text


def test_the_picture_shows_each_work_and_limit_and_is_the_same_each_time(tmp_path: Path) -> None:
    figures = [
        Figure(f"{kind}, {work}", None, seconds, "s", group="shares")
        for work in ("encoder, stock", "encoder, ours")
        for seconds, kind in enumerate(KINDS, start=1)
    ]
    figures.append(Figure("decoder, fp32", None, 2.0, "s", limit=0.5, group="limits"))
    figures.append(Figure("too short to be seen", None, 0.01, "s", limit=0.005, group="limits"))
    draw(figures, tmp_path / "one.svg")
    draw(figures, tmp_path / "two.svg")
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    texts = {(node.text or "").strip() for node in ElementTree.parse(tmp_path / "one.svg").iter() if "text" in node.tag}
    assert {"encoder, stock", "encoder, ours", "decoder, fp32", "25%", *KINDS} <= texts
    assert "too short to be seen" not in texts


def test_operations_are_told_apart() -> None:
    names = {
        "aten::addmm": "linear layers",
        "aten::mm": "linear layers",
        "aten::bmm": "attention",
        "aten::_softmax": "attention",
        "aten::mkldnn_convolution": "convolutions",
        "aten::gelu": "elementwise",
        "aten::copy_": "elementwise",
        "aten::upsample_bilinear2d": "elementwise",
    }
    assert {name: kind_of(name) for name in names} == names


def test_every_file_that_the_page_names_exists() -> None:
    table = (DOCS / "performance.md").read_text(encoding="utf-8").partition("## Measuring")[0]
    names = re.findall(r"`([\w/]+(?:\.py|/))`", table)
    assert len(names) > 20
    for name in names:
        assert (ROOT / name).exists() or (ROOT / "cosam_bench" / name).exists(), name


def test_the_page_in_the_repository_is_filled_from_its_figures() -> None:
    page, figures = (DOCS / "performance.md").read_text(encoding="utf-8"), read_figures(DOCS / "performance.csv")
    assert figures
    assert filled(page, figures) == page, "run `python -m benchmarks.performance_page`"
    groups = {figure.group for figure in figures}
    assert not [group for group in sorted(groups) if f"<!-- figures: {group} -->" not in page]
