"""``cosam-bench log``: records as runs of an experiment tracker."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cosam_bench.cli.records_commands import Results
from cosam_bench.core.console import results_console


def log(
    records: Annotated[
        list[str], typer.Argument(metavar="RECORD...", help="Folders, or parts of protocol/method/hash.")
    ],
    *,
    to: Annotated[str, typer.Option("--to", metavar="NAME", help="trackio or wandb.")],
    project: Annotated[str, typer.Option(metavar="NAME", help="The tracker's project.")] = "cosam-bench",
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="The run's name; default: protocol/method/hash.")
    ] = None,
    results: Results = Path("results"),
) -> None:
    """Send complete records to an experiment tracker, one run each.

    The tracker gets the configuration, the score matrix as one series per metric and domain over the number of domains
    learned, the costs, and the summary. trackio writes to this machine, wandb to your account, or with
    WANDB_MODE=offline to the folder wandb. Each needs the extra of its name.
    """
    from cosam_bench.results.results_folder import load_record
    from cosam_bench.results.trackers import log_records

    found = [load_record(record, results=results) for record in records]
    for logged in log_records(found, to=to, project=project, name=name):
        results_console().print(f"Logged to {to}, project {project}: {logged}", soft_wrap=True, markup=False)
