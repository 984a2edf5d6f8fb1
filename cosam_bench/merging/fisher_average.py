"""Fisher merging: an average in which each expert's weights are weighted by their diagonal Fisher information."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from cosam_bench.merging.elementwise import entrywise_multi

_SUMS = ("weighted", "weight")  # the running sums of each parameter


def add_to_fisher_average(
    memory: Mapping[str, Tensor],
    changes: Mapping[str, Tensor],
    fisher: Mapping[str, Tensor],
    *,
    minimum: float,
    normalise: bool,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The Fisher-weighted average of the changes so far, and its two running sums.

    dW = sum_t w_t (F_t + eps) dW_t / sum_t w_t (F_t + eps), elementwise; w_t = 1 / (||F_t|| + eps) with
    ``normalise``, one norm over all of an expert's parameters, else 1. A common factor of the weights cancels,
    and so does the base, so these two sums are enough.

    Args:
        memory: the sums for the previous expert; empty before the first.
        changes: dW_t by parameter name.
        fisher: F_t, at least 0, of the same names and shapes.
        minimum: eps, above 0.
        normalise: weight each expert by the inverse of its Fisher information's norm.

    Returns:
        The new sums, ``<name>/weighted`` and ``<name>/weight``, and the merged changes; both in the dtype of
        the changes, computed in float64.

    Raises:
        CosamError: the shapes of a parameter's change, its F_t and its sums differ.

    Source: Matena and Raffel, "Merging Models with Fisher-Weighted Averaging", NeurIPS 2022, as in FusionBench.
    """
    weight = 1 / (_norm(fisher) + minimum) if normalise else 1.0

    def summed(*pieces: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        *before, fisher, change = pieces
        importance = weight * (fisher.double() + minimum)
        weighted = importance * change.double()
        if before:
            weighted, importance = weighted + before[0], importance + before[1]
        return weighted, importance, weighted / importance

    sums: dict[str, Tensor] = {}
    merged: dict[str, Tensor] = {}
    for name, change in changes.items():
        before = [memory[f"{name}/{kind}"] for kind in _SUMS if memory]
        *totals, merged[name] = entrywise_multi(summed, *before, fisher[name], change, results=3)
        sums |= {f"{name}/{kind}": total for kind, total in zip(_SUMS, totals, strict=True)}
    return sums, merged


def _norm(tensors: Mapping[str, Tensor]) -> float:
    squares = [tensor.double().square().sum() for tensor in tensors.values()]
    return torch.stack(squares).sum().sqrt().item() if squares else 0.0
