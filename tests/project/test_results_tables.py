"""The tables of results in README and docs are those of the files in results/reference, and those of the records."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from support.shown_commands import text_of

from tools import write_results
from tools.write_results import PAGES, REFERENCE, TABLES, cell, filled, keep_records, label, open_board, rows_of

MINI = REFERENCE / "records" / "mini" / "regcl" / "6e1d72eddabb"


@pytest.mark.parametrize("page", PAGES)
def test_a_page_has_the_tables_of_the_files(page: str) -> None:
    text = text_of(page)
    assert "<!-- results: " in text
    assert text == filled(text), "Run: python -m tools.write_results"


def test_every_table_is_on_a_page() -> None:
    shown = "\n".join(text_of(page) for page in PAGES)
    assert [name for name in TABLES if f"<!-- results: {name} -->" not in shown] == []


def test_the_file_of_open_is_the_leaderboard_of_the_records() -> None:
    assert (REFERENCE / "open.csv").read_text(encoding="utf-8") == open_board(), "Run: python -m tools.write_results"


def test_a_row_without_deviation_or_value() -> None:
    row = {"last": "0.51239", "last_std": "", "ff": "", "ff_std": ""}
    assert (cell(row, "last"), cell(row, "ff")) == ("0.512", "\N{EN DASH}")
    product = {"method": "regcl", "settings": '{"space": "product"}'}
    assert (label(product), label(product | {"settings": "{}"})) == ("`regcl` (product)", "`regcl`")


def test_only_complete_records_of_the_pairs_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, variants, results = tmp_path / "kept", tmp_path / "variants", tmp_path / "results"
    monkeypatch.setattr(write_results, "RECORDS", kept)
    monkeypatch.setattr(write_results, "VARIANTS", variants)
    for name, changes in {
        "a": {"protocol": "open-pairs"},
        "b": {"protocol": "open-pairs", "status": "running"},
        "c": {},
        "d": {"protocol": "open-pairs", "settings": {"ridge": 0.5}},
    }.items():
        folder = results / "any" / "regcl" / name
        shutil.copytree(MINI, folder)
        (folder / "update.safetensors").write_bytes(b"large")
        info = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        (folder / "run.json").write_text(json.dumps(info | changes), encoding="utf-8")
    keep_records(results)
    names = ("config.toml", "matrix.csv", "run.json", "scores.csv")
    for folder, run in ((kept, "a"), (variants, "d")):
        files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        assert files == {f"open-pairs/regcl/{run}/{name}" for name in names}


def test_best_first() -> None:
    for name in ("mini", "open"):
        last = [float(row["last"]) for row in rows_of(name)]
        assert last == sorted(last, reverse=True)
