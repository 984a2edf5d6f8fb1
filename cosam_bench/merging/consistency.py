"""How far mask predictions moved from a model's earlier ones, and which pixels count."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

PixelWeighting = Literal["all", "foreground", "disagreement"]


def bernoulli_divergence(before: Tensor, after: Tensor, *, weights: Tensor | None = None) -> Tensor:
    """The mean over pixels of KL(sigmoid before || sigmoid after), a scalar at least 0.

    Args:
        before: logits of any shape.
        after: logits of that shape.
        weights: of each pixel, of that shape; None: 1.

    >>> bernoulli_divergence(torch.tensor([0.0, 2.0]), torch.tensor([0.0, 2.0]))
    tensor(0.)
    """
    chances = before.sigmoid()
    entropy = functional.binary_cross_entropy_with_logits(before, chances, weights)
    return functional.binary_cross_entropy_with_logits(after, chances, weights) - entropy


def pixel_weights(before: Tensor, after: Tensor, *, kind: PixelWeighting) -> Tensor:
    """The weight of each pixel in a divergence, with mean 1 in each mask.

    Most pixels are background in both predictions, so that their plain mean hardly sees the object.

    Args:
        before: logits ``(B, h, w)`` of the old model.
        after: logits ``(B, h, w)`` of the new one.
        kind: ``all``: 1. ``foreground``: half of the weight goes to what either model takes for foreground, in
            proportion to the larger of both probabilities, and half to the rest, likewise. ``disagreement``: in
            proportion to the difference of both probabilities.
    """
    if kind == "all":
        return torch.ones_like(before)
    old, new = before.sigmoid(), after.sigmoid()
    if kind == "disagreement":
        return _mean_one((old - new).abs())
    foreground = torch.maximum(old, new)
    return (_mean_one(foreground) + _mean_one(1 - foreground)) / 2


def _mean_one(parts: Tensor) -> Tensor:
    """Parts ``(B, h, w)`` of at least 0 scaled to mean 1 per mask; all 1 if they are all 0."""
    means = parts.mean((1, 2), keepdim=True)
    return torch.where(means > 0, parts / means.clamp(min=torch.finfo(means.dtype).tiny), 1.0)
