"""Training one adapter on one domain."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cosam_bench.core.arithmetic import tf32_on
from cosam_bench.core.devices import release_unused
from cosam_bench.core.errors import CosamError
from cosam_bench.data.prompt_settings import TrainPrompt
from cosam_bench.data.prompts import Prompts
from cosam_bench.data.samples import Sample
from cosam_bench.merging.updates import Update
from cosam_bench.sam.adapters.adapter_settings import AdapterSettings
from cosam_bench.sam.adapters.attachment import Adapter, attach
from cosam_bench.sam.batch_size import ImageDoesNotFit, tried_again, unless_full
from cosam_bench.sam.feature_cache import PrefixCache, uncached_clock
from cosam_bench.sam.inputs import Batch, View
from cosam_bench.sam.sam import Masks, Sam
from cosam_bench.training.adam import Adam
from cosam_bench.training.batch_loss import training_loss
from cosam_bench.training.epoch_losses import EpochLosses, check_finite, diverged
from cosam_bench.training.feeding import training_feed
from cosam_bench.training.fit_settings import FitSettings
from cosam_bench.training.sampling import epoch_batches, sample_batches
from cosam_bench.training.step_division import StepDivision
from cosam_bench.training.step_loss import StepLoss
from cosam_bench.training.training_batch import HostBatch


@dataclass(frozen=True)
class Fitted:
    """A trained adapter.

    Attributes:
        update: the change it makes, relative to the frozen base.
        epoch_losses: the mean loss of each epoch.
        trainable_parameters: how many numbers were trained.
        seconds: wall time of the training, including what cached features saved.
    """

    update: Update
    epoch_losses: tuple[float, ...]
    trainable_parameters: int
    seconds: float

    @property
    def facts(self) -> dict[str, Any]:
        """All but the update, as JSON values."""
        return {
            "epoch_losses": list(self.epoch_losses),
            "trainable_parameters": self.trainable_parameters,
            "seconds": self.seconds,
        }

    @classmethod
    def from_facts(cls, update: Update, facts: Mapping[str, Any]) -> Fitted:
        """The adapter with this update and these ``facts``; KeyError, TypeError or ValueError if they are not such."""
        return cls(
            update,
            epoch_losses=tuple(facts["epoch_losses"]),
            trainable_parameters=int(facts["trainable_parameters"]),
            seconds=float(facts["seconds"]),
        )


@dataclass(frozen=True)
class TrainingStep:
    """One step of training, as it is reported to whoever watches.

    Attributes:
        step: counted from 1; each training of an adapter starts again.
        steps: how many there will be.
        epoch: counted from 1.
        loss: of the step's batch, before the weights changed.
        domain: the name of the domain that is learned; empty if unknown.
        method: the name of the method that trains; empty if unknown.
    """

    step: int
    steps: int
    epoch: int
    loss: float
    domain: str = ""
    method: str = ""


class StepHookFailed(CosamError):
    """``on_step``, which the caller gave, raised an error: neither the method's fault nor the harness's."""


class TrainingHooks:
    """A method's own steps within the training of an adapter; each hook does nothing unless overridden."""

    def attached(self, adapter: Adapter) -> None:
        """Called before the optimiser is made: factors may be overwritten in place, or frozen by ``requires_grad_``."""

    def before_step(self, adapter: Adapter, *, step: int, steps: int) -> None:
        """Called before the forward pass of ``step``, counted from 0, of ``steps``."""

    def loss(self, loss: Tensor, *, batch: Batch, target: Tensor, masks: Masks, adapter: Adapter) -> Tensor:
        """The scalar to minimise of a whole batch.

        If the step does not fit into the memory, it is called again for the same batch. Then ``Workbench.loss``, and
        ``Workbench.encode`` without gradients, go through the model in parts, as the training does, and the generators
        that ``Workbench.generator`` gave draw the same numbers again; anything else that a call changes stays changed.

        Args:
            loss: the protocol's loss of this batch, a scalar.
            batch: images and prompts, augmented.
            target: float, ``(B, h, w)`` in [0, 1], the true masks on the logits' grid.
            masks: the prediction of the model under training for the batch.
            adapter: the adapter under training.
        """
        return loss

    def after_backward(self, adapter: Adapter) -> None:
        """Called between the backward pass and the optimiser's step: gradients may be changed."""

    def after_step(self, adapter: Adapter, *, step: int, steps: int) -> None:
        """Called after the optimiser's step."""


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
    on_step: Callable[[TrainingStep], None] | None = None,
    note: Callable[[str], None] = lambda text: None,
    division: StepDivision | None = None,
) -> Fitted:
    """Train an adapter of the frozen ``sam`` on the samples; the model is left as it was.

    Args:
        samples: equal whenever they are read; for a GPU, several threads read them at the same time.
        prompts: one row per sample.
        start: where training begins; None: at the base model.
        initialisation: draws the adapter's first weights.
        order: draws the order of samples, and each batch as ``draw_batch`` does.
        continue_start: continue to train the factors of ``start``; otherwise it stays beneath a fresh adapter.
        hooks: a method's own steps within the training.
        prefixes: cached features of the encoder's first blocks.
        advance: called after each step with the number of images it used.
        on_step: called after each step with its number and loss; whatever it raises ends the training. Without it,
            a GPU's losses are read once per epoch.
        note: tells the user that a batch did not fit into the memory: cached features were dropped or it was divided.
        division: tells what ``hooks`` call in their loss how a step is divided; None: they call nothing that asks.

    Raises:
        CosamError: there are no samples or no whole batch, the settings ask for points of empty crops, the
            loss or the adapter is no longer finite, the memory does not suffice for one image, or a step that
            does not fit into it cannot be divided, see ``masks_in_parts``.
    """
    if not len(samples):
        raise CosamError("There is nothing to train on: the domain has no training samples.")
    began = uncached_clock(prefixes)
    steps = fit.epochs * len(epoch_batches(range(len(samples)), fit))
    feed = training_feed(
        samples,
        prompts,
        fit=fit,
        prompt_kind=prompt_kind,
        view=view,
        order=order,
        with_digests=prefixes is not None,
    )
    division = division or StepDivision()
    training = _Training(sam, fit, view, hooks or TrainingHooks(), prefixes, advance, on_step, note, division)
    with (
        division.one_training(),
        tf32_on(view.device, is_tf32=view.precision == "tf32"),
        attach(sam, adapter, generator=initialisation, start=start, continue_start=continue_start) as attached,
        feed as batches,
    ):
        epoch_losses, trained = training.run(attached, batches, steps=steps)
        update = attached.update()
    if not _is_finite(update):
        raise diverged(fit.epochs - 1, "the adapter is no longer finite")
    return Fitted(update, epoch_losses, trained, uncached_clock(prefixes) - began)


