"""The file of figures: what was measured, one row a line, in full precision."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.measuring import Row
from cosam_bench.core.console import plain_table
from cosam_bench.core.environment import hardware
from cosam_bench.core.errors import CosamError
from cosam_bench.core.files import write_atomically

_COLUMNS = ("group", "stage", "plain", "ours", "unit", "note", "limit", "ratio", "share", "machine")


@dataclass(frozen=True)
class Figure:
    """A row of the table, the stage that measured it, and on what."""

    group: str
    row: Row
    machine: str


def machine_name(device: torch.device) -> str:
    """The device, torch's version and, on a CPU, its threads."""
    facts = hardware(device)
    where = (
        str(facts["gpu"]) if "gpu" in facts else f"{facts['processor']}, {facts['threads']} of {facts['cores']} cores"
    )
    return f"{where}, torch {torch.__version__.partition('+')[0]}"


def write_figures(path: Path, figures: Iterable[Figure]) -> None:
    """Replace the file."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for figure in figures:
        row = figure.row
        numbers = {name: _exact(getattr(row, name)) for name in ("plain", "ours", "limit", "ratio", "share")}
        known = {
            "group": figure.group,
            "stage": row.stage,
            "unit": row.unit,
            "note": row.note,
            "machine": figure.machine,
        }
        writer.writerow([(known | numbers)[name] for name in _COLUMNS])
    write_atomically(path, text.getvalue())


def read_figures(path: Path) -> list[Figure]:
    """The figures that ``write_figures`` wrote, bit for bit.

    Raises:
        CosamError: there is no such file, or it is another kind of file.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            lines = list(reader)
        if tuple(reader.fieldnames or ()) != _COLUMNS:
            raise ValueError(f"its columns are not {', '.join(_COLUMNS)}")
        return [
            Figure(
                line["group"],
                Row(
                    line["stage"],
                    _number(line["plain"]),
                    float(line["ours"]),
                    line["unit"],
                    line["note"],
                    _number(line["limit"]),
                ),
                line["machine"],
            )
            for line in lines
        ]
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise CosamError(
            f"{path} cannot be read as a file of figures: {type(error).__name__}: {error}. "
            "Write one by `python -m benchmarks --csv FILE`."
        ) from None


def replaced(known: Sequence[Figure], new: Sequence[Figure], *, order: Sequence[str]) -> list[Figure]:
    """The known figures with those of the newly measured groups in place of their old ones, groups in ``order``."""
    fresh = {figure.group for figure in new}
    kept = [figure for figure in known if figure.group not in fresh]
    place = {name: number for number, name in enumerate(order)}
    return sorted([*kept, *new], key=lambda figure: place.get(figure.group, len(place)))


def show(figures: Sequence[Figure]) -> None:
    """Print the figures as a table, in full width also where nobody watches."""
    console = Console()
    console.width = console.width if console.is_terminal else 160
    console.print(_table_of([figure.row for figure in figures]))


def _table_of(rows: Sequence[Row]) -> Table:
    table = plain_table("stage", "plain", "ours", "", "times less", "of the limit", "note")
    for row in rows:
        share = "" if row.share is None else f"{row.share:.0%}"
        ratio = amount(row.ratio, digits=2)
        table.add_row(row.stage, amount(row.plain), amount(row.ours), row.unit, ratio, share, row.note)
    return table


def amount(number: float | None, *, digits: int = 3) -> str:
    """A figure to so many digits, thousands apart; nothing for none.

    >>> amount(2398.6), amount(0.01234), amount(19.71), amount(None)
    ('2,399', '0.0123', '19.7', '')
    """
    if number is None:
        return ""
    if abs(number) >= 10 ** (digits - 1):
        return f"{number:,.0f}"
    return f"{number:.{digits}g}"


def _exact(number: float | None) -> str:
    return "" if number is None else repr(float(number))


def _number(text: str) -> float | None:
    return float(text) if text else None
