"""The records that belong to the repository: each complete, small, verified, and in its own folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from cosam_bench.results.protocol_match import differences
from cosam_bench.results.records import record_folder
from cosam_bench.results.results_folder import run_files
from cosam_bench.results.run_info import read_run_info, run_schema
from cosam_bench.results.verification import REQUIRED, verify_record

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "results" / "reference"
SCHEMA = ROOT / "docs" / "schemas" / "run.schema.json"
MOST_BYTES = 2_000_000  # cosam's nine columns of 952 images make 1.2 MB

FOLDERS = (REFERENCE / "records", REFERENCE / "open", REFERENCE / "variants")
RECORDS = [path.parent for results in FOLDERS for path in run_files(results)]


@pytest.mark.parametrize("results", FOLDERS, ids=lambda results: results.name)
def test_every_file_belongs_to_a_record(results: Path) -> None:
    allowed = {path.parent / name for path in run_files(results) for name in (*REQUIRED, "run.json")}
    assert allowed
    assert {path for path in results.rglob("*") if path.is_file()} == allowed


@pytest.mark.parametrize("folder", RECORDS, ids=lambda folder: folder.relative_to(REFERENCE).as_posix())
def test_a_submitted_record_is_what_was_computed(folder: Path) -> None:
    assert [str(fault) for fault in verify_record(folder).faults] == []
    info = read_run_info(folder / "run.json")
    assert set(REQUIRED) <= set(info.files), "Records of older versions have no hashes: run again to submit."
    assert differences(info) == "", "It changes what a built-in protocol fixes."
    results = folder.parents[2]
    assert folder == record_folder(results, protocol=info.protocol, method=info.method, digest=folder.name)
    assert sum(path.stat().st_size for path in folder.iterdir()) <= MOST_BYTES


@pytest.mark.parametrize("folder", RECORDS, ids=lambda folder: folder.relative_to(REFERENCE).as_posix())
def test_a_submitted_run_json_fits_the_published_schema(folder: Path) -> None:
    data = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert [error.message for error in validator().iter_errors(data)] == []


def validator() -> Draft202012Validator:
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def test_the_published_schema_is_the_model_that_reads_the_file() -> None:
    assert json.loads(SCHEMA.read_text(encoding="utf-8")) == run_schema(), "Run: python tools/write_schema.py"


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 1},
        {"seed": "zero"},
        {"order": []},
        {"status": "done"},
        {"files": {"scores.csv": "12"}},
        {"summary": {"iou": {"last": "high"}}},
        {"comment": "mine"},
    ],
)
def test_the_published_schema_refuses_what_the_reader_refuses(change: dict[str, object]) -> None:
    data = json.loads((RECORDS[0] / "run.json").read_text(encoding="utf-8"))
    assert validator().is_valid(data)
    assert not validator().is_valid(data | change)
