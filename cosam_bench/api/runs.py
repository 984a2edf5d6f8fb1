"""``run``: one method or several on a stream of domains."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack, overload

from cosam_bench.api.arguments import (
    METHODS,
    ORDERS,
    SCALES,
    SEEDS,
    SETTINGS,
    MethodLike,
    joined,
    order_list,
    references,
    seed_list,
    text,
)
from cosam_bench.core.argument_checks import checked_arguments
from cosam_bench.core.errors import CosamError
from cosam_bench.core.files import expanded
from cosam_bench.experiments.options import RunOptions, refuse_both_ways, setting_texts
from cosam_bench.experiments.repeats import resolve_repeats

if TYPE_CHECKING:
    from cosam_bench.results.records import Record
    from cosam_bench.training.fit import TrainingStep


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
    limit: int | None
    scales: bool
    also_prompts: str | Sequence[str] | None
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
    seeds: int | Sequence[int],
    orders: int | Sequence[str | Sequence[str]] | None = None,
    **options: Unpack[_Options],
) -> list[Record]: ...


@overload
def run(
    method: MethodLike | Sequence[MethodLike] | None = None,
    *,
    orders: int | Sequence[str | Sequence[str]],
    **options: Unpack[_Options],
) -> list[Record]: ...


@checked_arguments(method=METHODS, seeds=SEEDS, orders=ORDERS, settings=SETTINGS, scales=SCALES)
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
    seeds: int | Sequence[int] | None = None,
    order: str | Sequence[str] | None = None,
    orders: int | Sequence[str | Sequence[str]] | None = None,
    device: str | None = None,
    experts: str | Path | None = None,
    settings: Mapping[str, object] | None = None,
    tuned: str | Path | None = None,
    limit: int | None = None,
    scales: bool = False,
    also_prompts: str | Sequence[str] | None = (),
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
        protocol: a built-in name or the path of a TOML file; None: ``mini``, or ``own`` if ``stream`` is given.
        mode: the protocol's mode: ``clean``, or ``faithful`` to the paper's code; None: ``clean``.
        config: the ``config.toml`` of a record, to repeat its run; in place of protocol and mode.
        stream: another stream than the protocol's: a built-in name or the path of a TOML file.
        model: another base model.
        checkpoint: the model's weights; ``random`` for untrained ones.
        seed: of training, prompts and method; None: 0.
        seeds: a list in place of ``seed``, or how many: 0, 1, 2 and so on; each with every order.
        order: the domains' names, an order that the stream names, ``stream`` for its own, ``reverse``, or ``random:N``.
        orders: a list in place of ``order``; or how many: the stream's own, then random ones.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; None: ``auto``.
        experts: a folder with an expert per domain, or a TOML file with a table ``[experts]``, to merge in place of
            training any; docs/your-experts.md describes them.
        settings: any setting by its key: ``{"adapter.rank": 4, "method.ridge": 0.1}``, or nested.
        tuned: the file that ``tune`` wrote for the method, whose settings are used, or a folder with a file for each.
        limit: at most so many training and test images of each domain, for a first try; tables mark such records.
        scales: hold out a tenth of the training data, and score each merge at nine lengths, for
            ``leaderboard(scales=True)``.
        also_prompts: prompts under which frozen SAM and the final model are scored as well, such as ``image`` or
            ``["image", "grid"]``.
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
    is_one = is_single and seeds is None and orders is None
    names = [] if method is None else references(method)
    if not is_single and not names:
        raise CosamError("The list of methods is empty. Name at least one.")
    if on_step is not None and not callable(on_step):
        raise CosamError(f"on_step is of type {type(on_step).__name__}. Give a function of one TrainingStep.")
    options = RunOptions(
        protocol=text(protocol),
        mode=mode,
        config=None if config is None else expanded(config),
        stream=text(stream),
        model=model,
        checkpoint=text(checkpoint),
        seed=seed,
        order=joined(order),
        device=device,
        experts=text(experts),
        settings=setting_texts(settings or {}),
        scales=scales,
        also_prompts=joined(also_prompts) or None,
        limit=limit,
        tuned=None if tuned is None else expanded(tuned),
        isolated=isolated,
        results=expanded(results),
    )
    refuse_both_ways(options, from_python=True, seeds=seeds, orders=orders)
    repeats = resolve_repeats(
        names,
        options,
        seeds=() if seeds is None else seed_list(seeds),
        orders=() if orders is None else order_list(orders),
    )
    from cosam_bench.core.arithmetic import restored_rounding
    from cosam_bench.experiments.method_faults import MethodFailed
    from cosam_bench.experiments.progress import make_reporter
    from cosam_bench.experiments.run_methods import Outcome, run_methods

    folder, show = expanded(results), partial(make_reporter, progress, on_step)
    outcomes: list[Outcome] = []
    with restored_rounding():
        for repeat in repeats:
            outcomes += run_methods(repeat.configs, results=folder, fresh=fresh, isolated=isolated, make_reporter=show)
    records = [outcome.record for outcome in outcomes if outcome.record is not None]
    failures = [outcome.failure for outcome in outcomes if outcome.failure is not None]
    if failures and is_one:
        raise failures[0]
    if failures:
        raise MethodFailed(
            f"{len(failures)} of {len(outcomes)} runs failed: {' '.join(map(str, failures))}", records=records
        ) from failures[0]
    return records[0] if is_one else records
