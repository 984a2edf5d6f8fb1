"""``cosam-bench leaderboard``: all recorded runs in one table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cosam_bench.cli.option_values import FILE_TO_WRITE
from cosam_bench.cli.record_filters import (
    FILTERS,
    Methods,
    Models,
    Orders,
    Protocols,
    RunSettings,
    Seeds,
    listed,
    selection_of,
)
from cosam_bench.cli.records_commands import Metric, Results
from cosam_bench.core.console import notes_console, results_console, say, write_data
from cosam_bench.core.errors import CosamError, unknown_name
from cosam_bench.core.files import check_is_file_name, write_atomically

if TYPE_CHECKING:
    from pandas import DataFrame

    from cosam_bench.results.records import Record
    from cosam_bench.results.selection import Selection

_OUTPUT = "Output"


def leaderboard(
    *,
    results: Results = Path("results"),
    metric: Metric = "iou",
    protocol: Protocols = None,
    model: Models = None,
    method: Methods = None,
    setting: RunSettings = None,
    seeds: Seeds = None,
    orders: Orders = None,
    with_published: Annotated[
        bool,
        typer.Option(
            "--with-published",
            help="Add the numbers that papers published on their protocols.",
            rich_help_panel=FILTERS,
        ),
    ] = False,
    domains: Annotated[
        list[str] | None, typer.Option(metavar="NAME,...", help="Average over these domains alone.")
    ] = None,
    sort: Annotated[
        str, typer.Option(metavar="COLUMN", help="A column of the CSV, best first; -COLUMN reverses the order.")
    ] = "last",
    intervals: Annotated[
        bool, typer.Option(help="Compute intervals and rank intervals, for which all image scores are read.")
    ] = True,
    level: Annotated[float, typer.Option(metavar="P", help="The intervals' coverage.")] = 0.95,
    scales: Annotated[
        bool,
        typer.Option(
            "--scales", help="Show instead what each merge of `run --scales` scores at other lengths, and at the best."
        ),
    ] = False,
    csv: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write it to this file as CSV too.", rich_help_panel=_OUTPUT),
        FILE_TO_WRITE,
    ] = None,
    format_name: Annotated[
        str | None,
        typer.Option(
            "--format",
            "-f",
            metavar="NAME",
            help="csv, tidy (CSV, one row per method and figure), json, markdown or latex instead of the table.",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="Write the format to this file.", rich_help_panel=_OUTPUT),
        FILE_TO_WRITE,
    ] = None,
) -> None:
    """Compare all recorded runs: one row per method and its settings, best first.

    Runs of several seeds and orders are averaged. Intervals and rank intervals come from the scores of single images;
    docs/metrics.md explains them and every column.
    """
    from cosam_bench.evaluation.figures import FIGURES
    from cosam_bench.results.leaderboard_view import shown_figures

    _check_format(format_name, out)
    selection = selection_of(protocol=protocol, model=model, method=method, setting=setting, seeds=seeds, orders=orders)
    if scales:
        others = {"--with-published": with_published, "--domains": domains, "--sort": sort != "last", "-f": format_name}
        _show_scales(results, metric, selection, csv, others=[name for name, given in others.items() if given])
        return
    needs_all = csv is not None or format_name in ("csv", "tidy", "json")
    frame = _read(
        results,
        metric=metric,
        with_published=with_published,
        selection=selection,
        domains=listed("--domains", domains) or None,
        intervals=() if not intervals else tuple(FIGURES) if needs_all else shown_figures(sort),
        level=level,
        sort_by=sort,
    )
    if format_name is None:
        _print(frame)
    else:
        _write(frame, format_name, out)
    if csv is not None:
        from cosam_bench.results.leaderboard_formats import write_leaderboard

        write_leaderboard(frame, csv)
        results_console().print(f"Written: {csv} ({_rows(len(frame))})", soft_wrap=True)


def _show_scales(results: Path, metric: str, selection: Selection, csv: Path | None, *, others: Sequence[str]) -> None:
    """Print the table of scales, and write it as CSV if that is asked for."""
    if others:
        raise CosamError(f"--scales has a table of its own, without {', '.join(others)}. Write it to a file by --csv.")
    from cosam_bench.cli.scale_tables import render_scales
    from cosam_bench.results.leaderboard_formats import csv_text
    from cosam_bench.results.results_folder import read_scale_table

    frame = read_scale_table(results, metric=metric, selection=selection)
    _name_unreadable(frame)
    results_console().print(render_scales(frame))
    if csv is not None:
        write_atomically(csv, csv_text(frame))
        results_console().print(f"Written: {csv} ({_rows(len(frame))})", soft_wrap=True)


def print_leaderboard(records: Sequence[Record]) -> None:
    """Print the leaderboard of these records alone."""
    from cosam_bench.results.leaderboard import leaderboard as build
    from cosam_bench.results.leaderboard_view import shown_figures

    _print(build(records, intervals=shown_figures("last")))


def leaderboard_file(results: Path) -> Path:
    """The leaderboard that ``run`` and ``sweep`` keep in a folder of results.

    Raises:
        CannotWrite: it cannot be a file, which is better known before anything is measured.
    """
    from cosam_bench.results.records import BOARD

    path = results / BOARD
    check_is_file_name(path)
    return path


def refresh_leaderboard(results: Path, path: Path, *, quiet: bool = False) -> None:
    """Write the leaderboard of all records in ``results`` to ``path``, and say so."""
    from cosam_bench.evaluation.figures import FIGURES
    from cosam_bench.results.leaderboard_formats import write_leaderboard

    frame = _read(results, intervals=tuple(FIGURES))
    write_leaderboard(frame, path)
    if not quiet:
        results_console().print(f"Leaderboard: {path} ({_rows(len(frame))})", soft_wrap=True)


def _read(
    results: Path,
    *,
    metric: str = "iou",
    with_published: bool = False,
    selection: Selection | None = None,
    domains: Sequence[str] | None = None,
    intervals: Sequence[str] = (),
    level: float = 0.95,
    sort_by: str = "last",
) -> DataFrame:
    """The leaderboard of a folder; records that cannot be read are named on the standard error."""
    from cosam_bench.results.results_folder import read_leaderboard

    frame = read_leaderboard(
        results,
        metric=metric,
        with_published=with_published,
        selection=selection,
        domains=domains,
        intervals=intervals,
        level=level,
        sort_by=sort_by,
    )
    _name_unreadable(frame)
    return frame


def _name_unreadable(frame: DataFrame) -> None:
    """Name the records that cannot be read on the standard error."""
    for problem in frame.attrs["unreadable"]:
        say("Left out", problem, style="bold yellow")


def _print(frame: DataFrame) -> None:
    from cosam_bench.cli.leaderboard_table import render_leaderboard

    console = results_console()
    console.print(render_leaderboard(frame, width=console.width))


def _check_format(format_name: str | None, out: Path | None) -> None:
    from cosam_bench.results.leaderboard_formats import FORMATS

    if format_name is not None and format_name not in FORMATS:
        raise unknown_name("format", format_name, FORMATS)
    if out is not None and format_name is None:
        raise CosamError("--out writes a format. Add --format csv, tidy, json, markdown or latex.")


def _write(frame: DataFrame, format_name: str, out: Path | None) -> None:
    from cosam_bench.results.leaderboard_formats import FORMATS

    text = FORMATS[format_name](frame)
    if out is None:
        write_data(text)
    else:
        write_atomically(out, text)
        notes_console().print(f"Written: {out} ({_rows(len(frame))})", soft_wrap=True)
    if format_name != "markdown":  # which holds them
        for note in frame.attrs["notes"]:
            say("Note", note, style="yellow")


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count} rows"
