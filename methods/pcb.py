"""PCB-Merging (not continual): entries weighted by competition within and between experts.

Source: Du et al., "Parameter Competition Balancing for Model Merging", NeurIPS 2024 (arXiv 2410.02396), and its
released code, which has two versions. For T experts with x_i all adapted entries of expert i,

    a_i = |x_i| clipped to its q and 1 - q quantiles,   n_i = a_i scaled to [0, 1],
    intra_i = exp(T n_i^2),   inter_i = tanh(x_i * s),
    b_i = intra_i * inter_i clipped from below at its 1 - ratio quantile,   w_i = b_i scaled to [0, 1],
    M = scale * sum_i sign(x_i) a_i w_i / sum_i w_i,

where ``source=top``, the file at the top of the repository, has q = 1e-4 and s = sum_i x_i, and ``source=vision``,
the one for vision, q = 0.01 and s = sum_i sign(x_i) n_i. An entry whose b is not among the largest ``ratio`` of any
expert is 0: a single expert is reduced to its largest entries.

Not continual: T is in an exponent and s is a sum over all experts, so nothing less than all of them is enough.

Deviations: a row whose entries are all equal is scaled to 0 (0/0 in the released code); scale 1.2 for every expert
instead of an evolutionary search on validation data. Needs nothing of the current domain. The state keeps every
expert's factors and grows; a merge holds one layer of all T experts at a time, s, which becomes the output, and one
expert's b. The order does not matter, up to rounding. The output is dense.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from cosam_bench import CosamError, MergingMethod, MethodCard, Settings, TrainingDomain, Update, setting
from cosam_bench.merging.elementwise import entrywise
from cosam_bench.merging.order_statistics import order_statistics
from cosam_bench.merging.updates import LazyTensors, check_same_layers, lazy_weight_changes

_CLIPPED_SHARE = {"top": 1e-4, "vision": 0.01}  # q, as released
_SMALLEST_WEIGHT = 1e-12  # keeps the quotient of an entry without weight at 0, as released


class PcbSettings(Settings):
    """The settings of PCB-Merging."""

    ratio: float = setting(
        0.1,
        "share of an expert's entries that keep a weight",
        source="the paper, 0.05 to 0.2",
        search=(0.01, 1.0, "log"),
        gt=0,
        le=1,
    )
    scale: float = setting(
        1.2, "factor of the merged change", source="the released vision code", search=(0.1, 4.0, "log"), gt=0
    )
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
            "keeps every expert's factors and merges all of them again after each domain",
            "one fixed scale; the paper searches one per expert on validation data",
            "only adapted parameters compete, not the whole state dict",
        ),
    )

    def merge(self, expert: Update, domain: TrainingDomain, *, step: int) -> Update:
        """The merge of all experts so far, recomputed."""
        self.memory |= expert.tensors(f"{step}/")
        experts = [Update.from_tensors(self.memory, f"{number}/") for number in range(1, step + 1)]
        return Update(dense=merge_by_competition(experts, **self.settings.model_dump()))


def merge_by_competition(
    experts: Sequence[Update], *, ratio: float, scale: float, source: Literal["top", "vision"]
) -> dict[str, Tensor]:
    """The merged change by parameter name, in the experts' dtype.

    Args:
        experts: at least 1, of the same layers; one layer of all of them is formed at a time, several times each.
        ratio: share in (0, 1] of each expert's entries that get a weight above 0.
        scale: factor of the result.
        source: which of the released versions.

    Raises:
        CosamError: the experts do not change the same layers, or a change or the sum of all is not finite.
    """
    for expert in experts[1:]:
        check_same_layers(experts[0], expert)
    changes = [lazy_weight_changes(expert) for expert in experts]
    shapes = changes[0].shapes
    if not shapes:
        return {}
    count, share = sum(map(math.prod, shapes.values())), _CLIPPED_SHARE[source]
    low, high = min(int(count * share), count - 1), int(count * (1 - share) - 1)
    magnitudes = [Range.between(change, low, high, magnitudes=True) for change in changes]
    pull_of = partial(_pull, magnitudes=magnitudes, is_scaled=source == "vision")
    pulls = {name: entrywise(pull_of, *(change[name] for change in changes)) for name in shapes}
    if not all(torch.isfinite(pull).all() for pull in pulls.values()):
        raise CosamError("The sum of the experts' changes is not finite: did a training diverge?")

    def balances(number: int) -> LazyTensors:
        rule = partial(_balance, magnitudes=magnitudes[number], experts=len(experts))
        return LazyTensors(shapes, lambda name: entrywise(rule, changes[number][name], pulls[name]))

    rank = min(int(count * (1 - ratio)), count - 1)
    weights = [Range.between(balances(number), rank, count - 1) for number in range(len(experts))]
    merged = partial(_merged, magnitudes=magnitudes, weights=weights, scale=scale)
    for name in shapes:  # in place of the pull, which is as large
        pulls[name] = entrywise(merged, pulls[name], *(change[name] for change in changes))
    return pulls


@dataclass(frozen=True)
class Range:
    """Values are clipped to ``[least, most]``, and can be scaled from it to [0, 1]."""

    least: float
    most: float
    width: float

    @classmethod
    def between(cls, tensors: Mapping[str, Tensor], low: int, high: int, *, magnitudes: bool = False) -> Range:
        """The range between the entries of these ranks among all; its width is rounded to their dtype."""
        least, most = order_statistics(tensors, low, high, magnitudes=magnitudes)
        return cls(least.item(), most.item(), (most - least).item())

    def clip(self, values: Tensor) -> Tensor:
        """The values within the range."""
        return values.clamp(self.least, self.most)

    def to_unit(self, values: Tensor) -> Tensor:
        """The clipped values scaled to [0, 1]; zeros if the range is a single value."""
        return (self.clip(values) - self.least).div_(self.width) if self.width > 0 else torch.zeros_like(values)


def _pull(*experts: Tensor, magnitudes: Sequence[Range], is_scaled: bool) -> Tensor:
    """s of some entries ``(d,)`` of each expert."""
    pull = torch.zeros(())
    for entries, sizes in zip(experts, magnitudes, strict=True):
        pull = pull + (entries.sign().mul_(sizes.to_unit(entries.abs())) if is_scaled else entries)
    return pull


def _balance(entries: Tensor, pull: Tensor, *, magnitudes: Range, experts: int) -> Tensor:
    """b of some entries ``(d,)``, before it is clipped."""
    unit = magnitudes.to_unit(entries.abs())
    # e^-T times the published factor, which scaling to [0, 1] cancels, so that no exponential overflows.
    intra = unit.square_().sub_(1).mul_(experts).exp_()
    return intra.mul_((entries * pull).tanh_())


def _merged(
    pull: Tensor, *experts: Tensor, magnitudes: Sequence[Range], weights: Sequence[Range], scale: float
) -> Tensor:
    """M of some entries ``(d,)`` of each expert."""
    weighted, total = torch.zeros_like(pull), torch.zeros_like(pull)
    for entries, sizes, balances in zip(experts, magnitudes, weights, strict=True):
        weight = balances.to_unit(_balance(entries, pull, magnitudes=sizes, experts=len(experts)))
        total += weight
        weighted += entries.sign().mul_(sizes.clip(entries.abs())).mul_(weight)
    return scale * weighted / total.clamp(min=_SMALLEST_WEIGHT)
