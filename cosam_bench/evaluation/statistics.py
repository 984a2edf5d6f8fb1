"""Intervals, tests and ranks of figures, from the scores of single images.

Every figure but ``ff_max`` is linear in the cells of the score matrix, so it is a sum over domains of the mean over a
domain's images of one number per image, its contribution::

    figure = sum_j mean_i c[j][i],    c[j][i] = sum_t w[t][j] s[t][j][i],

with ``s[t][j][i]`` the score of image i of domain j after t domains, and ``w`` the figure's weights. Contributions of
several runs (seed x order) of one method give its interval; differences of the contributions of two methods on the same
seeds, orders and images give the interval of their difference. Domains are fixed: an interval speaks of other images of
these domains, other seeds and other orders, not of other domains.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cosam_bench.core.errors import CosamError
from cosam_bench.evaluation.figures import Figure
from cosam_bench.evaluation.score_matrix import ScoreMatrix

Floats = NDArray[np.float64]
Basis = Literal["images and runs", "images", "none"]


@dataclass(frozen=True, eq=False)
class RunScores:
    """The scores of every test image of one run, by one metric.

    Attributes:
        metric: a name in the table of metrics.
        seed: the run's.
        domains: the stream, in the order in which it was learned.
        retention: the domains that are only ever tested.
        keys: by domain, the names of its n test images.
        values: by domain, ``(T + 1, n)``: after each number of learned domains; NaN where not measured.
    """

    metric: str
    seed: int
    domains: tuple[str, ...]
    retention: tuple[str, ...]
    keys: Mapping[str, tuple[str, ...]]
    values: Mapping[str, Floats]


@dataclass(frozen=True, eq=False)
class Contributions:
    """What each test image of one run adds to a figure.

    Attributes:
        seed: the run's.
        order: the stream's domains, in the order in which they were learned.
        keys: by domain, the names of its n test images. The stream's domains are left out if none of them has a part
            in the figure, and so are the retention domains.
        values: by domain, ``(n,)``; the figure is the sum over domains of their means. A domain of the stream that has
            no part in the figure because of its place in the order (FF, the last one) has zeros.
    """

    seed: int
    order: tuple[str, ...]
    keys: Mapping[str, tuple[str, ...]]
    values: Mapping[str, Floats]

    @property
    def figure(self) -> float:
        """The figure of this run."""
        return math.fsum(float(values.mean()) for values in self.values.values())

    def of_domains(self, names: Sequence[str]) -> Contributions:
        """The part of some domains alone."""
        kept = [name for name in names if name in self.values]
        return Contributions(
            self.seed, self.order, {name: self.keys[name] for name in kept}, {name: self.values[name] for name in kept}
        )


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval.

    Attributes:
        estimate: the mean over runs.
        low: the lower end; NaN where nothing tells how wide the interval is.
        high: the upper end.
        standard_error: of the estimate.
        degrees_of_freedom: of the t distribution (Satterthwaite).
        p: two-sided, of the hypothesis that the true value is 0.
        level: the nominal coverage.
        basis: ``images`` where there is one run only: such an interval says nothing of other seeds and orders.
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


@cache
def figure_weights(
    figure: Figure,
    metric: str,
    steps: int,
    retained: int,
    *,
    of_experts: bool = False,
    columns: tuple[int, ...] | None = None,
) -> Floats:
    """The weights ``w`` of a linear figure, ``(steps + 1, steps + retained)``; read-only.

    Each is the figure of the matrix that is 1 in one cell and 0 in the others.

    Args:
        figure: a linear one.
        metric: its direction decides the sign of differences.
        steps: T, the number of domains to learn.
        retained: the number of retention domains.
        of_experts: the weights of the experts' scores, for a figure that needs them, instead of the run's own.
        columns: only these domains are part of the figure's means, by their place; None: all.

    Raises:
        ValueError: the figure is not linear.
    """
    if not figure.is_linear:
        raise ValueError(f"{figure.name} is not linear in the scores; use bootstrap_interval")
    shape = (steps + 1, steps + retained)
    names = tuple(f"{column}" for column in range(shape[1]))

    def matrix(values: Floats) -> ScoreMatrix:
        return ScoreMatrix(metric, names[:steps], names[steps:], values, np.ones(shape, dtype=np.int64))

    weights, nothing = np.zeros(shape), matrix(np.zeros(shape))
    for cell in np.ndindex(shape):
        unit = np.zeros(shape)
        unit[cell] = 1.0
        own, experts = (nothing, matrix(unit)) if of_experts else (matrix(unit), nothing)
        own = own if columns is None else own.only([names[column] for column in columns])
        weights[cell] = figure.of(own, experts=experts)
    weights.flags.writeable = False
    return weights


def contributions(
    scores: RunScores, figure: Figure, *, experts: RunScores | None = None, domains: Sequence[str] | None = None
) -> Contributions:
    """What each image of a run adds to a linear figure; NaN if a cell that the figure needs was not measured.

    Args:
        scores: of the run.
        figure: a linear one.
        experts: the scores of ``experts`` under the same conditions, seed and order, for a figure that needs them;
            without them such a figure has no contributions and its value is NaN.
        domains: only these are part of the figure's means; None: all.
    """
    found = _contributions(scores, figure, domains, of_experts=False)
    if not figure.needs_experts:
        return found
    if experts is None:
        missing = {name: np.full(len(keys), np.nan) for name, keys in found.keys.items()}
        return Contributions(found.seed, found.order, found.keys, missing)
    theirs = _contributions(experts, figure, domains, of_experts=True)
    return _minus(found, Contributions(theirs.seed, theirs.order, theirs.keys, _negated(theirs.values)))


def _negated(values: Mapping[str, Floats]) -> dict[str, Floats]:
    return {name: -column for name, column in values.items()}


def _contributions(
    scores: RunScores, figure: Figure, domains: Sequence[str] | None, *, of_experts: bool
) -> Contributions:
    steps, retained = len(scores.domains), len(scores.retention)
    names = (*scores.domains, *scores.retention)
    chosen = None if domains is None else tuple(place for place, name in enumerate(names) if name in domains)
    weights = figure_weights(figure, scores.metric, steps, retained, of_experts=of_experts, columns=chosen)
    values: dict[str, Floats] = {}
    has_part = np.count_nonzero(weights, axis=0)
    for column, name in enumerate(names):
        if has_part[:steps].any() if column < steps else has_part[column] > 0:
            used = np.flatnonzero(weights[:, column])
            values[name] = weights[used, column] @ scores.values[name][used]
    return Contributions(scores.seed, scores.domains, {name: scores.keys[name] for name in values}, values)


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

    arrays = _aligned(runs)
    estimate = math.fsum(float(array.mean()) for array in arrays.values())
    parts = [part for array in arrays.values() for part in _of_images(array)]
    parts += variance_of_runs(runs, _figures(arrays))
    variance = math.fsum(part for part, _ in parts)
    basis: Basis = "images and runs" if len(runs) > 1 else "images"
    if not parts or not variance >= 0 or not math.isfinite(estimate):
        nan = math.nan
        return Interval(estimate, nan, nan, nan, nan, nan, level, "none", len(runs))
    error = math.sqrt(variance)
    if error == 0:
        return Interval(estimate, estimate, estimate, 0.0, math.inf, float(estimate == 0), level, basis, len(runs))
    freedom = variance**2 / math.fsum(part**2 / own for part, own in parts if part)
    half = float(special.stdtrit(freedom, (1 + level) / 2)) * error
    p = 2 * float(special.stdtr(freedom, -abs(estimate) / error))
    return Interval(estimate, estimate - half, estimate + half, error, freedom, p, level, basis, len(runs))


def difference(first: Sequence[Contributions], second: Sequence[Contributions], *, level: float = 0.95) -> Interval:
    """The figure of ``first`` minus that of ``second``, paired by seed, order and image.

    Raises:
        CosamError: they have no seed and order, or no images of a domain, in common.
    """
    return interval(paired(first, second), level=level)


def paired(first: Sequence[Contributions], second: Sequence[Contributions]) -> list[Contributions]:
    """Contribution of ``first`` minus that of ``second``, for each seed, order and image that both have.

    Raises:
        CosamError: no seed and order is common, or one of them is given twice, or a domain has no common image.
    """
    theirs = _by_run(second)
    pairs = [(run, theirs[place]) for place, run in _by_run(first).items() if place in theirs]
    if not pairs:
        raise CosamError(
            "The two have no run with the same seed and order of domains. Run both under one seed and order first."
        )
    return [_minus(mine, other) for mine, other in pairs]


def _by_run(runs: Sequence[Contributions]) -> dict[tuple[int, tuple[str, ...]], Contributions]:
    found = {(run.seed, run.order): run for run in runs}
    if len(found) < len(runs):
        raise CosamError("A seed and order of domains occurs twice among the runs. Remove one of the two records.")
    return found


def _minus(first: Contributions, second: Contributions) -> Contributions:
    keys: dict[str, tuple[str, ...]] = {}
    values: dict[str, Floats] = {}
    for name in first.values:
        if name not in second.values:
            raise CosamError(f"Only one of the two was scored on domain {name!r}. Compare runs of one stream.")
        common = _common([first.keys[name], second.keys[name]], name)
        keys[name] = common
        values[name] = _take(first, name, common) - _take(second, name, common)
    return Contributions(first.seed, first.order, keys, values)


def _common(keys: Sequence[tuple[str, ...]], domain: str) -> tuple[str, ...]:
    """The images that all have, in the first one's order."""
    if all(other == keys[0] for other in keys[1:]):
        return keys[0]
    shared = set(keys[0]).intersection(*keys[1:])
    if not shared:
        raise CosamError(f"The runs have no test image of domain {domain!r} in common. Compare runs on the same data.")
    return tuple(key for key in keys[0] if key in shared)


