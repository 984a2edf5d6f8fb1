"""The leaderboard as people read it: one board of labels and short cells per set of conditions."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cosam_bench.evaluation.figures import FIGURES, Figure
from cosam_bench.evaluation.metrics import METRICS
from cosam_bench.results.cell_text import MISSING, amount, is_code_mark, number, told_settings
from cosam_bench.results.costs import COSTS, CostColumn
from cosam_bench.results.protocol_match import protocol_title

if TYPE_CHECKING:
    from pandas import DataFrame, Series

Column = Figure | CostColumn

_BOARD = ("protocol", "version", "conditions", "differs")
_SIGNS = ("*", "†", "‡", "§")
TIE = "≈"

# The columns that people see, the most important first: the last are left out first.
_BY_IMPORTANCE = (
    "last",
    "ff",
    "avg",
    "retention",
    "state_kib",
    "merge_seconds",
    "plasticity",
    "train_seconds",
    "fwt",
    "peak_memory_mib",
    "encoder_passes",
)
_ALL_COLUMNS: Mapping[str, Column] = {**FIGURES, **COSTS}


@dataclass(frozen=True)
class Row:
    """One method with its settings, or one published row.

    Attributes:
        label: the method's name with the signs of its marks.
        settings: those in which the rows of this method differ, as ``key=value``.
        runs: how many; ``-`` if a paper does not say.
        rank: the ranks that it may have, with ``TIE`` if it cannot be told apart from the leader; empty without one.
        cells: by the column's name.
        best: the columns in which it has the best value of the rows without a mark; one of the code alone is none.
        budget: of what the method keeps between domains, from its card; ``MISSING`` if the record does not say.
        tuned: the budget of tuning; ``MISSING`` for settings that were not tuned.
        is_marked: whether there is something to know before comparing it.
        is_published: whether a paper printed it.
    """

    label: str
    settings: tuple[str, ...]
    runs: str
    rank: str
    cells: Mapping[str, str]
    best: frozenset[str]
    budget: str
    tuned: str
    is_marked: bool
    is_published: bool


@dataclass(frozen=True)
class Board:
    """The rows of one set of conditions, best first; published ones last.

    Attributes:
        title: protocol, conditions, metric and what it is sorted by.
        columns: by importance, the most important first; in the order of the table see ``in_table_order``.
        rows: measured, then published ones.
        legend: what signs and ``±`` mean.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    legend: tuple[str, ...]

    @property
    def has_ranks(self) -> bool:
        """Whether any row has a rank interval."""
        return any(row.rank for row in self.rows)

    @property
    def facts(self) -> dict[str, list[str]]:
        """The columns of words after the numbers that any row has, by their heads: a cell for each row."""
        columns = {"budget": [row.budget for row in self.rows], "tuned": [row.tuned for row in self.rows]}
        return {head: cells for head, cells in columns.items() if set(cells) != {MISSING}}

    def is_empty(self, column: Column) -> bool:
        """Whether no row has a value."""
        return all(row.cells[column.name] == MISSING for row in self.rows)


def shown_figures(sort_by: str) -> tuple[str, ...]:
    """The names of the figures that a board shows when sorted by this column."""
    return tuple(column.name for column in _columns(sort_by) if isinstance(column, Figure))


def in_table_order(columns: Sequence[Column]) -> list[Column]:
    """The columns as they stand side by side: figures, then costs."""
    return [column for name, column in _ALL_COLUMNS.items() if column in columns and column.name == name]


def boards_of(frame: DataFrame) -> list[Board]:
    """The boards of what ``leaderboard`` returned.

    Published rows are at the end of each board of their protocol, or in a board of their own if there is none. The
    board of runs that differ from the protocol is not one of them.
    """
    measured = frame[frame["origin"] == "measured"]
    published: dict[str, list[Series]] = defaultdict(list)
    for _, row in frame[frame["origin"] == "published"].iterrows():
        published[row["protocol"]].append(row)
    belongs: Mapping[str, str] = frame.attrs.get("published", {})
    boards = []
    for (protocol, _, _, differs), rows in measured.groupby([*_BOARD], sort=False):
        stated = [] if differs else published.get(belongs.get(str(protocol), ""), [])
        boards.append(_board([row for _, row in rows.iterrows()], stated, frame.attrs))
    with_runs = {belongs.get(protocol) for protocol in measured["protocol"][measured["differs"] == ""]}
    boards += [_board([], stated, frame.attrs) for name, stated in published.items() if name not in with_runs]
    return boards


