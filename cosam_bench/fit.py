"""Training one adapter on one domain."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from cosam_bench.batches import Batch, View, chunks, collate
from cosam_bench.config import Settings
from cosam_bench.domains.prompts import Prompts, TrainPrompt
from cosam_bench.domains.samples import Sample
from cosam_bench.errors import CosamError
from cosam_bench.losses import LOSSES
from cosam_bench.prefix_cache import PrefixCache, clock, encode
from cosam_bench.sam.adapters import Adapter, AdapterSettings, attach
from cosam_bench.sam.frames import PromptKind, mask_to_frame
from cosam_bench.sam.sam import Masks, Sam
from cosam_bench.updates import Update

LossName = Literal["bce_dice", "focal_dice_iou"]
MIXED: tuple[PromptKind, ...] = ("box", "points", "mask")


class FitSettings(Settings):
    """How an adapter is trained; the defaults are CoSAM's.

    Attributes:
        schedule: ``step`` multiplies the rate by ``step_factor`` every ``step_epochs``; ``cosine`` falls to
            nought over the epochs, epoch by epoch.
        loss: a name in ``losses.LOSSES``.
        flip: mirror each sample left to right with probability one half.
        precision: the forward pass's type; parameters and optimiser stay in fp32.
    """

    epochs: Annotated[int, Field(ge=1)] = 24
    batch_size: Annotated[int, Field(ge=1)] = 4
    optimiser: Literal["adam", "adamw"] = "adam"
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    schedule: Literal["constant", "step", "cosine"] = "step"
    step_epochs: Annotated[int, Field(ge=1)] = 10
    step_factor: Annotated[float, Field(gt=0, le=1)] = 0.1
    loss: LossName = "bce_dice"
    flip: bool = True
    precision: Literal["fp32", "bf16"] = "fp32"

    def rate_factor(self, epoch: int) -> float:
        """The learning rate of ``epoch`` (from 0) as a share of ``learning_rate``."""
        if self.schedule == "step":
            return self.step_factor ** (epoch // self.step_epochs)
        if self.schedule == "cosine":
            return (1 + math.cos(math.pi * epoch / self.epochs)) / 2
        return 1.0


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
        order: draws the order of samples, flips and kinds of prompt.
        continue_start: train the factors of ``start`` on; otherwise it lies beneath a fresh adapter.
        hooks: a method's own steps within the training.
        prefixes: kept features of the encoder's first blocks.
        advance: called after each step with the images it used.

    Raises:
        CosamError: there are no samples, or the loss or the adapter is no longer finite.
    """
    if not len(samples):
        raise CosamError("There is nothing to train on: the domain has no training samples.")
    began = clock(prefixes)
    hooks = hooks or TrainingHooks()
    steps = fit.epochs * math.ceil(len(samples) / fit.batch_size)
    totals = [0.0] * fit.epochs
    with attach(sam, adapter, generator=initialisation, start=start, continue_start=continue_start) as attached:
        hooks.attached(attached)
        parameters = [parameter for parameter in attached.parameters() if parameter.requires_grad]
        optimiser = make_optimiser(parameters, fit)
        for step, (epoch, indices) in enumerate(training_steps(optimiser, fit, count=len(samples), order=order)):
            batch, target = draw_batch(
                samples, prompts, indices, fit=fit, prompt_kind=prompt_kind, view=view, order=order
            )
            hooks.before_step(attached, step=step, steps=steps)
            loss, masks = training_loss(sam, batch, target, loss=fit.loss, view=view, prefixes=prefixes)
            loss = hooks.loss(loss, batch=batch, target=target, masks=masks, adapter=attached)
            refuse_divergence(loss, epoch=epoch)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]  # torch ships it without types
            hooks.after_backward(attached)
            optimiser.step()
            hooks.after_step(attached, step=step, steps=steps)
            totals[epoch] += loss.item() * len(indices)
            advance(len(indices))
        update = attached.update()
        if not all(torch.isfinite(tensor).all() for tensor in update.tensors().values()):
            raise _diverged(fit.epochs - 1, "the adapter is no longer finite")
        count = sum(parameter.numel() for parameter in parameters)
    epoch_losses = tuple(total / len(samples) for total in totals)
    return Fitted(update, epoch_losses, count, clock(prefixes) - began)


def make_optimiser(parameters: Sequence[Tensor], fit: FitSettings) -> torch.optim.Optimizer:
    """The protocol's optimiser of these parameters."""
    maker = torch.optim.Adam if fit.optimiser == "adam" else torch.optim.AdamW
    return maker(parameters, lr=fit.learning_rate, weight_decay=fit.weight_decay)


