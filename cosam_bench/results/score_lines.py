"""The lines of ``scores.csv``, each checked: what a verification starts from."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cosam_bench.core.errors import CosamError
from cosam_bench.core.reading import read_text
from cosam_bench.evaluation.metrics import METRICS
from cosam_bench.results.records import CSV_BYTES, SCORE_COLUMNS, SCORES_FILE
from cosam_bench.results.run_info import AT_ONCE, RunInfo


@dataclass(frozen=True)
class Fault:
    """Something in a record that is not what was computed.

    Attributes:
        file: its name in the record's folder.
        text: what it is about, what was found and what was expected.
        line: of the file, counted from 1; None if the whole file is meant.
    """

    file: str
    text: str
    line: int | None = None

    def __str__(self) -> str:
        """One line for people."""
        return f"{self.file}, line {self.line}: {self.text}" if self.line else f"{self.file}: {self.text}"


@dataclass(frozen=True)
class Group:
    """The images of one domain after one step, in the file's order.

    Attributes:
        first_line: of the file.
        scores: by the image's key, its values in the order of the file's metrics.
    """

    first_line: int
    scores: dict[str, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class ScoreLines:
    """What a ``scores.csv`` holds.

    Attributes:
        metrics: the names of its columns of values.
        groups: by step and domain.
        faults: lines that are damaged or impossible, and images that are missing.
    """

    metrics: tuple[str, ...]
    groups: dict[tuple[int, str], Group]
    faults: tuple[Fault, ...]


def read_score_lines(folder: Path, info: RunInfo) -> ScoreLines:
    """The lines of a record's ``scores.csv``.

    Raises:
        CosamError: the file cannot be read at all, or its columns are others.
    """
    path = folder / SCORES_FILE
    try:
        text = read_text(path, limit_bytes=CSV_BYTES)
        header, *rows = list(csv.reader(io.StringIO(text, newline=""), strict=True)) or [[]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CosamError(f"it cannot be read: {error}.") from None
    metrics = tuple(header[len(SCORE_COLUMNS) :])
    if tuple(header[: len(SCORE_COLUMNS)]) != SCORE_COLUMNS or not metrics or not set(metrics) <= set(METRICS):
        found = ", ".join(header) or "nothing"
        raise CosamError(f"its columns are {found}; expected {', '.join(SCORE_COLUMNS)}, then names of metrics.")
    groups: dict[tuple[int, str], Group] = {}
    faults = []
    for line, row in enumerate(rows, start=2):
        try:
            _add(row, line, metrics=metrics, info=info, groups=groups)
        except ValueError as error:
            faults.append(Fault(SCORES_FILE, f"{error}.", line))
    return ScoreLines(metrics, groups, (*faults, *_missing_images(groups, info)))


def _add(
    row: list[str],
    line: int,
    *,
    metrics: tuple[str, ...],
    info: RunInfo,
    groups: dict[tuple[int, str], Group],
) -> None:
    """Add a line to its group; ValueError says what is wrong with it."""
    if len(row) != len(SCORE_COLUMNS) + len(metrics):
        raise ValueError(f"found {len(row)} values, expected {len(SCORE_COLUMNS) + len(metrics)}")
    step, domain, key = int(row[0]), row[1], row[2]
    if domain not in (*info.order, *info.retention) or not 0 <= step <= len(info.order):
        raise ValueError(f"step {step} of domain {domain!r} is not part of this run")
    values = tuple(float(text) for text in row[len(SCORE_COLUMNS) :])
    for metric, value in zip(metrics, values, strict=True):
        if not METRICS[metric].is_possible(value):
            raise ValueError(f"{metric} of {key!r} is {value}, expected a number in {METRICS[metric].range}")
    group = groups.setdefault((step, domain), Group(line))
    if key in group.scores:
        raise ValueError(f"image {key!r} of {domain!r} has a second score after step {step}")
    group.scores[key] = values


def _missing_images(groups: dict[tuple[int, str], Group], info: RunInfo) -> Iterator[Fault]:
    """Steps without a domain, and domains whose images are not those of the first step."""
    ends = {0, len(info.order)}
    needed = ends if AT_ONCE in info.marks else range(len(info.order) + 1)
    for step in sorted({step for step, _ in groups}.union(needed)):
        for domain in (*info.order, *info.retention):
            found, first = groups.get((step, domain)), groups.get((0, domain))
            if found is None:
                yield Fault(SCORES_FILE, f"{domain!r} has no scores after step {step}.")
            elif first is not None and list(found.scores) != list(first.scores):
                text = f"the {len(found.scores)} images of {domain!r} after step {step} are not the {len(first.scores)}"
                yield Fault(SCORES_FILE, f"{text} of step 0.", found.first_line)
