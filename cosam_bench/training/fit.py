"""Training one adapter on one domain."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from cosam_bench.core.errors import CosamError
from cosam_bench.core.prefetch import prefetch
from cosam_bench.data.prompt_settings import TrainPrompt
from cosam_bench.data.prompts import Prompts
from cosam_bench.data.samples import Sample
from cosam_bench.merging.updates import Update
from cosam_bench.sam.adapters.adapter_settings import AdapterSettings
from cosam_bench.sam.adapters.attach import Adapter, attach
from cosam_bench.sam.feature_cache import PrefixCache, encode, uncached_clock
from cosam_bench.sam.inputs import Batch, View
from cosam_bench.sam.sam import Features, Masks, Sam
from cosam_bench.training.fit_settings import FitSettings
from cosam_bench.training.losses import LOSSES, point_sample, uncertain_points
from cosam_bench.training.sampling import epoch_batches, sample_batches
from cosam_bench.training.training_batch import TrainingBatch, draw_batch


@dataclass(frozen=True)
class Fitted:
    """A trained adapter.

    Attributes:
        update: what it changes, relative to the frozen base.
        epoch_losses: the mean loss of each epoch.
        trainable_parameters: how many numbers were trained.
        seconds: wall time of the training, as without kept features.
    """

    update: Update
    epoch_losses: tuple[float, ...]
    trainable_parameters: int
    seconds: float


class TrainingHooks:
    """Where a method may step into the training of an adapter; each hook does nothing unless overridden."""

    def attached(self, adapter: Adapter) -> None:
        """Before the optimiser is made: factors may be overwritten in place, or frozen by ``requires_grad_``."""

    def before_step(self, adapter: Adapter, *, step: int, steps: int) -> None:
        """Before the forward pass of ``step``, from 0, of ``steps``."""

    def loss(self, loss: Tensor, *, batch: Batch, target: Tensor, masks: Masks, adapter: Adapter) -> Tensor:
        """The scalar to minimise.

        Args:
            loss: the protocol's loss of this batch, a scalar.
            batch: images and prompts as they were augmented.
            target: float, ``(B, h, w)`` in [0, 1], the true masks on the logits' grid.
            masks: what the model under training said of the batch.
            adapter: the adapter under training.
        """
        return loss

    def after_backward(self, adapter: Adapter) -> None:
        """Between the backward pass and the optimiser's step: gradients may be changed."""

    def after_step(self, adapter: Adapter, *, step: int, steps: int) -> None:
        """After the optimiser's step."""


def fit_adapter(
    sam: Sam,
    samples: Sequence[Sample],
    prompts: Prompts,
    *,
    adapter: AdapterSettings,
    fit: FitSettings,
    prompt_kind: TrainPrompt,
    view: View,
    start: Update | None,
    initialisation: torch.Generator,
    order: torch.Generator,
    continue_start: bool = True,
    hooks: TrainingHooks | None = None,
    prefixes: PrefixCache | None = None,
    advance: Callable[[float], None] = lambda images: None,
) -> Fitted:
    """Train an adapter of the frozen ``sam`` on the samples; the model is left as it was.

    Args:
        prompts: one row a sample.
        start: where training begins; the base model where it is None.
        initialisation: draws the adapter's first weights.
        order: draws the order of samples, and each batch as ``draw_batch`` does.
        continue_start: train the factors of ``start`` on; otherwise it lies beneath a fresh adapter.
        hooks: a method's own steps within the training.
        prefixes: kept features of the encoder's first blocks.
        advance: called after each step with the images it used.

    Raises:
        CosamError: there are no samples or no whole batch, the settings ask for points of empty crops, or the
            loss or the adapter is no longer finite.
    """
    if not len(samples):
        raise CosamError("There is nothing to train on: the domain has no training samples.")
    began = uncached_clock(prefixes)
    hooks = hooks or TrainingHooks()
    steps = fit.epochs * len(epoch_batches(range(len(samples)), fit))
    totals, seen = [0.0] * fit.epochs, [0] * fit.epochs
    with attach(sam, adapter, generator=initialisation, start=start, continue_start=continue_start) as attached:
        hooks.attached(attached)
        parameters = [parameter for parameter in attached.parameters() if parameter.requires_grad]
        optimiser = make_optimiser(parameters, fit)
        drawn = training_batches(
            samples,
            prompts,
            fit=fit,
            prompt_kind=prompt_kind,
            view=view,
            order=order,
            prefixes=prefixes,
        )
        with closing(prefetch(drawn, depth=prefetch_depth(view.device))) as batches:
            for step, (epoch, batch, target) in enumerate(batches):
                set_learning_rate(optimiser, fit, epoch=epoch)
                hooks.before_step(attached, step=step, steps=steps)
                loss, masks = training_loss(sam, batch, target, fit=fit, view=view, prefixes=prefixes)
                loss = hooks.loss(loss, batch=batch, target=target, masks=masks, adapter=attached)
                value = refuse_divergence(loss, epoch=epoch)
                optimiser.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]  # torch ships it without types
                hooks.after_backward(attached)
                optimiser.step()
                hooks.after_step(attached, step=step, steps=steps)
                totals[epoch] += value * len(batch)
                seen[epoch] += len(batch)
                advance(len(batch))
        update = attached.update()
        if not all(torch.isfinite(tensor).all() for tensor in update.tensors().values()):
            raise _diverged(fit.epochs - 1, "the adapter is no longer finite")
        trained = sum(parameter.numel() for parameter in parameters)
    epoch_losses = tuple(total / count for total, count in zip(totals, seen, strict=True))
    return Fitted(update, epoch_losses, trained, uncached_clock(prefixes) - began)


