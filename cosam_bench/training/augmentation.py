"""Augmentation of samples and their prompts: mirroring, and jitter of scale and position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cosam_bench.data.prompts import MASK_SIZE, Prompts, noisy_mask, random_points, tight_box
from cosam_bench.data.samples import Sample
from cosam_bench.sam.frames import resize_bilinear
from cosam_bench.training.fit_settings import EmptyCrops

SCALES = (0.1, 2.0)  # of the model's input size, CoSAM's training
PADDING_LEVEL = 128  # of the image's padding, CoSAM's training
FOREGROUND_SHARE = 128 / 255  # above which an interpolated pixel of the mask counts as foreground, CoSAM's training
TRIES = 10  # crops until one holds foreground; ours, CoSAM's training takes the first
NO_BOX = (1e8, 1e8, 0.0, 0.0)  # CoSAM's box of a mask without foreground


def mirror(sample: Sample) -> Sample:
    """The sample with left and right exchanged."""
    ignored = None if sample.ignored is None else sample.ignored.flip(-1)
    return Sample(sample.key, sample.image.flip(-1), sample.mask.flip(-1), ignored)


def mirror_prompts(prompts: Prompts, *, widths: Sequence[int], flips: Tensor) -> Prompts:
    """The prompts with left and right exchanged in the rows that ``flips`` marks.

    Args:
        widths: of each row's image, pixels.
        flips: bool, ``(N,)``.
    """
    width = torch.tensor(widths, dtype=torch.float32)
    left, top, right, bottom = prompts.boxes.unbind(1)
    boxes = torch.stack([width - right, top, width - left, bottom], dim=1)
    x, y = prompts.points.unbind(2)
    points = torch.stack([width[:, None] - x, y], dim=2)
    return Prompts(
        boxes=torch.where(flips[:, None], boxes, prompts.boxes),
        points=torch.where(flips[:, None, None], points, prompts.points),
        masks=torch.where(flips[:, None, None], prompts.masks.flip(-1), prompts.masks),
        digest=prompts.digest,
    )


@dataclass(frozen=True)
class Crop:
    """What large-scale jitter cuts out of a sample.

    Attributes:
        shape: height and width that the sample is brought to.
        rows: those of them that are kept, at most S.
        columns: likewise.
        size: S, the side of the model's input.
    """

    shape: tuple[int, int]
    rows: slice
    columns: slice
    size: int


@dataclass(frozen=True)
class Jittered:
    """A sample after large-scale jitter.

    Attributes:
        sample: at the model's input size S; its mask may be empty.
        soft_mask: float32, ``(S, S)`` in [0, 1], the mask before it was thresholded.
        soft_ignored: likewise of the ignored pixels, without the padding, which counts; None if all pixels do.
    """

    sample: Sample
    soft_mask: Tensor
    soft_ignored: Tensor | None = None


def draw_crop(shape: tuple[int, int], *, size: int, order: torch.Generator) -> Crop:
    """A random scale and window of a sample of height and width ``shape``.

    The longer side becomes s S pixels, s even between 0.1 and 2; along a side longer than S, a random window of S
    pixels is kept.

    Args:
        size: S, the side of the model's input.
        order: draws the scale and the window.

    Source: CoSAM's training, which takes it from HQ-SAM's; Ghiasi et al., "Simple Copy-Paste", CVPR 2021.
    """
    height, width = shape
    lowest, highest = SCALES
    longest = round((lowest + (highest - lowest) * torch.rand((), generator=order).item()) * size)
    scale = min(longest / height, longest / width)
    scaled = (max(1, round(height * scale)), max(1, round(width * scale)))
    rows, columns = (_window(length, size=size, order=order) for length in scaled)
    return Crop(scaled, rows, columns, size)


def _window(length: int, *, size: int, order: torch.Generator) -> slice:
    first = int(torch.randint(max(length - size, 0) + 1, (), generator=order))
    return slice(first, first + size)


def crop_mask(mask: Tensor, crop: Crop) -> Tensor:
    """The mask's shares in the crop, float32 ``(S, S)`` in [0, 1]: interpolated bilinearly, without antialiasing."""
    soft = torch.zeros(crop.size, crop.size)
    window = resize_bilinear(mask[None], crop.shape)[0, crop.rows, crop.columns]
    soft[: window.shape[0], : window.shape[1]] = window
    return soft


