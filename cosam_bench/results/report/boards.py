"""What the report shows of each set of comparable runs: methods with intervals, ranks and costs."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cosam_bench.core.errors import CosamError
from cosam_bench.evaluation.figures import FIGURES, Figure
from cosam_bench.evaluation.statistics import (
    Contributions,
    Interval,
    RankInterval,
    RunScores,
    bootstrap_interval,
    contributions,
    interval,
    rank_intervals,
)
from cosam_bench.results.conditions import Measured, measured_runs
from cosam_bench.results.costs import COSTS
from cosam_bench.results.image_scores import read_image_scores
from cosam_bench.results.records import Record
from cosam_bench.results.run_info import RunInfo

RANKED_BY = "last"


@dataclass(frozen=True, eq=False)
class Entry:
    """A method with its settings, over all of its runs under one set of conditions.

    Attributes:
        anchor: its id on the page.
        label: the method's name, with the settings that tell it from other entries of that method.
        runs: one per seed and order, the lowest seed first.
        figures: by name, with intervals.
        costs: by name: a number, NaN if not measured, or ``yes``, ``no`` or nothing.
        rank: the ranks that it may have by ``RANKED_BY``.
    """

    anchor: str
    label: str
    runs: tuple[Measured, ...]
    figures: Mapping[str, Interval]
    costs: Mapping[str, float | str]
    rank: RankInterval

    @property
    def info(self) -> RunInfo:
        """Of the first run."""
        return self.runs[0].info

    @property
    def marks(self) -> tuple[str, ...]:
        """What to know before comparing it."""
        return tuple(dict.fromkeys(mark for run in self.runs for mark in run.info.marks))


@dataclass(frozen=True, eq=False)
class Board:
    """The comparable runs of one protocol.

    Attributes:
        conditions: their short hash.
        entries: by ``RANKED_BY``, the best first.
    """

    anchor: str
    protocol: str
    version: int
    conditions: str
    metric: str
    entries: tuple[Entry, ...]

    @property
    def info(self) -> RunInfo:
        """Of the first run; all share protocol, weights and data."""
        return self.entries[0].info

    @property
    def title(self) -> str:
        """Protocol, version and conditions."""
        return f"{self.protocol}, version {self.version}, conditions {self.conditions}"


def boards_of(records: Sequence[Record], *, metric: str) -> tuple[list[Board], list[str]]:
    """One board per set of conditions, and notes about whatever was left out or set apart."""
    runs, notes = measured_runs(records, metric=metric)
    runs, repeated = _without_repeats(runs)
    scores, unreadable = _scores(runs, metric)
    groups: dict[tuple[str, int, str], list[Measured]] = defaultdict(list)
    for run in runs:
        if run.record.folder in scores:
            groups[run.info.protocol, run.info.protocol_version, run.conditions].append(run)
    boards = []
    for number, ((protocol, version, conditions), members) in enumerate(sorted(groups.items()), start=1):
        entries = _entries(members, scores, board=number)
        boards.append(Board(f"b{number}", protocol, version, conditions, metric, entries))
    return boards, [*notes, *repeated, *unreadable]


def _key(run: Measured) -> tuple[str, str]:
    return run.info.method, json.dumps(run.info.settings, sort_keys=True)


def _without_repeats(runs: Sequence[Measured]) -> tuple[list[Measured], list[str]]:
    """The runs, of several with the same method, conditions, seed and order the latest alone."""
    kept: dict[tuple[object, ...], Measured] = {}
    notes = []
    for run in sorted(runs, key=lambda run: run.info.started):
        place = (*_key(run), run.info.protocol, run.conditions, run.info.seed, run.info.order)
        if place in kept:
            notes.append(f"Left out: {kept[place].record.name} repeats the seed and order of {run.record.name}.")
        kept[place] = run
    return sorted(kept.values(), key=lambda run: (run.info.seed, run.info.order)), notes


def _scores(runs: Sequence[Measured], metric: str) -> tuple[dict[Path, RunScores], list[str]]:
    """The image scores by folder, and a note for each record whose scores cannot be read."""
    found: dict[Path, RunScores] = {}
    notes = []
    for run in runs:
        try:
            found[run.record.folder] = read_image_scores(run.record, metric=metric)
        except CosamError as error:
            notes.append(f"Left out: {error}")
    return found, notes


def _entries(runs: Sequence[Measured], scores: Mapping[Path, RunScores], *, board: int) -> tuple[Entry, ...]:
    groups: dict[tuple[str, str], list[Measured]] = defaultdict(list)
    for run in runs:
        groups[_key(run)].append(run)
    experts = {
        (run.info.seed, run.info.order): scores[run.record.folder] for run in runs if run.info.method == "experts"
    }
    labels = _labels(list(groups))
    unranked = RankInterval(1, len(groups))
    entries, shares = [], []
    for key, members in groups.items():
        own = [scores[run.record.folder] for run in members]
        figures = {name: figure_interval(own, figure, experts=experts) for name, figure in FIGURES.items()}
        costs = {name: column.combined([run.info.cost for run in members]) for name, column in COSTS.items()}
        entries.append(Entry("", labels[key], tuple(members), figures, costs, unranked))
        shares.append([contributions(one, FIGURES[RANKED_BY]) for one in own])
    is_high = FIGURES[RANKED_BY].prefers_high(own[0].metric)
    ranked = [replace(entry, rank=rank) for entry, rank in zip(entries, _ranks(shares, is_high), strict=True)]
    ranked.sort(key=lambda entry: (*_best_first(entry.figures[RANKED_BY].estimate, is_high), entry.label))
    return tuple(replace(entry, anchor=f"b{board}-m{place}") for place, entry in enumerate(ranked, start=1))


def _ranks(shares: Sequence[Sequence[Contributions]], is_high: bool) -> list[RankInterval]:
    return rank_intervals(shares, is_higher_better=is_high)


def _best_first(value: float, is_high: bool) -> tuple[bool, float]:
    return math.isnan(value), -value if is_high else value


def figure_interval(
    runs: Sequence[RunScores], figure: Figure, *, experts: Mapping[tuple[int, tuple[str, ...]], RunScores]
) -> Interval:
    """The mean of a figure over the runs of one entry, with its interval.

    Args:
        runs: one per seed and order.
        figure: linear or not.
        experts: the scores of ``experts`` by seed and order, for figures that need them.
    """
    if not figure.is_linear:
        return bootstrap_interval(runs, figure)
    return interval([contributions(run, figure, experts=experts.get((run.seed, run.domains))) for run in runs])


def _labels(keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """The method's name, with the settings in which entries of that method differ."""
    labels = {}
    for method, text in keys:
        settings = json.loads(text)
        others = [json.loads(other) for name, other in keys if name == method]
        told = [
            f"{name}={json.dumps(value)}"
            for name, value in settings.items()
            if any(other.get(name) != value for other in others)
        ]
        labels[method, text] = " ".join([method, *told])
    return labels
