"""Training batches: augmented samples, their prompts, and the masks that the loss compares with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    Jittered,
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
        weights: float, ``(B, h, w)`` in [0, 1], as the target: the shares of cells that are not ignored, of which the
            target is the foreground's share; None if no pixel is ignored.
        ignored: float32, as ``masks``, the shares that are ignored; None if no pixel is, or the loss needs no masks.
    """

    target: Tensor
    weights: Tensor | None = None
    masks: Tensor | None = None
    ignored: Tensor | None = None
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
    chosen, jittered, rows = _jittered(chosen, rows, fit=fit, size=view.size, order=order)
    if prompt_kind == "mix" and any(int(sample.mask.sum()) < rows.points.shape[1] for sample in chosen):
        choices = torch.randint(len(_WITHOUT_POINTS), (len(indices),), generator=order).tolist()
        kinds = [_WITHOUT_POINTS[choice] for choice in choices]
    return with_targets(chosen, rows, kinds=kinds, view=view, fit=fit, order=order, jittered=jittered, is_unique=True)


def refuse_missing_points(fit: FitSettings, prompt_kind: TrainPrompt) -> None:
    """Raise a ``CosamError`` if training would ask for points of a crop without foreground."""
    if fit.empty_crops == "keep" and prompt_kind == "points":
        raise CosamError(
            "fit.empty_crops = 'keep' trains on crops without foreground, which have no points to prompt with. "
            "Use prompts.train = 'mix', 'box' or 'mask', or fit.empty_crops = 'redraw'."
        )


def _jittered(
    samples: Sequence[Sample], prompts: Prompts, *, fit: FitSettings, size: int, order: torch.Generator
) -> tuple[list[Sample], dict[int, Jittered], Prompts]:
    """Samples at the model's size, also by row, and prompts; a sample without a usable crop stays as it is."""
    found = {}
    for row, sample in enumerate(samples):
        jittered = jitter_until_foreground(sample, size=size, empty_crops=fit.empty_crops, order=order)
        if jittered is not None:
            found[row] = jittered
    fresh = prompts_from_masks([new.sample.mask for new in found.values()], points=prompts.points.shape[1], order=order)
    chosen = [found[row].sample if row in found else sample for row, sample in enumerate(samples)]
    return chosen, found, replace_rows(prompts, list(found), fresh)


def with_targets(
    samples: Sequence[Sample],
    prompts: Prompts,
    *,
    kinds: Sequence[TestPrompt],
    view: View,
    fit: FitSettings | None = None,
    order: torch.Generator | None = None,
    jittered: Mapping[int, Jittered] | None = None,
    is_unique: bool = False,
) -> tuple[Batch, Tensor]:
    """The batch of some samples, and their masks ``(B, h, w)``, float in [0, 1], on the grid of the logits.

    Args:
        fit: the training whose loss the batch is for; None: a loss on the logits' grid.
        order: draws the points of the loss; None: only the samples' keys decide them.
        jittered: by row, the samples whose masks are known at a finer scale than a bool's.
        is_unique: the images do not occur again.
    """
    batch, frames = collate(samples, prompts, kinds=kinds, view=view)
    pairs = list(zip(samples, frames, strict=True))
    target = torch.stack([mask_to_grid(sample.mask, frame, size=view.grid) for sample, frame in pairs])
    weights = _grid_weights(pairs, size=view.grid)
    if weights is not None:
        target = counted_share(target, weights)
        weights = to_device_async(weights, view.device)
    target = to_device_async(target, view.device)
    needs_model_size = fit is not None and fit.needs_model_size
    if not (needs_model_size or is_unique or weights is not None):
        return batch, target
    masks = ignored = candidates = None
    if fit is not None and fit.needs_model_size:
        masks, ignored = _full_size(pairs, fit=fit, jittered=jittered or {}, device=view.device)
    if fit is not None and fit.loss_points:
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
        weights=weights,
        masks=masks,
        ignored=ignored,
        point_candidates=candidates,
        is_unique=is_unique,
    )
    return more, target


def counted_share(foreground: Tensor, weights: Tensor) -> Tensor:
    """The share of what counts that is foreground, 0 where nothing counts.

    Args:
        foreground: float, in [0, 1], shares of whole cells.
        weights: as ``foreground``, the shares of cells that count.
    """
    return (foreground / weights.clamp(min=torch.finfo(weights.dtype).eps)).clamp(max=1)


def _grid_weights(pairs: Sequence[tuple[Sample, Frame]], *, size: int) -> Tensor | None:
    """The shares of the grid's cells that count, ``(B, size, size)``; None if no sample has ignored pixels."""
    if all(sample.ignored is None for sample, _ in pairs):
        return None
    nothing = torch.zeros(size, size)
    shares = [
        nothing if sample.ignored is None else mask_to_grid(sample.ignored, frame, size=size) for sample, frame in pairs
    ]
    return (1 - torch.stack(shares)).clamp(min=0)


def _full_size(
    pairs: Sequence[tuple[Sample, Frame]], *, fit: FitSettings, jittered: Mapping[int, Jittered], device: torch.device
) -> tuple[Tensor, Tensor | None]:
    """Masks and ignored pixels in the model's input, each float32 ``(B, S, S)``; None if no pixel is ignored."""
    masks, ignored = [], []
    for row, (sample, frame) in enumerate(pairs):
        soft = jittered.get(row)
        masks.append(_at_model_size(sample.mask, frame, fit, soft.soft_mask if soft else None))
        if sample.ignored is None:
            ignored.append(torch.zeros(frame.size, frame.size))
        else:
            ignored.append(_at_model_size(sample.ignored, frame, fit, soft.soft_ignored if soft else None))
    has_ignored = any(sample.ignored is not None for sample, _ in pairs)
    full = to_device_async(torch.stack(masks), device)
    return full, to_device_async(torch.stack(ignored), device) if has_ignored else None


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
