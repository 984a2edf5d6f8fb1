"""SLAO: one LoRA for all domains, whose B is averaged with a falling weight and whose A is the latest.

Source: Qiao and Mahdavi, "Merge before Forget: A Single LoRA Continual Learning via Continual Merging", ICLR 2026
(arXiv 2512.23017). The formulas are second-hand, from a published review of the paper and from a public
implementation that quotes them. With B_t A_t the factors that training on domain t ends with,

    training starts from   A = Q^T,  B = B_(t-1),   A_(t-1)^T = Q R,   R with a positive diagonal,
    A = A_t,   B = B' + (B_t - B') / sqrt(t),   B' the merged B before,

where it starts from what was trained last, and not from the merge. Two As are more alike than two Bs, which is why the
paper treats them differently. The first domain starts as usual and is served as it is.

The start is not the function of the last expert: B Q^T is not B A. With the sign of R's diagonal free, Q would be as
well, and the start could answer with the opposite sign. Factors are those of the update, with alpha / rank part of B:
the rule is linear in B, so that is the same.

Deviations: as stated; parameters trained without factors follow the rule of B. Needs nothing of the current domain.
The state is constant: the served adapter and the last B. The order matters. The rank is that of one adapter.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cosam_bench import LowRank, MergingMethod, MethodCard, State, TrainingDomain, Update, Workbench
from cosam_bench.merging.scale import ServedScale
from cosam_bench.merging.updates import check_same_layers

_LAST = "last/"  # of the names in the state


class SLAOSettings(ServedScale):
    """The settings of SLAO: the scale alone."""


class SLAO(MergingMethod[SLAOSettings]):
    """One adapter, moved less with each domain; each training starts from the last one's factors."""

    card = MethodCard(
        title="SLAO",
        paper="arXiv 2512.23017",
        lora_only=True,
        deviations=(
            "the formulas are second-hand, from a review and a public implementation that quotes the paper",
            "parameters trained without factors follow the rule of B; the paper trains factors only",
        ),
    )

    def __init__(self, settings: SLAOSettings, bench: Workbench) -> None:
        super().__init__(settings, bench)
        self._last: Update | None = None

    @classmethod
    def needs_training(cls, settings: SLAOSettings) -> str:
        """Training, whose start is the rule's own."""
        return "starts each training from the last one's factors"

    def learn(self, domain: TrainingDomain, *, step: int) -> None:
        """Train from the last expert's factors, and merge."""
        start = None if self._last is None else orthogonal_start(self._last)
        expert = self.bench.train(domain, start=start).update
        self.served = self.merge(expert, domain, step=step)
        self._last = expert

    def merge(self, expert: Update, domain: TrainingDomain, *, step: int) -> Update:
        """The expert's A with the merged B."""
        if self.served is None:
            return expert
        check_same_layers(self.served, expert)
        return merge_factors(self.served, expert, weight=1 / math.sqrt(step))

    def state(self) -> State:
        """The served adapter, and of the last expert what the served one does not have: all but A."""
        state = super().state()
        last = {} if self._last is None else self._last.tensors(_LAST)
        return State(state.tensors | {name: one for name, one in last.items() if not name.endswith(".a")}, state.values)

    def load(self, state: State) -> None:
        """Become the method that wrote ``state``."""
        super().load(state)
        if self.served is None:
            self._last = None
            return
        shared = {f"{_LAST}{layer}.a": factors.a for layer, factors in self.served.low_rank.items()}
        self._last = Update.from_tensors(state.tensors | shared, _LAST)


def orthogonal_start(expert: Update) -> Update:
    """The expert with the rows of each A made orthonormal."""
    low_rank = {layer: LowRank(orthonormal_rows(factors.a), factors.b) for layer, factors in expert.low_rank.items()}
    return Update(low_rank, expert.dense)


def orthonormal_rows(a: Tensor) -> Tensor:
    """``Q^T`` for ``a^T = Q R`` with a positive diagonal of R.

    Args:
        a: ``(r, n)`` with r at most n; the result keeps its dtype.

    >>> orthonormal_rows(torch.tensor([[3.0, 0.0], [4.0, -2.0]])).tolist()
    [[1.0, 0.0], [0.0, -1.0]]
    """
    q, r = torch.linalg.qr(a.double().T)
    signs = torch.where(r.diagonal() < 0, -1.0, 1.0)
    rows: Tensor = (q * signs).T.contiguous().to(a.dtype)
    return rows


def merge_factors(merged: Update, expert: Update, *, weight: float) -> Update:
    """The expert's A, and the merged B moved by ``weight`` of the way to the expert's.

    Args:
        merged: the change served before.
        expert: of the same layers and ranks.
        weight: 1 gives the expert itself.
    """

    def moved(before: Tensor, new: Tensor) -> Tensor:
        return torch.lerp(before.double(), new.double(), weight).to(new.dtype)

    low_rank = {
        layer: LowRank(factors.a, moved(merged.low_rank[layer].b, factors.b))
        for layer, factors in expert.low_rank.items()
    }
    return Update(low_rank, {name: moved(merged.dense[name], change) for name, change in expert.dense.items()})
