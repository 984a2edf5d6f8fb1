"""How often intervals contain the true value, by simulation: ``python -m benchmarks.coverage``.

The figure is the sum over 8 domains of the mean over 24 images each. A score is the sum of the true mean and of normal
effects of the image, the order, the seed, their interaction, and of what is left; domains are fixed. Effects are in
units of the deviation between images.

A second table is of FF max, which is not linear: one run, in which each domain loses the same with each later step, and
each step's scores have normal effects of their own.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cosam_bench.evaluation.bootstrap import bootstrap_interval
from cosam_bench.evaluation.contributions import Contributions, RunScores
from cosam_bench.evaluation.contributions import contributions as shares_of
from cosam_bench.evaluation.figures import FIGURES
from cosam_bench.evaluation.intervals import interval

DOMAINS, IMAGES, LEVEL = 8, 24, 0.95
DRAWS = 500  # of a bootstrap
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Setting:
    """A number of runs, and the deviations of what differs between them, in deviations between images."""

    orders: int
    seeds: int
    of_orders: float
    of_seeds: float
    of_both: float
    of_single: float = 0.5


SETTINGS = (
    Setting(1, 1, 0.0, 0.0, 0.0),
    Setting(1, 3, 0.0, 0.1, 0.0),
    Setting(1, 5, 0.0, 0.1, 0.0),
    Setting(3, 1, 0.2, 0.0, 0.0),
    Setting(2, 3, 0.1, 0.05, 0.05),
    Setting(3, 3, 0.2, 0.1, 0.05),
    Setting(6, 5, 0.2, 0.1, 0.05),
    Setting(6, 5, 0.02, 0.02, 0.02),
)


def draw(rng: np.random.Generator, one: Setting) -> Floats:
    """One experiment's scores, ``(orders, seeds, domains, images)``; the true figure is 0."""
    shape = (one.orders, one.seeds)
    runs = rng.normal(0, one.of_orders, (one.orders, 1)) + rng.normal(0, one.of_seeds, (1, one.seeds))
    runs = runs + rng.normal(0, one.of_both, shape)
    images = rng.normal(0, 1, (DOMAINS, IMAGES))
    scores = runs[..., None, None] + images + rng.normal(0, one.of_single, (*shape, DOMAINS, IMAGES))
    return np.asarray(scores / DOMAINS)


def contributions(scores: Floats) -> list[Contributions]:
    """The same as runs of a method."""
    keys = {f"d{j}": tuple(str(i) for i in range(IMAGES)) for j in range(DOMAINS)}
    return [
        Contributions(s, (str(o),), keys, {f"d{j}": scores[o, s, j] for j in range(DOMAINS)})
        for o in range(scores.shape[0])
        for s in range(scores.shape[1])
    ]


def by_images(scores: Floats) -> tuple[float, float]:
    """The t interval over images alone, of the mean over runs."""
    mean = scores.mean(axis=(0, 1))
    found = interval(contributions(mean[None, None]), level=LEVEL)
    return found.low, found.high


def by_bootstrap(scores: Floats, rng: np.random.Generator) -> tuple[float, float]:
    """The percentile bootstrap that draws orders, seeds, and each domain's images again."""
    orders, seeds = scores.shape[:2]
    figures = np.empty(DRAWS)
    for place in range(DRAWS):
        runs = scores[rng.integers(orders, size=orders)][:, rng.integers(seeds, size=seeds)].mean(axis=(0, 1))
        picked = rng.integers(IMAGES, size=(DOMAINS, IMAGES))
        figures[place] = np.take_along_axis(runs, picked, axis=1).mean(axis=1).sum()
    low, high = np.quantile(figures, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def coverage(one: Setting, *, experiments: int, seed: int = 0) -> tuple[float, float, float]:
    """The shares of experiments whose interval contains the truth: over images, by bootstrap, and the project's."""
    rng = np.random.default_rng(seed)
    hits = np.zeros(3)
    for _ in range(experiments):
        scores = draw(rng, one)
        found = interval(contributions(scores), level=LEVEL)
        intervals = (by_images(scores), by_bootstrap(scores, rng), (found.low, found.high))
        hits += [low <= 0 <= high for low, high in intervals]
    over_images, bootstrap, ours = (float(share) for share in hits / experiments)
    return over_images, bootstrap, ours


LOSSES = (0.0, 0.025, 0.1)
OF_STEPS = 0.3


def forgetting_run(rng: np.random.Generator, loss: float) -> RunScores:
    """One run's scores, in which each domain loses ``loss`` with each step after it was learned."""
    names = tuple(f"d{j}" for j in range(DOMAINS))
    later = np.maximum(np.arange(DOMAINS + 1)[:, None] - np.arange(1, DOMAINS + 1), 0)
    values = {
        name: rng.normal(0, 1, IMAGES) - loss * later[:, [j]] + rng.normal(0, OF_STEPS, (DOMAINS + 1, IMAGES))
        for j, name in enumerate(names)
    }
    keys = {name: tuple(str(i) for i in range(IMAGES)) for name in names}
    return RunScores("iou", 0, names, (), keys, values)


def coverage_of_ff_max(loss: float, *, experiments: int, seed: int = 0) -> tuple[float, float, float, float]:
    """The shares of experiments whose interval contains the truth, and of those that lie above 0.

    Returns:
        The coverage of the percentile bootstrap and of the project's interval of FF max, the share of the latter that
        are wholly above 0, and the coverage of FF's interval, whose true value is the same.
    """
    rng = np.random.default_rng(seed)
    truth = loss * DOMAINS / 2  # the mean number of later steps of all domains but the last
    hits = np.zeros(4)
    for _ in range(experiments):
        run = forgetting_run(rng, loss)
        ours = bootstrap_interval([run], FIGURES["ff_max"], level=LEVEL, draws=DRAWS)
        low, high = 2 * ours.estimate - ours.high, 2 * ours.estimate - ours.low
        linear = interval([shares_of(run, FIGURES["ff"])], level=LEVEL)
        hits += [
            low <= truth <= high,
            ours.low <= truth <= ours.high,
            ours.low > 0,
            linear.low <= truth <= linear.high,
        ]
    percentile, basic, above, of_ff = (float(share) for share in hits / experiments)
    return percentile, basic, above, of_ff


def table_of_ff_max(experiments: int) -> str:
    """The second table of docs/metrics.md, as Markdown."""
    rows = [
        "| loss per step | FF max: percentile bootstrap | FF max: this project | of these, above 0 | FF |",
        "|---|---|---|---|---|",
    ]
    for loss in LOSSES:
        cells = " | ".join(f"{share:.1%}" for share in coverage_of_ff_max(loss, experiments=experiments))
        rows.append(f"| {loss:g} | {cells} |")
    return "\n".join(rows)


def table(experiments: int) -> str:
    """The first table of docs/metrics.md, as Markdown."""
    rows = [
        "| orders x seeds | deviation between orders, seeds, both | images alone | two-way bootstrap | this project |",
        "|---|---|---|---|---|",
    ]
    for one in SETTINGS:
        shares = coverage(one, experiments=experiments)
        cells = " | ".join(f"{share:.1%}" for share in shares)
        rows.append(f"| {one.orders} x {one.seeds} | {one.of_orders}, {one.of_seeds}, {one.of_both} | {cells} |")
    return "\n".join(rows)


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    print(table(count), table_of_ff_max(count), sep="\n\n")
