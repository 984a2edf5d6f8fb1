"""TIES: trim, elect a sign for each entry, merge the entries that agree; exact from sums of constant size.

Source: Yadav et al., "TIES-Merging: Resolving Interference When Merging Models", NeurIPS 2023 (arXiv
2306.01708), as FusionBench runs it. Per entry, with x_i the trimmed change of expert i and s the elected sign,
all that the merge asks of the experts are the sums and counts of their positive and of their negative x_i, or
the extrema; each can be kept as experts arrive (derived here).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from cosam_bench.merging.elementwise import check_same_parameters, order_statistics

Agreement: TypeAlias = Literal["sum", "mean", "max"]


def trim(changes: Mapping[str, Tensor], *, density: float) -> dict[str, Tensor]:
    """The changes with all but their largest entries set to zero, over all parameters together.

    Of d entries the ``int(density * d) + 1`` of largest magnitude stay, and all that equal the least of them;
    below density 1 the rank is that of the published code, at density 1, where that code raises, all stay.

    Args:
        changes: by parameter name, of any shapes and one dtype.
        density: share in (0, 1] of entries to keep; the paper's K.
    """
    magnitudes = torch.cat([change.abs().flatten() for change in changes.values()]) if changes else torch.zeros(0)
    dropped = len(magnitudes) - int(density * len(magnitudes))
    if dropped < 1:
        return dict(changes)
    (threshold,) = order_statistics(magnitudes, dropped - 1)
    del magnitudes
    return {name: change.where(change.abs() >= threshold, 0) for name, change in changes.items()}


def add_votes(votes: Mapping[str, Tensor], trimmed: Mapping[str, Tensor], *, merge: Agreement) -> dict[str, Tensor]:
    """The votes with those of one more expert.

    Args:
        votes: what this function returned for the expert before; empty at first.
        trimmed: by parameter name, the expert's change as ``trim`` left it.
        merge: what will be asked of the votes.

    Returns:
        By ``positive/<name>`` and ``negative/<name>``, in the changes' dtype, for ``sum`` and ``mean`` the sums
        of the positive and of the negative entries, for ``max`` the highest and the lowest entry, at least and
        at most 0; for ``mean`` also their counts, int16, under ``positive_count/`` and ``negative_count/``; for
        ``max`` the sum of all entries under ``total/``.

    Raises:
        CosamError: the experts do not change the same parameters.
    """
    if votes:
        check_same_parameters(dict(_of_kind(votes, "positive")), trimmed)
    result = {}
    for name, change in trimmed.items():
        for kind, entries in (("positive", change.clamp(min=0)), ("negative", change.clamp(max=0))):
            before = votes.get(f"{kind}/{name}")
            if merge == "max":
                extreme = torch.maximum if kind == "positive" else torch.minimum
                result[f"{kind}/{name}"] = entries if before is None else extreme(before, entries)
                continue
            result[f"{kind}/{name}"] = entries if before is None else before + entries
            if merge == "mean":
                count = (entries != 0).short()
                result[f"{kind}_count/{name}"] = votes.get(f"{kind}_count/{name}", 0) + count
        if merge == "max":
            result[f"total/{name}"] = votes.get(f"total/{name}", 0) + change
    return result


def elect(votes: Mapping[str, Tensor], *, merge: Agreement) -> dict[str, Tensor]:
    """The merged change by parameter name: of each entry, what the experts of the elected sign say.

    The sign of an entry is that of the sum over all experts. Where the sum is zero it is the sign that most
    entries of the model elected; where those are even, the negative entries count for ``sum`` and ``mean``, and
    0 is the result for ``max``, as in the published code.

    Args:
        votes: from ``add_votes`` with the same ``merge``.
        merge: ``sum`` of the entries that agree, their ``mean``, or the one of largest magnitude.
    """
    majority = sum(total.sign().sum().item() for _, total in _totals(votes, merge))
    merged = {}
    for name, total in _totals(votes, merge):
        sign = total if majority == 0 else total.where(total != 0, majority)
        positive, negative = votes[f"positive/{name}"], votes[f"negative/{name}"]
        if merge == "mean":
            positive = positive / votes[f"positive_count/{name}"].clamp(min=1)
            negative = negative / votes[f"negative_count/{name}"].clamp(min=1)
        merged[name] = positive.where(sign > 0, negative)
        if merge == "max":
            merged[name] = merged[name].where(sign != 0, 0)
    return merged


def _totals(votes: Mapping[str, Tensor], merge: Agreement) -> Iterator[tuple[str, Tensor]]:
    """The sum over experts of each parameter's entries, one parameter at a time."""
    if merge == "max":
        yield from _of_kind(votes, "total")
        return
    for name, positive in _of_kind(votes, "positive"):
        yield name, positive + votes[f"negative/{name}"]


def _of_kind(votes: Mapping[str, Tensor], kind: str) -> Iterator[tuple[str, Tensor]]:
    for key, value in votes.items():
        if key.startswith(f"{kind}/"):
            yield key.removeprefix(f"{kind}/"), value
