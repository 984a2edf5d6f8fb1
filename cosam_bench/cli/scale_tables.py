"""The scores along the length of each merge on the terminal."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cosam_bench.evaluation.figures import FIGURES
from cosam_bench.evaluation.metrics import METRICS
from cosam_bench.evaluation.scales import BASES, HELD_OUT
from cosam_bench.results.cell_text import number, told_settings
from cosam_bench.results.protocol_match import protocol_title
from cosam_bench.results.scale_table import SHOWN

if TYPE_CHECKING:
    from pandas import DataFrame, Series

_TABLE = ("protocol", "version", "differs", "conditions")
_CHOICES = ("", *BASES)
_LEGEND = """A tenth of the training images was held out. x: the scale after the last step; test images choose nothing.
current: the scale is chosen at each step by the IoU of the current domain's held-out training images.
seen: by those of all domains seen so far, which no continual method has; an oracle."""


def render_scales(frame: DataFrame) -> Group:
    """What ``scale_table`` returned as two tables per set of conditions: the chosen lengths, and Last at each length.

    Args:
        frame: the table of scales.
    """
    parts: list[RenderableType] = []
    metric = frame.attrs["metric"]
    best = max if FIGURES["last"].prefers_high(metric) else min
    for (protocol, version, differs, conditions), rows in frame.groupby([*_TABLE], sort=False):
        listed = [row for _, row in rows.iterrows()]
        title = (
            f"{protocol_title(str(protocol), version, str(differs))}, conditions {conditions}: {METRICS[metric].title}"
        )
        parts += [_chosen(title, listed), Text(), _curve(listed, frame.attrs["curve"], best), Text()]
    return Group(*parts, *(Text(f"Note: {note}", style="yellow") for note in frame.attrs["notes"]))


def _chosen(title: str, rows: list[Series]) -> Table:
    table = _table(f"{title}, by the scale of the merge", _LEGEND)
    table.add_column("runs", justify="right")
    for basis in _CHOICES:
        for head in (*(["x"] if basis else []), *(FIGURES[name].title for name in SHOWN)):
            table.add_column(f"{head}\n{basis}", justify="right", no_wrap=True)
    for row in rows:
        cells = [str(row["runs"])]
        for basis in _CHOICES:
            ending = f"_{basis}" if basis else ""
            cells += [_scale(row[f"scale{ending}"])] if basis else []
            cells += [number(float(row[f"{name}{ending}"])) for name in SHOWN]
        table.add_row(_label(row, rows), *cells)
    return table


def _curve(rows: list[Series], columns: tuple[str, ...], best_of: Callable[[list[float]], float]) -> Table:
    table = _table("Last at each scale", "x1 is the rule's own length.")
    for column in columns:
        table.add_column(f"x{column.removeprefix('last_at_')}", justify="right")
    for row in rows:
        values = [float(row[column]) for column in columns]
        measured = [value for value in values if not math.isnan(value)]
        best = best_of(measured) if measured else math.nan
        table.add_row(
            _label(row, rows), *(Text(number(value), style="bold" if value == best else "") for value in values)
        )
    return table


def _table(title: str, caption: str) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        title=title,
        title_justify="left",
        title_style="bold",
        caption=caption,
        caption_justify="left",
    )
    table.add_column("method", overflow="fold", vertical="bottom")
    return table


def _label(row: Series, rows: list[Series]) -> str:
    others = [json.loads(other["settings"]) for other in rows if other["method"] == row["method"]]
    marks = [mark for mark in str(row["marks"]).split(", ") if mark not in ("", HELD_OUT)]
    told = [*told_settings(json.loads(row["settings"]), others), *marks]
    return "\n  ".join([str(row["method"]), *told])


def _scale(value: float) -> str:
    return number(math.nan) if math.isnan(value) else f"{value:.3g}"
