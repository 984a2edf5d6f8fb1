"""Null-space filter: each new change is added without the part that reads the same inputs as the merged one.

Source: the filter of NUFILT, "Null-Space Filtering for Data-Free Continual Model Merging: Preserving Stability,
Promoting Plasticity", ICLR 2026, arXiv 2509.21413. With V the leading right singular vectors of the merged
change M of a layer and tau = B A the expert's,

    M <- M + tau (I - V V^T),   which for thin factors is   A <- A (I - V V^T), B unchanged,

so that an input within the span of V is answered as before the step. The first expert is taken unchanged. NUFILT
then trains a small adapter per layer against surrogates of both tasks, to restore what the filter took; that
part is the method ``nufilt``; this is its filter alone.

The rule needs no data. The order matters: an input direction belongs to the first domain that uses it. The
rank and the state grow by r per domain. With all directions of M kept, as the default of 128 does
until t r exceeds it, later domains' row spaces are orthogonal to all earlier ones, and a layer of n inputs and at
least as many outputs takes up nothing more after n / r domains. Experts that start from the same random A, as a
protocol's do, read much the same directions, and later domains lose most of them: a lower ``rank`` leaves
them more.
"""

from __future__ import annotations

from cosam_bench import LowRank, MergingMethod, MethodCard, TrainingDomain, Update, setting
from cosam_bench.merging.scale import ServedScale
from cosam_bench.merging.spectral import numerical_rank, rank_tolerance, thin_svd
from cosam_bench.merging.updates import add, check_same_layers


class NullFilterSettings(ServedScale):
    """The settings of the null-space filter."""

    rank: int | None = setting(
        128,
        "leading right singular vectors of the merged change that stay untouched; none: all",
        source="the paper, for changes of full rank; for low-rank ones this is all until t r exceeds it",
        search=(1, 256, "log"),
        ge=1,
    )


class NullFilter(MergingMethod[NullFilterSettings]):
    """The sum of the experts' changes, each without the inputs that the earlier sum reads."""

    card = MethodCard(
        title="Null-space filter",
        paper="the filter of NUFILT, arXiv 2509.21413",
        state="grows",
        deviations=(
            "the filter alone, without the adapter that NUFILT trains after it; the rule is second-hand, from a "
            "reading of the released code",
            "parameters trained as dense changes keep the base's values",
            "singular values that are only rounding are not counted among the leading ones",
        ),
    )

    def merge(self, expert: Update, domain: TrainingDomain, *, step: int) -> Update:
        """The served change with the new one's filtered factors stacked onto its own."""
        change = Update(expert.low_rank)
        if self.served is None:
            return change
        check_same_layers(self.served, change)
        filtered = {
            layer: filter_change(factors, self.served.low_rank[layer], rank=self.settings.rank)
            for layer, factors in expert.low_rank.items()
        }
        return add(self.served, Update(filtered))


def filter_change(change: LowRank, merged: LowRank, *, rank: int | None = None) -> LowRank:
    """The change without its response to the inputs read by the merged one's leading directions.

    Args:
        change: the expert's, ``(m, n)`` as factors; the result keeps its dtype.
        merged: the earlier domains', of the same shape.
        rank: how many right singular vectors of ``merged`` stay untouched; None: all above rounding.

    Returns:
        ``b`` unchanged, and ``a (I - V V^T)``.

    >>> import torch
    >>> merged = LowRank(a=torch.tensor([[1.0, 0.0, 0.0]]), b=torch.tensor([[2.0]]))
    >>> filter_change(LowRank(a=torch.tensor([[3.0, 4.0, 0.0]]), b=torch.ones(1, 1)), merged).a.tolist()
    [[0.0, 4.0, 0.0]]
    """
    spectrum = thin_svd(merged)
    kept = numerical_rank(spectrum.s, tolerance=rank_tolerance(merged.b.dtype))
    directions = spectrum.v[:, : kept if rank is None else min(kept, rank)]
    a = change.a.double()
    filtered = a - (a @ directions) @ directions.T
    filtered -= (
        filtered @ directions
    ) @ directions.T  # removes what rounding left along them, which may be most of a small rest
    return LowRank(filtered.to(change.a.dtype), change.b)
