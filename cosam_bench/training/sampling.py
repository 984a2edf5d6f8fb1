"""Which samples each training step sees."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from cosam_bench.core.errors import CosamError
from cosam_bench.sam.inputs import chunks
from cosam_bench.training.fit_settings import FitSettings


def sample_batches(fit: FitSettings, *, count: int, order: torch.Generator) -> Iterator[tuple[int, list[int]]]:
    """Yield the epoch, counted from 0, and the samples of each step of the whole training.

    Args:
        count: how many samples there are; each epoch passes over them in a new order.
        order: draws that order when the epoch begins.

    Raises:
        CosamError: there are too few samples for one whole batch, and only whole ones are used.
    """
    for epoch, batches in sample_epochs(fit, count=count, order=order):
        for indices in batches:
            yield epoch, indices


def sample_epochs(fit: FitSettings, *, count: int, order: torch.Generator) -> Iterator[tuple[int, list[list[int]]]]:
    """As ``sample_batches``, all steps of an epoch at once."""
    for epoch in range(fit.epochs):
        yield epoch, epoch_batches(torch.randperm(count, generator=order).tolist(), fit)


def images_seen(count: int, fit: FitSettings) -> int:
    """How many images the whole training on ``count`` samples sees, counting those of each epoch."""
    return fit.epochs * sum(map(len, epoch_batches(range(count), fit)))


def epoch_batches(rows: Sequence[int], fit: FitSettings) -> list[list[int]]:
    """The rows of an epoch, in their order, in batches.

    With several ranks, only the first one's share is used: every ``ranks``-th row, as torch's ``DistributedSampler``
    distributes them. (The rows that it repeats to make all shares equal never go to the first rank.)

    Raises:
        CosamError: ``drop_last`` leaves none.
    """
    share = rows[:: fit.ranks]
    batches = list(chunks(share, size=fit.batch_size))
    if fit.drop_last and len(batches[-1]) < fit.batch_size:
        batches.pop()
    if not batches:
        raise CosamError(
            f"fit.drop_last leaves nothing to train on: {len(share)} samples do not fill a batch of "
            f"{fit.batch_size}. Lower fit.batch_size or set fit.drop_last = false."
        )
    return batches
