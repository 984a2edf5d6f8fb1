"""What a model finds in test images that have no foreground.

The IoU of two empty masks is 0/0, so these images take part in no score of the matrix: they have figures of their own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cosam_bench.core.sums import plain_sum


@dataclass(frozen=True, slots=True)
class NegativeScore:
    """What was found in one image without foreground: one row of ``negatives.csv``.

    Attributes:
        step: domains learned so far; 0 is frozen SAM.
        domain: the image's.
        key: of the image.
        area: the share of its pixels that were predicted as foreground, in [0, 1]; ignored pixels do not count.
    """

    step: int
    domain: str
    key: str
    area: float


@dataclass(frozen=True)
class FalsePositives:
    """What a model finds in the images without foreground of one domain.

    Attributes:
        area: the mean share of pixels that were predicted as foreground, in [0, 1].
        rate: the share of images in which any pixel was.
        count: the number of images.
    """

    area: float
    rate: float
    count: int


def false_positives(scores: Iterable[NegativeScore], *, step: int) -> dict[str, FalsePositives]:
    """By the domain's name, what the model after ``step`` domains finds; domains without such images are left out.

    >>> rows = [NegativeScore(1, "pill", key, area) for key, area in (("a", 0.5), ("b", 0.0))]
    >>> false_positives(rows, step=1)
    {'pill': FalsePositives(area=0.25, rate=0.5, count=2)}
    """
    areas: dict[str, list[float]] = {}
    for row in scores:
        if row.step == step:
            areas.setdefault(row.domain, []).append(row.area)
    return {
        name: FalsePositives(plain_sum(found) / len(found), sum(area > 0 for area in found) / len(found), len(found))
        for name, found in areas.items()
    }
