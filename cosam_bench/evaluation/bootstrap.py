"""Intervals of figures that are not linear in the scores: by drawing images and runs again."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from cosam_bench.core.errors import CosamError
from cosam_bench.evaluation.contributions import Floats, RunScores
from cosam_bench.evaluation.figures import Figure
from cosam_bench.evaluation.intervals import Interval, basis_of
from cosam_bench.evaluation.score_matrix import ScoreMatrix


def bootstrap_interval(
    runs: Sequence[RunScores],
    figure: Figure,
    *,
    level: float = 0.95,
    draws: int = 2000,
    domains: Sequence[str] | None = None,
) -> Interval:
    """The mean of a figure that is not linear, such as ``ff_max``, with a basic bootstrap interval.

    Images are drawn again within each domain, the same for all runs, and so are seeds and orders where there are
    several. The maximum of noisy scores is too high, and that of drawn ones too high again, so the quantiles are
    reflected at the estimate: ``2 estimate - q``. The estimate itself stays too high, and the coverage below the
    nominal one (``benchmarks.coverage``); use ``interval`` for linear figures.

    Source: Davison and Hinkley, "Bootstrap Methods and their Application", 1997, equation 5.6.

    Args:
        runs: one per seed and order, with the same images.
        figure: one that needs no experts.
        level: the nominal coverage, in (0, 1).
        draws: how often images and runs are drawn.
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
    if math.isnan(estimate) or any(_rests_on_one_image(run, domains) for run in runs):
        return Interval.unknown(estimate, level=level, runs=len(runs))
    rng = np.random.default_rng(0)
    images = {name: _times_drawn(rng, len(keys), draws) for name, keys in sorted(runs[0].keys.items())}
    drawn_figures = [
        figure.of_stack(_drawn_cells(run, images), like=matrix) for run, matrix in zip(runs, matrices, strict=True)
    ]
    drawn = _mean_of_drawn_runs(rng, runs, np.stack(drawn_figures, axis=1))
    below, above = np.nanquantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    low, high = 2 * estimate - float(above), 2 * estimate - float(below)
    error = float(np.nanstd(drawn, ddof=1))
    return Interval(estimate, low, high, error, math.nan, math.nan, level, basis_of(len(runs)), len(runs))


def _rests_on_one_image(run: RunScores, domains: Sequence[str] | None) -> bool:
    """Whether a domain that may have been forgotten has one image, so that nothing tells how far off its score is."""
    earlier = [name for name in run.domains[:-1] if domains is None or name in domains]
    values = [run.values[name] for name in earlier if len(run.keys[name]) < 2]
    return any((scores[1:] != scores[-1:]).any() for scores in values)


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
