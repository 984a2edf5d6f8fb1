"""TIES: trim, elect a sign for each entry, merge the entries that agree; exact from sums of constant size.

Source: Yadav et al., "TIES-Merging: Resolving Interference When Merging Models", NeurIPS 2023 (arXiv
2306.01708), in FusionBench's version. With x_i the trimmed change of expert i, the merge of an entry needs only the
sums and counts, or the extrema, of the positive and of the negative x_i; these can be updated as experts arrive
(derived here).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from cosam_bench.merging.elementwise import entrywise
from cosam_bench.merging.order_statistics import order_statistics
from cosam_bench.merging.updates import LazyTensors, check_same_parameters, shapes_of

Agreement: TypeAlias = Literal["sum", "mean", "max"]

# The running votes of each entry; the last one has the changes' dtype.
_KINDS: dict[Agreement, tuple[str, ...]] = {
    "sum": ("positive", "negative"),
    "mean": ("positive_count", "negative_count", "positive", "negative"),
    "max": ("positive", "negative", "total"),
}


def trim(changes: Mapping[str, Tensor], *, density: float) -> Mapping[str, Tensor]:
    """The changes, computed when read, with all but the largest entries of all parameters together set to zero.

    Of d entries the ``int(density * d) + 1`` of largest magnitude stay, as in the published code, and any others
    that equal the smallest of them. At density 1, for which that code raises, all stay.

    Args:
        changes: by parameter name, of any shapes and one dtype.
        density: share in (0, 1] of entries to keep; the paper's K.

    Raises:
        CosamError: below density 1, an entry is not finite.
    """
    shapes = shapes_of(changes)
    count = sum(math.prod(shape) for shape in shapes.values())
    dropped = count - int(density * count)
    if dropped < 1:
        return changes
    (threshold,) = order_statistics(changes, dropped - 1, magnitudes=True)

    def cut(change: Tensor) -> Tensor:
        return change.where(change.abs() >= threshold, 0)

    return LazyTensors(shapes, lambda name: entrywise(cut, changes[name]))


def add_votes(votes: Mapping[str, Tensor], trimmed: Mapping[str, Tensor], *, merge: Agreement) -> dict[str, Tensor]:
    """The running votes with one more expert's votes added.

    Args:
        votes: the result for the previous expert; empty before the first.
        trimmed: the expert's change by parameter name, from ``trim``.
        merge: how ``elect`` will use the votes.

    Returns:
        Under ``positive/<name>`` and ``negative/<name>``, in the changes' dtype: for ``sum`` and ``mean`` the sums
        of the positive and of the negative entries; for ``max`` the highest and the lowest entry, or 0 if all have
        the other sign. For ``mean`` also their counts, int16, under ``positive_count/`` and ``negative_count/``; for
        ``max`` the sum of all entries under ``total/``.

    Raises:
        CosamError: the experts do not change the same parameters.
    """
    if votes:
        check_same_parameters(dict(_of_kind(votes, "positive")), trimmed)
    result: dict[str, Tensor] = {}
    for name, change in trimmed.items():
        before = {kind: votes[f"{kind}/{name}"] for kind in _KINDS[merge]} if votes else {}
        result |= {f"{kind}/{name}": vote for kind, vote in _with_vote(before, change, merge).items()}
    return result


def _with_vote(votes: Mapping[str, Tensor], change: Tensor, merge: Agreement) -> dict[str, Tensor]:
    """The votes on some entries by kind, with one more expert's added; ``votes`` is empty before the first."""
    result = {}
    for kind, entries in (("positive", change.clamp(min=0)), ("negative", change.clamp(max=0))):
        before = votes.get(kind)
        if merge == "max":
            extreme = torch.maximum if kind == "positive" else torch.minimum
            result[kind] = entries if before is None else extreme(before, entries)
            continue
        if merge == "mean":
            result[f"{kind}_count"] = votes.get(f"{kind}_count", 0) + (entries != 0).short()
        result[kind] = entries if before is None else entries.add_(before)
    if merge == "max":
        result["total"] = votes.get("total", 0) + change
    return result


def elect(votes: Mapping[str, Tensor], *, merge: Agreement) -> dict[str, Tensor]:
    """The merged change by parameter name: each entry is merged from the experts that have the elected sign.

    The sign of an entry is that of the sum over all experts. If the sum is zero, it is the sign that most entries
    of the model elected; if those are even, ``sum`` and ``mean`` take the negative entries and ``max`` gives 0, as
    in the published code.

    Args:
        votes: from ``add_votes`` with the same ``merge``.
        merge: ``sum`` of the entries that agree, their ``mean``, or the one of largest magnitude.
    """
    kinds = _KINDS[merge]
    shapes = shapes_of(dict(_of_kind(votes, "positive")))

    def kept(name: str) -> list[Tensor]:
        return [votes[f"{kind}/{name}"] for kind in kinds]

    return dict(_elected(shapes, kept, lambda *pieces: dict(zip(kinds, pieces, strict=True)), merge))


def elect_between(experts: Sequence[Mapping[str, Tensor]], *, merge: Agreement) -> Mapping[str, Tensor]:
    """The same from all experts' trimmed changes at once, computed when read; no votes are kept.

    Raises:
        CosamError: the experts do not change the same parameters.
    """
    for expert in experts[1:]:
        check_same_parameters(experts[0], expert)

    def count(*changes: Tensor) -> Mapping[str, Tensor]:
        votes: dict[str, Tensor] = {}
        for change in changes:
            votes = _with_vote(votes, change, merge)
        return votes

    return _elected(shapes_of(experts[0]), lambda name: [expert[name] for expert in experts], count, merge)


def _elected(
    shapes: Mapping[str, tuple[int, ...]],
    kept: Callable[[str], Sequence[Tensor]],
    count: Callable[..., Mapping[str, Tensor]],
    merge: Agreement,
) -> LazyTensors:
    """The elected changes, computed when read.

    Args:
        kept: maps a parameter's name to the tensors that are kept of it.
        count: maps pieces of those to the votes on them by kind.
    """

    @cache
    def majority() -> float:
        return sum(entrywise(lambda *pieces: total(count(*pieces)).sign(), *kept(name)).sum().item() for name in shapes)

    def total(votes: Mapping[str, Tensor]) -> Tensor:
        return votes["total"] if merge == "max" else votes["positive"] + votes["negative"]

    def elected(*pieces: Tensor) -> Tensor:
        votes = count(*pieces)
        sign, positive, negative = total(votes), votes["positive"], votes["negative"]
        is_even = (sign == 0) & (positive != 0)  # any other sum of zero means that nobody voted
        if is_even.any():
            sign = sign.where(~is_even, majority())
        if merge == "mean":
            positive = positive / votes["positive_count"].clamp(min=1)
            negative = negative / votes["negative_count"].clamp(min=1)
        merged = positive.where(sign > 0, negative)
        return merged.where(sign != 0, 0) if merge == "max" else merged

    return LazyTensors(shapes, lambda name: entrywise(elected, *kept(name)))


def _of_kind(votes: Mapping[str, Tensor], kind: str) -> Iterator[tuple[str, Tensor]]:
    for key, value in votes.items():
        if key.startswith(f"{kind}/"):
            yield key.removeprefix(f"{kind}/"), value
