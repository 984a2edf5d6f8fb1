"""The parts of the report's page: tables with sortable columns, charts, and downloads."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote

from cosam_bench.evaluation.figures import FIGURES, Figure
from cosam_bench.evaluation.intervals import Interval
from cosam_bench.evaluation.metrics import METRICS
from cosam_bench.evaluation.ranks import RankInterval
from cosam_bench.results.cell_text import amount, number
from cosam_bench.results.costs import COSTS
from cosam_bench.results.report.boards import Board, Entry
from cosam_bench.results.report.charts import Curve, Point, csv_of, curves_svg, pareto_front, pareto_svg
from cosam_bench.results.report.matrices import (
    MatrixTable,
    forgetting_table,
    losses,
    mean_matrix,
    retention_means,
    score_table,
    seen_means,
)
from cosam_bench.results.row_intervals import RANKED_BY
from cosam_bench.results.run_info import AT_ONCE

MOST_CURVES = 14
"""Methods in one chart: more lines cannot be told apart."""


@dataclass(frozen=True)
class Download:
    """A CSV file inside the page."""

    file: str
    text: str

    @property
    def link(self) -> str:
        """A data URL."""
        return "data:text/csv;charset=utf-8," + quote(self.text)


@dataclass(frozen=True)
class Column:
    """A sortable column.

    Attributes:
        first: the direction of the first click.
        hint: what the column says, for a tooltip.
    """

    title: str
    hint: str
    first: Literal["ascending", "descending"] = "ascending"
    kind: Literal["number", "text"] = "number"


@dataclass(frozen=True)
class TableCell:
    """A cell: what is shown, what is below it, and what it is sorted by (empty if there is no value)."""

    text: str
    detail: str = ""
    value: str = ""
    is_best: bool = False


@dataclass(frozen=True)
class Chart:
    """A picture with its numbers."""

    title: str
    caption: str
    svg: str
    download: Download


@dataclass(frozen=True)
class EntryView:
    """The matrices of one entry.

    Attributes:
        runs: how many runs the matrices are means of.
        forgetting: None if all domains were learned at once.
    """

    entry: Entry
    runs: int
    scores: MatrixTable
    forgetting: MatrixTable | None
    download: Download


@dataclass(frozen=True)
class BoardView:
    """All that the page shows of one board but the examples."""

    board: Board
    columns: tuple[Column, ...]
    rows: tuple[tuple[Entry, tuple[TableCell, ...]], ...]
    cost_columns: tuple[Column, ...]
    cost_rows: tuple[tuple[Entry, tuple[TableCell, ...]], ...]
    unmeasured: tuple[Figure, ...]
    download: Download
    cost_download: Download
    charts: tuple[Chart, ...]
    entries: tuple[EntryView, ...]


def board_view(board: Board) -> BoardView:
    """The tables and charts of a board."""
    shown = [figure for name, figure in FIGURES.items() if any(_is_known(entry, name) for entry in board.entries)]
    figures = [
        Column(figure.title, f"{figure.meaning}: {figure.formula}", _first(figure, board.metric)) for figure in shown
    ]
    rank = Column("Rank", "the ranks that it may have by Last; see below the table")
    runs = Column("Runs", "seeds and orders", "descending")
    costs = [
        Column(f"{column.label}, {column.unit}" if column.unit else column.label, column.meaning)
        for column in COSTS.values()
    ]
    return BoardView(
        board=board,
        columns=(rank, runs, *figures, *([_TUNED] if _has_tuned(board) else [])),
        rows=tuple((entry, _row(entry, board, shown)) for entry in board.entries),
        cost_columns=tuple(costs),
        cost_rows=tuple((entry, tuple(_cost(entry.costs[name]) for name in COSTS)) for entry in board.entries),
        unmeasured=tuple(figure for figure in FIGURES.values() if figure not in shown),
        download=Download(f"{board.file_stem}-leaderboard.csv", _leaderboard_csv(board, shown)),
        cost_download=Download(f"{board.file_stem}-costs.csv", _costs_csv(board)),
        charts=tuple(_charts(board)),
        entries=tuple(_entry_view(entry, board.file_stem) for entry in board.entries),
    )


_TUNED = Column("Tuned", "settings tried on held-out training images", kind="text")


def _has_tuned(board: Board) -> bool:
    return any(entry.info.tuned for entry in board.entries)


def _is_known(entry: Entry, name: str) -> bool:
    return not math.isnan(entry.figures[name].estimate)


def _first(figure: Figure, metric: str) -> Literal["ascending", "descending"]:
    return "descending" if figure.prefers_high(metric) else "ascending"


def _row(entry: Entry, board: Board, figures: Sequence[Figure]) -> tuple[TableCell, ...]:
    runs = TableCell(str(len(entry.runs)), value=str(len(entry.runs)))
    tuned = [TableCell(entry.info.tuned or "\N{EN DASH}", value=entry.info.tuned)] if _has_tuned(board) else []
    return (_rank(entry.rank), runs, *(_figure_cell(entry, board, figure) for figure in figures), *tuned)


def _rank(rank: RankInterval | None) -> TableCell:
    if rank is None:
        return TableCell("\N{EN DASH}")
    text = f"{rank.best}" if rank.best == rank.worst else f"{rank.best}\N{EN DASH}{rank.worst}"
    return TableCell(text, value=f"{rank.best + rank.worst / 1000:.3f}")


def _figure_cell(entry: Entry, board: Board, figure: Figure) -> TableCell:
    found = entry.figures[figure.name]
    if math.isnan(found.estimate):
        return TableCell("\N{EN DASH}")
    # Bounds and runs on all domains at once are not in the competition.
    values = [other.figures[figure.name].estimate for other in board.entries if not other.marks]
    known = [value for value in values if not math.isnan(value)]
    best = (max(known) if figure.prefers_high(board.metric) else min(known)) if len(set(known)) > 1 else math.nan
    return TableCell(
        number(found.estimate), _range(found), repr(found.estimate), not entry.marks and found.estimate == best
    )


def _range(found: Interval) -> str:
    return "" if math.isnan(found.low) else f"{number(found.low)} to {number(found.high)}"


def _cost(value: float | str) -> TableCell:
    if isinstance(value, str):
        return TableCell(value or "\N{EN DASH}", value={"yes": "1", "no": "0"}.get(value, ""))
    return TableCell("\N{EN DASH}") if math.isnan(value) else TableCell(amount(value), value=repr(float(value)))


def _leaderboard_csv(board: Board, figures: Sequence[Figure]) -> str:
    entries = board.entries
    columns: dict[str, Sequence[object]] = {
        "method": [entry.label for entry in entries],
        "marks": [", ".join(entry.marks) for entry in entries],
        "metric": [board.metric] * len(entries),
        "runs": [len(entry.runs) for entry in entries],
        "rank_best": ["" if entry.rank is None else entry.rank.best for entry in entries],
        "rank_worst": ["" if entry.rank is None else entry.rank.worst for entry in entries],
    }
    for figure in figures:
        for part in ("estimate", "low", "high"):
            name = figure.name if part == "estimate" else f"{figure.name}_{part}"
            columns[name] = [getattr(entry.figures[figure.name], part) for entry in entries]
    columns |= {"differs": [board.differs] * len(entries), "budget": [entry.info.budget for entry in entries]}
    columns |= {"tuned": [entry.info.tuned for entry in entries]}
    return csv_of(columns)


def _costs_csv(board: Board) -> str:
    columns: dict[str, Sequence[object]] = {"method": [entry.label for entry in board.entries]}
    return csv_of(columns | {name: [entry.costs[name] for entry in board.entries] for name in COSTS})


def _charts(board: Board) -> list[Chart]:
    """Curves over the stream, then scores against costs."""
    metric, info = METRICS[board.metric].title, board.info
    means = {entry: mean_matrix(entry)[0] for entry in board.entries}
    stepwise = [entry for entry in board.entries if AT_ONCE not in entry.marks]
    same_order = all(run.info.order == info.order for entry in board.entries for run in entry.runs)
    steps = info.order if same_order else tuple(str(step) for step in range(1, len(info.order) + 1))
    seen = {entry: seen_means(means[entry]) for entry in stepwise}
    charts = [_curves(board, seen, steps, f"{metric}, domains seen so far", "seen")]
    if info.retention:
        kept = {entry: retention_means(means[entry]) for entry in stepwise}
        charts.append(_curves(board, kept, ("frozen", *steps), f"{metric}, retention domains", "retention"))
    state = {entry: _as_number(entry.costs["state_kib"]) for entry in board.entries}
    seconds = {
        entry: _as_number(entry.costs["train_seconds"]) + _as_number(entry.costs["merge_seconds"])
        for entry in board.entries
    }
    return [
        *charts,
        _pareto(board, state, "state at the end, KiB", "state"),
        _pareto(board, seconds, "training and merging, seconds", "time"),
    ]


def _as_number(value: float | str) -> float:
    return math.nan if isinstance(value, str) else value


def _curves(
    board: Board, values: Mapping[Entry, Sequence[float]], steps: Sequence[str], y_title: str, name: str
) -> Chart:
    shown = list(values)[:MOST_CURVES]
    title = f"{board.title}: {y_title}, after each step"
    lines = [Curve(entry.label, tuple(values[entry])) for entry in shown]
    svg = curves_svg(lines, steps=steps, y_title=y_title, title=title)
    columns: dict[str, Sequence[object]] = {"after": steps}
    columns |= {entry.label: list(values[entry]) for entry in values}
    more = f" The best {MOST_CURVES} of {len(values)} are drawn." if len(values) > len(shown) else ""
    caption = f"{y_title}, after each step.{more}"
    return Chart(title, caption, svg, Download(f"{board.file_stem}-{name}.csv", csv_of(columns)))


def _pareto(board: Board, costs: Mapping[Entry, float], x_title: str, name: str) -> Chart:
    metric, ranked = METRICS[board.metric], FIGURES[RANKED_BY]
    is_high = ranked.prefers_high(board.metric)
    pairs = [(cost, entry.figures[RANKED_BY].estimate) for entry, cost in costs.items()]
    in_competition = [  # bounds and runs on all domains at once are not
        (math.nan, math.nan) if entry.marks else pair for entry, pair in zip(costs, pairs, strict=True)
    ]
    front = pareto_front(in_competition, is_higher_better=is_high)
    points = [
        Point(entry.label, *pair, is_on_front=on_front)
        for entry, pair, on_front in zip(costs, pairs, front, strict=True)
    ]
    y_title = f"{ranked.title} ({metric.title})"
    title = f"{board.title}: {y_title} against {x_title}"
    svg = pareto_svg(points, x_title=x_title, y_title=y_title, title=title)
    columns: dict[str, Sequence[object]] = {
        "method": [point.name for point in points],
        "cost": [point.x for point in points],
        RANKED_BY: [point.y for point in points],
        "on_front": ["yes" if point.is_on_front else "no" for point in points],
    }
    absent = [point.name for point in points if not point.x > 0]
    note = f" Not drawn, because a logarithmic axis has no 0: {', '.join(absent)}." if absent else ""
    front_names = ", ".join(point.name for point in points if point.is_on_front)
    caption = (
        f"{y_title} against {x_title}. On the Pareto front of methods without a mark (no other is better at no more "
        f"cost): {front_names}. Names are written as far as there is room.{note}"
    )
    return Chart(title, caption, svg, Download(f"{board.file_stem}-{name}.csv", csv_of(columns)))


def _entry_view(entry: Entry, stem: str) -> EntryView:
    matrix, runs = mean_matrix(entry)
    at_once = AT_ONCE in entry.marks
    lost = losses(matrix)
    columns: dict[str, list[object]] = {"step": [], "domain": [], "score": [], "forgetting": []}
    for step, row in enumerate(matrix.values.tolist()):
        for place, value in enumerate(row):
            columns["step"].append(step)
            columns["domain"].append(matrix.columns[place])
            columns["score"].append(value)
            columns["forgetting"].append(math.nan if at_once else float(lost[step, place]))
    return EntryView(
        entry=entry,
        runs=runs,
        scores=score_table(matrix, at_once=at_once),
        forgetting=None if at_once else forgetting_table(matrix),
        download=Download(f"{stem}-{entry.anchor}-matrix.csv", csv_of(columns)),
    )