def draw_crop_with_foreground(
    mask: Tensor, *, size: int, empty_crops: EmptyCrops, order: torch.Generator
) -> tuple[Crop, Tensor] | None:
    """A random crop, and the mask in it; None if the mask has foreground and ``redraw`` found none in ``TRIES`` crops.

    Args:
        mask: bool, ``(H, W)``.
        size: S, the side of the model's input.

    Returns:
        The crop, and what ``crop_mask`` gives for it.
    """
    shape = (mask.shape[0], mask.shape[1])
    for _ in range(TRIES):
        crop = draw_crop(shape, size=size, order=order)
        soft_mask = crop_mask(mask, crop)
        if empty_crops == "keep" or (soft_mask > FOREGROUND_SHARE).any() or not mask.any():
            return crop, soft_mask
    return None


def jitter(sample: Sample, crop: Crop, *, soft_mask: Tensor) -> Jittered:
    """The sample enlarged or shrunk, cut to at most S x S and padded to it.

    The image is interpolated bilinearly without antialiasing, as the mask is; a side shorter than S is padded on the
    right or below, the image with level 128. Levels are rounded to whole numbers, so that a jittered image is a sample
    like any other.

    Args:
        soft_mask: ``crop_mask`` of the sample's mask.

    Source: as ``draw_crop``.
    """
    image = resize_bilinear(sample.image, crop.shape)[:, crop.rows, crop.columns]
    padded = torch.full((3, crop.size, crop.size), PADDING_LEVEL, dtype=torch.uint8)
    padded[:, : image.shape[1], : image.shape[2]] = image.round().to(torch.uint8)
    mask = soft_mask > FOREGROUND_SHARE
    if sample.ignored is None:
        return Jittered(Sample(sample.key, padded, mask), soft_mask)
    soft_ignored = crop_mask(sample.ignored, crop)
    return Jittered(Sample(sample.key, padded, mask, (soft_ignored > 0.5) & ~mask), soft_mask, soft_ignored)


def draw_seeds(count: int, *, order: torch.Generator) -> list[int]:
    """So many seeds of ``prompts_from_mask``."""
    return [int(torch.randint(2**62, (), generator=order)) for _ in range(count)]


def prompts_from_mask(mask: Tensor, *, points: int, seed: int) -> Prompts:
    """Prompts drawn from a mask, one row; a mask without foreground gets those of CoSAM's code.

    These are the box ``(1e8, 1e8, 0, 0)``, which SAM embeds as some finite direction, and an all-background mask.
    Such a mask has no points, and CoSAM's training never uses them: here they are zeros.

    Args:
        mask: bool, ``(H, W)``.
        points: how many; they are distinct pixels unless the mask has fewer.
        seed: of points and noise.
    """
    if not mask.any():
        noisy = torch.zeros(1, MASK_SIZE, MASK_SIZE, dtype=torch.bool)
        return Prompts(torch.tensor([NO_BOX]), torch.zeros(1, points, 2), noisy, digest="")
    generator = np.random.default_rng(seed)
    box = tight_box(mask)
    drawn = random_points(mask, count=points, generator=generator)
    return Prompts(box[None], drawn[None], noisy_mask(mask, generator=generator)[None], digest="")


def replace_rows(prompts: Prompts, fresh: Sequence[tuple[int, Prompts]]) -> Prompts:
    """The prompts with others in place of some rows.

    Args:
        fresh: numbers of rows, each with prompts of one row.
    """
    boxes, points, masks = prompts.boxes.clone(), prompts.points.clone(), _whole_masks(prompts).clone()
    for row, own in fresh:
        boxes[row], points[row], masks[row] = own.boxes[0], own.points[0], own.masks[0]
    return Prompts(boxes, points, masks, prompts.digest)


def _whole_masks(prompts: Prompts) -> Tensor:
    """The mask prompts at their full size, even if a memory stored none (1 x 1 pixel, never used)."""
    return prompts.masks if prompts.masks.shape[-1] == MASK_SIZE else prompts.masks.expand(-1, MASK_SIZE, MASK_SIZE)
