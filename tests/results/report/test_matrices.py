"""The matrices of the report: every cell against the scores, and colours that can be read."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from support.recorded import matrix, record

from cosam_bench.evaluation.figures import FIGURES
from cosam_bench.results.report.boards import boards_of
from cosam_bench.results.report.matrices import (
    LEVELS,
    contrast,
    forgetting_table,
    losses,
    mean_matrix,
    retention_means,
    scale_css,
    score_table,
    seen_means,
)

SCORES = matrix(
    [[0.1, 0.2, 0.9], [0.8, 0.2, 0.7], [0.5, 0.6, 0.95]],
    domains=["pill", "polyp"],
    retention=["photo"],
)


def test_a_score_table_shows_every_measured_cell_with_its_row_and_column() -> None:
    table = score_table(SCORES, at_once=False)
    assert table.columns == ("pill", "polyp", "photo")
    assert [label for label, _ in table.rows] == ["0 frozen", "1 pill", "2 polyp"]
    assert [[cell.text for cell in cells] for _, cells in table.rows] == [
        ["0.100", "0.200", "0.900"],
        ["0.800", "0.200", "0.700"],
        ["0.500", "0.600", "0.950"],
    ]
    assert (table.rows[0][1][0].css, table.rows[2][1][2].css) == ("s0", f"s{LEVELS - 1}")


def test_of_an_error_the_lowest_has_the_best_colour() -> None:
    errors = SCORES.from_values(SCORES.values, metric="mae", domains=["pill", "polyp"], retention=["photo"])
    assert score_table(errors, at_once=False).rows[0][1][0].css == f"s{LEVELS - 1}"


def test_forgetting_is_counted_from_the_step_that_learned_the_domain() -> None:
    lost = losses(SCORES)
    expected = [[math.nan, math.nan, 0.0], [0.0, math.nan, 0.2], [0.3, 0.0, -0.05]]
    np.testing.assert_allclose(lost, expected)
    shown = [[cell.text for cell in cells] for _, cells in forgetting_table(SCORES).rows]
    assert shown == [["0.000", "", "+0.200"], ["+0.300", "0.000", "-0.050"]]
    assert forgetting_table(SCORES).rows[1][1][0].css == f"f{LEVELS - 1}"


def test_its_last_row_agrees_with_the_figures() -> None:
    lost = losses(SCORES)
    assert lost[-1, :1].mean() == pytest.approx(FIGURES["ff"].of(SCORES))
    assert lost[-1, 2] == pytest.approx(FIGURES["retention_drop"].of(SCORES))
    assert np.mean(seen_means(SCORES)) == pytest.approx(FIGURES["avg"].of(SCORES))
    assert retention_means(SCORES) == [0.9, 0.7, 0.95]


def test_training_on_all_at_once_has_two_rows() -> None:
    nan = math.nan
    table = score_table(matrix([[0.1, 0.2], [nan, nan], [0.5, 0.6]], domains=["pill", "polyp"]), at_once=True)
    assert [label for label, _ in table.rows] == ["0 frozen", "2 all at once"]


def test_the_text_of_every_colour_has_the_contrast_that_wcag_asks_for() -> None:
    rules = scale_css().splitlines()
    assert len(rules) == 2 * LEVELS
    for rule in rules:
        background, colour = (part.split(":")[1].rstrip("}") for part in rule.split("{")[1].split(";"))
        assert contrast(background, colour) >= 4.5, rule


def test_contrast_is_that_of_the_guidelines() -> None:
    # The published example of a grey that just passes AA on white, and one that just fails.
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.005)
    assert contrast("#777777", "#ffffff") < 4.5


def test_the_mean_takes_runs_with_the_first_order_alone(tmp_path: Path) -> None:
    made = [record(tmp_path, method="regcl", seed=seed) for seed in (0, 1)]
    record(tmp_path, method="regcl", seed=2, order=("rim", "pill", "polyp"))
    (board,), _ = boards_of(
        [*made, record(tmp_path, method="regcl", seed=2, order=("rim", "pill", "polyp"))], metric="iou"
    )
    found, runs = mean_matrix(board.entries[0])
    assert runs == 2
    np.testing.assert_allclose(found.values, (made[0].matrix().values + made[1].matrix().values) / 2)
