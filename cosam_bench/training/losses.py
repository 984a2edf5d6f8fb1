"""Segmentation losses on mask logits, and the points at which they may be evaluated."""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional

OVERSAMPLING = 3  # candidates per point, PointRend and CoSAM's training
UNSURE_SHARE = 0.75  # share of the points chosen as least certain; the others are uniformly random


class Loss(Protocol):
    """From logits and target ``(B, ...)`` and the decoder's estimates ``(B,)`` of its IoU to a scalar.

    ``weights``, as the logits, in [0, 1], are the shares of cells that count; None: all of each does.
    """

    def __call__(
        self,
        logits: Tensor,
        target: Tensor,
        predicted_iou: Tensor,
        *,
        iou_threshold: float = 0.0,
        sum_over_batch: bool = False,
        weights: Tensor | None = None,
    ) -> Tensor:
        """The loss, with a graph."""
        ...


def dice_loss(logits: Tensor, target: Tensor, *, weights: Tensor | None = None) -> Tensor:
    """One minus the soft Dice coefficient of each mask, ``(B,)`` in [0, 1].

    Args:
        logits: float, ``(B, H, W)``.
        target: float, ``(B, H, W)`` in [0, 1].
        weights: of both in each cell, as the target; None: 1.

    Source: Milletari et al., "V-Net", 3DV 2016, with 1 added to numerator and denominator, as both
    benchmark protocols do, so that an empty target has a gradient.
    """
    probability = logits.sigmoid().flatten(1)
    flat = target.flatten(1)
    if weights is not None:
        shares = weights.flatten(1)
        overlap = (shares * probability * flat).sum(1)
        return 1 - (2 * overlap + 1) / ((shares * probability).sum(1) + (shares * flat).sum(1) + 1)
    overlap = (probability * flat).sum(1)
    return 1 - (2 * overlap + 1) / (probability.sum(1) + flat.sum(1) + 1)


def bce_dice(
    logits: Tensor,
    target: Tensor,
    predicted_iou: Tensor,
    *,
    iou_threshold: float = 0.0,
    sum_over_batch: bool = False,
    weights: Tensor | None = None,
) -> Tensor:
    """Binary cross-entropy plus Dice, equal weights, a scalar; the predicted IoU is not used.

    Args:
        logits: float, ``(B, H, W)`` or ``(B, points)``.
        target: float, as the logits, in [0, 1].
        predicted_iou: any.
        iou_threshold: any.
        sum_over_batch: the sum over masks instead of their mean.
        weights: float, as the logits, the shares of cells that count; None: all of each does.

    Source: CoSAM's training loss, which it evaluates at sampled points.
    """
    del predicted_iou, iou_threshold
    pixel = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    losses = _cell_means(pixel, weights) + dice_loss(logits, target, weights=weights)
    return losses.sum() if sum_over_batch else losses.mean()


def focal_dice_iou(
    logits: Tensor,
    target: Tensor,
    predicted_iou: Tensor,
    *,
    iou_threshold: float = 0.0,
    sum_over_batch: bool = False,
    weights: Tensor | None = None,
) -> Tensor:
    """Focal loss plus ten times Dice plus the squared error of the predicted IoU, a scalar.

    Args:
        logits: float, ``(B, H, W)``.
        target: float, ``(B, H, W)`` in [0, 1].
        predicted_iou: float, ``(B,)``, the IoU head's output.
        iou_threshold: the logit above which a cell counts as predicted, used only for the true IoU.
        sum_over_batch: sum focal loss and Dice over masks; the squared error stays a mean.
        weights: float, ``(B, H, W)``, the shares of cells that count; None: all of each does. The true IoU is that of
            cells of which at least half counts.

    Source: RegCL's training loss: focal weight 0.8 and exponent 2 on the pixel's own cross-entropy. Its code sums
    over the batch and thresholds at 0.5, including a logit of exactly 0.5; the defaults are the mean and 0, as in
    scoring. A cell of the target counts as foreground if the mask fills more than half of it,
    and the IoU of two empty masks is 1.
    """
    pixel = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    focal = _cell_means(0.8 * (1 - torch.exp(-pixel)) ** 2 * pixel, weights)
    with torch.no_grad():
        predicted, wanted = logits.flatten(1) > iou_threshold, target.flatten(1) > 0.5
        if weights is not None:
            counts = weights.flatten(1) >= 0.5
            predicted, wanted = predicted & counts, wanted & counts
        union = (predicted | wanted).sum(1)
        overlap = (predicted & wanted).sum(1).to(predicted_iou.dtype)
        actual_iou = torch.where(union > 0, overlap / union, 1)
    masks, error = focal + 10 * dice_loss(logits, target, weights=weights), (predicted_iou - actual_iou) ** 2
    return masks.sum() + error.mean() if sum_over_batch else (masks + error).mean()


