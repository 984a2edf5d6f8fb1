"""Fisher merging: the average of all experts, each weight weighted by its diagonal Fisher information.

Source: Matena and Raffel, "Merging Models with Fisher-Weighted Averaging", NeurIPS 2022 (arXiv 2111.09832), in
FusionBench's version. Elementwise,

    dW = sum_t w_t (F_t + eps) dW_t / sum_t w_t (F_t + eps),   w_t = 1 / (||F_t|| + eps) or 1.

Only the two sums are kept: the result after each domain is that of the published formula on all experts.
F is of the weights W, not of an adapter's factors, so it does not depend on how an adapter splits its change.

eps decides for small F: an entry far below it counts as in the plain average, and gradients of a mean over
pixels are small. Lower ``minimum`` to give F more influence.

Deviations: the likelihood is that of a mask, the mean over pixels; F is the mean of squared gradients of single
images, while FusionBench squares the gradient of a batch; labels are drawn from the model's prediction, while
FusionBench takes the expectation over all classes. All trained parameters follow the rule. Needs the current
domain's inputs and gradients, and with ``labels = "true"`` its labels. The state is constant: two dense sums and
the served update. The order does not matter. The rank is full.
"""

from __future__ import annotations

from typing import Literal

from cosam_bench import MergingMethod, MethodCard, TrainingDomain, Update, setting
from cosam_bench.merging.fisher_average import add_to_fisher_average
from cosam_bench.merging.scale import ServedScale
from cosam_bench.merging.updates import lazy_weight_changes


class FisherSettings(ServedScale):
    """The settings of Fisher merging; the defaults are FusionBench's."""

    minimum: float = setting(1e-6, "added to each entry of F", source="FusionBench", search=(1e-12, 1e-2, "log"), gt=0)
    normalise: bool = setting(True, "weight each expert by the inverse of its F's norm", source="FusionBench")
    labels: Literal["true", "sampled"] = setting(
        "sampled", "masks drawn from the model's prediction, or the true ones", source="the paper's Fisher information"
    )
    images: int = setting(256, "maximum number of images used to estimate F", source="FusionBench", search=None, ge=1)


class Fisher(MergingMethod[FisherSettings]):
    """A running average by Fisher information."""

    card = MethodCard(
        title="Fisher merging",
        paper="arXiv 2111.09832",
        needs=("inputs", "gradients"),
        order_dependent=False,
        deviations=(
            "F is of the mean over pixels of the masks' likelihood, labels drawn from the prediction",
            "F squares the gradients of single images; FusionBench squares those of batches",
            "running sums replace the store of all models, with the same result",
        ),
    )

    def merge(self, expert: Update, domain: TrainingDomain, *, step: int) -> Update:
        """The Fisher-weighted average of all experts so far."""
        options = self.settings
        fisher = self.bench.squared_gradients(domain, expert, labels=options.labels, images=options.images)
        changes = lazy_weight_changes(expert)
        self.memory, merged = add_to_fisher_average(
            self.memory, changes, fisher, minimum=options.minimum, normalise=options.normalise
        )
        return Update(dense=merged)