def _take(run: Contributions, domain: str, keys: tuple[str, ...]) -> Floats:
    if run.keys[domain] == keys:
        return run.values[domain]
    place = {key: index for index, key in enumerate(run.keys[domain])}
    return run.values[domain][[place[key] for key in keys]]


def _aligned(runs: Sequence[Contributions]) -> dict[str, Floats]:
    """By domain, ``(runs, images)``: the contributions of the images that all runs have."""
    if not runs:
        raise CosamError("No run to take the mean of. Run something first.")
    _by_run(runs)
    arrays = {}
    for name in runs[0].values:
        if any(name not in run.values for run in runs):
            raise CosamError(f"Not all runs were scored on domain {name!r}. Compare runs of one stream.")
        keys = _common([run.keys[name] for run in runs], name)
        arrays[name] = np.stack([_take(run, name, keys) for run in runs])
    return arrays


def _figures(arrays: Mapping[str, Floats]) -> Floats:
    """``(runs,)``: the figure of each run."""
    means = [array.mean(axis=1) for array in arrays.values()]
    return np.sum(means, axis=0) if means else np.zeros(0)


def _of_images(array: Floats) -> list[tuple[float, float]]:
    """A domain's part of the variance with its degrees of freedom; NaN for a single image that has a share."""
    count = array.shape[1]
    if count < 2:
        return [(math.nan if array.any() else 0.0, 1.0)]
    return [(float(array.mean(axis=0).var(ddof=1)) / count, count - 1.0)]


