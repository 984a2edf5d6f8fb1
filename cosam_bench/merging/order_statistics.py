"""Exact order statistics over all entries of several tensors."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from cosam_bench.core.errors import CosamError
from cosam_bench.merging.updates import shapes_of


def order_statistics(tensors: Mapping[str, Tensor], *ranks: int, magnitudes: bool = False) -> list[Tensor]:
    """The entries at these ranks if all entries of all tensors were sorted, as scalars.

    Args:
        tensors: on the CPU, of any shapes and one dtype, with at least one entry. Each is read once and copied;
            numpy, which partitions the copy in a tenth of torch's time, has no bfloat16.
        ranks: each from 0 to the number of entries - 1.
        magnitudes: sort the entries' magnitudes.

    Raises:
        CosamError: an entry is not finite, or the tensors are bfloat16.

    >>> order_statistics({"x": torch.tensor([3.0, -1.0]), "y": torch.tensor([[2.0]])}, 0, 2)
    [tensor(-1.), tensor(3.)]
    """
    parts = iter(tensors.values())
    first = next(parts)
    if first.dtype == torch.bfloat16:
        raise CosamError("Entries in bfloat16 cannot be sorted. Give the changes in float32.")
    entries = torch.empty(sum(math.prod(shape) for shape in shapes_of(tensors).values()), dtype=first.dtype)
    begin = 0
    for part in itertools.chain([first], parts):
        end = begin + part.numel()
        entries[begin:end] = part.abs().reshape(-1) if magnitudes else part.reshape(-1)
        begin = end
    array = entries.numpy()
    if not np.isfinite(array).all():  # NaN is neither below nor above anything
        raise CosamError("An expert's changes are not finite: did its training diverge?")
    found = []
    for rank in ranks:  # one after another, since numpy is ten times slower at several together
        array.partition(rank)
        found.append(entries[rank].clone())
    return found
