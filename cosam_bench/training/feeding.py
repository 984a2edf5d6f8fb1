"""Batches drawn and prepared while the device computes: one thread makes the random choices, others the samples.

The choices come in the same order, and the samples have the same bits, however many threads there are. What is under
way is bounded: with ``n`` threads, the samples of ``2 n`` rows and the batches of ``prefetch_depth``; with jitter, also
``2 n`` samples that are read ahead for the choices, and those of the batches that are cut already.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from inspect import GEN_RUNNING, getgeneratorstate
from itertools import chain, islice
from threading import Lock

import torch

from cosam_bench.core.devices import loading_threads, machine_memory_bytes
from cosam_bench.core.prefetch import map_in, prefetch, prefetch_threads
from cosam_bench.data.prompt_settings import TrainPrompt
from cosam_bench.data.prompts import Prompts
from cosam_bench.data.samples import Sample
from cosam_bench.sam.inputs import View
from cosam_bench.training.draws import Draws, draw_choices
from cosam_bench.training.fit_settings import FitSettings
from cosam_bench.training.prepared_sample import PreparedSample, prepare_drawn
from cosam_bench.training.sampling import sample_epochs
from cosam_bench.training.training_batch import HostBatch, assemble

_MOST_KEPT_BYTES = 4 << 30  # 960 samples at 1024 pixels, half of them mirrored; at most a sixteenth of the memory


@contextmanager
def training_feed(
    samples: Sequence[Sample],
    prompts: Prompts,
    *,
    fit: FitSettings,
    prompt_kind: TrainPrompt,
    view: View,
    order: torch.Generator,
    with_digests: bool,
) -> Iterator[Iterator[tuple[int, HostBatch]]]:
    """The batches of a training, prepared as suits the device; threads end with the context, after their current items.

    Arguments as for ``host_batches``.
    """
    device = view.device
    batches = host_batches(
        samples,
        prompts,
        fit=fit,
        prompt_kind=prompt_kind,
        view=view,
        order=order,
        with_digests=with_digests,
        workers=preparing_threads(device),
        kept_bytes=kept_bytes(device),
    )
    try:
        with closing(prefetch(batches, depth=prefetch_depth(device))) as ready:
            yield ready
    finally:
        if getgeneratorstate(batches) != GEN_RUNNING:  # after a second interrupt, prefetch's thread may still be in it
            batches.close()


def host_batches(
    samples: Sequence[Sample],
    prompts: Prompts,
    *,
    fit: FitSettings,
    prompt_kind: TrainPrompt,
    view: View,
    order: torch.Generator,
    with_digests: bool,
    workers: int = 0,
    kept_bytes: int = 0,
) -> Generator[tuple[int, HostBatch], None, None]:
    """The epoch, counted from 0, and the batch of each step of a training, on the CPU.

    An error in reading a sample is raised when the turn of its batch comes.

    Args:
        samples: equal whenever they are read; several threads may read at the same time.
        prompts: one row per sample.
        order: draws the order of samples when an epoch begins, and each batch as ``draw_choices`` does.
        with_digests: compute the keys of cached features in advance, so that a step need not wait for them.
        workers: threads that decode and prepare samples; 0 prepares a batch when it is asked for.
        kept_bytes: of prepared samples that are kept for later epochs; jittered ones, which never come again, are not.
    """
    points = prompts.points.shape[1]
    kept = _KeptSamples(0 if fit.jitter else kept_bytes)

    def prepared(row: _Row) -> tuple[_Row, PreparedSample]:
        key = (row.draws.indices[row.number], row.draws.flips[row.number])
        sample = kept.read(key)
        if sample is None:
            sample = prepare_drawn(
                samples, row.draws, row.number, fit=fit, view=view, points=points, with_digest=with_digests
            )
            kept.keep(key, sample)
        return row, sample

    with prefetch_threads(workers) as threads:
        drawn = _drawn(
            samples,
            threads,
            depth=2 * workers,
            fit=fit,
            prompt_kind=prompt_kind,
            points=points,
            size=view.size,
            order=order,
        )
        rows = (_Row(epoch, draws, number) for epoch, draws in drawn for number in range(len(draws)))
        batch: list[PreparedSample] = []
        for row, sample in map_in(threads, prepared, rows, depth=2 * workers):
            batch.append(sample)
            if len(batch) == len(row.draws):
                yield row.epoch, assemble(batch, prompts, row.draws, view=view)
                batch = []


def _drawn(
    samples: Sequence[Sample],
    threads: ThreadPoolExecutor | None,
    *,
    depth: int,
    fit: FitSettings,
    prompt_kind: TrainPrompt,
    points: int,
    size: int,
    order: torch.Generator,
) -> Iterator[tuple[int, Draws]]:
    """The epoch and the random choices of each step; for jitter, samples are read ahead until the epoch ends."""
    for epoch, batches in sample_epochs(fit, count=len(samples), order=order):
        read = map_in(threads, lambda index: samples[index], chain.from_iterable(batches), depth=depth)
        for indices in batches:
            chosen = islice(read, len(indices))
            draws = draw_choices(
                indices, chosen, fit=fit, prompt_kind=prompt_kind, points=points, size=size, order=order
            )
            yield epoch, draws


@dataclass(frozen=True)
class _Row:
    """A row of a batch; ``epoch`` is counted from 0."""

    epoch: int
    draws: Draws
    number: int


class _KeptSamples:
    """Prepared samples by number and whether they are mirrored, until they fill a number of bytes."""

    def __init__(self, limit_bytes: int) -> None:
        self._free_bytes = limit_bytes
        self._kept: dict[tuple[int, bool], PreparedSample] = {}
        self._lock = Lock()

    def read(self, key: tuple[int, bool]) -> PreparedSample | None:
        return self._kept.get(key)

    def keep(self, key: tuple[int, bool], sample: PreparedSample) -> None:
        if self._free_bytes <= 0:
            return
        size_bytes = sample.size_bytes
        with self._lock:
            if key not in self._kept and size_bytes <= self._free_bytes:
                self._free_bytes -= size_bytes
                self._kept[key] = sample


def prefetch_depth(device: torch.device) -> int:
    """How many batches are drawn during a training step: none on the CPU, which has no time to spare for it."""
    return 2 if device.type == "cuda" else 0


def preparing_threads(device: torch.device) -> int:
    """How many threads prepare samples for the one that draws: as many as load test images, if they are several."""
    threads = loading_threads() if device.type == "cuda" else 0
    return threads if threads > 1 else 0


def kept_bytes(device: torch.device) -> int:
    """The limit of the prepared samples kept between epochs: none on the CPU, where steps take much longer."""
    if device.type != "cuda":
        return 0
    return min(_MOST_KEPT_BYTES, (machine_memory_bytes() or _MOST_KEPT_BYTES) // 16)
