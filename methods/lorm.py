"""LoRM with one A for all domains: adapters that differ in B alone are merged exactly, at their own rank.

Source: Salami et al., "Closed-form Merging of Parameter-Efficient Modules for Federated Continual Learning",
ICLR 2025 (arXiv 2410.17961). Merging B A of clients that share A is a linear regression with one solution,

    B = (sum_t B_t A G_t A^T) (A sum_t G_t A^T)^-1,

G_t the mean of x x^T over the inputs x of a layer under expert t. The paper uses it within a task, among clients
that alternate which factor they train, and merges tasks by RegMean on the products B A, which is the method
``regmean`` with ``off_diagonal = 1``.

Derived here: the same equation across domains. A is drawn once, equal for every domain, and frozen; only B is
trained. Then rank r and r x r sums are enough, no product of merged factors has cross terms, and the only loss
compared with RegMean on the products is what A cannot express.

Deviations: as derived; a ridge instead of the released code's pseudo-inverse; full Gram matrices instead of the
diagonal ones in the paper's commands; each domain has the same weight. Other parameters are averaged. Needs the
current domain's inputs. The state is constant. The order does not matter. The rank is that of one adapter.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from cosam_bench import (
    Adapter,
    CosamError,
    LowRank,
    MergingMethod,
    MethodCard,
    TrainingDomain,
    TrainingHooks,
    Update,
    setting,
)
from cosam_bench.merging.regression import merge_by_regression, running_sums
from cosam_bench.merging.ridge import Ridge
from cosam_bench.merging.scale import ServedScale


class LoRMSettings(ServedScale):
    """The settings of LoRM with a shared A."""

    ridge: Ridge = setting(
        1e-6,
        "added to each Gram sum's diagonal, as a share of its mean",
        source="0 in the paper",
        search=(1e-9, 1.0, "log"),
        ge=0,
    )


class LoRM(MergingMethod[LoRMSettings]):
    """Regression of B on running sums of r x r Gram matrices, A frozen and shared."""

    card = MethodCard(
        title="LoRM, shared A",
        paper="arXiv 2410.17961",
        needs=("inputs",),
        order_dependent=False,
        lora_only=True,
        deviations=(
            "derived: the paper's equation for clients that share A is used across domains, with A frozen",
            "full Gram matrices; the paper's commands take their diagonals",
            "a ridge of 1e-6 replaces the pseudo-inverse",
        ),
    )

    def hooks(self, domain: TrainingDomain, *, step: int) -> TrainingHooks:
        """Train B alone."""
        return FrozenA()

    def merge(self, expert: Update, domain: TrainingDomain, *, step: int) -> Update:
        """The regression over all experts so far."""
        shared = {layer: factors.a for layer, factors in expert.low_rank.items()}
        inner = self.bench.input_grams(domain, expert, projections=shared)
        sums = running_sums(
            self.memory, ((f"{name}/sum", change.to(torch.float64, copy=True)) for name, change in expert.dense.items())
        )
        dense = {name: (sums[f"{name}/sum"] / step).to(change.dtype) for name, change in expert.dense.items()}
        low_rank = {}
        for layer, factors in expert.low_rank.items():
            self._check_shared(layer, factors.a)
            sums |= add_shared_a_terms(self.memory, factors, inner.pop(layer), layer=layer)
            if step == 1:  # the expert answers its own inputs best
                low_rank[layer] = factors
                continue
            low_rank[layer] = LowRank(
                factors.a, merged_b(sums, layer=layer, ridge=self.settings.ridge).to(factors.b.dtype)
            )
        self.memory = sums
        return Update(low_rank, dense)

    def _check_shared(self, layer: str, a: Tensor) -> None:
        if self.served is not None and not torch.equal(a, self.served.low_rank[layer].a):
            raise CosamError(
                f"Two domains' adapters have different A in {layer!r}, so their B cannot be merged. Use the same seed "
                "and adapter settings for the whole stream."
            )


def add_shared_a_terms(
    memory: Mapping[str, Tensor], factors: LowRank, inner: Tensor, *, layer: str
) -> dict[str, Tensor]:
    """One layer's running sums with one more expert added, which has the same A as the others.

    Args:
        memory: contains the result for the previous expert; nothing for this layer before the first.
        factors: A ``(r, n)`` and B ``(m, r)``.
        inner: float64, ``(r, r)``, A G A^T; overwritten by the sum.

    Returns:
        float64: ``<layer>/gram``, the sum of A G A^T, ``(r, r)``, and ``<layer>/product``, of B A G A^T, ``(m, r)``.
    """
    terms = {f"{layer}/gram": inner, f"{layer}/product": factors.b.double() @ inner}
    return running_sums(memory, terms.items())


def merged_b(sums: Mapping[str, Tensor], *, layer: str, ridge: float) -> Tensor:
    """The merged B ``(m, r)``, float64.

    Raises:
        CosamError: the sum of A G A^T has no inverse and the ridge is 0.
    """
    return merge_by_regression(sums[f"{layer}/gram"], sums[f"{layer}/product"], ridge=ridge, layer=layer)


class FrozenA(TrainingHooks):
    """Trains B alone: A stays as it was drawn."""

    def attached(self, adapter: Adapter) -> None:
        """Freeze every layer's A."""
        for a, _, _ in adapter.factors.values():
            a.requires_grad_(False)
