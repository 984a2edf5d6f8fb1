"""The scores of single images, read from a record's ``scores.csv``."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from cosam_bench.core.errors import CosamError
from cosam_bench.core.reading import read_file
from cosam_bench.evaluation.contributions import Floats, RunScores
from cosam_bench.evaluation.metrics import METRICS
from cosam_bench.results.records import CSV_BYTES, SCORE_COLUMNS, SCORES_FILE, Record


def read_image_scores(record: Record, *, metric: str = "iou") -> RunScores:
    """The scores of every test image after every step, by one metric.

    Raises:
        CosamError: the file is missing, damaged or was changed since the run, lacks the metric or a domain, or holds
            an impossible value, a step or a domain that the run does not have, or an image twice.
    """
    return parse_image_scores(read_scores_file(record), record, metric=metric)


def read_scores_file(record: Record) -> bytes:
    """The bytes of ``scores.csv``.

    Raises:
        CosamError: the file is missing, cannot be read, or was changed since the run.
    """
    path = record.checked_file(SCORES_FILE)
    try:
        return read_file(path, limit_bytes=CSV_BYTES)
    except OSError as error:
        raise _unreadable(path, error) from None


def parse_image_scores(content: bytes, record: Record, *, metric: str) -> RunScores:
    """The scores in the bytes of a record's ``scores.csv``, as ``read_image_scores`` returns and refuses them."""
    info, path = record.info, record.folder / SCORES_FILE
    # By domain, the place of each image and, by step and place, its score.
    tables: dict[str, _Table] = {name: ({}, {}) for name in (*info.order, *info.retention)}
    try:
        lines = csv.reader(io.StringIO(content.decode("utf-8"), newline=""), strict=True)
        header = next(lines, [])
        if tuple(header[:3]) != SCORE_COLUMNS or metric not in header[3:]:
            found = ", ".join(header) or "nothing"
            raise CosamError(f"{path} has the columns {found}; expected {', '.join(SCORE_COLUMNS)} and {metric}.")
        _fill(tables, lines, steps=len(info.order), metric=metric, width=len(header), column=header.index(metric))
    except (UnicodeDecodeError, csv.Error) as error:
        raise _unreadable(path, error) from None
    except ValueError as error:
        raise CosamError(
            f"{path}, line {lines.line_num}: {error}. The file is damaged; run again with --fresh."
        ) from None
    values: dict[str, Floats] = {}
    for name, (images, cells) in tables.items():
        if not images:
            raise CosamError(f"{path} has no score of domain {name!r}. The file is damaged; run again with --fresh.")
        values[name] = np.full((len(info.order) + 1, len(images)), math.nan)
        values[name][tuple(zip(*cells, strict=True))] = list(cells.values())
    keys = {name: tuple(images) for name, (images, _) in tables.items()}
    return RunScores(metric, info.seed, info.order, info.retention, keys, values)


_Table = tuple[dict[str, int], dict[tuple[int, int], float]]


def _fill(
    tables: Mapping[str, _Table], lines: Iterable[list[str]], *, steps: int, metric: str, width: int, column: int
) -> None:
    """Add the scores of all lines; ValueError says what is wrong with the last one that was read."""
    for line in lines:
        if len(line) != width:
            raise ValueError(f"{len(line)} values, expected {width}")
        step, domain, key, value = int(line[0]), line[1], line[2], float(line[column])
        if domain not in tables or not 0 <= step <= steps:
            raise ValueError(f"step {step} of domain {domain!r} is not part of this run")
        if not METRICS[metric].is_possible(value):
            raise ValueError(f"{metric} is {value}, outside {METRICS[metric].range}")
        images, cells = tables[domain]
        place = (step, images.setdefault(key, len(images)))
        if place in cells:
            raise ValueError(f"image {key!r} of {domain!r} has a second score after step {step}")
        cells[place] = value


def _unreadable(path: Path, error: Exception) -> CosamError:
    return CosamError(f"{path} cannot be read: {error}. Run it again with --fresh.")
