"""A figure, or the difference of two methods' figures, with a t interval over images and runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cosam_bench.evaluation.contributions import Contributions, Floats, Place, aligned

Basis = Literal["images and runs", "images", "none"]


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval.

    Attributes:
        estimate: the mean over runs.
        low: the lower end; NaN if nothing tells how wide the interval is.
        high: the upper end.
        standard_error: of the estimate.
        degrees_of_freedom: of the t distribution (Satterthwaite).
        p: two-sided, of the hypothesis that the true value is 0.
        level: the nominal coverage.
        basis: ``images`` if there is one run only: such an interval says nothing about other seeds and orders.
        runs: how many there are.
    """

    estimate: float
    low: float
    high: float
    standard_error: float
    degrees_of_freedom: float
    p: float
    level: float
    basis: Basis
    runs: int

    @classmethod
    def unknown(cls, estimate: float, *, level: float, runs: int) -> Interval:
        """An estimate of which nothing tells how far off it may be."""
        nan = math.nan
        return cls(estimate, nan, nan, nan, nan, nan, level, "none", runs)


def basis_of(runs: int) -> Basis:
    """What an interval of so many runs is based on."""
    return "images and runs" if runs > 1 else "images"


def interval(runs: Sequence[Contributions], *, level: float = 0.95) -> Interval:
    """The mean figure of some runs of one method, with its t interval.

    The variance is the sum of two parts. Images: ``sum_j var_i(mean over runs of c[j][i]) / n_j``. Runs, with y the
    figure of each run and O orders and S seeds: ``max(MS_o + MS_s - MS_os, MS_o, MS_s) / (O S)`` of the two-way
    analysis of variance; with one order or one seed ``var(y) / runs``.

    Args:
        runs: one per seed and order; images that not all of them have are left out.
        level: the nominal coverage, in (0, 1).

    Raises:
        CosamError: there is no run, a seed and order occurs twice, or the runs have no image of a domain in common.
    """
    from scipy import special

    arrays = {name: array[None] for name, array in aligned(runs).items()}
    if not arrays:
        return Interval.unknown(0.0, level=level, runs=len(runs))
    found = moments(arrays, [(run.seed, run.order) for run in runs])
    estimate, variance, freedom, p = (float(each[0]) for each in (*found, p_values(*found)))
    if not variance >= 0 or not math.isfinite(estimate):
        return Interval.unknown(estimate, level=level, runs=len(runs))
    error = math.sqrt(variance)
    half = float(special.stdtrit(freedom, (1 + level) / 2)) * error if error else 0.0
    basis = basis_of(len(runs))
    return Interval(estimate, estimate - half, estimate + half, error, freedom, p, level, basis, len(runs))


def moments(arrays: Mapping[str, Floats], places: Sequence[Place]) -> tuple[Floats, Floats, Floats]:
    """Of n figures the estimates, their variances, and Satterthwaite's degrees of freedom, each ``(n,)``.

    Args:
        arrays: by domain, ``(n, runs, images)``: contributions. At least one domain.
        places: of each run, the seed and order.
    """
    figures: Floats = np.sum([array.mean(axis=2) for array in arrays.values()], axis=0)
    parts = [_of_images(array) for array in arrays.values()]
    if len(places) > 1:
        parts.append(_of_runs(figures, places))
    variance, squares = (np.sum([part[index] for part in parts], axis=0) for index in (0, 1))
    freedom = np.divide(variance**2, squares, out=np.full(len(figures), math.inf), where=squares != 0)
    return np.sum([array.mean(axis=(1, 2)) for array in arrays.values()], axis=0), variance, freedom


def p_values(estimate: Floats, variance: Floats, freedom: Floats) -> Floats:
    """Two-sided, of the hypotheses that the true values are 0; NaN if a variance is unknown."""
    from scipy import special

    with np.errstate(divide="ignore", invalid="ignore"):
        p: Floats = 2 * special.stdtr(freedom, -np.abs(estimate) / np.sqrt(variance))
    return np.where(variance == 0, (estimate == 0).astype(float), p)


def _of_images(array: Floats) -> tuple[Floats, Floats]:
    """A domain's part of the variance, and its square by its degrees of freedom; NaN for a single image with a share.

    Args:
        array: ``(n, runs, images)``.
    """
    count = array.shape[2]
    if count < 2:
        unknown = np.where(array.any(axis=(1, 2)), math.nan, 0.0)
        return unknown, unknown
    part = array.mean(axis=1).var(axis=1, ddof=1) / count
    return part, part**2 / (count - 1)


def _of_runs(y: Floats, places: Sequence[Place]) -> tuple[Floats, Floats]:
    """The variance between runs, and the sum of its parts' squares by their degrees of freedom.

    An incomplete table of seeds and orders is treated by the means of its rows and columns, and by the residuals of
    the additive model; of a complete one this is the usual analysis of variance.

    Args:
        y: ``(n, runs)``, the figure of each run; at least two.
        places: of each run, the seed and order.
    """
    runs = y.shape[1]
    in_order, in_seed = _indicators([order for _, order in places]), _indicators([seed for seed, _ in places])
    o, s = in_order.shape[1], in_seed.shape[1]
    if o == 1 or s == 1:
        part = y.var(axis=1, ddof=1) / runs
        return part, part**2 / (runs - 1)
    of_orders = (y @ in_order / in_order.sum(axis=0)).var(axis=1, ddof=1) / o
    of_seeds = (y @ in_seed / in_seed.sum(axis=0)).var(axis=1, ddof=1) / s
    larger = np.maximum(of_orders, of_seeds)
    squares = np.where(of_orders >= of_seeds, of_orders**2 / (o - 1), of_seeds**2 / (s - 1))
    design = np.concatenate([in_order, in_seed[:, 1:]], axis=1)
    freedom = runs - int(np.linalg.matrix_rank(design))
    if freedom <= 0:
        return larger, squares
    left = y - y @ (design @ np.linalg.pinv(design)).T
    mixed = (left**2).sum(axis=1) / freedom / runs
    both = of_orders + of_seeds - mixed
    of_both = of_orders**2 / (o - 1) + of_seeds**2 / (s - 1) + mixed**2 / freedom
    return np.maximum(both, larger), np.where(both >= larger, of_both, squares)


def _indicators(names: Sequence[object]) -> NDArray[np.float64]:
    """``(runs, groups)``: 1 if the run is in the group."""
    groups = list(dict.fromkeys(names))
    return np.array([[float(name == group) for group in groups] for name in names])
