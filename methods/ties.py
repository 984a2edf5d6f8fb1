"""TIES: trim each expert, elect a sign for each entry, merge the entries that agree.

Source: Yadav et al., "TIES-Merging", NeurIPS 2023 (arXiv 2306.01708), in FusionBench's version. With x_i the change
of expert i after trimming to the largest ``density`` of its entries, over all adapted parameters together,

    s = sign(sum_i x_i),   M = scale * (sum | mean | max) of the x_i whose sign is s,   entry by entry.

Trimming is within one expert, and the rest needs for each entry only the sums (``mean``: also counts; ``max``: the
extrema) of its positive and negative x_i. These are kept, so the result after each domain is that of the batch
formula on all experts so far, in constant memory (derived; tested against the batch form).

Deviations: only adapted parameters are trimmed. Over the full state dict, most of which LoRA leaves unchanged, the
threshold would be 0 and nothing would be trimmed. A density of 1 trims nothing; the published code raises. Needs
nothing of the current domain. The state is constant: the served update and two tensors of its size, for ``mean`` two
more of int16, for ``max`` one more. The order does not matter, up to float32 rounding. The output is dense.
"""

from __future__ import annotations

from typing import Literal

from cosam_bench import MergingMethod, MethodCard, Settings, TrainingDomain, Update, setting
from cosam_bench.merging.sign_election import add_votes, elect, trim
from cosam_bench.merging.updates import lazy_weight_changes


class TiesSettings(Settings):
    """The settings of TIES."""

    density: float = setting(
        0.2, "share of an expert's entries that are kept", source="the paper, K = 20 %", search=(0.05, 1.0), gt=0, le=1
    )
    merge: Literal["sum", "mean", "max"] = setting(
        "sum", "how entries that agree are combined", source="FusionBench; the paper's text has mean"
    )
    scale: float = setting(0.3, "factor of the merged change", source="FusionBench", search=(0.05, 4.0, "log"), gt=0)


class Ties(MergingMethod[TiesSettings]):
    """TIES over all experts so far, from running votes."""

    card = MethodCard(
        title="TIES",
        paper="arXiv 2306.01708",
        order_dependent=False,
        deviations=(
            "running sums of the trimmed entries replace the store of all experts, with the same result (derived)",
            "only adapted parameters are trimmed, not the whole state dict",
            "the scale is fixed in advance; the paper tunes it on validation data",
        ),
    )

    def merge(self, expert: Update, domain: TrainingDomain, *, step: int) -> Update:
        """The scaled election over all experts so far."""
        trimmed = trim(lazy_weight_changes(expert), density=self.settings.density)
        self.memory = add_votes(self.memory, trimmed, merge=self.settings.merge)
        merged = elect(self.memory, merge=self.settings.merge)
        return Update(dense={name: change.mul_(self.settings.scale) for name, change in merged.items()})
