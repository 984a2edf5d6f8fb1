"""Merging changes entry by entry: running sums and means of whole weights, by parameter name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from cosam_bench.core.errors import CosamError
from cosam_bench.merging.scale import Scale
from cosam_bench.merging.updates import check_same_parameters

_CHUNK = 2**16  # entries; of float64, half a MiB


def add_task_vector(
    merged: Mapping[str, Tensor] | None, changes: Mapping[str, Tensor], *, scale: Scale, step: int
) -> dict[str, Tensor]:
    """The merged change with one more expert's task vector added.

    A fixed scale gives ``M + scale * tau``, so ``scale * sum_i tau_i`` in the end; ``1/t`` gives the running mean
    ``(t - 1)/t M + tau/t``.

    Args:
        merged: the result for the previous expert; None before the first.
        changes: the new expert's dW by parameter name, of any shapes.
        scale: the factor of each expert; ``1/t`` for the mean.
        step: t, 1 for the first expert.

    Returns:
        By parameter name, summed in float64 and rounded to the dtype of ``changes``.

    Raises:
        CosamError: the experts do not change the same parameters.

    Source: Ilharco et al., "Editing Models with Task Arithmetic", ICLR 2023; the recursive forms are those of
    FusionBench's continual baselines.
    """
    share = 1 / step if scale == "1/t" else scale
    kept = (step - 1) / step if scale == "1/t" else 1.0
    if merged is None:
        return {name: entrywise(lambda new: share * new.double(), change) for name, change in changes.items()}
    check_same_parameters(merged, changes)
    return {
        name: entrywise(lambda old, new: kept * old.double() + share * new.double(), merged[name], change)
        for name, change in changes.items()
    }


def entrywise(rule: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """``rule`` applied to tensors of one shape, entry by entry; the result has the last one's dtype and shape.

    The rule sees some thousand entries at a time, so its intermediate results stay in the processor's cache.

    Args:
        rule: maps equally long pieces ``(d,)`` of the tensors to a piece of the result.

    Raises:
        CosamError: the tensors' shapes differ.

    >>> entrywise(lambda one, other: one * other, torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0]))
    tensor([3., 8.])
    """
    return entrywise_multi(lambda *pieces: (rule(*pieces),), *tensors, results=1)[0]


def entrywise_multi(rule: Callable[..., Sequence[Tensor]], *tensors: Tensor, results: int) -> list[Tensor]:
    """The same as ``entrywise`` for a rule with this many results."""
    last = tensors[-1]
    made = [torch.empty_like(last, memory_format=torch.contiguous_format) for _ in range(results)]
    for pieces in _chunks(*made, *tensors):
        for piece, values in zip(pieces[:results], rule(*pieces[results:]), strict=True):
            piece.copy_(values)
    return made


def _chunks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    shapes = dict.fromkeys(tuple(tensor.shape) for tensor in tensors)
    if len(shapes) > 1:
        raise CosamError(
            f"Tensors of different shapes cannot be merged entry by entry: {' and '.join(map(str, shapes))}. "
            "Merge only adapters of one base model with the same adapter settings."
        )
    flat = [tensor.reshape(-1) for tensor in tensors]
    for begin in range(0, len(flat[0]), _CHUNK):
        yield tuple(tensor[begin : begin + _CHUNK] for tensor in flat)
