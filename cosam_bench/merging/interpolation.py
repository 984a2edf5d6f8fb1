"""Rules that move a served update part of the way to a newly trained one; by how far, Fisher information may say."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from cosam_bench.updates import Update, weight_changes

Changes = Mapping[str, Tensor]


def difference(expert: Update, served: Changes) -> dict[str, Tensor]:
    """What the expert changed beyond what was served, by parameter name, in the expert's dtype.

    Exact but for the rounding of ``b @ a`` where the expert was trained as a fresh adapter above ``served``.

    Args:
        served: dense, by parameter name; empty for the base.
    """
    above = dict(expert.dense)
    for name, change in served.items():
        above[name] = above[name] - change if name in above else -change
    return weight_changes(Update(expert.low_rank, above))


def interpolate(served: Changes, step: Changes, *, weight: float) -> dict[str, Tensor]:
    """``served + weight * step``, computed in float64, in the dtype of ``step``; nothing served counts as zero."""
    return {name: _moved(served, name, weight * change.double()).to(change.dtype) for name, change in step.items()}


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
    merged = {}
    for name, change in step.items():
        new = weight * current[name].double()
        total = (1 - weight) * past[name].double() + new
        share = torch.where(total > 0, new / total, weight)
        merged[name] = _moved(served, name, share * change.double()).to(change.dtype)
    return merged


def _moved(served: Changes, name: str, by: Tensor) -> Tensor:
    return by + served[name].double() if name in served else by


def inner_product(first: Changes, second: Changes, *, metric: Changes | None = None) -> float:
    """``sum first * metric * second`` over all parameters of ``first``, in float64; a metric of ones by default."""
    total = 0.0
    for name, values in first.items():
        products = values.double() * second[name].double()
        total += (products if metric is None else products * metric[name].double()).sum().item()
    return total


def plus(first: Changes, second: Changes) -> dict[str, Tensor]:
    """The sum by name, computed in float64, in the dtype of ``second``; a name that ``first`` lacks counts as zero."""
    return {name: _moved(first, name, value.double()).to(value.dtype) for name, value in second.items()}
