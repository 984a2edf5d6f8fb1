"""CoFiMA: train the served model on, then average old and new parameters by their Fisher information.

Source: Marouf et al., "Weighted Ensemble Models Are Strong Continual Learners", ECCV 2024 (arXiv 2312.08977), and
LAMDA-PILOT's ``models/cofima.py``. The first domain's model is taken unchanged; after that, elementwise,

    W_t = ((1 - l) F_(t-1) W_(t-1) + l F_t W) / ((1 - l) F_(t-1) + l F_t),   W trained from W_(t-1),

with F_t the diagonal empirical Fisher information of W on domain t, clipped at ``maximum``. Only the last domain's
F is kept, as published, so it alone represents what older domains need.

Deviations: adapters instead of the whole network, a fresh one per domain above the served update; F is the mean of
squared gradients of single images, while the released code squares the gradients of batches; if both F are zero, the
plain average of CoMA is used, while the released code divides by zero; no classifier alignment. All trained
parameters follow the rule. Needs the current domain's labels and gradients. The state is constant: the served
update and one F, both dense. The order matters. The rank is full.
"""

from __future__ import annotations

from cosam_bench import MergingMethod, MethodCard, Settings, TrainingDomain, Update, setting, weight_changes
from cosam_bench.merging.interpolation import difference, interpolate_by_fisher


class CoFiMASettings(Settings):
    """The settings of CoFiMA."""

    weight: float = setting(
        0.4, "the new model's weight l, before Fisher information", source="LAMDA-PILOT, wt_lambda", gt=0, lt=1
    )
    maximum: float = setting(
        1e-4, "F is clipped at it", source="LAMDA-PILOT, fishermax", search=(1e-6, 1e-2, "log"), gt=0
    )
    images: int = setting(
        256, "maximum number of images used to estimate F", source="FusionBench's Fisher", search=None, ge=1
    )


class CoFiMA(MergingMethod[CoFiMASettings]):
    """An interpolation of the served and the newly trained model, weighted by the last two Fisher informations."""

    card = MethodCard(
        title="CoFiMA",
        paper="arXiv 2312.08977",
        needs=("labels", "gradients"),
        deviations=(
            "adapters are trained, a fresh one per domain, instead of the whole network",
            "F squares the gradients of single images; the released code squares those of batches",
            "F is estimated on at most 256 images, not on the whole domain",
            "if both F are zero, the plain average replaces 0 / 0",
            "no classifier alignment: there are no classes",
        ),
    )
    start = "served"
    from_scratch = True

    def merge(self, expert: Update, domain: TrainingDomain, *, step: int) -> Update:
        """The Fisher-weighted mean of the served and the trained model."""
        gradients = self.bench.squared_gradients(domain, expert, labels="true", images=self.settings.images)
        current = {name: values.clamp_(max=self.settings.maximum) for name, values in gradients.items()}
        past, self.memory = self.memory, current
        if self.served is None:
            return Update(dense=weight_changes(expert))
        step_taken = difference(expert, self.served.dense)
        return Update(
            dense=interpolate_by_fisher(
                self.served.dense, step_taken, past=past, current=current, weight=self.settings.weight
            )
        )
