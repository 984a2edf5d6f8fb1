"""Naive sequential fine-tuning: one adapter, trained on throughout the stream. The lower bound of forgetting.

    phi_t = the adapter trained on domain t from phi_{t-1},   M_t = dW of phi_t

with phi_0 the untrained adapter and M_t the served change of the weights.
"""

from __future__ import annotations

from cosam_bench import MergingMethod, MethodCard, TrainingDomain, Update


class Finetune(MergingMethod):
    """The newest adapter is served; the next domain trains it further, with a new optimiser."""

    card = MethodCard(
        title="Naive fine-tuning",
        paper="the lower bound of CoSAM (arXiv 2412.06418) and RegCL (arXiv 2507.12297)",
    )
    start = "served"

    def merge(self, expert: Update, domain: TrainingDomain, *, step: int) -> Update:
        """The adapter as the new domain left it."""
        return expert
