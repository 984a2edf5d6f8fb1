"""The leaderboard's intervals and ranks: whose scores they come from, and which rows have none."""

from __future__ import annotations

import math
from pathlib import Path

import pandas
import pytest
from support.recorded import ORDER, record

from cosam_bench.core.errors import CosamError
from cosam_bench.evaluation.bootstrap import bootstrap_interval
from cosam_bench.evaluation.contributions import contributions
from cosam_bench.evaluation.figures import FIGURES
from cosam_bench.evaluation.intervals import interval
from cosam_bench.results.image_scores import read_image_scores
from cosam_bench.results.leaderboard import leaderboard
from cosam_bench.results.leaderboard_view import boards_of
from cosam_bench.results.records import Record
from cosam_bench.results.report.boards import boards_of as report_boards

EVERY = tuple(FIGURES)


def row_of(frame: pandas.DataFrame, method: str) -> pandas.Series:
    (place,) = frame.index[frame["method"] == method]
    return frame.loc[place]


def test_each_figure_has_the_interval_of_its_image_scores(tmp_path: Path) -> None:
    runs = [record(tmp_path, method="regcl", seed=seed) for seed in (0, 1, 2)]
    experts = [record(tmp_path, method="experts", seed=seed, marks=("upper bound",)) for seed in (0, 1, 2)]
    row = row_of(leaderboard([*runs, *experts], intervals=EVERY, level=0.9), "regcl")
    mine, theirs = ([read_image_scores(one) for one in made] for made in (runs, experts))
    for name, figure in FIGURES.items():
        if figure.is_linear:
            shares = [contributions(a, figure, experts=b) for a, b in zip(mine, theirs, strict=True)]
            expected = interval(shares, level=0.9)
        else:
            expected = bootstrap_interval(mine, figure, level=0.9)
        assert (row[f"{name}_low"], row[f"{name}_high"]) == (expected.low, expected.high), name
        assert expected.low <= row[name] <= expected.high, name
    assert (row["interval_runs"], row["interval_basis"]) == (3, "images and runs")


def test_one_run_says_that_its_interval_is_of_images_only(tmp_path: Path) -> None:
    frame = leaderboard([record(tmp_path, method="regcl")], intervals=["last"])
    assert row_of(frame, "regcl")["interval_basis"] == "images"
    (board,) = boards_of(frame)
    assert "with 1 run the interval is of images only and says nothing about the seed" in board.legend
    many = leaderboard([record(tmp_path, method="regcl", seed=seed) for seed in (1, 2)], intervals=["last"])
    assert not any("images only" in line for line in boards_of(many)[0].legend)


def test_ranks_separate_what_differs_and_leave_out_what_is_no_competitor(tmp_path: Path) -> None:
    made = [
        record(tmp_path, method="joint", level=0.95, marks=("upper bound",)),
        record(tmp_path, method="high", level=0.9, marks=("reconstructed",)),
        record(tmp_path, method="low", level=0.3),
        record(tmp_path, method="alike", level=0.3),
    ]
    frame = leaderboard(made, intervals=["last"])
    ranks = {row["method"]: (row["rank_best"], row["rank_worst"]) for _, row in frame.iterrows()}
    assert ranks["high"] == (1, 1)
    assert ranks["low"] == ranks["alike"] == (2, 3)
    assert all(pandas.isna(end) for end in ranks["joint"])
    (board,) = boards_of(frame)
    assert [row.rank for row in board.rows] == ["", "1", "2-3", "2-3"]
    assert not any("≈" in line for line in board.legend)


def test_methods_that_cannot_be_told_from_the_leader_are_marked(tmp_path: Path) -> None:
    made = [record(tmp_path, method=name, level=0.3) for name in ("one", "two")]
    made.append(record(tmp_path, method="far", level=0.1))
    (board,) = boards_of(leaderboard(made, intervals=["last"]))
    assert [row.rank for row in board.rows] == ["1-2≈", "1-2≈", "3"]
    assert "≈ rank not separable from the leader's" in board.legend


def test_ranks_follow_the_figure_that_sorts(tmp_path: Path) -> None:
    made = [record(tmp_path, method="good", level=0.8), record(tmp_path, method="bad", level=0.2)]
    by_error = leaderboard(made, metric="mae", intervals=["last"])
    assert by_error["method"].tolist() == ["bad", "good"]
    assert by_error["rank_best"].tolist() == [1, 2]
    assert leaderboard(made, intervals=["avg"], sort_by="avg").attrs["ranked_by"] == "avg"
    assert leaderboard(made, intervals=["last"], sort_by="ff_max").attrs["ranked_by"] == "last"
    assert leaderboard(made, intervals=["last"], sort_by="method").attrs["ranked_by"] == "last"


def test_a_row_with_unreadable_scores_keeps_its_figures(tmp_path: Path) -> None:
    made = [record(tmp_path, method=name, seed=seed) for name in ("regcl", "average") for seed in (0, 1)]
    before = row_of(leaderboard(made), "regcl")
    (made[1].folder / "scores.csv").write_text("step,domain,key,iou\n0,pill,a,7\n")
    frame = leaderboard(made, intervals=EVERY)
    row = row_of(frame, "regcl")
    assert all(row[name] == before[name] or math.isnan(before[name]) for name in FIGURES)
    assert math.isnan(row["last_low"])
    assert pandas.isna(row["rank_best"])
    assert row_of(frame, "average")["rank_best"] == 1
    assert any("No interval for a row" in note and "scores.csv, line 2" in note for note in frame.attrs["notes"])
    (board,) = boards_of(frame)
    assert "rows without image scores: ± sample deviation over runs" in board.legend


