"""``cosam-bench show``: one recorded run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cosam_bench.core.console import results_console
from cosam_bench.evaluation.metrics import METRICS

if TYPE_CHECKING:
    from cosam_bench.results.records import Record

Results = Annotated[Path, typer.Option("--results", metavar="DIR", help="The folder of records.")]
Metric = Annotated[str, typer.Option(metavar="NAME", help=f"One of {', '.join(METRICS)}.")]


def show(
    record: Annotated[str, typer.Argument(metavar="RECORD", help="Its folder, or part of protocol/method/hash.")],
    *,
    metric: Metric = "iou",
    results: Results = Path("results"),
) -> None:
    """Show one record: its score matrix, figures and costs."""
    from cosam_bench.results.results_folder import load_record

    show_record(load_record(record, results=results), metric=metric)


def show_record(record: Record, *, metric: str = "iou") -> None:
    """Print a record's matrix, figures, costs and folder."""
    from cosam_bench.cli.matrix_table import render_matrix, render_summary

    console = results_console()
    console.print(render_matrix(record, metric, width=console.width))
    console.print(render_summary(record))
    console.print(f"Record: {record.folder}", soft_wrap=True)
