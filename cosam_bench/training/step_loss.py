"""The loss and the gradient of one training step, in parts if the device's memory does not hold the whole batch."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cosam_bench.core.errors import ran_out_of_memory
from cosam_bench.sam.batch_size import ImageDoesNotFit, tried_again
from cosam_bench.sam.feature_cache import PrefixCache
from cosam_bench.sam.inputs import Batch, chunks
from cosam_bench.training.training_batch import TrainingBatch


@dataclass(frozen=True)
class Part:
    """Some rows of a batch.

    Attributes:
        batch: images and prompts of the rows.
        target: float, ``(n, h, w)`` in [0, 1], on the grid of the logits.
        of: how many rows the whole batch has.
    """

    batch: Batch
    target: Tensor
    of: int

    @property
    def share(self) -> float:
        """The share of the batch's rows."""
        return len(self.batch) / self.of


class StepLoss:
    """Runs forward and backward passes; after a batch that did not fit into memory, all later ones go in parts.

    The gradients of the parts add up to that of the batch, and so do their losses, up to rounding.
    """

    def __init__(
        self,
        loss: Callable[[Part], Tensor],
        *,
        prefixes: PrefixCache | None = None,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Begin with whole batches.

        Args:
            loss: from a part to the loss of the whole batch, a scalar with a graph, estimated from that part.
            prefixes: cached features; a batch that does not fit is tried once more without those in a GPU's memory.
            note: tells the user about dropped features and smaller parts.
        """
        self._loss = loss
        self._prefixes = prefixes
        self._note = note
        self._images: int | None = None

    def backward(self, optimiser: torch.optim.Optimizer, batch: Batch, target: Tensor) -> Tensor:
        """The loss of a batch, detached; its gradients take the place of those of the optimiser's parameters.

        Raises:
            ImageDoesNotFit: the memory does not suffice for a single image.
        """
        while True:
            images = min(self._images or len(batch), len(batch))
            attempt = partial(self._tried, optimiser, batch, target, images)
            found = attempt()
            if found is None:
                found = tried_again(attempt, self._prefixes, note=self._note)
            if found is not None:
                return found
            self._divide(images)

    def _divide(self, images: int) -> None:
        if images == 1:
            raise ImageDoesNotFit(
                "The device has too little memory to train on a single image. "
                "Use a smaller --model, --set fit.precision=bf16, or a --device with more."
            )
        gc.collect()
        torch.cuda.empty_cache()  # does nothing if no GPU is in use
        self._images = -(-images // 2)
        self._note(
            f"The device's memory does not hold a training step of {images} images at once; continuing with parts "
            f"of {self._images}, whose gradients are added up."
        )

    def _tried(self, optimiser: torch.optim.Optimizer, batch: Batch, target: Tensor, images: int) -> Tensor | None:
        """The loss, or None if memory ran out. The error, and the memory it held, is released on return."""
        optimiser.zero_grad(set_to_none=True)  # what a part left that ran out of memory goes, too
        try:
            return self._accumulated(batch, target, images)
        except Exception as error:
            if not ran_out_of_memory(error):
                raise
        return None

    def _accumulated(self, batch: Batch, target: Tensor, images: int) -> Tensor:
        losses = []
        for part in parts_of(batch, target, images=images):
            loss = self._loss(part)
            if part.share < 1:
                loss = loss * part.share
            loss.backward()  # type: ignore[no-untyped-call]  # torch ships it without types
            losses.append(loss.detach())
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum()


def parts_of(batch: Batch, target: Tensor, *, images: int) -> list[Part]:
    """The batch in parts of at most ``images`` rows; as it is if that is all of them."""
    if images >= len(batch):
        return [Part(batch, target, len(batch))]
    return [_part(batch, target, rows) for rows in chunks(range(len(batch)), size=images)]


def _part(batch: Batch, target: Tensor, rows: list[int]) -> Part:
    chosen, masks = batch.select(rows), target[rows]
    if isinstance(batch, TrainingBatch):
        # Whatever else the loss needs has a row per image.
        own = {name: _rows(getattr(batch, name), rows) for name in _OWN if name != "target"}
        parts = {name: getattr(chosen, name) for name in _COMMON}
        chosen = replace(batch, **parts, **own, target=masks)
    return Part(chosen, masks, len(batch))


_COMMON = tuple(one.name for one in fields(Batch))
_OWN = tuple(one.name for one in fields(TrainingBatch) if one.name not in _COMMON)


def _rows(value: Any, rows: list[int]) -> Any:
    return value[rows] if isinstance(value, Tensor) else value
