from __future__ import annotations

import csv
import io
import math
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console, RenderableType
from support.records import run_info
from typer.testing import CliRunner

from cosam_bench.cli.leaderboard_table import render_leaderboard
from cosam_bench.cli.main import app
from cosam_bench.cli.matrix_table import render_matrix, render_summary
from cosam_bench.core.errors import CosamError
from cosam_bench.data.protocol_files import read_protocol
from cosam_bench.evaluation.figures import FIGURES, summary
from cosam_bench.evaluation.metrics import METRICS
from cosam_bench.evaluation.prompt_scores import PromptScore
from cosam_bench.evaluation.score_matrix import Cell
from cosam_bench.results.costs import COSTS
from cosam_bench.results.leaderboard import COLUMNS, leaderboard
from cosam_bench.results.leaderboard_formats import markdown, write_leaderboard
from cosam_bench.results.leaderboard_view import boards_of
from cosam_bench.results.published import all_published
from cosam_bench.results.records import Record, RecordWriter, record_folder
from cosam_bench.results.report.boards import boards_of as report_boards
from cosam_bench.results.run_info import Conditions, Cost
from cosam_bench.results.tuning import Tuning

VERSION: int = read_protocol("mini")[0]["clean"]["version"]  # which the records here have
ORDER = ("ball_screw", "pill", "polyp")
DATA = {"ball_screw": "aa", "pill": "bb", "polyp": "cc", "photo": "dd"}

# Rows: after 0, 1, 2, 3 domains; the last column is the retention domain.
SCORES = [[0.5, 0.4, 0.3, 0.9], [0.8, 0.5, 0.2, 0.8], [0.7, 0.9, 0.4, 0.7], [0.6, 0.7, 0.8, 0.5]]
EXPERTS = [[0.5, 0.4, 0.3, 0.9], [0.9, 0.4, 0.3, 0.9], [0.9, 0.95, 0.3, 0.9], [0.9, 0.95, 0.85, 0.9]]


def record(
    results: Path,
    method: str,
    *,
    scores: list[list[float]] = SCORES,
    gain: float = 0.0,
    seed: int = 0,
    order: tuple[str, ...] = ORDER,
    data: dict[str, str] = DATA,
    config: str = "ff",
    rows: tuple[int, ...] = (0, 1, 2, 3),
    **changes: Any,
) -> Record:
    cost = Cost(
        train_seconds=(1.0, 2.0, 3.0),
        merge_seconds=(0.5, 0.5, 0.5),
        state_bytes=(1024, 2048, 2048),
        peak_memory_bytes=2**21,
        encoder_passes_per_image=1.0,
        trainable_parameters=1000,
    )
    conditions = Conditions(data=data, checkpoint="ee", config=config)
    facts: dict[str, Any] = {"method": method, "seed": seed, "order": order, "conditions": conditions, "cost": cost}
    info = run_info(**(facts | {"settings": {}, "summary": {}, "hardware": {"processor": "two cores"}} | changes))
    folder = record_folder(
        results, protocol=info.protocol, method=method, digest=f"{len(list(results.rglob('*'))):012x}"
    )
    writer = RecordWriter(folder)
    writer.write_info(info)
    better = {name: 1.0 if metric.better == "higher" else -1.0 for name, metric in METRICS.items()}
    writer.write_matrix(
        Cell(step, domain, metric, 0.5 + better[metric] * (scores[step][place] + gain - 0.5), 7)
        for step in rows
        for place, domain in enumerate((*order, "photo"))
        for metric in METRICS
    )
    return Record(folder, info)


def text_of(thing: RenderableType, *, width: int) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    lines = console.render_lines(thing, console.options, pad=False)
    assert max(sum(segment.cell_length for segment in line) for line in lines) <= width
    return "\n".join("".join(segment.text for segment in line).rstrip() for line in lines)


def row_of(frame: pd.DataFrame, method: str) -> pd.Series:
    rows = frame[frame["method"] == method]
    assert len(rows) == 1
    return rows.iloc[0]


