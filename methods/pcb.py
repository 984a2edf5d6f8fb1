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
expert's factors and grows; dense rows are made one at a time. The order does not matter, but for rounding. The
output is dense.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from cosam_bench.card import MethodCard
from cosam_bench.config import Settings, setting
from cosam_bench.merging.elementwise import order_statistics
from cosam_bench.method import MergingMethod
from cosam_bench.training_domain import TrainingDomain
from cosam_bench.updates import Update, check_same_layers, weight_changes
from cosam_bench.workbench import Workbench

_CLIPPED_SHARE = {"top": 1e-4, "vision": 0.01}  # q, as released
_SMALLEST_WEIGHT = 1e-12  # keeps the quotient of an entry without weight at 0, as released


def merge_by_competition(
    experts: Sequence[Update], *, ratio: float, scale: float, source: Literal["top", "vision"]
) -> dict[str, Tensor]:
    """The merged change by parameter name, in the experts' dtype.

    Args:
        experts: at least 1, of the same layers; dense rows are made of one at a time.
        ratio: share in (0, 1] of each expert's entries that get a weight above 0.
        scale: of the result.
        source: which of the released versions.

    Raises:
        CosamError: the experts do not change the same layers.
    """
    for expert in experts[1:]:
        check_same_layers(experts[0], expert)
    share = _CLIPPED_SHARE[source]
    pull = torch.zeros(())
    for expert in experts:
        entries = _flat(expert)
        pull = pull + (entries if source == "top" else entries.sign() * _to_unit(_clipped(entries.abs(), share, share)))
    weighted, weights = torch.zeros(()), torch.zeros(())
    for expert in experts:
        entries = _flat(expert)
        magnitudes = _clipped(entries.abs(), share, share)
        # e^-T times the published factor, which scaling to [0, 1] takes out again: so that no exponential overflows.
        within = (len(experts) * (_to_unit(magnitudes).square() - 1)).exp_()
        balance = within * (entries * pull).tanh_()
        weight = _to_unit(_clipped(balance, 1 - ratio, 0))
        weighted = weighted + entries.sign() * magnitudes * weight
        weights = weights + weight
    merged = scale * weighted / weights.clamp(min=_SMALLEST_WEIGHT)
    return _by_name(merged, experts[0])


def _flat(expert: Update) -> Tensor:
    changes = weight_changes(expert)
    return torch.cat([changes[name].flatten() for name in sorted(changes)])


def _by_name(flat: Tensor, like: Update) -> dict[str, Tensor]:
    changes = weight_changes(like)
    merged, begin = {}, 0
    for name in sorted(changes):
        end = begin + changes[name].numel()
        merged[name] = flat[begin:end].reshape(changes[name].shape).clone()
        begin = end
    return merged


def _clipped(values: Tensor, below: float, above: float) -> Tensor:
    """Values within the order statistics number ``int(d * below)`` and ``int(d * (1 - above) - 1)``, from 0."""
    count = len(values)
    lowest = min(int(count * below), count - 1)
    highest = int(count * (1 - above) - 1)
    least, most = order_statistics(values, lowest, highest)
    return values.clamp(least, most)


def _to_unit(values: Tensor) -> Tensor:
    """Values scaled to [0, 1]; zeros where all are equal."""
    lowest, highest = values.aminmax()
    return (values - lowest) / (highest - lowest) if highest > lowest else torch.zeros_like(values)


class PcbSettings(Settings):
    """The settings of PCB-Merging."""

    ratio: float = setting(
        0.1, "share of an expert's entries that keep a weight", source="the paper, 0.05 to 0.2", gt=0, le=1
    )
    scale: float = setting(1.2, "what the merged change is multiplied by", source="the released vision code", gt=0)
    source: Literal["top", "vision"] = setting(
        "vision", "which of the two released versions", source="this project: the models here are vision models"
    )


class Pcb(MergingMethod):
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
    Settings = PcbSettings

    def __init__(self, settings: PcbSettings, bench: Workbench) -> None:
        super().__init__(settings, bench)
        self.options = settings

    def merge(self, expert: Update, domain: TrainingDomain, *, step: int) -> Update:
        """The merge of all experts so far, recomputed."""
        self.memory |= expert.tensors(f"{step}/")
        experts = [Update.from_tensors(self.memory, f"{number}/") for number in range(1, step + 1)]
        return Update(dense=merge_by_competition(experts, **self.options.model_dump()))
