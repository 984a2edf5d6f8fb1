"""``cosam-bench report``: one HTML page about the recorded runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cosam_bench.cli.option_values import FILE_TO_WRITE
from cosam_bench.cli.records_commands import Metric, Results
from cosam_bench.core.console import results_console, say


def report(
    *,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="Default: report.html in the folder of records."),
        FILE_TO_WRITE,
    ] = None,
    results: Results = Path("results"),
    protocol: Annotated[str | None, typer.Option(metavar="NAME", help="Only records of this protocol.")] = None,
    metric: Metric = "iou",
    no_images: Annotated[
        bool, typer.Option("--no-images", help="Leave out the thumbnails of test images, whose licences may forbid it.")
    ] = False,
) -> None:
    """Write the recorded runs as one HTML page that needs no network.

    It has sortable leaderboards with intervals, the score and forgetting matrices, curves, Pareto fronts, example
    images before and after forgetting, and where every number comes from.
    """
    from cosam_bench.results.report.page import write_report

    written = write_report(results, out, protocol=protocol, metric=metric, has_images=not no_images)
    for problem in written.unreadable:
        say("Left out", problem, style="bold yellow")
    methods = "1 method" if written.methods == 1 else f"{written.methods} methods"
    size = f"{written.size_bytes / 1e6:.1f} MB"
    results_console().print(f"Written: {written.path} ({methods}, {size})", soft_wrap=True)
