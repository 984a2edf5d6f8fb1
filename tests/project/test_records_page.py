"""docs/records.md names every column, file and schema, and says of each what the code has."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from cosam_bench.evaluation.metrics import METRICS
from cosam_bench.evaluation.score_matrix import Cell
from cosam_bench.experiments.rescoring import MEAN_TOLERANCE
from cosam_bench.results.leaderboard import COUNTS, KEY
from cosam_bench.results.run_info import _MIGRATIONS, SCHEMA
from cosam_bench.results.verification import FIGURE_TOLERANCE, REQUIRED

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "records.md").read_text(encoding="utf-8")


def first_cells(heading: str) -> set[str]:
    """The first cells of the tables below a heading, or below the words before one."""
    part = PAGE[PAGE.index(heading) + len(heading) :]
    rows = re.findall(r"^\| ([^|]+) \|", part.partition("\n\n")[2].partition("\n\n")[0], flags=re.MULTILINE)
    return {name.strip("` ") for row in rows[1:] for name in row.split(",")}


def test_the_columns_of_the_matrix_are_listed() -> None:
    assert first_cells("`matrix.csv`:") == {column.name for column in fields(Cell)}
    assert ", ".join(f"`{name}`" for name in list(METRICS)[:-1]) in PAGE


def test_the_columns_of_the_leaderboard_are_listed() -> None:
    found = first_cells("`leaderboard --csv` writes one row per protocol, conditions, method and settings:")
    assert {*KEY, *COUNTS} <= found


def test_every_readable_schema_is_listed() -> None:
    assert first_cells("would misread or refuse the new form.") == {str(one) for one in (*_MIGRATIONS, SCHEMA)}


def test_files_and_tolerances_are_those_of_the_code() -> None:
    assert {"run.json", *REQUIRED} <= first_cells("## Files\n\nText is")
    assert f"within {FIGURE_TOLERANCE:g}" in PAGE
    assert f"differ by {MEAN_TOLERANCE}" in PAGE