def test_the_budget_is_the_last_column_and_empty_for_records_that_do_not_say(tmp_path: Path) -> None:
    records = [record(tmp_path, "kmerge", budget="K adapters"), record(tmp_path, "old")]
    records.append(record(tmp_path, "kmerge", budget="K adapters", seed=1))
    frame = leaderboard(records)
    assert COLUMNS[-2:] == ("budget", "tuned")
    assert row_of(frame, "kmerge")["budget"] == "K adapters"
    assert row_of(frame, "old")["budget"] == ""
    wide = text_of(render_leaderboard(frame, width=160), width=160)
    head, *rows = [line for line in wide.splitlines() if line.strip()][1:]
    assert head.split()[-1] == "budget"
    shown = {row.split()[0]: row for row in rows}
    assert shown["kmerge"].endswith("K adapters")
    assert shown["old"].endswith(" -")
    narrow = " ".join(text_of(render_leaderboard(frame, width=60), width=60).split())
    assert re.search(r"too wide, only in the CSV: .*, passes, budget Note", narrow)
    without = leaderboard([record(tmp_path / "no", "old")])
    assert "budget" not in text_of(render_leaderboard(without, width=160), width=160)
    assert "budget" in markdown(frame)
    assert "budget" not in markdown(without)
    assert "budget K adapters" in " ".join(text_of(render_summary(records[0]), width=100).split())


def tuned_with(trials: int, **changes: Any) -> Tuning:
    facts: dict[str, Any] = {"trials": trials, "held_out": 0.25, "images": 48, "protocol": "mini", "domains": ORDER}
    return Tuning(**(facts | {"seed": 0, "sampler": "tpe", "optuna": "5.0.0", "file": "ab" * 32} | changes))


def test_equal_settings_with_another_budget_of_tuning_are_another_row(tmp_path: Path) -> None:
    settings = {"settings": {"ridge": 1e-3}}
    records = [record(tmp_path, "regcl", seed=seed, tuning=tuned_with(20), **settings) for seed in (0, 1)]
    records += [record(tmp_path, "regcl", **settings), record(tmp_path, "opcm", tuning=tuned_with(20), **settings)]
    records.append(record(tmp_path, "frozen"))
    frame = leaderboard(records)
    rows = {(row["method"], row["tuned"]): row["runs"] for _, row in frame.iterrows()}
    assert rows == {("regcl", "20 trials"): 2, ("regcl", ""): 1, ("opcm", "20 trials"): 1, ("frozen", ""): 1}
    (note,) = [note for note in frame.attrs["notes"] if "tuned with different budgets" in note]
    assert "(20 trials: regcl, opcm; not tuned: regcl)" in note  # frozen has nothing to tune
    shown = text_of(render_leaderboard(frame, width=80), width=80)
    assert "tuned" in next(line.split() for line in shown.splitlines() if line.split()[:1] == ["method"])
    assert "tuned" in markdown(frame)


def test_one_budget_for_all_needs_no_note_and_without_tuning_there_is_no_column(tmp_path: Path) -> None:
    settings = {"settings": {"ridge": 1e-3}}
    alike = leaderboard([record(tmp_path / "a", name, tuning=tuned_with(5), **settings) for name in ("regcl", "opcm")])
    assert not [note for note in alike.attrs["notes"] if "budgets" in note]
    plain = leaderboard([record(tmp_path / "b", "regcl", **settings)])
    assert "tuned" not in text_of(render_leaderboard(plain, width=160), width=160)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "20 trials"),
        ({"protocol": "open"}, "20 trials on open"),
        ({"domains": ORDER[:2]}, "20 trials on 2 of 3 domains"),
        ({"domains": ORDER[::-1]}, "20 trials"),
    ],
)
def test_what_was_tuned_on_is_said_if_it_is_not_what_was_run(tmp_path: Path, changes: Any, text: str) -> None:
    assert record(tmp_path, "regcl", tuning=tuned_with(20, **changes)).info.tuned == text


