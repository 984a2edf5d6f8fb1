"""``cosam-bench run``: one method on one protocol, to one record."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cosam_bench.cli.console import say
from cosam_bench.cli.guard import Failed, Stopped
from cosam_bench.cli.options import RunOptions, resolve
from cosam_bench.cli.records import Results, refresh_leaderboard, show_record

if TYPE_CHECKING:
    from cosam_bench.protocol import RunConfig
    from cosam_bench.records import Record

Method = Annotated[
    str | None,
    typer.Option("--method", "-m", metavar="NAME", help="One that `methods` lists, package.module:Class, or file.py."),
]
Protocol = Annotated[str | None, typer.Option(metavar="NAME", help="A built-in one or a TOML file; default: mini.")]
Mode = Annotated[
    str | None, typer.Option(metavar="NAME", help="The protocol's mode: clean, or faithful to the paper's code.")
]
Config = Annotated[Path | None, typer.Option(metavar="FILE", help="The config.toml of a record, to repeat it.")]
Stream = Annotated[str | None, typer.Option(metavar="NAME", help="Another stream: a built-in one or a TOML file.")]
Model = Annotated[str | None, typer.Option(metavar="NAME", help="Another base model; `models` lists them.")]
Checkpoint = Annotated[str | None, typer.Option(metavar="FILE", help="The model's weights; random: untrained ones.")]
Seed = Annotated[int | None, typer.Option(metavar="N", min=0, help="Of training, prompts and method; default: 0.")]
Order = Annotated[str | None, typer.Option(metavar="ORDER", help="The domains' order: a,b,c or reverse or random:N.")]
Device = Annotated[str | None, typer.Option(metavar="NAME", help="auto, cpu, cuda or cuda:N; default: auto.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any setting: adapter.rank=4, method.ridge=0.1; repeatable."),
]
Csv = Annotated[
    Path | None, typer.Option(metavar="FILE", help="The leaderboard of all records; default: DIR/leaderboard.csv.")
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Forget what an earlier run of the same settings left.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the resolved settings as TOML, and stop.")]


def run(
    *,
    method: Method = None,
    protocol: Protocol = None,
    mode: Mode = None,
    config: Config = None,
    stream: Stream = None,
    model: Model = None,
    checkpoint: Checkpoint = None,
    seed: Seed = None,
    order: Order = None,
    device: Device = None,
    settings: Set = None,
    results: Results = Path("results"),
    csv: Csv = None,
    fresh: Fresh = False,
    dry_run: DryRun = False,
) -> None:
    """Run a method over a stream of domains, and show and record its score matrix.

    A run that was stopped goes on where it was when the same command is given again.
    """
    try:
        resolved = resolve(
            RunOptions(
                method=method,
                protocol=protocol,
                mode=mode,
                config=config,
                stream=stream,
                model=model,
                checkpoint=checkpoint,
                seed=seed,
                order=order,
                device=device,
                settings=tuple(settings or ()),
            )
        )
        if dry_run:
            typer.echo(resolved.to_toml(), nl=False)
            return
        record = _measure(resolved, results, fresh=fresh)
        show_record(record)
        refresh_leaderboard(results, csv or results / "leaderboard.csv")
    except KeyboardInterrupt:
        again = "The same command without --fresh" if fresh else "The same command"
        raise Stopped(f"{again} goes on where it was.") from None


def _measure(config: RunConfig, results: Path, *, fresh: bool) -> Record:
    """The complete record, measured now as far as it is not there yet."""
    from cosam_bench.cli.progress import progress_reporter
    from cosam_bench.faults import MethodFailed
    from cosam_bench.prepare import prepare
    from cosam_bench.runner import Runner

    with progress_reporter() as reporter:
        reporter.say("Opening data and model")
        runner = Runner(prepare(config, results), results=results, reporter=reporter)
        known = None if fresh else runner.finished()
        try:
            record = known or runner.run(fresh=fresh)
        except MethodFailed as error:
            raise Failed(str(error)) from error.__cause__
    if known:
        say("Note", f"This run is complete since {known.info.started}; --fresh measures it anew.", style="bold yellow")
    return record
