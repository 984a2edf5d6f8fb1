"""Training steps that go through the model in parts because the device's memory does not hold them at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from weakref import WeakSet

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from cosam_bench.core.errors import CosamError
from cosam_bench.sam.inputs import Batch, chunks
from cosam_bench.sam.mutation_check import MutationCheck
from cosam_bench.sam.sam import Masks, Sam

_ADAPTERS = "cosam_bench.sam.adapters."  # hooks of their own, which do the same whenever a part is computed


class RepeatableGenerator(torch.Generator):
    """One whose draws are made again if a step is; torch's own of version 2.7 cannot be referenced weakly."""


class StepDivision:
    """How a step is divided now, for the training loop and for all that a method's own loss calls.

    Attributes:
        images: at most so many images go through the model at once; None: all of a batch.
    """

    def __init__(self) -> None:
        """Begin with whole batches."""
        self.images: int | None = None
        self._generators: WeakSet[RepeatableGenerator] = WeakSet()

    def remembered(self, generator: RepeatableGenerator) -> RepeatableGenerator:
        """The generator, whose draws are made again if a step is."""
        self._generators.add(generator)
        return generator

    @contextmanager
    def one_training(self) -> Iterator[None]:
        """Within the context, an adapter is trained, at first by whole batches."""
        before, self.images = self.images, None
        try:
            yield
        finally:
            self.images = before

    def repeatable(self) -> Callable[[], None]:
        """What sets the remembered generators back to where they are now, and later ones to their beginning."""
        states = [(generator, generator.clone_state()) for generator in self._generators]

        def set_back() -> None:
            for generator, state in states:
                generator.set_state(state.get_state())
            known = {id(generator) for generator, _ in states}
            for generator in (each for each in self._generators if id(each) not in known):
                generator.manual_seed(generator.initial_seed())

        return set_back


def masks_in_parts(run: Callable[[Batch], Masks], batch: Batch, *, sam: Sam, images: int | None) -> Masks:
    """The masks of a batch, of which the memory holds what the gradient needs for one part at a time.

    Each part is run twice: for its masks, and for its gradient, when that is taken. A batch that is not
    divided is run once.

    Args:
        run: one pass of the model, whose rows are independent of each other.
        images: at most so many per part; None: all.

    Raises:
        CosamError: somebody's hook on the model would be called for each part, and twice; or, when the gradient is
            taken, the model's weights are no longer those of the masks.
    """
    if images is None or images >= len(batch):
        return run(batch)
    _refuse_hooks(sam)
    state = _State(sam)

    def part_of(rows: list[int]) -> tuple[Tensor, Tensor]:
        part = batch.select(rows)

        def masks_of_part() -> tuple[Tensor, Tensor]:
            state.check()
            masks = run(part)
            return masks.logits, masks.predicted_iou

        found: tuple[Tensor, Tensor] = checkpoint(masks_of_part, use_reentrant=False, preserve_rng_state=False)
        return found

    logits, predicted_iou = zip(*map(part_of, chunks(range(len(batch)), size=images)), strict=True)
    return Masks(torch.cat(logits), torch.cat(predicted_iou))


class _State:
    """What of the model decides its masks, to tell whether it is as before."""

    def __init__(self, sam: Sam) -> None:
        self._sam = sam
        self._check = MutationCheck(self._tensors())
        self._has_side = self._is_side_enabled()

    def check(self) -> None:
        if not self._check.passes(self._tensors()) or self._has_side != self._is_side_enabled():
            raise _undivided("the model's weights changed between a loss and its gradient")

    def _tensors(self) -> list[Tensor]:
        return [*self._sam.parameters(), *self._sam.buffers()]

    def _is_side_enabled(self) -> bool:
        return self._sam.side is not None and self._sam.side.is_enabled


def _refuse_hooks(sam: Sam) -> None:
    for name, module in sam.named_modules():
        hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
        for hook in (hook for registered in hooks for hook in registered.values()):
            if not str(getattr(hook, "__module__", "")).startswith(_ADAPTERS):
                raise _undivided(f"a hook on the model's {name!r} would see its parts")


def _undivided(reason: str) -> CosamError:
    return CosamError(
        f"The device's memory does not hold a training step at once, and it cannot be divided: {reason}. "
        "Use a smaller --set fit.batch_size, a smaller --model, or a --device with more memory."
    )
