"""TRM, reconstructed from the abstract: the merge is a search within the subspace that the training spans.

Source: "Trajectory Regularized Merging", Wang and Deng, arXiv 2605.08311. Only its abstract was available. It names
the three aims (task alignment, prediction consistency, gradient responsiveness) and that earlier models and data
are not kept; every formula below is this project's reading and not the paper's. This method's scores say
nothing about TRM as published.

Domain t trains from the served model: a fresh adapter above it, or, with ``fresh`` off, the served adapter itself.
phi(0) is that adapter before the training, phi(1..K) are K snapshots along the way. With the segments
s_k = phi(k) - phi(k-1), and a direction h = (A: 0, B: B of phi(0)) that rescales the earlier change,

    phi(c) = phi(0) + sum_k c[k] s_k + c[h] h     with one row of coefficients c for all layers, or one per layer

so c = 0 is the old model and c = 1 the new one. By default K = 1 without h, and the search finds one number per layer.
Adam moves c from 1/2 (h: 0) to a smaller

    J = w_ta L_TA / L_TA(0) + w_pc L_PC / L_PC(1) + w_gr L_GR + mu R
    L_TA  the training loss
    L_PC  the mean over pixels of u KL(Bernoulli(sigmoid z_prev) || Bernoulli(sigmoid z)), z_prev by phi(0)
    L_GR  max(0, 1 - n / (rho n_0))^2, n the norm of the probe's gradient in phi, n_0 that at c = 0
    R     the mean over rows l of sum_k ||s_k,l||^2 / ||phi(K)_l - phi(0)_l||^2 c[l,k]^2

on a fixed part of the current domain's training data, without augmentation. Undivided, the ratio of L_TA's and L_PC's
changes differs from domain to domain, by a factor of 5 where it was measured. Divided by its value at the old model,
L_TA says what share of the loss is removed, so that a domain that training hardly improves moves the merge less. What
keeps earlier domains is R above all: along the path they lose about as the square of c, while L_PC, on the new
domain's images, rises as soon as L_TA falls. u weighs the pixels, see ``merging.consistency``.

The probe stands for a task that was not trained: each image is prompted for the object of another image of its batch,
and the loss (cross-entropy and Dice) is with that image's mask; an image alone in its batch is its own. L_PC looks at
the images' own prompts, at these other ones, or at both. All of this shares one pass of the encoder per batch; for
side layers that look at the prompt, it is the own one. Blocks before the first adapted one are not run again if their
features are cached. The search stops once a pass over all batches has lowered J by less than ``tolerance``, at the
latest after ``passes``. The first domain is only trained.

Needs the current domain's inputs, labels and gradients. The state is constant: the served update, dense. The order
matters. The rank grows to full; with ``fresh`` off it is that of one adapter, because all points lie on one run from a
common start.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import torch
from pydantic import model_validator
from torch import Tensor

from cosam_bench import (
    Adapter,
    Batch,
    Features,
    Masks,
    MergingMethod,
    MethodCard,
    Settings,
    TrainingDomain,
    TrainingHooks,
    Update,
    Workbench,
    setting,
    weight_changes,
)
from cosam_bench.core.sums import plain_sum
from cosam_bench.merging.consistency import bernoulli_divergence, pixel_weights
from cosam_bench.merging.trajectory import (
    Losses,
    ObjectiveWeights,
    Trajectory,
    gradients,
    search,
    total_norm,
)
from cosam_bench.sam.adapters.attachment import attach
from cosam_bench.training.batch_loss import protocol_loss
from cosam_bench.training.losses import bce_dice
from cosam_bench.training.training_batch import TrainingBatch

_OURS = "this reconstruction"
_CHOSEN = "this reconstruction, chosen on the development stream of docs/methods.md"


class TRMSettings(Settings):
    """The settings of the reconstruction; each objective is switched off by the weight 0."""

    alignment: float = setting(1.0, "weight of the training loss", source=_OURS, search=(0.1, 10.0, "log"), ge=0)
    consistency: float = setting(
        0.1, "weight of staying with the old predictions", source=_CHOSEN, search=(0.01, 10.0, "log"), ge=0
    )
    responsiveness: float = setting(0.0, "weight of keeping the gradient alive", source=_OURS, search=(0.0, 2.0), ge=0)
    anchor: float = setting(
        0.55, "mu, the weight of how far the trajectory was followed", source=_CHOSEN, search=(0.0, 2.0), ge=0
    )
    floor: float = setting(
        0.5,
        "rho, the share of the old model's gradient norm that the merged one should keep",
        source=_OURS,
        search=(0.1, 2.0),
        gt=0,
    )
    normalised: Literal["old", "range", "none"] = setting(
        "old",
        "what divides alignment and consistency: old: the old model's loss, and consistency at the new model; range: "
        "how far each changes along the path; or none",
        source=_CHOSEN,
    )
    pixels: Literal["all", "foreground", "disagreement"] = setting(
        "foreground",
        "pixels that consistency looks at: all alike; half of the weight on what either model takes for foreground; "
        "or where the two differ",
        source=_OURS,
    )
    prompts: Literal["own", "other", "both"] = setting(
        "own", "prompts that consistency looks at: those of the images, those of other images, or both", source=_OURS
    )
    snapshots: int = setting(1, "K, snapshots along the training, the last included", source=_OURS, search=None, ge=1)
    history: bool = setting(
        False, "let the search rescale the old factors B, too; needs fresh = false", source=_OURS, search=None
    )
    fresh: bool = setting(
        True,
        "train a fresh adapter above the served update, so that its rank grows; off: train the served adapter on",
        source=_CHOSEN,
        search=None,
    )
    per_layer: bool = setting(True, "each layer has its own coefficients; off: one row for all layers", source=_CHOSEN)
    passes: int = setting(
        5,
        "most passes of the search over the images, a step of Adam per batch; 0: the middle of the path",
        source=_OURS,
        search=None,
        ge=0,
    )
    tolerance: float = setting(
        0.005,
        "stop once a pass over the images lowers the objective by less than this",
        source=_OURS,
        search=None,
        ge=0,
    )
    learning_rate: float = setting(0.05, "Adam's, for the coefficients", source=_OURS, search=(0.005, 0.5, "log"), gt=0)
    batch: int = setting(4, "images per step", source=_OURS, search=None, ge=1)
    images: int = setting(
        64,
        "maximum number of training images that the search uses, and keeps in memory meanwhile; the first ones",
        source=_OURS,
        search=None,
        ge=1,
    )

    @model_validator(mode="after")
    def _has_a_history(self) -> TRMSettings:
        if self.history and self.fresh:
            raise ValueError("history rescales factors that a fresh adapter does not have yet; it needs fresh = false")
        return self


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
            "gradient responsiveness, one of the abstract's three aims, is off by default: merging took several times "
            "as long, and no gain was measured",
            "the default trains a fresh adapter above the served update, so that what is served has full rank",
        ),
    )
    start = "served"

    def __init__(self, settings: TRMSettings, bench: Workbench) -> None:
        super().__init__(settings, bench)
        self.weights = ObjectiveWeights(
            settings.alignment, settings.consistency, settings.responsiveness, settings.anchor, settings.floor
        )
        self.snapshots = Snapshots(settings.snapshots)
        self.from_scratch = settings.fresh

    def hooks(self, domain: TrainingDomain, *, step: int) -> TrainingHooks | None:
        """Snapshots along the training."""
        return self.snapshots if self.served is not None else None

    def merge(self, expert: Update, domain: TrainingDomain, *, step: int) -> Update:
        """The end point of the search; the first domain's expert unchanged."""
        if self.served is None:
            return expert
        options = self.settings
        with self._attached() as adapter:
            trajectory = Trajectory.from_points(
                self.snapshots.points,
                rows=_coefficient_rows(adapter, per_layer=options.per_layer),
                history=_history_direction(adapter) if options.history else None,
            )
            coefficients = trajectory.initial_coefficients()
            if options.passes > 0:
                coefficients = self._searched(trajectory, adapter, domain)
            _move(adapter, trajectory.point_at(coefficients))
            update = adapter.update()
        return Update(dense=dict(weight_changes(update))) if options.fresh else update

    def _attached(self) -> AbstractContextManager[Adapter]:
        """The adapter as it was before the training, ready to be moved."""
        bench = self.bench
        return attach(
            bench.sam,
            bench.adapter,
            generator=bench.generator("adapter"),
            start=self.served,
            continue_start=not self.from_scratch,
        )

    def _searched(self, trajectory: Trajectory, adapter: Adapter, domain: TrainingDomain) -> Tensor:
        options, weights = self.settings, self.weights
        seen = _Seen(self.bench, adapter, domain, settings=options)
        ends = seen.measure(self.snapshots.points[0], self.snapshots.points[-1])
        weights = weights.normalised(options.normalised, alignment=ends.alignment, consistency=ends.consistency)
        return search(
            seen.batches,
            trajectory,
            weights=weights,
            reference_norm=ends.norm,
            steps=options.passes * len(seen.batches),
            learning_rate=options.learning_rate,
            tolerance=options.tolerance,
        ).coefficients


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


