"""A moving average of one adapter's parameters along the stream.

Each domain trains the served adapter further, and the parameters then move only a share of the way to the trained
ones:

    p_1 = q_1,    p_t = (1 - weight) p_(t-1) + weight q_t,    q_t = train(p_(t-1), domain t).

With ``weight = 1`` it is naive fine-tuning. It averages the two factors of each layer, not their product: q_t starts
from p_(t-1), so the two are close, and an average of factors is an average along the path of training. It needs
nothing from a domain except the trained adapter. The state is one adapter; the order matters.
"""

from __future__ import annotations

import torch

from cosam_bench import MergingMethod, MethodCard, Settings, TrainingDomain, Update, setting


class EmaSettings(Settings):
    """The settings of the moving average; a weight of 1 is naive fine-tuning."""

    weight: float = setting(0.5, "share of the way from the old parameters to the new", source="a guess", gt=0, le=1)


class Ema(MergingMethod[EmaSettings]):
    """The served adapter follows the trained one at a distance."""

    card = MethodCard(title="Moving average", paper="an example: no paper")
    start = "served"

    def merge(self, expert: Update, domain: TrainingDomain, *, step: int) -> Update:
        """The parameters, moved ``weight`` of the way; the first domain's adapter unchanged."""
        if self.served is None:
            return expert
        return blend(self.served, expert, weight=self.settings.weight)


def blend(old: Update, new: Update, *, weight: float) -> Update:
    """``(1 - weight) old + weight new``, parameter by parameter; both change the same layers at the same rank."""
    before, after = old.tensors(), new.tensors()
    return Update.from_tensors({name: torch.lerp(before[name], after[name], weight) for name in after})
