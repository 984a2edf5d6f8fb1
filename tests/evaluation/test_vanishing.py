"""Missing an object that is there is never rewarded, whatever the metric, the size and the way of resizing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.cases import case_folder

from cosam_bench.data.opening import open_domain
from cosam_bench.data.streams import load_stream
from cosam_bench.evaluation.metrics import METRICS
from cosam_bench.evaluation.score_settings import ScoreSize
from cosam_bench.evaluation.scoring import measure_in
from cosam_bench.sam.frame_choices import Resize, Upsampling
from cosam_bench.sam.frames import fit_frame, resize_nearest, shrunk_masks

NOTHING = torch.full((1, 8, 8), -40.0)
OBJECTS = st.tuples(st.integers(1, 90), st.integers(1, 90), st.integers(0, 89), st.integers(0, 89), st.integers(1, 9))


def _object(height: int, width: int, top: int, left: int, side: int) -> torch.Tensor:
    mask = torch.zeros(1, height, width, dtype=torch.bool)
    top, left = top % height, left % width
    mask[:, top : top + side, left : left + side] = True
    return mask


@settings(deadline=None, max_examples=150)
@given(
    shape=OBJECTS,
    size=st.sampled_from(["original", "model"]),
    resize=st.sampled_from(["pad", "squash"]),
    upsampling=st.sampled_from(["bilinear", "nearest"]),
)
def test_every_metric_at_every_size_gives_nothing_to_nothing(
    shape: tuple[int, int, int, int, int], size: ScoreSize, resize: Resize, upsampling: Upsampling
) -> None:
    mask = _object(*shape)
    frame = fit_frame((mask.shape[1], mask.shape[2]), size=16, resize=resize)
    found = measure_in(frame, NOTHING, mask, size=size, upsampling=upsampling)
    for name, metric in METRICS.items():
        value = found[name].item()
        assert value == 0 if metric.better == "higher" else value > 0, name


@settings(deadline=None, max_examples=100)
@given(shape=OBJECTS, new=st.tuples(st.integers(1, 40), st.integers(1, 40)))
def test_a_mask_that_would_vanish_becomes_the_pixels_that_hold_it(
    shape: tuple[int, int, int, int, int], new: tuple[int, int]
) -> None:
    mask = _object(*shape)
    found, nearest = shrunk_masks(mask, new)[0], resize_nearest(mask, new)[0]
    if nearest.any():
        assert torch.equal(found, nearest)
        return
    rows, columns = np.nonzero(mask[0].numpy())
    slow = torch.zeros(new, dtype=torch.bool)
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):  # all new pixels that a pixel overlaps
        for i in range(new[0]):
            for j in range(new[1]):
                in_rows = i * mask.shape[1] < (row + 1) * new[0] and row * new[0] < (i + 1) * mask.shape[1]
                in_columns = j * mask.shape[2] < (column + 1) * new[1] and column * new[1] < (j + 1) * mask.shape[2]
                slow[i, j] |= in_rows and in_columns
    assert torch.equal(found, slow)


def test_masks_beside_one_that_vanishes_stay_as_they_are() -> None:
    small, large, empty = _object(90, 90, 1, 1, 1), _object(90, 90, 10, 10, 60), torch.zeros(1, 90, 90).bool()
    found = shrunk_masks(torch.cat([small, large, empty]), (9, 9))
    assert (int(found[0].sum()), int(found[2].sum())) == (1, 0)
    assert torch.equal(found[1], resize_nearest(large, (9, 9))[0])


def test_reported_objects_are_scored_at_the_model_size() -> None:
    stream = load_stream(str(case_folder("object_vanishes_at_model_size") / "tinyd" / "stream.toml"))
    domain = open_domain(stream.cards[0])
    samples = [*domain.train, *domain.test]
    vanished = 0
    for sample in samples:
        mask = sample.mask[None]
        frame = fit_frame((mask.shape[1], mask.shape[2]), size=128, resize="pad")
        vanished += not resize_nearest(mask, frame.content).any()
        found = measure_in(frame, NOTHING, mask, size="model", upsampling="bilinear")
        assert (found["iou"].item(), found["dice"].item()) == (0, 0)
        truth = torch.full((1, 128, 128), -40.0)
        truth[:, : frame.content[0], : frame.content[1]][shrunk_masks(mask, frame.content)] = 40.0
        perfect = measure_in(frame, truth, mask, size="model", upsampling="nearest")
        assert perfect["iou"].item() == pytest.approx(1)
    assert (len(samples), vanished) == (8, 7)
