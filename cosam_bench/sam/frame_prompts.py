"""Prompts in the model's frame, as SAM's prompt encoder takes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from cosam_bench.core.devices import select_rows, to_device_async
from cosam_bench.data.prompt_settings import GRID, GRID_SIDE, UNDRAWN, WHOLE, PromptKind, TestPrompt
from cosam_bench.data.prompts import Prompts
from cosam_bench.sam.frames import Frame
from cosam_bench.sam.point_grid import grid_points


@dataclass(frozen=True)
class FramePrompts:
    """One prompt per image, in the model's frame, ready for SAM's prompt encoder.

    Attributes:
        kinds: per row, which of the three is the prompt; the others are ignored. Of ``grid``, each point is a prompt of
            its own, and the box is that of the image.
        boxes: float32, ``(B, 4)``, x0 y0 x1 y1 in pixels of the input.
        points: float32, ``(B, k, 2)``, x y in pixels of the input.
        masks: float32, ``(B, 1, g, g)``, on the decoder's grid, 1 inside to -1 outside.
        mask_levels: what -1 and 1 become as input of SAM's mask encoder; None: the logits that suit the model.
        labels: float32, ``(B, k)``, 1 for a point on the foreground, 0 on the background; None: all foreground.
    """

    kinds: tuple[PromptKind, ...]
    boxes: Tensor
    points: Tensor
    masks: Tensor
    mask_levels: tuple[float, float] | None = None
    labels: Tensor | None = None

    def __len__(self) -> int:
        """The number of images."""
        return len(self.kinds)

    def to(self, device: torch.device | str) -> FramePrompts:
        """The same prompts on a device."""
        boxes, points, masks = (to_device_async(part, device) for part in (self.boxes, self.points, self.masks))
        labels = None if self.labels is None else to_device_async(self.labels, device)
        return replace(self, boxes=boxes, points=points, masks=masks, labels=labels)

    def mask_input(self, *, mask_logit: float) -> Tensor:
        """The input of SAM's mask encoder, float32 ``(B, 1, g, g)``.

        Args:
            mask_logit: what 1 becomes if the prompts have no levels; -1 becomes its opposite.
        """
        if self.mask_levels is None:
            return mask_logit * self.masks
        outside, inside = self.mask_levels
        return (inside - outside) / 2 * self.masks + (inside + outside) / 2

    def select(self, rows: Sequence[int]) -> FramePrompts:
        """The prompts of these rows, in this order."""
        index = list(rows)
        kinds = tuple(self.kinds[row] for row in index)
        boxes, points, masks = (select_rows(part, index) for part in (self.boxes, self.points, self.masks))
        labels = None if self.labels is None else select_rows(self.labels, index)
        return replace(self, kinds=kinds, boxes=boxes, points=points, masks=masks, labels=labels)

    def point_labels(self) -> Tensor:
        """1 for each point on the foreground, 0 on the background: float32 ``(B, k)``."""
        return torch.ones(self.points.shape[:2], device=self.points.device) if self.labels is None else self.labels

    def groups(self) -> list[tuple[PromptKind, list[int]]]:
        """The rows of each kind, kinds in order of their first row."""
        rows: dict[PromptKind, list[int]] = {}
        for row, kind in enumerate(self.kinds):
            rows.setdefault(kind, []).append(row)
        return list(rows.items())


def prompts_in_frame(
    prompts: Prompts,
    *,
    rows: Sequence[int],
    frames: Sequence[Frame],
    kinds: Sequence[TestPrompt],
    grid: int,
    mask_levels: tuple[float, float] | None = None,
    grid_side: int = GRID_SIDE,
) -> FramePrompts:
    """The prompts of some images, brought to the model's frame.

    Boxes and points are scaled as segment-anything's ``apply_boxes`` and ``apply_coords`` do, so that the
    same numbers given to its predictor mean the same. A cell of a mask is between -1 and 1 by the share of its area
    that is covered; the padding is outside.

    A box is that of the mask at the image's own size, scaled. The published codes take it from the mask resized to
    the model's input, which can differ by about a pixel of the input, and by more if the image shrinks so far that
    parts of the mask vanish.

    Args:
        prompts: of a whole split, in pixels of the original images.
        rows: which of the split's images.
        frames: one per row.
        kinds: one per row; of ``image``, the prompt becomes a box around all of the image. If one is ``grid``, all are.
        grid: side of the decoder's grid, ``Sam.logits_size``.
        mask_levels: as in ``FramePrompts``.
        grid_side: how many points a prompt of kind ``grid`` has along each side.
    """
    index = torch.as_tensor(list(rows), dtype=torch.long)
    scale = torch.tensor([[f.content[1] / f.original[1], f.content[0] / f.original[0]] for f in frames]).view(-1, 1, 2)
    boxes = (prompts.boxes[index].view(-1, 2, 2) * scale).view(-1, 4)
    for row, (kind, frame) in enumerate(zip(kinds, frames, strict=True)):
        if kind in UNDRAWN:
            boxes[row] = torch.tensor([0, 0, frame.content[1], frame.content[0]])
    points = prompts.points[index] * scale
    if GRID in kinds:
        points = torch.stack([grid_points(frame.content, side=grid_side) for frame in frames])
    given = tuple("box" if kind == WHOLE else kind for kind in kinds)
    masks = torch.zeros(len(frames), 1, grid, grid)
    for row, (kind, frame) in enumerate(zip(kinds, frames, strict=True)):
        if kind == "mask":
            masks[row, 0] = 2 * mask_to_grid(prompts.masks[rows[row]], frame, size=grid) - 1
    return FramePrompts(given, boxes, points, masks, mask_levels)


def mask_to_grid(mask: Tensor, frame: Frame, *, size: int) -> Tensor:
    """The share of each cell of the decoder's grid that the mask covers; the padding counts as outside.

    Args:
        mask: bool, ``(H, W)``, over the whole image, at any resolution.
        frame: the image's.
        size: side of the grid, ``Sam.logits_size``.

    Returns:
        float32 ``(size, size)`` in [0, 1].
    """
    rows = _bands(mask.shape[0], frame.content[0] / frame.size, size)
    columns = _bands(mask.shape[1], frame.content[1] / frame.size, size)
    shares = columns.sums(rows.sums(mask.double()).T.contiguous()).T
    # Here and in the products of whole matrices, the same terms, none below 0, are added up in another order: each sum
    # is within this share of the exact one. Where that decides float32's rounding, both give the same bits.
    slack = 4 * (rows.width + columns.width + 4) * torch.finfo(torch.float64).eps
    lowest, highest = (shares * (1 - slack)).float(), (shares * (1 + slack)).float()
    return lowest.contiguous() if torch.equal(lowest, highest) else _by_whole_matrices(mask, frame, size=size)


def _by_whole_matrices(mask: Tensor, frame: Frame, *, size: int) -> Tensor:
    """As ``mask_to_grid``, whose bits it defines, by products of which nearly all terms are zeros."""
    rows = _overlap(mask.shape[0], frame.content[0] / frame.size, size)
    columns = _overlap(mask.shape[1], frame.content[1] / frame.size, size)
    return (rows @ mask.double() @ columns.T).float()


def _overlap(pixels: int, share: float, cells: int) -> Tensor:
    """``(cells, pixels)``: the share of a cell that a pixel covers, if all pixels cover ``share`` of the cells."""
    edges = torch.arange(pixels + 1, dtype=torch.float64) * (share * cells / pixels)
    starts = torch.arange(cells, dtype=torch.float64).unsqueeze(1)
    return (edges[1:].minimum(starts + 1) - edges[:-1].maximum(starts)).clamp_min(0)


@dataclass(frozen=True)
class _Bands:
    """The terms of ``_overlap`` that are not zero: of each cell, those of a few pixels in a row.

    Attributes:
        pixels: int64, ``(cells, n)``; which pixels.
        shares: float64, ``(cells, n)``; the share of the cell that each of them covers, 0 beyond the last one.
    """

    pixels: Tensor
    shares: Tensor

    @property
    def width(self) -> int:
        """The largest number of pixels in a cell."""
        return self.pixels.shape[1]

    def sums(self, values: Tensor) -> Tensor:
        """Weighted sums over the first axis of float64 ``(pixels, n)``: ``(cells, n)``."""
        return functional.embedding_bag(self.pixels, values, per_sample_weights=self.shares, mode="sum")


@lru_cache(maxsize=64)  # images of a domain share few sizes; an entry takes tens of KB
def _bands(pixels: int, share: float, cells: int) -> _Bands:
    with torch.inference_mode(False):
        overlap = _overlap(pixels, share, cells)
        covers = overlap > 0
        indices = covers.int().argmax(dim=1, keepdim=True) + torch.arange(max(1, int(covers.sum(dim=1).max())))
        inside = indices.clamp(max=pixels - 1)
        return _Bands(inside, torch.where(indices < pixels, overlap.gather(1, inside), 0.0))
