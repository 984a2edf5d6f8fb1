"""Ignored pixels in training: no loss sees them, and shares of cells are those of the pixels that count."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from cosam_bench.data.prompts import Prompts, draw_prompts
from cosam_bench.data.samples import Entry, Manifest, Sample, Split
from cosam_bench.sam.inputs import View
from cosam_bench.sam.sam import Masks
from cosam_bench.training.augmentation import crop_mask, draw_crop, jitter, mirror
from cosam_bench.training.batch_loss import protocol_loss
from cosam_bench.training.fit_settings import FitSettings
from cosam_bench.training.losses import LOSSES, bce_dice, dice_loss, focal_dice_iou
from cosam_bench.training.training_batch import TrainingBatch, counted_share, draw_batch, with_targets

SIZE, GRID = 32, 8
VIEW = View(SIZE, GRID, "pad", torch.device("cpu"))
FITS = {
    "grid": FitSettings(flip=False),
    "points": FitSettings(flip=False, loss_points=64),
    "model": FitSettings(flip=False, loss="focal_dice_iou", loss_grid="model"),
    "jitter": FitSettings(flip=False, loss_points=64, jitter=True, empty_crops="redraw"),
}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sample(key: str = "a", *, has_ignored: bool = True) -> Sample:
    """An object in the upper left quarter; the right half is ignored, with a part of the object's frame."""
    image = torch.randint(256, (3, 32, 24), generator=seeded(0), dtype=torch.uint8)
    mask = torch.zeros(32, 24, dtype=torch.bool)
    mask[3:14, 2:12] = True
    ignored = torch.zeros_like(mask)
    ignored[:, 12:] = True
    return Sample(key, image, mask, ignored if has_ignored else None)


class _Source:
    def __init__(self, samples: list[Sample]) -> None:
        self._samples = samples

    def image(self, index: int) -> Tensor:
        return self._samples[index].image

    def mask(self, index: int) -> Tensor:
        return self._samples[index].mask

    def ignored(self, index: int) -> Tensor | None:
        return self._samples[index].ignored


def prompts_of(samples: list[Sample]) -> Prompts:
    manifest = Manifest(tuple(Entry(one.key, one.key, one.key) for one in samples), has_ignored=True)
    return draw_prompts(Split("d", part="train", manifest=manifest, source=_Source(samples)), points=3, seed=0)


def drawn(fit: FitSettings, *samples: Sample) -> tuple[Any, Tensor]:
    rows = list(range(len(samples)))
    prompts = prompts_of(list(samples))
    return draw_batch(samples, prompts, rows, fit=fit, prompt_kind="box", view=VIEW, order=seeded(3))


def logits_like(target: Tensor, *, seed: int = 5) -> Tensor:
    return torch.randn(target.shape, generator=seeded(seed))


@pytest.mark.parametrize("loss", LOSSES.values())
def test_a_weight_of_nothing_leaves_a_cell_out(loss: Any) -> None:
    """The loss of the cells that count is that of a grid that has no others."""
    logits, target = torch.randn(2, 6, 5, generator=seeded(0)), torch.rand(2, 6, 5, generator=seeded(1))
    weights = torch.zeros(2, 6, 5)
    weights[:, :4, 1:] = 1
    iou = torch.tensor([0.3, 0.8])
    alone = loss(logits[:, :4, 1:], target[:, :4, 1:], iou)
    torch.testing.assert_close(loss(logits, target, iou, weights=weights), alone)
    torch.testing.assert_close(loss(logits, target, iou, weights=torch.ones(2, 6, 5)), loss(logits, target, iou))


def test_parts_of_cells_count_as_that_many_cells() -> None:
    """Three cells, of the last of which a half counts, written out."""
    logits, target = torch.tensor([[[1.0, -2.0, 0.5]]]), torch.tensor([[[1.0, 0.0, 0.25]]])
    weights = torch.tensor([[[1.0, 1.0, 0.5]]])
    pixel = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")[0, 0]
    p = logits.sigmoid()[0, 0]
    dice = 1 - (2 * (p[0] + 0.5 * 0.25 * p[2]) + 1) / (p[0] + p[1] + 0.5 * p[2] + 1 + 0.5 * 0.25 + 1)
    torch.testing.assert_close(dice_loss(logits, target, weights=weights)[0], dice)
    found = bce_dice(logits, target, torch.zeros(1), weights=weights)
    torch.testing.assert_close(found, (pixel[0] + pixel[1] + 0.5 * pixel[2]) / 2.5 + dice)


def test_the_true_iou_is_that_of_cells_that_count_for_half_or_more() -> None:
    logits = torch.tensor([[[9.0, 9.0, 9.0, 9.0]]])
    target = torch.tensor([[[1.0, 0.0, 0.0, 0.0]]])
    weights = torch.tensor([[[1.0, 0.5, 0.4, 0.0]]])

    def error(predicted: float) -> float:
        zero = focal_dice_iou(logits, target, torch.tensor([0.5]), weights=weights)
        return (focal_dice_iou(logits, target, torch.tensor([predicted]), weights=weights) - zero).item()

    assert error(1.0) == pytest.approx(0.25, abs=1e-5)  # the IoU of two cells is 1/2
    assert error(0.0) == pytest.approx(0.25, abs=1e-5)


