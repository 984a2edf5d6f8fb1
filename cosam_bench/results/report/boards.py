"""What the report shows of each set of comparable runs: methods with intervals, ranks and costs."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cosam_bench.evaluation.contributions import RunScores
from cosam_bench.evaluation.figures import FIGURES
from cosam_bench.evaluation.intervals import Interval
from cosam_bench.evaluation.ranks import RankInterval
from cosam_bench.results.cell_text import code_mark, told_settings
from cosam_bench.results.conditions import Measured, Variant, measured_runs
from cosam_bench.results.costs import COSTS
from cosam_bench.results.prompt_gaps import prompt_notes
from cosam_bench.results.protocol_match import difference_suffix
from cosam_bench.results.records import Record
from cosam_bench.results.row_intervals import (
    RANKED_BY,
    RowIntervals,
    has_fair_marks,
    latest_runs,
    place_of,
    read_table_scores,
    table_intervals,
    without_repeats,
)
from cosam_bench.results.run_info import RunInfo


@dataclass(frozen=True, eq=False)
class Entry:
    """A method with its settings, over all of its runs under one set of conditions.

    Attributes:
        anchor: its id on the page.
        label: the method's name, with the settings that tell it from other entries of that method.
        runs: one per seed and order, the lowest seed first.
        figures: by name, with intervals.
        costs: by name: a number, NaN if not measured, or ``yes``, ``no`` or nothing.
        rank: the ranks that it may have by ``RANKED_BY``; None if its marks keep it from being ranked.
    """

    anchor: str
    label: str
    runs: tuple[Measured, ...]
    figures: Mapping[str, Interval]
    costs: Mapping[str, float | str]
    rank: RankInterval | None

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
        differs: what they change of the protocol, see ``protocol_match``; empty if nothing.
        entries: by ``RANKED_BY``, the best first.
    """

    anchor: str
    protocol: str
    version: int
    conditions: str
    differs: str
    metric: str
    entries: tuple[Entry, ...]

    @property
    def info(self) -> RunInfo:
        """Of the first run; all share protocol, weights and data."""
        return self.entries[0].info

    @property
    def title(self) -> str:
        """Protocol, version, what differs from it, and conditions."""
        differing = difference_suffix(self.differs)
        return f"{self.protocol}, version {self.version}{differing}, conditions {self.conditions}"

    @property
    def file_stem(self) -> str:
        """What the names of its downloads begin with: the protocol's name belongs to its own runs alone."""
        return f"{self.protocol}-{self.conditions}" if self.differs else self.protocol


def boards_of(
    records: Sequence[Record], *, metric: str, experts_from: Sequence[Record] = ()
) -> tuple[list[Board], list[str]]:
    """One board per set of conditions, and notes about whatever was left out or set apart.

    Args:
        records: the runs to show.
        metric: of all scores.
        experts_from: where to find the runs of ``experts`` that lost plasticity is measured against, shown or not.
    """
    runs, notes = measured_runs(records, metric=metric)
    shown = {record.folder for record in records}
    hidden = [one for one in experts_from if one.info.method == "experts" and one.folder not in shown]
    references = measured_runs(hidden, metric=metric)[0]
    runs, repeated = without_repeats(runs)
    runs.sort(key=place_of)
    groups: dict[tuple[str, int, str, str], list[Measured]] = defaultdict(list)
    for run in runs:
        groups[run.info.protocol, run.info.protocol_version, run.differs, run.conditions].append(run)
    notes += [*repeated, *prompt_notes(runs)]
    boards: list[Board] = []
    for (protocol, version, differs, conditions), members in sorted(groups.items()):
        alike = [run for run in references if (run.info.protocol, run.conditions) == (protocol, conditions)]
        scores, faults = read_table_scores([*members, *alike], metric=metric)
        notes += [f"Left out: {fault}" for fault in faults]
        readable, experts = ([run for run in group if run.record.folder in scores] for group in (members, alike))
        if readable:
            anchor = f"b{len(boards) + 1}"
            entries = _entries(readable, scores, anchor, references=experts)
            boards.append(Board(anchor, protocol, version, conditions, differs, metric, entries))
    return boards, notes


def _entries(
    runs: Sequence[Measured], scores: Mapping[Path, RunScores], board: str, *, references: Sequence[Measured]
) -> tuple[Entry, ...]:
    """The rows of a board; ``references`` are runs of ``experts`` that are not shown."""
    groups: dict[Variant, list[Measured]] = defaultdict(list)
    for run in runs:
        groups[run.variant].append(run)
    experts = [*references, *(run for run in runs if run.info.method == "experts")]
    found = table_intervals(
        [[scores[run.record.folder] for run in members] for members in groups.values()],
        is_ranked=[has_fair_marks(members) for members in groups.values()],
        experts={place_of(run): scores[run.record.folder] for run in latest_runs(experts)},
    )
    labels = _labels(list(groups))
    is_high = FIGURES[RANKED_BY].prefers_high(runs[0].matrix.metric)
    rows = [(labels[key], members, row) for (key, members), row in zip(groups.items(), found, strict=True)]
    rows.sort(key=lambda row: (*_best_first(row[2].figures[RANKED_BY].estimate, is_high), row[0]))
    return tuple(
        _entry(f"{board}-m{place}", label, members, row) for place, (label, members, row) in enumerate(rows, start=1)
    )


def _entry(anchor: str, label: str, runs: Sequence[Measured], row: RowIntervals) -> Entry:
    costs = {name: column.combined([run.info.cost for run in runs]) for name, column in COSTS.items()}
    return Entry(anchor, label, tuple(runs), row.figures, costs, row.rank)


def _best_first(value: float, is_high: bool) -> tuple[bool, float]:
    return math.isnan(value), -value if is_high else value


def _labels(keys: Sequence[Variant]) -> dict[Variant, str]:
    """The method's name, with the settings, the tuning and the code in which entries of that method differ."""
    labels = {}
    for key in keys:
        others = [other for other in keys if other.method == key.method]
        told = [f"tuned by {key.tuned}" if key.tuned else "not tuned"] * (len({other.tuned for other in others}) > 1)
        alike = [json.loads(other.settings) for other in others if other.tuned == key.tuned]
        told += told_settings(json.loads(key.settings), alike)
        labels[key] = " ".join(filter(None, [key.method, *told, code_mark(key, keys)]))
    return labels
