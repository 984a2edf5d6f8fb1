from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torchmetrics.functional as reference
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage
from torch import Tensor

from cosam_bench.evaluation import erosion, metrics

PAIRS = st.tuples(st.integers(1, 3), st.integers(1, 12), st.integers(1, 12)).flatmap(
    lambda shape: st.tuples(arrays.arrays(bool, shape), arrays.arrays(bool, shape))
)


def mask(*rows: str) -> Tensor:
    """A mask drawn in text, ``#`` being foreground: bool (1, H, W)."""
    return torch.tensor([[[sign == "#" for sign in row] for row in rows]])


def blobs(seed: int, *, height: int, width: int, number: int = 4) -> Tensor:
    """Connected regions with holes and pieces on the border: bool (number, height, width)."""
    noise = np.random.default_rng(seed).normal(size=(number, height, width))
    smooth = ndimage.gaussian_filter(noise, sigma=(0, height / 12, width / 12))
    return torch.from_numpy(smooth > 0)


def plain_erosion(masks: Tensor, distance: int) -> Tensor:
    """``distance`` erosions by a 3 x 3 square, one after another, with background outside."""
    eroded = [
        ndimage.binary_erosion(one, structure=np.ones((3, 3)), iterations=distance, border_value=0)
        for one in masks.numpy()
    ]
    return torch.from_numpy(np.stack(eroded))


def plain_iou(predicted: Tensor, target: Tensor) -> list[float]:
    """Intersection over union by sets of pixels."""
    shares = []
    for one, other in zip(predicted, target, strict=True):
        first = {tuple(pixel) for pixel in one.nonzero().tolist()}
        second = {tuple(pixel) for pixel in other.nonzero().tolist()}
        shares.append(len(first & second) / len(first | second) if first | second else 1.0)
    return shares


def test_a_case_worked_by_hand() -> None:
    predicted = mask("###.", "###.", "....")
    target = mask(".###", ".###", ".###")
    assert metrics.iou(predicted, target).tolist() == [4 / 11]
    assert metrics.dice(predicted, target).tolist() == [2 * 4 / (6 + 9)]
    assert metrics.mae(predicted.float(), target).tolist() == pytest.approx([7 / 12])
    assert metrics.pixel_error(predicted, target).tolist() == pytest.approx([7 / 12])


def test_the_boundary_band_worked_by_hand() -> None:
    # Diagonal of 6 x 6: 8.5, so the band is one pixel wide. The bands are a ring of 12 and one of 8,
    # which share the three pixels on the left and the three on top, one of them both.
    predicted = mask("......", ".####.", ".####.", ".####.", ".####.", "......")
    target = mask("......", ".###..", ".###..", ".###..", "......", "......")
    assert metrics.boundary_iou(predicted, target).tolist() == [5 / 15]
    assert metrics.iou(predicted, target).tolist() == [9 / 16]


def test_a_mask_has_a_boundary_where_it_touches_the_image_border() -> None:
    full = torch.ones(1, 5, 5, dtype=torch.bool)
    inner = mask(".....", ".###.", ".###.", ".###.", ".....")
    torch.testing.assert_close(erosion.erode(full, 1), inner)


def test_the_empty_mask_rule() -> None:
    empty = torch.zeros(1, 4, 4, dtype=torch.bool)
    some = mask("##..", "##..", "....", "....")
    for metric in (metrics.iou, metrics.dice, metrics.boundary_iou):
        assert metric(empty, empty).tolist() == [1.0]
        assert metric(empty, some).tolist() == [0.0]
        assert metric(some, empty).tolist() == [0.0]
    assert metrics.mae(empty.float(), empty).tolist() == [0.0]
    assert metrics.pixel_error(empty, empty).tolist() == [0.0]


@pytest.mark.parametrize("distance", [0, 1, 2, 3, 5, 8, 20, 40])
@pytest.mark.parametrize(("height", "width"), [(31, 47), (64, 20), (1, 90)])
def test_erosion_equals_repeated_small_erosions(height: int, width: int, distance: int) -> None:
    masks = blobs(distance, height=height, width=width)
    masks[0] = True
    expected = plain_erosion(masks, distance) if distance else masks
    assert torch.equal(erosion.erode(masks, distance), expected)


@pytest.mark.parametrize(
    ("height", "width", "distance"),
    [(30, 40, 1), (75, 100, 2), (60, 80, 2), (160, 300, 7), (1, 1, 1), (120, 35, 2)],
)
def test_boundary_iou_equals_the_slow_version(height: int, width: int, distance: int) -> None:
    predicted, target = blobs(1, height=height, width=width), blobs(2, height=height, width=width)
    assert distance == max(1, round(0.02 * math.sqrt(height**2 + width**2)))
    rings = [one & ~plain_erosion(one, distance) for one in (predicted, target)]
    assert metrics.boundary_iou(predicted, target).tolist() == plain_iou(*rings)


def test_the_band_is_the_whole_mask_of_a_thin_object() -> None:
    predicted, target = torch.zeros(2, 1, 200, 300, dtype=torch.bool)
    predicted[:, 50:60, 40:200] = True
    target[:, 52:66, 60:220] = True
    assert metrics.boundary_iou(predicted, target) == metrics.iou(predicted, target)