def test_a_row_is_the_mean_and_sample_deviation_over_seeds(tmp_path: Path) -> None:
    records = [record(tmp_path, "regcl", seed=seed, gain=gain) for seed, gain in enumerate((0.0, 0.01, 0.05))]
    frame = leaderboard(records)
    assert list(frame.columns) == list(COLUMNS)
    row = row_of(frame, "regcl")
    assert (row["runs"], row["seeds"], row["orders"]) == (3, 3, 1)
    assert row["last"] == pytest.approx(0.7 + 0.02)
    assert row["last_std"] == pytest.approx(math.sqrt((0.02**2 + 0.01**2 + 0.03**2) / 2))
    assert row["ff"] == pytest.approx(0.2)
    assert row["ff_std"] == pytest.approx(0.0, abs=1e-12)
    assert row["retention"] == pytest.approx(0.52)
    assert row["retention_drop"] == pytest.approx(0.4)
    assert row["train_seconds"] == 6.0
    assert row["merge_seconds"] == 1.5
    assert row["peak_memory_mib"] == 2.0
    assert row["state_kib"] == 2.0
    assert row["state_grows"] == "no"
    assert row["trainable_parameters"] == 1000
    assert frame.attrs["notes"] == ()


def test_of_a_whole_number_that_differs_between_runs_the_largest_counts(tmp_path: Path) -> None:
    made = [record(tmp_path, "plugin", seed=seed) for seed in (0, 1)]
    more = made[0].info.cost.model_copy(update={"trainable_parameters": 1001})
    made[0] = Record(made[0].folder, made[0].info.model_copy(update={"cost": more}))
    row = leaderboard(made).iloc[0]
    assert (row["runs"], row["trainable_parameters"]) == (2, 1001)


def test_one_run_has_no_deviation(tmp_path: Path) -> None:
    row = row_of(leaderboard([record(tmp_path, "regcl")]), "regcl")
    assert math.isnan(row["last_std"])
    assert row["avg"] == pytest.approx((0.8 + 0.8 + 0.7) / 3)


def test_orders_and_seeds_are_counted_and_settings_and_methods_kept_apart(tmp_path: Path) -> None:
    turned = ("polyp", "pill", "ball_screw")
    frame = leaderboard(
        [
            record(tmp_path, "regcl", settings={"ridge": 0.1}),
            record(tmp_path, "regcl", settings={"ridge": 0.1}, order=turned),
            record(tmp_path, "regcl", settings={"ridge": 0.2}, gain=0.1),
            record(tmp_path, "moda", gain=0.05),
        ]
    )
    assert frame["settings"].tolist() == ['{"ridge": 0.2}', "{}", '{"ridge": 0.1}']
    assert frame["runs"].tolist() == [1, 1, 2]
    assert frame["seeds"].tolist() == [1, 1, 1]
    assert frame["orders"].tolist() == [1, 1, 2]
    assert frame["conditions"].nunique() == 1
    assert "of 2 pairs" in frame.attrs["notes"][0]


def test_plasticity_is_joined_from_the_experts_of_the_same_seed_and_order(tmp_path: Path) -> None:
    told = ("told the domain",)
    both = [
        record(tmp_path, "regcl", seed=0),
        record(tmp_path, "finetune", seed=1),
        record(tmp_path, "experts", seed=0, scores=EXPERTS, marks=told),
    ]
    frame = leaderboard(both)
    assert row_of(frame, "regcl")["plasticity"] == pytest.approx((0.1 + 0.05 + 0.05) / 3)
    assert row_of(frame, "experts")["plasticity"] == 0.0
    assert math.isnan(row_of(frame, "finetune")["plasticity"])
    assert row_of(frame, "experts")["marks"] == "told the domain"


