"""Numbers that papers published, as data: shown beside measured ones, never counted among them."""

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
from cosam_bench.evaluation.metrics import HIGHER_IS_BETTER
from cosam_bench.evaluation.score_matrix import ScoreMatrix, summary

Evidence = Literal["code", "log", "figure", "timing", "unverified"]
"""How a number is known: read in released code or a log, off a figure, inferred from times, or not checked at all."""

PERCENT = 100.0


class Source(Settings):
    """Where numbers were read.

    Attributes:
        title: what was read.
        evidence: how sure that makes them.
        decimals: with which they were printed, at least.
    """

    title: str
    evidence: Evidence
    decimals: Annotated[int, Field(ge=0)] = 1


class Stated(Settings):
    """One number as it was printed.

    Attributes:
        mean: of the runs, or the one number.
        deviation: over the runs; none where none was printed.
    """

    mean: Annotated[float, Field(allow_inf_nan=False)]
    deviation: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None

    def text(self, decimals: int) -> str:
        """As printed, with at least so many decimals of the mean.

        >>> Stated(mean=72.0, deviation=0.68).text(1), Stated(mean=0.33).text(1)
        ('72.0 ± 0.68', '0.33')
        """
        own = len(f"{self.mean:.10g}".partition(".")[2])
        mean = f"{self.mean:,.{max(decimals, own)}f}"
        return mean if self.deviation is None else f"{mean} ± {self.deviation:.2f}"


def _stated(value: Any) -> Any:
    if isinstance(value, list) and len(value) == 2:
        return {"mean": value[0], "deviation": value[1]}
    return value if isinstance(value, dict | Stated) else {"mean": value}


Scores = dict[str, Annotated[Stated, BeforeValidator(_stated)]]


class Row(Settings):
    """One row of a published table, in per cent.

    Attributes:
        name: as it is printed.
        method: the method here that stands for it; empty where none does.
        marks: what must be known before it is compared, in the words of a method's card.
        settings: what a run of it sets beside the protocol, ``KEY=VALUE``.
        source: a name in the file's sources.
        runs: over how many seeds; none where it is not stated.
        note: what a reader must be told.
        iou: by the figure's name in ``matrix.summary``.
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
        """The figures in one metric, in per cent; empty where none were published."""
        found: Scores = getattr(self, metric, {}) if metric in HIGHER_IS_BETTER else {}
        return found


class Logged(Settings):
    """A score matrix that was logged, in per cent, as far as it is known.

    Attributes:
        name: of the row with its figures.
        domains: in the order of learning, as printed.
        retention: domains that are only tested.
        after: for each row of ``scores``, the domains learned by then.
        scores: one column a domain, then one a retention domain.
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
            raise ValueError(f"needs one row of {width} scores for each number of 'after'")
        if any(not 0 <= step <= len(self.domains) for step in self.after) or len(set(self.after)) < len(self.after):
            raise ValueError(f"'after' holds different numbers from 0 to {len(self.domains)}")
        return self

    def matrix(self) -> ScoreMatrix:
        """The scores in [0, 1], one image behind each; NaN where nothing was logged."""
        values = np.full((len(self.domains) + 1, len(self.domains) + len(self.retention)), np.nan)
        values[list(self.after)] = np.array(self.scores) / PERCENT
        count = np.where(np.isnan(values), 0, 1)
        return ScoreMatrix(self.metric, self.domains, self.retention, values, count)


class Claim(Settings):
    """A number that a paper states beside its tables."""

    name: str
    value: Annotated[float, Field(allow_inf_nan=False)]
    unit: str = ""
    source: str
    note: str = ""


class Anchor(Settings):
    """What a run or a build that claims to repeat a paper must come to.

    Attributes:
        value: the number, or several in the order that ``name`` gives; none: the logged matrix.
        tolerance: how far off is still the same; none where nobody has said.
    """

    name: str
    value: float | tuple[float, ...] | None = None
    tolerance: Annotated[float, Field(ge=0)] | None = None
    unit: str = ""
    source: str