@dataclass
class _Prepared:
    """A batch of the search, drawn once.

    Attributes:
        batch: images and prompts.
        target: the true masks ``(B, h, w)`` on the logits' grid.
        first_blocks: the features before the first adapted block; None if they are not cached.
        others: for each image, the row of the batch whose prompt and mask make its probe.
        before: the old model's logits for the prompts that consistency looks at.
        weights: of their pixels.
    """

    batch: Batch
    target: Tensor
    first_blocks: Features | None
    others: list[int]
    before: Tensor = field(default_factory=lambda: torch.empty(0))
    weights: Tensor = field(default_factory=lambda: torch.empty(0))


@dataclass(frozen=True)
class _Ends:
    """The objectives at the ends of the path.

    Attributes:
        alignment: L_TA at the old point and at the new one.
        consistency: L_PC at the new one.
        norm: n_0, the norm of the probe's gradient at the old one, the mean over batches; 0 if it does not count.
    """

    alignment: tuple[float, float]
    consistency: float
    norm: float


class _Seen:
    """The losses at any point on some of the domain's samples, in fp32.

    Attributes:
        batches: for each batch, its losses at a point; only after ``measure``.
    """

    def __init__(self, bench: Workbench, adapter: Adapter, domain: TrainingDomain, *, settings: TRMSettings) -> None:
        self._bench, self._adapter, self._settings = bench, adapter, settings
        self._view = replace(bench.view, precision="fp32")
        self._is_probed = settings.responsiveness > 0
        self._compared = ("own", "other") if settings.prompts == "both" else (settings.prompts,)
        count = min(settings.images, len(domain))
        order = torch.randperm(count, generator=bench.generator("trm", domain.digest)).tolist()
        number = math.ceil(count / settings.batch)
        self._prepared = [self._prepare(domain, order[first::number]) for first in range(number)]
        self.batches = [partial(self._losses_at, prepared) for prepared in self._prepared]

    def _prepare(self, domain: TrainingDomain, rows: list[int]) -> _Prepared:
        batch, target = self._bench.labelled(domain, rows)
        prefixes, features = self._bench.prefixes, None
        with self._view.autocast():
            if prefixes is not None and prefixes.serves(batch.images):
                features = prefixes.features(batch.images, inputs=batch.inputs)
        return _Prepared(batch, target, features, others=[*range(1, len(rows)), 0])

    def measure(self, old: Sequence[Tensor], new: Sequence[Tensor]) -> _Ends:
        """The objectives at both ends; keeps the old predictions and the weights of their pixels."""
        count = sum(len(prepared.batch) for prepared in self._prepared)
        shares = [len(prepared.batch) / count for prepared in self._prepared]
        _move(self._adapter, old)
        before, norms = zip(*map(self._measure_old, self._prepared), strict=True)
        _move(self._adapter, new)
        after, divergences = zip(*map(self._measure_new, self._prepared), strict=True)
        means = [
            plain_sum([share * value for share, value in zip(shares, values, strict=True)])
            for values in (before, after, divergences, norms)
        ]
        return _Ends((means[0], means[1]), consistency=means[2], norm=means[3])

    def _measure_old(self, prepared: _Prepared) -> tuple[float, float]:
        """The training loss and the norm of the probe's gradient; keeps the predictions."""
        with torch.set_grad_enabled(self._is_probed):
            masks = self._masks(prepared)
            prepared.before = self._looked_at(masks).detach()
            loss = self._alignment(prepared, masks).item()
            if not self._is_probed:
                return loss, 0.0
            return loss, total_norm(gradients(self._probe(prepared, masks), self._adapter.parameters()))

    @torch.no_grad()
    def _measure_new(self, prepared: _Prepared) -> tuple[float, float]:
        """The training loss and the divergence from the old predictions; keeps the weights of pixels."""
        masks = self._masks(prepared)
        logits = self._looked_at(masks)
        prepared.weights = pixel_weights(prepared.before, logits, kind=self._settings.pixels)
        divergence = bernoulli_divergence(prepared.before, logits, weights=prepared.weights)
        return self._alignment(prepared, masks).item(), divergence.item()

    def _losses_at(self, prepared: _Prepared, point: Sequence[Tensor]) -> Losses:
        _move(self._adapter, point)
        masks = self._masks(prepared)
        return Losses(
            self._adapter.parameters(),
            alignment=self._alignment(prepared, masks),
            consistency=bernoulli_divergence(prepared.before, self._looked_at(masks), weights=prepared.weights),
            probe=self._probe(prepared, masks) if self._is_probed else None,
        )

    def _masks(self, prepared: _Prepared) -> dict[str, Masks]:
        """The masks of the own prompts and, if anything looks at them, of the other ones, from one encoder pass."""
        bench, batch, known = self._bench, prepared.batch, prepared.first_blocks
        bench.advance(3 * len(batch))
        with self._view.autocast():
            if known is None or bench.prefixes is None:
                features = bench.sam.encode(batch.images, batch.prompts)
            else:
                features = bench.sam.suffix(known, depth=bench.prefixes.depth, prompts=batch.prompts)
            masks = {"own": bench.sam.decode(features, batch.prompts)}
            if self._is_probed or "other" in self._compared:
                masks["other"] = bench.sam.decode(features, batch.prompts.select(prepared.others))
        return masks

    def _looked_at(self, masks: dict[str, Masks]) -> Tensor:
        """The logits that consistency compares."""
        return torch.cat([masks[name].logits for name in self._compared])

    def _alignment(self, prepared: _Prepared, masks: dict[str, Masks]) -> Tensor:
        return protocol_loss(masks["own"], prepared.batch, prepared.target, fit=self._bench.fit)

    def _probe(self, prepared: _Prepared, masks: dict[str, Masks]) -> Tensor:
        other = masks["other"]
        weights = prepared.batch.weights if isinstance(prepared.batch, TrainingBatch) else None
        return bce_dice(
            other.logits,
            prepared.target[prepared.others],
            other.predicted_iou,
            weights=None if weights is None else weights[prepared.others],
        )


def _move(adapter: Adapter, point: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for parameter, tensor in zip(adapter.parameters(), point, strict=True):
            parameter.copy_(tensor)


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
