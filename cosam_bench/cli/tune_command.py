"""``cosam-bench tune``: the best settings of methods on held-out training images, with one budget for all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cosam_bench.cli.error_handling import Failed, Stopped
from cosam_bench.cli.isolation_option import Isolated, prepare_isolation
from cosam_bench.cli.option_values import FOLDER_TO_WRITE
from cosam_bench.cli.records_commands import ResultsOfRuns
from cosam_bench.cli.run_command import (
    Checkpoint,
    Device,
    Mode,
    Model,
    Protocol,
    Set,
    Stream,
    comma_separated,
)
from cosam_bench.core.console import plain_table, results_console, say
from cosam_bench.core.setting_keys import in_toml
from cosam_bench.experiments.options import RunOptions, refuse_both_ways

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cosam_bench.tuning.tune import Tuned

Methods = Annotated[
    str, typer.Argument(metavar="METHOD[,METHOD...]", help="The methods; each as `run --method` takes it.")
]
Trials = Annotated[
    int,
    typer.Option(metavar="N", max=1_000_000, help="Settings that are tried of each method, its own included."),
]
Domains = Annotated[
    str | None, typer.Option(metavar="a,b,c", help="Tune on these of the stream's domains; default: all.")
]
SamplerName = Annotated[
    str, typer.Option("--sampler", metavar="NAME", help="What proposes settings: tpe, which learns, or random.")
]
SpaceFile = Annotated[
    Path | None,
    typer.Option("--space", metavar="FILE", help="Other ranges: a TOML file with tables [METHOD.SETTING]."),
]
Out = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Write the best settings here, a file for each; default: DIR/_tune/PROTOCOL."),
    FOLDER_TO_WRITE,
]
Seed = Annotated[int | None, typer.Option(metavar="N", min=0, help="Of proposals, training and prompts; default: 0.")]
Order = Annotated[
    str | None, typer.Option(metavar="ORDER", help="The domains' order: a,b,c or stream or reverse or random:N.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print each file of settings alone.")]


def tune(
    methods: Methods,
    *,
    trials: Trials = 20,
    protocol: Protocol = None,
    mode: Mode = None,
    stream: Stream = None,
    model: Model = None,
    checkpoint: Checkpoint = None,
    seed: Seed = None,
    order: Order = None,
    domains: Domains = None,
    device: Device = None,
    settings: Set = None,
    space: SpaceFile = None,
    sampler: SamplerName = "tpe",
    results: ResultsOfRuns = Path("results"),
    out: Out = None,
    isolated: Isolated = None,
    quiet: Quiet = False,
) -> None:
    """Find the settings of methods that score best on held-out training images, with as many trials for each.

    A quarter of each domain's training images is held out; test images are not used. `run --tuned` uses the result. To
    continue, or to add trials, give the same command again.
    """
    from cosam_bench.tuning.tune import Budget, resolve_methods, tune_methods

    names = comma_separated(methods)
    options = RunOptions(
        protocol=protocol,
        mode=mode,
        stream=stream,
        model=model,
        checkpoint=checkpoint,
        seed=seed,
        order=order,
        device=device,
        settings=tuple(settings or ()),
        isolated=isolated,
        results=results,
    )
    refuse_both_ways(options)
    prepare_isolation(names, isolated)
    configs, fixed = resolve_methods(names, options)
    from cosam_bench.experiments.progress import make_reporter
    from cosam_bench.results.records import TUNED
    from cosam_bench.tuning.space import read_ranges

    budget = Budget(trials, sampler, tuple(comma_separated(domains)) if domains else ())
    done: list[Tuned] = []
    try:
        done.extend(
            tune_methods(
                configs,
                budget,
                results=results,
                out=out,
                ranges=read_ranges(space) if space else {},
                fixed=fixed,
                isolated=isolated,
                make_reporter=lambda: make_reporter(not quiet),
            )
        )
    except KeyboardInterrupt as stop:
        raise Stopped("To continue, give the same command again.") from stop
    _print(done, is_quiet=quiet)
    failed = [tuned.method for tuned in done if tuned.file is None]
    if failed:
        trials_of = ", ".join(str(results / TUNED / configs[0].protocol.name / name) for name in failed)
        raise Failed(f"Every trial of {', '.join(failed)} failed. Correct the cause, and delete {trials_of}.")


def _print(done: Sequence[Tuned], *, is_quiet: bool) -> None:
    console = results_console()
    if is_quiet:
        for tuned in done:
            if tuned.file is not None:
                console.print(tuned.file, soft_wrap=True)
        return
    table = plain_table("method", "default", "best", "trials", "failed")
    for tuned in done:
        scores = ("-" if score is None else f"{score:.4f}" for score in (tuned.default_score, tuned.best_score))
        table.add_row(tuned.method, *scores, str(tuned.trials), str(len(tuned.failures)))
    console.print(table)
    console.print("Last (mean IoU) on the training images held out; default: without tuning.")
    for tuned in done:
        console.print()
        console.print(f"{tuned.method}: {_found(tuned)}", markup=False, highlight=False)
        if tuned.file is not None:
            console.print(f"  {tuned.file}", soft_wrap=True, markup=False, highlight=False)
    for tuned in done:
        for number, error in tuned.failures.items():
            say("Failed", f"{tuned.method}, trial {number + 1}: {error}", style="bold red")


def _found(tuned: Tuned) -> str:
    if not tuned.space:
        return "it has no settings to tune."
    if tuned.file is None:
        return "every trial failed."
    if not tuned.changed:
        return "its settings without tuning are the best."
    return ", ".join(f"{name} = {_shown(value)}" for name, value in tuned.changed.items())


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else in_toml(value)