def test_of_experts_at_the_same_seed_and_order_the_last_ones_count(tmp_path: Path) -> None:
    runs = [record(tmp_path, "regcl")] + [
        record(tmp_path, "experts", scores=scores, rule=rule * 64, started=f"2026-01-0{day}T00:00:00+00:00")
        for scores, rule, day in ((EXPERTS, "a", 2), (SCORES, "b", 1))
    ]
    assert row_of(leaderboard(runs), "regcl")["plasticity"] == pytest.approx((0.1 + 0.05 + 0.05) / 3)
    assert row_of(leaderboard(runs[::-1]), "regcl")["plasticity"] == pytest.approx((0.1 + 0.05 + 0.05) / 3)


def test_joint_training_has_a_last_row_only(tmp_path: Path) -> None:
    row = row_of(leaderboard([record(tmp_path, "joint", rows=(0, 3), marks=("upper bound",))]), "joint")
    assert row["last"] == pytest.approx(0.7)
    assert all(math.isnan(row[name]) for name in ("avg", "ff", "fwt", "plasticity"))


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"protocol_version": VERSION + 1}, f"the protocol's version ({VERSION}, {VERSION + 1})"),
        ({"config": "00"}, "the protocol's settings"),
        ({"data": DATA | {"pill": "00"}}, "the data of pill"),
    ],
)
def test_runs_under_other_conditions_stand_apart_and_the_note_says_why(
    tmp_path: Path, changes: dict[str, Any], difference: str
) -> None:
    frame = leaderboard([record(tmp_path, "regcl", seed=0), record(tmp_path, "regcl", seed=1, **changes)])
    assert frame["runs"].tolist() == [1, 1]
    assert frame["conditions"].nunique() == 2
    (note,) = frame.attrs["notes"]
    assert "not comparable" in note
    assert difference in note


def test_runs_that_are_not_complete_or_damaged_are_left_out_and_named(tmp_path: Path) -> None:
    damaged = record(tmp_path, "moda")
    (damaged.folder / "matrix.csv").unlink()
    failed = record(tmp_path, "regcl", status="failed", rows=(0, 1))
    frame = leaderboard([record(tmp_path, "regcl"), failed, damaged])
    assert frame["method"].tolist() == ["regcl"]
    assert frame["runs"].tolist() == [1]
    notes = " ".join(frame.attrs["notes"])
    assert f"{failed.name} (failed)" in notes
    assert "matrix.csv cannot be read" in notes


def test_a_note_warns_of_different_machines(tmp_path: Path) -> None:
    frame = leaderboard([record(tmp_path, "regcl"), record(tmp_path, "regcl", device="cuda:0", seed=1)])
    assert "2 machines or devices" in " ".join(frame.attrs["notes"])


def test_a_note_names_rows_by_what_tells_them_from_others_of_their_method(tmp_path: Path) -> None:
    scale = {"scale": 1.0}
    made = [
        record(tmp_path, "regcl", seed=0, settings={"ridge": 0.1} | scale),
        record(tmp_path, "regcl", seed=0, settings={"ridge": 0.2} | scale),
        record(tmp_path, "moda", seed=0, settings=scale),
        record(tmp_path, "opcm", seed=0),
        record(tmp_path, "opcm", seed=1),
    ]
    (note,) = leaderboard(made).attrs["notes"]
    assert note.endswith("of 2 pairs: regcl (ridge=0.1) 1, regcl (ridge=0.2) 1, moda 1.")


def test_the_best_stands_first_also_where_lower_is_better(tmp_path: Path) -> None:
    records = [record(tmp_path, "moda", gain=0.05), record(tmp_path, "finetune"), record(tmp_path, "regcl", gain=0.1)]
    for metric in METRICS:
        frame = leaderboard(records, metric=metric)
        assert frame["method"].tolist() == ["regcl", "moda", "finetune"]
        assert set(frame["metric"]) == {metric}
        assert frame["ff"].tolist() == pytest.approx([0.2] * 3)
    with pytest.raises(CosamError, match="Did you mean 'iou'"):
        leaderboard(records, metric="iu")


