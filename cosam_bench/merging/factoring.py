"""An update as low-rank factors of linear layers, for formats that store nothing else."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from cosam_bench.core.errors import CosamError
from cosam_bench.merging.spectral import Spectrum, discarded_energy, numerical_rank, rank_tolerance
from cosam_bench.merging.updates import LowRank, Update

_WEIGHT = ".weight"


@dataclass(frozen=True, eq=False)
class Factored:
    """An update with its changes of linear layers as factors.

    Attributes:
        layers: each changed linear layer's change in float32 factors, by layer name.
        discarded: share of the change's energy that the factors leave out, in [0, 1], by layer name.
        others: the changes of all parameters that are not a linear layer's weight, by parameter name.
    """

    layers: Mapping[str, LowRank]
    discarded: Mapping[str, float]
    others: Mapping[str, Tensor]

    @property
    def ranks(self) -> dict[str, int]:
        """The number of factors by layer name."""
        return {name: factors.rank for name, factors in self.layers.items()}


def factor_update(update: Update, *, linear: Collection[str], rank: int | None = None) -> Factored:
    """The update's changes of linear layers, each as ``b @ a`` with no more factors than its numerical rank.

    Each change is formed densely in float64 and decomposed by its singular values.

    Args:
        update: the change of a model.
        linear: the names of the model's linear layers.
        rank: maximum number of factors per layer; None: the numerical rank.

    Raises:
        CosamError: the rank is below 1, or a change is not finite.
    """
    if rank is not None and rank < 1:
        raise CosamError(f"An adapter cannot have rank {rank}. Give a rank of at least 1.")
    layers: dict[str, LowRank] = {}
    discarded: dict[str, float] = {}
    names = [*update.low_rank, *(name.removesuffix(_WEIGHT) for name in update.dense if _is_linear(name, linear))]
    for name in dict.fromkeys(names):
        spectrum, known = _spectrum(update, name)
        kept = min(known, rank or known)
        if kept:
            layers[name] = spectrum.first(kept).factors(torch.float32)
            discarded[name] = discarded_energy(spectrum.s, rank=kept)
    others = {name: change for name, change in update.dense.items() if not _is_linear(name, linear)}
    return Factored(layers, discarded, others)


def _is_linear(parameter: str, linear: Collection[str]) -> bool:
    return parameter.endswith(_WEIGHT) and parameter.removesuffix(_WEIGHT) in linear


def _spectrum(update: Update, name: str) -> tuple[Spectrum, int]:
    """A layer's whole change by singular values, and its numerical rank."""
    factors, dense = update.low_rank.get(name), update.dense.get(name + _WEIGHT)
    change = torch.zeros(()) if factors is None else factors.b.double() @ factors.a.double()
    if dense is not None:
        change = change + dense.double()
    if not torch.isfinite(change).all():
        raise CosamError(f"The change of layer {name!r} is not finite: did training or the merge diverge?")
    u, s, vh = torch.linalg.svd(change, full_matrices=False)
    kind = torch.float32 if dense is not None or factors is None else factors.b.dtype
    return Spectrum(u, s, vh.T), numerical_rank(s, tolerance=rank_tolerance(kind))