def _board(measured: Sequence[Series], published: Sequence[Series], facts: Mapping[Any, Any]) -> Board:
    rows = [*measured, *published]
    sort_by = str(facts.get("sort_by", "last"))
    columns = _columns(sort_by)
    signs = _signs(rows)
    ties = _ties(measured)
    best = {column.name: _best(rows, column) for column in columns}
    is_tied = [*ties, *(False for _ in published)]
    texts = tuple(_row(row, rows, signs, columns, best, tied) for row, tied in zip(rows, is_tied, strict=True))
    title = f"{_title(rows[0], facts)}, {_sorting(sort_by)}"
    return Board(title, columns, texts, tuple(_legend(rows, signs, any(ties), facts)))


def _columns(sort_by: str) -> tuple[Column, ...]:
    """By importance; what the table is sorted by comes first."""
    first = _shown_column(sort_by)
    names = dict.fromkeys([*([first] if first else []), *_BY_IMPORTANCE])
    return tuple(_ALL_COLUMNS[name] for name in names)


def _shown_column(sort_by: str) -> str | None:
    """The column of a board that shows what it is sorted by; None for names, counts and ranks."""
    column = sort_by.removeprefix("-")
    for ending in ("_std", "_low", "_high"):
        column = column.removesuffix(ending)
    return column if column in _ALL_COLUMNS else None


def _title(row: Series, facts: Mapping[Any, Any]) -> str:
    metric = METRICS[row["metric"]].title
    domains = facts.get("domains") or ()
    over = f" over {', '.join(domains)} alone" if domains else ""
    if row["origin"] == "published":
        return f"{row['protocol']}: {metric}, published numbers alone"
    experiment = protocol_title(row["protocol"], row["version"], row["differs"])
    return f"{experiment}, conditions {row['conditions']}: {metric}{over}"


def _sorting(sort_by: str) -> str:
    """What the board is sorted by, in words."""
    column, is_reversed = sort_by.removeprefix("-"), sort_by.startswith("-")
    shown = _ALL_COLUMNS.get(column)
    if isinstance(shown, Figure):
        return f"{'worst' if is_reversed else 'best'} {shown.title} first"
    title = column if shown is None else shown.title
    return f"sorted by {title}, {'descending' if is_reversed else 'ascending'}"


