"""``cosam-bench run``: methods on one protocol, each with a record of its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cosam_bench.cli.error_handling import Failed, Stopped
from cosam_bench.cli.isolation_option import Isolated, prepare_isolation
from cosam_bench.cli.leaderboard_command import print_leaderboard, refresh_leaderboard
from cosam_bench.cli.records_commands import Images, Results, show_record
from cosam_bench.core.console import say
from cosam_bench.core.errors import CosamError
from cosam_bench.core.files import CannotWrite
from cosam_bench.experiments.options import RunOptions, resolve

if TYPE_CHECKING:
    from cosam_bench.experiments.protocol import RunConfig
    from cosam_bench.experiments.run_methods import Outcome
    from cosam_bench.results.records import Record

Method = Annotated[
    str | None,
    typer.Option(
        "--method", "-m", metavar="NAME", help="One that `methods` lists, package.module:Class, or file.py; or a,b,c."
    ),
]
Protocol = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="A built-in one or a TOML file; default: mini, or own if --stream is given."),
]
Mode = Annotated[
    str | None, typer.Option(metavar="NAME", help="The protocol's mode: clean, or faithful to the paper's code.")
]
Config = Annotated[Path | None, typer.Option(metavar="FILE", help="The config.toml of a record, to repeat its run.")]
Stream = Annotated[str | None, typer.Option(metavar="NAME", help="Another stream: a built-in one or a TOML file.")]
Model = Annotated[str | None, typer.Option(metavar="NAME", help="Another base model; `models` lists them.")]
Checkpoint = Annotated[
    str | None, typer.Option(metavar="FILE", help="The model's weights; `random` for untrained ones.")
]
Seed = Annotated[int | None, typer.Option(metavar="N", min=0, help="Seed of training, prompts and method; default: 0.")]
Order = Annotated[str | None, typer.Option(metavar="ORDER", help="The domains' order: a,b,c or reverse or random:N.")]
Device = Annotated[str | None, typer.Option(metavar="NAME", help="auto, cpu, cuda or cuda:N; default: auto.")]
Experts = Annotated[
    str | None,
    typer.Option(
        metavar="DIR", help="Merge experts from here, one per domain, and train none; or a TOML file with [experts]."
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any setting: adapter.rank=4, method.ridge=0.1; repeatable."),
]
Csv = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Write the leaderboard of all records here; default: DIR/leaderboard.csv."),
]
Scales = Annotated[
    bool,
    typer.Option(
        "--scales",
        help="Hold out a tenth of the training data, and score each merge at nine lengths for `leaderboard --scales`.",
    ),
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Measure again; use nothing that earlier runs left.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the resolved settings as TOML and exit.")]


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
    experts: Experts = None,
    settings: Set = None,
    scales: Scales = False,
    results: Results = Path("results"),
    csv: Csv = None,
    images: Images = None,
    fresh: Fresh = False,
    isolated: Isolated = None,
    dry_run: DryRun = False,
) -> None:
    """Run methods over a stream of domains, then show and record the score matrix of each.

    Several methods, given as a,b,c, run one after another on the same protocol and are compared at the end. To
    continue a run that was stopped, give the same command again.
    """
    try:
        options = RunOptions(
            protocol=protocol,
            mode=mode,
            config=config,
            stream=stream,
            model=model,
            checkpoint=checkpoint,
            seed=seed,
            order=order,
            device=device,
            experts=experts,
            settings=tuple(settings or ()),
            scales=scales,
            isolated=isolated,
        )
        names = [name.strip() for name in method.split(",")] if method else []
        prepare_isolation(names, isolated)
        configs = resolve(names, options)
        if dry_run:
            typer.echo(_only(configs).to_toml().encode(), nl=False)  # TOML is UTF-8, whatever the terminal has
            return
        done: list[Outcome] = []
        try:
            failed = _run_and_show(configs, results, done, fresh=fresh, isolated=isolated, images=images)
        finally:  # also if a later method's run is stopped
            if done:
                _refresh(results, csv, is_anything_new=not all(outcome.was_complete for outcome in done))
        if len(done) > 1:
            print_leaderboard([outcome.record for outcome in done if outcome.record is not None])
        if failed:
            raise Failed(f"{len(failed)} of {len(configs)} methods failed: {', '.join(failed)}.")
    except KeyboardInterrupt as stop:
        raise Stopped(_how_to_continue(names, fresh=fresh)) from stop


def _refresh(results: Path, csv: Path | None, *, is_anything_new: bool) -> None:
    """Write the leaderboard; a folder that cannot be written keeps its own if nothing was measured."""
    try:
        refresh_leaderboard(results, csv or results / "leaderboard.csv")
    except CannotWrite as error:
        if csv is not None or is_anything_new:
            raise
        say("Note", f"The leaderboard was left as it is: {error}", style="bold yellow")


def _how_to_continue(names: list[str], *, fresh: bool) -> str:
    if fresh and len(names) > 1:
        return "To continue, run the stopped method without --fresh, then those after it with --fresh."
    return f"To continue, give the same command{' without --fresh' if fresh else ''} again."


def _only(configs: list[RunConfig]) -> RunConfig:
    if len(configs) > 1:
        raise CosamError(f"--dry-run prints the settings of one run, but {len(configs)} methods are given. Name one.")
    return configs[0]


def _run_and_show(
    configs: list[RunConfig],
    results: Path,
    done: list[Outcome],
    *,
    fresh: bool,
    isolated: bool | None,
    images: Path | None,
) -> list[str]:
    """Run and show each method, and add its outcome to ``done`` if its record is complete.

    Returns:
        The methods that failed; if only one is given, its failure is raised.
    """
    from cosam_bench.experiments.progress import make_reporter
    from cosam_bench.experiments.run_methods import run_methods
    from cosam_bench.sam.batch_size import ImageDoesNotFit

    failed: list[str] = []
    unshown: Exception | None = None
    outcomes = run_methods(
        configs, results=results, fresh=fresh, isolated=isolated, make_reporter=lambda: make_reporter(True)
    )
    try:
        for outcome in outcomes:
            if outcome.record is None:
                if len(configs) == 1:
                    raise Failed(str(outcome.failure)) from outcome.failure and outcome.failure.__cause__
                say("Failed", str(outcome.failure), style="bold red")
                failed.append(outcome.method)
                continue
            if outcome.was_complete:
                started = outcome.record.info.started
                say("Note", f"Already complete since {started}; use --fresh to run it again.", style="bold yellow")
            done.append(outcome)
            if unshown is None:
                unshown = _show(outcome.record, images)
    except ImageDoesNotFit as error:  # not even frozen SAM can be run here
        raise Failed(str(error)) from None
    if unshown is not None:
        raise unshown
    return failed


def _show(record: Record, images: Path | None) -> Exception | None:
    """Show a record, and save its images in a folder named after the method.

    What goes wrong in that is returned, so that the methods after it are measured first.
    """
    try:
        show_record(record, images=images and images / record.folder.parent.name)
    except Exception as error:  # a closed pipe, a full disk, or a damaged record
        return error
    return None
