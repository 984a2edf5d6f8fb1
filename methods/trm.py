"""TRM, reconstructed from the abstract: the merge is a search within the subspace that the training spans.

Source: "Trajectory Regularized Merging", Wang and Deng, arXiv 2605.08311. Only its abstract was available. It names
the three aims (task alignment, prediction consistency, gradient responsiveness) and that earlier models and data
are not kept; every formula below is this project's reading and not the paper's. This method's scores say
nothing about TRM as published.

Domain t trains the served adapter phi_m on; K snapshots phi(1..K) are taken along the way, phi(0) = phi_m. With
the segments s_k = phi(k) - phi(k-1), and a direction h = (A: 0, B: B of phi_m) that rescales the earlier change,

    phi_l(c) = phi_m_l + sum_k c[l,k] s_k,l + c[l,h] h_l     of each layer l, A and B sharing c_l

so c = 0 is the old model and c = 1 the new one. Adam moves c from 1/2 (h: 0) to a smaller

    J = L_TA + w_pc L_PC + w_gr L_GR + mu R
    L_TA  the training loss
    L_PC  the mean over pixels of KL(Bernoulli(sigmoid z_prev) || Bernoulli(sigmoid z)), z_prev by phi_m
    L_GR  max(0, 1 - n / (rho n_ref))^2, n the norm of L_TA's gradient in phi
    R     sum_{l,k} ||s_k,l||^2 / ||phi(K)_l - phi_m_l||^2 (c[l,k] - 1/2)^2

on a fixed part of the current domain's training data, without augmentation. n_ref is the mean norm of that
gradient on the first batches before any update, as a running maximum over domains. The first domain is only
trained.

Needs the current domain's inputs, labels and gradients. The state is constant: the adapter and n_ref. The order
matters. The rank is that of one adapter, because all points lie on one run from a common start.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from cosam_bench import (
    Adapter,
    MergingMethod,
    MethodCard,
    Settings,
    TrainingDomain,
    TrainingHooks,
    Update,
    Workbench,
    setting,
)
from cosam_bench.core.sums import plain_sum
from cosam_bench.merging.trajectory import ObjectiveWeights, Trajectory, gradients, objective_and_gradient, total_norm
from cosam_bench.sam.adapters.attachment import attach
from cosam_bench.sam.inputs import chunks

_OURS = "this reconstruction"


class TRMSettings(Settings):
    """The settings of the reconstruction; each objective is switched off by the weight 0."""

    alignment: float = setting(1.0, "weight of the training loss", source=_OURS, ge=0)
    consistency: float = setting(1.0, "weight of staying with the old predictions", source=_OURS, ge=0)
    responsiveness: float = setting(0.1, "weight of keeping the gradient alive", source=_OURS, ge=0)
    anchor: float = setting(0.01, "mu, the pull of all coefficients to 1/2", source=_OURS, ge=0)
    floor: float = setting(
        0.5, "rho, the share of the reference norm that the gradient should keep", source=_OURS, gt=0
    )
    snapshots: int = setting(4, "K, snapshots along the training, the last included", source=_OURS, ge=1)
    history: bool = setting(True, "let the search rescale the old factors B, too", source=_OURS)
    per_layer: bool = setting(True, "each layer has its own coefficients; off: one row for all layers", source=_OURS)
    steps: int = setting(100, "steps of Adam on the coefficients", source=_OURS, ge=0)
    learning_rate: float = setting(0.02, "Adam's, for the coefficients", source=_OURS, gt=0)
    batch: int = setting(4, "images per step", source=_OURS, ge=1)
    images: int = setting(
        400, "maximum number of training images that the search uses; the first ones", source=_OURS, ge=1
    )
    reference_batches: int = setting(4, "batches that the reference norm is averaged over", source=_OURS, ge=1)


class TRM(MergingMethod[TRMSettings]):
    """A search for the best point between the old adapter and the new one."""

    card = MethodCard(
        title="TRM, reconstructed from the abstract",
        paper="arXiv 2605.08311",
        needs=("inputs", "labels", "gradients"),
        reconstructed=True,
        deviations=(
            "reconstructed from the abstract alone: subspace, objectives and settings are this project's, so this "
            "is not TRM as published",
        ),
    )
    start = "served"

    def __init__(self, settings: TRMSettings, bench: Workbench) -> None:
        super().__init__(settings, bench)
        self.weights = ObjectiveWeights(
            settings.alignment, settings.consistency, settings.responsiveness, settings.anchor, settings.floor
        )
        self.snapshots = Snapshots(settings.snapshots)

    def hooks(self, domain: TrainingDomain, *, step: int) -> TrainingHooks | None:
        """Snapshots along the training; before it, the norm of the new domain's first gradients."""
        earlier = self.values.get("reference_norm", 0.0)
        assert isinstance(earlier, float)
        self.values["reference_norm"] = max(earlier, self._gradient_norm(domain))
        return self.snapshots if self.served is not None else None

    def merge(self, expert: Update, domain: TrainingDomain, *, step: int) -> Update:
        """The end point of the search; the first domain's expert unchanged."""
        if self.served is None:
            return expert
        options, reference = self.settings, self.values["reference_norm"]
        assert isinstance(reference, float)
        with self._attached() as adapter:
            search = _Search(self.bench, adapter, domain)
            order = self.bench.generator("trm", domain.digest)
            count = min(options.images, len(domain))
            batches = _batches(count, size=options.batch, steps=options.steps, order=order)
            search.record_old_predictions(sorted({row for rows in batches for row in rows}))
            trajectory = Trajectory.from_points(
                self.snapshots.points,
                rows=_coefficient_rows(adapter, per_layer=options.per_layer),
                history=_history_direction(adapter) if options.history else None,
            )
            coefficients = trajectory.initial_coefficients()
            adam = torch.optim.Adam([coefficients], lr=options.learning_rate)
            for rows in batches:
                _, coefficients.grad = objective_and_gradient(
                    partial(search.evaluate, rows=rows),
                    trajectory,
                    coefficients,
                    weights=self.weights,
                    reference_norm=reference,
                )
                adam.step()
                trajectory.clamp_(coefficients)
            search.move_to(trajectory.point_at(coefficients))
            return adapter.update()

    def _attached(self) -> AbstractContextManager[Adapter]:
        """The served adapter, ready to be moved."""
        bench = self.bench
        return attach(bench.sam, bench.adapter, generator=bench.generator("adapter"), start=self.served)

    def _gradient_norm(self, domain: TrainingDomain) -> float:
        """The mean norm of the training loss's gradient over the first batches, at the served adapter."""
        size = self.bench.fit.batch_size
        count = min(size * self.settings.reference_batches, len(domain))
        with self._attached() as adapter:
            search = _Search(self.bench, adapter, domain)
            batches = chunks(range(count), size=size)
            norms = [total_norm(gradients(search.loss(rows)[0], search.parameters)) for rows in batches]
        return plain_sum(norms) / len(norms)


