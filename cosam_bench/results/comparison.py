"""Two methods compared on the seeds, orders and images that both have: the difference, by domain and by image."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from cosam_bench.core.errors import CosamError
from cosam_bench.evaluation.contributions import (
    Contributions,
    Place,
    RunScores,
    contributions,
    domains_with_part,
    paired,
)
from cosam_bench.evaluation.figures import Figure
from cosam_bench.evaluation.intervals import Interval, interval
from cosam_bench.evaluation.ranks import holm

if TYPE_CHECKING:
    from pandas import DataFrame

Pair = tuple[RunScores, RunScores]
"""Two runs with the same seed and order: of the first method and of the second."""


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
        domains: the part of each domain that has one, in the order of the stream.
        images: each image's part, the largest first.
        notes: what was left out, for the reader.
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
    notes: tuple[str, ...] = ()

    def domains_frame(self) -> DataFrame:
        """The domains as a table: first, second, part, low, high, p, adjusted_p and images by domain."""
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
        """The images as a table: domain, image, first, second and part, the largest part first."""
        import pandas

        return pandas.DataFrame([asdict(one) for one in self.images])


def compared(
    names: tuple[str, str],
    pairs: Sequence[Pair],
    figure: Figure,
    *,
    protocol: str,
    experts: Mapping[Place, RunScores],
    level: float,
    notes: Sequence[str] = (),
) -> Comparison:
    """The comparison of the two sides of some pairs of runs.

    Args:
        names: of the two.
        pairs: at least one; all under the same conditions.
        figure: a linear one.
        protocol: the name, version and conditions of all runs.
        experts: the scores of ``experts`` by seed and order, for a figure that needs them.
        level: the intervals' nominal coverage, in (0, 1).
        notes: for the reader.

    Raises:
        CosamError: the runs have no image of a domain in common, or the figure is undefined for them.
    """
    pairs, experts = _on_common_images(pairs, experts)
    mine, theirs = (
        [
            contributions(pair[side], figure, experts=experts.get((pair[side].seed, pair[side].domains)))
            for pair in pairs
        ]
        for side in (0, 1)
    )
    differences = paired(mine, theirs)
    whole = interval(differences, level=level)
    if math.isnan(whole.estimate):
        need = "; it needs a run of experts under the same conditions, seed and order" if figure.needs_experts else ""
        raise CosamError(f"{figure.title} is undefined for these runs{need}. Compare another figure.")
    having = set().union(*(domains_with_part(scores, figure) for scores, _ in pairs))
    domains = [name for name in differences[0].values if name in having]
    return Comparison(
        first=names[0],
        second=names[1],
        figure=figure.name,
        metric=pairs[0][0].metric,
        protocol=protocol,
        seeds=tuple(sorted({one.seed for one, _ in pairs})),
        orders=len({one.domains for one, _ in pairs}),
        first_value=math.fsum(run.figure for run in mine) / len(mine),
        second_value=math.fsum(run.figure for run in theirs) / len(theirs),
        difference=whole,
        is_higher_better=figure.prefers_high(pairs[0][0].metric),
        domains=_domains(pairs, differences, domains, level=level),
        images=_images(pairs, differences, domains),
        notes=tuple(notes),
    )


def _on_common_images(
    pairs: Sequence[Pair], experts: Mapping[Place, RunScores]
) -> tuple[list[Pair], dict[Place, RunScores]]:
    """The same scores without images that not all of the runs have, in one order of the images."""
    first = pairs[0][0]
    places = [(scores.seed, scores.domains) for scores, _ in pairs]
    experts = {place: experts[place] for place in places if place in experts}
    runs = [*(scores for pair in pairs for scores in pair), *experts.values()]
    common: dict[str, tuple[str, ...]] = {}
    for name, keys in first.keys.items():
        shared = set(keys).intersection(*(run.keys[name] for run in runs))
        common[name] = tuple(key for key in keys if key in shared)
        if not shared:
            raise CosamError(
                f"The runs have no test image of domain {name!r} in common. Compare runs on the same data."
            )

    def restricted(run: RunScores) -> RunScores:
        values = {}
        for name, keys in common.items():
            places = {key: place for place, key in enumerate(run.keys[name])}
            values[name] = run.values[name][:, [places[key] for key in keys]]
        return replace(run, keys=common, values=values)

    kept = [(restricted(one), restricted(other)) for one, other in pairs]
    return kept, {place: restricted(run) for place, run in experts.items()}


def _domains(
    pairs: Sequence[Pair], differences: Sequence[Contributions], names: Sequence[str], *, level: float
) -> tuple[DomainDifference, ...]:
    parts = [interval([run.of_domains([name]) for run in differences], level=level) for name in names]
    found = []
    for name, part, p in zip(names, parts, holm([part.p for part in parts]), strict=True):
        first, second = (float(np.mean([pair[side].values[name][-1] for pair in pairs])) for side in (0, 1))
        found.append(DomainDifference(name, len(differences[0].keys[name]), first, second, part, p))
    return tuple(found)


def _images(
    pairs: Sequence[Pair], differences: Sequence[Contributions], names: Sequence[str]
) -> tuple[ImageDifference, ...]:
    found = []
    for name in names:
        keys = differences[0].keys[name]
        parts = np.mean([run.values[name] for run in differences], axis=0) / len(keys)
        first, second = (np.mean([pair[side].values[name][-1] for pair in pairs], axis=0) for side in (0, 1))
        for key, *numbers in zip(keys, first.tolist(), second.tolist(), parts.tolist(), strict=True):
            found.append(ImageDifference(name, key, *numbers))
    return tuple(sorted(found, key=lambda image: (-abs(image.part), image.domain, image.image)))