def _signs(rows: Sequence[Series]) -> dict[str, str]:
    """A sign for each mark, in the order of first appearance."""
    marks = dict.fromkeys(mark for row in rows for mark in _marks(row))
    return {mark: _SIGNS[index % len(_SIGNS)] * (index // len(_SIGNS) + 1) for index, mark in enumerate(marks)}


def _marks(row: Series) -> list[str]:
    return [mark for mark in str(row["marks"]).split(", ") if mark]


def _is_marked(row: Series) -> bool:
    """Whether there is something to know before comparing it; that its code is another's is not."""
    return not all(map(is_code_mark, _marks(row)))


def _row(
    row: Series,
    rows: Sequence[Series],
    signs: Mapping[str, str],
    columns: Sequence[Column],
    best: Mapping[str, float],
    is_tied: bool,
) -> Row:
    runs = str(row["runs"])
    return Row(
        label=str(row["method"]) + "".join(signs[mark] for mark in _marks(row)),
        settings=_settings(row, rows),
        runs=runs if runs.isdigit() else MISSING,
        rank=_rank(row) + (TIE if is_tied else ""),
        cells={column.name: _cell(row, column) for column in columns},
        best=frozenset(name for name, value in best.items() if not math.isnan(value) and float(row[name]) == value),
        budget=str(row["budget"]) or MISSING,
        tuned=str(row["tuned"]) or MISSING,
        is_marked=_is_marked(row),
        is_published=row["origin"] == "published",
    )


def _settings(row: Series, rows: Sequence[Series]) -> tuple[str, ...]:
    """The settings in which the rows of the method differ, those of other budgets of tuning left out."""
    alike = [other for other in rows if (other["method"], other["tuned"]) == (row["method"], row["tuned"])]
    others = [json.loads(other["settings"]) for other in alike]
    return told_settings(json.loads(row["settings"]), others)


def _ties(rows: Sequence[Series]) -> list[bool]:
    """Whether each row's rank interval overlaps the leader's, the one that may have the best rank."""
    ranks = [_ranks(row) for row in rows]
    known = [rank for rank in ranks if rank is not None]
    if not known:
        return [False] * len(rows)
    leader = min(known)
    tied = [rank is not None and rank[0] <= leader[1] for rank in ranks]
    return tied if sum(tied) > 1 else [False] * len(rows)


def _ranks(row: Series) -> tuple[int, int] | None:
    best, worst = str(row["rank_best"]), str(row["rank_worst"])
    return (int(best), int(worst)) if best.isdigit() and worst.isdigit() else None


def _rank(row: Series) -> str:
    ranks = _ranks(row)
    if ranks is None:
        return ""
    return str(ranks[0]) if ranks[0] == ranks[1] else f"{ranks[0]}-{ranks[1]}"


def _cell(row: Series, column: Column) -> str:
    if isinstance(column, CostColumn):
        return _cost(row, column)
    value = float(row[column.name])
    low, high = float(row[f"{column.name}_low"]), float(row[f"{column.name}_high"])
    if not math.isnan(low):
        return f"{number(value)} ±{number((high - low) / 2)}" if column.is_linear else _between(value, low, high)
    deviation = float(row[f"{column.name}_std"])
    if math.isnan(deviation) or (row["origin"] == "measured" and _has_intervals(row)):
        return number(value)
    return f"{number(value)} ±{number(deviation)}"


def _cost(row: Series, column: CostColumn) -> str:
    from pandas import isna

    value = row[column.name]
    if isna(value) or value == "":
        return MISSING
    growth = " ↑" if column.name == "state_kib" and row["state_grows"] == "yes" else ""
    return str(value) if column.kind == "yes or no" else amount(float(value)) + growth


def _between(value: float, low: float, high: float) -> str:
    return f"{number(value)} [{number(low)}, {number(high)}]"


def _has_intervals(row: Series) -> bool:
    return str(row["interval_runs"]).isdigit()


def _best(rows: Sequence[Series], column: Column) -> float:
    """The best value of the unmarked rows; NaN for costs and if there are fewer than two values."""
    if isinstance(column, CostColumn):
        return math.nan
    values = [float(row[column.name]) for row in rows if not _is_marked(row)]
    values = [value for value in values if not math.isnan(value)]
    if len(values) < 2:
        return math.nan
    return max(values) if column.prefers_high(rows[0]["metric"]) else min(values)


def _legend(rows: Sequence[Series], signs: Mapping[str, str], has_ties: bool, facts: Mapping[Any, Any]) -> list[str]:
    lines = [f"{sign} {mark}" for mark, sign in signs.items()]
    if any(row["state_grows"] == "yes" for row in rows):
        lines.append("↑ state grows with the number of domains")
    with_intervals = [row for row in rows if _has_intervals(row)]
    if with_intervals:
        lines.append(f"± {100 * facts['level']:g}% interval")
        if any(row["origin"] == "published" and not math.isnan(float(row["last_std"])) for row in rows):
            lines.append("of published rows ± the paper's deviation")
        if len(with_intervals) < sum(row["origin"] == "measured" for row in rows):
            lines.append("rows without image scores: ± sample deviation over runs")
        if any(row["interval_basis"] == "images" for row in with_intervals):
            lines.append("with 1 run the interval is of images only and says nothing about the seed")
    if any(_ranks(row) is not None for row in rows):
        lines.append(f"rank: the ranks by {FIGURES[facts['ranked_by']].title} that a method may have")
    if has_ties:
        lines.append(f"{TIE} rank not separable from the leader's")
    return lines
