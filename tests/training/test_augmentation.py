"""Large-scale jitter against a version written out pixel by pixel, and what training makes of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cosam_bench.core.errors import CosamError
from cosam_bench.data.prompts import Prompts, draw_prompts, joined, tight_box
from cosam_bench.data.samples import Sample, Split
from cosam_bench.sam.adapters.adapter_settings import AdapterSettings
from cosam_bench.sam.build import build_sam
from cosam_bench.sam.frames import PIXEL_MEAN, PIXEL_STD
from cosam_bench.sam.inputs import RAW_MASK_LEVELS, View
from cosam_bench.sam.sam import Sam
from cosam_bench.training import augmentation
from cosam_bench.training.augmentation import (
    FOREGROUND_SHARE,
    NO_BOX,
    TRIES,
    Jittered,
    crop_mask,
    draw_crop,
    draw_crop_with_foreground,
    jitter,
    prompts_from_mask,
    replace_rows,
)
from cosam_bench.training.batch_loss import training_loss
from cosam_bench.training.draws import MIXED
from cosam_bench.training.fit import fit_adapter
from cosam_bench.training.fit_settings import FitSettings
from cosam_bench.training.training_batch import TrainingBatch, draw_batch

SIZE = 24


@pytest.fixture(scope="module")
def sam() -> Sam:
    return build_sam("tiny", checkpoint="random", seed=0)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(height: int, width: int, *, seed: int = 0) -> Sample:
    """Noise with a mask of noise: nothing in it is alike, so any shift shows."""
    image = torch.randint(256, (3, height, width), generator=seeded(seed), dtype=torch.uint8)
    return Sample("noise", image, torch.rand(height, width, generator=seeded(seed + 1)) > 0.5)


def marked(height: int, width: int, *, seed: int = 0) -> Sample:
    """The first channel is the mask itself, the second says where there is an image at all."""
    mask = torch.rand(height, width, generator=seeded(seed)) > 0.5
    full = torch.full((height, width), 255)
    return Sample("marked", torch.stack([255 * mask, full, full]).to(torch.uint8), mask)


def speck(*, side: int = 5) -> Sample:
    """A little foreground in the corner of a large image, which many crops lose."""
    mask = torch.zeros(60, 60, dtype=torch.bool)
    mask[60 - side :, 60 - side :] = True
    return Sample("speck", torch.zeros(3, 60, 60, dtype=torch.uint8), mask)


def pixel(image: np.ndarray, row: int, column: int, *, shape: tuple[int, int]) -> float:
    """One pixel of ``image`` enlarged or shrunk to ``shape``: between the four neighbours, edges repeated."""
    y = min(max((row + 0.5) * image.shape[0] / shape[0] - 0.5, 0), image.shape[0] - 1)
    x = min(max((column + 0.5) * image.shape[1] / shape[1] - 0.5, 0), image.shape[1] - 1)
    y0, x0 = int(y), int(x)
    y1, x1 = min(y0 + 1, image.shape[0] - 1), min(x0 + 1, image.shape[1] - 1)
    above = image[y0, x0] * (1 - (x - x0)) + image[y0, x1] * (x - x0)
    below = image[y1, x0] * (1 - (x - x0)) + image[y1, x1] * (x - x0)
    return float(above * (1 - (y - y0)) + below * (y - y0))


def jittered(sample: Sample, *, size: int, order: torch.Generator) -> Jittered:
    """The sample after jitter by the next draws."""
    crop = draw_crop((sample.mask.shape[0], sample.mask.shape[1]), size=size, order=order)
    return jitter(sample, crop, soft_mask=crop_mask(sample.mask, crop))


def slow_jitter(sample: Sample, *, order: torch.Generator) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """Levels (3, S, S) and soft mask (S, S), and the enlarged shape, by one loop a pixel."""
    share = 0.1 + 1.9 * torch.rand((), generator=order).item()
    height, width = sample.mask.shape
    side = round(share * SIZE)
    scale = min(side / height, side / width)
    shape = (max(1, round(scale * height)), max(1, round(scale * width)))
    tops = [int(torch.randint(max(length - SIZE, 0) + 1, (), generator=order)) for length in shape]
    image, soft = np.full((3, SIZE, SIZE), 128.0), np.zeros((SIZE, SIZE))
    for row in range(min(SIZE, shape[0])):
        for column in range(min(SIZE, shape[1])):
            place = (row + tops[0], column + tops[1])
            soft[row, column] = pixel(sample.mask.numpy().astype(float), *place, shape=shape)
            for channel in range(3):
                image[channel, row, column] = pixel(sample.image[channel].numpy().astype(float), *place, shape=shape)
    return image, soft, shape


@pytest.mark.parametrize(("height", "width"), [(17, 30), (24, 24), (40, 9)])
def test_jitter_equals_the_one_written_out(height: int, width: int) -> None:
    sample = noise(height, width)
    shapes = set()
    for seed in range(4):
        image, soft, shape = slow_jitter(sample, order=seeded(seed))
        found = jittered(sample, size=SIZE, order=seeded(seed))
        assert found.sample.key == "noise"
        assert np.abs(found.sample.image.numpy() - image).max() <= 0.51
        assert np.abs(found.soft_mask.numpy() - soft).max() < 1e-4
        assert (found.sample.mask.numpy() == (found.soft_mask.numpy() * 255 > 128)).all()
        shapes.add(shape)
    assert min(max(shape) for shape in shapes) < SIZE < max(max(shape) for shape in shapes)


@given(st.integers(1, 70), st.integers(1, 70), st.integers(0, 999))
def test_image_and_mask_stay_aligned_and_the_rest_is_padding(height: int, width: int, seed: int) -> None:
    found = jittered(marked(height, width), size=SIZE, order=seeded(seed))
    mask_level, there, _ = found.sample.image.double()
    inside = there == 255
    assert ((mask_level - 255 * found.soft_mask.double()).abs()[inside] <= 0.5 + 1e-4).all()
    assert (found.sample.image[:, ~inside] == 128).all()
    assert not found.soft_mask[~inside].any()
    rows, columns = int(inside.any(1).sum()), int(inside.any(0).sum())
    assert inside[:rows, :columns].all()
    assert int(inside.sum()) == rows * columns >= 1


def test_scales_are_even_between_a_tenth_and_double() -> None:
    """Of 1.9 units of scale 0.9 leave a border, and then the longer side is between 0.1 and 1.0 of the size."""
    sample = Sample("full", torch.full((3, 8, 8), 255, dtype=torch.uint8), torch.ones(8, 8, dtype=torch.bool))
    order = seeded(0)
    sides = [int(jittered(sample, size=200, order=order).sample.mask.any(0).sum()) for _ in range(600)]
    small = [side for side in sides if side < 200]
    assert len(small) / 600 == pytest.approx(0.9 / 1.9, abs=0.06)
    assert min(small) >= 20
    assert min(small) < 30
    assert np.mean(small) == pytest.approx(0.55 * 200, abs=8)


def test_redrawing_finds_foreground_or_gives_up_and_keeping_takes_the_first_crop() -> None:
    outcomes = {"redraw": [], "keep": []}  # type: dict[str, list[bool | None]]
    for empty_crops, found in outcomes.items():
        for seed in range(60):
            drawn_crop = draw_crop_with_foreground(
                speck().mask,
                size=SIZE,
                empty_crops=empty_crops,  # type: ignore[arg-type]
                order=seeded(seed),
            )
            found.append(None if drawn_crop is None else bool((drawn_crop[1] > FOREGROUND_SHARE).any()))
    assert set(outcomes["keep"]) == {True, False}
    assert False not in outcomes["redraw"]
    assert outcomes["redraw"].count(True) > outcomes["keep"].count(True)
    blank = torch.zeros(60, 60, dtype=torch.bool)
    kept = draw_crop_with_foreground(blank, size=SIZE, empty_crops="redraw", order=seeded(0))
    assert kept is not None, "of a negative any crop will do"
    assert not kept[1].any()
    assert TRIES > 1


def test_prompts_are_drawn_of_the_mask_and_repeat_with_the_order() -> None:
    masks = [noise(30, 20).mask, torch.zeros(9, 9, dtype=torch.bool), speck(side=1).mask]
    first, again = (joined([prompts_from_mask(mask, points=4, seed=3) for mask in masks]) for _ in range(2))
    for name in ("boxes", "points", "masks"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    assert torch.equal(first.boxes[0], tight_box(masks[0]))
    assert first.boxes[1].tolist() == list(NO_BOX) == [1e8, 1e8, 0, 0]
    columns, rows = (first.points[0] - 0.5).long().unbind(1)
    assert masks[0][rows, columns].all()
    assert len(set(zip(rows.tolist(), columns.tolist(), strict=True))) == 4
    assert first.points[2].tolist() == [[59.5, 59.5]] * 4
    assert not first.points[1].any()
    assert not first.masks[1].any()
    assert first.masks[0].any()
    assert not torch.equal(first.points[:1], prompts_from_mask(masks[0], points=4, seed=4).points)


@pytest.mark.parametrize("mask_size", [256, 1])
def test_replaced_rows_are_the_fresh_ones_and_the_others_stay(mask_size: int) -> None:
    """A replay memory without mask prompts has masks of one pixel."""
    prompts = Prompts(torch.rand(3, 4), torch.rand(3, 2, 2), torch.ones(3, mask_size, mask_size) > 0, digest="old")
    new_rows = [prompts_from_mask(noise(side, side).mask, points=2, seed=side) for side in (8, 9)]
    found, fresh = replace_rows(prompts, list(zip([2, 0], new_rows, strict=True))), joined(new_rows)
    for name in ("boxes", "points", "masks"):
        new = getattr(found, name)
        assert torch.equal(new[[2, 0]], getattr(fresh, name))
        assert (new[1] == getattr(prompts, name)[1]).all()
    assert found.digest == "old"


def drawn(
    samples: list[Sample], *, seed: int, prompt_kind: Any = "mix", size: int = SIZE, grid: int = SIZE // 4, **fit: Any
) -> tuple[TrainingBatch, Tensor]:
    """One jittered batch of all samples, whose own prompts are useless."""
    count = len(samples)
    prompts = Prompts(torch.zeros(count, 4), torch.zeros(count, 3, 2), torch.zeros(count, 256, 256) > 0, "")
    batch, target = draw_batch(
        samples,
        prompts,
        list(range(count)),
        fit=FitSettings(jitter=True, **fit),
        prompt_kind=prompt_kind,
        view=View(size, grid, "pad", torch.device("cpu"), mask_levels=RAW_MASK_LEVELS),
        order=seeded(seed),
    )
    assert isinstance(batch, TrainingBatch)
    return batch, target


def test_a_jittered_batch_holds_the_jittered_pixels_and_their_own_prompts() -> None:
    batch, target = drawn([marked(30, 50), marked(50, 20)], seed=1, loss_points=5)
    assert batch.is_unique
    assert batch.target is target
    assert batch.masks is not None
    levels = batch.images * torch.tensor(PIXEL_STD).view(3, 1, 1) + torch.tensor(PIXEL_MEAN).view(3, 1, 1)
    inside = (levels[:, 1] - 255).abs() < 0.01
    assert (levels[:, 0] / 255 - batch.masks).abs()[inside].max() < 0.51 / 255
    assert torch.allclose(levels.movedim(1, -1)[~inside], torch.tensor(128.0), atol=0.01)
    hard = batch.masks > 128 / 255
    assert torch.allclose(target, hard.view(2, SIZE // 4, 4, SIZE // 4, 4).float().mean(dim=(2, 4)))
    for row in range(2):
        assert torch.equal(batch.prompts.boxes[row], tight_box(hard[row]))
        columns, rows = (batch.prompts.points[row] - 0.5).long().unbind(1)
        assert hard[row][rows, columns].all()


def test_the_same_order_draws_the_same_batch() -> None:
    (first, _), (again, _), (other, _) = (drawn([noise(30, 50)], seed=seed, loss_points=3) for seed in (1, 1, 2))
    assert torch.equal(first.images, again.images)
    assert first.point_candidates is not None
    assert again.point_candidates is not None
    assert torch.equal(first.point_candidates, again.point_candidates)
    assert not torch.equal(first.images, other.images)


def test_points_are_dropped_for_the_whole_batch_where_one_mask_has_too_few() -> None:
    kinds: dict[bool, list[str]] = {True: [], False: []}
    for seed in range(40):
        batch, _ = drawn([noise(30, 30), noise(20, 40), speck()], seed=seed, empty_crops="keep", loss_points=1)
        assert batch.masks is not None
        is_poor = int((batch.masks > 128 / 255).flatten(1).sum(1).min()) < 3
        kinds[is_poor] += batch.prompts.kinds
    assert set(kinds[True]) == {"box", "mask"}
    assert set(kinds[False]) == set(MIXED)
    shares = [kinds[True].count(kind) / len(kinds[True]) for kind in ("box", "mask")]
    assert shares == pytest.approx([0.5, 0.5], abs=0.15)


def test_what_no_crop_was_found_for_stays_as_it_is(squares: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augmentation, "TRIES", 0)
    prompts = draw_prompts(squares, points=3, seed=0).take([0])
    batch, _ = draw_batch(
        [squares[0]],
        prompts,
        [0],
        fit=FitSettings(jitter=True, flip=False),
        prompt_kind="box",
        view=View(120, 30, "pad", torch.device("cpu")),
        order=seeded(0),
    )
    assert torch.equal(batch.prompts.boxes, 2 * prompts.boxes)


def test_points_of_empty_crops_are_refused(squares: Split, sam: Sam) -> None:
    with pytest.raises(CosamError, match="empty_crops = 'keep' trains on crops without foreground"):
        drawn([speck()], seed=0, prompt_kind="points", empty_crops="keep")
    with pytest.raises(CosamError, match="which have no points"):
        fitted(sam, squares, prompt_kind="points", jitter=True, empty_crops="keep")


class Untouched:
    """Kept features that nobody may ask for."""

    spared_seconds = 0.0

    def serves(self, images: Tensor) -> bool:
        raise AssertionError("a jittered image will not come again")


def fitted(sam: Sam, samples: Any, *, prompt_kind: Any = "mix", **fit: Any) -> Any:
    prompts = draw_prompts(samples, points=10, seed=0)
    return fit_adapter(
        sam,
        samples,
        prompts,
        adapter=AdapterSettings(rank=2, alpha=4.0),
        fit=FitSettings(batch_size=3, learning_rate=5e-3, **{"epochs": 1} | fit),
        prompt_kind=prompt_kind,
        view=View(sam.image_size, sam.logits_size, "pad", torch.device("cpu")),
        start=None,
        initialisation=seeded(0),
        order=seeded(0),
        prefixes=Untouched(),  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("fit", [{"loss_points": 64}, {"loss_grid": "model", "loss": "focal_dice_iou"}, {}])
def test_training_on_jittered_samples_is_finite_and_keeps_no_features(sam: Sam, squares: Split, fit: Any) -> None:
    found = fitted(sam, squares, jitter=True, empty_crops="keep", epochs=2, **fit)
    assert all(np.isfinite(found.epoch_losses))


def test_crops_without_foreground_give_finite_gradients(sam: Sam) -> None:
    blank = Sample("blank", speck().image, torch.zeros(60, 60, dtype=torch.bool))
    for kind in ("box", "mask"):
        for fit in ({"loss_points": 16}, {"loss": "focal_dice_iou", "loss_grid": "model"}, {}):
            settings: dict[str, Any] = {"empty_crops": "keep"} | fit
            batch, target = drawn(
                [blank], seed=0, prompt_kind=kind, size=sam.image_size, grid=sam.logits_size, **settings
            )
            assert not target.any()
            view = View(sam.image_size, sam.logits_size, "pad", torch.device("cpu"))
            weight = sam.mask_decoder.mask_tokens.weight.requires_grad_()
            try:
                loss, _ = training_loss(sam, batch, target, fit=FitSettings(jitter=True, **settings), view=view)
                (gradient,) = torch.autograd.grad(loss, weight)
            finally:
                weight.requires_grad_(requires_grad=False)
            assert torch.isfinite(gradient).all()
            assert gradient.any()
