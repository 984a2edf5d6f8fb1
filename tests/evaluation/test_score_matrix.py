from __future__ import annotations

import math

import numpy as np
import pytest

from cosam_bench.core.errors import CosamError
from cosam_bench.evaluation.score_matrix import Cell, ScoreMatrix


def test_columns_are_the_stream_and_then_the_retention_domains() -> None:
    scores = ScoreMatrix.from_values(np.zeros((3, 3)), domains=["d1", "d2"], retention=["r1"])
    assert scores.columns == ("d1", "d2", "r1")
    assert scores.steps == 2


def test_cells_in_any_order_keep_every_bit_and_leave_holes() -> None:
    cells = [
        Cell(1, "r1", "iou", 0.7, 4),
        Cell(0, "d1", "mae", 0.5, 4),
        Cell(1, "d1", "iou", 1 / 3, 4),
        Cell(0, "d1", "iou", 0.1 + 0.2, 4),
    ]
    scores = ScoreMatrix.from_cells(cells, metric="iou", domains=["d1"], retention=["r1"])
    np.testing.assert_array_equal(scores.values, [[0.1 + 0.2, math.nan], [1 / 3, 0.7]])
    np.testing.assert_array_equal(scores.count, [[4, 0], [4, 4]])


def test_the_frame_has_a_row_per_step_a_column_per_domain_and_every_bit() -> None:
    scores = ScoreMatrix.from_values([[0.1 + 0.2, math.nan], [1 / 3, 0.7]], domains=["d1"], retention=["r1"])
    frame = scores.to_frame()
    assert list(frame.columns) == ["d1", "r1"]
    assert frame.index.names == ["step", "learned"]
    assert frame.index.tolist() == [(0, "frozen"), (1, "d1")]
    np.testing.assert_array_equal(frame.to_numpy(), scores.values)
    frame.iloc[0, 0] = 2.0
    assert scores.values[0, 0] == 0.1 + 0.2, "the frame is a copy"


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (Cell(0, "d2", "iou", 0.5, 3), "No domain of this run is called 'd2'"),
        (Cell(2, "d1", "iou", 0.5, 3), "steps 0 to 1"),
        (Cell(-1, "d1", "iou", 0.5, 3), "steps 0 to 1"),
        (Cell(0, "d1", "iou", 0.5, 0), "mean over 0 images"),
        (Cell(1, "d1", "iou", 0.5, 3), "twice"),
    ],
)
def test_cells_that_cannot_be_are_refused(cell: Cell, message: str) -> None:
    with pytest.raises(CosamError, match=message):
        ScoreMatrix.from_cells([Cell(1, "d1", "iou", 0.4, 3), cell], metric="iou", domains=["d1"])


def test_an_unknown_metric_is_refused_by_name() -> None:
    with pytest.raises(CosamError, match="Did you mean 'dice'"):
        ScoreMatrix.from_cells([], metric="dise", domains=["d1"])


def test_arrays_that_do_not_fit_the_names_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(3, 2\)"):
        ScoreMatrix("iou", ("a", "b"), (), np.zeros((2, 2)), np.ones((2, 2), dtype=np.int64))
