"""How well a predicted mask agrees with the true one: five numbers a mask, at any one size.

The rule for empty masks, everywhere: where both masks are empty (or neither has a boundary) the
agreement is perfect, 1.0; where only one is, there is none, 0.0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

HIGHER_IS_BETTER: Mapping[str, bool] = MappingProxyType(
    {"iou": True, "boundary_iou": True, "dice": True, "mae": False, "pixel_error": False}
)
METRICS: tuple[str, ...] = tuple(HIGHER_IS_BETTER)


def measure(logits: Tensor, target: Tensor) -> dict[str, Tensor]:
    """All metrics of predicted logits, each ``(N,)`` float64, by name in the order of ``METRICS``.

    Args:
        logits: float, ``(N, H, W)``, at the target's size; above 0 is foreground. A NaN counts as
            background for the mask metrics and makes ``mae`` NaN, so that it cannot pass unnoticed.
        target: bool, ``(N, H, W)``.
    """
    predicted = logits > 0
    areas = _areas(predicted, target)
    return {
        "iou": _iou(areas),
        "boundary_iou": boundary_iou(predicted, target),
        "dice": _dice(areas),
        "mae": _mae_of_logits(logits, target),
        "pixel_error": _pixel_error(areas, pixels=math.prod(target.shape[-2:])),
    }


def iou(predicted: Tensor, target: Tensor) -> Tensor:
    """Intersection over union, one number per mask: ``(N,)`` float64 in [0, 1].

    Args:
        predicted: bool, ``(N, H, W)``, at the image's own size, not the model's.
        target: bool, ``(N, H, W)``.

    >>> truth = torch.tensor([[[True, True, False]]])
    >>> iou(torch.tensor([[[True, False, False]]]), truth).item()
    0.5
    """
    return _iou(_areas(predicted, target))


def dice(predicted: Tensor, target: Tensor) -> Tensor:
    """Twice the intersection over the sum of the areas (F1), one number per mask: ``(N,)`` float64 in [0, 1].

    Args:
        predicted: bool, ``(N, H, W)``, at the image's own size, not the model's.
        target: bool, ``(N, H, W)``.
    """
    return _dice(_areas(predicted, target))


def boundary_iou(predicted: Tensor, target: Tensor, *, width: float = 0.02) -> Tensor:
    """Intersection over union of the two masks' inner boundary bands, one number per mask.

    A mask's band is what ``d`` erosions by a 3 x 3 square take away, ``d`` being ``width`` times the
    image's diagonal, rounded half to even, and at least 1. An object thinner than ``2 d + 1`` is all
    band, and its boundary IoU is then its IoU.

    Args:
        predicted: bool, ``(N, H, W)``, at the image's own size, not the model's.
        target: bool, ``(N, H, W)``.
        width: the band's width as a share of the image's diagonal.

    Returns:
        ``(N,)`` float64 in [0, 1]: 1.0 where neither mask has a boundary, 0.0 where only one has.

    Source: Cheng et al., "Boundary IoU", CVPR 2021. Pixels outside the image count as background, so a
    mask that touches the border has a boundary there.
    """
    _check_masks(predicted, target)
    distance = max(1, round(width * math.hypot(*predicted.shape[-2:])))
    return iou(predicted & ~erode(predicted, distance), target & ~erode(target, distance))


def erode(masks: Tensor, distance: int) -> Tensor:
    """The pixels whose whole square of ``2 distance + 1`` pixels a side is foreground: bool ``(N, H, W)``.

    Equal to ``distance`` erosions by a 3 x 3 square with background outside the image, in a number of
    passes that grows with the logarithm of ``distance``.

    Args:
        masks: bool, ``(N, H, W)``.
        distance: in pixels, at least 0.
    """
    for axis in (1, 2):
        masks = _erode_along(masks, axis, distance)
    return masks


def _erode_along(masks: Tensor, axis: int, distance: int) -> Tensor:
    """The erosion by a line of ``2 distance + 1`` pixels: runs of foreground, doubled in length each pass."""
    length = 2 * distance + 1
    border = list(masks.shape)
    border[axis] = distance
    outside = masks.new_zeros(border)
    runs = torch.cat([outside, masks, outside], dim=axis)
    reach = 1  # runs[i] tells whether the pixels i .. i + reach - 1 are all foreground
    while reach < length:
        step = min(reach, length - reach)
        kept = runs.shape[axis] - step
        runs = runs.narrow(axis, 0, kept) & runs.narrow(axis, step, kept)
        reach += step
    return runs


def mae(probability: Tensor, target: Tensor) -> Tensor:
    """The mean absolute error of the probability map, one number per mask: ``(N,)`` float64 in [0, 1].

    The map is not thresholded: an unsure prediction costs its distance from the truth.

    Args:
        probability: float, ``(N, H, W)`` in [0, 1], at the image's own size.
        target: bool, ``(N, H, W)``.
    """
    if probability.shape != target.shape or target.ndim != 3 or target.dtype != torch.bool:
        raise ValueError(
            "Expected probabilities and bool targets of one shape (N, H, W), found "
            f"{tuple(probability.shape)} and {target.dtype} {tuple(target.shape)}."
        )
    error = (probability - target.to(probability.dtype)).abs()
    # One by one: torch adds several rows up in another order than one, and no mask's score may hang on its company.
    return torch.stack([one.mean(dtype=torch.float64) for one in error]) if len(error) else error.new_zeros(0).double()


def _mae_of_logits(logits: Tensor, target: Tensor) -> Tensor:
    # One by one: on the CPU the last bit of a sigmoid depends on where in the tensor a pixel lies.
    rows = range(max(1, len(logits)))
    return torch.cat([mae(logits[row : row + 1].float().sigmoid(), target[row : row + 1]) for row in rows])


def pixel_error(predicted: Tensor, target: Tensor) -> Tensor:
    """The share of pixels that are on the wrong side, one number per mask: ``(N,)`` float64 in [0, 1].

    This is what RegCL reports as MAE: the mean absolute error after thresholding.

    Args:
        predicted: bool, ``(N, H, W)``.
        target: bool, ``(N, H, W)``.
    """
    return _pixel_error(_areas(predicted, target), pixels=math.prod(target.shape[-2:]))


class _Areas(NamedTuple):
    """Pixels of each pair of masks, each ``(N,)`` float64, in which whole numbers are exact."""

    predicted: Tensor
    target: Tensor
    both: Tensor


def _areas(predicted: Tensor, target: Tensor) -> _Areas:
    _check_masks(predicted, target)
    return _Areas(
        *(masks.sum(dim=(1, 2), dtype=torch.int32).double() for masks in (predicted, target, predicted & target))
    )


def _iou(areas: _Areas) -> Tensor:
    return _share(areas.both, areas.predicted + areas.target - areas.both)


def _dice(areas: _Areas) -> Tensor:
    return _share(2 * areas.both, areas.predicted + areas.target)


def _pixel_error(areas: _Areas, *, pixels: int) -> Tensor:
    return (areas.predicted + areas.target - 2 * areas.both) / pixels


def _check_masks(predicted: Tensor, target: Tensor) -> None:
    for name, masks in (("predicted", predicted), ("target", target)):
        if masks.dtype != torch.bool or masks.ndim != 3:
            raise ValueError(
                f"Expected {name} masks as bool (N, H, W), found {masks.dtype} {tuple(masks.shape)}. "
                "Threshold logits with `logits > 0` first."
            )
    if predicted.shape != target.shape:
        raise ValueError(
            f"Predicted masks of shape {tuple(predicted.shape)} cannot be compared with targets of shape "
            f"{tuple(target.shape)}. Bring the prediction to the image's own size first."
        )


def _share(part: Tensor, whole: Tensor) -> Tensor:
    return torch.where(whole > 0, part / whole.clamp(min=1), torch.ones_like(whole))
