"""Image scores in a form that loads faster than ``scores.csv``, kept by the hash of that file.

The cache is in ``_shared/image_scores`` of the folder of results, if that folder has a ``_shared``. A file is a digest
and what it covers: a line of JSON (what it is, and the images' names), then float64 values, domain after domain. A file
that is damaged, or not what was looked for, is written again; the cache may be deleted at any time.
"""

from __future__ import annotations

import json
import secrets
from pathlib import Path

import numpy as np

from cosam_bench.core.files import mark_used
from cosam_bench.core.hashing import sha256_bytes, sha256_json
from cosam_bench.evaluation.contributions import Floats, RunScores
from cosam_bench.results.image_scores import parse_image_scores, read_scores_file
from cosam_bench.results.records import SHARED, Record

FORM = 1
"""Raised whenever the same file would be stored otherwise."""

_DIGITS = 64


def cached_image_scores(record: Record, *, metric: str = "iou") -> RunScores:
    """As ``read_image_scores`` does, from the cache if it has the file.

    Raises:
        CosamError: as ``read_image_scores`` does.
    """
    content, info = read_scores_file(record), record.info
    identity = sha256_json([FORM, metric, info.order, info.retention, sha256_bytes(content)])
    folder = _folder(record)
    path = None if folder is None else folder / identity
    found = None if path is None else _load(path, record, metric)
    if found is None:
        found = parse_image_scores(content, record, metric=metric)
        if path is not None:
            _store(path, found)
    elif path is not None:
        mark_used(path)
    return found


def _folder(record: Record) -> Path | None:
    """Where scores are kept; None if the record is not in a folder of results that runs share."""
    parents = record.folder.absolute().parents
    shared = parents[2] / SHARED if len(parents) > 2 else None
    return shared / "image_scores" if shared is not None and shared.is_dir() else None


def _load(path: Path, record: Record, metric: str) -> RunScores | None:
    """The stored scores; None if there are none, or the file is damaged or another's."""
    try:
        stored = path.read_bytes()
    except OSError:
        return None
    body = stored[_DIGITS:]
    if sha256_bytes(body).encode() != stored[:_DIGITS]:
        return None
    head, _, numbers = body.partition(b"\n")
    identity, keys = json.loads(head)
    if identity != path.name:
        return None
    info = record.info
    values = np.frombuffer(numbers, dtype="<f8").reshape(len(info.order) + 1, -1)
    named: dict[str, tuple[str, ...]] = {}
    columns: dict[str, Floats] = {}
    start = 0
    for name, own in zip((*info.order, *info.retention), keys, strict=True):
        named[name], columns[name] = tuple(own), values[:, start : start + len(own)]
        start += len(own)
    return RunScores(metric, info.seed, info.order, info.retention, named, columns)


def _store(path: Path, scores: RunScores) -> None:
    """Keep the scores; a folder that cannot be written is left as it is.

    The file is not forced to the disk, which takes longer than to read ``scores.csv``: a half-written one is told by
    its digest.
    """
    names = (*scores.domains, *scores.retention)
    head = json.dumps([path.name, [scores.keys[name] for name in names]]).encode()
    numbers = np.concatenate([scores.values[name] for name in names], axis=1).astype("<f8").tobytes()
    body = head + b"\n" + numbers
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(exist_ok=True)
        try:
            temporary.write_bytes(sha256_bytes(body).encode() + body)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError:
        return