def test_a_mask_of_which_nothing_counts_has_no_loss() -> None:
    logits = torch.zeros(1, 2, 2, requires_grad=True)
    loss = bce_dice(logits, torch.zeros(1, 2, 2), torch.zeros(1), weights=torch.zeros(1, 2, 2))
    assert loss.item() == 0
    loss.backward()
    assert logits.grad is not None
    assert (logits.grad == 0).all()


def test_targets_are_shares_of_what_counts() -> None:
    """Pixel by pixel: the frame is 32 x 24 pixels at the model's size, so a cell of the grid is 4 x 4 of them."""
    one = sample()
    batch, target = with_targets([one], prompts_of([one]), kinds=["box"], view=VIEW)
    assert isinstance(batch, TrainingBatch)
    assert batch.weights is not None
    assert one.ignored is not None
    for row in range(GRID):
        for column in range(GRID):
            cell = (slice(4 * row, 4 * row + 4), slice(4 * column, 4 * column + 4))
            counted = 16 - int(one.ignored[cell].sum())
            assert batch.weights[0, row, column].item() == pytest.approx(counted / 16, abs=1e-6)
            if counted:
                share = int(one.mask[cell].sum()) / counted
                assert target[0, row, column].item() == pytest.approx(share, abs=1e-6)
            else:
                assert target[0, row, column].item() == 0


def test_shares_are_never_above_one() -> None:
    assert counted_share(torch.tensor([0.3, 0.5, 0.0]), torch.tensor([0.6, 0.5 - 1e-7, 0.0])).tolist() == [0.5, 1, 0]


@pytest.mark.parametrize("name", FITS)
def test_no_loss_depends_on_logits_where_pixels_are_ignored(name: str) -> None:
    """The logits of cells among none but ignored ones have no gradient, those of the others have."""
    fit = FITS[name]
    batch, target = drawn(fit, sample(), sample("b"))
    logits = logits_like(target)
    masks = Masks(logits.requires_grad_(), torch.zeros(2))
    loss = protocol_loss(masks, batch, target, fit=fit)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert torch.isfinite(gradient).all()
    around = functional.max_pool2d(batch.weights[:, None], 3, 1, 1)[:, 0]
    assert (around == 0).any()
    assert gradient[around == 0].abs().max() <= 1e-6 * gradient.abs().max()  # interpolated ones may be 1 - 1e-7
    assert (gradient[batch.weights == 1] != 0).any()


@pytest.mark.parametrize("name", FITS)
def test_without_ignored_pixels_every_batch_is_as_before(name: str) -> None:
    fit = FITS[name]
    empty = Sample("a", sample().image, sample().mask, torch.zeros_like(sample().mask))
    batch, target = drawn(fit, sample(has_ignored=False))
    same, same_target = drawn(fit, empty)
    assert getattr(batch, "weights", None) is None
    assert getattr(batch, "ignored", None) is None
    torch.testing.assert_close(same_target, target)
    masks = Masks(logits_like(target), torch.zeros(1))
    torch.testing.assert_close(
        protocol_loss(masks, same, same_target, fit=fit), protocol_loss(masks, batch, target, fit=fit)
    )


def test_a_batch_may_mix_samples_with_and_without() -> None:
    both, target = drawn(FITS["points"], sample(), sample("b", has_ignored=False))
    assert both.weights[0].min() == 0
    assert both.weights[1].min() == 1
    assert both.ignored[0].max() == 1
    assert both.ignored[1].max() == 0
    alone, alone_target = drawn(FITS["points"], sample("b", has_ignored=False))
    assert torch.equal(target[1], alone_target[0])
    assert torch.equal(both.masks[1], alone.masks[0])


def test_augmentation_takes_ignored_pixels_along() -> None:
    """An image whose first channel marks its ignored pixels is jittered and mirrored as they are."""
    one = sample()
    assert one.ignored is not None
    full = torch.full((32, 24), 255)
    marked = Sample("m", torch.stack([255 * one.ignored, full, full]).to(torch.uint8), one.mask, one.ignored)
    flipped = mirror(marked)
    assert flipped.ignored is not None
    assert torch.equal(flipped.image[0] > 0, flipped.ignored)
    for seed in range(10):
        crop = draw_crop((marked.mask.shape[0], marked.mask.shape[1]), size=SIZE, order=seeded(seed))
        jittered = jitter(marked, crop, soft_mask=crop_mask(marked.mask, crop))
        assert jittered.soft_ignored is not None
        assert jittered.sample.ignored is not None
        is_image = jittered.sample.image[1] == 255
        assert (jittered.soft_ignored[~is_image] == 0).all()
        levels = (255 * jittered.soft_ignored).round()[is_image]
        assert (levels - jittered.sample.image[0][is_image].float()).abs().max() <= 1
        assert not (jittered.sample.ignored & jittered.sample.mask).any()
