"""Foreground without a prompt: one mask per point of a regular grid, pooled by a vote.

SAM's automatic mode (Kirillov et al., "Segment Anything", ICCV 2023, section 5) asks for a mask at each point of a
grid and keeps the good ones. It returns all objects and does not say which of them are wanted. Here each pixel is put
to a vote of the masks that cover it: a mask that covers more than half of the image votes for background, any other
for foreground, with the weight *predicted IoU times stability*. The foreground is where the weight for it is larger.
A pixel that no mask covers is background.

Deviations from SAM's automatic mode: the decoder's single mask per point instead of the best of three; weights instead
of thresholds of predicted IoU and stability, which would leave no mask of a model whose own estimates are low; no
crops and no suppression of duplicates, since a vote needs neither.
"""

from __future__ import annotations

import torch
from torch import Tensor

BACKGROUND_SHARE = 0.5  # of the image; a mask that covers more is taken for the background
STABILITY_OFFSET = 1.0  # of the logits, segment-anything's automatic mode
POINTS_AT_ONCE = 64  # segment-anything's automatic mode
LEAST_SHARE = 1e-4  # a vote is at least this far from unanimous, so that its logit is finite


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


class MaskVote:
    """The vote of the masks of one image, a few at a time."""

    def __init__(self, points: Tensor, *, image_size: int, grid: int) -> None:
        """A vote without votes.

        Args:
            points: float32 ``(n, 2)``, all of the image's ``grid_points``.
            image_size: side of the model's input.
            grid: side of the logits.
        """
        width, height = (points[0] + points[-1]).unbind()  # first and last are as far from opposite corners
        cells = (torch.arange(grid, device=points.device) + 0.5) * (image_size / grid)
        self._inside = (cells < height)[:, None] & (cells < width)
        self._votes = points.new_zeros(2, grid, grid)  # for the foreground, and for the background
        self._estimates = points.new_zeros(2)  # sums of weight times predicted IoU, and of weights

    def add(self, logits: Tensor, predicted_iou: Tensor) -> None:
        """Let some masks vote.

        Args:
            logits: float32 ``(k, grid, grid)``.
            predicted_iou: float32 ``(k,)``.
        """
        masks = (logits > 0) & self._inside
        shares = _areas(masks) / self._inside.sum()
        sure, maybe = (_areas((logits > bound) & self._inside) for bound in (STABILITY_OFFSET, -STABILITY_OFFSET))
        weights = predicted_iou.clamp(0, 1) * (sure / maybe.clamp(min=1))
        is_object = shares <= BACKGROUND_SHARE
        sides = torch.stack([weights * is_object, weights * ~is_object])
        self._votes += (sides @ masks.float().flatten(1)).view_as(self._votes)
        self._estimates += torch.stack([(weights * predicted_iou).sum(), weights.sum()])

    def logits(self) -> Tensor:
        """The logit of the share of the weight that is for the foreground, float32 ``(grid, grid)``."""
        total = self._votes.sum(dim=0)
        shares = torch.where(total > 0, self._votes[0] / total, 0.0)
        return shares.logit(eps=LEAST_SHARE)

    def predicted_iou(self) -> Tensor:
        """The weighted mean of the masks' predicted IoU, a float32 scalar."""
        return self._estimates[0] / self._estimates[1].clamp(min=torch.finfo(torch.float32).tiny)


def _areas(masks: Tensor) -> Tensor:
    return masks.flatten(1).sum(dim=1).float()
