"""Intervals and ranks of the rows of a table of comparable runs, from the scores of single images."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from cosam_bench.core.errors import CosamError
from cosam_bench.evaluation.all_pairs import rank_intervals_at_once
from cosam_bench.evaluation.figures import FIGURES, Figure
from cosam_bench.evaluation.statistics import (
    Contributions,
    Interval,
    RankInterval,
    RunScores,
    bootstrap_interval,
    contributions,
    interval,
)
from cosam_bench.results.conditions import Measured
from cosam_bench.results.score_cache import cached_image_scores

Place = tuple[int, tuple[str, ...]]
"""A run's seed and order of domains."""

COMPARABLE_MARKS = frozenset({"reconstructed"})
"""Marks of methods that are ranked; other marks say that a method does more than the protocol allows."""


@dataclass(frozen=True, eq=False)
class RowIntervals:
    """The intervals of one row.

    Attributes:
        figures: by name.
        rank: the ranks that it may have; None if it is not ranked.
    """

    figures: Mapping[str, Interval]
    rank: RankInterval | None


@dataclass(frozen=True, eq=False)
class TableIntervals:
    """The intervals of all rows of a table.

    Attributes:
        rows: in the given order; None for a row whose image scores cannot be read.
        notes: for the reader.
    """

    rows: tuple[RowIntervals | None, ...]
    notes: tuple[str, ...]


def table_intervals(
    rows: Sequence[Sequence[Measured]],
    *,
    metric: str,
    experts: Sequence[Measured] = (),
    figures: Collection[str] = tuple(FIGURES),
    ranked_by: str = "last",
    domains: Sequence[str] | None = None,
    level: float = 0.95,
) -> TableIntervals:
    """Every figure's interval in each row, and the ranks that the rows may have.

    Of several runs with one seed and order, only the one that was started last counts. Rows with a mark that is not in
    ``COMPARABLE_MARKS`` are not ranked.

    Args:
        rows: the complete runs of each row; all measured under the same conditions.
        metric: of the scores.
        experts: the runs of ``experts`` under the same conditions, for figures that need them.
        figures: the names of those that get an interval.
        ranked_by: the name of a linear figure.
        domains: only these are part of the figures' means; None: all.
        level: the nominal coverage, in (0, 1).
    """
    latest = [latest_runs(runs) for runs in rows]
    scores, notes = _scores(latest, metric)
    theirs = _experts(experts, metric) if any(FIGURES[name].needs_experts for name in (*figures, ranked_by)) else {}
    found = {
        place: {name: _interval(runs, FIGURES[name], theirs, domains, level) for name in figures}
        for place, runs in scores.items()
    }
    ranked = [place for place in scores if not has_unfair_mark(latest[place])]
    shares = [_contributions(scores[place], FIGURES[ranked_by], theirs, domains) for place in ranked]
    is_high = FIGURES[ranked_by].prefers_high(metric)
    ranks = dict(zip(ranked, rank_intervals_at_once(shares, is_higher_better=is_high, level=level), strict=True))
    both = [RowIntervals(found[place], ranks.get(place)) if place in found else None for place in range(len(rows))]
    return TableIntervals(tuple(both), tuple(notes))


def latest_runs(runs: Sequence[Measured]) -> list[Measured]:
    """One run for each seed and order, the one that was started last; sorted by seed, then order."""
    by_place: dict[Place, Measured] = {}
    for run in sorted(runs, key=lambda run: (run.info.started, run.record.name)):
        by_place[run.info.seed, run.info.order] = run
    return [by_place[place] for place in sorted(by_place)]


def has_unfair_mark(runs: Sequence[Measured]) -> bool:
    """Whether a mark says that the method does more than the protocol allows."""
    return any(mark not in COMPARABLE_MARKS for run in runs for mark in run.info.marks)


def _scores(rows: Sequence[Sequence[Measured]], metric: str) -> tuple[dict[int, list[RunScores]], list[str]]:
    """The image scores of each row that has all of them, and a note for each other row."""
    found, notes = {}, []
    for place, runs in enumerate(rows):
        try:
            found[place] = [cached_image_scores(run.record, metric=metric) for run in runs]
        except CosamError as error:
            notes.append(f"No intervals for {runs[0].info.method}: {error}")
    return found, notes


def _experts(runs: Sequence[Measured], metric: str) -> dict[Place, RunScores]:
    """The scores of ``experts`` by seed and order, as far as they can be read."""
    found = {}
    for run in latest_runs(runs):
        try:
            found[run.info.seed, run.info.order] = cached_image_scores(run.record, metric=metric)
        except CosamError:
            continue  # its own row says so
    return found


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