class Published(Settings):
    """All that is known of what was published on one protocol.

    Attributes:
        method: the one that the paper proposes.
        protocols: the names of the protocols beside whose runs it belongs.
        missing: what is known to have been published and is not here.
    """

    title: str
    paper: str
    method: str
    protocols: Annotated[tuple[str, ...], Field(min_length=1)]
    missing: str = ""
    sources: dict[str, Source]
    rows: tuple[Row, ...] = Field(default=(), alias="row")
    matrices: tuple[Logged, ...] = Field(default=(), alias="matrix")
    claims: tuple[Claim, ...] = Field(default=(), alias="claim")
    anchors: tuple[Anchor, ...] = Field(default=(), alias="anchor")

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        parts: list[Row | Logged | Claim | Anchor] = [*self.rows, *self.matrices, *self.claims, *self.anchors]
        for part in parts:
            if part.source not in self.sources:
                raise ValueError(f"{part.name!r} has the source {part.source!r}, which is not described")
        figures = summary(ScoreMatrix("iou", ("a",), (), np.zeros((2, 1)), np.zeros((2, 1), dtype=np.int64)))
        for row in self.rows:
            unknown = [name for name in (*row.iou, *row.boundary_iou) if name not in figures]
            if unknown:
                raise ValueError(f"{row.name!r} has the figure {unknown[0]!r}; known are {', '.join(figures)}")
        return self

    @property
    def protocol(self) -> str:
        """The protocol's own name, without a mode."""
        return self.protocols[0]

    def notes(self) -> list[str]:
        """What a reader of these numbers must be told first."""
        used = dict.fromkeys(row.source for row in self.rows)
        places = "; ".join(f"{self.sources[name].title} ({self.sources[name].evidence})" for name in used)
        told = []
        if used:
            told.append(
                f"{self.protocol}: rows marked published are the authors' own numbers on their own data, from {places}."
            )
        if self.missing:
            stated = "; ".join(
                f"{claim.name}: {claim.value:g} {claim.unit}".strip() + f" ({self.sources[claim.source].evidence})"
                for claim in self.claims
            )
            told.append(f"{self.protocol}: {self.missing}." + (f" Stated elsewhere: {stated}." if stated else ""))
        return told


def read_published(path: Path) -> Published:
    """The contents of a file of published numbers.

    Raises:
        CosamError: the file is missing, or something in it does not fit.
    """
    return validate(Published, read_toml(path), source=str(path))


def all_published() -> tuple[Published, ...]:
    """What the package knows, by protocol in alphabetical order."""
    found = [read_published(path) for path in sorted((DATASETS / "published").glob("*.toml"))]
    taken = [name for one in found for name in one.protocols]
    if len(set(taken)) < len(taken):
        raise CosamError(f"Two files of published numbers name the same protocol, among {', '.join(taken)}.")
    return tuple(found)


def published_rows(published: Sequence[Published], *, metric: str) -> list[dict[str, Any]]:
    """Rows for the leaderboard, scores in [0, 1]; only figures that were published, and no row without one."""
    rows: list[dict[str, Any]] = []
    for one in published:
        for row in one.rows:
            scores = row.scores(metric)
            if scores:
                facts = {"protocol": one.protocol, "conditions": "published", "method": row.name, "settings": "{}"}
                counts = {
                    "metric": metric,
                    "marks": ", ".join(("published", *row.marks)),
                    "runs": row.runs,
                    "seeds": row.runs,
                }
                rows.append(facts | counts | {"origin": "published", "state_grows": ""} | _figures(scores))
    return rows


def _figures(scores: Scores) -> dict[str, float]:
    found = {}
    for name, stated in scores.items():
        found[name] = stated.mean / PERCENT
        found[f"{name}_std"] = math.nan if stated.deviation is None else stated.deviation / PERCENT
    return found
