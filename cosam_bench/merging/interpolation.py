"""Rules that move a served update part of the way to a newly trained one; by how far, Fisher information may say."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from cosam_bench.merging.elementwise import entrywise
from cosam_bench.merging.updates import LazyTensors, Update, lazy_weight_changes, shapes_of

Changes = Mapping[str, Tensor]


def difference(expert: Update, served: Changes) -> LazyTensors:
    """What the expert changed beyond what was served, by parameter name and in turn, in the expert's dtype.

    Exact but for the rounding of ``b @ a`` where the expert was trained as a fresh adapter above ``served``.

    Args:
        served: dense, by parameter name; empty for the base.
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
    """``served + weight * step``, computed in float64, in the dtype of ``step``; nothing served counts as zero."""

    def moved(change: Tensor) -> Tensor:
        return weight * change.double()

    return {name: _plus(served, name, moved, change) for name, change in step.items()}


def interpolate_by_fisher(
    served: Changes, step: Changes, *, past: Changes, current: Changes, weight: float
) -> dict[str, Tensor]:
    """The average of served and new parameters in which each counts by its Fisher information, elementwise.

    With l = ``weight``: ((1 - l) F_past W_served + l F_current W_new) / ((1 - l) F_past + l F_current), and
    the plain (1 - l, l) average where both are zero.

    Args:
        step: what the new parameters change beyond the served ones.
        past: F_past, at least 0, of the same names and shapes.
        current: F_current.

    Source: CoFiMA (arXiv 2312.08977).
    """

    def moved(past: Tensor, current: Tensor, change: Tensor) -> Tensor:
        new = weight * current.double()
        total = (1 - weight) * past.double() + new
        return torch.where(total > 0, new / total, weight) * change.double()

    return {name: _plus(served, name, moved, past[name], current[name], change) for name, change in step.items()}


def _plus(first: Changes, name: str, rule: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """What a rule makes of the tensors entry by entry, plus what ``first`` has of that name."""
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
    """The sum by name, computed in float64, in the dtype of ``second``; a name that ``first`` lacks counts as zero."""
    return {name: _plus(first, name, Tensor.double, value) for name, value in second.items()}
