"""Storage of cached features, and the files in which processes share them."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import NamedTuple, Protocol

import torch

from cosam_bench.core.files import ABANDONED_SECONDS, CannotWrite, mark_used
from cosam_bench.core.reusable import Reusable
from cosam_bench.core.sealed_files import read_sealed, write_sealed
from cosam_bench.core.tensor_files import CannotRead
from cosam_bench.sam.sam import Features

_ENDING = ".safetensors"


class Kept(NamedTuple):
    """The cached features of one image.

    Attributes:
        features: of a batch of one, contiguous.
        seconds: how long computing them took.
        dtypes: in which the model computed maps and early map, if they may be kept in another; None: as they are.
    """

    features: Features
    seconds: float
    dtypes: tuple[torch.dtype, torch.dtype] | None = None


class FeatureBackend(Protocol):
    """Stores features by key. They only save time, so it may refuse or lose any of them."""

    def read(self, key: str) -> Kept | None:
        """The features of a key; None if there are none that can be read."""
        ...

    def keep(self, key: str, kept: Kept) -> None:
        """Store the features if there is room."""
        ...

    def open_domain(self) -> AbstractContextManager[None]:
        """Within the context, a domain is learned: its images come again and again, and never afterwards."""
        ...

    def release(self) -> bool:
        """Drop the features that are in a GPU's memory, and no others; whether there were any."""
        ...

    def keep_fewer(self) -> None:
        """Keep at most half as many in a GPU's memory, from now on, as the last release has dropped."""
        ...


class FeatureFiles:
    """Features in a folder, one file per image, which outlive the process and which several processes may share.

    Entries are read by mapping the file, so the system's page cache keeps them in memory. Files appear as a whole,
    one that is removed while it is read stays readable, and one that was damaged or swapped counts as missing.
    """

    def __init__(self, folder: Path, *, limit_bytes: int, fresh: bool = False) -> None:
        """Use a folder, which need not exist.

        Args:
            limit_bytes: total size above which the least recently used files are removed. Each further process that
                writes at the same time may exceed it by a sixteenth.
            fresh: read only what this object has written.
        """
        self._folder = folder
        self._reusable = Reusable(fresh=fresh)
        self._limit_bytes = limit_bytes
        self._unseen_bytes = limit_bytes  # written since the folder was last scanned
        self._is_writable = True

    def read(self, key: str) -> Kept | None:
        """The features of a key, on the CPU."""
        if key not in self._reusable:
            return None
        path = self._path(key)
        try:
            tensors, facts = read_sealed(path)
            kept = Kept(Features(tensors["maps"], tensors.get("early")), float(facts["seconds"]))
        except (CannotRead, KeyError, ValueError, TypeError):
            return None
        mark_used(path)
        return kept

    def keep(self, key: str, kept: Kept) -> None:
        """Write a file; after a failure, nothing more is written."""
        if not self._is_writable:
            return
        tensors = {name: part for name, part in kept.features._asdict().items() if part is not None}
        try:
            self._unseen_bytes += write_sealed(self._path(key), tensors, {"seconds": kept.seconds})
        except CannotWrite:
            self._is_writable = False
            return
        self._reusable.add(key)
        if self._unseen_bytes > self._limit_bytes // 16:
            self._unseen_bytes = 0
            _evict(self._folder, limit_bytes=self._limit_bytes)

    def open_domain(self) -> AbstractContextManager[None]:
        """Nothing to do: files that were used last are evicted last."""
        return nullcontext()

    def release(self) -> bool:
        """False: no features are in a GPU's memory."""
        return False

    def keep_fewer(self) -> None:
        """Nothing to do: no features are in a GPU's memory."""

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}{_ENDING}"


def _evict(folder: Path, *, limit_bytes: int) -> None:
    """Remove half-written files; above fifteen sixteenths of the limit, evict the oldest down to seven eighths."""
    entries = []
    for path in folder.iterdir() if folder.is_dir() else ():
        with suppress(OSError):  # another process may have removed it
            facts = path.stat()
            if path.suffix == _ENDING:
                entries.append((facts.st_mtime_ns, facts.st_size, path))
            elif time.time() - facts.st_mtime > ABANDONED_SECONDS:
                path.unlink()
    total = sum(size for _, size, _ in entries)
    if total <= limit_bytes * 15 // 16:
        return
    for _, size, path in sorted(entries):
        if total <= limit_bytes * 7 // 8:
            return
        with suppress(OSError):
            path.unlink()
        total -= size
