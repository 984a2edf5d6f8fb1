"""The leaderboard on the terminal: its essential columns, as many as fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cosam_bench.results.leaderboard_view import TIE, Board, Column, Row, boards_of, in_table_order

if TYPE_CHECKING:
    from pandas import DataFrame

_HEAD = "method"
_TUNED = "tuned"
_ALWAYS_SHOWN = 3  # of the most important columns, however long the names are
_SHORTEST_LABEL = 16  # characters to which names are folded for them
_GAP = 2  # characters between two columns: one of padding, one of the box


def render_leaderboard(frame: DataFrame, *, width: int = 100) -> Group:
    """The leaderboard as one table per set of conditions, then the notes for the reader.

    Scores are shown with their interval, or with the sample deviation over runs if there are no image scores; the best
    of the unmarked rows is bold. Columns that do not fit into ``width`` characters are left out and named below; the
    CSV has all.

    Args:
        frame: what ``leaderboard`` returned.
        width: of the terminal, in characters.
    """
    parts: list[RenderableType] = []
    for board in boards_of(frame):
        parts += [_table(board, width), Text()]
    if not parts:
        parts.append(Text("No complete run is recorded here."))
    parts += [Text(f"Note: {note}", style="yellow") for note in frame.attrs.get("notes", ())]
    return Group(*parts)


def _table(board: Board, width: int) -> Table:
    labels = [_label(row) for row in board.rows]
    label_width = max(
        cell_len(line) for label in (_HEAD, *(label.plain for label in labels)) for line in label.split("\n")
    )
    fields = {"runs": [row.runs for row in board.rows]} | ({"rank": _ranks(board)} if board.has_ranks else {})
    facts = dict(board.facts)
    if _TUNED in facts:  # scores of other budgets must not be taken for comparable
        fields[_TUNED] = facts.pop(_TUNED)
    heads = list(fields)
    fixed = [max(len(head), *map(len, texts)) + _GAP for head, texts in fields.items()]
    # Long names are folded rather than that the table lacks what it is sorted by.
    room = width - 3 - sum(fixed)
    needed = [_width(board, column) for column in _by_importance(board)[:_ALWAYS_SHOWN]]
    label_width = min(label_width, max(_SHORTEST_LABEL, room - sum(needed)))
    shown, hidden = _fitting_columns(board, room - label_width)
    left = room - label_width - sum(_width(board, column) for column in shown)
    fitting = _fitting_facts(facts, left)
    omitted = [column.title for column in hidden] + [head for head in facts if head not in fitting]
    hidden_text = [f"too wide, only in the CSV: {', '.join(omitted)}"] if omitted else []
    table = _empty_table(board.title, heads, shown, caption="\n".join([*board.legend, *hidden_text]))
    for head in fitting:
        table.add_column(head, no_wrap=True)
    table.columns[0].min_width = table.columns[0].max_width = min(label_width, room)
    for index, (row, label) in enumerate(zip(board.rows, labels, strict=True)):
        texts = [Text(row.cells[column.name], style="bold" if column.name in row.best else "") for column in shown]
        if index and row.is_published and not board.rows[index - 1].is_published:
            table.add_section()
        cells: list[str | Text] = [
            *(own[index] for own in fields.values()),
            *texts,
            *(own[index] for own in fitting.values()),
        ]
        table.add_row(label, *cells, style="dim" if row.is_marked else "")
    return table


def _ranks(board: Board) -> list[str]:
    """The ranks of the rows, the signs of ties below each other."""
    ranks = [row.rank for row in board.rows]
    has_ties = any(rank.endswith(TIE) for rank in ranks)
    return [rank if rank.endswith(TIE) or not has_ties else f"{rank} " for rank in ranks]


def _label(row: Row) -> Text:
    """The method, and below it the settings in which the method's rows differ."""
    label = Text(row.label, overflow="fold")
    for setting in row.settings:
        label.append(f"\n  {setting}", style="dim")
    return label


def _fitting_columns(board: Board, room: int) -> tuple[list[Column], list[Column]]:
    """The columns that fit into ``room`` characters, and the others; columns without values come last."""
    columns = _by_importance(board)
    fitting = []
    for column in columns:
        if (needed := _width(board, column)) <= room:
            room -= needed
            fitting.append(column)
    return in_table_order(fitting), in_table_order([column for column in columns if column not in fitting])


def _fitting_facts(facts: Mapping[str, list[str]], room: int) -> dict[str, list[str]]:
    """The columns of words that fit into ``room`` characters."""
    fitting = {}
    for head, cells in facts.items():
        if (needed := max(map(cell_len, [head, *cells])) + _GAP) <= room:
            room -= needed
            fitting[head] = cells
    return fitting


def _by_importance(board: Board) -> list[Column]:
    columns = board.columns
    if all(row.is_published for row in board.rows):  # without columns that nobody published
        columns = tuple(column for column in columns if not board.is_empty(column))
    return sorted(columns, key=board.is_empty)


def _width(board: Board, column: Column) -> int:
    """In characters, with the gap."""
    return max(len(column.title), *(cell_len(row.cells[column.name]) for row in board.rows)) + _GAP


def _empty_table(title: str, heads: Sequence[str], columns: Sequence[Column], *, caption: str) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, _GAP - 1, 0, 0),
        pad_edge=False,
        title=Text(title, style="bold"),  # as text: names of files are no markup
        title_justify="left",
        caption=caption,
        caption_justify="left",
    )
    table.add_column(_HEAD, overflow="fold")
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    for column in columns:
        table.add_column(column.title, justify="right", no_wrap=True)
    return table
