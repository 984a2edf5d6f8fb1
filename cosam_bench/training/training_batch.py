"""Training batches: augmented samples, their prompts, and the masks that the loss compares with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cosam_bench.core.devices import to_device_async
from cosam_bench.core.errors import CosamError
from cosam_bench.core.seeds import torch_generator
from cosam_bench.data.prompt_settings import PromptKind, TestPrompt, TrainPrompt
from cosam_bench.data.prompts import Prompts
from cosam_bench.data.samples import Sample
from cosam_bench.sam.frame_prompts import mask_to_grid
from cosam_bench.sam.frames import Frame, resize_bilinear, resize_nearest
from cosam_bench.sam.inputs import Batch, View, collate
from cosam_bench.training.augmentation import (
    jitter_until_foreground,
    mirror,
    mirror_prompts,
    prompts_from_masks,
    replace_rows,
)
from cosam_bench.training.fit_settings import FitSettings
from cosam_bench.training.losses import draw_point_candidates

MIXED: tuple[PromptKind, ...] = ("box", "points", "mask")
_WITHOUT_POINTS: tuple[PromptKind, ...] = ("box", "mask")


@dataclass(frozen=True, kw_only=True)
class TrainingBatch(Batch):
    """A batch with what some losses need besides the masks on the logits' grid; ``predict`` never receives one.

    Attributes:
        target: float, ``(B, h, w)``, the masks on the logits' grid, as hooks get them.
        masks: float32, ``(B, S, S)`` in [0, 1], at the model's input size; None if the loss needs none.
        point_candidates: float32, ``(B, n, 2)`` in [0, 1], from ``draw_point_candidates``; None if the loss needs none.
        is_unique: the images were jittered, so that none occurs again.
    """

    target: Tensor
    masks: Tensor | None = None
    point_candidates: Tensor | None = None
    is_unique: bool = False


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
        prompts: one row per sample.
        indices: which samples.
        order: draws flips, kinds of prompt, jitter, the jittered samples' prompts and the loss's points.
    """
    flips = (torch.rand(len(indices), generator=order) < 0.5) & fit.flip
    choices = torch.randint(len(MIXED), (len(indices),), generator=order).tolist()
    kinds = [MIXED[choice] if prompt_kind == "mix" else prompt_kind for choice in choices]
    chosen = [samples[index] for index in indices]
    rows = mirror_prompts(prompts.take(indices), widths=[sample.image.shape[-1] for sample in chosen], flips=flips)
    chosen = [mirror(sample) if flip else sample for sample, flip in zip(chosen, flips.tolist(), strict=True)]
    if not fit.jitter:
        return with_targets(chosen, rows, kinds=kinds, view=view, fit=fit, order=order)
    refuse_missing_points(fit, prompt_kind)
    chosen, soft_masks, rows = _jittered(chosen, rows, fit=fit, size=view.size, order=order)
    if prompt_kind == "mix" and any(int(sample.mask.sum()) < rows.points.shape[1] for sample in chosen):
        choices = torch.randint(len(_WITHOUT_POINTS), (len(indices),), generator=order).tolist()
        kinds = [_WITHOUT_POINTS[choice] for choice in choices]
    return with_targets(
        chosen, rows, kinds=kinds, view=view, fit=fit, order=order, soft_masks=soft_masks, is_unique=True
    )


def refuse_missing_points(fit: FitSettings, prompt_kind: TrainPrompt) -> None:
    """Raise a ``CosamError`` if training would ask for points of a crop without foreground."""
    if fit.empty_crops == "keep" and prompt_kind == "points":
        raise CosamError(
            "fit.empty_crops = 'keep' trains on crops without foreground, which have no points to prompt with. "
            "Use prompts.train = 'mix', 'box' or 'mask', or fit.empty_crops = 'redraw'."
        )


def _jittered(
    samples: Sequence[Sample], prompts: Prompts, *, fit: FitSettings, size: int, order: torch.Generator
) -> tuple[list[Sample], dict[int, Tensor], Prompts]:
    """Samples at the model's size, soft masks by row, and prompts; a sample without a usable crop stays as it is."""
    found = {}
    for row, sample in enumerate(samples):
        jittered = jitter_until_foreground(sample, size=size, empty_crops=fit.empty_crops, order=order)
        if jittered is not None:
            found[row] = jittered
    fresh = prompts_from_masks([new.sample.mask for new in found.values()], points=prompts.points.shape[1], order=order)
    chosen = [found[row].sample if row in found else sample for row, sample in enumerate(samples)]
    return chosen, {row: new.soft_mask for row, new in found.items()}, replace_rows(prompts, list(found), fresh)


def with_targets(
    samples: Sequence[Sample],
    prompts: Prompts,
    *,
    kinds: Sequence[TestPrompt],
    view: View,
    fit: FitSettings | None = None,
    order: torch.Generator | None = None,
    soft_masks: dict[int, Tensor] | None = None,
    is_unique: bool = False,
) -> tuple[Batch, Tensor]:
    """The batch of some samples, and their masks ``(B, h, w)``, float in [0, 1], on the grid of the logits.

    Args:
        fit: the training whose loss the batch is for; None: a loss on the logits' grid.
        order: draws the points of the loss; None: only the samples' keys decide them.
        soft_masks: by row, the mask at the model's size, if known at a finer scale than the sample's.
        is_unique: the images do not occur again.
    """
    batch, frames = collate(samples, prompts, kinds=kinds, view=view)
    pairs = list(zip(samples, frames, strict=True))
    target = torch.stack([mask_to_grid(sample.mask, frame, size=view.grid) for sample, frame in pairs])
    target = to_device_async(target, view.device)
    if fit is None or not (fit.needs_model_size or is_unique):
        return batch, target
    masks = candidates = None
    if fit.needs_model_size:
        soft = soft_masks or {}
        full = [_at_model_size(sample.mask, frame, fit, soft.get(row)) for row, (sample, frame) in enumerate(pairs)]
        masks = to_device_async(torch.stack(full), view.device)
    if fit.loss_points:
        order = order or torch_generator("places", *(sample.key for sample in samples))
        candidates = to_device_async(
            draw_point_candidates(len(samples), count=fit.loss_points, order=order), view.device
        )
    more = TrainingBatch(
        batch.images,
        batch.prompts,
        batch.domains,
        batch.inputs,
        target=target,
        masks=masks,
        point_candidates=candidates,
        is_unique=is_unique,
    )
    return more, target


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
