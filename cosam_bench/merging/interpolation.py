"""Interpolation between the served and a newly trained update, also weighted by Fisher information."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from cosam_bench.merging.elementwise import entrywise
from cosam_bench.merging.updates import LazyTensors, Update, lazy_weight_changes, shapes_of

Changes = Mapping[str, Tensor]


def difference(expert: Update, served: Changes) -> LazyTensors:
    """What the expert changed beyond the served update, by parameter name, in its dtype, computed when read.

    Exact up to the rounding of ``b @ a`` if the expert was trained as a fresh adapter above ``served``.

    Args:
        served: dense changes by parameter name; empty for the base.
    """
    low_rank = lazy_weight_changes(Update(expert.low_rank))

    def compute(name: str) -> Tensor:
        if name not in expert.dense and name not in served:
            return low_rank[name]
        above = expert.dense.get(name)
        if name in served:
            above = above - served[name] if above is not None else -served[name]
        assert above is not None
        return low_rank[name] + above if name in low_rank else above

    return LazyTensors({**low_rank.shapes, **shapes_of(expert.dense), **shapes_of(served)}, compute)


def interpolate(served: Changes, step: Changes, *, weight: float) -> dict[str, Tensor]:
    """``served + weight * step``, computed in float64, in the dtype of ``step``; a missing served change is zero."""

    def moved(change: Tensor) -> Tensor:
        return weight * change.double()

    return {name: _added_to(served, name, moved, change) for name, change in step.items()}


def interpolate_by_fisher(
    served: Changes, step: Changes, *, past: Changes, current: Changes, weight: float
) -> dict[str, Tensor]:
    """The elementwise average of served and new parameters, weighted by their Fisher information.

    With l = ``weight``: ((1 - l) F_past W_served + l F_current W_new) / ((1 - l) F_past + l F_current), and
    the plain (1 - l, l) average of entries for which both are zero.

    Args:
        step: the difference between new and served parameters.
        past: F_past, at least 0, of the same names and shapes.
        current: F_current.

    Source: CoFiMA (arXiv 2312.08977).
    """

    def moved(past: Tensor, current: Tensor, change: Tensor) -> Tensor:
        new = weight * current.double()
        total = (1 - weight) * past.double() + new
        return torch.where(total > 0, new / total, weight) * change.double()

    return {name: _added_to(served, name, moved, past[name], current[name], change) for name, change in step.items()}


def _added_to(first: Changes, name: str, rule: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """The rule applied to the tensors entry by entry, plus the tensor of that name in ``first``, if any."""
    if name not in first:
        return entrywise(rule, *tensors)
    return entrywise(lambda before, *pieces: rule(*pieces) + before.double(), first[name], *tensors)


def inner_product(first: Changes, second: Changes, *, metric: Changes | None = None) -> float:
    """``sum first * metric * second`` over all parameters of ``first``, in float64; a metric of ones by default."""
    total = 0.0
    for name, values in first.items():
        products = values.double() * second[name].double()
        total += (products if metric is None else products * metric[name].double()).sum().item()
    return total


def add_changes(first: Changes, second: Changes) -> dict[str, Tensor]:
    """The sum by name, computed in float64, in the dtype of ``second``; a name missing from ``first`` is zero."""
    return {name: _added_to(first, name, Tensor.double, value) for name, value in second.items()}
