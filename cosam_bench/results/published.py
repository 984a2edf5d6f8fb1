"""Numbers that papers published, as data: shown beside measured ones, never mixed with them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import BeforeValidator, Field, model_validator

from cosam_bench.core.errors import CosamError
from cosam_bench.core.settings import Settings, read_toml, validate
from cosam_bench.data.cards import DATASETS
from cosam_bench.evaluation.figures import FIGURES
from cosam_bench.evaluation.metrics import METRICS
from cosam_bench.evaluation.score_matrix import ScoreMatrix

Evidence = Literal["code", "log", "figure", "timing", "unverified"]
"""How a number is known: from released code or a log, read off a figure, inferred from times, or not verified."""

PERCENT = 100.0


class PublishedSource(Settings):
    """Where numbers were read.

    Attributes:
        title: what was read.
        evidence: how the numbers are known.
        decimals: of the printed numbers, at least.
    """

    title: str
    evidence: Evidence
    decimals: Annotated[int, Field(ge=0)] = 1


class PublishedNumber(Settings):
    """One number as printed.

    Attributes:
        mean: over the runs, or the one number.
        deviation: over the runs; None if not printed.
    """

    mean: Annotated[float, Field(allow_inf_nan=False)]
    deviation: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None

    def text(self, decimals: int) -> str:
        """As printed, the mean with at least this many decimals.

        >>> PublishedNumber(mean=72.0, deviation=0.68).text(1), PublishedNumber(mean=0.33).text(1)
        ('72.0 ± 0.68', '0.33')
        """
        own = len(f"{self.mean:.10g}".partition(".")[2])
        mean = f"{self.mean:,.{max(decimals, own)}f}"
        return mean if self.deviation is None else f"{mean} ± {self.deviation:.2f}"


def _number(value: Any) -> Any:
    if isinstance(value, list) and len(value) == 2:
        return {"mean": value[0], "deviation": value[1]}
    return value if isinstance(value, dict | PublishedNumber) else {"mean": value}


Scores = dict[str, Annotated[PublishedNumber, BeforeValidator(_number)]]


class PublishedRow(Settings):
    """One row of a published table, in per cent.

    Attributes:
        name: as printed.
        method: the name of the same method here; empty if there is none.
        marks: what to know before comparing it, in the words of a method's card.
        settings: what a run of it sets besides the protocol, ``KEY=VALUE``.
        source: a name in the file's sources.
        runs: the number of seeds; None if not stated.
        note: what the reader must know.
        iou: by the figure's name in ``FIGURES``.
        boundary_iou: likewise.
    """

    name: str
    method: str = ""
    marks: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    source: str
    runs: Annotated[int, Field(ge=1)] | None = None
    note: str = ""
    iou: Scores = Field(default_factory=dict)
    boundary_iou: Scores = Field(default_factory=dict)

    def scores(self, metric: str) -> Scores:
        """The figures in one metric, in per cent; empty if none were published."""
        found: Scores = getattr(self, metric, {}) if metric in METRICS else {}
        return found


class LoggedMatrix(Settings):
    """A score matrix from a log, in per cent, as far as it is known.

    Attributes:
        name: of the row with its figures.
        domains: in the order of learning, as printed.
        retention: domains that are only tested.
        after: for each row of ``scores``, the number of domains learned by then.
        scores: one column per domain, then one per retention domain.
    """

    name: str
    metric: str
    source: str
    domains: tuple[str, ...]
    retention: tuple[str, ...] = ()
    after: tuple[int, ...]
    scores: tuple[tuple[float, ...], ...]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        width = len(self.domains) + len(self.retention)
        if len(self.after) != len(self.scores) or any(len(row) != width for row in self.scores):
            raise ValueError(f"needs one row of {width} scores for each number in 'after'")
        if any(not 0 <= step <= len(self.domains) for step in self.after) or len(set(self.after)) < len(self.after):
            raise ValueError(f"'after' must hold different numbers from 0 to {len(self.domains)}")
        return self

    def matrix(self) -> ScoreMatrix:
        """The scores in [0, 1], one image behind each; NaN where nothing was logged."""
        values = np.full((len(self.domains) + 1, len(self.domains) + len(self.retention)), np.nan)
        values[list(self.after)] = np.array(self.scores) / PERCENT
        return ScoreMatrix.from_values(values, metric=self.metric, domains=self.domains, retention=self.retention)


class Claim(Settings):
    """A number that a paper states outside its tables."""

    name: str
    value: Annotated[float, Field(allow_inf_nan=False)]
    unit: str = ""
    source: str
    note: str = ""


class Anchor(Settings):
    """What a run or a model that claims to reproduce a paper must yield.

    Attributes:
        value: the number, or several in the order that ``name`` gives; None stands for the logged matrix.
        tolerance: the largest difference that still counts as equal; None if nobody has stated one.
    """

    name: str
    value: float | tuple[float, ...] | None = None
    tolerance: Annotated[float, Field(ge=0)] | None = None
    unit: str = ""
    source: str


class Published(Settings):
    """Everything known to be published on one protocol.

    Attributes:
        method: the one that the paper proposes.
        protocols: the names of the protocols whose runs it belongs beside.
        missing: what was published and is not included here.
    """

    title: str
    paper: str
    method: str
    protocols: Annotated[tuple[str, ...], Field(min_length=1)]
    missing: str = ""
    sources: dict[str, PublishedSource]
    rows: tuple[PublishedRow, ...] = Field(default=(), alias="row")
    matrices: tuple[LoggedMatrix, ...] = Field(default=(), alias="matrix")
    claims: tuple[Claim, ...] = Field(default=(), alias="claim")
    anchors: tuple[Anchor, ...] = Field(default=(), alias="anchor")

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        parts: list[PublishedRow | LoggedMatrix | Claim | Anchor] = [
            *self.rows,
            *self.matrices,
            *self.claims,
            *self.anchors,
        ]
        for part in parts:
            if part.source not in self.sources:
                raise ValueError(f"{part.name!r} has the source {part.source!r}, which is not described")
        for row in self.rows:
            unknown = [name for name in (*row.iou, *row.boundary_iou) if name not in FIGURES]
            if unknown:
                raise ValueError(f"{row.name!r} has the figure {unknown[0]!r}; known are {', '.join(FIGURES)}")
        return self

    @property
    def protocol(self) -> str:
        """The protocol's own name, without a mode."""
        return self.protocols[0]

    def notes(self) -> list[str]:
        """What a reader of these numbers must know first."""
        used = dict.fromkeys(row.source for row in self.rows)
        places = "; ".join(f"{self.sources[name].title} ({self.sources[name].evidence})" for name in used)
        notes = []
        if used:
            notes.append(
                f"{self.protocol}: rows marked published are the authors' own numbers on their own data, from {places}."
            )
        if self.missing:
            stated = "; ".join(
                f"{claim.name}: {claim.value:g} {claim.unit}".strip() + f" ({self.sources[claim.source].evidence})"
                for claim in self.claims
            )
            notes.append(f"{self.protocol}: {self.missing}." + (f" Stated elsewhere: {stated}." if stated else ""))
        return notes


