"""``cosam-bench report``: what it says and writes, and how it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.recorded import record
from typer.testing import CliRunner

from cosam_bench.cli.main import app


def test_it_writes_the_page_and_says_where(tmp_path: Path) -> None:
    record(tmp_path / "r", method="regcl", side=16)
    out = tmp_path / "page.html"
    found = CliRunner().invoke(app, ["report", "--results", str(tmp_path / "r"), "--out", str(out), "--no-images"])
    assert found.exit_code == 0
    assert f"Written: {out} (1 method, 0." in found.stdout
    assert "data:image/jpeg" not in out.read_text()


def test_without_out_it_lies_in_the_folder_of_records(tmp_path: Path) -> None:
    record(tmp_path, method="regcl")
    assert CliRunner().invoke(app, ["report", "--results", str(tmp_path)]).exit_code == 0
    assert (tmp_path / "report.html").is_file()


def test_options_choose_the_runs(tmp_path: Path) -> None:
    for method in ("regcl", "opcm", "ties"):
        record(tmp_path, method=method)
    asked = ["report", "--results", str(tmp_path), "--method", "regcl,ties", "--seeds", "0-1", "--orders", "stream"]
    found = CliRunner().invoke(app, asked)
    assert found.exit_code == 0, found.output
    assert "(2 methods," in found.stdout
    page = (tmp_path / "report.html").read_text()
    assert (">ties<" in page, ">opcm<" in page) == (True, False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--metric", "iuo"), "Did you mean 'iou'"),
        (("--protocol", "mini"), "No protocol in these records"),
        (("--results", "nowhere"), "No folder nowhere"),
        (("--out", "/dev/null/report.html"), "cannot be written"),
        (("--method", "regcll"), "No method in these records"),
        (("--method", ","), "--method is empty"),
        (("--seeds", "4"), "No record here has the seed 4"),
    ],
)
def test_bad_requests_end_with_code_2(tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    record(tmp_path, method="regcl")
    found = CliRunner().invoke(app, ["report", "--results", str(tmp_path), *options])
    assert found.exit_code == 2
    assert message in found.stderr.replace("\n", " ")
    assert "Traceback" not in found.stderr
