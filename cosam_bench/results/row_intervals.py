"""Intervals and ranks of the rows of a table of comparable runs, from the scores of single images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cosam_bench.core.errors import CosamError
from cosam_bench.evaluation.bootstrap import bootstrap_interval
from cosam_bench.evaluation.contributions import Contributions, Place, RunScores, contributions
from cosam_bench.evaluation.figures import FIGURES, Figure
from cosam_bench.evaluation.intervals import Interval, interval
from cosam_bench.evaluation.ranks import RankInterval, rank_intervals
from cosam_bench.evaluation.scales import HELD_OUT
from cosam_bench.results.conditions import Measured
from cosam_bench.results.run_info import BROUGHT_IN
from cosam_bench.results.score_cache import cached_image_scores

RANKED_BY = "last"
"""The figure that ranks, if no other is asked for."""

COMPARABLE_MARKS = ("keeps images", "reconstructed", BROUGHT_IN, HELD_OUT)
"""Marks of runs that are ranked; the others say that a method has more than the protocol allows.

Runs with experts from elsewhere are compared only with others of the same experts.
"""


@dataclass(frozen=True, eq=False)
class RowIntervals:
    """The intervals of one row.

    Attributes:
        figures: by name.
        rank: the ranks that it may have; None if it is not ranked.
    """

    figures: Mapping[str, Interval]
    rank: RankInterval | None


def table_intervals(
    rows: Sequence[Sequence[RunScores]],
    *,
    is_ranked: Sequence[bool],
    experts: Mapping[Place, RunScores],
    figures: Collection[str] = tuple(FIGURES),
    ranked_by: str = RANKED_BY,
    domains: Sequence[str] | None = None,
    level: float = 0.95,
) -> list[RowIntervals]:
    """Every figure's interval in each row, and the ranks that the rows may have.

    A row is not ranked if the figure that ranks is unknown in one of its runs, such as a difference from experts that
    were not measured.

    Args:
        rows: the runs of each row, one per seed and order; all under the same conditions.
        is_ranked: whether a row may be ranked.
        experts: the scores of ``experts`` by seed and order, for figures that need them.
        figures: the names of those that get an interval.
        ranked_by: the name of a linear figure.
        domains: only these are part of the figures' means; None: all.
        level: the nominal coverage, in (0, 1).
    """
    shares = [_contributions(runs, FIGURES[ranked_by], experts, domains) for runs in rows]
    ranked = [place for place, wanted in enumerate(is_ranked) if wanted and all(one.is_known for one in shares[place])]
    is_high = FIGURES[ranked_by].prefers_high(rows[0][0].metric) if rows else True
    found = rank_intervals([shares[place] for place in ranked], is_higher_better=is_high, level=level)
    ranks = dict(zip(ranked, found, strict=True))
    return [
        RowIntervals(
            {name: _interval(runs, FIGURES[name], experts, domains, level) for name in figures}, ranks.get(place)
        )
        for place, runs in enumerate(rows)
    ]


def _interval(
    runs: Sequence[RunScores],
    figure: Figure,
    experts: Mapping[Place, RunScores],
    domains: Sequence[str] | None,
    level: float,
) -> Interval:
    if not figure.is_linear:
        return bootstrap_interval(runs, figure, level=level, domains=domains)
    return interval(_contributions(runs, figure, experts, domains), level=level)


def _contributions(
    runs: Sequence[RunScores], figure: Figure, experts: Mapping[Place, RunScores], domains: Sequence[str] | None
) -> list[Contributions]:
    return [contributions(run, figure, experts=experts.get((run.seed, run.domains)), domains=domains) for run in runs]


def check_level(level: float) -> None:
    """Refuse a level that is not in (0, 1)."""
    if not 0 < level < 1:
        raise CosamError(f"The level of intervals is {level:g}. Choose one between 0 and 1, such as 0.95.")


def place_of(run: Measured) -> Place:
    """The run's seed and order."""
    return run.info.seed, run.info.order


def latest_runs(runs: Iterable[Measured]) -> list[Measured]:
    """One run for each seed and order, the one that was started last; sorted by seed, then order."""
    by_place = {place_of(run): run for run in by_start(runs)}
    return [by_place[place] for place in sorted(by_place)]


def without_repeats(runs: Sequence[Measured]) -> tuple[list[Measured], list[str]]:
    """The runs, of several with the same row, conditions, seed and order the one that was started last alone.

    Returns:
        The runs in their given order, and a message for each that was left out.
    """
    kept: dict[tuple[object, ...], Measured] = {}
    notes = []
    for run in by_start(runs):
        place = (*run.variant, run.info.protocol, run.info.protocol_version, run.conditions, *place_of(run))
        if place in kept:
            notes.append(f"Left out: {kept[place].record.name} repeats the seed and order of {run.record.name}.")
        kept[place] = run
    names = {run.record.folder for run in kept.values()}
    return [run for run in runs if run.record.folder in names], notes


def by_start(runs: Iterable[Measured]) -> list[Measured]:
    """The runs, the one that was started last at the end."""
    return sorted(runs, key=lambda run: (run.info.started, run.record.name))


def has_fair_marks(runs: Iterable[Measured]) -> bool:
    """Whether no mark says that the method has more than the protocol allows."""
    return all(mark in COMPARABLE_MARKS for run in runs for mark in run.info.marks)


def read_table_scores(runs: Sequence[Measured], *, metric: str) -> tuple[dict[Path, RunScores], list[str]]:
    """The image scores of comparable runs by their folder, and one message for each run whose scores are of no use.

    Those are scores that cannot be read, and scores of other images than most of the runs have.
    """
    found: dict[Path, RunScores] = {}
    faults = []
    for run in runs:
        try:
            found[run.record.folder] = cached_image_scores(run.record, metric=metric)
        except CosamError as error:
            faults.append(str(error))
    images = {folder: frozenset(scores.keys.items()) for folder, scores in found.items()}
    usual = max(Counter(images.values()).items(), key=lambda item: item[1], default=(frozenset(), 0))[0]
    for run in runs:
        folder = run.record.folder
        if folder in found and images[folder] != usual:
            del found[folder]
            check = f"Check it: cosam-bench verify {folder}."
            faults.append(f"{folder / 'scores.csv'} has other images than comparable runs have. {check}")
    return found, faults
