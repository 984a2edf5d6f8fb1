"""Two methods, or two records, compared on the seeds, orders and images that both have."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cosam_bench.core.errors import CosamError, unknown_name
from cosam_bench.evaluation.contributions import Contributions, Floats, Place, RunScores, contributions, paired
from cosam_bench.evaluation.figures import FIGURES, Figure
from cosam_bench.evaluation.intervals import Interval, interval
from cosam_bench.evaluation.metrics import find_metric
from cosam_bench.evaluation.ranks import holm
from cosam_bench.results.conditions import Measured, differing_conditions, measured_runs
from cosam_bench.results.records import Record
from cosam_bench.results.results_folder import find_records, load_record
from cosam_bench.results.row_intervals import latest_runs
from cosam_bench.results.score_cache import cached_image_scores

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class DomainDifference:
    """A domain's part in the difference of a figure; the parts of all domains add up to it.

    Attributes:
        domain: its name.
        images: how many test images both have.
        first: the score of the first one's final model, the mean over the common runs and images.
        second: that of the second one's.
        part: of the difference of the figure, with its interval.
        adjusted_p: ``part.p`` after Holm's correction for the number of domains.
    """

    domain: str
    images: int
    first: float
    second: float
    part: Interval
    adjusted_p: float


@dataclass(frozen=True)
class ImageDifference:
    """An image's part in the difference of a figure; the parts of all images add up to it.

    Attributes:
        domain: of the image.
        image: its name.
        first: the score of the first one's final model, the mean over the common runs.
        second: that of the second one's.
        part: of the difference of the figure.
    """

    domain: str
    image: str
    first: float
    second: float
    part: float


@dataclass(frozen=True)
class Comparison:
    """The difference of a figure between two methods.

    Attributes:
        first: what was compared, as it was asked for.
        second: likewise.
        figure: the figure's name.
        metric: of the scores.
        protocol: the name, version and conditions of both.
        seeds: those that both have.
        orders: how many orders of the domains both have.
        first_value: the first one's figure over the common runs and images.
        second_value: the second one's.
        difference: first minus second, with its interval and p value.
        is_higher_better: whether a positive difference means that the first is better.
        domains: each domain's part, in the order of the stream.
        images: each image's part, the largest first.
    """

    first: str
    second: str
    figure: str
    metric: str
    protocol: str
    seeds: tuple[int, ...]
    orders: int
    first_value: float
    second_value: float
    difference: Interval
    is_higher_better: bool
    domains: tuple[DomainDifference, ...]
    images: tuple[ImageDifference, ...]

    def domains_frame(self) -> DataFrame:
        """The domains as a table: first, second, part, low, high, p, adjusted_p, images."""
        import pandas

        rows = [
            {
                "domain": one.domain,
                "first": one.first,
                "second": one.second,
                "part": one.part.estimate,
                "low": one.part.low,
                "high": one.part.high,
                "p": one.part.p,
                "adjusted_p": one.adjusted_p,
                "images": one.images,
            }
            for one in self.domains
        ]
        return pandas.DataFrame(rows).set_index("domain")

    def images_frame(self) -> DataFrame:
        """The images as a table: domain, image, first, second, part."""
        import pandas

        rows = [(one.domain, one.image, one.first, one.second, one.part) for one in self.images]
        return pandas.DataFrame(rows, columns=["domain", "image", "first", "second", "part"])


def compare(
    first: str,
    second: str,
    *,
    results: Path = Path("results"),
    figure: str = "last",
    metric: str = "iou",
    protocol: str | None = None,
    level: float = 0.95,
) -> Comparison:
    """The difference between two methods or records, paired by seed, order and image.

    Args:
        first: a method's name or, as ``load_record`` takes it, a record.
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
    if not 0 < level < 1:
        raise CosamError(f"The level of intervals is {level:g}. Choose one between 0 and 1, such as 0.95.")
    records, _ = find_records(results)
    records = [record for record in records if protocol in (None, record.protocol)]
    one, other = (_runs(name, records, results=results, metric=metric) for name in (first, second))
    one, other = _same_conditions((first, one), (second, other))
    experts = _experts(records, one[0], metric) if asked.needs_experts else {}
    mine, theirs = (_scores(runs, metric) for runs in (one, other))
    return _compared(
        (first, second), _protocol(one[0]), _common_runs(mine, theirs), asked, experts, metric=metric, level=level
    )


def _figure(name: str) -> Figure:
    if name not in FIGURES:
        raise unknown_name("figure", name, FIGURES)
    if not FIGURES[name].is_linear:
        raise CosamError(f"{name} is not linear in the scores, so images have no share in it. Compare ff instead.")
    return FIGURES[name]


def _runs(asked: str, records: Sequence[Record], *, results: Path, metric: str) -> list[Measured]:
    """The complete runs of a method, or of one record."""
    of_method = [record for record in records if record.method == asked]
    found = of_method or [load_record(asked, results=results)]
    runs, notes = measured_runs(found, metric=metric)
    if not runs:
        raise CosamError(f"{asked!r} has no complete run. {' '.join(notes)} Run it to its end first.")
    return runs


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
        tables = ", ".join(_protocol(next(run for run in mine if run.conditions == name)) for name in common)
        raise CosamError(
            f"{one!r} and {other!r} were both measured under several conditions: {tables}. Name two records, or choose "
            "by --protocol."
        )
    kept = [[run for run in runs if run.conditions == common[0]] for _, runs in (first, second)]
    for name, runs in zip((one, other), kept, strict=True):
        _check_settings(name, runs)
    return latest_runs(kept[0]), latest_runs(kept[1])


