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
    Resize,
    frame_prompts,
    normalise,
    prepare_image,
)

Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True)
class View:
    """How samples become model input.

    Attributes:
        size: the model's input side, pixels.
        grid: the side of the decoder's logits.
        resize: ``pad`` keeps the aspect and pads right and below, ``squash`` does not.
        device: where batches lie.
        precision: the type the model computes in.
    """

    size: int
    grid: int
    resize: Resize
    device: torch.device
    precision: Precision = "fp32"

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
    prepared = [prepare_image(sample.image, size=view.size, resize=view.resize) for sample in samples]
    frames = tuple(frame for _, frame in prepared)
    images = normalise(torch.stack([image for image, _ in prepared]).to(view.device), frames)
    placed = frame_prompts(prompts, rows=range(len(samples)), frames=frames, kinds=kinds, grid=view.grid)
    return Batch(images, placed.to(view.device), domains), frames
