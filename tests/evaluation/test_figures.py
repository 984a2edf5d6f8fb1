from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosam_bench.core.errors import CosamError
from cosam_bench.evaluation import figures
from cosam_bench.evaluation.figures import FIGURES, Figure
from cosam_bench.evaluation.score_matrix import ScoreMatrix

C8 = ("bsdata", "rsdd_i", "rsdd_ii", "mvtec_i", "mvtec_ii", "mvtec_iii", "camo", "polyp")

# The naive run's log that CoSAM publishes: IoU in per cent after each task, the last column is COCO.
NAIVE_LOG = np.array(
    [
        [75.78, 76.59, 67.77, 49.01, 40.69, 33.13, 29.02, 16.57, 50.84],
        [74.31, 75.36, 67.15, 46.70, 37.76, 26.34, 10.57, 5.69, 40.04],
        [73.55, 76.54, 66.69, 51.94, 35.63, 17.82, 4.62, 4.48, 33.34],
        [66.80, 66.80, 58.45, 71.77, 79.96, 75.33, 65.65, 67.25, 72.06],
        [70.27, 67.55, 59.52, 69.22, 84.51, 74.54, 65.57, 76.68, 77.05],
        [67.82, 72.64, 59.07, 67.65, 81.69, 80.56, 64.77, 74.07, 70.08],
        [71.67, 76.47, 64.06, 66.95, 82.26, 72.80, 70.97, 72.71, 76.51],
        [68.63, 77.81, 64.37, 64.56, 82.14, 69.19, 67.55, 78.73, 71.90],
    ]
)


def matrix_of(values: list[list[float]], *, domains: int, metric: str = "iou") -> ScoreMatrix:
    names = [f"d{index}" for index in range(1, domains + 1)]
    kept = [f"r{index}" for index in range(1, len(values[0]) - domains + 1)]
    return ScoreMatrix.from_values(values, metric=metric, domains=names, retention=kept)


HAND = [
    # d1   d2   d3   r1
    [0.5, 0.4, 0.3, 0.9],
    [0.8, 0.5, 0.2, 0.8],
    [0.7, 0.9, 0.4, 0.7],
    [0.6, 0.7, 0.8, 0.5],
]


def test_the_published_log_gives_the_published_aggregates() -> None:
    frozen_row = np.full((1, 9), np.nan)
    log = ScoreMatrix.from_values(np.concatenate([frozen_row, NAIVE_LOG]), domains=C8, retention=["coco"])
    found = figures.summary(log)
    assert round(found["last"], 2) == 71.62
    assert round(found["avg"], 2) == 71.80
    assert round(found["ff"], 2) == 4.48
    assert round(found["ff_max"], 2) == 4.65
    assert round(found["ff_max_all"], 2) == 4.81
    assert round(found["diagonal"], 2) == 75.55
    assert round(found["retention"], 2) == 71.90
    assert math.isnan(found["frozen"])
    assert math.isnan(found["fwt"])
    assert math.isnan(found["retention_drop"])


def test_every_figure_of_a_matrix_worked_by_hand() -> None:
    found = figures.summary(matrix_of(HAND, domains=3))
    expected = {
        "last": (0.6 + 0.7 + 0.8) / 3,
        "avg": (0.8 + (0.7 + 0.9) / 2 + (0.6 + 0.7 + 0.8) / 3) / 3,
        "ff": ((0.8 - 0.6) + (0.9 - 0.7)) / 2,
        "ff_max": ((0.8 - 0.6) + (0.9 - 0.7)) / 2,
        "ff_max_all": ((0.8 - 0.6) + (0.9 - 0.7)) / 2,
        "bwt": -((0.8 - 0.6) + (0.9 - 0.7)) / 2,
        "fwt": ((0.5 - 0.4) + (0.4 - 0.3)) / 2,
        "fm": ((0.8 - 0.6) + (0.9 - 0.7) + 0.0) / 3,
        "ft": (0.5 + 0.4) / 2,
        "diagonal": (0.8 + 0.9 + 0.8) / 3,
        "retention": 0.5,
        "retention_drop": 0.9 - 0.5,
        "frozen": (0.5 + 0.4 + 0.3) / 3,
    }
    assert found == pytest.approx(expected)
    assert list(found) == list(expected)


