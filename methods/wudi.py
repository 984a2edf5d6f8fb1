"""WUDI-Merging, exact in running form: the merged change answers the inputs of each expert as that expert does.

Source: Cheng et al., "Whoever Started the Interference Should End It: Guiding Data-Free Model Merging via Task
Vectors", ICML 2025 (arXiv 2503.08099); formulas as in its released code and FusionBench's. An expert's change tau_i
spans approximately its layer's inputs, so for each layer M minimises

    L(M) = sum_i ||(M - tau_i) tau_i^T||^2 / ||tau_i||^2,

from M = sum_i tau_i, with norms of Frobenius. Other parameters get the mean of the experts.

    adam    as published: 300 steps on all entries of M. With a learning rate of 1e-5 an entry moves by at most about
            0.003, so on changes with larger entries they end before the minimum.
    closed  the minimum itself, the one nearest to the start (derived).

The released code needs all experts. It does not have to (derived): L is a quadratic form in M, and with

    G = sum_i tau_i^T tau_i / ||tau_i||^2,   H = sum_i tau_i tau_i^T tau_i / ||tau_i||^2,

its gradient is 2 (M G - H) and its minimum M = H G^+. G, H and the start are running sums, so that the state is
constant; it is RegMean with an expert's own change in the place of its inputs.

Deviations: as stated; an expert that changes nothing adds no term, where the released code divides by zero, and a
single expert is returned as it is. Needs nothing of the current domain. The state has, for each layer of m outputs and
n inputs, n n + m n numbers in float64 and m n in the change's dtype, beside the served change. The order does not
matter, up to rounding, which Adam may enlarge to a learning rate per step. The output is dense.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from cosam_bench import MergingMethod, MethodCard, TrainingDomain, Update, setting
from cosam_bench.merging.elementwise import add_task_vector
from cosam_bench.merging.regression import running_sums
from cosam_bench.merging.scale import ServedScale
from cosam_bench.merging.updates import check_same_parameters, lazy_weight_changes

_ROUNDING = 1e-12  # of eigenvalues: the square of what float32 factors resolve


class WUDISettings(ServedScale):
    """The settings of WUDI-Merging."""

    solver: Literal["adam", "closed"] = setting(
        "adam", "`adam`, the published steps; `closed`, their minimum (derived)", source="the paper", search=None
    )
    steps: int = setting(300, "steps of adam", source="the released code", search=None, ge=1)
    learning_rate: float = setting(
        1e-5, "learning rate of adam", source="the released code", search=(1e-6, 1e-3, "log"), gt=0
    )


class WUDI(MergingMethod[WUDISettings]):
    """The least interference with each expert along its own change, from running sums."""

    card = MethodCard(
        title="WUDI-Merging",
        paper="arXiv 2503.08099",
        order_dependent=False,
        deviations=(
            "running sums replace the released code's store of all experts, exactly (derived)",
            "only layers with low-rank changes are optimised; parameters trained as dense changes are averaged",
            "a single expert is returned as it is, and one that changes nothing adds no term",
            "solver=closed takes the minimum instead of 300 steps of Adam (derived)",
        ),
    )

    def merge(self, expert: Update, domain: TrainingDomain, *, step: int) -> Update:
        """The merged change of each weight, dense."""
        news = lazy_weight_changes(expert)
        start = {name.removeprefix("sum/"): tensor for name, tensor in self.memory.items() if name.startswith("sum/")}
        if start:
            check_same_parameters(start, news)
        total = add_task_vector(start or None, news, scale=1.0, step=step)
        layers = [f"{layer}.weight" for layer in expert.low_rank]
        sums = {name: tensor for name, tensor in self.memory.items() if not name.startswith("sum/")}
        for name in layers:
            gram, cross = quadratic_terms(news[name])
            sums |= running_sums(sums, [(f"gram/{name}", gram), (f"cross/{name}", cross)])
        self.memory = sums | {f"sum/{name}": change for name, change in total.items()}
        if step == 1:
            return Update(dense=dict(total))
        return Update(
            dense={
                name: self._solve(name, change) if name in layers else (change.double() / step).to(change.dtype)
                for name, change in total.items()
            }
        )

    def _solve(self, name: str, start: Tensor) -> Tensor:
        gram, cross = self.memory[f"gram/{name}"], self.memory[f"cross/{name}"]
        if self.settings.solver == "closed":
            return minimum(gram, cross).to(start.dtype)
        return minimise_by_adam(
            start, gram, cross, steps=self.settings.steps, learning_rate=self.settings.learning_rate
        )


def quadratic_terms(change: Tensor) -> tuple[Tensor, Tensor]:
    """One expert's terms of G and H, in float64.

    Args:
        change: ``(m, n)``, tau.

    Returns:
        ``(n, n)``, ``tau^T tau / ||tau||^2``, and ``(m, n)``, tau times it; zeros for a change of zero.
    """
    tau = change.double()
    energy = tau.square().sum()
    gram = tau.T @ tau / torch.where(energy > 0, energy, 1.0)
    return gram, tau @ gram


def minimise_by_adam(start: Tensor, gram: Tensor, cross: Tensor, *, steps: int, learning_rate: float) -> Tensor:
    """``start (m, n)`` after some steps of Adam on ``tr(M G M^T) - 2 tr(M H^T)``, in the dtype of ``start``."""
    merged = start.clone()
    gram, cross = gram.to(start.dtype), cross.to(start.dtype)
    optimiser = torch.optim.Adam([merged], lr=learning_rate)
    for _ in range(steps):
        merged.grad = 2 * (merged @ gram - cross)
        optimiser.step()
    return merged


def minimum(gram: Tensor, cross: Tensor) -> Tensor:
    """``H G^+``, the shortest minimum, which is also the one nearest to the sum of the changes.

    Args:
        gram: float64, ``(n, n)``, symmetric; eigenvalues up to 1e-12 of the largest count as zero.
        cross: float64, ``(m, n)``.

    >>> gram, cross = quadratic_terms(torch.tensor([[2.0, 0.0], [0.0, 0.0]]))
    >>> minimum(gram, cross).tolist()
    [[2.0, 0.0], [0.0, 0.0]]
    """
    values, vectors = torch.linalg.eigh(gram)
    kept = values > _ROUNDING * values[-1]
    directions = vectors[:, kept]
    shortest: Tensor = (cross @ directions / values[kept]) @ directions.T
    return shortest
