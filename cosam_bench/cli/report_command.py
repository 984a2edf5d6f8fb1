"""``cosam-bench report``: one HTML page about the recorded runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cosam_bench.cli.option_values import FILE_TO_WRITE
from cosam_bench.cli.record_filters import Methods, Models, Orders, Protocols, RunSettings, Seeds, selection_of
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
    metric: Metric = "iou",
    protocol: Protocols = None,
    model: Models = None,
    method: Methods = None,
    setting: RunSettings = None,
    seeds: Seeds = None,
    orders: Orders = None,
    no_images: Annotated[
        bool, typer.Option("--no-images", help="Leave out the thumbnails of test images, whose licences may forbid it.")
    ] = False,
) -> None:
    """Write the recorded runs as one HTML page that needs no network.

    It has sortable leaderboards with intervals, the score and forgetting matrices, curves, Pareto fronts, example
    images before and after forgetting, and where every number comes from.
    """
    from cosam_bench.results.report.page import write_report

    selection = selection_of(protocol=protocol, model=model, method=method, setting=setting, seeds=seeds, orders=orders)
    written = write_report(results, out, selection=selection, metric=metric, has_images=not no_images)
    for problem in written.unreadable:
        say("Left out", problem, style="bold yellow")
    methods = "1 method" if written.methods == 1 else f"{written.methods} methods"
    size = f"{written.size_bytes / 1e6:.1f} MB"
    results_console().print(f"Written: {written.path} ({methods}, {size})", soft_wrap=True)
