"""The protocol's loss of one batch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from cosam_bench.core.errors import CosamError
from cosam_bench.sam.feature_cache import PrefixCache, encode
from cosam_bench.sam.inputs import Batch, View, chunks
from cosam_bench.sam.sam import Features, Masks, Sam
from cosam_bench.training.fit_settings import FitSettings
from cosam_bench.training.losses import LOSSES, point_sample, uncertain_points
from cosam_bench.training.step_division import masks_in_parts
from cosam_bench.training.training_batch import TrainingBatch, counted_share


def training_loss(
    sam: Sam,
    batch: Batch,
    target: Tensor,
    *,
    fit: FitSettings,
    view: View,
    prefixes: PrefixCache | None = None,
    images: int | None = None,
) -> tuple[Tensor, Masks]:
    """The protocol's loss of a batch, a scalar with a graph, and the masks that it was computed from.

    Args:
        target: float, ``(B, h, w)`` in [0, 1], on the grid of the logits.
        prefixes: cached features.
        images: at most so many go through the model at once, see ``masks_in_parts``; None: all.

    Raises:
        CosamError: as for ``protocol_loss`` and ``masks_in_parts``.
    """
    prefixes = None if _is_unique(batch) else prefixes

    def run(part: Batch) -> Masks:
        with view.autocast():
            return sam.decode(encode_batch(sam, part, prefixes), part.prompts)

    masks = masks_in_parts(run, batch, sam=sam, images=images)
    return protocol_loss(masks, batch, target, fit=fit), masks


def encode_batch(sam: Sam, batch: Batch, prefixes: PrefixCache | None, *, images: int | None = None) -> Features:
    """The embeddings of a batch, from cached features unless its images were jittered and never come again.

    Args:
        images: without gradients, at most so many go through the encoder at once; None: all.
    """
    prefixes = None if _is_unique(batch) else prefixes
    if images is not None and images < len(batch) and not torch.is_grad_enabled():
        rows = chunks(range(len(batch)), size=images)
        maps, early = zip(*(encode_batch(sam, batch.select(part), prefixes) for part in rows), strict=True)
        return Features(torch.cat(maps), None if early[0] is None else torch.cat(early))
    return encode(sam, batch.images, prefixes, inputs=batch.inputs, prompts=batch.prompts)


def _is_unique(batch: Batch) -> bool:
    return isinstance(batch, TrainingBatch) and batch.is_unique


def protocol_loss(masks: Masks, batch: Batch, target: Tensor, *, fit: FitSettings) -> Tensor:
    """The protocol's loss of a model's masks for a batch, a scalar.

    Args:
        target: float, ``(B, h, w)`` in [0, 1], on the grid of the logits, as it came with the batch.

    Raises:
        CosamError: the loss compares masks at the model's size, and the batch does not hold the target there.
    """
    logits = masks.logits.float()
    weights = batch.weights if isinstance(batch, TrainingBatch) else None
    if fit.needs_model_size:
        logits, target, weights = _at_model_size(logits, batch, target, fit=fit)
    return LOSSES[fit.loss](
        logits,
        target,
        masks.predicted_iou.float(),
        iou_threshold=fit.iou_threshold,
        sum_over_batch=fit.sum_over_batch,
        weights=weights,
    )


def _at_model_size(
    logits: Tensor, batch: Batch, target: Tensor, *, fit: FitSettings
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Logits, target and weights at the same points: sampled ones, or all pixels of the model's input."""
    if not isinstance(batch, TrainingBatch) or batch.masks is None or batch.target is not target:
        raise CosamError(
            "This protocol's loss compares masks at the model's input size. Give it batch and target as they came "
            "together from Workbench.augmented or Workbench.labelled, or from the training itself."
        )
    if batch.point_candidates is None:
        full = functional.interpolate(logits[:, None], batch.masks.shape[-2:], mode="nearest-exact")
        return full[:, 0], batch.masks, None if batch.ignored is None else 1 - batch.ignored
    points = uncertain_points(logits, batch.point_candidates, count=fit.loss_points)
    target = point_sample(batch.masks, points)
    if batch.ignored is None:
        return point_sample(logits, points), target, None
    weights = (1 - point_sample(batch.ignored, points, outside="border")).clamp(min=0)
    return point_sample(logits, points), counted_share(target, weights), weights
