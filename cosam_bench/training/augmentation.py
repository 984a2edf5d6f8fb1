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


def jitter(sample: Sample, *, size: int, order: torch.Generator) -> Jittered:
    """The sample enlarged or shrunk at random, cut to at most S x S and padded to it.

    The longer side becomes s S pixels, s even between 0.1 and 2; image and mask are interpolated bilinearly
    without antialiasing; along a side longer than S, a random window of S pixels is kept; a shorter one is padded on
    the right or below, the image with level 128.

    Args:
        size: S, the side of the model's input.
        order: draws the scale and the window.

    Source: CoSAM's training, which takes it from HQ-SAM's; Ghiasi et al., "Simple Copy-Paste", CVPR 2021. Levels
    are rounded to whole numbers, so that a jittered image is a sample like any other.
    """
    height, width = sample.mask.shape
    lowest, highest = SCALES
    longest = round((lowest + (highest - lowest) * torch.rand((), generator=order).item()) * size)
    scale = min(longest / height, longest / width)
    shape = (max(1, round(height * scale)), max(1, round(width * scale)))
    rows, columns = (_window(length, size=size, order=order) for length in shape)
    image = resize_bilinear(sample.image, shape)[:, rows, columns]

    def interpolated(mask: Tensor) -> Tensor:
        soft = torch.zeros(size, size)
        window = resize_bilinear(mask[None], shape)[0, rows, columns]
        soft[: window.shape[0], : window.shape[1]] = window
        return soft

    padded = torch.full((3, size, size), PADDING_LEVEL, dtype=torch.uint8)
    padded[:, : image.shape[1], : image.shape[2]] = image.round().to(torch.uint8)
    soft_mask = interpolated(sample.mask)
    mask = soft_mask > FOREGROUND_SHARE
    if sample.ignored is None:
        return Jittered(Sample(sample.key, padded, mask), soft_mask)
    soft_ignored = interpolated(sample.ignored)
    return Jittered(Sample(sample.key, padded, mask, (soft_ignored > 0.5) & ~mask), soft_mask, soft_ignored)


def _window(length: int, *, size: int, order: torch.Generator) -> slice:
    first = int(torch.randint(max(length - size, 0) + 1, (), generator=order))
    return slice(first, first + size)


def jitter_until_foreground(
    sample: Sample, *, size: int, empty_crops: EmptyCrops, order: torch.Generator
) -> Jittered | None:
    """A jittered sample; None if the sample has foreground and ``redraw`` found none in ``TRIES`` crops."""
    for _ in range(TRIES):
        jittered = jitter(sample, size=size, order=order)
        if empty_crops == "keep" or jittered.sample.mask.any() or not sample.mask.any():
            return jittered
    return None


def prompts_from_masks(masks: Sequence[Tensor], *, points: int, order: torch.Generator) -> Prompts:
    """Prompts drawn from some masks; a mask without foreground gets those of CoSAM's code.

    These are the box ``(1e8, 1e8, 0, 0)``, which SAM embeds as some finite direction, and an all-background mask.
    Such a mask has no points, and CoSAM's training never uses them: here they are zeros.

    Args:
        masks: bool, ``(H, W)`` each.
        points: points per mask; they are distinct pixels unless the mask has fewer.
        order: draws points and noise.
    """
    boxes = torch.tensor(NO_BOX).repeat(len(masks), 1)
    drawn = torch.zeros(len(masks), points, 2)
    noisy = torch.zeros(len(masks), MASK_SIZE, MASK_SIZE, dtype=torch.bool)
    for row, mask in enumerate(masks):
        generator = np.random.default_rng(int(torch.randint(2**62, (), generator=order)))
        if mask.any():
            boxes[row] = tight_box(mask)
            drawn[row] = random_points(mask, count=points, generator=generator)
            noisy[row] = noisy_mask(mask, generator=generator)
    return Prompts(boxes, drawn, noisy, digest="")


def replace_rows(prompts: Prompts, rows: Sequence[int], fresh: Prompts) -> Prompts:
    """The prompts with those of ``fresh`` in place of these rows."""
    index = torch.as_tensor(list(rows), dtype=torch.long)
    return Prompts(
        boxes=prompts.boxes.index_copy(0, index, fresh.boxes),
        points=prompts.points.index_copy(0, index, fresh.points),
        masks=_whole_masks(prompts).index_copy(0, index, fresh.masks),
        digest=prompts.digest,
    )


def _whole_masks(prompts: Prompts) -> Tensor:
    """The mask prompts at their full size, even if a memory stored none (1 x 1 pixel, never used)."""
    return prompts.masks if prompts.masks.shape[-1] == MASK_SIZE else prompts.masks.expand(-1, MASK_SIZE, MASK_SIZE)
