"""Reported inputs about results: an edited constant, mixed software in one row, a spreadsheet's empty column."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support.cases import case_folder
from support.quick_protocol import write_quick_protocol
from typer.testing import CliRunner

import cosam_bench as cb
from cosam_bench.cli.main import app

METHODS = {
    "helper": ("half_rule.py", "{folder}/halfway.py"),
    "sibling_pkg": ("mymerge/constants.py", "mymerge.method:Halfway"),
}


@pytest.mark.filterwarnings("ignore:.*has moved:DeprecationWarning")  # the case imports as plugins did before 0.2
@pytest.mark.parametrize("kind", METHODS)
def test_a_constant_that_was_edited_beside_the_method_makes_a_new_record(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    constant, method = METHODS[kind]
    protocol = write_quick_protocol(tmp_path, domains=("pill", "polyp"))
    folder = tmp_path / kind
    shutil.copytree(case_folder("stale_result_sibling") / kind, folder)
    monkeypatch.syspath_prepend(folder)

    def measured(weight: float) -> cb.Record:
        (folder / constant).write_text(f"WEIGHT = {weight}\n")
        name = method.format(folder=folder)
        return cb.run(name, protocol=protocol, results=tmp_path / "results", isolated=False, progress=False)

    first, second, again = measured(1.0), measured(0.0), measured(1.0)
    assert first.folder != second.folder
    assert not first.matrix().equals(second.matrix())
    assert again == first, "the old rule finds its old record"


def leaderboard(results: Path) -> str:
    result = CliRunner().invoke(app, ["leaderboard", "--results", str(results)])
    assert result.exit_code == 0, result.output
    return " ".join(result.stdout.split())


def test_versions_that_are_mixed_in_one_row_are_noted() -> None:
    said = leaderboard(case_folder("leaderboard_mixes_versions") / "mix")
    assert "its runs were measured with different software" in said
    for part in ("torch 2.14.1 and 2.2.0", "pillow 13.0.0 and 9.0.0", "numpy 1.26.4 and 2.4.6", "commit"):
        assert part in said


def test_a_spreadsheets_empty_column_costs_that_record_alone(tmp_path: Path) -> None:
    case = case_folder("matrix_csv_extra_column") / "cells_extra"
    (bad,) = case.glob("*/*/*")
    shutil.copytree(case, tmp_path, dirs_exist_ok=True)
    (good,) = (case_folder("leaderboard_mixes_versions") / "mix").glob("*/*/4c8d68f22dc5")
    shutil.copytree(good, tmp_path / "mini" / "opcm" / "4c8d68f22dc5")
    said = leaderboard(tmp_path)
    assert f"Left out: {tmp_path / bad.relative_to(case)}" in said.replace(" ", "").replace("Leftout:", "Left out: ")
    assert "regcl 1" in said, "the other record"
    result = CliRunner().invoke(app, ["show", str(tmp_path / bad.relative_to(case))])
    assert result.exit_code == 2
    assert "expected the columns step, domain, metric, value, count" in " ".join(result.stderr.split())
