"""PCB-Merging (not continual): entries weighted by competition within and between experts.

Source: Du et al., "Parameter Competition Balancing for Model Merging", NeurIPS 2024 (arXiv 2410.02396), and its
released code, which holds two versions. Of T experts with x_i all adapted entries of expert i,

    a_i = |x_i| clipped to its q and 1 - q quantiles,   n_i = a_i scaled to [0, 1],
    intra_i = exp(T n_i^2),   inter_i = tanh(x_i * s),
    b_i = intra_i * inter_i clipped from below at its 1 - ratio quantile,   w_i = b_i scaled to [0, 1],
    M = scale * sum_i sign(x_i) a_i w_i / sum_i w_i,

where ``source=top``, the file at the top of the repository, has q = 1e-4 and s = sum_i x_i, and ``source=vision``,
the one for vision, q = 0.01 and s = sum_i sign(x_i) n_i. An entry whose b is among the largest ``ratio`` of no
expert is 0: one expert alone comes back as its largest entries.

Not continual: T stands in an exponent and s is a sum over all experts, so nothing shorter than all of them will do.

Deviations: a row whose entries are all equal is scaled to 0 (0/0 in the released code); scale 1.2 for every expert
instead of an evolutionary search on validation data. Needs nothing of the current domain. The state keeps every
expert's factors and grows; a merge holds one layer of all T experts at a time, and s, which becomes the output. The
order does not matter, but for rounding. The output is dense.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from cosam_bench import MergingMethod, MethodCard, Settings, TrainingDomain, Update, setting
from cosam_bench.merging.competition import Competition
from cosam_bench.merging.updates import changes_in_turn, check_same_layers

_CLIPPED_SHARE = {"top": 1e-4, "vision": 0.01}  # q, as released


def merge_by_competition(
    experts: Sequence[Update], *, ratio: float, scale: float, source: Literal["top", "vision"]
) -> dict[str, Tensor]:
    """The merged change by parameter name, in the experts' dtype.

    Args:
        experts: at least 1, of the same layers; one layer of all of them is formed at a time, and several times.
        ratio: share in (0, 1] of each expert's entries that get a weight above 0.
        scale: of the result.
        source: which of the released versions.

    Raises:
        CosamError: the experts do not change the same layers, or a change is not finite.
    """
    for expert in experts[1:]:
        check_same_layers(experts[0], expert)
    changes = [changes_in_turn(expert) for expert in experts]
    if not changes[0]:
        return {}
    share = _CLIPPED_SHARE[source]
    return Competition(changes, clipped=share, ratio=ratio, is_pull_scaled=source == "vision").merged(scale)


class PcbSettings(Settings):
    """The settings of PCB-Merging."""

    ratio: float = setting(
        0.1, "share of an expert's entries that keep a weight", source="the paper, 0.05 to 0.2", gt=0, le=1
    )
    scale: float = setting(1.2, "what the merged change is multiplied by", source="the released vision code", gt=0)
    source: Literal["top", "vision"] = setting(
        "vision", "which of the two released versions", source="this project: the models here are vision models"
    )


class Pcb(MergingMethod[PcbSettings]):
    """Parameter competition balancing over all experts, which are kept."""

    card = MethodCard(
        title="PCB-Merging (not continual)",
        paper="arXiv 2410.02396",
        state="grows",
        order_dependent=False,
        not_continual=True,
        deviations=(
            "keeps every expert's factors and merges all of them anew after each domain",
            "one fixed scale; the paper searches one an expert on validation data",
            "only adapted parameters compete, not the whole state dict",
        ),
    )

    def merge(self, expert: Update, domain: TrainingDomain, *, step: int) -> Update:
        """The merge of all experts so far, recomputed."""
        self.memory |= expert.tensors(f"{step}/")
        experts = [Update.from_tensors(self.memory, f"{number}/") for number in range(1, step + 1)]
        return Update(dense=merge_by_competition(experts, **self.settings.model_dump()))