def training_steps(
    optimiser: torch.optim.Optimizer, fit: FitSettings, *, count: int, order: torch.Generator
) -> Iterator[tuple[int, list[int]]]:
    """The epoch, from 0, and the samples of each step; the learning rate is set on the way.

    Args:
        count: of samples; each epoch passes over all of them in a new order.
        order: draws it.
    """
    for epoch in range(fit.epochs):
        for group in optimiser.param_groups:
            group["lr"] = fit.learning_rate * fit.rate_factor(epoch)
        for indices in chunks(torch.randperm(count, generator=order).tolist(), size=fit.batch_size):
            yield epoch, indices


def refuse_divergence(loss: Tensor, *, epoch: int, setting: str = "fit.learning_rate") -> None:
    """Raise a ``CosamError``, which names the ``setting`` to lower, where a loss is no longer finite."""
    if not math.isfinite(loss.item()):
        raise _diverged(epoch, f"the loss is {loss.item()}", setting=setting)


def _diverged(epoch: int, found: str, *, setting: str = "fit.learning_rate") -> CosamError:
    return CosamError(f"Training diverged in epoch {epoch + 1}: {found}. Lower {setting} or use fit.precision=fp32.")


def training_loss(
    sam: Sam, batch: Batch, target: Tensor, *, loss: LossName, view: View, prefixes: PrefixCache | None = None
) -> tuple[Tensor, Masks]:
    """The protocol's loss of a batch, a scalar with a graph, and the masks it was taken of.

    Args:
        target: float, ``(B, h, w)`` in [0, 1], on the grid of the logits.
    """
    with view.autocast():
        masks = sam.decode(encode(sam, batch.images, prefixes), batch.prompts)
    return LOSSES[loss](masks.logits.float(), target, masks.predicted_iou.float()), masks


def draw_batch(
    samples: Sequence[Sample],
    prompts: Prompts,
    indices: list[int],
    *,
    fit: FitSettings,
    prompt_kind: TrainPrompt,
    view: View,
    order: torch.Generator,
) -> tuple[Batch, Tensor]:
    """A batch, augmented as in training, and its target masks on the grid of the logits.

    Args:
        prompts: one row a sample.
        indices: which samples.
        order: draws flips and kinds of prompt.
    """
    flips = (torch.rand(len(indices), generator=order) < 0.5) & fit.flip
    choices = torch.randint(len(MIXED), (len(indices),), generator=order).tolist()
    kinds = [MIXED[choice] if prompt_kind == "mix" else prompt_kind for choice in choices]
    chosen = [samples[index] for index in indices]
    rows = mirror_prompts(prompts.take(indices), widths=[sample.image.shape[-1] for sample in chosen], flips=flips)
    chosen = [mirror(sample) if flip else sample for sample, flip in zip(chosen, flips.tolist(), strict=True)]
    return with_targets(chosen, rows, kinds=kinds, view=view)


def with_targets(
    samples: Sequence[Sample], prompts: Prompts, *, kinds: Sequence[PromptKind], view: View
) -> tuple[Batch, Tensor]:
    """The batch of some samples, and their masks ``(B, h, w)``, float in [0, 1], on the grid of the logits."""
    batch, frames = collate(samples, prompts, kinds=kinds, view=view)
    targets = [mask_to_frame(sample.mask, frame, size=view.grid) for sample, frame in zip(samples, frames, strict=True)]
    return batch, torch.stack(targets).to(view.device)


def mirror(sample: Sample) -> Sample:
    """The sample with left and right exchanged."""
    return Sample(sample.key, sample.image.flip(-1), sample.mask.flip(-1))


def mirror_prompts(prompts: Prompts, *, widths: Sequence[int], flips: Tensor) -> Prompts:
    """The prompts with left and right exchanged in the rows that ``flips`` marks.

    Args:
        widths: of each row's image, pixels.
        flips: bool, ``(N,)``.
    """
    width = torch.tensor(widths, dtype=torch.float32)
    left, top, right, bottom = prompts.boxes.unbind(1)
    boxes = torch.stack([width - right, top, width - left, bottom], dim=1)
    x, y = prompts.points.unbind(2)
    points = torch.stack([width[:, None] - x, y], dim=2)
    return Prompts(
        boxes=torch.where(flips[:, None], boxes, prompts.boxes),
        points=torch.where(flips[:, None, None], points, prompts.points),
        masks=torch.where(flips[:, None, None], prompts.masks.flip(-1), prompts.masks),
        digest=prompts.digest,
    )
