"""Boards of the report: who stands where, with which intervals, and what is left out with which note."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import pytest
from support.recorded import record

from cosam_bench.evaluation.contributions import contributions
from cosam_bench.evaluation.figures import FIGURES
from cosam_bench.evaluation.intervals import interval
from cosam_bench.results.image_scores import read_image_scores
from cosam_bench.results.leaderboard import leaderboard
from cosam_bench.results.report.boards import boards_of
from cosam_bench.results.report.views import board_view


def test_figures_and_costs_are_the_leaderboards(tmp_path: Path) -> None:
    made = [record(tmp_path, method=name, seed=seed) for name in ("regcl", "average", "experts") for seed in (0, 1)]
    frame = leaderboard(made).set_index("method")
    (board,), notes = boards_of(made, metric="iou")
    assert not notes
    assert [entry.label for entry in board.entries] == list(frame.index)
    for entry in board.entries:
        for name in FIGURES:
            assert entry.figures[name].estimate == pytest.approx(frame.loc[entry.label, name], nan_ok=True), name
        assert entry.costs["state_kib"] == frame.loc[entry.label, "state_kib"]


def test_intervals_are_those_of_the_image_scores(tmp_path: Path) -> None:
    made = [record(tmp_path, method="regcl", seed=seed) for seed in (0, 1, 2)]
    (board,), _ = boards_of(made, metric="dice")
    wanted = interval([contributions(read_image_scores(one, metric="dice"), FIGURES["ff"]) for one in made])
    assert board.entries[0].figures["ff"] == wanted


def test_intervals_and_ranks_are_the_leaderboards(tmp_path: Path) -> None:
    levels = {"regcl": 0.6, "opcm": 0.55, "average": 0.55, "frozen": 0.3}
    made = [record(tmp_path, method=name, seed=seed, level=level) for name, level in levels.items() for seed in (0, 1)]
    made += [record(tmp_path, method="experts", seed=seed, level=0.9, marks=("upper bound",)) for seed in (0, 1)]
    frame = leaderboard(made, intervals=tuple(FIGURES)).set_index("method")
    (board,), _ = boards_of(made, metric="iou")
    for entry in board.entries:
        row = frame.loc[entry.label]
        for name, found in entry.figures.items():
            assert [found.low, found.high] == pytest.approx([row[f"{name}_low"], row[f"{name}_high"]], nan_ok=True)
        if entry.label == "experts":
            assert entry.rank is None
        else:
            assert entry.rank is not None
            assert (entry.rank.best, entry.rank.worst) == (row["rank_best"], row["rank_worst"])
    csv_rows = {row["method"]: row for row in csv.DictReader(io.StringIO(board_view(board).download.text))}
    assert csv_rows["experts"]["rank_best"] == ""
    assert csv_rows["frozen"]["rank_best"] == "4"


def test_lost_plasticity_is_measured_against_experts_that_are_not_shown(tmp_path: Path) -> None:
    made = [record(tmp_path, method=name, seed=seed) for name in ("regcl", "experts") for seed in (0, 1)]
    (board,), _ = boards_of(made[:2], metric="iou", experts_from=made)
    (whole,), _ = boards_of(made, metric="iou")
    (wanted,) = (entry for entry in whole.entries if entry.label == "regcl")
    (entry,) = board.entries
    assert entry.figures["plasticity"] == wanted.figures["plasticity"]
    (alone,), _ = boards_of(made[:2], metric="iou")
    assert math.isnan(alone.entries[0].figures["plasticity"].estimate)


def test_settings_tell_entries_of_one_method_apart(tmp_path: Path) -> None:
    made = [record(tmp_path, method="ties", settings={"keep": keep, "scale": 1.0}) for keep in (0.2, 0.5)]
    (board,), _ = boards_of(made, metric="iou")
    assert {entry.label for entry in board.entries} == {"ties keep=0.2", "ties keep=0.5"}


def test_ranks_separate_what_differs_and_join_what_does_not(tmp_path: Path) -> None:
    levels = {"high": 0.9, "low one": 0.3, "low two": 0.3}
    made = [record(tmp_path, method=name, level=level) for name, level in levels.items()]
    (board,), _ = boards_of(made, metric="iou")
    ranks = {entry.label: (entry.rank.best, entry.rank.worst) for entry in board.entries if entry.rank}
    assert ranks == {"high": (1, 1), "low one": (2, 3), "low two": (2, 3)}


def test_unlike_conditions_stay_apart_and_the_note_names_the_field(tmp_path: Path) -> None:
    made = [record(tmp_path, method="regcl"), record(tmp_path, method="average", checkpoint="other")]
    boards, (note,) = boards_of(made, metric="iou")
    assert [len(board.entries) for board in boards] == [1, 1]
    assert "differ in the model's weights" in note


def test_incomplete_damaged_and_repeated_runs_are_left_out_with_a_note(tmp_path: Path) -> None:
    good = record(tmp_path, method="regcl")
    failed = record(tmp_path, method="failed", status="failed")
    damaged = record(tmp_path, method="damaged")
    (damaged.folder / "scores.csv").write_text("step,domain,key,iou\n0,pill,a,7\n")
    again = record(tmp_path / "again", method="regcl")
    (board,), notes = boards_of([good, failed, damaged, again], metric="iou")
    assert [entry.label for entry in board.entries] == ["regcl"]
    assert len(notes) == 3
    assert any("failed" in note for note in notes)
    assert any("scores.csv, line 2" in note for note in notes)
    assert any("repeats the seed and order" in note for note in notes)


def test_a_marked_method_is_never_highlighted(tmp_path: Path) -> None:
    made = [
        record(tmp_path, method="joint", level=0.9, marks=("upper bound",)),
        record(tmp_path, method="regcl", level=0.6),
        record(tmp_path, method="average", level=0.3),
    ]
    (board,), _ = boards_of(made, metric="iou")
    view = board_view(board)
    last = [column.title for column in view.columns].index("Last")
    assert [cells[last].is_best for _, cells in view.rows] == [False, True, False]
    assert not any(cell.is_best for cell in view.rows[0][1])
    fronts = [list(csv.DictReader(io.StringIO(chart.download.text))) for chart in view.charts[-2:]]
    assert all(row["on_front"] == "no" for rows in fronts for row in rows if row["method"] == "joint")


def test_a_method_of_two_codes_is_highlighted(tmp_path: Path) -> None:
    made = [
        record(tmp_path, method="mine", seed=0, level=0.9, rule="a" * 64),
        record(tmp_path, method="mine", seed=1, level=0.8, rule="b" * 64),
        record(tmp_path, method="regcl", level=0.3),
    ]
    (board,), _ = boards_of(made, metric="iou")
    assert [entry.label for entry in board.entries] == ["mine code aaaaaa", "mine code bbbbbb", "regcl"]
    view = board_view(board)
    last = [column.title for column in view.columns].index("Last")
    assert [cells[last].is_best for _, cells in view.rows] == [True, False, False]


def test_downloads_hold_full_precision_and_no_formulas(tmp_path: Path) -> None:
    made = [record(tmp_path, method="=cmd", level=0.9), record(tmp_path, method="regcl", level=0.3)]
    (board,), _ = boards_of(made, metric="iou")
    rows = list(csv.DictReader(io.StringIO(board_view(board).download.text)))
    assert [row["method"] for row in rows] == ["'=cmd", "regcl"]
    assert float(rows[0]["last"]) == board.entries[0].figures["last"].estimate
    assert float(rows[0]["ff_low"]) == board.entries[0].figures["ff"].low


def test_the_matrix_download_holds_every_cell(tmp_path: Path) -> None:
    made = record(tmp_path, method="regcl")
    (board,), _ = boards_of([made], metric="iou")
    rows = list(csv.DictReader(io.StringIO(board_view(board).entries[0].download.text)))
    scores = made.matrix()
    assert [float(row["score"]) for row in rows] == scores.values.ravel().tolist()
    lost = [row["forgetting"] for row in rows if (row["step"], row["domain"]) == ("3", "pill")]
    assert float(lost[0]) == pytest.approx(scores.values[1, 0] - scores.values[3, 0])