def test_the_csv_has_full_precision_and_the_same_bytes_each_time(tmp_path: Path) -> None:
    records = [record(tmp_path, "regcl", seed=seed, gain=seed / 10) for seed in range(2)]
    frame = leaderboard(records)
    first, second = tmp_path / "first.csv", tmp_path / "second.csv"
    write_leaderboard(frame, first)
    write_leaderboard(leaderboard(records[::-1]), second)
    assert first.read_bytes() == second.read_bytes()
    assert b"\r" not in first.read_bytes()
    with first.open(encoding="utf-8", newline="") as file:
        (again,) = csv.DictReader(file)
    assert float(again["last"]) == frame["last"].iloc[0]
    assert again["plasticity"] == ""


def test_no_records_give_an_empty_table(tmp_path: Path) -> None:
    frame = leaderboard([])
    assert list(frame.columns) == list(COLUMNS)
    assert len(frame) == 0
    assert "No complete run" in text_of(render_leaderboard(frame), width=80)
    write_leaderboard(frame, tmp_path / "empty.csv")
    assert (tmp_path / "empty.csv").read_text(encoding="utf-8") == ",".join(COLUMNS) + "\n"


def test_the_table_marks_the_best_and_says_what_it_left_out(tmp_path: Path) -> None:
    growing = Cost(state_bytes=(1000, 2000, 3000))
    frame = leaderboard(
        [
            *(record(tmp_path, "regcl", seed=seed, gain=seed / 100) for seed in range(3)),
            record(tmp_path, "moda", cost=growing),
            record(tmp_path, "joint", gain=0.1, marks=("upper bound",)),
            record(tmp_path, "trm", settings={"rank": 4, "alpha": 1}, gain=-0.1),
            record(tmp_path, "trm", settings={"rank": 8, "alpha": 1}, gain=-0.2),
        ]
    )
    texts = (text_of(render_leaderboard(frame, width=width), width=width) for width in (80, 160))
    narrow, wide = (" ".join(text.split()) for text in texts)  # however the lines below the table wrap
    assert "0.710 ±0.010" in narrow
    assert "joint*" in narrow
    assert "* upper bound" in narrow
    assert "only in the CSV" in narrow
    assert "only in the CSV" not in wide
    assert "↑" in wide
    assert "rank=4" in wide
    assert "alpha=" not in wide
    screen = io.StringIO()
    console = Console(width=140, file=screen, force_terminal=True, color_system="standard")
    console.print(render_leaderboard(frame, width=140))
    best = next(line for line in screen.getvalue().splitlines() if "regcl" in line)
    assert "\x1b[1m0.710 ±0.010\x1b[0m" in best


@pytest.mark.parametrize("width", [50, 80, 120])
def test_the_matrix_fits_the_terminal_and_names_every_column(tmp_path: Path, width: int) -> None:
    text = text_of(render_matrix(record(tmp_path, "regcl"), width=width), width=width)
    assert "0 frozen" in text
    assert "3 polyp" in text
    assert "n=7" in text
    assert "photo" in text
    row = next(line for line in text.splitlines() if line.startswith("2 pill"))
    assert row.replace("│", " ").split() == ["2", "pill", "0.700", "0.900", "0.400", "0.800", "0.700"]


def test_many_domains_are_numbered_and_explained_below(tmp_path: Path) -> None:
    order = tuple(f"quite_long_domain_{letter}" for letter in "abcdefgh")
    data = dict.fromkeys((*order, "photo"), "aa")
    scores = [[0.1 * step + 0.01 * place for place in range(9)] for step in range(9)]
    made = record(tmp_path, "regcl", order=order, data=data, scores=scores, rows=tuple(range(9)))
    text = text_of(render_matrix(made, width=88), width=88)
    assert "8\N{NO-BREAK SPACE}quite_long_domain_h" in text
    assert "r1\N{NO-BREAK SPACE}photo" in text
    assert "…" not in text


