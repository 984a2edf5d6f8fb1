"""Predicted masks that a run keeps for the example images of its record.

The best, the median and the worst test image are known only at the end. Until then ``steps/NNN.npz`` holds the masks of
a domain's test images right after it was learned, and of all columns after the last step: at a thumbnail's size, one
bit per pixel. Nothing here affects a score.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cosam_bench.core.files import replacing
from cosam_bench.data.prompt_settings import UNDRAWN
from cosam_bench.data.prompts import Prompts
from cosam_bench.data.samples import Domain
from cosam_bench.evaluation.metrics import METRICS
from cosam_bench.evaluation.scoring import Observer, ignore_predictions
from cosam_bench.experiments.experiment import Experiment
from cosam_bench.experiments.step_result import StepResult
from cosam_bench.results.examples import (
    Bools,
    Example,
    Examples,
    Prompt,
    choose,
    encode_image,
    encode_mask,
    thumbnail_size,
    write_examples,
)
from cosam_bench.results.records import STEPS
from cosam_bench.sam.frames import Frame, resize_nearest, to_original

_METRIC = "iou"  # by which examples are chosen


class ExampleMasks:
    """Keeps masks step by step in a record's folder, and turns them into ``examples.json`` at the end."""

    def __init__(self, experiment: Experiment, *, folder: Path) -> None:
        self._experiment = experiment
        self._folder = folder
        self._observed: dict[str, dict[int, Tensor]] = {}

    def observers(self, step: int) -> Callable[[str], Observer]:
        """For each column the observer of its predictions after ``step``."""
        self._observed = {}
        wanted = self._wanted(step)

        def of_column(name: str) -> Observer:
            return self._observer(self._observed.setdefault(name, {})) if name in wanted else ignore_predictions

        return of_column

    def _wanted(self, step: int) -> set[str]:
        """The columns whose masks are kept; all of a method without a state, whose first row counts for all steps."""
        experiment = self._experiment
        if step == experiment.steps[-1] or experiment.method.card.state == "none":
            return {domain.name for domain in experiment.columns}
        return {experiment.domains[step - 1].name}

    def _observer(self, kept: dict[int, Tensor]) -> Observer:
        upsampling = self._experiment.config.protocol.score.upsampling

        def observe(rows: Sequence[int], frames: Sequence[Frame], logits: Tensor) -> None:
            for row, frame, one in zip(rows, frames, logits, strict=True):
                mask = to_original(one, frame, upsampling=upsampling) > 0
                kept[row] = resize_nearest(mask, thumbnail_size(*frame.original))

        return observe

    def has(self, step: int) -> bool:
        """Whether masks were kept for ``step``."""
        return self._path(step).exists()

    def save(self, step: int) -> None:
        """Write what was observed, for ``step``.

        Raises:
            CannotWrite: the folder cannot be written.
        """
        arrays: dict[str, Any] = {}
        for name, kept in self._observed.items():
            masks = [kept[row].cpu().numpy() for row in sorted(kept)]
            if masks:
                arrays[f"{name}.sizes"] = np.array([mask.shape for mask in masks], dtype=np.int16)
                arrays[f"{name}.bits"] = np.packbits(np.concatenate([mask.ravel() for mask in masks]))
        with replacing(self._path(step)) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)
        self._observed = {}

    def reuse(self, step: int, *, of: int) -> None:
        """Take the masks of an earlier step, whose row counts for ``step`` too.

        Raises:
            CannotWrite: the folder cannot be written.
        """
        if self._path(of).exists():
            with replacing(self._path(step)) as temporary:
                shutil.copyfile(self._path(of), temporary)

    def _path(self, step: int) -> Path:
        return self._folder / STEPS / f"{step:03d}.npz"

    def write(self, results: Mapping[int, StepResult]) -> None:
        """Write ``examples.json``, unless the masks of the last step were lost.

        Args:
            results: the measured steps by number.

        Raises:
            CosamError: a test image cannot be read, or the file cannot be written.
        """
        last = self._experiment.steps[-1]
        final = self._read(last)
        examples: list[Example] = []
        for number, domain in enumerate(self._experiment.columns, start=1):
            if domain.name in final:
                has_step = number <= len(self._experiment.domains) and not self._experiment.method.card.all_at_once
                early = self._read(number).get(domain.name) if has_step else None
                scores = (results[number] if early else None, results[last])
                examples += self._of_domain(domain, early, final[domain.name], *scores)
        if examples:
            write_examples(self._folder, Examples(metric=_METRIC, examples=tuple(examples)))

    def _of_domain(
        self,
        domain: Domain,
        early: list[Bools] | None,
        final: list[Bools],
        result_before: StepResult | None,
        result_after: StepResult,
    ) -> list[Example]:
        after = [score.values[_METRIC] for score in result_after.scores[domain.name]]
        before = result_before.scores[domain.name] if result_before else None
        prompts = self._experiment.test_prompts[domain.name]
        examples = []
        for place, row in choose(after, is_higher_better=METRICS[_METRIC].better == "higher").items():
            sample = domain.test.read(row)
            height, width = thumbnail_size(*sample.mask.shape)
            examples.append(
                Example(
                    domain=domain.name,
                    key=sample.key,
                    place=place,
                    width=width,
                    height=height,
                    image=encode_image(sample.image.permute(1, 2, 0).contiguous().numpy()),
                    truth=encode_mask(resize_nearest(sample.mask, (height, width)).numpy()),
                    prompt=self._prompt(prompts, row, original=(sample.mask.shape[0], sample.mask.shape[1])),
                    before=encode_mask(early[row]) if early else None,
                    after=encode_mask(final[row]),
                    score_before=before[row].values[_METRIC] if before else None,
                    score_after=after[row],
                )
            )
        return examples

    def _prompt(self, prompts: Prompts, row: int, *, original: tuple[int, int]) -> Prompt:
        kind = self._experiment.config.protocol.prompts.test
        height, width = thumbnail_size(*original)
        scale = torch.tensor([width / original[1], height / original[0]])
        if kind == "points":
            points = tuple((round(x, 2), round(y, 2)) for x, y in (prompts.points[row] * scale).tolist())
            return Prompt(kind=kind, points=points)
        if kind in UNDRAWN:
            return Prompt(kind="box", box=(0.0, 0.0, float(width), float(height)))
        if kind == "box":
            x0, y0, x1, y1 = (round(part, 2) for part in (prompts.boxes[row] * scale.repeat(2)).tolist())
            return Prompt(kind=kind, box=(x0, y0, x1, y1))
        return Prompt(kind=kind, mask=encode_mask(resize_nearest(prompts.masks[row], (height, width)).numpy()))

    def _read(self, step: int) -> dict[str, list[Bools]]:
        """The masks of a step by column; nothing if they were lost or the file is damaged."""
        try:
            with np.load(self._path(step), allow_pickle=False) as arrays:
                found = {name: arrays[name] for name in arrays.files}
        except (OSError, ValueError, EOFError, BadZipFile):
            return {}
        masks = {}
        for domain in self._experiment.columns:
            sizes = found.get(f"{domain.name}.sizes")
            if sizes is not None and len(sizes) == len(domain.test):
                masks[domain.name] = _unpacked(found[f"{domain.name}.bits"], sizes)
        return masks


def _unpacked(bits: NDArray[np.uint8], sizes: NDArray[np.int16]) -> list[Bools]:
    """The masks, each of its size, in order."""
    areas = sizes.astype(np.int64).prod(axis=1)
    flat = np.unpackbits(bits, count=int(areas.sum())).astype(np.bool_)
    parts = np.split(flat, np.cumsum(areas)[:-1])
    return [part.reshape(tuple(size)) for part, size in zip(parts, sizes.tolist(), strict=True)]
