"""CoMA: train the served model on, then move a fixed part of the way to the result.

Source: Marouf et al., "Weighted Ensemble Models Are Strong Continual Learners", ECCV 2024 (arXiv 2312.08977), and
LAMDA-PILOT's ``models/cofima.py`` without Fisher weighting. The first domain's model is taken unchanged; after that

    W_t = (1 - l) W_(t-1) + l W,   W trained from W_(t-1).

Deviations: adapters instead of the whole network, a fresh one per domain above the served update; the classifier's
alignment by class statistics has no counterpart here. All trained parameters follow the rule. Needs nothing of the
current domain beyond the expert. The state is constant: the served update, dense. The order matters. The rank
grows to full.
"""

from __future__ import annotations

from cosam_bench import MergingMethod, MethodCard, Settings, TrainingDomain, Update, setting
from cosam_bench.merging.interpolation import difference, interpolate


class CoMASettings(Settings):
    """The settings of CoMA."""

    weight: float = setting(
        0.4, "share of the way from the served model to the new one", source="LAMDA-PILOT, wt_lambda", ge=0, le=1
    )


class CoMA(MergingMethod[CoMASettings]):
    """A fixed interpolation of the served model and the one trained on from it."""

    card = MethodCard(
        title="CoMA",
        paper="arXiv 2312.08977",
        deviations=(
            "adapters are trained, a fresh one per domain, instead of the whole network",
            "no classifier alignment: there are no classes",
        ),
    )
    start = "served"
    from_scratch = True

    def merge(self, expert: Update, domain: TrainingDomain, *, step: int) -> Update:
        """The weighted mean of the served and the trained model."""
        served = self.served.dense if self.served is not None else {}
        weight = self.settings.weight if self.served is not None else 1.0
        return Update(dense=interpolate(served, difference(expert, served), weight=weight))
