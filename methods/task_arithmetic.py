"""Task arithmetic: the scaled sum of all experts' changes.

Source: Ilharco et al., "Editing Models with Task Arithmetic", ICLR 2023 (arXiv 2212.04089):

    M_t = scale * sum_{i<=t} tau_i,   tau_i = dW of expert i,

added up as in FusionBench's continual baseline; ``scale=1/t`` gives the mean instead. On LoRA adapters this equals
stacking the factors. It is not the sum of the A times the sum of the B, which has cross terms.

``first_factors=osrm`` trains the experts from other initial factors: OSRM ("Unraveling LoRA Interference", ACL 2025,
arXiv 2505.22934) starts A of each layer, with B still at zero, from the orthonormal rows that the OTHER domains'
inputs excite least,

    A = the last r eigenvectors of H^T H,   H = the layer's inputs under the frozen base,

so that the expert's change has little effect on them. Here the others are the PAST domains, all that a continual
method may know: their input Gram matrices are summed (n x n per layer, float64), with the same weight for each
domain. The first domain has no past and starts as usual. The released code keeps one mean input vector per domain
and takes the last right singular vectors of those few rows, an arbitrary part of a large null space; second moments
of all inputs, which the paper's text describes, leave no such freedom on ordinary inputs. The condition on A is not
enforced in training: A is trained on.

Deviations: experts are LoRA adapters, merged as whole changes dW and served dense. Needs nothing of the current
domain; with ``osrm`` its inputs. The state is the served update, and with ``osrm`` the Gram sums: constant. The
order does not matter, up to float32 rounding; with ``osrm`` it does. The output is of rank up to t r.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from cosam_bench import (
    Adapter,
    CosamError,
    MergingMethod,
    MethodCard,
    Settings,
    TrainingDomain,
    TrainingHooks,
    Update,
    Workbench,
    setting,
)
from cosam_bench.merging.elementwise import add_task_vector
from cosam_bench.merging.osrm import least_energy_directions
from cosam_bench.merging.regression import pop_items, running_sums
from cosam_bench.merging.scale import Scale
from cosam_bench.merging.updates import lazy_weight_changes


class TaskArithmeticSettings(Settings):
    """The settings of task arithmetic."""

    scale: Scale = setting(
        0.3,
        "factor of each expert's change; 1/t for the mean",
        source="FusionBench",
        search=(0.05, 2.0, "log"),
        allow_inf_nan=None,
    )
    first_factors: Literal["shared", "osrm"] = setting(
        "shared",
        "how the experts' A is initialised: the same random factors for all, or orthogonal to past domains' inputs",
        source="this project: all methods can share experts that start equally",
        search=None,
    )


class TaskArithmetic(MergingMethod[TaskArithmeticSettings]):
    """The scaled running sum of the experts' changes."""

    card = MethodCard(
        title="Task arithmetic",
        paper="arXiv 2212.04089; first_factors=osrm: arXiv 2505.22934",
        order_dependent=False,
        deviations=(
            "experts are LoRA adapters, summed as whole changes dW and served dense",
            "the scale is fixed in advance; the paper tunes it on validation data",
            "first_factors=osrm uses the inputs of each domain and makes the order matter; it uses past domains "
            "only, through second moments of all their inputs instead of one mean vector per domain",
        ),
    )

    def __init__(self, settings: TaskArithmeticSettings, bench: Workbench) -> None:
        super().__init__(settings, bench)
        if self.settings.first_factors == "osrm" and bench.adapter.kind != "lora":
            raise CosamError(
                f"first_factors=osrm initialises LoRA's A, but the protocol's adapter is {bench.adapter.kind!r}. "
                "Leave it at shared, or --set adapter.kind=lora."
            )

    @classmethod
    def needs_training(cls, settings: TaskArithmeticSettings) -> str:
        """Training, for OSRM's initial factors."""
        is_shared = settings.first_factors == "shared"
        return "" if is_shared else "chooses the experts' first A unless method.first_factors=shared"

    def hooks(self, domain: TrainingDomain, *, step: int) -> TrainingHooks | None:
        """OSRM's initial factors, once past domains' inputs are known."""
        return OsrmFactors(self.memory) if self.memory else None

    def merge(self, expert: Update, domain: TrainingDomain, *, step: int) -> Update:
        """The scaled sum over all experts so far."""
        if self.settings.first_factors == "osrm":
            self.memory = running_sums(self.memory, pop_items(self.bench.input_grams(domain, None)))
        total = self.served.dense if self.served else None
        return Update(dense=add_task_vector(total, lazy_weight_changes(expert), scale=self.settings.scale, step=step))


class OsrmFactors(TrainingHooks):
    """Initialises each layer's A with the directions of least energy in the past domains' inputs.

    Attributes:
        second_moments: sums of x x^T by layer name, ``(in, in)``; layers without one start as usual.
    """

    def __init__(self, second_moments: Mapping[str, Tensor]) -> None:
        self.second_moments = second_moments

    def attached(self, adapter: Adapter) -> None:
        """Overwrite A; B is zero, so nothing changes before training."""
        with torch.no_grad():
            for layer, moment in self.second_moments.items():
                a, _, _ = adapter.factors[layer]
                a.copy_(least_energy_directions(moment, count=a.shape[0]))