def variance_of_runs(places: Sequence[Contributions], y: Floats) -> list[tuple[float, float]]:
    """The parts of the variance between runs, each with its degrees of freedom; none for a single run.

    An incomplete table of seeds and orders is treated by the means of its rows and columns, and by the residuals of
    the additive model; of a complete one this is the usual analysis of variance.

    Args:
        places: the runs, of which the seed and order are used.
        y: the number of each run, ``(runs,)``.
    """
    runs = len(y)
    if runs < 2:
        return []
    orders = list(dict.fromkeys(run.order for run in places))
    rows = np.array([orders.index(run.order) for run in places])
    _, columns = np.unique([run.seed for run in places], return_inverse=True)
    o, s = int(rows.max()) + 1, int(columns.max()) + 1
    if o == 1 or s == 1:
        return [(float(y.var(ddof=1)) / runs, runs - 1.0)]
    of_orders = float(_means(y, rows, o).var(ddof=1)) / o
    of_seeds = float(_means(y, columns, s).var(ddof=1)) / s
    left, freedom = _residual(y, rows, columns, o, s)
    mixed = left / runs
    if freedom > 0 and of_orders + of_seeds - mixed >= max(of_orders, of_seeds):
        return [(of_orders, o - 1.0), (of_seeds, s - 1.0), (-mixed, freedom)]
    return [max([(of_orders, o - 1.0), (of_seeds, s - 1.0)])]


