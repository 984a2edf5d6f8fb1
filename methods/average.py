"""Average: the mean of all experts' changes.

Source: Wortsman et al., "Model soups", ICML 2022 (arXiv 2203.05482), uniform; the recursive form is FusionBench's
continual weight average:

    M_t = (t - 1)/t M_{t-1} + tau_t / t,   tau_t = dW of expert t.

Deviation: none in the result. Whole changes are averaged, never the factors A and B separately, whose mean product is
a different change. Needs nothing of the current domain. The state is the dense served update alone, so its size is
constant; stacked factors would grow with the domains. The order does not matter, up to float32 rounding. The output
has rank up to t r.
"""

from __future__ import annotations

from cosam_bench import MergingMethod, MethodCard, TrainingDomain, Update
from cosam_bench.merging.elementwise import add_task_vector
from cosam_bench.merging.scale import ServedScale
from cosam_bench.merging.updates import lazy_weight_changes


class AverageSettings(ServedScale):
    """The setting of averaging."""


class Average(MergingMethod[AverageSettings]):
    """The running mean of the experts' changes."""

    card = MethodCard(
        title="Average",
        paper="arXiv 2203.05482",
        order_dependent=False,
        deviations=("experts are LoRA adapters, averaged as whole changes dW and served dense",),
    )

    def merge(self, expert: Update, domain: TrainingDomain, *, step: int) -> Update:
        """The mean over all experts so far."""
        mean = self.served.dense if self.served else None
        return Update(dense=add_task_vector(mean, lazy_weight_changes(expert), scale="1/t", step=step))