def mean_cross_entropy(logits: Tensor, target: Tensor, *, weights: Tensor | None) -> Tensor:
    """The mean over images of the mean Bernoulli cross-entropy over the cells that count, a scalar.

    Args:
        logits: float, ``(B, h, w)``.
        target: as the logits, in [0, 1].
        weights: as the target, the shares of cells that count; None: all of each does.
    """
    if weights is None:
        return functional.binary_cross_entropy_with_logits(logits, target)
    cells = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return _cell_means(cells, weights).mean()


def _cell_means(values: Tensor, weights: Tensor | None) -> Tensor:
    """The mean over the cells of each mask, ``(B,)``; 0 if no cell counts."""
    if weights is None:
        return values.flatten(1).mean(1)
    shares = weights.flatten(1)
    return (shares * values.flatten(1)).sum(1) / shares.sum(1).clamp(min=torch.finfo(shares.dtype).tiny)


LOSSES: dict[str, Loss] = {"bce_dice": bce_dice, "focal_dice_iou": focal_dice_iou}


def draw_point_candidates(masks: int, *, count: int, order: torch.Generator) -> Tensor:
    """Uniformly random points that ``uncertain_points`` chooses among: ``(masks, n, 2)`` in [0, 1), x y.

    Args:
        masks: how many.
        count: points to choose per mask; n is ``OVERSAMPLING`` times as many, plus those that stay uniform.
    """
    return torch.rand(masks, OVERSAMPLING * count + _uniform_count(count), 2, generator=order)


def _uniform_count(count: int) -> int:
    return count - int(UNSURE_SHARE * count)


def uncertain_points(logits: Tensor, candidates: Tensor, *, count: int) -> Tensor:
    """The points at which a loss is evaluated, ``(B, count, 2)``: mostly those where the mask is least certain.

    Args:
        logits: float, ``(B, h, w)``.
        candidates: from ``draw_point_candidates`` with the same ``count``.

    Source: Kirillov et al., "PointRend", CVPR 2020, section 3.3, with three candidates per point, three quarters
    of the points chosen for the smallest absolute logit.
    """
    candidates, uniform = candidates[:, : OVERSAMPLING * count], candidates[:, OVERSAMPLING * count :]
    with torch.no_grad():
        uncertainty = -point_sample(logits, candidates).abs()
        chosen = uncertainty.topk(count - _uniform_count(count), dim=1).indices
    return torch.cat([candidates.gather(1, chosen[..., None].expand(-1, -1, 2)), uniform], dim=1)


def point_sample(values: Tensor, points: Tensor, *, outside: Literal["zeros", "border"] = "zeros") -> Tensor:
    """The values at some points, interpolated between the centres of the four nearest cells: ``(B, n)``.

    Args:
        values: float, ``(B, h, w)``.
        points: float, ``(B, n, 2)``, x y; (0, 0) and (1, 1) are the outer corners of the grid.
        outside: the values beyond the grid: 0, so that a point within half a cell of the border gets less, or those of
            the border.

    Source: detectron2's ``point_sample``, including its treatment of the border.
    """
    grid = 2 * points[:, None] - 1
    return functional.grid_sample(values[:, None], grid, padding_mode=outside, align_corners=False)[:, 0, 0]
