"""Naive sequential fine-tuning: one adapter, trained on throughout the stream. The lower bound of forgetting."""

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
