"""docs/reproduction.md states every published number, and its commands resolve."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from cosam_bench.cli.main import app
from cosam_bench.experiments.protocol import protocol_names
from cosam_bench.results.published import Published, PublishedNumber, PublishedRow, all_published

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "reproduction.md").read_text(encoding="utf-8")
COSAM, REGCL = all_published()
START = "--set adapter.start=pretrain_maskDecoderHQ.pth"
PRINTED = ("last", "avg", "ff", "retention")


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "140")
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


def text_of(row: PublishedRow, name: str, metric: str) -> str:
    stated: PublishedNumber | None = row.scores(metric).get(name)
    return "\N{EN DASH}" if stated is None else stated.text(COSAM.sources[row.source].decimals)


def command_of(one: Published, row: PublishedRow) -> str:
    """What repeats a row with its first seed; empty where nothing here can."""
    if not row.method:
        return ""
    settings = " ".join(f"--set {setting}" for setting in row.settings) or START
    return f"cosam-bench run --protocol {one.protocol} --mode faithful --method {row.method} --seed 0 {settings}"


def rows_below(head: str) -> dict[str, list[str]]:
    """By its first cell, each row of the table below a heading."""
    text = PAGE.partition(f"\n{head}\n")[2].partition("\n## ")[0].partition("\n### ")[0]
    lines = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    assert len(lines) > 2, head
    return {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in lines[2:]}


@pytest.mark.parametrize(("head", "metric"), [("### IoU", "iou"), ("### Boundary IoU", "boundary_iou")])
def test_the_page_states_every_published_figure(head: str, metric: str) -> None:
    rows = rows_below(head)
    assert list(rows) == [row.name for row in COSAM.rows]
    figures = PRINTED if metric == "iou" else PRINTED[:3]
    for row in COSAM.rows:
        stated = rows[row.name][: len(figures)]
        assert stated == [text_of(row, name, metric) for name in figures], row.name
        assert len(rows[row.name]) == len(figures) + 1


def test_the_page_has_one_command_a_row_and_says_why_numbers_may_differ() -> None:
    rows = rows_below("### One command per row")
    assert list(rows) == [row.name for row in COSAM.rows]
    for row in COSAM.rows:
        command, why = rows[row.name]
        expected = command_of(COSAM, row)
        assert command == (f"`{expected}`" if expected else "\N{EN DASH}"), row.name
        assert row.note in why, row.name
        assert why, row.name


@pytest.mark.parametrize("matrix", COSAM.matrices, ids=lambda matrix: matrix.metric)
def test_the_page_states_the_logged_matrix(matrix: object) -> None:
    rows = rows_below("### The logged matrix")
    logged = COSAM.matrices[0 if matrix is COSAM.matrices[0] else 1]
    metric = "IoU" if logged.metric == "iou" else "boundary IoU"
    for step, scores in zip(logged.after, logged.scores, strict=True):
        assert rows[f"{step} {logged.domains[step - 1]}, {metric}"] == [f"{score:.2f}" for score in scores]
    assert len(rows) == sum(len(one.after) for one in COSAM.matrices)
    assert np.array(logged.scores).shape[1] == 9


@pytest.mark.parametrize(("one", "head"), [(COSAM, "### Expected values"), (REGCL, "### Expected values for RegCL")])
def test_the_page_states_every_anchor(one: Published, head: str) -> None:
    rows = rows_below(head)
    assert list(rows) == [anchor.name for anchor in one.anchors]
    for anchor in one.anchors:
        values = anchor.value if isinstance(anchor.value, tuple) else (anchor.value,)
        stated = ", ".join("the log" if value is None else f"{value:,.10g}" for value in values)
        tolerance = "not stated" if anchor.tolerance is None else f"{anchor.tolerance:g}"
        assert rows[anchor.name][:3] == [
            f"{stated} {anchor.unit}".strip(),
            tolerance,
            one.sources[anchor.source].evidence,
        ]


def test_the_page_states_every_claim() -> None:
    rows = rows_below("### What is claimed for SAMCL")
    assert list(rows) == [claim.name for claim in REGCL.claims]
    for claim in REGCL.claims:
        stated = f"{claim.value:g} {claim.unit}".strip()
        assert rows[claim.name] == [stated, REGCL.sources[claim.source].evidence, claim.note or "\N{EN DASH}"]


def commands() -> list[str]:
    """Every run on the page, each once."""
    spans = re.findall(r"`(cosam-bench run [^`]*)`", PAGE)
    blocks = re.findall(r"^(cosam-bench run .*)$", PAGE, flags=re.MULTILINE)
    return list(dict.fromkeys([*spans, *blocks]))


@pytest.mark.parametrize("command", commands())
def test_a_command_on_the_page_resolves(cli: Callable[..., Result], command: str) -> None:
    result = cli(*shlex.split(command)[1:], "--dry-run")
    assert result.exit_code == 0, result.stderr
    assert "protocol" in result.stdout


def test_the_page_gives_a_command_for_every_method_of_the_papers() -> None:
    given = {tuple(re.findall(r"--(?:protocol|method) (\S+)", command)) for command in commands()}
    assert {("cosam", row.method) for row in COSAM.rows if row.method} <= given
    assert {
        ("regcl", method) for method in ("regcl", "finetune", "experts", "average", "magmax", "ties", "dop")
    } <= given
    assert {protocol for protocol, _ in given} <= set(protocol_names())
