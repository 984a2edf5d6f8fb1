"""Image scores in a form that loads faster than ``scores.csv``, kept by the hash of that file.

The cache is in ``_shared/image_scores`` of the folder of results, if that folder has a ``_shared``. It may be deleted
at any time.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import zipfile
from pathlib import Path

import numpy as np

from cosam_bench.evaluation.statistics import Floats, RunScores
from cosam_bench.results.image_scores import FILE, read_image_scores
from cosam_bench.results.records import Record

FORM = 1
"""Raised whenever the same file would be stored otherwise."""


def cached_image_scores(record: Record, *, metric: str = "iou") -> RunScores:
    """As ``read_image_scores`` does, from the cache if it has the file.

    Raises:
        CosamError: as ``read_image_scores`` does.
    """
    path = _path(record, metric)
    if path is None:
        return read_image_scores(record, metric=metric)
    found = _load(path, record, metric)
    if found is None:
        found = read_image_scores(record, metric=metric)
        _store(path, found)
    return found


def _path(record: Record, metric: str) -> Path | None:
    """Where the scores are kept; None if the record is in no folder that runs share, or has no scores."""
    parents = record.folder.resolve().parents
    if len(parents) < 3 or not (parents[2] / "_shared").is_dir():
        return None
    try:
        content = (record.folder / FILE).read_bytes()
    except OSError:
        return None
    info = record.info
    parts = json.dumps([FORM, metric, info.order, info.retention]).encode()
    return parents[2] / "_shared" / "image_scores" / f"{hashlib.sha256(parts + content).hexdigest()[:32]}.npz"


def _load(path: Path, record: Record, metric: str) -> RunScores | None:
    """The stored scores; None if there are none, or the file is damaged."""
    info = record.info
    try:
        with np.load(path, allow_pickle=False) as file:
            keys = json.loads(file["keys"].tobytes())
            values = file["values"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    columns: dict[str, Floats] = {}
    start = 0
    for name in (*info.order, *info.retention):
        columns[name] = values[:, start : start + len(keys[name])]
        start += len(keys[name])
    named = {name: tuple(keys[name]) for name in columns}
    return RunScores(metric, info.seed, info.order, info.retention, named, columns)


def _store(path: Path, scores: RunScores) -> None:
    """Keep the scores; a folder that cannot be written is left as it is."""
    names = (*scores.domains, *scores.retention)
    keys = np.frombuffer(json.dumps({name: scores.keys[name] for name in names}).encode(), dtype=np.uint8)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(exist_ok=True)
        try:
            with temporary.open("xb") as file:
                np.savez(file, keys=keys, values=np.concatenate([scores.values[name] for name in names], axis=1))
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError:
        return
