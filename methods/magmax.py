"""MagMax: for each entry, the change of largest magnitude over all experts.

Source: Marczak et al., "MagMax: Leveraging Model Merging for Seamless Continual Learning", ECCV 2024 (arXiv
2407.06322), and its released code:

    M = scale * m,   m[j] = the tau_i[j] of largest |tau_i[j]|, the later expert if they are equal.

That is exact if the scale is a power of two; otherwise M over the scale is m up to a rounding, which decides between
equal entries.

``start=expert`` is the paper's way: expert t is trained on from expert t - 1 (not from the merged model), and
tau_t is its whole change from the base. ``start=base`` trains the experts independently, so that they are shared
with other methods.

Deviations: experts are LoRA adapters, compared as whole changes dW. Needs nothing of the current domain. The state
is constant: the served update, which is scale times m, and with ``start=expert`` the last expert. The order
matters; with ``start=base`` only between entries of equal magnitude. The output is dense.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from cosam_bench import MergingMethod, MethodCard, Settings, TrainingDomain, Update, setting
from cosam_bench.merging.elementwise import entrywise
from cosam_bench.merging.updates import check_same_parameters, lazy_weight_changes


class MagMaxSettings(Settings):
    """The settings of MagMax."""

    scale: float = setting(
        0.5, "factor of the merged change", source="the released scripts", search=(0.1, 4.0, "log"), gt=0
    )
    start: Literal["expert", "base"] = setting(
        "expert",
        "where an expert's training starts: at the last expert, or at the frozen base",
        source="the paper",
        search=None,
    )


class MagMax(MergingMethod[MagMaxSettings]):
    """The entries of largest magnitude over all experts so far."""

    card = MethodCard(
        title="MagMax",
        paper="arXiv 2407.06322",
        deviations=(
            "experts are LoRA adapters, compared as whole changes dW and served dense",
            "the unscaled maximum is the served update divided by the scale, not stored beside it",
        ),
    )

    @classmethod
    def needs_training(cls, settings: MagMaxSettings) -> str:
        """Training, if experts start from the last one."""
        return "trains each expert from the last one unless method.start=base" if settings.start != "base" else ""

    def learn(self, domain: TrainingDomain, *, step: int) -> None:
        """Train this domain's expert, from the last one if it is kept, and merge it."""
        last = Update.from_tensors(self.memory) if self.memory else None
        expert = self.bench.train(domain, start=last).update
        if self.settings.start == "expert":
            self.memory = expert.tensors()
        self.served = self.merge(expert, domain, step=step)

    def merge(self, expert: Update, domain: TrainingDomain, *, step: int) -> Update:
        """The scaled entries of largest magnitude over all experts so far."""
        merged = self.served.dense if self.served else None
        return Update(dense=keep_larger(merged, lazy_weight_changes(expert), scale=self.settings.scale))


def keep_larger(
    merged: Mapping[str, Tensor] | None, changes: Mapping[str, Tensor], *, scale: float
) -> dict[str, Tensor]:
    """``scale`` times the change of larger magnitude, entry by entry, or the new one if both are equal.

    Unless the scale is a power of two, ``merged`` over it differs from the change by a rounding, which then decides
    between equal entries.

    Args:
        merged: the result for the previous expert with the same scale; None before the first. It is divided by the
            scale and multiplied again in float64, which gives back the same float32.
        changes: the new expert's, by parameter name.
        scale: above 0.

    Raises:
        CosamError: the experts do not change the same parameters.
    """
    if merged is None:
        return {name: scale * change for name, change in changes.items()}
    check_same_parameters(merged, changes)

    def larger(before: Tensor, change: Tensor) -> Tensor:
        largest, new = before.double() / scale, change.double()
        return scale * new.where(new.abs() >= largest.abs(), largest)

    return {name: entrywise(larger, merged[name], change) for name, change in changes.items()}
