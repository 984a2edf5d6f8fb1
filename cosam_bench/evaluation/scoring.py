"""Scoring predicted masks: batch by batch on the device, image by image in the result."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import torch
from torch import Tensor

from cosam_bench.core.devices import to_device_async
from cosam_bench.core.errors import CosamError
from cosam_bench.core.sums import plain_sum
from cosam_bench.data.prompt_settings import TestPrompt
from cosam_bench.data.prompts import Prompts
from cosam_bench.data.samples import Split
from cosam_bench.evaluation.loader import LoadedImage, Loader
from cosam_bench.evaluation.metrics import METRICS, measure
from cosam_bench.evaluation.score_settings import ScoreSize
from cosam_bench.sam.batch_size import AdaptiveBatchSize
from cosam_bench.sam.frame_choices import Upsampling
from cosam_bench.sam.frames import Frame, resize_nearest, shrunk_masks, to_content, to_original
from cosam_bench.sam.inputs import Batch, View, chunks, collate_inputs

# Pixels whose metrics are computed together, at the larger of both sizes: more would exceed a CPU's caches, and on
# CUDA these take about 3 GB.
_PIXELS_AT_ONCE_CPU = 1 << 22
_PIXELS_AT_ONCE_CUDA = 1 << 26

_NOT_FINITE = "predict() returned logits that are not finite: check whether training or the merge diverged."

Observer = Callable[[Sequence[int], Sequence[Frame], Tensor], None]
"""Called with a batch's rows in the split, their frames and their logits on the decoder's grid."""


def ignore_predictions(rows: Sequence[int], frames: Sequence[Frame], logits: Tensor) -> None:
    """The observer that does nothing."""


class BadPrediction(CosamError):
    """What ``predict`` returned is not a batch of mask logits."""


@dataclass(frozen=True)
class ImageScore:
    """The metrics of one test sample, by name."""

    key: str
    values: dict[str, float]


def score_split(
    predict: Callable[[Batch], Tensor],
    split: Split,
    prompts: Prompts,
    *,
    kind: TestPrompt,
    view: View,
    batch_size: int | AdaptiveBatchSize,
    size: ScoreSize = "original",
    upsampling: Upsampling = "bilinear",
    tell_domain: bool = False,
    loader: Loader | None = None,
    measured_batch: Callable[[], None] = lambda: None,
    advance: Callable[[float], None] = lambda images: None,
    observe: Observer = ignore_predictions,
) -> list[ImageScore]:
    """The scores of every sample of a split, in order.

    Args:
        predict: from a batch to mask logits ``(B, h, w)`` on the decoder's grid.
        prompts: one row per sample.
        kind: the prompt to give.
        batch_size: images per call of ``predict``; fewer if they do not fit into the memory.
        size: where masks are compared, as in ``ScoreSettings``.
        upsampling: how logits get there, as in ``ScoreSettings``.
        tell_domain: whether the batch names its domain.
        loader: loads the samples; by default each when it is needed, without a cache.
        measured_batch: called after each batch that will not be repeated.
        advance: called after each batch with its number of images.
        observe: called after each prediction; again for the parts of a batch that did not fit into the memory.

    Raises:
        BadPrediction: the prediction has another shape, is not a float or is not finite.
        ImageDoesNotFit: not even one image fits into the memory.
    """
    batches = batch_size if isinstance(batch_size, AdaptiveBatchSize) else AdaptiveBatchSize(batch_size)
    loader = loader or Loader(workers=0, cache_bytes=0)

    def measured(loaded: list[LoadedImage]) -> MeasuredBatch:
        rows = [image.row for image in loaded]
        domains = (split.domain,) * len(rows) if tell_domain else None
        inputs, kinds = [image.input for image in loaded], [kind] * len(rows)
        batch, frames = collate_inputs(inputs, prompts.take(rows), kinds=kinds, view=view, domains=domains)
        with torch.inference_mode():
            logits = _shape_checked(predict(batch), batch, view)
            masks, ignored = [image.mask for image in loaded], [image.ignored for image in loaded]
            keys = [split.keys[row] for row in rows]
            observe(rows, frames, logits)
            found = measure_batch(logits, frames, masks, ignored=ignored, keys=keys, size=size, upsampling=upsampling)
        measured_batch()
        return found

    scores: list[ImageScore] = []
    with closing(loader.load(split, view=view, depth=2 * batches.current)) as images:
        for batch in _delayed(batches.map(images, measured), by=_lag(view.device)):
            scores += batch.read()
            advance(len(batch))
    return scores


def _lag(device: torch.device) -> int:
    """How many batches the device is given before the program waits for the numbers of an earlier one."""
    return 1 if device.type == "cuda" else 0


def _delayed(batches: Iterator[MeasuredBatch], *, by: int) -> Iterator[MeasuredBatch]:
    """The batches, each yielded once ``by`` later ones have been drawn."""
    waiting: deque[MeasuredBatch] = deque()
    for batch in batches:
        waiting.append(batch)
        if len(waiting) > by:
            yield waiting.popleft()
    yield from waiting


@dataclass(frozen=True)
class MeasuredBatch:
    """The metrics of a batch on the device that computes them, which may still be busy.

    Attributes:
        keys: the samples' keys, in order.
        numbers: float64, ``(B * M + 1,)``: the metrics of each sample in the order of ``METRICS``, then 1 if all
            logits were finite, else 0.
    """

    keys: tuple[str, ...]
    numbers: Tensor

    def __len__(self) -> int:
        """The number of samples."""
        return len(self.keys)

    def read(self) -> list[ImageScore]:
        """The scores, copied to the host in one transfer.

        Raises:
            BadPrediction: the logits were not finite.
        """
        *values, is_finite = self.numbers.tolist()
        if not is_finite:
            raise BadPrediction(_NOT_FINITE)
        width = len(METRICS)
        rows = (values[first : first + width] for first in range(0, len(values), width))
        return [ImageScore(key, dict(zip(METRICS, row, strict=True))) for key, row in zip(self.keys, rows, strict=True)]


def measure_batch(
    logits: Tensor,
    frames: Sequence[Frame],
    masks: Sequence[Tensor],
    *,
    keys: Sequence[str],
    size: ScoreSize,
    upsampling: Upsampling,
    ignored: Sequence[Tensor | None] | None = None,
) -> MeasuredBatch:
    """All metrics of a batch, computed on the logits' device without waiting; the same bits as one by one.

    Args:
        logits: float32, ``(B, h, w)``, on the decoder's grid.
        frames: one per row.
        masks: bool, ``(H, W)`` each, at the images' own sizes, on any device.
        keys: the samples' keys.
        size: as in ``ScoreSettings``.
        upsampling: as in ``ScoreSettings``.
        ignored: for each mask, the pixels that do not count, as the mask; None if all do.
    """
    device = logits.device
    ignored = [None] * len(frames) if ignored is None else ignored
    rows = torch.empty(len(frames), len(METRICS), dtype=torch.float64, device=device)
    pixels = _PIXELS_AT_ONCE_CUDA if device.type == "cuda" else _PIXELS_AT_ONCE_CPU
    for group in _groups(frames, pixels=pixels, ignored=ignored):
        targets = torch.stack([to_device_async(masks[row], device) for row in group])
        stacked = torch.stack([logits[row] for row in group])
        parts = [to_device_async(part, device) for row in group if (part := ignored[row]) is not None]
        left_out = torch.stack(parts) if parts else None
        found = measure_in(frames[group[0]], stacked, targets, size=size, upsampling=upsampling, ignored=left_out)
        for row, values in zip(group, torch.stack([found[name] for name in METRICS], dim=1), strict=True):
            rows[row] = values
    is_finite = torch.isfinite(logits).all().double()
    return MeasuredBatch(tuple(keys), torch.cat([rows.flatten(), is_finite[None]]))


def _groups(
    frames: Sequence[Frame], *, pixels: int, ignored: Sequence[Tensor | None] | None = None
) -> Iterator[list[int]]:
    """The rows grouped by frame, at least one and as many as ``pixels`` allow; those with ignored pixels apart."""
    groups: dict[tuple[Frame, bool], list[int]] = {}
    for row, frame in enumerate(frames):
        groups.setdefault((frame, ignored is None or ignored[row] is None), []).append(row)
    for (frame, _), rows in groups.items():
        height, width = frame.original
        yield from chunks(rows, size=max(1, pixels // max(frame.size**2, height * width)))


def measure_in(
    frame: Frame,
    logits: Tensor,
    masks: Tensor,
    *,
    size: ScoreSize,
    upsampling: Upsampling,
    ignored: Tensor | None = None,
) -> dict[str, Tensor]:
    """The metrics of images with the same frame, each ``(N,)`` float64, by name.

    Args:
        frame: of all the images.
        logits: float, ``(N, h, w)``, on the decoder's grid.
        masks: bool, ``(N, H, W)``, at the images' own size, on the logits' device.
        size: as in ``ScoreSettings``.
        upsampling: as in ``ScoreSettings``.
        ignored: bool, as the masks, pixels that do not count; None if all do.
    """
    if size == "original":
        return measure(to_original(logits, frame, upsampling=upsampling), masks, ignored=ignored)
    masks = shrunk_masks(masks, frame.content)
    if ignored is not None:  # an object that shrinking has kept counts, also where the nearest pixel was ignored
        ignored = resize_nearest(ignored, frame.content) & ~masks
    return measure(to_content(logits, frame, upsampling=upsampling), masks, ignored=ignored)


def checked_logits(logits: Tensor, batch: Batch, view: View) -> Tensor:
    """The logits as float32.

    Raises:
        BadPrediction: they are not what ``predict`` must return.
    """
    logits = _shape_checked(logits, batch, view)
    if not torch.isfinite(logits).all():
        raise BadPrediction(_NOT_FINITE)
    return logits


def _shape_checked(logits: Tensor, batch: Batch, view: View) -> Tensor:
    """The logits as float32; whether they are finite is not checked, since that would wait for a GPU.

    Raises:
        BadPrediction: they have another shape or are not floats.
    """
    expected = (len(batch), view.grid, view.grid)
    if not isinstance(logits, Tensor) or tuple(logits.shape) != expected or not logits.is_floating_point():
        found = f"{logits.dtype} {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise BadPrediction(f"predict() must return float logits of shape {expected}, but returned {found}.")
    return logits.float()


def domain_means(scores: Sequence[ImageScore]) -> dict[str, float]:
    """The mean of each metric over the images; empty without images."""
    names = scores[0].values if scores else {}
    return {name: plain_sum(score.values[name] for score in scores) / len(scores) for name in names}
