"""The loss and the gradient of one training step, in parts if the device's memory does not hold the whole batch."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from cosam_bench.core.devices import release_unused
from cosam_bench.sam.batch_size import ImageDoesNotFit, tried_again, unless_full
from cosam_bench.sam.feature_cache import PrefixCache
from cosam_bench.sam.inputs import Batch
from cosam_bench.training.adam import Adam
from cosam_bench.training.step_division import StepDivision


class StepLoss:
    """Runs forward and backward passes; after a batch that did not fit into memory, all later ones go in parts.

    The loss is always that of the whole batch; only the model's passes are divided. Loss and gradient are those of the
    undivided step up to rounding.
    """

    def __init__(
        self,
        loss: Callable[[Batch, Tensor], Tensor],
        *,
        division: StepDivision,
        prefixes: PrefixCache | None = None,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Begin with the division as it is.

        Args:
            loss: from a batch and its target to a scalar with a graph, whose passes of the model follow ``division``.
            division: is made smaller; its generators are set back before the loss is computed again.
            prefixes: cached features; a batch that does not fit is tried once more without those in a GPU's memory.
            note: tells the user about dropped features and smaller parts.
        """
        self._loss = loss
        self._division = division
        self._prefixes = prefixes
        self._note = note

    def backward(self, optimiser: Adam, batch: Batch, target: Tensor) -> Tensor:
        """The loss of a batch, detached; its gradients take the place of those of the optimiser's parameters.

        Raises:
            ImageDoesNotFit: the memory does not suffice with a single image in the model.
        """
        set_back = self._division.repeatable()

        def attempt() -> Tensor | None:
            set_back()
            optimiser.zero_grad(set_to_none=True)  # what an attempt left that ran out of memory goes, too
            return unless_full(lambda: self._differentiated(batch, target))

        while True:
            found = attempt()
            if found is None:
                found = tried_again(attempt, self._prefixes, note=self._note)
            if found is not None:
                return found
            self._divide(min(self._division.images or len(batch), len(batch)), of=len(batch))

    def _differentiated(self, batch: Batch, target: Tensor) -> Tensor:
        """The loss, whose gradients the parameters then have."""
        loss = self._loss(batch, target)
        loss.backward()  # type: ignore[no-untyped-call]  # torch ships it without types
        return loss.detach()

    def _divide(self, images: int, *, of: int) -> None:
        """Halve the number of images in the model at a time."""
        if images == 1:
            has_more = f" of a step of {of}" if of > 1 else ""
            smaller = "--set fit.batch_size or " if of > 1 else ""
            raise ImageDoesNotFit(
                f"The device has too little memory to train on a single image{has_more} at a time. "
                f"Use a smaller {smaller}--model, --set fit.precision=bf16, or a --device with more."
            )
        release_unused()
        self._division.images = -(-images // 2)
        self._note(
            f"The device's memory does not hold a training step of {images} images at once; continuing with "
            f"{self._division.images} of them in the model at a time."
        )
