"""``cosam-bench show`` and ``records``: one recorded run, and a list of all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cosam_bench.cli.option_values import FOLDER_TO_WRITE, RESULTS_TO_ADD_TO
from cosam_bench.core.console import plain_table, results_console
from cosam_bench.evaluation.metrics import METRICS

if TYPE_CHECKING:
    from cosam_bench.results.records import Record

Results = Annotated[Path, typer.Option("--results", metavar="DIR", help="The folder of records.")]
ResultsOfRuns = Annotated[Results, RESULTS_TO_ADD_TO]
Images = Annotated[
    Path | None,
    typer.Option(
        "--images",
        metavar="DIR",
        help="Save the best, median and worst test image of each domain here, with masks.",
    ),
    FOLDER_TO_WRITE,
]
Metric = Annotated[str, typer.Option(metavar="NAME", help=f"One of {', '.join(METRICS)}.")]


def show(
    record: Annotated[str, typer.Argument(metavar="RECORD", help="Its folder, or part of protocol/method/hash.")],
    *,
    metric: Metric = "iou",
    images: Images = None,
    results: Results = Path("results"),
) -> None:
    """Show one record: its score matrix, figures and costs."""
    from cosam_bench.results.results_folder import load_record

    show_record(load_record(record, results=results), metric=metric, images=images)


def show_record(record: Record, *, metric: str = "iou", images: Path | None = None) -> None:
    """Print a record's matrix, figures, costs and folder; save its example images in a folder.

    Of a run that ended before its first score, print what is known: its status, its error and its costs.
    """
    from cosam_bench.cli.matrix_table import (
        render_false_positives,
        render_matrix,
        render_prompt_gaps,
        render_run,
        render_summary,
    )

    console = results_console()
    if record.has_scores:
        console.print(render_matrix(record, metric, width=console.width))
        console.print(render_summary(record))
        if (gaps := render_prompt_gaps(record, metric)) is not None:
            console.print(gaps, soft_wrap=True)
        if (negatives := render_false_positives(record)) is not None:
            console.print(negatives)
    else:
        console.print(render_run(record))
        console.print("No scores yet: the run has not come to its first one.")
    console.print(f"Record: {record.folder}", soft_wrap=True)
    if images is not None:
        console.print(save_images(record, images), soft_wrap=True)


def save_images(record: Record, folder: Path) -> str:
    """Save a record's example images in a folder, and return a line about it."""
    from cosam_bench.results.overlays import save_overlays

    return f"Images: {folder} ({len(save_overlays(record, folder))} pictures)"


def records(*, results: Results = Path("results")) -> None:
    """List all records: seed, order, and the settings and code in which those of one protocol and method differ."""
    from cosam_bench.results.record_list import list_records
    from cosam_bench.results.results_folder import find_records, no_records

    found, unreadable = find_records(results)
    if not found:
        raise no_records(results, unreadable)
    console = results_console()
    table = plain_table("record", "status", "seed", "order", "settings")
    for one in list_records(found):
        table.add_row(one.name, one.status, str(one.seed), ", ".join(one.order), one.settings_text)
    console.print(table)
    for problem in unreadable:
        console.print(f"\n{problem}", style="red")
