"""From samples and prompts to what a model takes in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from cosam_bench.domains.prompts import Prompts
from cosam_bench.domains.samples import Sample
from cosam_bench.sam.frames import (
    Frame,
    FramePrompts,
    PromptKind,
    Resampling,
    Resize,
    frame_prompts,
    normalise,
    prepare_image,
)

Precision = Literal["fp32", "bf16"]
RAW_MASK_LEVELS = (0.0, 255.0)  # a mask as a grey image, which CoSAM's training hands to SAM's mask encoder


@dataclass(frozen=True)
class View:
    """How samples become model input.

    Attributes:
        size: the model's input side, pixels.
        grid: the side of the decoder's logits.
        resize: ``pad`` keeps the aspect and pads right and below, ``squash`` does not.
        device: where batches lie.
        precision: the type the model computes in.
        resampling: ``pillow`` shrinks with antialiasing, ``torch`` without.
        mask_levels: what enters SAM's mask encoder outside and inside of a mask prompt, ``RAW_MASK_LEVELS`` or
            others; None: the logits that suit the model.
    """

    size: int
    grid: int
    resize: Resize
    device: torch.device
    precision: Precision = "fp32"
    resampling: Resampling = "pillow"
    mask_levels: tuple[float, float] | None = None

    def frame(self, images: Sequence[Tensor]) -> tuple[Tensor, tuple[Frame, ...]]:
        """Images uint8 ``(3, H, W)`` of any sizes as the model takes them in, and the frames that lead back.

        Returns:
            float32 ``(B, 3, S, S)``, normalised, on ``device``; and one frame an image.
        """
        prepared = [
            prepare_image(image, size=self.size, resize=self.resize, resampling=self.resampling) for image in images
        ]
        frames = tuple(frame for _, frame in prepared)
        return normalise(torch.stack([image for image, _ in prepared]).to(self.device), frames), frames

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """The context in which the model computes in ``precision``."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")


@dataclass(frozen=True)
class Batch:
    """What ``predict`` receives: images and prompts, never masks.

    Attributes:
        images: float, ``(B, 3, S, S)``, normalised as SAM expects, on the model's device.
        prompts: one prompt a row, in the model's frame.
        domains: the rows' domains, only for a method whose card says ``told_domain``.
    """

    images: Tensor
    prompts: FramePrompts
    domains: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return self.images.shape[0]

    def select(self, rows: Sequence[int]) -> Batch:
        """The batch of these rows, in this order."""
        index = list(rows)
        domains = tuple(self.domains[row] for row in index) if self.domains is not None else None
        return Batch(self.images[index], self.prompts.select(index), domains)


def chunks(rows: Sequence[int], *, size: int) -> Iterator[list[int]]:
    """The rows in order, ``size`` at a time; the last chunk may be shorter.

    >>> list(chunks(range(5), size=2))
    [[0, 1], [2, 3], [4]]
    """
    for first in range(0, len(rows), size):
        yield list(rows[first : first + size])


def collate(
    samples: Sequence[Sample],
    prompts: Prompts,
    *,
    kinds: Sequence[PromptKind],
    view: View,
    domains: tuple[str, ...] | None = None,
) -> tuple[Batch, tuple[Frame, ...]]:
    """The batch of some samples, with the frames that lead back to their own sizes.

    Args:
        samples: any sizes.
        prompts: the same rows, in image pixels.
        kinds: which of its prompts each row uses.
        view: how samples become model input.
        domains: passed on to the batch.
    """
    images, frames = view.frame([sample.image for sample in samples])
    rows = range(len(samples))
    placed = frame_prompts(prompts, rows=rows, frames=frames, kinds=kinds, grid=view.grid, mask_levels=view.mask_levels)
    return Batch(images, placed.to(view.device), domains), frames
