"""``cosam-bench leaderboard`` and ``show``: what is recorded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cosam_bench.cli.console import results_console, say
from cosam_bench.errors import CosamError, unknown_name

if TYPE_CHECKING:
    from cosam_bench.records import Record

Results = Annotated[Path, typer.Option("--results", metavar="DIR", help="The folder of records.")]
Metric = Annotated[str, typer.Option(metavar="NAME", help="iou, boundary_iou, dice or mae.")]


def leaderboard(
    *,
    results: Results = Path("results"),
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Write it here as CSV too.")] = None,
    metric: Metric = "iou",
    protocol: Annotated[str | None, typer.Option(metavar="NAME", help="Only records of this protocol.")] = None,
) -> None:
    """Compare all recorded runs: one row a method and its settings, best first."""
    from cosam_bench.leaderboard import leaderboard as build
    from cosam_bench.leaderboard import write_leaderboard
    from cosam_bench.render_board import render_leaderboard

    frame = build(_records(results, protocol=protocol), metric=metric)
    console = results_console()
    console.print(render_leaderboard(frame, width=console.width))
    if csv is not None:
        write_leaderboard(frame, csv)
        console.print(f"Written: {csv} ({_rows(len(frame))})", soft_wrap=True)


def show(
    record: Annotated[str, typer.Argument(metavar="RECORD", help="Its folder, or part of protocol/method/hash.")],
    *,
    metric: Metric = "iou",
    results: Results = Path("results"),
) -> None:
    """Show one record: its score matrix, its figures and its costs."""
    from cosam_bench.records import load_record

    show_record(load_record(record, results=results), metric=metric)


def show_record(record: Record, *, metric: str = "iou") -> None:
    """Print a record's matrix, figures, costs and folder."""
    from cosam_bench.render import render_matrix, render_summary

    console = results_console()
    console.print(render_matrix(record, metric, width=console.width))
    console.print(render_summary(record))
    console.print(f"Record: {record.folder}", soft_wrap=True)


def refresh_leaderboard(results: Path, path: Path) -> None:
    """Write the leaderboard of all records in ``results`` to ``path``."""
    from cosam_bench.leaderboard import leaderboard as build
    from cosam_bench.leaderboard import write_leaderboard

    frame = build(_records(results, protocol=None))
    write_leaderboard(frame, path)
    results_console().print(f"Leaderboard: {path} ({_rows(len(frame))})", soft_wrap=True)


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count} rows"


def _records(results: Path, *, protocol: str | None) -> list[Record]:
    from cosam_bench.records import find_records

    records, problems = find_records(results)
    for problem in problems:
        say("Passed over", problem, style="bold yellow")
    if not records:
        raise CosamError(f"No record of a run lies in {results}. Make one: cosam-bench run --method regcl.")
    names = {record.info.protocol for record in records}
    if protocol is not None and protocol not in names:
        raise unknown_name("protocol in these records", protocol, names)
    return [record for record in records if protocol in (None, record.info.protocol)]
