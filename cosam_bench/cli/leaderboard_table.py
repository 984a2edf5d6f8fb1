"""The leaderboard on the terminal: its essential columns, as many as fit."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cosam_bench.cli.matrix_table import METRIC_TITLES, MISSING, amount, number
from cosam_bench.evaluation.metrics import HIGHER_IS_BETTER

if TYPE_CHECKING:
    from pandas import DataFrame, Series

_SIGNS = ("*", "†", "‡", "§")
_GAP = 2  # characters between two columns: one of padding, one of the box


@dataclass(frozen=True)
class _Column:
    """One column of the terminal's table.

    Attributes:
        name: in the leaderboard's frame.
        rank: the order in which columns are given room; the last give way first.
        best: ``score`` (as the metric says), ``high``, ``low``, or empty where no best is marked.
    """

    name: str
    title: str
    rank: int
    best: str = ""


_COLUMNS = (
    _Column("last", "Last", 0, "score"),
    _Column("avg", "Avg", 2, "score"),
    _Column("ff", "FF", 1, "low"),
    _Column("fwt", "FWT", 8, "high"),
    _Column("plasticity", "Plast. loss", 6, "low"),
    _Column("retention", "Retention", 3, "score"),
    _Column("train_seconds", "train s", 7),
    _Column("merge_seconds", "merge s", 5),
    _Column("peak_memory_mib", "MiB", 9),
    _Column("state_kib", "state KiB", 4),
    _Column("encoder_passes", "passes", 10),
)


def render_leaderboard(frame: DataFrame, *, width: int = 100) -> Group:
    """The leaderboard as one table a set of conditions, then the notes a reader must be told.

    Scores are shown as mean ± sample deviation over runs; the best of the unmarked rows is bold. Columns that
    do not fit into ``width`` characters are left out and named below; the CSV has all. Published rows stand apart
    at the end of every table of their protocol, or in a table of their own where nothing was measured.

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
    """By protocol, the published rows."""
    found: dict[str, list[Series]] = defaultdict(list)
    for _, row in frame[frame["origin"] == "published"].iterrows():
        found[row["protocol"]].append(row)
    return found


def _board(measured: Sequence[Series], published: Sequence[Series], *, width: int) -> Table:
    rows = [*measured, *published]
    signs = _signs(rows)
    labels = [_label(row, rows, signs) for row in rows]
    cells = {column.name: [_cell(row, column) for row in rows] for column in _COLUMNS}
    room = width - 3 - max(len(line) for label in labels for line in label.plain.split("\n")) - len("runs") - _GAP
    if not measured:  # of a published table, what nobody published takes no room
        cells = {name: texts for name, texts in cells.items() if set(texts) != {MISSING}}
    shown, hidden = _that_fit(cells, room)
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
    metric = METRIC_TITLES[row["metric"]]
    if row["origin"] == "published":
        return f"{row['protocol']}: {metric}, published numbers alone"
    return f"{row['protocol']} (version {row['version']}), conditions {row['conditions']}: {metric}"


def _runs(row: Series) -> str:
    runs = str(row["runs"])
    return runs if runs.isdigit() else MISSING  # a published row may not say


def _signs(rows: Sequence[Series]) -> dict[str, str]:
    """A sign for each mark, in the order in which marks first come."""
    marks = dict.fromkeys(mark for row in rows for mark in str(row["marks"]).split(", ") if mark)
    return {mark: _SIGNS[index % len(_SIGNS)] * (index // len(_SIGNS) + 1) for index, mark in enumerate(marks)}


def _label(row: Series, rows: Sequence[Series], signs: dict[str, str]) -> Text:
    """The method with its signs, and below it the settings in which its rows differ."""
    label = Text(str(row["method"]) + "".join(signs[mark] for mark in str(row["marks"]).split(", ") if mark))
    settings = [json.loads(other["settings"]) for other in rows if other["method"] == row["method"]]
    for name, value in json.loads(row["settings"]).items():
        if any(other.get(name) != value for other in settings):
            label.append(f"\n  {name}={json.dumps(value)}", style="dim")
    return label


def _cell(row: Series, column: _Column) -> str:
    value = float(row[column.name])
    if not column.best:
        growth = " ↑" if column.name == "state_kib" and row["state_grows"] == "yes" else ""
        return amount(value) + growth
    deviation = float(row[f"{column.name}_std"])
    return number(value) if math.isnan(deviation) else f"{number(value)} ±{number(deviation)}"


def _that_fit(cells: dict[str, list[str]], room: int) -> tuple[list[_Column], list[_Column]]:
    taken: set[str] = set()
    columns = [column for column in _COLUMNS if column.name in cells]
    for column in sorted(columns, key=lambda column: (set(cells[column.name]) == {MISSING}, column.rank)):
        needed = max(len(column.title), *map(len, cells[column.name])) + _GAP
        if needed <= room:
            room -= needed
            taken.add(column.name)
    shown = [column for column in columns if column.name in taken]
    return shown, [column for column in columns if column.name not in taken]


def _best(rows: Sequence[Series], column: _Column) -> float:
    values = [float(row[column.name]) for row in rows if not row["marks"]]
    values = [value for value in values if not math.isnan(value)]
    if not column.best or len(values) < 2:
        return math.nan
    high = HIGHER_IS_BETTER[rows[0]["metric"]] if column.best == "score" else column.best == "high"
    return max(values) if high else min(values)


def _caption(rows: Sequence[Series], signs: dict[str, str], hidden: Sequence[_Column]) -> str:
    lines = [f"{sign} {mark}" for mark, sign in signs.items()]
    if any(row["state_grows"] == "yes" for row in rows):
        lines.append("↑ state grows with the domains")
    if hidden:
        lines.append(f"for lack of width only in the CSV: {', '.join(column.title for column in hidden)}")
    return "; ".join(lines)
