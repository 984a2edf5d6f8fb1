"""Both published protocols from the command line, on imitations of their data: without it, prepared, and measured."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from support import imitations
from typer.testing import CliRunner, Result

from cosam_bench.cli.main import app

COSAM = (
    "bsdata@cosam",
    "rsdd_i@cosam",
    "rsdd_ii@cosam",
    "mvtec_i@cosam",
    "mvtec_ii@cosam",
    "mvtec_iii@cosam",
    "camo@cosam",
    "kvasir@cosam",
)
REGCL = ("kvasir@regcl", "camo@regcl", "istd@regcl", "isic@regcl", "cod@regcl")


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COSAM_BENCH_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("COSAM_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def measure(tmp_path: Path, protocol: str, method: str, mode: str, *others: str) -> dict[str, Any]:
    """The record's run.json, and its matrix under ``matrix``."""
    words = ("run", "--protocol", protocol, "--method", method, "--mode", mode, "--model", "tiny")
    settings = ("--set", "fit.epochs=1", *(word for other in others for word in ("--set", other)))
    result = call(*words, *settings, "--results", tmp_path / "results")
    assert result.exit_code == 0, result.output
    name = protocol if mode == "clean" else f"{protocol}-{mode}"
    (folder,) = (tmp_path / "results" / name / method).iterdir()
    record: dict[str, Any] = json.loads((folder / "run.json").read_text())
    with (folder / "matrix.csv").open() as file:
        record["matrix"] = list(csv.DictReader(file))
    return record


@pytest.mark.parametrize(("protocol", "domains"), [("cosam", COSAM), ("regcl", REGCL)])
def test_a_run_without_data_says_what_is_missing_and_the_next_command(protocol: str, domains: tuple[str, ...]) -> None:
    result = call("run", "--protocol", protocol, "--method", "regcl")
    assert result.exit_code == 2
    lines = result.output.splitlines()
    for name in domains:
        (line,) = [line for line in lines if line.strip().startswith(f"{name}:")]
        fetch, prepare = f"cosam-bench data fetch {name}", f"cosam-bench data prepare {name} --from"
        assert (fetch in line) != (prepare in line)
        assert "http" in line


@pytest.mark.parametrize("mode", ["clean", "faithful"])
def test_moda_runs_under_cosams_protocol_on_its_bundle(tmp_path: Path, mode: str) -> None:
    for card in (*COSAM, "coco200@cosam"):
        imitations.build(card, tmp_path / "bundle", "cosam_bundle")
    assert call("data", "prepare", "--all", "--from", tmp_path / "bundle").exit_code == 0
    options = ("method.router_epochs=1", "method.memory=2", "method.tokens=2")
    record = measure(tmp_path, "cosam", "moda", mode, *options)
    assert record["order"] == list(COSAM)
    steps = {(row["step"], row["domain"]) for row in record["matrix"] if row["metric"] == "iou"}
    assert len(steps) == 9 * 9
    last = [float(row["value"]) for row in record["matrix"] if row["step"] == "8" and row["metric"] == "iou"]
    assert all(0 <= value <= 1 for value in last)
    assert len(set(last)) == 9  # a score each, none of them a stand-in


@pytest.mark.parametrize("mode", ["clean", "faithful"])
def test_regcl_runs_under_its_protocol_on_samcls_bundle(tmp_path: Path, mode: str) -> None:
    for card in (*REGCL, "coco100@samcl"):
        imitations.build(card, tmp_path / "bundle", "samcl_bundle")
    assert call("data", "prepare", "--all", "--from", tmp_path / "bundle").exit_code == 0
    # After one epoch on seven images the norms still have their first weights: no Gram sum has an inverse.
    record = measure(tmp_path, "regcl", "regcl", mode, "method.ridge=1e-6")
    assert record["order"] == list(REGCL)
    errors = [float(row["value"]) for row in record["matrix"] if row["metric"] == "pixel_error"]
    assert len(errors) == 6 * 6
    assert all(0 < error < 1 for error in errors)
    assert record["status"] == "complete"


def test_the_sources_own_layouts_serve_the_union_of_both(tmp_path: Path) -> None:
    learned = (*COSAM, "istd@regcl", "isic@regcl", "cod@regcl")
    for card in (*learned, "coco200@cosam"):
        # COCO's own layout must hold two hundred images, so the bundle's stands for it.
        layout = "cosam_bundle" if card == "coco200@cosam" else "source"
        folder = imitations.build(card, tmp_path / "sources" / card, layout)
        assert call("data", "prepare", card, "--from", folder).exit_code == 0
    record = measure(tmp_path, "union", "average", "clean")
    assert record["order"] == list(learned)
    assert {row["domain"] for row in record["matrix"]} == {*learned, "coco200@cosam"}
