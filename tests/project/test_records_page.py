"""docs/records.md and docs/many-runs.md name every column, file, folder and schema, and say what the code has."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from support.quick_protocol import write_quick_protocol
from support.shown_commands import text_of

import cosam_bench as cb
from cosam_bench.evaluation.metrics import METRICS
from cosam_bench.evaluation.score_matrix import Cell
from cosam_bench.experiments.rescoring import MEAN_TOLERANCE
from cosam_bench.results.leaderboard import COUNTS, KEY
from cosam_bench.results.run_info import _MIGRATIONS, SCHEMA
from cosam_bench.results.verification import FIGURE_TOLERANCE, REQUIRED

PAGE = text_of("docs/records.md")


def first_cells(heading: str, *, page: str = PAGE) -> set[str]:
    """The first cells of the tables below a heading, or below the words before one."""
    part = page[page.index(heading) + len(heading) :]
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


def test_each_file_that_a_run_writes_is_listed(tmp_path: Path) -> None:
    protocol = write_quick_protocol(tmp_path, domains=("pitting", "pill"))
    asked = {"protocol": protocol, "results": tmp_path / "results", "progress": False}
    record = cb.run("average", settings={"scales": [0.5, 1.0]}, also_prompts=["image"], **asked)
    cb.leaderboard(results=tmp_path / "results")

    listed, written = first_cells("## Files\n\nText is"), {path.name for path in record.folder.iterdir()}
    assert written <= listed
    assert listed - written == {"error.txt", "steps/", "negatives.csv"}  # of a fault, a run in progress, empty masks
    folders = first_cells("## What is kept, and where", page=text_of("docs/many-runs.md"))
    found = {f"_shared/{path.name}" for path in (tmp_path / "results" / "_shared").iterdir()}
    assert found <= folders
    assert len(found) > 3


def test_files_and_tolerances_are_those_of_the_code() -> None:
    assert {"run.json", *REQUIRED} <= first_cells("## Files\n\nText is")
    assert f"within {FIGURE_TOLERANCE:g}" in PAGE
    assert f"differ by {MEAN_TOLERANCE}" in PAGE
