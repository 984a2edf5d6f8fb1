"""The leaderboard on the terminal: its essential columns, as many as fit."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cosam_bench.cli.matrix_table import MISSING, amount, number
from cosam_bench.evaluation.figures import FIGURES, Figure
from cosam_bench.evaluation.metrics import METRICS
from cosam_bench.results.costs import COSTS, CostColumn

if TYPE_CHECKING:
    from pandas import DataFrame, Series

_SIGNS = ("*", "†", "‡", "§")
_GAP = 2  # characters between two columns: one of padding, one of the box


_Column = Figure | CostColumn

# The columns that a terminal shows, the most important first: the last are left out first.
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
_ALL_COLUMNS: tuple[_Column, ...] = (*FIGURES.values(), *COSTS.values())
_COLUMNS = {column.name: column for column in _ALL_COLUMNS if column.name in _BY_IMPORTANCE}


def render_leaderboard(frame: DataFrame, *, width: int = 100) -> Group:
    """The leaderboard as one table per set of conditions, then the notes for the reader.

    Scores are shown as mean ± sample deviation over runs; the best of the unmarked rows is bold. Columns that
    do not fit into ``width`` characters are left out and named below; the CSV has all. Published rows follow at the
    end of each table of their protocol, or in a table of their own if nothing was measured.

    Args:
        frame: what ``leaderboard`` returned.
        width: of the terminal, in characters.
    """
    parts: list[RenderableType] = []
    measured = frame[frame["origin"] == "measured"]
    published = _published(frame)
    belongs = frame.attrs.get("published", {})
    for (protocol, _, _), rows in measured.groupby(["protocol", "version", "conditions"], sort=False):
        stated = published.get(belongs.get(protocol), [])
        parts += [_board([row for _, row in rows.iterrows()], stated, width=width), Text()]
    with_runs = {belongs.get(protocol) for protocol in measured["protocol"]}
    for protocol, stated in published.items():
        if protocol not in with_runs:
            parts += [_board([], stated, width=width), Text()]
    if not parts:
        parts.append(Text("No complete run is recorded here."))
    parts += [Text(f"Note: {note}", style="yellow") for note in frame.attrs.get("notes", ())]
    return Group(*parts)


def _published(frame: DataFrame) -> dict[str, list[Series]]:
    """The published rows by protocol."""
    found: dict[str, list[Series]] = defaultdict(list)
    for _, row in frame[frame["origin"] == "published"].iterrows():
        found[row["protocol"]].append(row)
    return found


def _board(measured: Sequence[Series], published: Sequence[Series], *, width: int) -> Table:
    rows = [*measured, *published]
    signs = _signs(rows)
    labels = [_label(row, rows, signs) for row in rows]
    cells = {column.name: [_cell(row, column) for row in rows] for column in _COLUMNS.values()}
    room = width - 3 - max(len(line) for label in labels for line in label.plain.split("\n")) - len("runs") - _GAP
    if not measured:  # a table of published rows alone has no column that nobody published
        cells = {name: texts for name, texts in cells.items() if set(texts) != {MISSING}}
    shown, hidden = _fitting_columns(cells, room)
    best = {column.name: _best(rows, column) for column in shown}
    table = _empty_table(shown, title=_title(rows[0]), caption=_caption(rows, signs, hidden))
    for index, (row, label) in enumerate(zip(rows, labels, strict=True)):
        texts = [
            Text(cells[column.name][index], style="bold" if row[column.name] == best[column.name] else "")
            for column in shown
        ]
        if measured and index == len(measured):
            table.add_section()
        table.add_row(label, _runs(row), *texts, style="dim" if row["marks"] else "")
    return table


def _empty_table(columns: Sequence[_Column], *, title: str, caption: str) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, _GAP - 1, 0, 0),
        pad_edge=False,
        title=title,
        title_justify="left",
        title_style="bold",
        caption=caption,
        caption_justify="left",
    )
    table.add_column("method", no_wrap=True)
    table.add_column("runs", justify="right")
    for column in columns:
        table.add_column(column.title, justify="right", no_wrap=True)
    return table


def _title(row: Series) -> str:
    metric = METRICS[row["metric"]].title
    if row["origin"] == "published":
        return f"{row['protocol']}: {metric}, published numbers alone"
    return f"{row['protocol']} (version {row['version']}), conditions {row['conditions']}: {metric}"


def _runs(row: Series) -> str:
    runs = str(row["runs"])
    return runs if runs.isdigit() else MISSING  # a published row may not say


def _signs(rows: Sequence[Series]) -> dict[str, str]:
    """A sign for each mark, in the order of first appearance."""
    marks = dict.fromkeys(mark for row in rows for mark in str(row["marks"]).split(", ") if mark)
    return {mark: _SIGNS[index % len(_SIGNS)] * (index // len(_SIGNS) + 1) for index, mark in enumerate(marks)}


def _label(row: Series, rows: Sequence[Series], signs: dict[str, str]) -> Text:
    """The method with its signs, and below it the settings in which the method's rows differ."""
    label = Text(str(row["method"]) + "".join(signs[mark] for mark in str(row["marks"]).split(", ") if mark))
    settings = [json.loads(other["settings"]) for other in rows if other["method"] == row["method"]]
    for name, value in json.loads(row["settings"]).items():
        if any(other.get(name) != value for other in settings):
            label.append(f"\n  {name}={json.dumps(value)}", style="dim")
    return label


def _cell(row: Series, column: _Column) -> str:
    value = float(row[column.name])
    if isinstance(column, CostColumn):
        growth = " ↑" if column.name == "state_kib" and row["state_grows"] == "yes" else ""
        return amount(value) + growth
    deviation = float(row[f"{column.name}_std"])
    return number(value) if math.isnan(deviation) else f"{number(value)} ±{number(deviation)}"


def _fitting_columns(cells: dict[str, list[str]], room: int) -> tuple[list[_Column], list[_Column]]:
    """The columns that fit into ``room`` characters, and the others; columns without values come last."""
    fitting: set[str] = set()
    for name in sorted(cells, key=lambda name: (set(cells[name]) == {MISSING}, _BY_IMPORTANCE.index(name))):
        needed = max(len(_COLUMNS[name].title), *map(len, cells[name])) + _GAP
        if needed <= room:
            room -= needed
            fitting.add(name)
    shown = [_COLUMNS[name] for name in cells if name in fitting]
    return shown, [_COLUMNS[name] for name in cells if name not in fitting]


def _best(rows: Sequence[Series], column: _Column) -> float:
    """The best value of the unmarked rows; NaN for costs and if there are fewer than two values."""
    values = [float(row[column.name]) for row in rows if not row["marks"]]
    values = [value for value in values if not math.isnan(value)]
    if isinstance(column, CostColumn) or len(values) < 2:
        return math.nan
    return max(values) if column.prefers_high(rows[0]["metric"]) else min(values)


def _caption(rows: Sequence[Series], signs: dict[str, str], hidden: Sequence[_Column]) -> str:
    lines = [f"{sign} {mark}" for mark, sign in signs.items()]
    if any(row["state_grows"] == "yes" for row in rows):
        lines.append("↑ state grows with the number of domains")
    if hidden:
        lines.append(f"too wide, only in the CSV: {', '.join(column.title for column in hidden)}")
    return "; ".join(lines)
