"""Erosion of masks by a square, in few passes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def erode(masks: Tensor, distance: int) -> Tensor:
    """The pixels whose surrounding square of side ``2 distance + 1`` is all foreground: bool ``(N, H, W)``.

    Equal to ``distance`` erosions by a 3 x 3 square with background outside the image, in a number of
    passes that grows with the logarithm of ``distance``.

    Args:
        masks: bool, ``(N, H, W)``.
        distance: in pixels, at least 0.

    >>> import torch
    >>> erode(torch.ones(1, 3, 4, dtype=torch.bool), 1).int().tolist()
    [[[0, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]]]
    """
    for axis in (1, 2):
        masks = _erode_along(masks, axis, distance)
    return masks


def _erode_along(masks: Tensor, axis: int, distance: int) -> Tensor:
    """The erosion by a line of ``2 distance + 1`` pixels: runs of foreground, doubled in length in each pass."""
    import torch

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
