"""Scoring predicted masks image by image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from cosam_bench.batches import Batch, View, chunks, collate
from cosam_bench.config import Settings
from cosam_bench.domains.prompts import Prompts
from cosam_bench.domains.samples import Split
from cosam_bench.errors import CosamError
from cosam_bench.metrics import measure
from cosam_bench.sam.frames import Frame, PromptKind, Upsampling, nearest, to_content, to_original

ScoreSize = Literal["original", "model"]


class ScoreSettings(Settings):
    """How test images are scored.

    Attributes:
        batch_size: images a forward pass.
        precision: the type the model computes in.
        size: where masks are compared: ``original`` at each image's own size, ``model`` at the size that the
            image has in the model's input, the true mask brought there by nearest neighbour.
        upsampling: how logits get there. ``bilinear`` goes by way of the model's input size, as SAM does;
            ``direct`` is one bilinear step from the decoder's grid to the image's own size, as CoSAM's code does
            (only where images are squashed); ``nearest`` repeats cells, as RegCL's code does.
    """

    batch_size: Annotated[int, Field(ge=1)] = 8
    precision: Literal["fp32", "bf16"] = "fp32"
    size: ScoreSize = "original"
    upsampling: Upsampling = "bilinear"

    @model_validator(mode="after")
    def _all_settings_have_an_effect(self) -> ScoreSettings:
        if self.size == "model" and self.upsampling == "direct":
            raise ValueError("upsampling = 'direct' needs size = 'original'; to the model's size, bilinear is direct")
        return self


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
    size: ScoreSize = "original",
    upsampling: Upsampling = "bilinear",
    tell_domain: bool = False,
    advance: Callable[[float], None] = lambda images: None,
) -> list[ImageScore]:
    """The scores of every sample of a split, in its order.

    Args:
        predict: from a batch to mask logits ``(B, h, w)`` on the decoder's grid.
        prompts: one row a sample.
        kind: the prompt that is given.
        size: where masks are compared, as in ``ScoreSettings``.
        upsampling: how logits get there, as in ``ScoreSettings``.
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
            found = measure_in(frame, mask_logits, sample.mask, size=size, upsampling=upsampling)
            scores.append(ImageScore(sample.key, {name: value.item() for name, value in found.items()}))
        advance(len(rows))
    return scores


def measure_in(
    frame: Frame, logits: Tensor, mask: Tensor, *, size: ScoreSize, upsampling: Upsampling
) -> dict[str, Tensor]:
    """The metrics of one image, each ``(1,)`` float64, by the metric's name.

    Args:
        frame: the image's.
        logits: float, ``(h, w)``, on the decoder's grid.
        mask: bool, ``(H, W)``, at the image's own size.
        size: as in ``ScoreSettings``.
        upsampling: as in ``ScoreSettings``.
    """
    target = mask.to(logits.device)
    if size == "original":
        return measure(to_original(logits, frame, upsampling=upsampling)[None], target[None])
    return measure(to_content(logits, frame, upsampling=upsampling)[None], nearest(target, frame.content)[None])


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
