"""``cosam-bench leaderboard`` and ``show``: recorded runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cosam_bench.core.console import results_console, say
from cosam_bench.evaluation.metrics import METRICS

if TYPE_CHECKING:
    from pandas import DataFrame

    from cosam_bench.results.records import Record

Results = Annotated[Path, typer.Option("--results", metavar="DIR", help="The folder of records.")]
Metric = Annotated[str, typer.Option(metavar="NAME", help=f"One of {', '.join(METRICS)}.")]


def leaderboard(
    *,
    results: Results = Path("results"),
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Write it to this file as CSV too.")] = None,
    metric: Metric = "iou",
    protocol: Annotated[str | None, typer.Option(metavar="NAME", help="Only records of this protocol.")] = None,
    with_published: Annotated[
        bool, typer.Option("--with-published", help="Add the numbers that papers published on their protocols.")
    ] = False,
) -> None:
    """Compare all recorded runs: one row per method and its settings, best first."""
    frame = _read(results, metric=metric, protocol=protocol, with_published=with_published)
    _print_leaderboard(frame)
    if csv is not None:
        from cosam_bench.results.leaderboard import write_leaderboard

        write_leaderboard(frame, csv)
        results_console().print(f"Written: {csv} ({_rows(len(frame))})", soft_wrap=True)


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


def compare(records: Sequence[Record]) -> None:
    """Print the leaderboard of these records alone."""
    from cosam_bench.results.leaderboard import leaderboard as build

    _print_leaderboard(build(records))


def refresh_leaderboard(results: Path, path: Path) -> None:
    """Write the leaderboard of all records in ``results`` to ``path``."""
    from cosam_bench.results.leaderboard import write_leaderboard

    frame = _read(results)
    write_leaderboard(frame, path)
    results_console().print(f"Leaderboard: {path} ({_rows(len(frame))})", soft_wrap=True)


def _read(
    results: Path, *, metric: str = "iou", protocol: str | None = None, with_published: bool = False
) -> DataFrame:
    """The leaderboard of a folder; records that cannot be read are named on the standard error."""
    from cosam_bench.results.results_folder import read_leaderboard

    frame = read_leaderboard(results, metric=metric, protocol=protocol, with_published=with_published)
    for problem in frame.attrs["unreadable"]:
        say("Left out", problem, style="bold yellow")
    return frame


def _print_leaderboard(frame: DataFrame) -> None:
    from cosam_bench.cli.leaderboard_table import render_leaderboard

    console = results_console()
    console.print(render_leaderboard(frame, width=console.width))


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count} rows"
