"""The ranks that methods may have: all pairs tested, with Holm's correction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cosam_bench.core.errors import CosamError
from cosam_bench.evaluation.contributions import Contributions, Floats, by_run
from cosam_bench.evaluation.intervals import moments, p_values


def holm(p: Sequence[float] | Floats) -> list[float]:
    """The p values adjusted for their number, in the given order; NaN stays NaN and is not counted.

    Source: Holm, "A Simple Sequentially Rejective Multiple Test Procedure", 1979.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    given = np.asarray(p, dtype=np.float64)
    known = int((~np.isnan(given)).sum())
    lowest_first = np.argsort(given, kind="stable")[:known]  # NaN last
    adjusted = np.full(len(given), math.nan)
    adjusted[lowest_first] = np.maximum.accumulate(np.minimum(1.0, given[lowest_first] * (known - np.arange(known))))
    return adjusted.tolist()


@dataclass(frozen=True)
class RankInterval:
    """The ranks that a method may have: 1 + significantly better ones, to M - significantly worse ones."""

    best: int
    worst: int


def rank_intervals(
    methods: Sequence[Sequence[Contributions]], *, is_higher_better: bool, level: float = 0.95
) -> list[RankInterval]:
    """For each method the ranks that are possible, all pairs tested with Holm's correction at ``1 - level``.

    A pair is tested on the seeds and orders that both have; without any it is not separable.

    Args:
        methods: the runs of each; all with the same images.
        is_higher_better: whether a higher figure is the better one.
        level: the tests' family-wise error is ``1 - level``.

    Raises:
        CosamError: a method has a seed and order twice, or the images are not the same.
    """
    count = len(methods)
    estimates, p = _all_pairs(methods)
    pairs = np.triu_indices(count, 1)
    is_clear = np.zeros((count, count), dtype=bool)
    is_clear[pairs] = np.array(holm(p[pairs])) < 1 - level
    first_better = is_clear & ((estimates > 0) == is_higher_better)
    second_better = is_clear & ~first_better
    ahead = second_better.sum(axis=1) + first_better.sum(axis=0)
    behind = first_better.sum(axis=1) + second_better.sum(axis=0)
    return [RankInterval(1 + int(more), count - int(less)) for more, less in zip(ahead, behind, strict=True)]


def _all_pairs(methods: Sequence[Sequence[Contributions]]) -> tuple[Floats, Floats]:
    """``(M, M)`` each, above the diagonal: the row's figure minus the column's, and its p value, NaN if unknown."""
    count = len(methods)
    estimates, p = np.full((count, count), math.nan), np.full((count, count), math.nan)
    places, is_run, arrays = _tables(methods)
    for one in range(count - 1):
        # All pairs with the same common runs at once: a hundred methods have 5,000 pairs.
        common = is_run[one] & is_run[one + 1 :]
        for pattern in np.unique(common, axis=0):
            runs = np.flatnonzero(pattern)
            if not runs.size:
                continue
            others = one + 1 + np.flatnonzero((common == pattern).all(axis=1))
            found = moments(
                {name: array[one, runs] - array[np.ix_(others, runs)] for name, array in arrays.items()},
                [places[run] for run in runs],
            )
            estimates[one, others], p[one, others] = found[0], p_values(*found)
    return estimates, p


def _tables(
    methods: Sequence[Sequence[Contributions]],
) -> tuple[list[tuple[int, tuple[str, ...]]], NDArray[np.bool_], dict[str, Floats]]:
    """All seeds and orders, ``(M, runs)``: who has which, and by domain ``(M, runs, images)``: the contributions."""
    by_place = [by_run(runs) for runs in methods]
    places = list(dict.fromkeys(place for runs in by_place for place in runs))
    is_run = np.array([[place in runs for place in places] for runs in by_place], dtype=bool)
    every = [run for runs in methods for run in runs]
    if any(run.keys != every[0].keys for run in every):
        raise CosamError("The runs do not have the same test images. Compare runs on the same data.")
    arrays = {
        name: np.full((len(methods), len(places), len(keys)), math.nan)
        for name, keys in (every[0].keys.items() if every else ())
    }
    for method, runs in enumerate(by_place):
        for index, place in enumerate(places):
            if place in runs:
                for name, array in arrays.items():
                    array[method, index] = runs[place].values[name]
    return places, is_run, arrays
