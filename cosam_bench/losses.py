"""Segmentation losses on mask logits, averaged over the masks of a batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """One minus the soft Dice coefficient of each mask, ``(B,)`` in [0, 1].

    Args:
        logits: float, ``(B, H, W)``.
        target: float, ``(B, H, W)`` in [0, 1].

    Source: Milletari et al., "V-Net", 3DV 2016, with 1 added to numerator and denominator, as both
    benchmark protocols do, so that an empty target has a gradient.
    """
    probability = logits.sigmoid().flatten(1)
    flat = target.flatten(1)
    overlap = (probability * flat).sum(1)
    return 1 - (2 * overlap + 1) / (probability.sum(1) + flat.sum(1) + 1)


def bce_dice(logits: Tensor, target: Tensor, predicted_iou: Tensor) -> Tensor:
    """Binary cross-entropy plus Dice, equal weights, a scalar; ``predicted_iou`` is not used.

    Args:
        logits: float, ``(B, H, W)``.
        target: float, ``(B, H, W)`` in [0, 1].
        predicted_iou: any.

    Source: CoSAM's training loss, taken on every cell of the logits' grid instead of on sampled points.
    """
    del predicted_iou
    pixel = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (pixel.flatten(1).mean(1) + dice_loss(logits, target)).mean()


def focal_dice_iou(logits: Tensor, target: Tensor, predicted_iou: Tensor) -> Tensor:
    """Focal loss plus ten times Dice plus the squared error of the predicted IoU, a scalar.

    Args:
        logits: float, ``(B, H, W)``.
        target: float, ``(B, H, W)`` in [0, 1].
        predicted_iou: float, ``(B,)``, the IoU head's output.

    Source: RegCL's training loss: focal weight 0.8 and exponent 2 on the pixel's own cross-entropy.
    Two deviations: the mean over masks replaces their sum, and the IoU that the head is compared with
    is taken of ``logit > 0``, the mask that is scored, where the published code thresholds at 0.5. A cell of
    the target counts as foreground where the mask fills more than half of it.
    """
    pixel = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    focal = (0.8 * (1 - torch.exp(-pixel)) ** 2 * pixel).flatten(1).mean(1)
    with torch.no_grad():
        predicted, wanted = logits.flatten(1) > 0, target.flatten(1) > 0.5
        union = (predicted | wanted).sum(1)
        overlap = (predicted & wanted).sum(1).to(predicted_iou.dtype)
        actual_iou = torch.where(union > 0, overlap / union, 1)
    return (focal + 10 * dice_loss(logits, target) + (predicted_iou - actual_iou) ** 2).mean()


LOSSES: dict[str, Loss] = {"bce_dice": bce_dice, "focal_dice_iou": focal_dice_iou}