def test_the_matrix_of_joint_training_shows_the_measured_rows(tmp_path: Path) -> None:
    joint = record(tmp_path, "joint", rows=(0, 3), marks=("upper bound", "all domains at once"))
    text = text_of(render_matrix(joint, "mae", width=100), width=100)
    assert "3 all at once" in text
    assert "1 all at once" not in text
    assert "underlined" not in text


def test_the_summary_has_every_figure_and_every_cost(tmp_path: Path) -> None:
    made = record(tmp_path, "regcl", status="failed", error="the merge diverged")
    text = text_of(render_summary(made), width=100)
    for words in ("failed", "the merge diverged", "two cores"):
        assert words in text
    lines = {line.strip().partition("  ")[0]: line.split() for line in text.splitlines()}
    for name, value in summary(made.score_matrix()).items():
        assert f"{value + 0.0:.3f}" in lines[FIGURES[name].title], name
    values = {"training": "6.0 s", "merging": "1.5 s", "peak memory": "2.0 MiB", "state": "2.0 KiB at the end"}
    values |= {"state grows": "no", "encoder passes": "1.0 per image", "trainable": "1,000 parameters"}
    for label, value in values.items():
        assert re.search(rf"^{label} +{re.escape(value)}$", text, flags=re.MULTILINE), label
    assert {column.label for column in COSTS.values()} == set(values)


def test_what_was_not_measured_is_left_out_of_the_summary(tmp_path: Path) -> None:
    text = text_of(render_summary(record(tmp_path, "joint", rows=(0, 3), cost=Cost(train_seconds=(1.0,)))), width=100)
    assert re.findall(r"^(training|merging|peak|state|encoder|trainable)", text, flags=re.MULTILINE) == ["training"]
    assert "FWT" not in text


def test_costs_of_several_runs_are_their_mean_and_growth_in_one_is_growth(tmp_path: Path) -> None:
    costs = Cost(train_seconds=(1.0,), state_bytes=(1024, 1024, 1024)), Cost(state_bytes=(1024, 1024, 3072))
    row = row_of(
        leaderboard([record(tmp_path, "regcl", seed=seed, cost=cost) for seed, cost in enumerate(costs)]), "regcl"
    )
    assert row["state_kib"] == 2.0
    assert row["state_grows"] == "yes"
    assert math.isnan(row["train_seconds"])
    assert pd.isna(row["trainable_parameters"])
    assert row_of(leaderboard([record(tmp_path, "moda", cost=Cost())]), "moda")["state_grows"] == ""


def test_runs_of_other_code_are_rows_of_their_own_and_say_so(tmp_path: Path) -> None:
    """A method's file that was edited between two seeds is two methods."""
    runs = [
        record(tmp_path, "mine", seed=seed, rule=rule) for seed, rule in ((0, "a" * 64), (1, "a" * 64), (2, "b" * 64))
    ]
    other = record(tmp_path, "regcl", rule="c" * 64)
    frame = leaderboard([*runs, other])
    marks = {(row["method"], row["runs"]): row["marks"] for _, row in frame.iterrows()}
    assert marks == {("mine", 2): "code aaaaaa", ("mine", 1): "code bbbbbb", ("regcl", 1): ""}
    assert "mine (code bbbbbb) 1" in " ".join(frame.attrs["notes"])
    old = record(tmp_path / "old", "mine", seed=3)
    assert "code not recorded" in set(leaderboard([*runs, old])["marks"])


def test_a_mark_of_the_code_is_no_reason_not_to_be_the_best(tmp_path: Path) -> None:
    runs = [record(tmp_path, "mine", rule="a" * 64), record(tmp_path, "mine", gain=0.05, rule="b" * 64)]
    runs += [record(tmp_path, "regcl"), record(tmp_path, "joint", gain=0.08, marks=("upper bound",))]
    (board,) = boards_of(leaderboard(runs))
    shown = {row.label: ("last" in row.best, row.is_marked) for row in board.rows}
    assert shown == {
        "joint*": (False, True),
        "mine†": (True, False),
        "mine‡": (False, False),
        "regcl": (False, False),
    }
    assert [line for line in board.legend if "code" in line] == ["† code bbbbbb", "‡ code aaaaaa"]


