"""What each test image adds to a figure, run by run and as the difference of two methods.

Every figure but ``ff_max`` and ``ff_max_all`` is linear in the cells of the score matrix, so it is a sum over domains
of the mean over a domain's images of one number per image, its contribution::

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

import numpy as np
from numpy.typing import NDArray

from cosam_bench.core.errors import CosamError
from cosam_bench.evaluation.figures import Figure
from cosam_bench.evaluation.score_matrix import ScoreMatrix

Floats = NDArray[np.float64]
Place = tuple[int, tuple[str, ...]]
"""A run's seed and order of domains."""


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
    """What each test image of one run, or of the difference of two runs, adds to a figure.

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

    @property
    def is_known(self) -> bool:
        """Whether the figure is a number: some domain has a part in it, and no score that it needs is missing."""
        return bool(self.values) and not any(np.isnan(values).any() for values in self.values.values())

    def of_domains(self, names: Sequence[str]) -> Contributions:
        """The part of some domains alone."""
        kept = [name for name in names if name in self.values]
        return Contributions(
            self.seed, self.order, {name: self.keys[name] for name in kept}, {name: self.values[name] for name in kept}
        )


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
    return _combined(found, _contributions(experts, figure, domains, of_experts=True), sign=1.0)


def domains_with_part(scores: RunScores, figure: Figure) -> set[str]:
    """The domains, retention domains included, whose scores of this run have a part in a linear figure."""
    weights = figure_weights(figure, scores.metric, len(scores.domains), len(scores.retention))
    names = (*scores.domains, *scores.retention)
    return {name for name, column in zip(names, weights.T, strict=True) if column.any()}


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
        if chosen is not None and column not in chosen:
            continue
        if has_part[:steps].any() if column < steps else has_part[column] > 0:
            used = np.flatnonzero(weights[:, column])
            values[name] = weights[used, column] @ scores.values[name][used]
    return Contributions(scores.seed, scores.domains, {name: scores.keys[name] for name in values}, values)


def paired(first: Sequence[Contributions], second: Sequence[Contributions]) -> list[Contributions]:
    """Contribution of ``first`` minus that of ``second``, for each seed, order and image that both have.

    Raises:
        CosamError: no seed and order is common, or one of them is given twice, or a domain has no common image.
    """
    theirs = by_run(second)
    pairs = [(run, theirs[place]) for place, run in by_run(first).items() if place in theirs]
    if not pairs:
        raise CosamError(
            "The two have no run with the same seed and order of domains. Run both under one seed and order first."
        )
    return [_combined(mine, other, sign=-1.0) for mine, other in pairs]


def by_run(runs: Sequence[Contributions]) -> dict[Place, Contributions]:
    """The runs by seed and order.

    Raises:
        CosamError: one of them is given twice.
    """
    found = {(run.seed, run.order): run for run in runs}
    if len(found) < len(runs):
        raise CosamError("A seed and order of domains occurs twice among the runs. Remove one of the two records.")
    return found


def _combined(first: Contributions, second: Contributions, *, sign: float) -> Contributions:
    """``first + sign * second`` on the images that both have."""
    keys: dict[str, tuple[str, ...]] = {}
    values: dict[str, Floats] = {}
    for name in first.values:
        if name not in second.values:
            raise CosamError(f"Only one of the two was scored on domain {name!r}. Compare runs of one stream.")
        common = _common([first.keys[name], second.keys[name]], name)
        keys[name] = common
        values[name] = _take(first, name, common) + sign * _take(second, name, common)
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


def aligned(runs: Sequence[Contributions]) -> dict[str, Floats]:
    """By domain, ``(runs, images)``: the contributions of the images that all runs have.

    Raises:
        CosamError: there is no run, a seed and order is given twice, or a domain has no common image.
    """
    if not runs:
        raise CosamError("No run to take the mean of. Run something first.")
    by_run(runs)
    arrays = {}
    for name in runs[0].values:
        if any(name not in run.values for run in runs):
            raise CosamError(f"Not all runs were scored on domain {name!r}. Compare runs of one stream.")
        keys = _common([run.keys[name] for run in runs], name)
        arrays[name] = np.stack([_take(run, name, keys) for run in runs])
    return arrays
