"""DARE: drop a random share of each expert's entries, scale up the rest, then sum or elect.

Source: Yu et al., "Language Models are Super Mario", ICML 2024 (arXiv 2311.03099). Each entry of tau_t is dropped
with probability p and the others are divided by 1 - p,

    tau'_t = tau_t * mask_t / (1 - p),   E[tau'_t] = tau_t,

and the tau' are merged by task arithmetic (``combine=sum``; with ``scale=1/t`` their mean) or TIES
(``combine=ties``, which first trims each to ``density`` and sums the entries that agree), both as in the methods
of those names.

Deviations: masks come from the run's seed and the domain's name, parameter by parameter in the order of their names,
so that any order of domains draws the same masks; the released code draws from the global generator. Needs
nothing of the current domain. The state is the served update, with ``ties`` also two tensors of its size: constant,
since masks are not kept. The order does not matter, up to float32 rounding. The output is dense.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from cosam_bench import MergingMethod, MethodCard, Settings, TrainingDomain, Update, setting
from cosam_bench.merging.elementwise import add_task_vector, entrywise
from cosam_bench.merging.scale import Scale
from cosam_bench.merging.sign_election import add_votes, elect, trim
from cosam_bench.merging.updates import LazyTensors, lazy_weight_changes, shapes_of


class DareSettings(Settings):
    """The settings of DARE."""

    drop: float = setting(
        0.5, "probability that an entry is dropped", source="FusionBench; the paper up to 0.9", ge=0, lt=1
    )
    combine: Literal["sum", "ties"] = setting(
        "sum", "how the thinned experts are merged: task arithmetic or TIES", source="the paper has both"
    )
    scale: Scale = setting(
        0.3,
        "factor of the sum or the election; 1/t for the mean",
        source="FusionBench",
        search=(0.05, 2.0, "log"),
        allow_inf_nan=None,
    )
    density: float = setting(
        0.2,
        "with combine=ties: share of entries that trimming keeps",
        source="the TIES paper",
        search=(0.05, 1.0),
        gt=0,
        le=1,
    )


class Dare(MergingMethod[DareSettings]):
    """Random thinning of each expert before task arithmetic or TIES."""

    card = MethodCard(
        title="DARE",
        paper="arXiv 2311.03099",
        order_dependent=False,
        deviations=(
            "masks are drawn from the run's seed and the domain's name, not from a global generator",
            "experts are LoRA adapters, thinned as whole changes dW and served dense",
            "combine=ties keeps running votes instead of all experts; the result is the same (derived here)",
        ),
    )

    def merge(self, expert: Update, domain: TrainingDomain, *, step: int) -> Update:
        """The sum or election over all thinned experts so far."""
        changes, drop, scale = lazy_weight_changes(expert), self.settings.drop, self.settings.scale
        masks = draw_masks(changes, probability=drop, generator=self.bench.generator("dare", domain.name))
        thinned = drop_and_rescale(changes, masks, probability=drop)
        if self.settings.combine == "sum":
            total = self.served.dense if self.served else None
            return Update(dense=add_task_vector(total, thinned, scale=scale, step=step))
        self.memory = add_votes(self.memory, trim(thinned, density=self.settings.density), merge="sum")
        share = 1 / step if scale == "1/t" else scale
        return Update(dense={name: change.mul_(share) for name, change in elect(self.memory, merge="sum").items()})


def drop_and_rescale(
    changes: Mapping[str, Tensor], masks: Mapping[str, Tensor], *, probability: float
) -> Mapping[str, Tensor]:
    """The changes divided by ``1 - probability`` if their mask is true, else 0; computed when read.

    Args:
        changes: by parameter name.
        masks: bool, of the same names and shapes; true with probability ``1 - probability``.
        probability: that an entry was dropped, in [0, 1).
    """

    def thinned(mask: Tensor, change: Tensor) -> Tensor:
        return change.where(mask, 0) / (1 - probability)

    return LazyTensors(shapes_of(changes), lambda name: entrywise(thinned, masks[name], changes[name]))


def draw_masks(changes: Mapping[str, Tensor], *, probability: float, generator: torch.Generator) -> dict[str, Tensor]:
    """A bool mask for each parameter, true with probability ``1 - probability``.

    Drawn in alphabetical order of the names.
    """
    shapes = shapes_of(changes)
    return {name: torch.rand(shapes[name], generator=generator) >= probability for name in sorted(shapes)}
