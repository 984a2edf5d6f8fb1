"""``cosam-bench run``: methods on one protocol, each with a record of its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cosam_bench.cli.error_handling import Stopped
from cosam_bench.cli.isolation_option import Isolated, prepare_isolation
from cosam_bench.cli.leaderboard_command import leaderboard_file, refresh_leaderboard
from cosam_bench.cli.option_values import FILE_TO_WRITE
from cosam_bench.cli.record_filters import seed_numbers
from cosam_bench.cli.records_commands import Images, ResultsOfRuns
from cosam_bench.cli.run_session import RunSession
from cosam_bench.core.console import say, write_data
from cosam_bench.core.errors import CosamError
from cosam_bench.core.files import CannotWrite
from cosam_bench.experiments.options import RunOptions, refuse_both_ways
from cosam_bench.experiments.repeats import Repeat, resolve_repeats

if TYPE_CHECKING:
    from cosam_bench.experiments.protocol import RunConfig


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
Seed = Annotated[
    list[int] | None,
    typer.Option(metavar="N", min=0, help="Seed of training, prompts and method; default: 0; repeatable."),
]
Seeds = Annotated[str | None, typer.Option(metavar="N,...", help="Run with each of these seeds, as 0,1,2 or 0-4.")]
Order = Annotated[
    list[str] | None,
    typer.Option(metavar="ORDER", help="The domains' order: a,b,c or stream or reverse or random:N; repeatable."),
]
Orders = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="Run in N different orders: the stream's, then random ones."),
]
Device = Annotated[str | None, typer.Option(metavar="NAME", help="auto, cpu, cuda or cuda:N; default: auto.")]
Experts = Annotated[
    str | None,
    typer.Option(
        metavar="DIR",
        help="Merge experts from here, one per domain, and train none; or a TOML file with a table `experts`.",
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any setting: adapter.rank=4, method.ridge=0.1; repeatable."),
]
Csv = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Write the leaderboard of all records here; default: DIR/leaderboard.csv."),
    FILE_TO_WRITE,
]
Tuned = Annotated[
    Path | None,
    typer.Option(metavar="PATH", help="Use tuned settings: a file that `tune` wrote, or a folder of them."),
]
Scales = Annotated[
    bool,
    typer.Option(
        "--scales",
        help="Hold out a tenth of the training data, and score each merge at nine lengths for `leaderboard --scales`.",
    ),
]
AlsoPrompts = Annotated[
    str | None,
    typer.Option(
        "--also-prompts",
        metavar="A,B",
        help="Score frozen SAM and the final model under these prompts, too: box, points, mask, image, grid.",
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        help="At most N training and N test images of each domain, for a first try; tables mark such records.",
    ),
]
Matrices = Annotated[
    bool, typer.Option("--matrices", help="Show the score matrix of each run; one alone is always shown.")
]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="Print each record's folder alone: no progress, matrix or comparison."),
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
    seeds: Seeds = None,
    order: Order = None,
    orders: Orders = None,
    limit: Limit = None,
    device: Device = None,
    experts: Experts = None,
    settings: Set = None,
    tuned: Tuned = None,
    scales: Scales = False,
    also_prompts: AlsoPrompts = None,
    results: ResultsOfRuns = Path("results"),
    csv: Csv = None,
    images: Images = None,
    fresh: Fresh = False,
    matrices: Matrices = False,
    quiet: Quiet = False,
    isolated: Isolated = None,
    dry_run: DryRun = False,
) -> None:
    """Run methods over a stream of domains, then show and record the score matrix of each.

    Several methods, given as a,b,c, run one after another on the same protocol, with each seed and order that is
    given; they are compared at the end. To continue a run that was stopped, give the same command again.
    """
    names = comma_separated(method) if method else []
    try:
        options = RunOptions(
            protocol=protocol,
            mode=mode,
            config=config,
            stream=stream,
            model=model,
            checkpoint=checkpoint,
            device=device,
            experts=experts,
            settings=tuple(settings or ()),
            scales=scales,
            also_prompts=also_prompts,
            limit=limit,
            tuned=tuned,
            isolated=isolated,
            results=results,
        )
        prepare_isolation(names, isolated)
        _refuse_both("--seed", seed, "--seeds", seeds)
        _refuse_both("--order", order, "--orders", orders)
        refuse_both_ways(options, seed=seed, seeds=seeds, order=order, orders=orders)
        all_seeds = (seed or []) if seeds is None else seed_numbers(seeds)
        all_orders = (order or []) if orders is None else orders
        repeats = resolve_repeats(names, options, seeds=all_seeds, orders=all_orders)
        if dry_run:
            write_data(_only(repeats).to_toml())
            return
        board = csv or leaderboard_file(results)
        has_several = len(repeats) > 1 or len(repeats[0].configs) > 1
        shows = matrices or not has_several
        session = RunSession(
            results, fresh=fresh, isolated=isolated, images=images, is_quiet=quiet, shows_matrices=shows
        )
        try:
            session.run(repeats)
        finally:  # also if a later method's run is stopped
            if session.done:
                may_fail = csv is None and not session.has_measured
                _refresh(results, board, may_fail=may_fail, quiet=quiet)
        session.conclude()
    except KeyboardInterrupt as stop:
        raise Stopped(_how_to_continue(names, fresh=fresh)) from stop


def comma_separated(text: str) -> list[str]:
    """The names in ``a,b,c``, without blanks around them."""
    return [name.strip() for name in text.split(",")]


def _refuse_both(one: str, first: object, other: str, second: object) -> None:
    if first and second is not None:
        raise CosamError(f"Both {one} and {other} are given. Leave one out.")


def _refresh(results: Path, board: Path, *, may_fail: bool, quiet: bool) -> None:
    """Write the leaderboard; a folder that cannot be written keeps its own if it may fail."""
    try:
        refresh_leaderboard(results, board, quiet=quiet)
    except CannotWrite as error:
        if not may_fail:
            raise
        say("Note", f"The leaderboard was left as it is: {error}", style="bold yellow")


def _how_to_continue(names: list[str], *, fresh: bool) -> str:
    if fresh and len(names) > 1:
        return "To continue, run the stopped method without --fresh, then those after it with --fresh."
    return f"To continue, give the same command{' without --fresh' if fresh else ''} again."


def _only(repeats: list[Repeat]) -> RunConfig:
    configs = [config for repeat in repeats for config in repeat.configs]
    if len(repeats) > 1:
        raise CosamError(f"--dry-run prints the settings of one run, but {len(configs)} are asked for. Ask for one.")
    if len(configs) > 1:
        raise CosamError(f"--dry-run prints the settings of one run, but {len(configs)} methods are given. Name one.")
    return configs[0]
