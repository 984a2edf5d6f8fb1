"""``sweep`` and ``tune``: many runs, and the settings with which a method does best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cosam_bench.api.arguments import (
    METHODS,
    ORDERS,
    SEEDS,
    SETTINGS,
    MethodLike,
    joined,
    names,
    order_list,
    references,
    seed_list,
    text,
)
from cosam_bench.core.argument_checks import checked_arguments
from cosam_bench.core.errors import CosamError
from cosam_bench.core.files import expanded
from cosam_bench.experiments.options import RunOptions, refuse_both_ways, setting_texts

if TYPE_CHECKING:
    from cosam_bench.sweeps.sweep import SweepResult
    from cosam_bench.tuning.tune import Tuned

SPACE = """ranges by method and setting, such as {"regcl": {"ridge": {"low": 1e-6, "high": 1.0}}}, or a TOML file"""


@checked_arguments(methods=METHODS, seeds=SEEDS, orders=ORDERS, settings='a list such as [{"adapter.rank": 4}]')
def sweep(
    grid: str | Path | None = None,
    *,
    methods: MethodLike | Sequence[MethodLike] | None = None,
    orders: int | Sequence[str | Sequence[str]] | None = None,
    seeds: int | Sequence[int] | None = None,
    models: str | Sequence[str] | None = None,
    protocol: str | Path | None = None,
    mode: str | None = None,
    settings: Sequence[Mapping[str, object]] | None = None,
    device: str | None = None,
    threads: int | None = None,
    isolated: bool | None = None,
    workers: int | None = None,
    engine: str = "local",
    engine_options: Mapping[str, str] | None = None,
    store: str | None = None,
    results: str | Path = "results",
    dry_run: bool = False,
) -> SweepResult:
    """Run each method in each order, at each seed, with each model and settings; what runs have in common is done once.

    A second call runs only what is missing. A task that fails keeps those from running that need it, and no others.

    Args:
        grid: a TOML file with the keys ``methods`` to ``isolated``, in place of these arguments, and
            optionally ``store``; docs/many-runs.md describes it.
        methods: one or several, each as for ``run``.
        orders: as for ``run``; None: the stream's own.
        seeds: as for ``run``; None: 0.
        models: one base model or several; None: the protocol's.
        protocol: a built-in name or the path of a TOML file; None: ``mini``.
        mode: as for ``run``.
        settings: a list of settings as for ``run``; None: the protocol's.
        device: as for ``run``.
        threads: of each process, None: 1; experts and rows of frozen SAM are shared between equal numbers only.
        isolated: as for ``run``.
        workers: how many processes, or jobs of Slurm at once; None: one per GPU, or one per ``threads`` cores.
        engine: ``local``, ``ray`` or ``slurm``; docs/many-runs.md describes them.
        engine_options: of the engine, such as the ``address`` of a cluster of Ray.
        store: the address through which workers exchange files, such as ``s3://bucket/prefix``, which needs the extra
            ``s3``; None: the grid's, else all workers see ``results``.
        results: the folder of records.
        dry_run: run nothing; only count the tasks and estimate their time.

    Returns:
        ``records`` of the complete runs; ``failed``, by task, why it failed; and what was planned: ``counts``, and the
        estimates ``left`` and ``unshared``.

    Raises:
        CosamError: a name, key or value does not fit, what the engine needs is not installed, or a file cannot be
            written.
    """
    from cosam_bench.core.settings import validate
    from cosam_bench.sweeps.engine_choice import EngineChoice
    from cosam_bench.sweeps.grid import Grid, read_grid
    from cosam_bench.sweeps.sweep import sweep as run_sweep

    given = {
        "methods": None if methods is None else references(methods),
        "orders": None if orders is None else order_list(orders),
        "seeds": None if seeds is None else seed_list(seeds),
        "models": None if models is None else names(models),
        "protocol": text(protocol),
        "mode": mode,
        "settings": None if settings is None else [dict(table) for table in settings],
        "device": device,
        "threads": threads,
        "isolated": isolated,
    }
    given = {name: value for name, value in given.items() if value is not None}
    if grid is not None and given:
        raise CosamError(f"{grid} says what to vary. Leave out {', '.join(given)}, or write it into the file.")
    found = validate(Grid, given, source="The sweep's arguments") if grid is None else read_grid(expanded(grid))
    choice = EngineChoice(engine, dict(engine_options or {}))
    return run_sweep(found, results=expanded(results), workers=workers, dry_run=dry_run, engine=choice, store=store)


@checked_arguments(methods=METHODS, settings=SETTINGS, space=SPACE)
def tune(
    methods: MethodLike | Sequence[MethodLike],
    *,
    trials: int = 20,
    protocol: str | Path | None = None,
    mode: str | None = None,
    stream: str | Path | None = None,
    model: str | None = None,
    checkpoint: str | Path | None = None,
    seed: int | None = None,
    order: str | Sequence[str] | None = None,
    domains: str | Sequence[str] = (),
    device: str | None = None,
    settings: Mapping[str, object] | None = None,
    space: Mapping[str, Mapping[str, Mapping[str, Any]]] | str | Path | None = None,
    sampler: Literal["tpe", "random"] = "tpe",
    results: str | Path = "results",
    out: str | Path | None = None,
    progress: bool | None = None,
    isolated: bool | None = None,
) -> list[Tuned]:
    """Find the settings of methods that score best on held-out training images, with as many trials for each.

    A quarter of each domain's training images is held out: each trial trains on the rest, and is scored by the mean IoU
    over the domains after the last one. Test images are not used. A second call continues, or adds trials. See
    docs/tuning.md.

    Args:
        methods: one or several, each as for ``run``.
        trials: settings that are tried of each method, at least 1; the first has the settings without tuning.
        protocol: as for ``run``.
        mode: as for ``run``.
        stream: as for ``run``.
        model: as for ``run``.
        checkpoint: as for ``run``.
        seed: of proposals, training, prompts and method; None: 0.
        order: as for ``run``.
        domains: those of the stream that are tuned on; empty: all.
        device: as for ``run``.
        settings: as for ``run``; a setting of the method is then not tuned.
        space: by method and setting, a range that replaces the declared one, such as
            ``{"regcl": {"ridge": {"low": 1e-6, "high": 1.0, "log": True}, "space": {"choices": ["product"]}}}``; or a
            TOML file of these tables.
        sampler: ``tpe``, which learns from earlier trials, or ``random``.
        results: the folder of records; experts and the trials are kept there.
        out: the folder for a file of settings per method, which ``run`` takes as ``tuned``; None: ``_tune/PROTOCOL`` in
            ``results``.
        progress: as for ``run``.
        isolated: as for ``run``.

    Returns:
        One per method: ``file``, ``default_score`` and ``best_score``, the best ``settings``, what they ``changed``,
        the number of ``trials`` and why trials had ``failures``.

    Raises:
        MethodFailed: every trial of a method failed; all others are tuned first.
        CosamError: anything else that does not fit or is missing.
    """
    from cosam_bench.core.arithmetic import restored_rounding
    from cosam_bench.experiments.method_faults import MethodFailed
    from cosam_bench.experiments.progress import make_reporter
    from cosam_bench.tuning.space import read_ranges
    from cosam_bench.tuning.tune import Budget, resolve_methods, tune_methods

    options = RunOptions(
        protocol=text(protocol),
        mode=mode,
        stream=text(stream),
        model=model,
        checkpoint=text(checkpoint),
        seed=seed,
        order=joined(order),
        device=device,
        settings=setting_texts(settings or {}),
        isolated=isolated,
        results=expanded(results),
    )
    refuse_both_ways(options, from_python=True)
    configs, fixed = resolve_methods(references(methods), options)
    with restored_rounding():
        tuned = list(
            tune_methods(
                configs,
                Budget(trials, sampler, tuple(names(domains))),
                results=expanded(results),
                out=None if out is None else expanded(out),
                ranges=read_ranges(expanded(space)) if isinstance(space, str | Path) else space,
                fixed=fixed,
                isolated=isolated,
                make_reporter=partial(make_reporter, progress),
            )
        )
    failed = [one for one in tuned if one.file is None]
    if failed:
        causes = " ".join(f"Every trial of {one.method!r} failed, the first with: {one.failures[0]}" for one in failed)
        others = [str(one.file) for one in tuned if one.file is not None]
        raise MethodFailed(f"{causes} Written for the others: {', '.join(others)}." if others else causes)
    return tuned