def _means(y: Floats, groups: NDArray[np.int64], count: int) -> Floats:
    return np.bincount(groups, weights=y, minlength=count) / np.bincount(groups, minlength=count)


def _residual(y: Floats, rows: NDArray[np.int64], columns: NDArray[np.int64], o: int, s: int) -> tuple[float, float]:
    """The mean square about the additive model of rows and columns, and its degrees of freedom."""
    design = np.concatenate([np.eye(o)[rows], np.eye(s)[columns][:, 1:]], axis=1)
    solution, *_ = np.linalg.lstsq(design, y, rcond=None)
    freedom = len(y) - int(np.linalg.matrix_rank(design))
    if freedom <= 0:
        return 0.0, 0.0
    return float(((y - design @ solution) ** 2).sum()) / freedom, float(freedom)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p values adjusted for their number, in the given order; NaN stays NaN and is not counted.

    Source: Holm, "A Simple Sequentially Rejective Multiple Test Procedure", 1979.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    known = sorted((p, place) for place, p in enumerate(p_values) if not math.isnan(p))
    adjusted, highest = list(p_values), 0.0
    for rank, (p, place) in enumerate(known):
        highest = max(highest, min(1.0, p * (len(known) - rank)))
        adjusted[place] = highest
    return adjusted


@dataclass(frozen=True)
class RankInterval:
    """The ranks that a method may have: 1 + significantly better ones, to M - significantly worse ones."""

    best: int
    worst: int


def rank_intervals(
    methods: Sequence[Sequence[Contributions]], *, is_higher_better: bool, level: float = 0.95
) -> list[RankInterval]:
    """For each method the ranks that are possible, all pairs tested with Holm's correction at ``1 - level``.

    A pair without a common seed and order is not separable.
    """
    pairs = list(combinations(range(len(methods)), 2))
    found = [_comparison(methods[one], methods[other], level=level) for one, other in pairs]
    adjusted = holm([math.nan if each is None else each.p for each in found])
    better, worse = [0] * len(methods), [0] * len(methods)
    for (one, other), each, p in zip(pairs, found, adjusted, strict=True):
        if each is None or not p < 1 - level:
            continue
        first, second = (one, other) if (each.estimate > 0) == is_higher_better else (other, one)
        better[second] += 1
        worse[first] += 1
    count = len(methods)
    return [RankInterval(1 + ahead, count - behind) for ahead, behind in zip(better, worse, strict=True)]


def _comparison(first: Sequence[Contributions], second: Sequence[Contributions], *, level: float) -> Interval | None:
    try:
        return difference(first, second, level=level)
    except CosamError:
        return None


