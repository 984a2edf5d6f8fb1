"""``cosam-bench sweep``: methods, orders, seeds, models and settings, each with each, in several processes."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cosam_bench.cli.error_handling import Failed, Stopped
from cosam_bench.cli.isolation_option import Isolated
from cosam_bench.cli.leaderboard_command import leaderboard_file, refresh_leaderboard
from cosam_bench.cli.records_commands import ResultsOfRuns
from cosam_bench.cli.run_command import Device, comma_separated
from cosam_bench.cli.sweep_view import live_view, shown_time, status_view
from cosam_bench.core.console import plain_table, results_console, say
from cosam_bench.core.errors import CosamError
from cosam_bench.core.files import expanded

if TYPE_CHECKING:
    from cosam_bench.sweeps.engines import Outcome
    from cosam_bench.sweeps.grid import Grid
    from cosam_bench.sweeps.sweep import SweepResult

GridFile = Annotated[
    Path | None, typer.Argument(metavar="GRID.toml", help="What to vary, in place of the options from --methods on.")
]
Methods = Annotated[str | None, typer.Option(metavar="a,b,c", help="The methods; each as `run --method` takes it.")]
Orders = Annotated[
    str | None,
    typer.Option(
        metavar="N", help="How many orders: the stream's, random:1 and so on; or names: stream,reverse. Default: 1."
    ),
]
Seeds = Annotated[
    str | None, typer.Option(metavar="N", help="How many seeds: 0, 1 and so on; or a list: [0,7]. Default: 1.")
]
Models = Annotated[str | None, typer.Option(metavar="a,b,c", help="Base models; default: the protocol's.")]
Protocol = Annotated[str | None, typer.Option(metavar="NAME", help="A built-in one or a TOML file; default: mini.")]
Mode = Annotated[str | None, typer.Option(metavar="NAME", help="The protocol's mode; default: clean.")]
Workers = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, max=1024, help="How many processes; default: one per GPU or per core."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the tasks and how long they take; run nothing.")]
EngineName = Annotated[
    str, typer.Option(metavar="NAME", help="What runs the tasks: local, this machine; ray or slurm, several.")
]
EngineOption = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=VALUE", help="An option of the engine, such as address of ray; repeatable."),
]
StoreAddress = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="URL",
        help="Workers exchange files through this address, such as s3://bucket/prefix, not through the folder.",
    ),
]
StatusOf = Annotated[
    str | None,
    typer.Option("--status", metavar="DIR", help="Print how far the sweep of this folder or store is; run nothing."),
]


def sweep(
    *,
    grid: GridFile = None,
    methods: Methods = None,
    orders: Orders = None,
    seeds: Seeds = None,
    models: Models = None,
    protocol: Protocol = None,
    mode: Mode = None,
    device: Device = None,
    isolated: Isolated = None,
    workers: Workers = None,
    engine: EngineName = "local",
    engine_option: EngineOption = None,
    store: StoreAddress = None,
    results: ResultsOfRuns = Path("results"),
    dry_run: DryRun = False,
    status: StatusOf = None,
) -> None:
    """Run each method in each order, at each seed and with each model; what runs have in common is done once.

    Give the same command again to run what is missing. A task that fails keeps those from running that need it, and
    no others.
    """
    if status is not None:
        _print_status(status)
        return
    from cosam_bench.sweeps.engine_choice import EngineChoice, options_from_texts
    from cosam_bench.sweeps.sweep import sweep as run_sweep

    names = None if methods is None else comma_separated(methods)
    found = _grid(
        grid,
        methods=names,
        orders=orders,
        seeds=seeds,
        models=None if models is None else comma_separated(models),
        protocol=protocol,
        mode=mode,
        device=device,
        isolated=isolated,
    )
    board = leaderboard_file(results)
    chosen = EngineChoice(engine, options_from_texts(engine_option or []))
    with ExitStack() as view:

        def on_start(result: SweepResult) -> None:
            _print_plan(result)
            if not dry_run:
                view.enter_context(live_view(store or found.store or results))

        try:
            done = run_sweep(
                found,
                results=results,
                workers=workers,
                dry_run=dry_run,
                engine=chosen,
                store=store,
                on_start=on_start,
                on_task=_print_task,
            )
        except KeyboardInterrupt as stop:
            raise Stopped("To continue, give the same command again.") from stop
    if dry_run:
        return
    if done.records:
        refresh_leaderboard(results, board)
    runs = sum(count.planned for count in done.counts if count.kind == "run")
    results_console().print(f"{len(done.records)} of {runs} runs are complete in {results}.", soft_wrap=True)
    if done.failed:
        raise Failed(f"{len(done.failed)} tasks could not be done. Correct the cause, and give the same command again.")


def _print_status(place: str) -> None:
    from cosam_bench.sweeps.artifact_store import is_address
    from cosam_bench.sweeps.status import StatusReader

    reader = StatusReader(place if is_address(place) else expanded(place))
    results_console().print(status_view(reader.read()))


def _grid(file: Path | None, *, orders: str | None, seeds: str | None, **others: object) -> Grid:
    from cosam_bench.sweeps.grid import grid_from_texts, read_grid

    options = others | {"orders": orders, "seeds": seeds}
    given = [name for name, value in options.items() if value is not None]
    if file is None:
        if "methods" not in given:
            raise CosamError("No method was given. Give --methods a,b,c, or a GRID.toml with methods.")
        return grid_from_texts(orders=orders, seeds=seeds, **others)
    if given:
        raise CosamError(f"{file} says what to vary. Leave out --{given[0]}, or write it into the file.")
    return read_grid(file)


def _print_plan(result: SweepResult) -> None:
    table = plain_table("task", "if not shared", "planned", "to do", "time in one process")
    for count in result.counts:
        numbers = (count.unshared, count.planned, count.missing)
        table.add_row(count.kind, *(f"{number:,}" for number in numbers), shown_time(count.left))
    console = results_console()
    console.print(table)
    if result.left.known:
        console.print(f"To do: {shown_time(result.left)} in one process; there are {result.workers}.")
    if result.unshared.known:
        console.print(f"All runs, if each did all of its own: {shown_time(result.unshared)} in one process.")


def _print_task(name: str, outcome: Outcome) -> None:
    if outcome.error:
        say("Failed", f"{name}: {outcome.error}", style="bold red")
    else:
        say("Done", name, style="bold green")
