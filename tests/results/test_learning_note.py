"""What is said of runs that learned nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.records import run_info

from cosam_bench.evaluation.score_matrix import Cell
from cosam_bench.results.learning_note import learning_note
from cosam_bench.results.records import Record, RecordWriter
from cosam_bench.results.run_info import Cost

DOMAINS = ("pill", "camo")


def made(
    folder: Path, frozen: tuple[float, float], after: tuple[float, float], *, method: str = "regcl", **protocol: Any
) -> Record:
    """A record of which only frozen SAM's row and the scores right after learning were measured."""
    settings = {
        "fit": {"learning_rate": 0.001, "epochs": 2},
        "prompts": {"train": "box", "test": "box"},
    } | protocol
    cells = [Cell(0, name, "iou", score, 4) for name, score in zip(DOMAINS, frozen, strict=True)]
    cells += [Cell(step, DOMAINS[step - 1], "iou", score, 4) for step, score in enumerate(after, start=1)]
    RecordWriter(folder / method).write_matrix(cells)
    cost = Cost(train_seconds=(0.0, 0.0) if method == "frozen" else (1.0, 1.0))
    config = {"protocol": {"name": "mini"} | settings}
    return Record(folder / method, run_info(method=method, retention=(), config=config, cost=cost))


def test_a_run_that_gains_is_not_spoken_of(tmp_path: Path) -> None:
    assert learning_note([made(tmp_path, (0.5, 0.6), (0.6, 0.7))]) == ""


@pytest.mark.parametrize(("final", "is_told"), [((0.8, 0.6), False), ((0.5, 0.6), True)])
def test_a_run_on_all_domains_at_once_is_judged_by_its_last_row(
    final: tuple[float, float], is_told: bool, tmp_path: Path
) -> None:
    record = made(tmp_path, (0.5, 0.6), (0.5, 0.6), method="joint")
    cells = [Cell(step, *row, 4) for step, scores in ((0, (0.5, 0.6)), (2, final)) for row in rows_of(scores)]
    RecordWriter(record.folder).write_matrix(cells)
    at_once = Record(record.folder, record.info.model_copy(update={"marks": ("upper bound", "all domains at once")}))
    note = learning_note([at_once])
    assert ("At the end, joint scores 0.550 on the domains" in note) == is_told
    assert bool(note) == is_told


def rows_of(scores: tuple[float, float]) -> list[tuple[str, str, float]]:
    return [(name, "iou", score) for name, score in zip(DOMAINS, scores, strict=True)]


def test_the_means_the_rate_and_the_epochs_are_named(tmp_path: Path) -> None:
    note = learning_note([made(tmp_path, (0.5, 0.6), (0.51, 0.605))])
    assert "regcl scores 0.557 on it (mean IoU over domains), frozen SAM 0.550" in note  # (.51 + .605) / 2, 1.1 / 2
    assert "too low a rate or too few epochs (fit.learning_rate is 0.001, fit.epochs 2)" in note
    assert "prompt (" not in note
    assert "masks" in note


def test_one_run_that_learned_is_enough_unless_the_experts_did_not(tmp_path: Path) -> None:
    good = made(tmp_path, (0.5, 0.6), (0.7, 0.7), method="finetune")
    assert learning_note([made(tmp_path, (0.5, 0.6), (0.5, 0.6)), good]) == ""
    experts = made(tmp_path, (0.5, 0.6), (0.5, 0.6), method="experts")
    assert "the experts score 0.550" in learning_note([good, experts])


@pytest.mark.parametrize(
    ("frozen", "after", "protocol", "said"),
    [
        ((0.5, 0.6), (0.1, 0.2), {}, "too high a rate (fit.learning_rate is 0.001)"),
        ((0.95, 0.93), (0.95, 0.93), {}, "little is left to learn"),
        ((0.5, 0.6), (0.5, 0.6), {"prompts": {"train": "points", "test": "box"}}, "(points) than tested (box)"),
        ((0.5, 0.6), (0.5, 0.6), {"fit": {}}, "fit.epochs unknown"),
    ],
)
def test_the_likely_cause(
    frozen: tuple[float, float], after: tuple[float, float], protocol: dict[str, Any], said: str, tmp_path: Path
) -> None:
    assert said in learning_note([made(tmp_path, frozen, after, **protocol)])


def test_an_expert_behind_frozen_sam_is_named(tmp_path: Path) -> None:
    note = learning_note([made(tmp_path, (0.5, 0.6), (0.7, 0.55), method="experts")])
    assert "own domains: camo (0.550, frozen 0.600)." in note
    assert "pill" not in note


def test_what_was_not_trained_or_not_measured_is_left_out(tmp_path: Path) -> None:
    assert learning_note([made(tmp_path, (0.5, 0.6), (0.5, 0.6), method="frozen")]) == ""
    unmeasured = Record(tmp_path / "joint", run_info(method="joint", retention=(), cost=Cost(train_seconds=(1.0,))))
    RecordWriter(tmp_path / "joint").write_matrix([Cell(0, "pill", "iou", 0.5, 4)])
    assert learning_note([unmeasured]) == ""
    assert learning_note([]) == ""