def test_a_record_with_other_images_has_no_interval_and_is_named(tmp_path: Path) -> None:
    made = [record(tmp_path, method=name) for name in ("regcl", "average", "opcm")]
    path = made[0].folder / "scores.csv"
    path.write_text("".join(line for line in path.read_text().splitlines(True) if ",test-3," not in line))
    frame = leaderboard(made, intervals=EVERY)
    assert math.isnan(row_of(frame, "regcl")["last_low"])
    assert not math.isnan(row_of(frame, "average")["last_low"])
    assert any("other images" in note and "cosam-bench verify" in note for note in frame.attrs["notes"])


def test_of_a_repeated_seed_only_the_latest_run_counts(tmp_path: Path) -> None:
    old = record(tmp_path / "old", method="regcl", level=0.2)
    new = record(tmp_path / "new", method="regcl", level=0.8)
    later = Record(new.folder, new.info.model_copy(update={"started": "2027-01-01T00:00:00+00:00"}))
    other = record(tmp_path / "new", method="regcl", level=0.6, seed=5)
    frame = leaderboard([later, old, other], intervals=["last"])
    row = row_of(frame, "regcl")
    found = interval([contributions(read_image_scores(one), FIGURES["last"]) for one in (new, other)])
    assert (row["runs"], row["interval_runs"]) == (2, 2)
    assert row["last"] == pytest.approx(found.estimate)
    assert (row["last_low"], row["last_high"]) == (found.low, found.high)
    assert f"Left out: {old.name} repeats the seed and order of {new.name}." in frame.attrs["notes"]
    (shown,) = report_boards([later, old, other], metric="iou")[0]
    (entry,) = shown.entries
    assert entry.figures["last"].estimate == pytest.approx(row["last"])


def test_a_row_is_ranked_only_by_a_figure_that_all_of_its_runs_have(tmp_path: Path) -> None:
    def both(method: str, level: float) -> list[Record]:
        return [record(tmp_path, method=method, level=level, seed=seed) for seed in (0, 1)]

    experts = record(tmp_path, method="experts", level=0.9, marks=("upper bound",))
    alone = record(tmp_path, method="alone", level=0.7)
    frame = leaderboard(
        [experts, alone, *both("high", 0.8), *both("low", 0.3)], sort_by="plasticity", intervals=["last"]
    )
    assert math.isnan(row_of(frame, "low")["plasticity"]), "seed 1 has no experts"
    ranks = {name: row_of(frame, name)["rank_worst"] for name in ("alone", "high", "low")}
    assert pandas.isna([ranks["high"], ranks["low"]]).all()
    assert ranks["alone"] == 1
    without = leaderboard([alone, *both("high", 0.8)], domains=["natural"], intervals=["last"])
    assert without["last"].isna().all()
    assert without["rank_best"].isna().all()
    assert without["interval_basis"].tolist() == ["none", "none"]


def test_chosen_domains_alone_enter_the_means(tmp_path: Path) -> None:
    made = record(tmp_path, method="regcl")
    matrix = made.score_matrix()
    frame = leaderboard([made], domains=["polyp", "rim"], intervals=EVERY)
    row = row_of(frame, "regcl")
    assert row["last"] == pytest.approx((matrix.values[3, 1] + matrix.values[3, 2]) / 2, abs=1e-12)
    assert row["last_low"] < row["last"] < row["last_high"]
    assert math.isnan(row["retention"])
    assert "over polyp, rim alone" in boards_of(frame)[0].title


def test_without_intervals_no_image_scores_are_read(tmp_path: Path) -> None:
    made = record(tmp_path, method="regcl")
    (made.folder / "scores.csv").unlink()
    frame = leaderboard([made])
    assert frame.attrs["notes"] == ()
    assert pandas.isna(frame["rank_best"]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sort_by": "lats"}, "No column of the leaderboard is called 'lats'. Did you mean 'last'"),
        ({"domains": ["pil"]}, "No domain in the records of 'made' is called 'pil'. Did you mean 'pill'"),
        ({"domains": []}, "No domain is named"),
        ({"level": 1.0}, "between 0 and 1"),
        ({"level": math.nan}, "between 0 and 1"),
    ],
)
def test_requests_that_cannot_be_met_are_refused(options: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(CosamError, match=message):
        leaderboard([record(tmp_path, method="regcl")], **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("sort_by", "expected"),
    [
        ("last", ["c", "b", "a"]),
        ("-last", ["a", "b", "c"]),
        ("method", ["a", "b", "c"]),
        ("-method", ["c", "b", "a"]),
        ("last_low", ["c", "b", "a"]),
        ("rank_best", ["c", "b", "a"]),
    ],
)
def test_rows_are_sorted_by_any_column_the_best_first(sort_by: str, expected: list[str], tmp_path: Path) -> None:
    made = [record(tmp_path, method=name, level=level) for name, level in (("a", 0.2), ("b", 0.5), ("c", 0.8))]
    frame = leaderboard(made, intervals=["last"], sort_by=sort_by)
    assert frame["method"].tolist() == expected


def test_what_has_no_value_comes_last_in_both_directions(tmp_path: Path) -> None:
    made = [record(tmp_path, method=name) for name in ("a", "b")]
    alone = record(tmp_path, method="alone", order=ORDER, seed=3)
    experts = record(tmp_path, method="experts", marks=("upper bound",))
    for sort_by in ("plasticity", "-plasticity"):
        assert leaderboard([*made, alone, experts], sort_by=sort_by)["method"].tolist()[-1] == "alone"
