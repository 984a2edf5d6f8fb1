"""Rules that merge changes entry by entry: running sums and means of whole weights, by parameter name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, TypeAlias

from pydantic import Field
from torch import Tensor

from cosam_bench.errors import CosamError

# The bounds stand in the type, because they are no bounds of the word "1/t".
Scale: TypeAlias = Annotated[float, Field(gt=0, allow_inf_nan=False)] | Literal["1/t"]


def add_expert(
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
    if merged is None:
        return {name: (share * change.double()).to(change.dtype) for name, change in changes.items()}
    check_same_parameters(merged, changes)
    kept = (step - 1) / step if scale == "1/t" else 1.0
    return {
        name: (kept * merged[name].double() + share * change.double()).to(change.dtype)
        for name, change in changes.items()
    }


def order_statistics(values: Tensor, *places: int) -> list[Tensor]:
    """The entries that would stand at these places, from 0, were the values sorted; without sorting them.

    Args:
        values: ``(d,)``, on the CPU.
        places: each from 0 to d - 1.
    """
    # numpy's selection works in place and keeps no indices, which torch's kthvalue holds three copies for.
    partitioned = values.detach().clone()
    partitioned.numpy().partition(places)
    return [partitioned[place] for place in places]


def check_same_parameters(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> None:
    """Refuse changes that are not of the same parameters in the same shapes.

    Raises:
        CosamError: naming the first parameter that differs.
    """
    for name in sorted(first.keys() | second.keys()):
        shapes = [tuple(changes[name].shape) if name in changes else "nothing" for changes in (first, second)]
        if shapes[0] != shapes[1]:
            raise CosamError(
                f"Two experts do not fit each other: at {name!r} one changes {shapes[0]}, the other {shapes[1]}. "
                "Merge only adapters of one base model and one adapter setting."
            )
