"""``cosam-bench leaderboard`` and ``show``: what is recorded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cosam_bench.core.console import results_console, say
from cosam_bench.core.errors import CosamError, unknown_name
from cosam_bench.evaluation.metrics import METRICS

if TYPE_CHECKING:
    from cosam_bench.results.published import Published
    from cosam_bench.results.records import Record

Results = Annotated[Path, typer.Option("--results", metavar="DIR", help="The folder of records.")]
Metric = Annotated[str, typer.Option(metavar="NAME", help=f"One of {', '.join(METRICS)}.")]


def leaderboard(
    *,
    results: Results = Path("results"),
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Write it here as CSV too.")] = None,
    metric: Metric = "iou",
    protocol: Annotated[str | None, typer.Option(metavar="NAME", help="Only records of this protocol.")] = None,
    with_published: Annotated[
        bool, typer.Option("--with-published", help="Beside them, what papers published on their protocols.")
    ] = False,
) -> None:
    """Compare all recorded runs: one row a method and its settings, best first."""
    from cosam_bench.cli.leaderboard_table import render_leaderboard
    from cosam_bench.results.leaderboard import leaderboard as build
    from cosam_bench.results.leaderboard import write_leaderboard

    published = _published(protocol) if with_published else []
    records = _records(results, protocol=protocol, may_be_empty=bool(published))
    frame = build(records, metric=metric, published=published)
    console = results_console()
    console.print(render_leaderboard(frame, width=console.width))
    for note in _published_notes(published, records, metric=metric) if with_published else []:
        console.print(f"Note: {note}", style="yellow")
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
    from cosam_bench.results.records import load_record

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
    from cosam_bench.cli.leaderboard_table import render_leaderboard
    from cosam_bench.results.leaderboard import leaderboard as build

    console = results_console()
    console.print(render_leaderboard(build(records), width=console.width))


def refresh_leaderboard(results: Path, path: Path) -> None:
    """Write the leaderboard of all records in ``results`` to ``path``."""
    from cosam_bench.results.leaderboard import leaderboard as build
    from cosam_bench.results.leaderboard import write_leaderboard

    frame = build(_records(results, protocol=None))
    write_leaderboard(frame, path)
    results_console().print(f"Leaderboard: {path} ({_rows(len(frame))})", soft_wrap=True)


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count} rows"


def _published(protocol: str | None) -> list[Published]:
    """What was published on this protocol, or on any."""
    from cosam_bench.results.published import all_published

    return [one for one in all_published() if protocol is None or protocol in one.protocols]


def _published_notes(published: Sequence[Published], records: Sequence[Record], *, metric: str) -> list[str]:
    """Where the published rows come from, and which tables have no other."""
    if not published:
        return ["nothing that was published belongs to this protocol."]
    recorded = {record.info.protocol for record in records}
    notes = []
    for one in published:
        notes += one.notes()
        if one.rows and not any(row.scores(metric) for row in one.rows):
            notes.append(f"{one.protocol}: nothing was published in {metric}.")
        if not recorded.intersection(one.protocols):
            again = f"cosam-bench run --protocol {one.protocol} --method {one.method}"
            notes.append(f"{one.protocol}: no run is recorded here. Make one: {again}.")
    return notes


def _records(results: Path, *, protocol: str | None, may_be_empty: bool = False) -> list[Record]:
    from cosam_bench.results.records import find_records

    if may_be_empty and not results.exists():
        return []
    records, problems = find_records(results)
    for problem in problems:
        say("Passed over", problem, style="bold yellow")
    if not records and not may_be_empty:
        raise CosamError(f"No record of a run lies in {results}. Make one: cosam-bench run --method regcl.")
    names = {record.info.protocol for record in records}
    if protocol is not None and protocol not in names and not may_be_empty:
        raise unknown_name("protocol in these records", protocol, names)
    return [record for record in records if protocol in (None, record.info.protocol)]