class Snapshots(TrainingHooks):
    """The adapter's tensors at the start of a training and at equal distances along it, the end included."""

    def __init__(self, count: int) -> None:
        self._count = count
        self.points: list[list[Tensor]] = []

    def attached(self, adapter: Adapter) -> None:
        """Copy the start."""
        self.points = [_copied(adapter)]

    def after_step(self, adapter: Adapter, *, step: int, steps: int) -> None:
        """Take a snapshot if one is due; a training of fewer steps than snapshots gives one per step."""
        due = {math.ceil(number * steps / self._count) for number in range(1, self._count + 1)}
        if step + 1 in due:
            self.points.append(_copied(adapter))


class _Search:
    """The training loss and the consistency at any point, on some of the domain's samples, in fp32."""

    def __init__(self, bench: Workbench, adapter: Adapter, domain: TrainingDomain) -> None:
        self._bench, self._domain = bench, domain
        self._before: dict[int, Tensor] = {}
        self.parameters = adapter.parameters()

    def loss(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The loss of the adapter as it is now, and its mask logits."""
        self._bench.advance(3 * len(rows))
        loss, masks = self._bench.loss(*self._bench.labelled(self._domain, rows), precision="fp32")
        return loss, masks.logits

    def record_old_predictions(self, rows: Sequence[int]) -> None:
        """Keep the adapter's present predictions for these samples as the old model's."""
        with torch.no_grad():
            for chosen in chunks(rows, size=self._bench.batch_size):
                logits = self.loss(chosen)[1]
                self._before |= dict(zip(chosen, logits, strict=True))

    def evaluate(self, point: Sequence[Tensor], rows: Sequence[int]) -> tuple[Sequence[Tensor], Tensor, Tensor]:
        """The parameters moved to the point, the training loss, and the divergence from the old model."""
        self.move_to(point)
        loss, logits = self.loss(rows)
        before = torch.stack([self._before[row] for row in rows])
        return self.parameters, loss, bernoulli_divergence(before, logits)

    def move_to(self, point: Sequence[Tensor]) -> None:
        """Move the adapter."""
        with torch.no_grad():
            for parameter, tensor in zip(self.parameters, point, strict=True):
                parameter.copy_(tensor)


def bernoulli_divergence(before: Tensor, after: Tensor) -> Tensor:
    """The mean over pixels of KL(sigmoid before || sigmoid after), a scalar at least 0, of logits of one shape.

    >>> bernoulli_divergence(torch.tensor([0.0, 2.0]), torch.tensor([0.0, 2.0]))
    tensor(0.)
    """
    chances = before.sigmoid()
    entropy = functional.binary_cross_entropy_with_logits(before, chances)
    return functional.binary_cross_entropy_with_logits(after, chances) - entropy


def _batches(count: int, *, size: int, steps: int, order: torch.Generator) -> list[list[int]]:
    """Rows for each step, taken from a new random order of all rows whenever one is used up."""
    found: list[list[int]] = []
    while len(found) < steps:
        found += chunks(torch.randperm(count, generator=order).tolist(), size=size)
    return found[:steps]


def _copied(adapter: Adapter) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in adapter.parameters()]


def _coefficient_rows(adapter: Adapter, *, per_layer: bool) -> list[int]:
    """Each tensor's row of coefficients: one per layer, for A and B or its whole weight; the rest share the last."""
    layers = len(adapter.factors)
    rows = [layer for layer in range(layers) for _ in range(2)]
    own = {f"{layer}.weight": number for number, layer in enumerate(adapter.linear, start=layers)}
    rows += [own.get(name, layers + len(own)) for name in adapter.dense]
    return rows if per_layer else [0] * len(rows)


def _history_direction(adapter: Adapter) -> list[Tensor]:
    """The direction that scales every layer's old change, by its B or its whole weight, and nothing else."""
    factors = [part for a, b, _ in adapter.factors.values() for part in (torch.zeros_like(a), b.detach().clone())]
    weights = {f"{layer}.weight" for layer in adapter.linear}
    return factors + [
        torch.zeros_like(parameter) if change is None or name not in weights else change.to(parameter)
        for name, (parameter, _, change) in adapter.dense.items()
    ]
