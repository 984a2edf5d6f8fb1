"""One sample as a training step needs it: decoded, mirrored, jittered, resized and reduced to the grid, on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cosam_bench.core.devices import pinned_bytes
from cosam_bench.data.prompts import Prompts
from cosam_bench.data.samples import Sample
from cosam_bench.sam.frame_prompts import mask_to_grid
from cosam_bench.sam.frames import Frame, resize_bilinear, resize_nearest
from cosam_bench.sam.inputs import ModelInput, View
from cosam_bench.training.augmentation import Jittered, jitter, mirror, prompts_from_mask
from cosam_bench.training.draws import Draws
from cosam_bench.training.fit_settings import FitSettings


@dataclass(frozen=True)
class PreparedSample:
    """A sample as a training step needs it, on the CPU; its tensors must not be changed.

    Attributes:
        input: the image; in pinned memory if it goes to a GPU.
        target: float32, ``(h, w)`` in [0, 1], the mask's shares of the cells of the logits' grid.
        ignored_target: likewise of the ignored pixels; None if all pixels count.
        mask: float32, ``(S, S)`` in [0, 1], the mask at the model's input size; None if the loss needs none.
        ignored: likewise of the ignored pixels; None if all count, or the loss needs none.
        prompts: one row, drawn from the jittered mask; None if those of the sample hold.
    """

    input: ModelInput
    target: Tensor
    ignored_target: Tensor | None = None
    mask: Tensor | None = None
    ignored: Tensor | None = None
    prompts: Prompts | None = None

    @property
    def size_bytes(self) -> int:
        """Bytes of all tensors but the prompts'."""
        pixels = self.input.pixels
        others = (self.target, self.ignored_target, self.mask, self.ignored)
        own = pinned_bytes(pixels.nbytes) if pixels.is_pinned() else pixels.nbytes
        return own + sum(part.nbytes for part in others if part is not None)


def prepare_drawn(
    samples: Sequence[Sample],
    draws: Draws,
    row: int,
    *,
    fit: FitSettings,
    view: View,
    points: int,
    with_digest: bool = False,
) -> PreparedSample:
    """The sample of a row of ``draws``; threads may prepare several at the same time.

    Args:
        samples: of which ``draws`` has some.
        points: how many points a prompt has.
        with_digest: as for ``ready_input``; not for a jittered sample, which never comes again.
    """
    if draws.jittered is None:
        sample = samples[draws.indices[row]]
        return prepare(mirror(sample) if draws.flips[row] else sample, fit=fit, view=view, with_digest=with_digest)
    sample, drawn = draws.jittered[row], draws.crops[row]
    if drawn is None:
        return prepare(sample, fit=fit, view=view)
    jittered = jitter(sample, drawn.crop, soft_mask=drawn.soft_mask)
    fresh = prompts_from_mask(jittered.sample.mask, points=points, seed=drawn.seed)
    return replace(prepare(jittered.sample, fit=fit, view=view, jittered=jittered), prompts=fresh)


def prepare(
    sample: Sample,
    *,
    fit: FitSettings | None,
    view: View,
    jittered: Jittered | None = None,
    with_digest: bool = False,
) -> PreparedSample:
    """The sample as it is, for a training step.

    Args:
        fit: the training whose loss it is for; None: a loss on the logits' grid.
        jittered: the same sample, if its masks are known at a finer scale than a bool's.
        with_digest: as for ``ready_input``.
    """
    ready = ready_input(sample.image, view=view, with_digest=with_digest)
    frame = ready.frame
    target = mask_to_grid(sample.mask, frame, size=view.grid)
    ignored_target = None if sample.ignored is None else mask_to_grid(sample.ignored, frame, size=view.grid)
    if fit is None or not fit.needs_model_size:
        return PreparedSample(ready, target, ignored_target)
    soft_mask, soft_ignored = (None, None) if jittered is None else (jittered.soft_mask, jittered.soft_ignored)
    mask = _at_model_size(sample.mask, frame, fit, soft_mask)
    ignored = None if sample.ignored is None else _at_model_size(sample.ignored, frame, fit, soft_ignored)
    return PreparedSample(ready, target, ignored_target, mask, ignored)


def ready_input(image: Tensor, *, view: View, with_digest: bool = False) -> ModelInput:
    """An image uint8 ``(3, H, W)`` at the model's size, in pinned memory if it goes to a GPU.

    Args:
        with_digest: compute the key of its cached features in advance, so that the model's pass need not wait for it.
    """
    ready = view.preprocess(image)
    if view.device.type == "cuda":
        ready = ModelInput(ready.pixels.pin_memory(), ready.frame)
    if with_digest:
        _ = ready.digest
    return ready


def _at_model_size(mask: Tensor, frame: Frame, fit: FitSettings, soft: Tensor | None) -> Tensor:
    """The mask in the model's input, float32 ``(S, S)``: soft for sampled points, pixels repeated for all cells.

    Source: CoSAM resizes labels bilinearly and keeps their grey levels in the loss; RegCL takes the nearest pixel.
    """
    height, width = frame.content
    full = torch.zeros(frame.size, frame.size)
    if fit.loss_grid == "model":
        full[:height, :width] = resize_nearest(mask, frame.content).float()
    else:
        full[:height, :width] = resize_bilinear(mask[None], frame.content)[0] if soft is None else soft
    return full
