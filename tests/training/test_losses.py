"""Losses against formulas written out pixel by pixel, and against MONAI's."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch import Tensor

from cosam_bench.training.fit_settings import FitSettings
from cosam_bench.training.losses import (
    LOSSES,
    bce_dice,
    dice_loss,
    draw_point_candidates,
    focal_dice_iou,
    point_sample,
    uncertain_points,
)


def batch(*, soft: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(3, 5, 4, generator=generator, dtype=torch.float64)
    target = torch.rand(3, 5, 4, generator=generator, dtype=torch.float64)
    return logits, target if soft else (target > 0.5).double(), torch.tensor([0.2, 0.9, 0.5], dtype=torch.float64)


def slow(logits: Tensor, target: Tensor, predicted_iou: Tensor) -> tuple[list[float], list[float], list[float]]:
    """Per mask: mean cross-entropy, Dice loss, and focal + 10 Dice + IoU error, in plain Python."""
    entropies, dices, totals = [], [], []
    for rows, wanted, iou in zip(logits.tolist(), target.tolist(), predicted_iou.tolist(), strict=True):
        pixels = [(z, t) for zs, ts in zip(rows, wanted, strict=True) for z, t in zip(zs, ts, strict=True)]
        p = [1 / (1 + math.exp(-z)) for z, _ in pixels]
        ce = [-t * math.log(q) - (1 - t) * math.log(1 - q) for q, (_, t) in zip(p, pixels, strict=True)]
        overlap = sum(q * t for q, (_, t) in zip(p, pixels, strict=True))
        dice = 1 - (2 * overlap + 1) / (sum(p) + sum(t for _, t in pixels) + 1)
        focal = sum(0.8 * (1 - math.exp(-c)) ** 2 * c for c in ce) / len(ce)
        union = sum(z > 0 or t > 0.5 for z, t in pixels)
        actual = sum(z > 0 and t > 0.5 for z, t in pixels) / union if union else 1.0
        entropies.append(sum(ce) / len(ce))
        dices.append(dice)
        totals.append(focal + 10 * dice + (iou - actual) ** 2)
    return entropies, dices, totals


@pytest.mark.parametrize("soft", [False, True])
def test_losses_equal_the_formulas_written_out(soft: bool) -> None:
    logits, target, predicted_iou = batch(soft=soft)
    entropies, dices, totals = slow(logits, target, predicted_iou)
    assert dice_loss(logits, target).tolist() == pytest.approx(dices, rel=1e-12)
    both = sum(entropies) / 3 + sum(dices) / 3
    assert bce_dice(logits, target, predicted_iou).item() == pytest.approx(both, rel=1e-12)
    assert focal_dice_iou(logits, target, predicted_iou).item() == pytest.approx(sum(totals) / 3, rel=1e-12)


def test_dice_equals_monais() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of MONAI's own imports
        from monai.losses import DiceLoss
    logits, target, _ = batch(soft=True)
    theirs = DiceLoss(sigmoid=True, smooth_nr=1.0, smooth_dr=1.0, reduction="none")(logits[:, None], target[:, None])
    torch.testing.assert_close(dice_loss(logits, target), theirs.flatten())


def test_dice_worked_by_hand() -> None:
    # Probability one half on four pixels, two of them foreground: 1 - (2 * 1 + 1) / (2 + 2 + 1).
    target = torch.tensor([[[1.0, 1.0], [0.0, 0.0]]])
    assert dice_loss(torch.zeros(1, 2, 2), target).item() == pytest.approx(0.4)


@pytest.mark.parametrize("loss", LOSSES.values())
def test_gradients_are_the_numerical_ones(loss) -> None:  # type: ignore[no-untyped-def]
    logits, target, predicted_iou = batch()
    inputs = (logits.requires_grad_(), target, predicted_iou.requires_grad_())
    assert torch.autograd.gradcheck(loss, inputs)


@pytest.mark.parametrize("loss", LOSSES.values())
def test_a_loss_is_small_for_a_sure_right_mask_and_finite_for_a_sure_wrong_one(loss) -> None:  # type: ignore[no-untyped-def]
    target = torch.zeros(1, 8, 8)
    target[:, 2:5] = 1
    logits = 200 * (2 * target - 1)
    assert loss(logits, target, torch.ones(1)).item() == pytest.approx(0, abs=1e-6)
    wrong = (-logits).requires_grad_()
    value = loss(wrong, target, torch.ones(1))
    value.backward()
    assert value.item() > 1
    assert wrong.grad is not None
    assert torch.isfinite(wrong.grad).all()


def test_an_empty_target_that_is_predicted_empty_has_an_iou_of_one() -> None:
    empty = torch.zeros(1, 4, 4)
    logits = torch.full((1, 4, 4), -100.0)
    assert focal_dice_iou(logits, empty, torch.ones(1)).item() == pytest.approx(0, abs=1e-6)
    assert focal_dice_iou(logits, empty, torch.zeros(1)).item() == pytest.approx(1, abs=1e-6)


def test_every_loss_that_can_be_set_is_there() -> None:
    for name in LOSSES:
        assert FitSettings.model_validate({"loss": name}).loss == name


@pytest.mark.parametrize("soft", [False, True])
def test_sums_over_the_batch_equal_the_formulas_written_out(soft: bool) -> None:
    logits, target, predicted_iou = batch(soft=soft)
    entropies, dices, totals = slow(logits, target, predicted_iou)
    both = sum(entropies) + sum(dices)
    assert bce_dice(logits, target, predicted_iou, sum_over_batch=True).item() == pytest.approx(both, rel=1e-12)
    errors = [iou_error(*rows) for rows in zip(logits, target, predicted_iou.tolist(), strict=True)]
    masks = sum(total - error for total, error in zip(totals, errors, strict=True))
    found = focal_dice_iou(logits, target, predicted_iou, sum_over_batch=True).item()
    assert found == pytest.approx(masks + sum(errors) / 3, rel=1e-12)


def iou_error(logits: Tensor, target: Tensor, predicted_iou: float, *, threshold: float = 0.0) -> float:
    """The squared difference of the estimated and the true IoU, by sets of cells."""
    first = {tuple(cell) for cell in (logits > threshold).nonzero().tolist()}
    second = {tuple(cell) for cell in (target > 0.5).nonzero().tolist()}
    return (predicted_iou - len(first & second) / len(first | second)) ** 2


def test_the_iou_is_taken_above_its_own_threshold_and_nothing_else_is() -> None:
    logits, target, predicted_iou = batch()
    plain, shifted = (focal_dice_iou(logits, target, predicted_iou, iou_threshold=level) for level in (0.0, 0.5))
    rows = list(zip(logits, target, predicted_iou.tolist(), strict=True))
    errors = [sum(iou_error(*row, threshold=level) for row in rows) / 3 for level in (0.0, 0.5)]
    assert errors[0] != errors[1]
    assert (shifted - plain).item() == pytest.approx(errors[1] - errors[0], rel=1e-9)
    assert bce_dice(logits, target, predicted_iou, iou_threshold=0.5) == bce_dice(logits, target, predicted_iou)


def value_at(grid: list[list[float]], x: float, y: float) -> float:
    """Bilinear between the centres of the four nearest cells, x and y from 0 to 1; 0 outside of the grid."""
    height, width = len(grid), len(grid[0])
    column, row = x * width - 0.5, y * height - 0.5
    left, top = math.floor(column), math.floor(row)
    total = 0.0
    for r, c in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
        if 0 <= r < height and 0 <= c < width:
            total += grid[r][c] * (1 - abs(column - c)) * (1 - abs(row - r))
    return total


def test_values_are_sampled_as_the_formula_written_out() -> None:
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(3, 5, 8, generator=generator, dtype=torch.float64)
    places = torch.rand(3, 40, 2, generator=generator, dtype=torch.float64)
    places[0, :4] = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 1.0], [0.5, 0.5]])
    found = point_sample(values, places)
    assert found.shape == (3, 40)
    for grid, row, levels in zip(values.tolist(), places.tolist(), found.tolist(), strict=True):
        assert levels == pytest.approx([value_at(grid, x, y) for x, y in row], abs=1e-12)
    corner = values[0, 0, 0].item()
    assert found[0, 0].item() == pytest.approx(corner / 4)  # a quarter of the corner's cell, the rest outside


@pytest.mark.parametrize("count", [1, 3, 8, 50])
def test_points_are_the_least_sure_candidates_and_a_quarter_is_even(count: int) -> None:
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(2, 6, 6, generator=generator, dtype=torch.float64)
    places = draw_point_candidates(2, count=count, order=generator).double()
    even = count - math.floor(0.75 * count)
    assert places.shape == (2, 3 * count + even, 2)
    chosen = uncertain_points(logits, places, count=count)
    for grid, candidates, found in zip(logits.tolist(), places.tolist(), chosen.tolist(), strict=True):
        doubtful = sorted(candidates[: 3 * count], key=lambda place: abs(value_at(grid, *place)))
        assert found == doubtful[: count - even] + candidates[3 * count :]


def test_candidates_are_even_over_the_square_and_repeat_with_the_order() -> None:
    places, again = (draw_point_candidates(1, count=4000, order=torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(places, again)
    cells = (places[0] * 4).long()
    counts = torch.bincount(cells[:, 0] * 4 + cells[:, 1], minlength=16)
    assert (counts - 13000 / 16).abs().max() < 130  # 812 each, deviation 28


def test_the_loss_on_points_reaches_the_logits() -> None:
    """Through the bilinear weights, by the numerical gradient; the choice of points has none."""
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(2, 4, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    masks = (torch.rand(2, 16, 16, generator=generator) > 0.5).double()
    places = uncertain_points(logits, draw_point_candidates(2, count=6, order=generator).double(), count=6)
    assert not places.requires_grad
    assert torch.autograd.gradcheck(
        lambda logits: bce_dice(point_sample(logits, places), point_sample(masks, places), torch.zeros(2)), (logits,)
    )
