"""Training batches: augmented samples, their prompts, and the masks that the loss compares with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cosam_bench.core.devices import to_device_async
from cosam_bench.core.seeds import torch_generator
from cosam_bench.data.prompt_settings import TestPrompt, TrainPrompt
from cosam_bench.data.prompts import Prompts
from cosam_bench.data.samples import Sample
from cosam_bench.sam.frame_prompts import FramePrompts, prompts_in_frame
from cosam_bench.sam.inputs import Batch, BatchInputs, ModelInput, View
from cosam_bench.training.augmentation import mirror_prompts, replace_rows
from cosam_bench.training.draws import Draws, draw_choices
from cosam_bench.training.fit_settings import FitSettings
from cosam_bench.training.losses import draw_point_candidates
from cosam_bench.training.prepared_sample import PreparedSample, prepare, prepare_drawn


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


@dataclass(frozen=True)
class HostBatch:
    """A training batch on the CPU, before it is put on the device; attributes as those of ``TrainingBatch``.

    Attributes:
        inputs: the images, one per row.
    """

    inputs: tuple[ModelInput, ...]
    prompts: FramePrompts
    target: Tensor
    weights: Tensor | None = None
    masks: Tensor | None = None
    ignored: Tensor | None = None
    point_candidates: Tensor | None = None
    is_unique: bool = False

    def __len__(self) -> int:
        """The number of images."""
        return len(self.inputs)

    def placed(self, *, view: View) -> tuple[Batch, Tensor]:
        """The batch and its target masks on the device of the view; a GPU is not waited for."""

        def put(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else to_device_async(tensor, view.device)

        images, target = view.stack(self.inputs), to_device_async(self.target, view.device)
        prompts, inputs = self.prompts.to(view.device), BatchInputs.of(images, self.inputs)
        if not self.is_unique and self.masks is None and self.weights is None:
            return Batch(images, prompts, None, inputs), target
        batch = TrainingBatch(
            images,
            prompts,
            None,
            inputs,
            target=target,
            weights=put(self.weights),
            masks=put(self.masks),
            ignored=put(self.ignored),
            point_candidates=put(self.point_candidates),
            is_unique=self.is_unique,
        )
        return batch, target


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
        order: draws as ``draw_choices`` does.
    """
    points = prompts.points.shape[1]
    chosen = (samples[index] for index in indices)
    draws = draw_choices(indices, chosen, fit=fit, prompt_kind=prompt_kind, points=points, size=view.size, order=order)
    rows = [prepare_drawn(samples, draws, row, fit=fit, view=view, points=points) for row in range(len(draws))]
    return assemble(rows, prompts, draws, view=view).placed(view=view)


def assemble(rows: Sequence[PreparedSample], prompts: Prompts, draws: Draws, *, view: View) -> HostBatch:
    """The batch of some draws.

    Args:
        rows: the prepared samples of the draws.
        prompts: one row per sample of the domain.
    """
    widths = [row.input.frame.original[1] for row in rows]
    own = mirror_prompts(prompts.take(draws.indices), widths=widths, flips=torch.tensor(draws.flips))
    is_unique = draws.jittered is not None
    if is_unique:
        own = replace_rows(own, [(row, one.prompts) for row, one in enumerate(rows) if one.prompts is not None])
    return _stacked(
        rows, own, kinds=draws.kinds, view=view, point_candidates=draws.point_candidates, is_unique=is_unique
    )


def with_targets(
    samples: Sequence[Sample],
    prompts: Prompts,
    *,
    kinds: Sequence[TestPrompt],
    view: View,
    fit: FitSettings | None = None,
) -> tuple[Batch, Tensor]:
    """The batch of some samples as they are, and their masks ``(B, h, w)``, float in [0, 1], on the logits' grid.

    Args:
        fit: the training whose loss the batch is for, of which the samples' keys decide the points; None: a loss on
            the logits' grid.
    """
    rows = [prepare(sample, fit=fit, view=view) for sample in samples]
    candidates = None
    if fit is not None and fit.loss_points:
        order = torch_generator("places", *(sample.key for sample in samples))
        candidates = draw_point_candidates(len(samples), count=fit.loss_points, order=order)
    batch = _stacked(rows, prompts, kinds=kinds, view=view, point_candidates=candidates, is_unique=False)
    return batch.placed(view=view)


def _stacked(
    rows: Sequence[PreparedSample],
    prompts: Prompts,
    *,
    kinds: Sequence[TestPrompt],
    view: View,
    point_candidates: Tensor | None,
    is_unique: bool,
) -> HostBatch:
    """The batch of some prepared samples; ``prompts`` and ``kinds`` have a row for each."""
    inputs = tuple(row.input for row in rows)
    placed = prompts_in_frame(
        prompts,
        rows=range(len(rows)),
        frames=[one.frame for one in inputs],
        kinds=kinds,
        grid=view.grid,
        mask_levels=view.mask_levels,
        grid_side=view.grid_side,
    )
    target = torch.stack([row.target for row in rows])
    ignored_target = _stacked_or_none([row.ignored_target for row in rows], like=target)
    weights = None if ignored_target is None else (1 - ignored_target).clamp(min=0)
    masks = _stacked_or_none([row.mask for row in rows])
    ignored = None if masks is None else _stacked_or_none([row.ignored for row in rows], like=masks)
    return HostBatch(
        inputs,
        placed,
        target if weights is None else counted_share(target, weights),
        weights=weights,
        masks=masks,
        ignored=ignored,
        point_candidates=point_candidates,
        is_unique=is_unique,
    )


def _stacked_or_none(parts: Sequence[Tensor | None], *, like: Tensor | None = None) -> Tensor | None:
    """The parts as one tensor; None if there are none, and zeros where one is missing, in the shape of ``like``."""
    if all(part is None for part in parts):
        return None
    nothing = None if like is None else torch.zeros_like(like[0])
    return torch.stack([part if part is not None else nothing for part in parts])  # type: ignore[misc]


def counted_share(foreground: Tensor, weights: Tensor) -> Tensor:
    """The share of what counts that is foreground, 0 where nothing counts.

    Args:
        foreground: float, in [0, 1], shares of whole cells.
        weights: as ``foreground``, the shares of cells that count.
    """
    return (foreground / weights.clamp(min=torch.finfo(weights.dtype).eps)).clamp(max=1)
