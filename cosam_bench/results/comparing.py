"""Which runs a comparison is about: those of two methods, or two records, under the same conditions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from cosam_bench.core.errors import CosamError, unknown_name
from cosam_bench.evaluation.contributions import Place, RunScores
from cosam_bench.evaluation.figures import FIGURES, Figure
from cosam_bench.evaluation.metrics import find_metric
from cosam_bench.results.comparison import Comparison, Pair, compared
from cosam_bench.results.conditions import Measured, differing_conditions, measured_runs, mixed_budgets
from cosam_bench.results.records import Record
from cosam_bench.results.results_folder import find_records, load_record
from cosam_bench.results.row_intervals import RANKED_BY, check_level, latest_runs, place_of
from cosam_bench.results.score_cache import cached_image_scores


def compare(
    first: Record | str | Path,
    second: Record | str | Path,
    *,
    results: Path = Path("results"),
    figure: str = RANKED_BY,
    metric: str = "iou",
    protocol: str | None = None,
    level: float = 0.95,
) -> Comparison:
    """The difference between two methods or records, paired by seed, order and image.

    Args:
        first: a method's name, or a record: itself, or as ``load_record`` takes it.
        second: likewise.
        results: the folder of records.
        figure: the name of a linear figure.
        metric: of the scores.
        protocol: only records of this protocol; None: of all.
        level: the intervals' nominal coverage, in (0, 1).

    Raises:
        CosamError: a name is unknown, the two were not measured under the same conditions, or they have no seed, order
            or image in common; or a method was run with several settings.
    """
    asked = _figure(figure)
    find_metric(metric)
    check_level(level)
    records, unreadable = find_records(results) if protocol is not None or results.is_dir() else ([], [])
    known = {record.protocol for record in records}
    if protocol is not None and protocol not in known:
        raise unknown_name("protocol in these records", protocol, known)
    records = [record for record in records if protocol in (None, record.protocol)]
    names = _name(first), _name(second)
    one, notes = _runs(first, records, results=results, metric=metric)
    other, more = _runs(second, records, results=results, metric=metric)
    one, other = _same_conditions((names[0], one), (names[1], other))
    mine, theirs = (_scores(runs, metric) for runs in (one, other))
    return compared(
        names,
        _pairs(mine, theirs),
        asked,
        protocol=_conditions(one[0]),
        experts=_experts(records, one[0], metric) if asked.needs_experts else {},
        level=level,
        notes=list(
            dict.fromkeys(
                [*notes, *more, *mixed_budgets([one[0], other[0]]), *(f"Left out: {problem}" for problem in unreadable)]
            )
        ),
    )


def _name(asked: Record | str | Path) -> str:
    return asked.name if isinstance(asked, Record) else str(asked)


def _figure(name: str) -> Figure:
    if name not in FIGURES:
        raise unknown_name("figure", name, [one.name for one in FIGURES.values() if one.is_linear])
    if not FIGURES[name].is_linear:
        raise CosamError(f"{name} is not linear in the scores, so images have no share in it. Compare ff instead.")
    return FIGURES[name]


def _runs(
    asked: Record | str | Path, records: Sequence[Record], *, results: Path, metric: str
) -> tuple[list[Measured], list[str]]:
    """The complete runs of a method, or of one record, and notes about the others."""
    if isinstance(asked, Record):
        found = [asked]
    else:
        found = [record for record in records if record.method == str(asked)] or [load_record(asked, results=results)]
    runs, notes = measured_runs(found, metric=metric)
    if not runs:
        raise CosamError(f"{_name(asked)!r} has no complete run. {' '.join(notes)} Run it to its end first.")
    return runs, notes


def _same_conditions(
    first: tuple[str, Sequence[Measured]], second: tuple[str, Sequence[Measured]]
) -> tuple[list[Measured], list[Measured]]:
    """The runs under the one set of conditions that both have, each with one choice of settings."""
    (one, mine), (other, theirs) = first, second
    common = sorted({run.conditions for run in mine} & {run.conditions for run in theirs})
    if not common:
        fields = differing_conditions(mine[0].info, theirs[0].info) or ["the protocol"]
        raise CosamError(
            f"{one!r} and {other!r} were not measured under the same conditions: they differ in {', '.join(fields)}. "
            "Run one of them again under the other's."
        )
    if len(common) > 1:
        tables = ", ".join(_conditions(next(run for run in mine if run.conditions == name)) for name in common)
        raise CosamError(
            f"{one!r} and {other!r} were both measured under several conditions: {tables}. Name two records, or choose "
            "by --protocol."
        )
    kept = [[run for run in runs if run.conditions == common[0]] for _, runs in (first, second)]
    for name, runs in zip((one, other), kept, strict=True):
        _check_settings(name, runs)
    return latest_runs(kept[0]), latest_runs(kept[1])


def _check_settings(name: str, runs: Sequence[Measured]) -> None:
    by_settings = {(run.variant.settings, run.info.tuned): run.record.name for run in runs}
    if len(by_settings) > 1:
        listed = "; ".join(
            f"{record} {settings}{f' (tuned: {tuned})' if tuned else ''}"
            for (settings, tuned), record in by_settings.items()
        )
        raise CosamError(f"{name!r} was run with several settings. Name one record of: {listed}.")
    by_code = {run.variant.code: run.record.name for run in runs}
    if len(by_code) > 1:
        raise CosamError(
            f"The code of {name!r} changed between its runs. Name one record of: {', '.join(by_code.values())}."
        )


def _conditions(run: Measured) -> str:
    return f"{run.experiment}, conditions {run.conditions}"


def _experts(records: Sequence[Record], like: Measured, metric: str) -> dict[Place, RunScores]:
    runs, _ = measured_runs([record for record in records if record.method == "experts"], metric=metric)
    return _scores(latest_runs([run for run in runs if run.conditions == like.conditions]), metric)


def _scores(runs: Sequence[Measured], metric: str) -> dict[Place, RunScores]:
    return {place_of(run): cached_image_scores(run.record, metric=metric) for run in runs}


def _pairs(first: Mapping[Place, RunScores], second: Mapping[Place, RunScores]) -> list[Pair]:
    """The pairs of runs with the same seed and order.

    Raises:
        CosamError: there is none.
    """
    pairs = [(scores, second[place]) for place, scores in first.items() if place in second]
    if not pairs:
        seeds = [", ".join(sorted({str(seed) for seed, _ in runs})) for runs in (first, second)]
        raise CosamError(
            "The two have no run with the same seed and order of domains: the first has the seeds "
            f"{seeds[0]}, the second {seeds[1]}. Run both under one seed and order."
        )
    return pairs
