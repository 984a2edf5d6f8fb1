"""Iso-C: the sum of all experts' changes, with all its singular values made equal.

Source: Marczak et al., "No Task Left Behind: Isotropic Model Merging with Common and Task-Specific Subspaces", ICML
2025 (arXiv 2502.04959); formulas as in FusionBench's code and the released one. For each layer

    sum_{i<=t} tau_i = U diag(s_1, ..., s_k) V^T,   M_t = scale * mean(s) * U V^T,

so that directions which one expert alone uses count as much as those that all share, at an unchanged sum of singular
values. Other parameters get the mean of the experts.

Here U, V and the mean are those of the k singular values above rounding. The released code takes all min(m, n): on
changes of low rank most of those are zero, and their directions, which nothing but the linear algebra library
determines, would get the same weight as the others. On changes of full rank both are the same. A single expert is
made isotropic, too.

The rule is exact from a running sum, kept as stacked factors. It needs no data. The order does not matter, up to
rounding. Rank and state grow by r per domain, up to the layer's own rank.
"""

from __future__ import annotations

from torch import Tensor

from cosam_bench import LowRank, MergingMethod, MethodCard, Settings, TrainingDomain, Update, setting
from cosam_bench.merging.spectral import compress, numerical_rank, rank_tolerance, thin_svd
from cosam_bench.merging.updates import add, check_same_layers


class IsoCSettings(Settings):
    """The settings of Iso-C."""

    scale: float = setting(
        1.0,
        "factor of the merged change",
        source="FusionBench; the paper chooses it on validation data",
        search=(0.25, 4.0, "log"),
        gt=0,
    )


class IsoC(MergingMethod[IsoCSettings]):
    """The running sum of the experts' changes, served with equal singular values."""

    card = MethodCard(
        title="Iso-C",
        paper="arXiv 2502.04959",
        state="grows",
        order_dependent=False,
        deviations=(
            "only singular values above rounding are made equal; the released code includes those that are zero, "
            "whose directions are arbitrary for changes of low rank",
            "only layers with low-rank changes are decomposed; parameters trained as dense changes are averaged",
            "the scale is fixed in advance; the paper chooses it on validation data",
        ),
    )

    def merge(self, expert: Update, domain: TrainingDomain, *, step: int) -> Update:
        """The running sum with equal singular values."""
        total = expert
        if self.memory:
            before = Update.from_tensors(self.memory)
            check_same_layers(before, expert)
            total = add(before, expert)
        total = Update({layer: _within_rank(factors) for layer, factors in total.low_rank.items()}, total.dense)
        self.memory = total.tensors()
        scale = self.settings.scale
        means: dict[str, Tensor] = {name: change * (scale / step) for name, change in total.dense.items()}
        return Update({layer: isotropic(factors).scaled(scale) for layer, factors in total.low_rank.items()}, means)


def isotropic(change: LowRank) -> LowRank:
    """The change with its singular values replaced by their mean.

    Args:
        change: ``(m, n)``; the result keeps its dtype, and has as many factors as the change has singular values
            above rounding.

    >>> change = LowRank(a=torch.eye(2), b=torch.diag(torch.tensor([4.0, 2.0])))
    >>> isotropic(change).dense().abs().round(decimals=4).tolist()
    [[3.0, 0.0], [0.0, 3.0]]
    """
    spectrum = thin_svd(change)
    spectrum = spectrum.first(numerical_rank(spectrum.s, tolerance=rank_tolerance(change.b.dtype)))
    mean = spectrum.s.mean() if len(spectrum.s) else 0.0
    return LowRank(
        a=spectrum.v.T.contiguous().to(change.a.dtype),
        b=(spectrum.u * mean).to(change.b.dtype),
    )


def _within_rank(factors: LowRank) -> LowRank:
    """The same change with no more factors than a layer of its shape can need."""
    return compress(factors) if factors.rank > min(factors.b.shape[0], factors.a.shape[1]) else factors
