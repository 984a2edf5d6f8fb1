"""``cosam-bench merge``: experts merged by a method, without data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cosam_bench.cli.error_handling import Failed
from cosam_bench.cli.isolation_option import Isolated, prepare_isolation
from cosam_bench.cli.option_values import NEW_FOLDER
from cosam_bench.core.console import results_console


def merge(
    experts: Annotated[
        list[Path], typer.Argument(metavar="EXPERT...", help="Folders of peft, or files or folders of updates.")
    ],
    *,
    method: Annotated[str, typer.Option("--method", "-m", metavar="NAME", help="A merging method that needs no data.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="A new folder."), NEW_FOLDER],
    model: Annotated[
        str, typer.Option(metavar="NAME", help="The base model that they change; `models` lists them.")
    ] = "vit_b",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting of the method: method.density=0.5; repeatable."),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Seed of methods that draw at random.")] = 0,
    format_name: Annotated[
        str, typer.Option("--format", "-f", metavar="NAME", help="safetensors, or peft for an adapter folder as well.")
    ] = "safetensors",
    rank: Annotated[
        int | None, typer.Option(metavar="N", help="peft: at most N factors per layer; default: all that a change has.")
    ] = None,
    isolated: Isolated = None,
) -> None:
    """Merge experts that were trained elsewhere, without data and without a benchmark.

    The experts are merged in the order given. The new folder holds update.safetensors, the change of the base model's
    weights, and merge.json, which says what was merged and how. Methods that need data merge by run --experts.
    """
    prepare_isolation([method], isolated)
    from cosam_bench.experiments.merging import merge_experts
    from cosam_bench.experiments.method_faults import MethodFailed

    try:
        merged = merge_experts(
            experts,
            method=method,
            folder=out,
            format_name=format_name,
            rank=rank,
            model=model,
            seed=seed,
            settings=settings or (),
            isolated=isolated,
        )
    except MethodFailed as error:
        raise Failed(str(error)) from error.__cause__
    console = results_console()
    console.print(f"Written: {merged.folder} ({', '.join(merged.files)})", soft_wrap=True)
    for note in merged.notes:
        console.print(f"  {note}", soft_wrap=True)