def _check_settings(name: str, runs: Sequence[Measured]) -> None:
    by_settings = {json.dumps(run.info.settings, sort_keys=True): run.record.name for run in runs}
    if len(by_settings) > 1:
        listed = "; ".join(f"{record} {settings}" for settings, record in by_settings.items())
        raise CosamError(f"{name!r} was run with several settings. Name one record of: {listed}.")


def _protocol(run: Measured) -> str:
    return f"{run.info.protocol} (version {run.info.protocol_version}), conditions {run.conditions}"


def _experts(records: Sequence[Record], like: Measured, metric: str) -> dict[Place, RunScores]:
    runs, _ = measured_runs([record for record in records if record.method == "experts"], metric=metric)
    return _scores(latest_runs([run for run in runs if run.conditions == like.conditions]), metric)


def _scores(runs: Sequence[Measured], metric: str) -> dict[Place, RunScores]:
    return {(run.info.seed, run.info.order): cached_image_scores(run.record, metric=metric) for run in runs}


def _common_runs(
    first: Mapping[Place, RunScores], second: Mapping[Place, RunScores]
) -> list[tuple[RunScores, RunScores]]:
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


def _compared(
    names: tuple[str, str],
    protocol: str,
    pairs: Sequence[tuple[RunScores, RunScores]],
    figure: Figure,
    experts: Mapping[Place, RunScores],
    *,
    metric: str,
    level: float,
) -> Comparison:
    mine, theirs = (
        [contributions(pair[side], figure, experts=experts.get((pair[0].seed, pair[0].domains))) for pair in pairs]
        for side in (0, 1)
    )
    differences = paired(mine, theirs)
    whole = interval(differences, level=level)
    if math.isnan(whole.estimate):
        need = " It needs the record of experts." if figure.needs_experts else ""
        raise CosamError(f"{figure.title} is undefined for these runs.{need} Compare another figure.")
    return Comparison(
        first=names[0],
        second=names[1],
        figure=figure.name,
        metric=metric,
        protocol=protocol,
        seeds=tuple(sorted({one.seed for one, _ in pairs})),
        orders=len({one.domains for one, _ in pairs}),
        first_value=_value(mine, differences),
        second_value=_value(theirs, differences),
        difference=whole,
        is_higher_better=figure.prefers_high(metric),
        domains=_domains(pairs, differences, level=level),
        images=_images(pairs, differences),
    )


def _value(runs: Sequence[Contributions], differences: Sequence[Contributions]) -> float:
    """The mean figure of some runs over the images that both have."""
    names = differences[0].values
    return math.fsum(float(_rows(runs, name, _common_keys(differences, name)).mean()) for name in names)


def _domains(
    pairs: Sequence[tuple[RunScores, RunScores]], differences: Sequence[Contributions], *, level: float
) -> tuple[DomainDifference, ...]:
    names = list(differences[0].values)
    parts = [interval([run.of_domains([name]) for run in differences], level=level) for name in names]
    adjusted = holm([part.p for part in parts])
    found = []
    for name, part, p in zip(names, parts, adjusted, strict=True):
        keys = _common_keys(differences, name)
        first, second = (float(np.mean([_final(pair[side], name, keys) for pair in pairs])) for side in (0, 1))
        found.append(DomainDifference(name, len(keys), first, second, part, p))
    return tuple(found)


def _common_keys(runs: Sequence[Contributions], domain: str) -> list[str]:
    return [key for key in runs[0].keys[domain] if all(key in run.keys[domain] for run in runs)]


def _rows(runs: Sequence[Contributions], domain: str, keys: Sequence[str]) -> Floats:
    """``(runs, images)``: the contributions of these images."""
    rows = []
    for run in runs:
        place = {key: index for index, key in enumerate(run.keys[domain])}
        rows.append(run.values[domain][[place[key] for key in keys]])
    return np.stack(rows)


def _images(
    pairs: Sequence[tuple[RunScores, RunScores]], differences: Sequence[Contributions]
) -> tuple[ImageDifference, ...]:
    found = []
    for name in differences[0].values:
        keys = _common_keys(differences, name)
        parts = _rows(differences, name, keys).mean(axis=0) / len(keys)
        finals = [np.mean([_final(pair[side], name, keys) for pair in pairs], axis=0) for side in (0, 1)]
        found += [
            ImageDifference(name, key, float(finals[0][place]), float(finals[1][place]), float(parts[place]))
            for place, key in enumerate(keys)
        ]
    return tuple(sorted(found, key=lambda image: (-abs(image.part), image.domain, image.image)))


def _final(run: RunScores, domain: str, keys: Sequence[str]) -> Floats:
    place = {key: index for index, key in enumerate(run.keys[domain])}
    final: Floats = run.values[domain][-1][[place[key] for key in keys]]
    return final