def test_forgetting_against_the_best_row_looks_only_between_learning_and_the_end() -> None:
    # d1 was best (0.9) before it was learned and at the very end; only rows 1 and 2 may be its reference.
    scores = matrix_of([[0.9, 0.1, 0.1], [0.5, 0.1, 0.1], [0.7, 0.6, 0.1], [0.8, 0.5, 0.4]], domains=3)
    assert figures.forgetting_max(scores) == pytest.approx(((0.7 - 0.8) + (0.6 - 0.5)) / 2)
    assert figures.forgetting(scores) == pytest.approx(((0.5 - 0.8) + (0.6 - 0.5)) / 2)


def test_chaudhrys_forgetting_also_looks_before_learning_but_not_at_frozen_sam() -> None:
    # d2 was best (0.8) after d1 was learned, before its own turn; the 0.9 and 0.95 of row 0 are frozen SAM's.
    scores = matrix_of([[0.9, 0.95, 0.1], [0.5, 0.8, 0.1], [0.7, 0.6, 0.1], [0.8, 0.5, 0.4]], domains=3)
    assert figures.forgetting_max_all(scores) == pytest.approx(((0.7 - 0.8) + (0.8 - 0.5)) / 2)
    assert figures.forgetting_max(scores) == pytest.approx(((0.7 - 0.8) + (0.6 - 0.5)) / 2)


def test_lower_is_better_turns_the_sign_of_differences_only() -> None:
    score = matrix_of(HAND, domains=3)
    error = matrix_of([[1.0 - cell for cell in row] for row in HAND], domains=3, metric="mae")
    up, down = figures.summary(score), figures.summary(error)
    for name in ("ff", "ff_max", "ff_max_all", "bwt", "fwt", "fm", "retention_drop"):
        assert down[name] == pytest.approx(up[name]), name
    for name in ("last", "avg", "ft", "diagonal", "retention", "frozen"):
        assert down[name] == pytest.approx(1.0 - up[name]), name
    worse = matrix_of([[1.0 - cell + 0.1 for cell in row] for row in HAND], domains=3, metric="mae")
    assert figures.plasticity_loss(worse, error) == pytest.approx(0.1)


def test_a_run_measured_only_before_and_after_has_its_last_row_and_nothing_else() -> None:
    nan = math.nan
    joint = matrix_of([HAND[0], [nan] * 4, [nan] * 4, HAND[3]], domains=3)
    found = figures.summary(joint)
    defined = {name for name, value in found.items() if not math.isnan(value)}
    assert defined == {"last", "retention", "retention_drop", "frozen"}
    assert found["last"] == pytest.approx(0.7)
    assert math.isnan(figures.plasticity_loss(joint, matrix_of(HAND, domains=3)))


def test_a_stream_of_one_domain_has_nothing_to_forget_or_transfer() -> None:
    found = figures.summary(matrix_of([[0.4], [0.7]], domains=1))
    undefined = {name for name, value in found.items() if math.isnan(value)}
    assert undefined == {"ff", "ff_max", "ff_max_all", "bwt", "fwt", "ft", "retention", "retention_drop"}
    assert found["last"] == found["avg"] == found["diagonal"] == 0.7
    assert found["fm"] == 0.0
    assert found["frozen"] == 0.4


def test_an_unfinished_run_has_no_last_row() -> None:
    nan = math.nan
    found = figures.summary(matrix_of([*HAND[:3], [nan] * 4], domains=3))
    assert math.isnan(found["last"])
    assert math.isnan(found["ff"])
    assert found["ft"] == pytest.approx((0.5 + 0.4) / 2)


def test_plasticity_is_what_merging_took_from_the_expert() -> None:
    experts = matrix_of([[0.0] * 4, [0.9, 0, 0, 0], [0, 0.9, 0, 0], [0, 0, 0.9, 0]], domains=3)
    assert figures.plasticity_loss(matrix_of(HAND, domains=3), experts) == pytest.approx((0.1 + 0.0 + 0.1) / 3)
    with pytest.raises(CosamError, match="same protocol and order"):
        figures.plasticity_loss(matrix_of(HAND, domains=3), matrix_of([[0.1], [0.2]], domains=1))