def read_published(path: Path) -> Published:
    """The contents of a file of published numbers.

    Raises:
        CosamError: the file is missing or not valid.
    """
    return validate(Published, read_toml(path), source=str(path))


def all_published() -> tuple[Published, ...]:
    """All published numbers in the package, in alphabetical order of the protocol."""
    found = [read_published(path) for path in sorted((DATASETS / "published").glob("*.toml"))]
    names = [name for one in found for name in one.protocols]
    if len(set(names)) < len(names):
        raise CosamError(f"Two files of published numbers name the same protocol, among {', '.join(names)}.")
    return tuple(found)


def leaderboard_rows(published: Sequence[Published], *, metric: str) -> list[dict[str, Any]]:
    """Rows for the leaderboard, scores in [0, 1]; only published figures, and no row without one."""
    rows: list[dict[str, Any]] = []
    for one in published:
        for row in one.rows:
            scores = row.scores(metric)
            if scores:
                facts = {
                    "protocol": one.protocol,
                    "conditions": "published",
                    "method": row.name,
                    "settings": "{}",
                    "origin": "published",
                    "metric": metric,
                    "marks": ", ".join(("published", *row.marks)),
                    "differs": "",
                    "budget": "",
                    "tuned": "",
                    "runs": row.runs,
                    "seeds": row.runs,
                }
                rows.append(facts | _columns(scores))
    return rows


def _columns(scores: Scores) -> dict[str, float]:
    found = {}
    for name, number in scores.items():
        found[name] = number.mean / PERCENT
        found[f"{name}_std"] = math.nan if number.deviation is None else number.deviation / PERCENT
    return found
