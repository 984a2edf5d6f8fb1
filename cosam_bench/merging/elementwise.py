"""Rules that merge changes entry by entry: running sums and means of whole weights, by parameter name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from cosam_bench.core.errors import CosamError
from cosam_bench.merging.scale import Scale
from cosam_bench.merging.updates import shapes_of

_CHUNK = 2**16  # entries; of float64, half a MiB


def add_task_vector(
    merged: Mapping[str, Tensor] | None, changes: Mapping[str, Tensor], *, scale: Scale, step: int
) -> dict[str, Tensor]:
    """The merged change with one more expert in it.

    A fixed scale gives ``M + scale * tau``, so ``scale * sum_i tau_i`` after all; ``1/t`` gives the running mean
    ``(t - 1)/t M + tau/t``.

    Args:
        merged: what this function returned for the expert before; none at first.
        changes: by parameter name, dW of any shape.
        scale: of each expert; ``1/t`` for the mean.
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
    """What ``rule`` makes of tensors of one shape, entry by entry, in the last one's dtype and shape.

    The rule sees some thousand entries at a time, so what it makes on the way stays in the processor's cache.

    Args:
        rule: from equally long pieces of the tensors, ``(d,)``, to a piece of the result.

    Raises:
        CosamError: the tensors' shapes differ.

    >>> entrywise(lambda one, other: one * other, torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0]))
    tensor([3., 8.])
    """
    return entrywise_multi(lambda *pieces: (rule(*pieces),), *tensors, results=1)[0]


def entrywise_multi(rule: Callable[..., Sequence[Tensor]], *tensors: Tensor, results: int) -> list[Tensor]:
    """As ``entrywise``, for a rule that makes this many results together."""
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
            "Merge only adapters of one base model and one adapter setting."
        )
    flat = [tensor.reshape(-1) for tensor in tensors]
    for begin in range(0, len(flat[0]), _CHUNK):
        yield tuple(tensor[begin : begin + _CHUNK] for tensor in flat)


def check_same_parameters(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> None:
    """Refuse changes that are not of the same parameters in the same shapes.

    Raises:
        CosamError: naming the first parameter that differs.
    """
    mine, others = shapes_of(first), shapes_of(second)
    for name in sorted(mine.keys() | others.keys()):
        one, other = mine.get(name, "nothing"), others.get(name, "nothing")
        if one != other:
            raise CosamError(
                f"Two experts do not fit each other: at {name!r} one changes {one}, the other {other}. "
                "Merge only adapters of one base model and one adapter setting."
            )
