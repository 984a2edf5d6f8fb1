"""The scores of single images, read from a record's ``scores.csv``."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cosam_bench.core.errors import CosamError
from cosam_bench.evaluation.contributions import Floats, RunScores
from cosam_bench.results.records import Record

FILE = "scores.csv"
_COLUMNS = ["step", "domain", "key"]


def read_image_scores(record: Record, *, metric: str = "iou") -> RunScores:
    """The scores of every test image after every step, by one metric.

    Raises:
        CosamError: the file is missing or damaged, lacks the metric or a domain, or holds a value that is not in
            [0, 1], a step or a domain that the run does not have, or an image twice.
    """
    return parse_image_scores(read_scores_file(record), record, metric=metric)


def read_scores_file(record: Record) -> bytes:
    """The bytes of ``scores.csv``.

    Raises:
        CosamError: the file is missing or cannot be read.
    """
    path = record.folder / FILE
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from None


def parse_image_scores(content: bytes, record: Record, *, metric: str) -> RunScores:
    """The scores in the bytes of a record's ``scores.csv``, as ``read_image_scores`` returns and refuses them."""
    info, path = record.info, record.folder / FILE
    columns = (*info.order, *info.retention)
    keys: dict[str, dict[str, int]] = {name: {} for name in columns}
    cells: dict[str, dict[tuple[int, int], float]] = {name: {} for name in columns}
    for number, (step, domain, key, value) in _rows(content, path, metric):
        if domain not in keys or not 0 <= step <= len(info.order):
            raise _damaged(path, number, f"step {step} of domain {domain!r} is not part of this run")
        if not 0 <= value <= 1:
            raise _damaged(path, number, f"{metric} is {value}, outside [0, 1]")
        place = (step, keys[domain].setdefault(key, len(keys[domain])))
        if place in cells[domain]:
            raise _damaged(path, number, f"image {key!r} of {domain!r} has a second score after step {step}")
        cells[domain][place] = value
    values: dict[str, Floats] = {}
    for name in columns:
        if not keys[name]:
            raise CosamError(f"{path} has no score of domain {name!r}. The file is damaged; run again with --fresh.")
        table = np.full((len(info.order) + 1, len(keys[name])), math.nan)
        for place, value in cells[name].items():
            table[place] = value
        values[name] = table
    named = {name: tuple(places) for name, places in keys.items()}
    return RunScores(metric, info.seed, info.order, info.retention, named, values)


def _rows(content: bytes, path: Path, metric: str) -> Iterator[tuple[int, tuple[int, str, str, float]]]:
    """The lines of the file with their numbers: step, domain, key and the metric's value."""
    try:
        lines = csv.reader(io.StringIO(content.decode("utf-8"), newline=""), strict=True)
        head = next(lines, [])
        if head[:3] != _COLUMNS or metric not in head[3:]:
            found = ", ".join(head) or "nothing"
            raise CosamError(f"{path} has the columns {found}; expected {', '.join(_COLUMNS)} and {metric}.")
        column = head.index(metric)
        for number, line in enumerate(lines, start=2):
            if len(line) != len(head):
                raise _damaged(path, number, f"{len(line)} values, expected {len(head)}")
            try:
                yield number, (int(line[0]), line[1], line[2], float(line[column]))
            except ValueError as error:
                raise _damaged(path, number, str(error)) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> CosamError:
    return CosamError(f"{path} cannot be read: {error}. Run it again with --fresh.")


def _damaged(path: Path, number: int, fault: str) -> CosamError:
    return CosamError(f"{path}, line {number}: {fault}. The file is damaged; run again with --fresh.")