def _is_finite(update: Update) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in update.tensors().values())


@dataclass(frozen=True)
class _Training:
    """The loop over all steps; attributes as the arguments of ``fit_adapter``."""

    sam: Sam
    fit: FitSettings
    view: View
    hooks: TrainingHooks
    prefixes: PrefixCache | None
    advance: Callable[[float], None]
    on_step: Callable[[TrainingStep], None] | None
    note: Callable[[str], None]
    division: StepDivision

    def run(
        self, adapter: Adapter, batches: Iterator[tuple[int, HostBatch]], *, steps: int
    ) -> tuple[tuple[float, ...], int]:
        """Train the adapter; the mean loss of each epoch, and how many numbers were trained."""
        fit, hooks = self.fit, self.hooks
        hooks.attached(adapter)
        parameters = [parameter for parameter in adapter.parameters() if parameter.requires_grad]
        optimiser = make_optimiser(parameters, fit)
        losses = EpochLosses(fit.epochs, is_deferred=self.view.device.type == "cuda" and self.on_step is None)

        def loss_of(batch: Batch, target: Tensor) -> Tensor:
            return self._loss(adapter, batch, target)

        step_loss = StepLoss(loss_of, division=self.division, prefixes=self.prefixes, note=self.note)
        for step, (epoch, drawn) in enumerate(batches):
            set_learning_rate(optimiser, fit, epoch=epoch)
            hooks.before_step(adapter, step=step, steps=steps)
            batch, target = self._placed(drawn, optimiser)
            loss = step_loss.backward(optimiser, batch, target)
            value = losses.add(loss, epoch=epoch, images=len(batch))
            hooks.after_backward(adapter)
            optimiser.step()
            hooks.after_step(adapter, step=step, steps=steps)
            self.advance(len(batch))
            del batch, target  # their memory is free for the next ones
            if self.on_step is not None and value is not None:
                self.on_step(TrainingStep(step + 1, steps, epoch + 1, value))
        epoch_losses = losses.means()
        return epoch_losses, sum(parameter.numel() for parameter in parameters)

    def _placed(self, drawn: HostBatch, optimiser: Adam) -> tuple[Batch, Tensor]:
        """The batch on the device, tried again without the last gradients, and then without cached features."""
        attempt = partial(unless_full, partial(drawn.placed, view=self.view))
        if placed := attempt():
            return placed
        optimiser.zero_grad(set_to_none=True)  # as the step does first
        release_unused()
        if placed := attempt() or tried_again(attempt, self.prefixes, note=self.note):
            return placed
        raise ImageDoesNotFit(
            f"The device has too little memory for the input of a training step of {len(drawn)} images. "
            "Lower fit.batch_size, close other programs that use the device, or use a --device with more."
        )

    def _loss(self, adapter: Adapter, batch: Batch, target: Tensor) -> Tensor:
        """The loss to minimise of a batch."""
        loss, masks = training_loss(
            self.sam,
            batch,
            target,
            fit=self.fit,
            view=self.view,
            prefixes=self.prefixes,
            images=self.division.images,
        )
        return self.hooks.loss(loss, batch=batch, target=target, masks=masks, adapter=adapter)


def make_optimiser(parameters: Sequence[Tensor], fit: FitSettings) -> Adam:
    """The protocol's optimiser of these parameters."""
    return Adam(
        parameters,
        learning_rate=fit.learning_rate,
        weight_decay=fit.weight_decay,
        is_decoupled=fit.optimiser == "adamw",
    )


def training_steps(
    optimiser: Adam, fit: FitSettings, *, count: int, order: torch.Generator
) -> Iterator[tuple[int, list[int]]]:
    """The epoch, counted from 0, and the samples of each step; sets the learning rate of each epoch.

    Args:
        count: how many samples there are; each epoch passes over them in a new order.
        order: draws that order.

    Raises:
        CosamError: there are too few samples for one whole batch, and only whole ones are used.
    """
    for epoch, indices in sample_batches(fit, count=count, order=order):
        set_learning_rate(optimiser, fit, epoch=epoch)
        yield epoch, indices


def set_learning_rate(optimiser: Adam, fit: FitSettings, *, epoch: int) -> None:
    """Give the optimiser the learning rate of an epoch, counted from 0."""
    optimiser.learning_rate = fit.learning_rate * fit.rate_factor(epoch)


def refuse_divergence(loss: Tensor, *, epoch: int, setting: str = "fit.learning_rate") -> float:
    """The loss as a number; raises a ``CosamError`` that names the ``setting`` to lower if it is no longer finite."""
    value = loss.item()
    check_finite(value, epoch=epoch, setting=setting)
    return value
