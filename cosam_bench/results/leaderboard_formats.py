"""The leaderboard as CSV, JSON, Markdown and LaTeX."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from cosam_bench.core.files import write_atomically
from cosam_bench.evaluation.figures import FIGURES
from cosam_bench.results.cell_text import not_a_formula
from cosam_bench.results.leaderboard_view import Board, Column, Row, boards_of, in_table_order

if TYPE_CHECKING:
    from pandas import DataFrame

_RUN_FACTS = ("origin", "protocol", "version", "conditions", "model", "method", "settings", "marks", "metric")
_RUN_COUNTS = ("runs", "seeds", "orders", "interval_runs", "interval_basis", "differs", "budget", "tuned")


def csv_text(frame: DataFrame) -> str:
    """The table in full precision; undefined values are empty.

    A text that a spreadsheet would run as a formula, one that begins with ``=``, ``+``, ``-`` or ``@``, gets a ``'``
    before it.
    """
    safe = frame.copy()
    for name in safe.columns:
        if safe[name].dtype.kind not in "iufb":
            safe[name] = safe[name].map(not_a_formula)
    text: str = safe.to_csv(index=False, lineterminator="\n")
    return text


def write_leaderboard(frame: DataFrame, path: Path) -> None:
    """Write the leaderboard as CSV in full precision; undefined values are empty.

    Raises:
        CosamError: the file cannot be written; it is then unchanged.
    """
    write_atomically(path, csv_text(frame))


def tidy(frame: DataFrame) -> DataFrame:
    """One row per row of the leaderboard and figure: ``estimate``, ``low``, ``high``, ``std``; none for empty ones."""
    import pandas

    parts = []
    for figure in FIGURES:
        part = frame[[*_RUN_FACTS, *_RUN_COUNTS]].copy()
        part.insert(len(_RUN_FACTS), "figure", figure)
        numbers = {"estimate": figure, "low": f"{figure}_low", "high": f"{figure}_high", "std": f"{figure}_std"}
        for place, (name, column) in enumerate(numbers.items(), start=len(_RUN_FACTS) + 1):
            part.insert(place, name, frame[column])
        parts.append(part)
    stacked = pandas.concat(parts).sort_index(kind="stable")
    return stacked[stacked["estimate"].notna()].reset_index(drop=True)


def json_text(frame: DataFrame) -> str:
    """A list of rows by column, in full precision; undefined values are null."""
    import pandas

    rows = [
        {name: None if pandas.isna(value) else value for name, value in row.items()}
        for row in frame.astype(object).to_dict(orient="records")
    ]
    return json.dumps(rows, indent=2, ensure_ascii=False, default=int) + "\n"


def markdown(frame: DataFrame) -> str:
    """One table per set of conditions, with its legend, then the notes."""
    parts = [_markdown_board(board) for board in boards_of(frame)]
    notes = [f"- {_in_markdown(note)}" for note in frame.attrs.get("notes", ())]
    return "\n\n".join([*parts, *(["\n".join(notes)] if notes else [])]) + "\n"


def _markdown_board(board: Board) -> str:
    heads, rows = _cells(board, _in_markdown, best=lambda cell: f"**{cell}**", number=_in_markdown)
    lines = [f"**{_in_markdown(board.title)}**", ""]
    lines += [f"| {' | '.join(heads)} |", f"|{'|'.join(['---', *['---:'] * (len(heads) - 1)])}|"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([*lines, "", _in_markdown("; ".join(board.legend))]).rstrip()


def _in_markdown(text: str) -> str:
    return re.sub(r"([\\`*_\[\]<>|~#&$])", r"\\\1", " ".join(text.split()))


def latex(frame: DataFrame) -> str:
    r"""One ``table`` per set of conditions, for the package booktabs; the best values are ``\textbf``."""
    return "\n".join(["% Needs \\usepackage{booktabs}.", *(_latex_board(board) for board in boards_of(frame))])


def _latex_board(board: Board) -> str:
    import pandas

    heads, rows = _cells(board, _in_latex, best=lambda cell: rf"\textbf{{{cell}}}", number=_latex_number)
    styler = pandas.DataFrame(rows, columns=heads).style.hide(axis="index")
    legend = "; ".join(board.legend)
    caption = _in_latex(f"{board.title}. {legend}." if legend else f"{board.title}.")
    text: str = styler.to_latex(
        hrules=True, column_format="l" + "r" * (len(heads) - 1), caption=caption, position_float="centering"
    )
    return text


# Characters that LaTeX reads as commands, and those that its default encoding lacks.
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "≈": r"$\approx$",
    "↑": r"$\uparrow$",
    "†": r"\textdagger{}",
    "‡": r"\textdaggerdbl{}",
    "§": r"\S{}",
}


def _in_latex(text: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in " ".join(text.split()))


def _latex_number(text: str) -> str:
    """A number, its minus sign longer than a hyphen."""
    return re.sub(r"(?<!\w)-(?=\d)", "$-$", _in_latex(text))


def _cells(
    board: Board, escaped: Callable[[str], str], *, best: Callable[[str], str], number: Callable[[str], str]
) -> tuple[list[str], list[list[str]]]:
    """The heads, and the cells row by row; columns without values are left out."""
    columns = in_table_order([column for column in board.columns if not board.is_empty(column)])
    ranks, facts = ["rank"] if board.has_ranks else [], board.facts
    heads = ["method", "runs", *ranks, *(column.title for column in columns), *facts]
    return [escaped(head) for head in heads], [
        [escaped(" ".join([row.label, *row.settings])), row.runs, *([escaped(row.rank)] if ranks else [])]
        + [_value(row, column, number, best) for column in columns]
        + [escaped(cells[index]) for cells in facts.values()]
        for index, row in enumerate(board.rows)
    ]


def _value(row: Row, column: Column, number: Callable[[str], str], best: Callable[[str], str]) -> str:
    cell = number(row.cells[column.name])
    return best(cell) if column.name in row.best else cell


FORMATS: Mapping[str, Callable[[DataFrame], str]] = MappingProxyType(
    {
        "csv": csv_text,
        "tidy": lambda frame: csv_text(tidy(frame)),
        "json": json_text,
        "markdown": markdown,
        "latex": latex,
    }
)
"""From a leaderboard to a text, by the format's name."""
