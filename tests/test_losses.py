"""Losses against formulas written out pixel by pixel, and against MONAI's."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch import Tensor

from cosam_bench.fit import FitSettings
from cosam_bench.losses import LOSSES, bce_dice, dice_loss, focal_dice_iou


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
