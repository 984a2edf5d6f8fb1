"""Scoring predicted masks image by image, at each image's own size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cosam_bench.batches import Batch, View, chunks, collate
from cosam_bench.domains.prompts import Prompts
from cosam_bench.domains.samples import Split
from cosam_bench.errors import CosamError
from cosam_bench.metrics import measure
from cosam_bench.sam.frames import PromptKind, to_original


class BadPrediction(CosamError):
    """What ``predict`` returned is no set of mask logits."""


@dataclass(frozen=True)
class ImageScore:
    """The metrics of one test sample, by the metric's name."""

    key: str
    values: dict[str, float]


def score_split(
    predict: Callable[[Batch], Tensor],
    split: Split,
    prompts: Prompts,
    *,
    kind: PromptKind,
    view: View,
    batch_size: int,
    tell_domain: bool = False,
    advance: Callable[[float], None] = lambda images: None,
) -> list[ImageScore]:
    """The scores of every sample of a split, in its order.

    Args:
        predict: from a batch to mask logits ``(B, h, w)`` on the decoder's grid.
        prompts: one row a sample.
        kind: the prompt that is given.
        tell_domain: whether the batch names its domain.
        advance: called after each batch with the images it held.

    Raises:
        BadPrediction: it has another shape, is no float or is not finite.
    """
    scores: list[ImageScore] = []
    for rows in chunks(range(len(split)), size=batch_size):
        samples = [split[row] for row in rows]
        told = (split.domain,) * len(rows) if tell_domain else None
        batch, frames = collate(samples, prompts.take(rows), kinds=[kind] * len(rows), view=view, domains=told)
        with torch.inference_mode():
            logits = checked_logits(predict(batch), batch, view)
        for sample, frame, mask_logits in zip(samples, frames, logits, strict=True):
            found = measure(to_original(mask_logits, frame)[None], sample.mask[None].to(logits.device))
            scores.append(ImageScore(sample.key, {name: value.item() for name, value in found.items()}))
        advance(len(rows))
    return scores


def checked_logits(logits: Tensor, batch: Batch, view: View) -> Tensor:
    """The logits as float32.

    Raises:
        BadPrediction: they are not what ``predict`` must return.
    """
    expected = (len(batch), view.grid, view.grid)
    if not isinstance(logits, Tensor) or tuple(logits.shape) != expected or not logits.is_floating_point():
        found = f"{logits.dtype} {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise BadPrediction(f"predict() must return float logits of shape {expected}, but returned {found}.")
    if not torch.isfinite(logits).all():
        raise BadPrediction("predict() returned logits that are not finite: did training or the merge diverge?")
    return logits.float()


def domain_means(scores: Sequence[ImageScore]) -> dict[str, float]:
    """The mean over images of each metric; empty for no images."""
    names = scores[0].values if scores else {}
    return {name: sum(score.values[name] for score in scores) / len(scores) for name in names}
