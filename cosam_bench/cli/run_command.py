"""``cosam-bench run``: methods on one protocol, to a record each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cosam_bench.cli.error_handling import Failed, Stopped
from cosam_bench.cli.records_commands import Results, compare, refresh_leaderboard, show_record
from cosam_bench.core.console import say
from cosam_bench.core.errors import CosamError
from cosam_bench.experiments.options import RunOptions, one_each, resolve

if TYPE_CHECKING:
    from cosam_bench.experiments.experiment import Prepared
    from cosam_bench.experiments.protocol import RunConfig
    from cosam_bench.experiments.reporter import Reporter
    from cosam_bench.results.records import Record

Method = Annotated[
    str | None,
    typer.Option(
        "--method", "-m", metavar="NAME", help="One that `methods` lists, package.module:Class, or file.py; or a,b,c."
    ),
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
    """Run methods over a stream of domains, and show and record the score matrix of each.

    Several methods, as a,b,c, work on one opened protocol, one after another, and are compared at the end. A run that
    was stopped goes on where it was when the same command is given again.
    """
    try:
        options = RunOptions(
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
        asked = [resolve(one) for one in one_each(options)]
        if dry_run:
            typer.echo(_only(asked).to_toml(), nl=False)
            return
        records: list[Record] = []
        try:
            failed = _measure_each(asked, results, records, fresh=fresh)
        finally:  # also where the run of a later method stops
            if records:
                refresh_leaderboard(results, csv or results / "leaderboard.csv")
        if len(records) > 1:
            compare(records)
        if failed:
            raise Failed(f"{len(failed)} of {len(asked)} methods failed: {', '.join(failed)}.")
    except KeyboardInterrupt:
        raise Stopped(_how_to_go_on(options, fresh=fresh)) from None


def _how_to_go_on(options: RunOptions, *, fresh: bool) -> str:
    if fresh and "," in (options.method or ""):
        return "The method that was stopped goes on without --fresh; those that follow it still want --fresh."
    return f"The same command{' without --fresh' if fresh else ''} goes on where it was."


def _only(asked: list[RunConfig]) -> RunConfig:
    if len(asked) > 1:
        raise CosamError(f"--dry-run prints the settings of one run, and {len(asked)} methods are asked. Name one.")
    return asked[0]


def _measure_each(asked: list[RunConfig], results: Path, records: list[Record], *, fresh: bool) -> list[str]:
    """Measure and show each, and add its complete record to ``records``.

    Returns:
        The methods that failed; where one alone is asked, that raises.
    """
    from cosam_bench.experiments.experiment import method_of, prepare
    from cosam_bench.experiments.method_faults import MethodFailed
    from cosam_bench.experiments.progress import progress_reporter
    from cosam_bench.method.registry import short_name
    from cosam_bench.sam.batch_size import ImageDoesNotFit

    for config in asked:
        method_of(config)  # a method that does not fit is refused before the first has run for hours
    failed = []
    prepared: Prepared | None = None
    for config in asked:
        try:
            with progress_reporter() as reporter:
                reporter.say("Opening data and model")
                prepared = prepared.with_method(config) if prepared else prepare(config, results)
                record, is_known = _measure(prepared, results, reporter=reporter, fresh=fresh)
        except ImageDoesNotFit as error:  # not even frozen SAM can be run here
            raise Failed(str(error)) from None
        except MethodFailed as error:
            if len(asked) == 1:
                raise Failed(str(error)) from error.__cause__
            say("Failed", str(error), style="bold red")
            failed.append(short_name(config.method))
            prepared = None  # the method may have left the model changed
            continue
        if is_known:
            started = record.info.started
            say("Note", f"This run is complete since {started}; --fresh measures it anew.", style="bold yellow")
        show_record(record)
        records.append(record)
    return failed


def _measure(prepared: Prepared, results: Path, *, reporter: Reporter, fresh: bool) -> tuple[Record, bool]:
    """The complete record, measured now as far as it is not there yet; and whether it was there."""
    from cosam_bench.experiments.runner import Runner

    runner = Runner(prepared, results=results, reporter=reporter)
    known = None if fresh else runner.finished()
    return known or runner.run(fresh=fresh), known is not None
