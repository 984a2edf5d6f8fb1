"""Records made without a run: random scores, and pictures of noise."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from cosam_bench.evaluation.metrics import METRICS
from cosam_bench.evaluation.score_matrix import Cell, ScoreMatrix
from cosam_bench.evaluation.scoring import ImageScore
from cosam_bench.results.examples import Example, Examples, Prompt, encode_image, encode_mask, write_examples
from cosam_bench.results.records import Record, RecordWriter, record_folder
from cosam_bench.results.run_info import Conditions, Cost, RunInfo, Status

ORDER = ("pill", "polyp", "rim")
PLACES: tuple[Literal["best", "median", "worst"], ...] = ("best", "median", "worst")
IMAGES = 5


def record(
    results: Path,
    *,
    method: str,
    seed: int = 0,
    order: Sequence[str] = ORDER,
    settings: Mapping[str, float] | None = None,
    status: Status = "complete",
    checkpoint: str = "tiny",
    marks: Sequence[str] = (),
    level: float = 0.5,
    side: int = 0,
    error: str | None = None,
    rule: str = "",
) -> Record:
    """Write a record whose scores lie about ``level``, with examples of ``side`` pixels if that is above 0."""
    columns = (*order, "natural")
    number = zlib.crc32(f"{method}{settings}{seed}".encode())
    rng = np.random.default_rng(number)
    folder = record_folder(results, protocol="made", method=method, digest=f"{number:012x}")
    info = RunInfo(
        protocol="made",
        protocol_version=1,
        method=method,
        settings=dict(settings or {}),
        config={"protocol": {"name": "made"}},
        seed=seed,
        order=tuple(order),
        retention=("natural",),
        marks=tuple(marks),
        conditions=Conditions(data=dict.fromkeys(columns, "d" * 64), checkpoint=checkpoint, config="c"),
        prompts={f"{name}/test": "e" * 64 for name in columns},
        versions={"python": "3.11.7", "torch": "2.14.1"},
        commit="a" * 40,
        hardware={"system": "Linux", "processor": "x"},
        device="cpu",
        status=status,
        started=f"2026-01-01T00:00:{seed:02d}+00:00",
        error=error,
        rule=rule,
        cost=Cost(
            train_seconds=(1.0,) * len(order),
            merge_seconds=(rng.random(),) * len(order),
            state_bytes=(2000,) * len(order),
            peak_memory_bytes=10**9,
            encoder_passes_per_image=1.0,
            trainable_parameters=100,
        ),
    )
    writer, cells, steps = RecordWriter(folder), [], {}
    for step in range(len(order) + 1):
        steps[step] = scores = {name: _scores(rng, level) for name in columns}
        cells += [
            Cell(step, name, metric, math.fsum(one.values[metric] for one in images) / IMAGES, IMAGES)
            for name, images in scores.items()
            for metric in METRICS
        ]
    writer.write_scores(steps)
    writer.write_matrix(cells)
    writer.write_info(info)
    if side:
        write_examples(folder, Examples(metric="iou", examples=tuple(_examples(rng, columns, side, method))))
    return Record(folder, info)


def _scores(rng: np.random.Generator, level: float) -> list[ImageScore]:
    values = np.clip(level + rng.normal(0, 0.05, (IMAGES, len(METRICS))), 0, 1).tolist()
    return [ImageScore(f"test-{place}", dict(zip(METRICS, row, strict=True))) for place, row in enumerate(values)]


def _examples(rng: np.random.Generator, columns: Sequence[str], side: int, method: str) -> list[Example]:
    def noise() -> str:
        return encode_mask(rng.random((side, side)) < 0.5)

    return [
        Example(
            domain=name,
            key=f"{method}-{place}",
            place=place,
            width=side,
            height=side,
            image=encode_image(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)),
            truth=noise(),
            prompt=Prompt(kind="box", box=(1.0, 1.0, side / 2, side / 2)),
            before=None if name == "natural" else noise(),
            after=noise(),
            score_before=None if name == "natural" else 0.5,
            score_after=0.4,
        )
        for name in columns
        for place in PLACES
    ]


def matrix(values: Sequence[Sequence[float]], *, domains: Sequence[str], retention: Sequence[str] = ()) -> ScoreMatrix:
    """A score matrix of IoU."""
    return ScoreMatrix.from_values(values, domains=domains, retention=retention)