@pytest.mark.parametrize("sign", ["", "-"])
def test_every_column_sorts_in_both_directions(tmp_path: Path, sign: str) -> None:
    runs = [record(tmp_path, "regcl", seed=seed) for seed in (0, 1)]
    runs += [record(tmp_path, "moda", cost=Cost(state_bytes=(1000, 2000, 3000))), record(tmp_path, "old", cost=Cost())]
    for published in ((), all_published()[:1]):
        for column in COLUMNS:
            boards = boards_of(leaderboard(runs, published=published, sort_by=sign + column))
            assert len(boards) == 1 + len(published)
            assert {row.label for row in boards[0].rows} == {"regcl", "moda", "old"}


def test_a_board_that_is_sorted_by_it_shows_yes_and_no(tmp_path: Path) -> None:
    runs = [record(tmp_path, "regcl"), record(tmp_path, "old", cost=Cost())]
    runs.append(record(tmp_path, "moda", cost=Cost(state_bytes=(1000, 2000, 3000))))
    (board,) = boards_of(leaderboard(runs, sort_by="state_grows"))
    assert {row.label: row.cells["state_grows"] for row in board.rows} == {"regcl": "no", "moda": "yes", "old": "-"}
    (board,) = boards_of(leaderboard(runs, sort_by="trainable_parameters"))
    assert {row.label: row.cells["trainable_parameters"] for row in board.rows} == {
        "regcl": "1,000",
        "moda": "-",
        "old": "-",
    }


def test_a_damaged_file_of_prompts_is_a_note(tmp_path: Path) -> None:
    good, bad = record(tmp_path, "regcl"), record(tmp_path, "opcm")
    for one in (good, bad):
        scores = [PromptScore("image", step, name, "iou", 0.3, 7) for step in (0, 3) for name in ORDER]
        RecordWriter(one.folder).write_prompts(scores)
    (bad.folder / "prompts.csv").write_text("prompt,step\n", encoding="utf-8")
    for notes in (leaderboard([good, bad]).attrs["notes"], report_boards([good, bad], metric="iou")[1]):
        assert [note for note in notes if note.startswith("regcl on mini, Last (IoU) by prompt")]
        (damage,) = [note for note in notes if note.startswith("No scores by prompt for a run")]
        assert f"{bad.folder / 'prompts.csv'} begins with prompt, step" in damage
    assert list(leaderboard([good, bad])["method"]) == ["opcm", "regcl"]


@pytest.mark.parametrize("damage", ["run.json", "matrix.csv"])
def test_where_no_record_can_be_read_each_is_named_and_there_is_no_table(tmp_path: Path, damage: str) -> None:
    folders = [record(tmp_path, "regcl", seed=seed).folder for seed in range(2)]
    text = {"run.json": "{", "matrix.csv": "step,domain,metric,value,count\n0,a,iou,7,1\n"}[damage]
    for folder in folders:
        (folder / damage).write_text(text, encoding="utf-8")
    result = CliRunner().invoke(app, ["leaderboard", "--results", str(tmp_path)])
    assert (result.exit_code, result.stdout) == (2, "")
    said = "".join(result.stderr.split())
    assert f"Norecordin{tmp_path}canberead:" in said
    assert all(f"{folder / damage}" in said for folder in folders)
    good = record(tmp_path, "opcm")
    result = CliRunner().invoke(app, ["leaderboard", "--results", str(tmp_path)])
    assert result.exit_code == 0
    assert "opcm" in result.stdout
    assert "".join((result.stdout + result.stderr).split()).count("Leftout") == 2
    assert good.folder.exists()
