"""``cosam-bench verify``: its words and its exit codes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support.command_line import words
from typer.testing import Result

import cosam_bench as cb

SUBMITTED = Path(__file__).resolve().parents[2] / "results" / "reference" / "records"
[HASH] = [path.name for path in (SUBMITTED / "mini" / "regcl").iterdir()]


def test_records_that_verify_end_with_code_0(cli: Callable[..., Result]) -> None:
    found = cli("verify", "--all", "--results", SUBMITTED)
    assert found.exit_code == 0
    assert f"mini/regcl/{HASH}: verified, 405 cells from 1,944 image scores" in found.stdout
    note = f"Note: mini/regcl/{HASH}: not in the folder, so not checked: examples.json, state.safetensors"
    assert note in words(found.stderr)


def test_a_record_that_does_not_verify_ends_with_code_1(cli: Callable[..., Result], tmp_path: Path) -> None:
    shutil.copytree(SUBMITTED, tmp_path / "results")
    [path] = (tmp_path / "results").glob("*/*/*/scores.csv")
    path.write_text(path.read_text(encoding="utf-8").replace(",0.", ",7."), encoding="utf-8")
    found = cli("verify", "regcl")
    assert found.exit_code == 1
    assert f"mini/regcl/{HASH}: does not verify" in found.stdout
    assert "scores.csv: its sha256 is" in found.stdout
    assert "scores.csv, line 2: iou of 'test-0000' is 7." in found.stdout
    assert "more" in found.stdout.splitlines()[-1]
    assert "Error: 1 of 1 records does not verify." in words(found.stderr)


def test_a_record_that_cannot_be_scored_again_keeps_no_other_from_it(
    cli: Callable[..., Result], quick_protocol: Path, tmp_path: Path
) -> None:
    results = tmp_path / "results"
    for method in ("average", "frozen"):
        cb.run(method, protocol=quick_protocol, results=results, progress=False)
    [folder] = (results / "quick" / "average").iterdir()
    for name in ("update.safetensors", "state.safetensors"):
        (folder / name).unlink()
    found = cli("verify", "--all", "--rescore", "--results", results)
    assert found.exit_code == 2
    assert "cannot be scored again" in found.stdout
    assert "state.safetensors scored again: verified; 0 of 12 images differ" in found.stdout
    assert "Error: 1 of 2 records could not be scored again, for the reasons above." in words(found.stderr)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Name the records to verify, or give --all"),
        (("regcl", "--all"), "Name the records to verify, or give --all"),
        (("regcl",), "No folder results. Give another folder of results"),
        (("regcl", "--results", "."), "No record in . fits 'regcl'"),
        (("--all",), "No folder results. Give another folder of results"),
        (("--all", "--results", "."), ". has no record of a run"),
        (("--all", "--device", "cpu"), "Add --rescore"),
        (("regcl", "--rescore", "--results", SUBMITTED), "neither update.safetensors nor state.safetensors"),
    ],
)
def test_bad_requests_end_with_code_2(cli: Callable[..., Result], arguments: tuple[str, ...], message: str) -> None:
    found = cli("verify", *arguments)
    assert found.exit_code == 2
    assert message in words(found.stderr)
