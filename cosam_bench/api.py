"""The benchmark as functions: run methods, read the leaderboard, segment an image; see ``docs/python-api.md``.

They raise ``CosamError`` for all that a caller can act on, and never end the interpreter. torch is loaded by the first
call that needs it.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict, Unpack, overload

from cosam_bench.core.errors import CosamError
from cosam_bench.core.files import expanded
from cosam_bench.experiments.options import RunOptions, setting_texts
from cosam_bench.experiments.repeats import resolve_repeats
from cosam_bench.method.registry import FILE_MODULE, GROUP

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from pandas import DataFrame

    from cosam_bench.experiments.image_prompt import Box, ImageLike, Point
    from cosam_bench.method.interface import Method
    from cosam_bench.results.comparison import Comparison
    from cosam_bench.results.export.formats import Exported
    from cosam_bench.results.records import Record
    from cosam_bench.results.report.page import WrittenReport
    from cosam_bench.sweeps.sweep import SweepResult
    from cosam_bench.training.fit import TrainingStep
    from cosam_bench.tuning.tune import Tuned

MethodLike: TypeAlias = "str | Path | type[Method]"


class _Options(TypedDict, total=False):
    """The keyword arguments of ``run``, for its two kinds of result."""

    protocol: str | Path | None
    mode: str | None
    config: str | Path | None
    stream: str | Path | None
    model: str | None
    checkpoint: str | Path | None
    seed: int | None
    order: str | Sequence[str] | None
    device: str | None
    experts: str | Path | None
    settings: Mapping[str, object] | None
    tuned: str | Path | None
    results: str | Path
    fresh: bool
    progress: bool | None
    on_step: Callable[[TrainingStep], None] | None
    isolated: bool | None


@overload  # a text is a sequence of texts, too, but matches here first
def run(method: MethodLike | None = None, **options: Unpack[_Options]) -> Record: ...  # type: ignore[overload-overlap]


@overload
def run(method: Sequence[MethodLike], **options: Unpack[_Options]) -> list[Record]: ...


@overload
def run(
    method: MethodLike | Sequence[MethodLike] | None = None,
    *,
    seeds: Sequence[int],
    orders: int | Sequence[str] | None = None,
    **options: Unpack[_Options],
) -> list[Record]: ...


@overload
def run(
    method: MethodLike | Sequence[MethodLike] | None = None,
    *,
    orders: int | Sequence[str],
    **options: Unpack[_Options],
) -> list[Record]: ...


def run(
    method: MethodLike | Sequence[MethodLike] | None = None,
    *,
    protocol: str | Path | None = None,
    mode: str | None = None,
    config: str | Path | None = None,
    stream: str | Path | None = None,
    model: str | None = None,
    checkpoint: str | Path | None = None,
    seed: int | None = None,
    seeds: Sequence[int] | None = None,
    order: str | Sequence[str] | None = None,
    orders: int | Sequence[str] | None = None,
    device: str | None = None,
    experts: str | Path | None = None,
    settings: Mapping[str, object] | None = None,
    tuned: str | Path | None = None,
    results: str | Path = "results",
    fresh: bool = False,
    progress: bool | None = None,
    on_step: Callable[[TrainingStep], None] | None = None,
    isolated: bool | None = None,
) -> Record | list[Record]:
    """Run a method over a stream of domains, and return its record; a list of them of several methods, seeds or orders.

    A run that is already complete is returned as it is; one that was stopped continues where it stopped.

    Args:
        method: a registered name, ``package.module:Class``, the path of a file, or a class that a module or file
            defines; or a list of these. Several share data, model and trained experts.
        protocol: a built-in name or the path of a TOML file; None: ``mini``.
        mode: the protocol's mode: ``clean``, or ``faithful`` to the paper's code; None: ``clean``.
        config: the ``config.toml`` of a record, to repeat its run; in place of protocol and mode.
        stream: another stream: a built-in name or the path of a TOML file.
        model: another base model.
        checkpoint: the model's weights; ``random`` for untrained ones.
        seed: of training, prompts and method; None: 0.
        seeds: several seeds in place of ``seed``, each with every order.
        order: the domains' names, an order that the stream names, ``reverse``, or ``random:N``.
        orders: several orders in place of ``order``; or how many: the stream's own, then random ones.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; None: ``auto``.
        experts: a folder with an expert per domain, or a TOML file with a table ``[experts]``, to merge in place of
            training any; docs/your-experts.md describes them.
        settings: any setting by its key: ``{"adapter.rank": 4, "method.ridge": 0.1}``, or nested.
        tuned: the file that ``tune`` wrote for the method, whose settings are used, or a folder with a file for each.
        results: the folder of records.
        fresh: measure again, and use nothing that earlier runs left.
        progress: True: a bar on a terminal or in a notebook, plain lines elsewhere; None: the same, but nothing
            outside of a terminal or notebook; False: nothing.
        on_step: called after each step of an adapter's training with a ``TrainingStep``. Experts that are read back
            have no steps. Scores stay the same.
        isolated: True: the method runs in processes of its own, which see one domain's training data, or images and
            prompts, and nothing else; False: in this process; None: isolated unless it is built in.

    Raises:
        MethodFailed: the method raised an error or broke its contract. Of several methods, all others are run
            first; the error's ``records`` holds theirs.
        CosamError: anything else that does not fit or is missing; ``on_step`` raised an error, which ends the run.
        KeyboardInterrupt: passed on; the record then says ``interrupted``.
    """
    is_single = method is None or isinstance(method, str | Path | type)
    for name, one, several in (("seed", seed, seeds), ("order", order, orders)):
        if one is not None and several is not None:
            raise CosamError(f"Give {name} or {name}s, not both.")
        if several is not None and not isinstance(several, int) and not len(several):
            raise CosamError(f"The list of {name}s is empty. Name at least one.")
    is_one = is_single and seeds is None and orders is None
    names = [] if method is None else _references(method)
    if not is_single and not names:
        raise CosamError("The list of methods is empty. Name at least one.")
    if on_step is not None and not callable(on_step):
        raise CosamError(f"on_step is of type {type(on_step).__name__}. Give a function of one TrainingStep.")
    options = RunOptions(
        protocol=_text(protocol),
        mode=mode,
        config=None if config is None else expanded(config),
        stream=_text(stream),
        model=model,
        checkpoint=_text(checkpoint),
        seed=seed,
        order=_order_text(order),
        device=device,
        experts=_text(experts),
        settings=setting_texts(settings or {}),
        tuned=None if tuned is None else expanded(tuned),
        isolated=isolated,
    )
    repeats = resolve_repeats(names, options, seeds=seeds or (), orders=() if orders is None else orders)
    from cosam_bench.experiments.method_faults import MethodFailed
    from cosam_bench.experiments.progress import make_reporter
    from cosam_bench.experiments.run_methods import run_methods

    folder, show = expanded(results), partial(make_reporter, progress, on_step)
    outcomes = [
        outcome
        for repeat in repeats
        for outcome in run_methods(repeat.configs, results=folder, fresh=fresh, isolated=isolated, make_reporter=show)
    ]
    records = [outcome.record for outcome in outcomes if outcome.record is not None]
    failures = [outcome.failure for outcome in outcomes if outcome.failure is not None]
    if failures and is_one:
        raise failures[0]
    if failures:
        raise MethodFailed(
            f"{len(failures)} of {len(outcomes)} methods failed: {' '.join(map(str, failures))}", records=records
        ) from failures[0]
    return records[0] if is_one else records


def sweep(
    grid: str | Path | None = None,
    *,
    methods: Sequence[MethodLike] = (),
    orders: int | Sequence[str] = 1,
    seeds: int | Sequence[int] = 1,
    models: Sequence[str] = (),
    protocol: str | Path = "mini",
    mode: str = "clean",
    settings: Sequence[Mapping[str, object]] = ({},),
    device: str = "auto",
    threads: int = 1,
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
        methods: each as for ``run``.
        orders: how many: the stream's own, ``random:1``, ``random:2`` and so on; or a list of orders as for ``run``,
            ``stream`` for the stream's own.
        seeds: how many: 0, 1, 2 and so on; or a list.
        models: base models; empty: the protocol's.
        protocol: as for ``run``.
        mode: as for ``run``.
        settings: a list of settings as for ``run``.
        device: as for ``run``.
        threads: of each process; experts and rows of frozen SAM are shared between equal numbers only.
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

    if grid is not None and methods:
        raise CosamError("A sweep takes its methods from the grid's file or from `methods`. Leave one of them out.")
    if grid is not None:
        found = read_grid(expanded(grid))
    else:
        given = {
            "methods": _references(methods),
            "orders": orders if isinstance(orders, int) else list(orders),
            "seeds": seeds if isinstance(seeds, int) else list(seeds),
            "models": list(models),
            "protocol": str(protocol),
            "mode": mode,
            "settings": [dict(table) for table in settings],
            "device": device,
            "threads": threads,
            "isolated": isolated,
        }
        found = validate(Grid, given, source="The sweep's arguments")
    choice = EngineChoice(engine, dict(engine_options or {}))
    return run_sweep(found, results=expanded(results), workers=workers, dry_run=dry_run, engine=choice, store=store)


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
    domains: Sequence[str] = (),
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
    from cosam_bench.experiments.method_faults import MethodFailed
    from cosam_bench.experiments.progress import make_reporter
    from cosam_bench.tuning.space import read_ranges
    from cosam_bench.tuning.tune import Budget, resolve_methods, tune_methods

    options = RunOptions(
        protocol=_text(protocol),
        mode=mode,
        stream=_text(stream),
        model=model,
        checkpoint=_text(checkpoint),
        seed=seed,
        order=_order_text(order),
        device=device,
        settings=setting_texts(settings or {}),
        isolated=isolated,
    )
    configs, fixed = resolve_methods(_references(methods), options)
    tuned = list(
        tune_methods(
            configs,
            Budget(trials, sampler, tuple(domains)),
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
        raise MethodFailed(f"Every trial of {failed[0].method!r} failed, the first with: {failed[0].failures[0]}")
    return tuned


def _references(methods: MethodLike | Sequence[MethodLike]) -> list[str]:
    if isinstance(methods, str | Path | type):
        return [method_reference(methods)]
    return [method_reference(method) for method in methods]


def _order_text(order: str | Sequence[str] | None) -> str | None:
    return order if order is None or isinstance(order, str) else ",".join(order)


def _text(value: str | Path | None) -> str | None:
    return None if value is None else str(value)


def method_reference(method: MethodLike) -> str:
    """What ``--method`` would be given for a method.

    Raises:
        CosamError: a class that no file of its own defines. The identity of a run covers the source of its method,
            and a notebook's cell or a running script cannot be read again to repeat it.
    """
    if not isinstance(method, type):
        return str(method)
    module, name = sys.modules.get(method.__module__), method.__qualname__
    file = getattr(module, "__file__", None)
    if module is None or file is None or module.__name__ == "__main__" or getattr(module, name, None) is not method:
        raise CosamError(
            f"The class {name!r} is defined in a notebook, a running script or a function, so the run could not be "
            "repeated from its source. Put it into a file of its own, and give that file's path as the method."
        )
    if module.__name__.startswith(FILE_MODULE):
        return f"{file}:{name}"
    reference = f"{module.__name__}:{name}"
    return next((point.name for point in entry_points(group=GROUP) if point.value == reference), reference)


def leaderboard(
    results: str | Path = "results",
    *,
    metric: str = "iou",
    protocol: str | None = None,
    domains: Sequence[str] | None = None,
    intervals: bool = True,
    level: float = 0.95,
    sort_by: str = "last",
    scales: bool = False,
) -> DataFrame:
    """All complete runs as one table: one row per method and settings under the same conditions, best first.

    Only rows with equal ``conditions`` compare. A record that cannot be read is left out with a warning.

    Args:
        results: the folder of records.
        metric: ``iou``, ``boundary_iou``, ``dice``, ``mae`` or ``pixel_error``.
        protocol: only records of this protocol; None: of all.
        domains: only these are part of the figures' means; None: all.
        intervals: fill the columns of intervals and ranks, for which the scores of all images are read.
        level: the intervals' nominal coverage, in (0, 1).
        sort_by: a column; the best first, other columns ascending. ``-`` before it reverses the order.
        scales: instead what each merge of a run with ``scales`` scores at other lengths; docs/methods.md explains it.
            Domains, intervals, level and ``sort_by`` do not apply.

    Returns:
        The columns of the leaderboard's CSV, which docs/metrics.md explains; ``attrs["notes"]`` lists what a reader
        must be told.

    Raises:
        CosamError: there is no record, or no metric, protocol, column or domain has this name.
    """
    from cosam_bench.evaluation.figures import FIGURES
    from cosam_bench.results.results_folder import read_leaderboard, read_scale_table
    from cosam_bench.results.selection import Selection

    selection = None if protocol is None else Selection(protocols=(protocol,))
    if scales:
        frame = read_scale_table(expanded(results), metric=metric, selection=selection)
    else:
        frame = read_leaderboard(
            expanded(results),
            metric=metric,
            selection=selection,
            domains=domains,
            intervals=tuple(FIGURES) if intervals else (),
            level=level,
            sort_by=sort_by,
        )
    for problem in frame.attrs["unreadable"]:
        warnings.warn(f"Left out: {problem}", stacklevel=2)
    return frame


def export(
    record: Record | str | Path,
    folder: str | Path,
    *,
    format: str = "peft",
    rank: int | None = None,
    results: str | Path = "results",
) -> Exported:
    """Write the served model of a merging method's run to a new folder, in the format of another program.

    Args:
        record: a record, its folder, or its name in ``results``.
        folder: does not exist, or is empty.
        format: ``peft``, ``transformers``, ``merged``, ``onnx`` or ``safetensors``; docs/export.md describes them.
        rank: for ``peft``: at most this many factors per layer.
        results: the folder of records.

    Returns:
        The folder, its files and what to know about them, such as ranks and discarded energy.

    Raises:
        CosamError: the record has no served update, or the format cannot hold it; the folder has contents.
    """
    from cosam_bench.results.export.formats import export_record
    from cosam_bench.results.records import Record
    from cosam_bench.results.results_folder import load_record

    found = record if isinstance(record, Record) else load_record(record, results=expanded(results))
    return export_record(found, expanded(folder), format_name=format, rank=rank)


def merge(
    experts: Sequence[str | Path],
    *,
    method: MethodLike,
    out: str | Path,
    model: str = "vit_b",
    settings: Mapping[str, object] | None = None,
    seed: int = 0,
    format: str = "safetensors",
    rank: int | None = None,
    isolated: bool | None = None,
) -> Exported:
    """Merge experts by a method that needs no data, and write what it serves to a new folder; docs/your-experts.md.

    Args:
        experts: two or more, in the order in which they are merged: folders that peft saved, or files or folders with
            an ``update.safetensors``.
        method: as for ``run``.
        out: does not exist, or is empty.
        model: the base model that they change; its weights are not needed.
        settings: the method's, by their keys: ``{"method.density": 0.5}``, or nested.
        seed: of methods that draw at random.
        format: ``safetensors`` writes ``update.safetensors``, which ``load_predictor`` takes; ``peft`` an adapter
            folder as well.
        rank: for ``peft``: at most this many factors per layer.
        isolated: as for ``run``.

    Returns:
        The folder, its files and what to know about them.

    Raises:
        MethodFailed: the method raised an error or broke its contract.
        CosamError: the method needs data or training; an expert cannot be read or does not fit the model; the folder
            has contents.
    """
    from cosam_bench.experiments.merging import merge_experts

    return merge_experts(
        [expanded(path) for path in ([experts] if isinstance(experts, str | Path) else experts)],
        method=method_reference(method),
        folder=expanded(out),
        format_name=format,
        rank=rank,
        model=model,
        seed=seed,
        settings=setting_texts(settings or {}),
        isolated=isolated,
    )


def compare(
    first: Record | str | Path,
    second: Record | str | Path,
    *,
    results: str | Path = "results",
    figure: str = "last",
    metric: str = "iou",
    protocol: str | None = None,
    level: float = 0.95,
) -> Comparison:
    """The difference of a figure between two methods or records, paired by seed, order and image.

    Args:
        first: a method's name, or a record: itself, or as ``load_record`` takes it.
        second: likewise; the difference is first minus second.
        results: the folder of records.
        figure: ``last``, ``ff``, or another column of the leaderboard except ``ff_max`` and ``ff_max_all``.
        metric: ``iou``, ``boundary_iou``, ``dice``, ``mae`` or ``pixel_error``.
        protocol: only records of this protocol; None: of all.
        level: the intervals' nominal coverage, in (0, 1).

    Raises:
        CosamError: a name is unknown, the two were not measured under the same conditions, or they have no seed, order
            or image in common.
    """
    from cosam_bench.results.comparing import compare as compared
    from cosam_bench.results.records import Record

    one, other = (asked if isinstance(asked, Record) else str(asked) for asked in (first, second))
    return compared(one, other, results=expanded(results), figure=figure, metric=metric, protocol=protocol, level=level)


def report(
    results: str | Path = "results",
    *,
    out: str | Path | None = None,
    protocol: str | None = None,
    metric: str = "iou",
    images: bool = True,
) -> WrittenReport:
    """Write the recorded runs as one HTML page that needs no network; docs/report.md describes it.

    Args:
        results: the folder of records.
        out: the file; None: ``report.html`` in ``results``.
        protocol: only records of this protocol; None: of all.
        metric: ``iou``, ``boundary_iou``, ``dice``, ``mae`` or ``pixel_error``.
        images: False: leave out the thumbnails of test images, whose licences may forbid it.

    Returns:
        The file's ``path`` and ``size_bytes``, the numbers of ranked ``methods`` and ``incomplete`` runs, and
        ``unreadable``, one message per record that was left out.

    Raises:
        CosamError: there are no records, no metric or protocol has this name, or the file cannot be written.
    """
    from cosam_bench.results.report.page import write_report

    file = None if out is None else expanded(out)
    return write_report(expanded(results), file, protocol=protocol, metric=metric, has_images=images)


def predict(
    record: Record | str | Path,
    image: ImageLike,
    *,
    box: Box | Sequence[float] | None = None,
    points: Sequence[Point] | None = None,
    labels: Sequence[int] | None = None,
    mask: NDArray[Any] | None = None,
    domain: str | None = None,
    model: str | None = None,
    checkpoint: str | Path | None = None,
    device: str = "auto",
) -> NDArray[np.bool_]:
    """The mask ``(H, W)`` of the object that a prompt marks in an image, by a run's final model.

    For several images, ``load_predictor`` loads the model once. Its docstring and that of ``Predictor.predict``
    describe the arguments and errors.
    """
    from cosam_bench.experiments.predictor import load_predictor

    predictor = load_predictor(record, model=model, checkpoint=checkpoint, device=device)
    return predictor.predict(image, box=box, points=points, labels=labels, mask=mask, domain=domain)
