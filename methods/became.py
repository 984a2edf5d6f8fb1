"""BECAME: a constrained training, an unconstrained one, and the Bayesian point between them.

Source: Li et al., "BECAME: BayEsian Continual Learning with Adaptive Model MErging", ICML 2025 (arXiv 2504.02666).
Derived: its equations 17 and 20 were not available, and its released code is only a README; the following is derived
here from its principle. On each domain after the first,

1. training from the served update with gradients projected away from the span of past domains' inputs: W_GP;
2. training on from there without constraint: W;
3. W_GP + l d is served, d = W - W_GP, with one coefficient for all weights,

    l = d^T F_t d / d^T (F_t + sum_(i<t) F_i) d.

That is the most probable point on the line if past domains say "near W_GP, with precision sum F_i" (Laplace's
approximation) and the new one says "near W, with precision F_t", F the diagonal empirical Fisher information at W.
The first domain's expert is taken unchanged.

The projection is that of GPM (Saha et al., ICLR 2021; arXiv 2103.09762): the leading eigenvectors V of a layer's
running Gram matrix of inputs, under the model served after each domain, hold ``threshold`` of its energy. The
adapter's A loses its part in V at the start, in each gradient and after each step, so that dW x = B A x is zero for
x in V, also under Adam. Parameters other than an adapted layer's weight are frozen in the first training, since they
have no such projection.

``projected = false`` is the merge alone: experts from the base, W_GP the served update, one training per domain.

Two trainings per domain, each with the protocol's full budget, and both are counted. Needs the current domain's
inputs, labels and gradients. The state is constant: sum F and the served update, dense, and the Gram matrices. The
order matters. The rank grows to full.
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
    weight_changes,
)
from cosam_bench.merging.interpolation import add_changes, difference, inner_product, interpolate
from cosam_bench.merging.regression import pop_items, running_sums


class BecameSettings(Settings):
    """The settings of BECAME."""

    projected: bool = setting(
        True,
        "train twice, the first time projected; off: merge experts trained from the base",
        source="the paper's two stages",
    )
    threshold: float = setting(
        0.97,
        "share of past inputs' energy that the first training must not affect",
        source="GPM on CIFAR-100",
        search=(0.8, 1.0),
        ge=0,
        le=1,
    )
    images: int = setting(
        256, "maximum number of images used to estimate F", source="FusionBench's Fisher", search=None, ge=1
    )


class Became(MergingMethod[BecameSettings]):
    """Two trainings per domain, and the Bayesian point between their results."""

    card = MethodCard(
        title="BECAME",
        paper="arXiv 2504.02666",
        needs=("inputs", "labels", "gradients"),
        deviations=(
            "derived: the coefficient follows the paper's principle; its equations were not available",
            "derived: the projection acts on the adapter's A, through the running Gram matrix of all past inputs",
            "one threshold for all domains; GPM raises it from domain to domain",
        ),
    )

    @classmethod
    def needs_training(cls, settings: BecameSettings) -> str:
        """Training from the served update, with and without the constraint."""
        return "continues training from its served update"

    def learn(self, domain: TrainingDomain, *, step: int) -> None:
        """Train with and without the constraint, merge, then add the inputs to the Gram matrices."""
        if self.served is None or not self.settings.projected:
            expert = self.bench.train(domain).update
        else:
            spans = self._spans()  # before the training, since its time counts as merging
            constrained = self.bench.train(
                domain, start=self.served, from_scratch=True, hooks=GradientProjection(spans)
            )
            self.served = Update(dense=weight_changes(constrained.update))  # W_GP, where merge() starts
            expert = self.bench.train(domain, start=self.served, from_scratch=True).update
        self.served = self.merge(expert, domain, step=step)
        if self.settings.projected:
            grams = self.bench.input_grams(domain, self.served)
            self.memory |= running_sums(self.memory, ((f"gram/{layer}", gram) for layer, gram in pop_items(grams)))

    def _spans(self) -> dict[str, Tensor]:
        threshold = self.settings.threshold
        return {layer: leading_span(self.memory[f"gram/{layer}"], threshold=threshold) for layer in self.bench.layers}

    def merge(self, expert: Update, domain: TrainingDomain, *, step: int) -> Update:
        """The point between the served update and the expert."""
        served = self.served.dense if self.served is not None else {}
        current = self.bench.squared_gradients(domain, expert, labels="true", images=self.settings.images)
        moved = difference(expert, served)
        past = {name: self.memory[f"fisher/{name}"] for name in current} if self.memory else {}
        coefficient = best_coefficient(moved, past=past, current=current)
        self.memory |= {f"fisher/{name}": total for name, total in add_changes(past, current).items()}
        self.memory["coefficient"] = torch.tensor(coefficient, dtype=torch.float64)
        return Update(dense=interpolate(served, moved, weight=coefficient))


def best_coefficient(step: Mapping[str, Tensor], *, past: Mapping[str, Tensor], current: Mapping[str, Tensor]) -> float:
    """l = d^T F_t d / d^T (F_t + F_past) d, in [0, 1]; 1 if both F are zero along d.

    Args:
        step: d by parameter name.
        past: the sum of earlier Fisher informations, of the same names and shapes, or empty.
        current: F_t.
    """
    new = inner_product(step, step, metric=current)
    total = new + (inner_product(step, step, metric=past) if past else 0.0)
    return new / total if total > 0 else 1.0


def leading_span(gram_sum: Tensor, *, threshold: float) -> Tensor:
    """Orthonormal columns ``(n, k)`` that hold at least ``threshold`` of the inputs' energy, as few as possible.

    Args:
        gram_sum: float64, ``(n, n)``, the sum of x x^T over the inputs.
        threshold: share of tr(gram_sum) in [0, 1].
    """
    eigenvalues, vectors = torch.linalg.eigh(gram_sum)
    energies = eigenvalues.clamp(min=0).flip(0)
    held = energies.cumsum(0)
    count = int((held < threshold * held[-1]).sum().item()) + 1 if threshold > 0 and held[-1] > 0 else 0
    span: Tensor = vectors.flip(1)[:, :count]
    return span


class GradientProjection(TrainingHooks):
    """Keeps each adapted layer's change out of a span of inputs, and freezes everything else."""

    def __init__(self, spans: Mapping[str, Tensor]) -> None:
        self._spans = spans

    def attached(self, adapter: Adapter) -> None:
        """Project the initial factors, freeze what cannot be projected."""
        weights = {f"{layer}.weight" for layer in adapter.linear}
        for name, (parameter, _, _) in adapter.dense.items():
            parameter.requires_grad_(name in weights)
        projected = self._projected(adapter)
        self._spans = {layer: self._spans[layer].to(rows.device, rows.dtype) for layer, (rows, _) in projected.items()}
        self._project_all(adapter)

    def after_backward(self, adapter: Adapter) -> None:
        """Project the gradients, so that the optimiser's averages stay in the subspace."""
        for layer, (rows, _) in self._projected(adapter).items():
            if rows.grad is not None:
                self._project(rows.grad, layer)

    def after_step(self, adapter: Adapter, *, step: int, steps: int) -> None:
        """Project again: Adam scales entry by entry and leaves the subspace."""
        self._project_all(adapter)

    def _projected(self, adapter: Adapter) -> dict[str, tuple[nn.Parameter, Tensor | float]]:
        """By layer, the parameter whose rows are projected, A or the whole weight, and its value without a change."""
        rows: dict[str, tuple[nn.Parameter, Tensor | float]] = {
            layer: (a, 0.0) for layer, (a, _, _) in adapter.factors.items()
        }
        return rows | {layer: adapter.dense[f"{layer}.weight"][:2] for layer in adapter.linear}

    def _project_all(self, adapter: Adapter) -> None:
        with torch.no_grad():
            for layer, (rows, unmoved) in self._projected(adapter).items():
                moved = rows - unmoved
                self._project(moved, layer)
                rows.copy_(unmoved + moved)

    def _project(self, rows: Tensor, layer: str) -> None:
        with torch.no_grad():
            rows.sub_(rows @ self._spans[layer] @ self._spans[layer].T)
