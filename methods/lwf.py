"""LwF: the new model is trained to answer the new images as the old one does.

Source: Li and Hoiem, "Learning without Forgetting", TPAMI 2017 (arXiv 1606.09282). The served adapter is trained on,
with

    loss + lambda_o mean over pixels of H(sigmoid(z_old / T), sigmoid(z / T)),

H the cross-entropy of two Bernoulli distributions, z_old the logits of the served model on the same augmented batch.
sigmoid(z / T) is the paper's modified probability p^(1/T) / (p^(1/T) + (1 - p)^(1/T)), equation 3.

``distance = bce_dice`` is CoSAM's code instead: cross-entropy plus Dice against sigmoid(z_old / T), at the points at
which the protocol's loss is evaluated if it samples points, else at every pixel.

Deviations: one mask decoder instead of a head per task, so both terms are of the same logits, every pixel is a
classification into two classes, and there is no warm-up of a new head; old responses are computed in each step and
not recorded before training, because the images are augmented; only adapters are trained.

Needs the current domain's inputs. The state is constant: the served adapter. The order matters. The rank is that of
one adapter.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from cosam_bench import (
    Adapter,
    Batch,
    Masks,
    MergingMethod,
    MethodCard,
    Settings,
    TrainingDomain,
    TrainingHooks,
    Update,
    Workbench,
    setting,
)
from cosam_bench.training.losses import bce_dice, point_sample, uncertain_points
from cosam_bench.training.training_batch import TrainingBatch


class LwFSettings(Settings):
    """The settings of LwF; the defaults are the paper's."""

    weight: float = setting(
        1.0, "lambda_o, of the distance to the old model's masks", source="the paper", search=(0.01, 10.0, "log"), ge=0
    )
    temperature: float = setting(
        2.0, "T, by which both models' logits are divided", source="the paper", search=(0.5, 8.0, "log"), gt=0
    )
    distance: Literal["cross_entropy", "bce_dice"] = setting(
        "cross_entropy",
        "`cross_entropy`, of all pixels; `bce_dice`, with Dice added, at the points of the protocol's loss",
        source="the paper; CoSAM's released code has bce_dice",
    )


class LwF(MergingMethod[LwFSettings]):
    """The served adapter, trained on under distillation from itself."""

    card = MethodCard(
        title="LwF",
        paper="arXiv 1606.09282",
        needs=("inputs",),
        deviations=(
            "only the protocol's adapters are trained",
            "one mask decoder instead of a head per task, so no warm-up of a new head",
            "each pixel is a classification into two classes",
            "the old model is evaluated in each step, on the augmented images, not once before training",
            "the distance is the cross-entropy of all pixels; CoSAM's code adds Dice and samples points: distance",
        ),
    )
    start = "served"

    def hooks(self, domain: TrainingDomain, *, step: int) -> TrainingHooks | None:
        """The distillation, from the second domain on."""
        if self.served is None:
            return None
        return Teacher(self.bench, self.settings)

    def merge(self, expert: Update, domain: TrainingDomain, *, step: int) -> Update:
        """The adapter as the new domain left it."""
        return expert


def distillation(logits: Tensor, old: Tensor, *, temperature: float) -> Tensor:
    """The mean cross-entropy of two models' masks, a scalar that is least for equal logits.

    Args:
        logits: float, any shape.
        old: float, of the same shape; receives no gradient.
        temperature: T, above 0; above 1 it gives small probabilities more weight.

    Source: Li and Hoiem 2017, equations 2 and 3, with two classes per pixel.
    """
    chances = (old.detach() / temperature).sigmoid()
    return functional.binary_cross_entropy_with_logits(logits / temperature, chances)


def bce_dice_distance(
    logits: Tensor, old: Tensor, *, temperature: float, candidates: Tensor | None = None, count: int = 0
) -> Tensor:
    """The mean over masks of cross-entropy plus Dice of a model's masks against another's, a scalar.

    Args:
        logits: float, ``(B, h, w)``.
        old: float, of the same shape; receives no gradient.
        temperature: T, above 0.
        candidates: from ``draw_point_candidates``, to compare at sampled points; None: at every pixel.
        count: how many points per mask.

    Source: CoSAM's released code, whose points are those at which the new model is least certain.
    """
    chances, answers = (old.detach() / temperature).sigmoid(), logits / temperature
    if candidates is not None:
        points = uncertain_points(logits, candidates, count=count)
        chances, answers = point_sample(chances, points), point_sample(answers, points)
    return bce_dice(answers, chances, torch.empty(0))


class Teacher(TrainingHooks):
    """Adds the distance from the model's predictions before training began."""

    def __init__(self, bench: Workbench, settings: LwFSettings) -> None:
        self._bench = bench
        self._settings = settings
        self._places: list[tuple[nn.Module, str, nn.Parameter]] = []

    def attached(self, adapter: Adapter) -> None:
        """Record the trained parameters' modules, and copies of their initial values."""
        trained = {id(parameter) for parameter in adapter.parameters()}
        self._places = [
            (module, name, nn.Parameter(parameter.detach().clone(), requires_grad=False))
            for module in self._bench.sam.modules()
            for name, parameter in module.named_parameters(recurse=False)
            if id(parameter) in trained
        ]

    def loss(self, loss: Tensor, *, batch: Batch, target: Tensor, masks: Masks, adapter: Adapter) -> Tensor:
        """The protocol's loss plus the distillation."""
        logits, old, temperature = masks.logits.float(), self.logits(batch), self._settings.temperature
        if self._settings.distance == "cross_entropy":
            distance = distillation(logits, old, temperature=temperature)
        else:
            candidates = batch.point_candidates if isinstance(batch, TrainingBatch) else None
            distance = bce_dice_distance(
                logits, old, temperature=temperature, candidates=candidates, count=self._bench.fit.loss_points
            )
        return loss + self._settings.weight * distance

    def logits(self, batch: Batch) -> Tensor:
        """The old model's logits in the precision of training, float32, ``(B, h, w)``, without a graph."""
        bench = self._bench
        with torch.no_grad(), self._old_parameters(), bench.training_view.autocast():
            return bench.sam.decode(bench.encode(batch), batch.prompts).logits.float()

    @contextmanager
    def _old_parameters(self) -> Iterator[None]:
        """Swap in the initial parameters; the trained ones, and any graph through them, stay untouched."""
        own = [(module, name, getattr(module, name)) for module, name, _ in self._places]
        try:
            for module, name, first in self._places:
                setattr(module, name, first)
            yield
        finally:
            for module, name, parameter in own:
                setattr(module, name, parameter)
