"""Scores of one merged update at several lengths, and the choice among them."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Part = Literal["held_out", "test"]
Basis = Literal["current", "seen"]
"""Whose held-out images choose a scale: the current domain's, all that a continual method may use, or those of every
domain seen so far, which only the harness has."""

BASES: tuple[Basis, ...] = ("current", "seen")
HELD_OUT = "a tenth held out"
"""The mark of runs that trained on the rest, to choose by it."""

CHOSEN_BY = "iou"
"""The metric that chooses, whichever is shown."""


@dataclass(frozen=True, slots=True)
class ScaleScore:
    """The mean score of one domain's images by the served update times a scale: one row of ``scales.csv``.

    Attributes:
        step: domains learned so far, from 1.
        scale: factor of the served update; 1 is what the rule serves.
        part: training images that were held out, or test images.
        domain: whose images.
        metric: a name in ``METRICS``.
        value: the mean over the images.
        count: the number of images.
    """

    step: int
    scale: float
    part: Part
    domain: str
    metric: str
    value: float
    count: int


def chosen_by(seen: Sequence[str], basis: Basis, *, all_at_once: bool = False) -> Sequence[str]:
    """The domains whose held-out images choose.

    Args:
        seen: the domains learned so far, in order.
        basis: the current domain's, or those of all.
        all_at_once: all of them are learned in one step, so all are current.
    """
    return seen[-1:] if basis == "current" and not all_at_once else seen


def choose_scale(scores: Iterable[ScaleScore], *, step: int, domains: Collection[str]) -> float:
    """The scale with the best held-out IoU, the mean over the domains; of equal ones the nearest to 1.

    Args:
        scores: of any steps, parts and metrics.
        step: the one to choose for.
        domains: those whose held-out images count, each equally.

    >>> rows = [ScaleScore(1, scale, "held_out", "pill", "iou", value, 4) for scale, value in ((0.5, 0.7), (1, 0.6))]
    >>> choose_scale(rows, step=1, domains=["pill"])
    0.5
    """
    means: dict[float, dict[str, float]] = {}
    for row in scores:
        if row.step == step and row.part == "held_out" and row.metric == CHOSEN_BY and row.domain in domains:
            means.setdefault(row.scale, {})[row.domain] = row.value
    complete = {scale: found for scale, found in means.items() if len(found) == len(set(domains))}
    return max(
        complete,
        key=lambda scale: (math.fsum(complete[scale].values()), -abs(math.log(scale))),
        default=1.0,
    )