def test_metrics_agree_with_torchmetrics() -> None:
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(6, 33, 41, generator=generator)
    target = blobs(3, height=33, width=41, number=6)
    found = metrics.measure(logits, target)
    assert list(found) == list(metrics.METRICS)
    for index in range(6):
        predicted, truth = (logits[index] > 0).long(), target[index].long()
        jaccard = reference.jaccard_index(predicted, truth, task="binary")
        f1 = reference.f1_score(predicted, truth, task="binary")
        error = reference.mean_absolute_error(logits[index].sigmoid(), truth.float())
        wrong = 1 - reference.accuracy(predicted, truth, task="binary")
        assert found["iou"][index].item() == pytest.approx(jaccard.item(), abs=1e-6)
        assert found["dice"][index].item() == pytest.approx(f1.item(), abs=1e-6)
        assert found["mae"][index].item() == pytest.approx(error.item(), abs=1e-6)
        assert found["pixel_error"][index].item() == pytest.approx(wrong.item(), abs=1e-6)


def test_measure_thresholds_at_zero_and_takes_half_precision() -> None:
    logits = torch.tensor([[[0.0, 1e-3, -1e-3, 30.0]]], dtype=torch.bfloat16)
    target = mask(".#.#")
    found = metrics.measure(logits, target)
    assert found["iou"].tolist() == [1.0]
    assert found["mae"].item() == pytest.approx((0.5 + 0.5 + 0.5 + 0.0) / 4, abs=1e-3)
    assert all(value.dtype == torch.float64 and value.shape == (1,) for value in found.values())


def test_a_diverged_model_shows_as_nan_error() -> None:
    found = metrics.measure(torch.full((1, 2, 2), math.nan), mask("#.", ".."))
    assert found["iou"].tolist() == [0.0]
    assert math.isnan(found["mae"].item())


@given(PAIRS)
def test_scores_are_symmetric_bounded_and_equal_the_slow_version(pair: tuple[np.ndarray, np.ndarray]) -> None:
    first, second = (torch.from_numpy(one) for one in pair)
    for metric in (metrics.iou, metrics.dice, metrics.boundary_iou):
        scores = metric(first, second)
        assert scores.shape == (first.shape[0],)
        assert scores.dtype == torch.float64
        assert bool(((scores >= 0) & (scores <= 1)).all())
        assert torch.equal(scores, metric(second, first))
        assert torch.equal(metric(first, first), torch.ones_like(scores))
    overlap = metrics.iou(first, second)
    assert overlap.tolist() == plain_iou(first, second)
    torch.testing.assert_close(metrics.dice(first, second), 2 * overlap / (1 + overlap))
    error = metrics.mae(first.double(), second)
    assert error.tolist() == pytest.approx((first ^ second).double().mean(dim=(1, 2)).tolist())
    assert metrics.pixel_error(first, second).tolist() == pytest.approx(error.tolist())


@given(PAIRS)
def test_masks_are_scored_one_by_one_and_turn_with_the_image(pair: tuple[np.ndarray, np.ndarray]) -> None:
    first, second = (torch.from_numpy(one) for one in pair)
    scores = metrics.boundary_iou(first, second)
    alone = [metrics.boundary_iou(first[i : i + 1], second[i : i + 1]).item() for i in range(len(first))]
    assert scores.tolist() == alone
    assert torch.equal(scores, metrics.boundary_iou(first.mT, second.mT))
    assert torch.equal(scores, metrics.boundary_iou(first.flip(1), second.flip(1)))


def test_no_masks_give_no_scores() -> None:
    none = torch.zeros(0, 4, 5)
    assert all(value.shape == (0,) for value in metrics.measure(none, none > 0).values())


def test_wrong_dtypes_and_shapes_are_refused() -> None:
    good = torch.zeros(1, 4, 4, dtype=torch.bool)
    with pytest.raises(ValueError, match="Threshold logits"):
        metrics.iou(good.float(), good)
    with pytest.raises(ValueError, match="image's own size"):
        metrics.dice(good, torch.zeros(1, 8, 8, dtype=torch.bool))
    with pytest.raises(ValueError, match="Threshold logits"):
        metrics.pixel_error(good.float(), good)
    with pytest.raises(ValueError, match="one shape"):
        metrics.mae(torch.zeros(1, 8, 8), good)
    with pytest.raises(ValueError, match="bool"):
        metrics.boundary_iou(good[0], good[0])


@pytest.mark.parametrize(("number", "shape"), [(300, (3, 5)), (9, (37, 53))])
def test_a_masks_bits_do_not_depend_on_its_company(number: int, shape: tuple[int, int]) -> None:
    """A sigmoid has other bits at another place of a tensor, in half of the masks of 3 x 5 if nobody sees to it."""
    generator = torch.Generator().manual_seed(7)
    logits = 4 * torch.randn(number, *shape, generator=generator)
    targets = torch.rand(number, *shape, generator=generator) > 0.5
    together = metrics.measure(logits, targets)
    for row in range(number):
        alone = metrics.measure(logits[row][None].clone(), targets[row][None].clone())
        assert {name: value.item() for name, value in alone.items()} == {
            name: value[row].item() for name, value in together.items()
        }


def test_threads_add_up_several_masks_as_they_do_one() -> None:
    generator = torch.Generator().manual_seed(7)
    probabilities = 1e-3 * torch.rand(5, 200, 300, generator=generator) ** 9  # of sizes so unlike that sums are inexact
    targets = torch.zeros(5, 200, 300, dtype=torch.bool)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        together = metrics.mae(probabilities, targets).tolist()
        alone = [metrics.mae(probabilities[row : row + 1].clone(), targets[:1]).item() for row in range(5)]
    finally:
        torch.set_num_threads(threads)
    assert together == alone


def test_of_no_masks_there_are_no_metrics() -> None:
    found = metrics.measure(torch.zeros(0, 4, 5), torch.zeros(0, 4, 5, dtype=torch.bool))
    assert {tuple(value.shape) for value in found.values()} == {(0,)}
    assert {value.dtype for value in found.values()} == {torch.float64}
