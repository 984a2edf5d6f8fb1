"""The loss of a training batch: the grid or points on which it compares, and targets that came with the batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from cosam_bench.core.errors import CosamError
from cosam_bench.data.prompts import Prompts, draw_prompts
from cosam_bench.data.samples import Split
from cosam_bench.sam.inputs import Batch, View
from cosam_bench.sam.sam import Masks
from cosam_bench.training.batch_loss import protocol_loss
from cosam_bench.training.fit_settings import FitSettings
from cosam_bench.training.losses import bce_dice, focal_dice_iou, point_sample, uncertain_points
from cosam_bench.training.training_batch import TrainingBatch, draw_batch, with_targets


@pytest.fixture(scope="module")
def prompts(squares: Split) -> Prompts:
    return draw_prompts(squares, points=3, seed=0)


def masks_of(batch: Batch, grid: int, *, seed: int = 0) -> Masks:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(len(batch), grid, grid, generator=generator)
    return Masks(logits, torch.rand(len(batch), generator=generator))


@pytest.mark.parametrize("resize", ["pad", "squash"])
def test_a_loss_at_the_models_size_compares_repeated_cells_with_the_nearest_pixels(
    squares: Split, prompts: Prompts, resize: Any
) -> None:
    fit = FitSettings(loss="focal_dice_iou", loss_grid="model", iou_threshold=0.5, sum_over_batch=True)
    view = View(120, 30, resize, torch.device("cpu"))
    kinds: list[Any] = ["box"] * 2
    batch, target = with_targets([squares[0], squares[1]], prompts.take([0, 1]), kinds=kinds, view=view, fit=fit)
    masks = masks_of(batch, 30)
    full = masks.logits.repeat_interleave(4, 1).repeat_interleave(4, 2)
    wanted = torch.zeros(2, 120, 120)
    for row in range(2):
        lines = 3 if resize == "squash" else 2
        repeated = squares[row].mask.repeat_interleave(lines, 0).repeat_interleave(2, 1).float()
        wanted[row, : repeated.shape[0]] = repeated
    expected = focal_dice_iou(full, wanted, masks.predicted_iou, iou_threshold=0.5, sum_over_batch=True)
    assert protocol_loss(masks, batch, target, fit=fit).item() == pytest.approx(expected.item(), rel=1e-6)


def test_a_loss_on_points_compares_the_same_places_of_logits_and_fine_masks(squares: Split, prompts: Prompts) -> None:
    fit = FitSettings(loss_points=20)
    view = View(120, 30, "pad", torch.device("cpu"))
    batch, target = draw_batch(
        squares, prompts, [3, 1], fit=fit, prompt_kind="box", view=view, order=torch.Generator().manual_seed(1)
    )
    assert isinstance(batch, TrainingBatch)
    assert batch.masks is not None
    assert batch.point_candidates is not None
    assert not batch.is_unique
    assert batch.masks.shape == (2, 120, 120)
    masks = masks_of(batch, 30)
    places = uncertain_points(masks.logits, batch.point_candidates, count=20)
    assert places.shape == (2, 20, 2)
    expected = bce_dice(point_sample(masks.logits, places), point_sample(batch.masks, places), masks.predicted_iou)
    assert protocol_loss(masks, batch, target, fit=fit).item() == expected.item()
    # The fine mask is the mask itself, doubled bilinearly: its cells' means are nearly the target on the grid.
    means = batch.masks.view(2, 30, 4, 30, 4).mean(dim=(2, 4))
    assert (means - target).abs().max() < 0.2
    assert (means - target).abs().mean() < 0.01


def test_points_without_an_order_depend_on_the_samples_alone(squares: Split, prompts: Prompts) -> None:
    fit = FitSettings(loss_points=4)
    view = View(120, 30, "pad", torch.device("cpu"))
    places = []
    for rows in ([0], [0], [1]):
        kinds: list[Any] = ["box"]
        batch, _ = with_targets([squares[rows[0]]], prompts.take(rows), kinds=kinds, view=view, fit=fit)
        assert isinstance(batch, TrainingBatch)
        assert batch.point_candidates is not None
        places.append(batch.point_candidates)
    assert torch.equal(places[0], places[1])
    assert not torch.equal(places[0], places[2])


def test_training_draws_new_points_each_time(squares: Split, prompts: Prompts) -> None:
    order = torch.Generator().manual_seed(0)
    places = []
    for _ in range(2):
        fit = FitSettings(loss_points=4, flip=False)
        view = View(120, 30, "pad", torch.device("cpu"))
        batch, _ = draw_batch(squares, prompts, [0], fit=fit, prompt_kind="box", view=view, order=order)
        assert isinstance(batch, TrainingBatch)
        assert batch.point_candidates is not None
        places.append(batch.point_candidates)
    assert not torch.equal(places[0], places[1])


def test_a_target_that_did_not_come_with_the_batch_is_refused(squares: Split, prompts: Prompts) -> None:
    fit = FitSettings(loss_points=4)
    view = View(120, 30, "pad", torch.device("cpu"))
    kinds: list[Any] = ["box"]
    batch, target = with_targets([squares[0]], prompts.take([0]), kinds=kinds, view=view, fit=fit)
    plain, plain_target = with_targets([squares[0]], prompts.take([0]), kinds=kinds, view=view)
    assert type(plain) is Batch
    for wrong, mask in ((plain, plain_target), (batch, target.clone()), (batch.select([0]), target)):
        with pytest.raises(CosamError, match=r"as they came together from Workbench\.augmented"):
            protocol_loss(masks_of(batch, 30), wrong, mask, fit=fit)
    protocol_loss(masks_of(batch, 30), plain, plain_target, fit=FitSettings())
