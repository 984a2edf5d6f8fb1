"""What marking the object is worth: a run's Last under its own prompt, and under others."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from cosam_bench.core.errors import CosamError
from cosam_bench.core.sums import plain_sum
from cosam_bench.evaluation.figures import frozen, last
from cosam_bench.evaluation.metrics import METRICS
from cosam_bench.results.cell_text import number
from cosam_bench.results.conditions import Measured
from cosam_bench.results.records import Record

TITLES = {
    "box": "oracle box",
    "points": "oracle points",
    "mask": "oracle mask",
    "image": "whole image",
    "grid": "grid of points",
}
"""What prompts are called beside their scores; an oracle is taken from the true mask."""


@dataclass(frozen=True)
class PromptGap:
    """The final model's mean score over the stream's domains under one prompt.

    Attributes:
        prompt: its kind.
        last: the score, as the figure Last.
        frozen: frozen SAM's.
        gap: how much worse it is than under the protocol's own prompt; 0 for that one.
    """

    prompt: str
    last: float
    frozen: float
    gap: float


def prompt_gaps(record: Record, *, metric: str = "iou", domains: Sequence[str] | None = None) -> list[PromptGap]:
    """The protocol's own prompt, then each that the run was also scored under; empty if there is no other.

    Args:
        record: of one run.
        metric: its name.
        domains: only these are part of the means; None: all of the stream.

    Raises:
        CosamError: a file of the record is damaged, or no metric has this name.
    """
    names = record.order if domains is None else [name for name in record.order if name in domains]
    scores = [row for row in record.prompt_scores() if row.metric == metric and row.domain in names]
    if not scores:
        return []
    matrix = record.score_matrix(metric)
    matrix = matrix if domains is None else matrix.only(domains)
    own = PromptGap(own_prompt(record), last(matrix), frozen(matrix), 0.0)
    found = [own]
    for kind in dict.fromkeys(row.prompt for row in scores):
        first, final = (
            _mean([row.value for row in scores if row.prompt == kind and (row.step == 0) is is_first])
            for is_first in (True, False)
        )
        found.append(PromptGap(kind, final, first, matrix.sign * (own.last - final)))
    return found


def own_prompt(record: Record) -> str:
    """The kind of the test prompt of a record's protocol; empty in records that do not say."""
    protocol = record.info.config.get("protocol")
    prompts = protocol.get("prompts") if isinstance(protocol, dict) else None
    return str(prompts.get("test", "")) if isinstance(prompts, dict) else ""


def gap_text(gaps: Sequence[PromptGap]) -> str:
    """One line for people, such as ``oracle box 0.710, whole image 0.420 (gap 0.290)``."""
    own, *others = gaps
    parts = [f"{_title(own.prompt)} {number(own.last)}"]
    return ", ".join([*parts, *(f"{_title(one.prompt)} {number(one.last)} (gap {number(one.gap)})" for one in others)])


def prompt_notes(runs: Sequence[Measured], *, domains: Sequence[str] | None = None) -> list[str]:
    """One line per method, its settings and the prompts under which it was scored; means over its runs.

    Args:
        runs: of any methods, by one metric; those without further prompts are left out, those whose scores under them
            cannot be read as well, with a line that says so.
        domains: only these are part of the means; None: all of the stream.
    """
    groups: dict[tuple[str, ...], list[list[PromptGap]]] = defaultdict(list)
    lines = []
    for run in runs:
        try:
            gaps = prompt_gaps(run.record, metric=run.matrix.metric, domains=domains)
        except CosamError as error:
            lines.append(f"No scores by prompt for a run: {error}")
            continue
        if gaps:
            kinds = ",".join(one.prompt for one in gaps)
            groups[run.info.protocol, run.conditions, *run.variant, kinds].append(gaps)
    for (protocol, conditions, method, settings, *_), same in groups.items():
        means = [_mean_gap(one) for one in zip(*same, strict=True)]
        place = protocol if len({key[1] for key in groups if key[0] == protocol}) == 1 else f"{protocol} {conditions}"
        is_alone = [key[:3] for key in groups].count((protocol, conditions, method)) == 1
        named = f"{method} on {place}" if is_alone else f"{method} {settings} on {place}"
        title = METRICS[runs[0].matrix.metric].title
        lines.append(f"{named}, Last ({title}) by prompt: {gap_text(means)}.")
    return lines


def _mean_gap(gaps: Sequence[PromptGap]) -> PromptGap:
    fields = [[one.last for one in gaps], [one.frozen for one in gaps], [one.gap for one in gaps]]
    return PromptGap(gaps[0].prompt, *map(_mean, fields))


def _mean(values: Sequence[float]) -> float:
    return plain_sum(values) / len(values) if values else math.nan


def _title(kind: str) -> str:
    return TITLES.get(kind, kind or "own prompt")