@st.composite
def matrices(draw: st.DrawFn) -> ScoreMatrix:
    steps = draw(st.integers(1, 5))
    cell = st.floats(0, 1, width=32)
    row = st.lists(cell, min_size=steps + 1, max_size=steps + 1)
    return matrix_of(draw(st.lists(row, min_size=steps + 1, max_size=steps + 1)), domains=steps)


@given(matrices())
def test_figures_agree_with_their_definitions_written_as_loops(scores: ScoreMatrix) -> None:
    total = scores.steps
    score = {(t, j): scores.values[t, j - 1] for t in range(total + 1) for j in range(1, total + 1)}
    seen = [sum(score[t, j] for j in range(1, t + 1)) / t for t in range(1, total + 1)]
    found = figures.summary(scores)
    assert found["avg"] == pytest.approx(sum(seen) / total)
    assert found["last"] == pytest.approx(seen[-1])
    assert figures.plasticity_loss(scores, scores) == 0.0
    if total > 1:
        pairs = range(1, total)
        lost = [score[j, j] - score[total, j] for j in pairs]
        best = [max(score[t, j] for t in range(j, total)) - score[total, j] for j in pairs]
        ahead = [score[j - 1, j] - score[0, j] for j in range(2, total + 1)]
        assert found["ff"] == pytest.approx(sum(lost) / (total - 1))
        assert found["ff_max"] == pytest.approx(sum(best) / (total - 1))
        highest = [max(score[t, j] for t in range(1, total)) - score[total, j] for j in pairs]
        assert found["ff_max_all"] == pytest.approx(sum(highest) / (total - 1))
        assert found["ff_max_all"] >= found["ff_max"] - 1e-12
        assert found["fwt"] == pytest.approx(sum(ahead) / (total - 1))
        assert found["fm"] == pytest.approx(found["ff"] * (total - 1) / total)
        assert found["ff_max"] >= found["ff"] - 1e-12
        assert found["bwt"] == -found["ff"]


@pytest.mark.parametrize("figure", FIGURES.values(), ids=lambda figure: figure.name)
def test_a_figures_docstring_says_what_the_table_says(figure: Figure) -> None:
    title = {"Plast. loss": "Plasticity loss"}.get(figure.title, figure.title)
    assert (figure.function.__doc__ or "").startswith(f"{title} = {figure.formula}: {figure.meaning}.\n")


@pytest.mark.parametrize("metric", ["iou", "mae"])
def test_better_scores_move_every_figure_the_way_the_table_calls_better(metric: str) -> None:
    gain = 0.05 if metric == "iou" else -0.05
    before, at_the_end, unseen = (matrix_of(HAND, domains=3, metric=metric) for _ in range(3))
    at_the_end.values[3] += gain
    unseen.values[[1, 1, 2], [1, 2, 2]] += gain
    for changed, unmoved in ((at_the_end, {"fwt", "ft", "frozen"}), (unseen, set(FIGURES) - {"fwt", "ft"})):
        for name, figure in FIGURES.items():
            change = figure.of(changed, experts=before) - figure.of(before, experts=before)
            better = change if figure.prefers_high(metric) else -change
            if name == "ff_max_all" and changed is unseen:
                assert better == pytest.approx(-0.05 / 2 if metric == "mae" else 0), (
                    "the second domain's best is before its turn"
                )
            else:
                assert better == 0 if name in unmoved else better > 0.01, name


def test_a_figure_that_needs_the_experts_is_undefined_without_them() -> None:
    needing = [name for name, figure in FIGURES.items() if figure.needs_experts]
    assert needing == ["plasticity"]
    assert math.isnan(FIGURES["plasticity"].of(matrix_of(HAND, domains=3)))
    assert set(figures.summary(matrix_of(HAND, domains=3))) == set(FIGURES) - {"plasticity"}