def bootstrap_interval(
    runs: Sequence[RunScores],
    figure: Figure,
    *,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
    domains: Sequence[str] | None = None,
) -> Interval:
    """The mean of a figure that is not linear, such as ``ff_max``, with a percentile bootstrap interval.

    Images are drawn again within each domain, the same for all runs, and so are seeds and orders where there are
    several. Its coverage is below the nominal one; use ``interval`` for linear figures.

    Args:
        runs: one per seed and order, with the same images.
        figure: one that needs no experts.
        level: the nominal coverage, in (0, 1).
        draws: how often images and runs are drawn.
        seed: of the draws.
        domains: only these are part of the figure's means; None: all.

    Raises:
        CosamError: there is no run, a seed and order occurs twice, or the runs do not have the same images.
    """
    if not runs or len({(run.seed, run.domains) for run in runs}) < len(runs):
        raise CosamError("A bootstrap needs runs, each of another seed or order. Remove repeated records.")
    if any(run.keys != runs[0].keys for run in runs):
        raise CosamError("The runs do not have the same test images. Compare runs on the same data.")
    matrices = [_matrix(run, domains) for run in runs]
    estimate = float(np.mean([figure.of(matrix) for matrix in matrices]))
    if math.isnan(estimate):
        nan = math.nan
        return Interval(nan, nan, nan, nan, nan, nan, level, "none", len(runs))
    rng = np.random.default_rng(seed)
    images = {name: _times_drawn(rng, len(keys), draws) for name, keys in sorted(runs[0].keys.items())}
    drawn_figures = [
        figure.of_stack(_drawn_cells(run, images), like=matrix) for run, matrix in zip(runs, matrices, strict=True)
    ]
    drawn = _mean_of_drawn_runs(rng, runs, np.stack(drawn_figures, axis=1))
    low, high = np.nanquantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    error = float(np.nanstd(drawn, ddof=1))
    basis: Basis = "images and runs" if len(runs) > 1 else "images"
    return Interval(estimate, float(low), float(high), error, math.nan, math.nan, level, basis, len(runs))


def _matrix(run: RunScores, domains: Sequence[str] | None) -> ScoreMatrix:
    columns = [run.values[name] for name in (*run.domains, *run.retention)]
    values = np.stack([scores.mean(axis=1) for scores in columns], axis=1)
    count = np.where(np.isnan(values), 0, [scores.shape[1] for scores in columns])
    matrix = ScoreMatrix(run.metric, run.domains, run.retention, values, count)
    return matrix if domains is None else matrix.only(domains)


def _times_drawn(rng: np.random.Generator, size: int, draws: int) -> Floats:
    """``(draws, size)``: how often each of ``size`` things is among ``size`` drawn with replacement."""
    return rng.multinomial(size, np.full(size, 1 / size), size=draws).astype(np.float64)


def _drawn_cells(run: RunScores, images: Mapping[str, Floats]) -> Floats:
    """``(draws, T + 1, T + Q)``: the run's score matrix over the drawn images."""
    columns = [images[name] @ run.values[name].T / images[name].shape[1] for name in (*run.domains, *run.retention)]
    return np.stack(columns, axis=2)


def _mean_of_drawn_runs(rng: np.random.Generator, runs: Sequence[RunScores], figures: Floats) -> Floats:
    """``(draws,)``: the mean over runs of ``figures`` ``(draws, runs)``, with seeds and orders drawn again."""
    _, columns = np.unique([run.seed for run in runs], return_inverse=True)
    orders = sorted({run.domains for run in runs})
    rows = np.array([orders.index(run.domains) for run in runs])
    draws = len(figures)
    weights = _times_drawn(rng, len(orders), draws)[:, rows] * _times_drawn(rng, columns.max() + 1, draws)[:, columns]
    total = weights.sum(axis=1)
    means: Floats = np.divide((weights * figures).sum(axis=1), total, out=np.full(draws, np.nan), where=total > 0)
    return means
