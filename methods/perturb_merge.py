"""P&M: train with a perturbed task vector, then move towards the new model as far as all domains' Fishers allow.

Source: Qiu et al., "Train with Perturbation, Infer after Merging", NeurIPS 2025 (arXiv 2505.22389). Second-hand:
the formulas come from notes on the paper; its code was not available. Domain t is trained from the served W_(t-1);
each step's loss is that at W + e eps (W - W_(t-1)) with e drawn from -1, 0 and 1, which punishes curvature along the
task vector without a further pass. Then W_t = W_(t-1) + a d, d = W - W_(t-1), with one coefficient for all weights,

    a = - sum_(i<=t) (W_(t-1) - W_i)^T F_i d / sum_(i<=t) d^T F_i d,   between 0 and 1,

F_i the diagonal empirical Fisher information of the trained W_i on its own domain: the minimum along d of all
domains' losses, each taken as quadratic around its own W_i.

Derived here, the constant-memory form: with F = sum F_i and the residual R = sum F_i (W_i - W_(t-1)) over the past,

    a = (R + F_t d)^T d / d^T (F + F_t) d,   then R <- R + F_t d - a (F + F_t) d,   F <- F + F_t.

The perturbation scales the fresh adapter's branch by 1 + e eps, which is the same: dW = B A above W_(t-1).

Deviations: as derived; a is clipped to [0, 1] and is 1 for the first domain; if no Fisher information is above zero
along d, the new model is taken. All trained parameters follow the rule. Needs the current domain's labels and
gradients. The state is constant: F, R and the served update, all dense, and the last a. The order matters. The rank
grows to full.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from cosam_bench import (
    Adapter,
    MergingMethod,
    MethodCard,
    Settings,
    TrainingDomain,
    TrainingHooks,
    Update,
    setting,
)
from cosam_bench.merging.elementwise import entrywise_multi
from cosam_bench.merging.interpolation import difference, inner_product, interpolate

_SUMS = ("fisher", "residual")  # the running sums of each parameter


class PerturbMergeSettings(Settings):
    """The settings of P&M."""

    perturbation: float = setting(
        0.5,
        "eps, by which share the task vector is lengthened or shortened",
        source="the paper, second-hand",
        ge=0,
        lt=1,
    )
    images: int = setting(
        256, "maximum number of images used to estimate F", source="FusionBench's Fisher", search=None, ge=1
    )


class PerturbMerge(MergingMethod[PerturbMergeSettings]):
    """Training with a perturbed task vector, and one merging coefficient in closed form."""

    card = MethodCard(
        title="P&M",
        paper="arXiv 2505.22389",
        needs=("labels", "gradients"),
        deviations=(
            "second-hand: formulas from notes on the paper, whose code was not available",
            "derived: running sums replace the store of all models and Fisher informations",
            "the coefficient is clipped to [0, 1]",
        ),
    )
    start = "served"
    from_scratch = True

    def hooks(self, domain: TrainingDomain, *, step: int) -> TrainingHooks:
        """The perturbation, drawn from the domain's own generator."""
        return Perturbation(self.settings.perturbation, self.bench.generator("perturb_merge", domain.digest))

    def merge(self, expert: Update, domain: TrainingDomain, *, step: int) -> Update:
        """The served update, moved by the best coefficient."""
        served = self.served.dense if self.served is not None else {}
        fisher = self.bench.squared_gradients(domain, expert, labels="true", images=self.settings.images)
        moved = difference(expert, served)
        self.memory, coefficient = closed_form_coefficient(self.memory, moved, fisher)
        self.memory["coefficient"] = torch.tensor(coefficient, dtype=torch.float64)
        return Update(dense=interpolate(served, moved, weight=coefficient))


def closed_form_coefficient(
    memory: Mapping[str, Tensor], step: Mapping[str, Tensor], fisher: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], float]:
    """The next running sums, and how far to move towards a new expert.

    Args:
        memory: the sums for the previous expert; empty before the first.
        step: d by parameter name, the expert's change beyond the served update.
        fisher: F_t, at least 0, of the same names and shapes.

    Returns:
        The new sums, ``fisher/<name>`` and ``residual/<name>``, in the dtype of ``step``; and a in [0, 1].
    """

    def sums(fisher: Tensor, change: Tensor, *before: Tensor) -> tuple[Tensor, Tensor]:
        total, pull = fisher.double(), fisher.double() * change.double()
        return (total + before[0], pull + before[1]) if before else (total, pull)

    def kept(*pieces: Tensor) -> tuple[Tensor, Tensor]:
        *before, fisher, change = pieces
        total, pull = sums(fisher, change, *before)
        return total, pull - coefficient * total * change.double()

    # Two passes over the layers: one for the common coefficient, one for the sums that depend on it.
    slope = curvature = 0.0
    for name, change in step.items():
        before = [memory[f"{kind}/{name}"] for kind in _SUMS if memory]
        total, pull = sums(fisher[name], change, *before)
        slope += inner_product({name: pull}, {name: change})
        curvature += inner_product({name: change}, {name: change}, metric={name: total})
    coefficient = min(max(slope / curvature, 0.0), 1.0) if curvature > 0 else 1.0
    result: dict[str, Tensor] = {}
    for name, change in step.items():
        before = [memory[f"{kind}/{name}"] for kind in _SUMS if memory]
        left = entrywise_multi(kept, *before, fisher[name], change, results=2)
        result |= {f"{kind}/{name}": values for kind, values in zip(_SUMS, left, strict=True)}
    return result, coefficient


class Perturbation(TrainingHooks):
    """Takes each step's loss with a longer, a shorter or an unchanged task vector, each equally often.

    The gradient is that of the unscaled parameters: through W + e eps (W - W_0) it gains the factor 1 + e eps for B
    and for dense parameters; that of A has it already, because B is scaled while it is computed.
    """

    def __init__(self, strength: float, generator: torch.Generator) -> None:
        self._strength = strength
        self._generator = generator
        self._scale = 1.0
        self._kept: list[Tensor] = []

    def before_step(self, adapter: Adapter, *, step: int, steps: int) -> None:
        """Draw e and scale the change."""
        sign = int(torch.randint(-1, 2, (), generator=self._generator))
        self._scale = 1 + sign * self._strength
        with torch.no_grad():
            self._kept = [parameter.clone() for parameter, _ in _scaled_parameters(adapter)]
            for parameter, origin in _scaled_parameters(adapter):
                parameter.sub_(origin).mul_(self._scale).add_(origin)

    def after_backward(self, adapter: Adapter) -> None:
        """Restore the change, and convert its gradient to that of the unscaled parameters."""
        with torch.no_grad():
            for (parameter, _), kept in zip(_scaled_parameters(adapter), self._kept, strict=True):
                parameter.copy_(kept)
                if parameter.grad is not None:
                    parameter.grad.mul_(self._scale)


def _scaled_parameters(adapter: Adapter) -> list[tuple[nn.Parameter, Tensor | float]]:
    """The parameters in which the change is linear, each with its value for no change."""
    branches: list[tuple[nn.Parameter, Tensor | float]] = [(b, 0.0) for _, b, _ in adapter.factors.values()]
    return branches + [(parameter, first) for parameter, first, _ in adapter.dense.values()]
