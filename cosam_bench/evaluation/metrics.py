"""How well a predicted mask agrees with the true one: one number per mask and metric.

``METRICS`` is the table of all metrics: score files, leaderboard, help texts and docs follow it. Importing it loads
no torch.

The rule for empty masks, everywhere: if both masks are empty (or neither has a boundary) the agreement is perfect,
1.0; if only one is, there is none, 0.0.

Ignored pixels count nowhere: both masks lose them before anything is compared, boundaries included, and shares of the
image are shares of the other pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, NamedTuple

from cosam_bench.core.errors import unknown_name
from cosam_bench.evaluation.erosion import erode

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Metric:
    """A metric of masks: one row of ``METRICS``.

    Attributes:
        name: in files and on the command line.
        title: in tables for people.
        formula: with P the predicted mask, M the true one and ``|.|`` the number of pixels.
        meaning: what it says, in a few words.
        better: which scores are better.
        function: from N comparisons to their scores, ``(N,)`` float64.
        low: the lowest possible score.
        high: the highest possible score.
    """

    name: str
    title: str
    formula: str
    meaning: str
    better: Literal["higher", "lower"]
    function: Callable[[Comparison], Tensor]
    low: float = 0.0
    high: float = 1.0

    def is_possible(self, value: float) -> bool:
        """Whether a mask, or a mean over masks, can have this score; NaN is none."""
        return self.low <= value <= self.high

    @property
    def range(self) -> str:
        """The possible scores, as messages name them."""
        return f"[{self.low:g}, {self.high:g}]"


# Three lines per metric read as a table; the formatter would give some of them eight.
# fmt: off
_METRICS = (
    Metric("iou", "IoU", "|P ∩ M| / |P ∪ M|",  # noqa: RUF001 - the sign for a union
           "overlap of the masks", "higher",
           lambda pair: _iou(pair.areas)),
    Metric("boundary_iou", "boundary IoU", "`iou` of the masks' inner boundary bands",
           "overlap of the contours", "higher",
           lambda pair: boundary_iou(pair.predicted, pair.target)),
    Metric("dice", "Dice", "2 |P ∩ M| / (|P| + |M|)",
           "F1 over pixels", "higher",
           lambda pair: _dice(pair.areas)),
    Metric("mae", "MAE", "mean over pixels of |sigmoid(logit) - M|",
           "error of the probability map, not thresholded", "lower",
           lambda pair: _mae_of_logits(pair.logits, pair.target, pair.ignored)),
    Metric("pixel_error", "px error", "share of pixels where P and M differ",
           "error after thresholding; RegCL's code calls it MAE", "lower",
           lambda pair: _pixel_error(pair.areas)),
)
# fmt: on
METRICS: Mapping[str, Metric] = MappingProxyType({metric.name: metric for metric in _METRICS})
"""Every metric by name, in the order of the columns."""


def find_metric(name: str) -> Metric:
    """The metric of this name.

    Raises:
        CosamError: no metric has this name.
    """
    if name not in METRICS:
        raise unknown_name("metric", name, METRICS)
    return METRICS[name]


def measure(logits: Tensor, target: Tensor, *, ignored: Tensor | None = None) -> dict[str, Tensor]:
    """All metrics of predicted logits, each ``(N,)`` float64, by name in the order of ``METRICS``.

    Args:
        logits: float, ``(N, H, W)``, at the target's size; above 0 is foreground. A NaN counts as
            background for the mask metrics and makes ``mae`` NaN, so that it cannot pass unnoticed.
        target: bool, ``(N, H, W)``.
        ignored: bool, ``(N, H, W)``, pixels that do not count, at least one per mask being left; None: all count.
    """
    comparison = Comparison(logits, target if ignored is None else target & ~ignored, ignored)
    return {name: metric.function(comparison) for name, metric in METRICS.items()}


@dataclass(frozen=True)
class Comparison:
    """Predictions beside the truth; what several metrics need is computed once.

    Attributes:
        logits: float, ``(N, H, W)``.
        target: bool, ``(N, H, W)``, without the ignored pixels.
        ignored: bool, ``(N, H, W)``, pixels that do not count; None if all do.
    """

    logits: Tensor
    target: Tensor
    ignored: Tensor | None = None

    @cached_property
    def predicted(self) -> Tensor:
        """The predicted masks without the ignored pixels: bool, ``(N, H, W)``."""
        predicted = self.logits > 0
        return predicted if self.ignored is None else predicted & ~self.ignored

    @cached_property
    def areas(self) -> Areas:
        """The areas of predicted and true masks."""
        _check_masks(self.predicted, self.target)
        areas = _areas(self.predicted, self.target)
        if self.ignored is None:
            return areas
        return areas._replace(image=areas.image - self.ignored.flatten(1).sum(dim=1).double())


class Areas(NamedTuple):
    """The pixels of each pair of masks, each ``(N,)`` float64, in which whole numbers are exact.

    ``image`` are all pixels that count: one number if it is that of each pair.
    """

    predicted: Tensor
    target: Tensor
    both: Tensor
    image: int | Tensor


def iou(predicted: Tensor, target: Tensor) -> Tensor:
    """Intersection over union, ``|P ∩ M| / |P ∪ M|``, one number per mask: ``(N,)`` float64 in [0, 1].

    Args:
        predicted: bool, ``(N, H, W)``, at the image's own size, not the model's.
        target: bool, ``(N, H, W)``.

    >>> import torch
    >>> truth = torch.tensor([[[True, True, False]]])
    >>> iou(torch.tensor([[[True, False, False]]]), truth).item()
    0.5
    """
    _check_masks(predicted, target)
    return _iou(_areas(predicted, target))


def boundary_iou(predicted: Tensor, target: Tensor, *, width: float = 0.02) -> Tensor:
    """Intersection over union of the two masks' inner boundary bands, one number per mask.

    A mask's band is what ``d`` erosions by a 3 x 3 square remove, ``d`` being ``width`` times the image's
    diagonal, rounded half to even, and at least 1. An object thinner than ``2 d + 1`` is all band, and its
    boundary IoU is then its IoU.

    Args:
        predicted: bool, ``(N, H, W)``, at the image's own size, not the model's.
        target: bool, ``(N, H, W)``.
        width: the band's width as a share of the image's diagonal.

    Returns:
        ``(N,)`` float64 in [0, 1]: 1.0 if neither mask has a boundary, 0.0 if only one has.

    Source: Cheng et al., "Boundary IoU", CVPR 2021. Pixels outside the image count as background, so a
    mask that touches the border has a boundary there.

    >>> import torch
    >>> truth = torch.ones(1, 3, 3, dtype=torch.bool)  # its band: all but the centre
    >>> predicted = truth.clone()
    >>> predicted[0, 0, 0] = False  # now the centre is in the band, and one corner is not
    >>> boundary_iou(predicted, truth).item() == 7 / 9
    True
    """
    _check_masks(predicted, target)
    distance = max(1, round(width * math.hypot(*predicted.shape[-2:])))
    return _iou(_areas(predicted & ~erode(predicted, distance), target & ~erode(target, distance)))


def dice(predicted: Tensor, target: Tensor) -> Tensor:
    """F1 over pixels, ``2 |P ∩ M| / (|P| + |M|)``, one number per mask: ``(N,)`` float64 in [0, 1].

    Args:
        predicted: bool, ``(N, H, W)``, at the image's own size, not the model's.
        target: bool, ``(N, H, W)``.

    >>> import torch
    >>> truth = torch.tensor([[[True, True, True, False]]])
    >>> dice(torch.tensor([[[True, False, False, False]]]), truth).item()
    0.5
    """
    _check_masks(predicted, target)
    return _dice(_areas(predicted, target))


def mae(probability: Tensor, target: Tensor) -> Tensor:
    """The mean absolute error of the probability map, one number per mask: ``(N,)`` float64 in [0, 1].

    The map is not thresholded: an unsure prediction costs its distance from the truth.

    Args:
        probability: float, ``(N, H, W)`` in [0, 1], at the image's own size.
        target: bool, ``(N, H, W)``.

    >>> import torch
    >>> mae(torch.tensor([[[0.75, 0.25]]]), torch.tensor([[[True, False]]])).item()
    0.25
    """
    import torch

    if probability.shape != target.shape or target.ndim != 3 or target.dtype != torch.bool:
        raise ValueError(
            "Expected probabilities and bool targets of one shape (N, H, W), found "
            f"{tuple(probability.shape)} and {target.dtype} {tuple(target.shape)}."
        )
    error = (probability - target.to(probability.dtype)).abs()
    # One by one: torch sums several rows in another order than one, and a mask's score must not depend on the others.
    return torch.stack([one.mean(dtype=torch.float64) for one in error]) if len(error) else error.new_zeros(0).double()


def pixel_error(predicted: Tensor, target: Tensor) -> Tensor:
    """The share of pixels where P and M differ, one number per mask: ``(N,)`` float64 in [0, 1].

    This is what RegCL reports as MAE: the mean absolute error after thresholding.

    Args:
        predicted: bool, ``(N, H, W)``.
        target: bool, ``(N, H, W)``.

    >>> import torch
    >>> pixel_error(torch.tensor([[[True, False]]]), torch.tensor([[[True, True]]])).item()
    0.5
    """
    _check_masks(predicted, target)
    return _pixel_error(_areas(predicted, target))


def _mae_of_logits(logits: Tensor, target: Tensor, ignored: Tensor | None) -> Tensor:
    import torch

    if ignored is not None and logits.is_cuda:  # choosing pixels would wait for the GPU
        return _mae_of_counted(logits, target, ignored)
    if ignored is not None:
        counted = [
            (values[~left_out][None, None], truth[~left_out][None, None])
            for values, truth, left_out in zip(logits, target, ignored, strict=True)
        ]
        parts = [_mae_of_logits(values, truth, None) for values, truth in counted]
        return torch.cat(parts) if parts else logits.new_zeros(0).double()
    # One by one: on the CPU the last bit of a sigmoid depends on the pixel's place in the tensor.
    rows = range(max(1, len(logits)))
    return torch.cat([mae(logits[row : row + 1].float().sigmoid(), target[row : row + 1]) for row in rows])


def _mae_of_counted(logits: Tensor, target: Tensor, ignored: Tensor) -> Tensor:
    """The same by sums over all pixels, those that are ignored being 0."""
    import torch

    errors = (logits.float().sigmoid() - target.float()).abs().masked_fill(ignored, 0)
    sums = [one.sum(dtype=torch.float64) for one in errors]  # one by one, as in mae
    return torch.stack(sums) / (~ignored).sum(dim=(1, 2)) if sums else logits.new_zeros(0).double()


def _areas(predicted: Tensor, target: Tensor) -> Areas:
    import torch

    first, second, both = (
        masks.sum(dim=(1, 2), dtype=torch.int32).double() for masks in (predicted, target, predicted & target)
    )
    return Areas(first, second, both, image=math.prod(target.shape[-2:]))


def _check_masks(predicted: Tensor, target: Tensor) -> None:
    import torch

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


def _iou(areas: Areas) -> Tensor:
    return _share(areas.both, areas.predicted + areas.target - areas.both)


def _dice(areas: Areas) -> Tensor:
    return _share(2 * areas.both, areas.predicted + areas.target)


def _pixel_error(areas: Areas) -> Tensor:
    return (areas.predicted + areas.target - 2 * areas.both) / areas.image


def _share(part: Tensor, whole: Tensor) -> Tensor:
    return (part / whole.clamp(min=1)).masked_fill(whole == 0, 1.0)
