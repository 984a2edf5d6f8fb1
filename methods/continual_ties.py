"""Continual TIES: TIES between the served update and each new expert, added to the served update.

Source: FusionBench's continual TIES baseline, whose numbers are in the tables of OPCM (arXiv 2501.09522):

    M_1 = scale * tau_1,   M_t = M_{t-1} + scale * TIES(M_{t-1}, tau_t),

with TIES as in the method ``ties``, between two changes. It is not TIES over all experts (that is ``ties``). The
result of each election already contains the served update and is added to it again: where the two agree, M is
multiplied by up to 1 + scale with every domain. This is the released behaviour and is kept; it is why this
baseline's published numbers are low and scattered.

Deviations: only adapted parameters are trimmed, not the whole state dict. Needs nothing of the current domain. The
state is the served update alone: constant. The order matters. The output is dense.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from cosam_bench import MergingMethod, MethodCard, Settings, TrainingDomain, Update, setting
from cosam_bench.merging.elementwise import add_task_vector
from cosam_bench.merging.sign_election import Agreement, elect_between, trim
from cosam_bench.merging.updates import lazy_weight_changes


class ContinualTiesSettings(Settings):
    """The settings of continual TIES."""

    density: float = setting(
        0.2, "share of entries kept of each side", source="FusionBench", search=(0.05, 1.0), gt=0, le=1
    )
    merge: Literal["sum", "mean", "max"] = setting("sum", "how entries that agree are combined", source="FusionBench")
    scale: float = setting(
        0.5, "factor of each election's result", source="FusionBench", search=(0.05, 2.0, "log"), gt=0
    )


class ContinualTies(MergingMethod[ContinualTiesSettings]):
    """FusionBench's recursive TIES."""

    card = MethodCard(
        title="Continual TIES",
        paper="arXiv 2501.09522 (as a baseline); TIES: arXiv 2306.01708",
        deviations=(
            "as released: the served update takes part in each election and is added to its result again",
            "only adapted parameters are trimmed, not the whole state dict",
        ),
    )

    def merge(self, expert: Update, domain: TrainingDomain, *, step: int) -> Update:
        """The served update with the scaled election between it and the new expert added."""
        merged = self.served.dense if self.served else None
        options = self.settings.model_dump()
        return Update(dense=add_by_election(merged, lazy_weight_changes(expert), step=step, **options))


def add_by_election(
    merged: Mapping[str, Tensor] | None,
    changes: Mapping[str, Tensor],
    *,
    density: float,
    merge: Agreement,
    scale: float,
    step: int,
) -> dict[str, Tensor]:
    """The next merged change: the last one plus the scaled election between it and the new expert.

    Args:
        merged: the result for the previous expert; None before the first.
        changes: the new expert's, by parameter name.
        density: share of each side's entries that trimming keeps.
        merge: how entries that agree are combined.
        scale: factor of what is added.
        step: 1 for the first expert, which is added untrimmed.
    """
    if merged is None:
        return add_task_vector(None, changes, scale=scale, step=step)
    sides = [trim(merged, density=density), trim(changes, density=density)]
    return add_task_vector(merged, elect_between(sides, merge=merge), scale=scale, step=step)