def training_batches(
    samples: Sequence[Sample],
    prompts: Prompts,
    *,
    fit: FitSettings,
    prompt_kind: TrainPrompt,
    view: View,
    order: torch.Generator,
    prefixes: PrefixCache | None,
) -> Iterator[tuple[int, Batch, Tensor]]:
    """The epoch, from 0, the batch and its target of each step; arguments as for ``fit_adapter``."""
    for epoch, indices in sample_batches(fit, count=len(samples), order=order):
        batch, target = draw_batch(samples, prompts, indices, fit=fit, prompt_kind=prompt_kind, view=view, order=order)
        precompute_digests(batch, prefixes)
        yield epoch, batch, target


def prefetch_depth(device: torch.device) -> int:
    """How many batches are drawn while one is trained on: none on the CPU, which has no time to spare for it."""
    return 2 if device.type == "cuda" else 0


def make_optimiser(parameters: Sequence[Tensor], fit: FitSettings) -> torch.optim.Optimizer:
    """The protocol's optimiser of these parameters."""
    maker = torch.optim.Adam if fit.optimiser == "adam" else torch.optim.AdamW
    return maker(parameters, lr=fit.learning_rate, weight_decay=fit.weight_decay)


def training_steps(
    optimiser: torch.optim.Optimizer, fit: FitSettings, *, count: int, order: torch.Generator
) -> Iterator[tuple[int, list[int]]]:
    """The epoch, from 0, and the samples of each step; the learning rate is set on the way.

    Args:
        count: of samples; each epoch passes over them in a new order.
        order: draws it.

    Raises:
        CosamError: there are too few samples for one whole batch, and only whole ones are used.
    """
    for epoch, indices in sample_batches(fit, count=count, order=order):
        set_learning_rate(optimiser, fit, epoch=epoch)
        yield epoch, indices


def set_learning_rate(optimiser: torch.optim.Optimizer, fit: FitSettings, *, epoch: int) -> None:
    """Give the optimiser the learning rate of an epoch, from 0."""
    for group in optimiser.param_groups:
        group["lr"] = fit.learning_rate * fit.rate_factor(epoch)


def refuse_divergence(loss: Tensor, *, epoch: int, setting: str = "fit.learning_rate") -> float:
    """The loss as a number; a ``CosamError``, which names the ``setting`` to lower, where it is no longer finite.

    It is read once a step, before the backward pass: a GPU then has that pass, and the next step's beginning, to work
    on while the program goes on.
    """
    value = loss.item()
    if not math.isfinite(value):
        raise _diverged(epoch, f"the loss is {value}", setting=setting)
    return value


def _diverged(epoch: int, found: str, *, setting: str = "fit.learning_rate") -> CosamError:
    return CosamError(f"Training diverged in epoch {epoch + 1}: {found}. Lower {setting} or use fit.precision=fp32.")


def training_loss(
    sam: Sam, batch: Batch, target: Tensor, *, fit: FitSettings, view: View, prefixes: PrefixCache | None = None
) -> tuple[Tensor, Masks]:
    """The protocol's loss of a batch, a scalar with a graph, and the masks it was taken of.

    Args:
        target: float, ``(B, h, w)`` in [0, 1], on the grid of the logits.
        prefixes: kept features.
    """
    with view.autocast():
        masks = sam.decode(encode_batch(sam, batch, prefixes), batch.prompts)
    return protocol_loss(masks, batch, target, fit=fit), masks


def encode_batch(sam: Sam, batch: Batch, prefixes: PrefixCache | None) -> Features:
    """The embeddings of a batch, with kept features but for jittered images, of which none comes again."""
    prefixes = None if _is_unique(batch) else prefixes
    return encode(sam, batch.images, prefixes, inputs=batch.inputs, prompts=batch.prompts)


def precompute_digests(batch: Batch, prefixes: PrefixCache | None) -> None:
    """Compute ahead what kept features will be looked for by; a training step need not wait for it then."""
    if prefixes is not None and batch.inputs is not None and not _is_unique(batch):
        batch.inputs.digests_of(batch.images)


def _is_unique(batch: Batch) -> bool:
    return isinstance(batch, TrainingBatch) and batch.is_unique


def protocol_loss(masks: Masks, batch: Batch, target: Tensor, *, fit: FitSettings) -> Tensor:
    """The protocol's loss of what a model said of a batch, a scalar.

    Args:
        target: float, ``(B, h, w)`` in [0, 1], on the grid of the logits, as it came with the batch.

    Raises:
        CosamError: the loss is taken at the model's size, and the batch does not hold the target there.
    """
    logits = masks.logits.float()
    if fit.needs_model_size:
        logits, target = _at_model_size(logits, batch, target, fit=fit)
    return LOSSES[fit.loss](
        logits,
        target,
        masks.predicted_iou.float(),
        iou_threshold=fit.iou_threshold,
        sum_over_batch=fit.sum_over_batch,
    )


def _at_model_size(logits: Tensor, batch: Batch, target: Tensor, *, fit: FitSettings) -> tuple[Tensor, Tensor]:
    """Logits and target of the same places: sampled ones, or all pixels of the model's input."""
    if not isinstance(batch, TrainingBatch) or batch.masks is None or batch.target is not target:
        raise CosamError(
            "This protocol's loss compares masks at the model's input size. Give it batch and target as they came "
            "together from Workbench.augmented or Workbench.labelled, or from the training itself."
        )
    if batch.point_candidates is None:
        full = functional.interpolate(logits[:, None], batch.masks.shape[-2:], mode="nearest-exact")
        return full[:, 0], batch.masks
    places = uncertain_points(logits, batch.point_candidates, count=fit.loss_points)
    return point_sample(logits, places), point_sample(batch.masks, places)
