"""The random choices of training batches: all of one generator, whose order decides every later one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cosam_bench.core.errors import CosamError
from cosam_bench.data.prompt_settings import PromptKind, TestPrompt, TrainPrompt
from cosam_bench.data.samples import Sample
from cosam_bench.training.augmentation import (
    FOREGROUND_SHARE,
    Crop,
    draw_crop_with_foreground,
    draw_seeds,
    mirror,
)
from cosam_bench.training.fit_settings import FitSettings
from cosam_bench.training.losses import draw_point_candidates

MIXED: tuple[PromptKind, ...] = ("box", "points", "mask")
_WITHOUT_POINTS: tuple[PromptKind, ...] = ("box", "mask")


@dataclass(frozen=True)
class DrawnCrop:
    """What chance decided about a jittered sample.

    Attributes:
        crop: what is cut out of the sample.
        soft_mask: float32, ``(S, S)`` in [0, 1], the sample's mask in it.
        seed: of the prompts that are drawn from that mask.
    """

    crop: Crop
    soft_mask: Tensor
    seed: int


@dataclass(frozen=True)
class Draws:
    """What chance decided about a batch; each sequence has a row per sample.

    Attributes:
        indices: which samples.
        flips: whether each is mirrored.
        kinds: which of its prompts each uses.
        point_candidates: float32, ``(B, n, 2)``, as in ``TrainingBatch``.
        jittered: the samples, mirrored as ``flips`` says; None if they were not read, because there is no jitter.
        crops: of these; None if no usable one was found, so that the sample stays as it is.
    """

    indices: tuple[int, ...]
    flips: tuple[bool, ...]
    kinds: tuple[TestPrompt, ...]
    point_candidates: Tensor | None = None
    jittered: tuple[Sample, ...] | None = None
    crops: tuple[DrawnCrop | None, ...] = ()

    def __len__(self) -> int:
        """The number of samples."""
        return len(self.indices)


def draw_choices(
    indices: Sequence[int],
    chosen: Iterable[Sample],
    *,
    fit: FitSettings,
    prompt_kind: TrainPrompt,
    points: int,
    size: int,
    order: torch.Generator,
) -> Draws:
    """Draw flips, kinds of prompt, jitter, seeds of the jittered samples' prompts and the loss's points, in this order.

    Args:
        indices: which samples the batch has.
        chosen: these samples; they are read only for jitter, whose draws depend on their masks.
        points: how many points a prompt has.
        size: side of the model's input.
        order: draws.

    Raises:
        CosamError: the settings ask for points of empty crops.
    """
    count = len(indices)
    flips = tuple(((torch.rand(count, generator=order) < 0.5) & fit.flip).tolist())
    choices = torch.randint(len(MIXED), (count,), generator=order).tolist()
    kinds: tuple[TestPrompt, ...] = tuple(MIXED[choice] if prompt_kind == "mix" else prompt_kind for choice in choices)
    jittered, crops = None, ()  # type: tuple[Sample, ...] | None, tuple[DrawnCrop | None, ...]
    if fit.jitter:
        refuse_missing_points(fit, prompt_kind)
        jittered = tuple(mirror(sample) if flip else sample for sample, flip in zip(chosen, flips, strict=True))
        crops = _draw_crops(jittered, fit=fit, size=size, order=order)
        if prompt_kind == "mix" and _has_few(jittered, crops, points):
            choices = torch.randint(len(_WITHOUT_POINTS), (count,), generator=order).tolist()
            kinds = tuple(_WITHOUT_POINTS[choice] for choice in choices)
    candidates = draw_point_candidates(count, count=fit.loss_points, order=order) if fit.loss_points else None
    return Draws(tuple(indices), flips, kinds, candidates, jittered, crops)


def refuse_missing_points(fit: FitSettings, prompt_kind: TrainPrompt) -> None:
    """Raise a ``CosamError`` if training would ask for points of a crop without foreground."""
    if fit.empty_crops == "keep" and prompt_kind == "points":
        raise CosamError(
            "fit.empty_crops = 'keep' trains on crops without foreground, which have no points to prompt with. "
            "Use prompts.train = 'mix', 'box' or 'mask', or fit.empty_crops = 'redraw'."
        )


def _draw_crops(
    samples: Sequence[Sample], *, fit: FitSettings, size: int, order: torch.Generator
) -> tuple[DrawnCrop | None, ...]:
    """First all crops, then the seeds of those that are usable."""
    found = [
        draw_crop_with_foreground(sample.mask, size=size, empty_crops=fit.empty_crops, order=order)
        for sample in samples
    ]
    seeds = iter(draw_seeds(sum(one is not None for one in found), order=order))
    return tuple(None if one is None else DrawnCrop(*one, next(seeds)) for one in found)


def _has_few(samples: Sequence[Sample], crops: Sequence[DrawnCrop | None], points: int) -> bool:
    """Whether a mask has fewer pixels than a prompt has points."""
    masks = (
        sample.mask if drawn is None else drawn.soft_mask > FOREGROUND_SHARE
        for sample, drawn in zip(samples, crops, strict=True)
    )
    return any(int(mask.sum()) < points for mask in masks)
