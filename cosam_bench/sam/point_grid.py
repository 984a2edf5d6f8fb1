"""Foreground without a prompt: one mask per point of a regular grid, pooled.

SAM's automatic mode (Kirillov et al., "Segment Anything", ICCV 2023, section 5) asks for a mask at each point of a
grid and keeps the good ones. It returns all objects and does not say which of them are wanted. Here masks that cover
more than half of the image are taken for the background and left out, and a pixel is foreground if one of the others
covers it whose predicted IoU is above 0.5. The pooled probability of a pixel is the largest of these predicted IoU.

Deviations from SAM's automatic mode: the decoder's single mask per point instead of the best of three; no threshold of
stability, since single masks of one point have flat logits even where they fit; no crops, and no suppression of
duplicates, which a maximum does not need.
"""

from __future__ import annotations

import torch
from torch import Tensor

BACKGROUND_SHARE = 0.5  # of the image; a mask that covers more is taken for the background
POINTS_AT_ONCE = 64  # segment-anything's automatic mode
LEAST = 1e-4  # a probability is at least this far from 0 and 1, so that its logit is finite


def grid_points(content: tuple[int, int], *, side: int) -> Tensor:
    """The centres of ``side`` x ``side`` equal cells of an image, row by row: float32 ``(side * side, 2)``, x y.

    Args:
        content: height and width of the image within the model's input.
        side: of the grid.

    >>> grid_points((2, 4), side=2).tolist()
    [[1.0, 0.5], [3.0, 0.5], [1.0, 1.5], [3.0, 1.5]]
    """
    height, width = content
    steps = (torch.arange(side) + 0.5) / side
    return torch.stack([(width * steps).repeat(side), (height * steps).repeat_interleave(side)], dim=1)


class MaskPool:
    """The masks of one image's points, pooled a few at a time."""

    def __init__(self, points: Tensor, *, image_size: int, grid: int) -> None:
        """A pool without masks.

        Args:
            points: float32 ``(n, 2)``, all of the image's ``grid_points``.
            image_size: side of the model's input.
            grid: side of the logits.
        """
        width, height = (points[0] + points[-1]).unbind()  # first and last are as far from opposite corners
        cells = (torch.arange(grid, device=points.device) + 0.5) * (image_size / grid)
        self._inside = (cells < height)[:, None] & (cells < width)
        self._best = points.new_zeros(grid, grid)
        self._sums = points.new_zeros(2)  # of the kept masks: predicted IoU squared, and predicted IoU

    def add(self, logits: Tensor, predicted_iou: Tensor) -> None:
        """Add some masks.

        Args:
            logits: float32 ``(k, grid, grid)``.
            predicted_iou: float32 ``(k,)``.
        """
        masks = (logits > 0) & self._inside
        shares = masks.flatten(1).sum(dim=1) / self._inside.sum()
        weights = predicted_iou.clamp(0, 1) * (shares <= BACKGROUND_SHARE)
        self._best = self._best.maximum((weights[:, None, None] * masks).amax(dim=0))
        self._sums += torch.stack([(weights * weights).sum(), weights.sum()])

    def logits(self) -> Tensor:
        """The logits of the pooled probability, float32 ``(grid, grid)``."""
        return self._best.logit(eps=LEAST)

    def predicted_iou(self) -> Tensor:
        """The mean predicted IoU of the masks that are not left out, weighted by itself: a float32 scalar."""
        return self._sums[0] / self._sums[1].clamp(min=torch.finfo(torch.float32).tiny)
