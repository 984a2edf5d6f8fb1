"""Cached features in the memory of the device that computed them, and beyond it in the host's pinned memory.

Scoring passes over all test images once per row, so evicting the oldest would lose each image before its next use:
what is kept stays. Training passes over one domain's images in every epoch, and never sees them again afterwards. While
a domain is open, its features therefore take the place of a closed domain's, and then of test images, the last kept
first. Once it is closed, the next row's test images take their place back.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from cosam_bench.core.devices import pinned_bytes, pinned_copy
from cosam_bench.core.errors import ran_out_of_memory
from cosam_bench.sam.cache_backends import Kept
from cosam_bench.sam.sam import Features


class FeatureMemory:
    """Features in memory, for this process; on the device they are read without a copy.

    Attributes:
        limit_bytes: how many bytes of features it holds at most; lowered if the memory does not have them, or others
            need it.
    """

    def __init__(self, *, limit_bytes: int, beyond: FeatureMemory | None = None, is_pinned: bool = False) -> None:
        """An empty memory for ``limit_bytes`` of features.

        Args:
            beyond: receives what does not fit, and test images that make room for training.
            is_pinned: keep copies in the host's pinned memory, from which a GPU reads without waiting.
        """
        self.limit_bytes = limit_bytes
        self._beyond = beyond
        self._is_pinned = is_pinned
        self._is_open = False
        self._released_bytes = 0
        self.clear()

    def clear(self) -> None:
        """Drop all features that it holds; those beyond stay."""
        self._tested = _Entries()  # kept while no domain was open
        self._trained = _Entries()  # kept while their domain was open, which it still is
        self._closed = _Entries()  # of domains that are closed

    def read(self, key: str) -> Kept | None:
        """The features of a key, if any; they must not be changed."""
        if self._is_open and key in self._closed.kept:
            self._trained.add(key, *self._closed.take(key))
        for entries in (self._tested, self._trained, self._closed):
            if key in entries.kept:
                return entries.kept[key][0]
        return None if self._beyond is None else self._beyond.read(key)

    def keep(self, key: str, kept: Kept) -> None:
        """Store a copy if there is room or room can be made; without a copy, more might be held than is counted."""
        if self.read(key) is None:
            self._place(key, kept, is_trained=self._is_open)

    @contextmanager
    def open_domain(self) -> Iterator[None]:
        """Within the context, what is kept is of a domain that is learned: it evicts others, and is not evicted."""
        self._set_open(True)
        try:
            yield
        finally:
            self._set_open(False)

    def release(self) -> bool:
        """Drop all features that it holds, and none of those beyond; whether there were any."""
        self._released_bytes = self.used_bytes
        self.clear()
        return self._released_bytes > 0

    def keep_fewer(self) -> None:
        """Hold at most half of what the last release has dropped, since the model had no room beside it."""
        self.shrink(self._released_bytes // 2)

    def shrink(self, limit_bytes: int) -> None:
        """Hold at most ``limit_bytes`` from now on; what is too much goes as if to make room."""
        self.limit_bytes = min(self.limit_bytes, limit_bytes)
        self._make_room(0)

    def _set_open(self, is_open: bool) -> None:
        self._is_open = is_open
        while self._trained.kept:
            key = next(iter(self._trained.kept))
            self._closed.add(key, *self._trained.take(key))
        if self._beyond is not None:
            self._beyond._set_open(is_open)

    def _place(self, key: str, kept: Kept, *, is_trained: bool) -> None:
        """Store a copy here, or beyond if there is no room for it."""
        size_bytes = self._size_bytes(kept)
        staying_bytes = self._trained.size_bytes + (0 if is_trained else self._tested.size_bytes)
        copy = None
        if staying_bytes + size_bytes <= self.limit_bytes:
            self._make_room(size_bytes)
            copy = self._copied(kept)
        if copy is not None:
            (self._trained if is_trained else self._tested).add(key, copy, size_bytes)
        elif self._beyond is not None:
            self._beyond._place(key, kept, is_trained=is_trained)

    def _make_room(self, size_bytes: int) -> None:
        """Drop features of closed domains, the oldest first; then move the last test images beyond, then the others."""
        while self.used_bytes + size_bytes > self.limit_bytes:
            if self._closed.kept:
                self._closed.take(next(iter(self._closed.kept)))
                continue
            entries = self._tested if self._tested.kept else self._trained
            key = next(reversed(entries.kept))
            kept, _ = entries.take(key)
            if self._beyond is not None:
                self._beyond._place(key, kept, is_trained=entries is self._trained)

    @property
    def used_bytes(self) -> int:
        """How many bytes of features it holds now."""
        return self._tested.size_bytes + self._trained.size_bytes + self._closed.size_bytes

    def _copied(self, kept: Kept) -> Kept | None:
        """A copy; None if there is no memory for it, since the model needs what is left."""
        copied = pinned_copy if self._is_pinned else Tensor.clone
        try:
            return kept._replace(features=Features(*(copied(part) for part in _parts(kept))))
        except Exception as error:
            if not ran_out_of_memory(error):
                raise
            self.limit_bytes = self.used_bytes
            return None

    def _size_bytes(self, kept: Kept) -> int:
        sizes = [part.nbytes for part in _parts(kept)]
        return sum(pinned_bytes(size) if self._is_pinned else size for size in sizes)


class _Entries:
    """Features with their sizes, in the order in which they came."""

    def __init__(self) -> None:
        self.kept: dict[str, tuple[Kept, int]] = {}
        self.size_bytes = 0

    def add(self, key: str, kept: Kept, size_bytes: int) -> None:
        self.kept[key] = kept, size_bytes
        self.size_bytes += size_bytes

    def take(self, key: str) -> tuple[Kept, int]:
        kept, size_bytes = self.kept.pop(key)
        self.size_bytes -= size_bytes
        return kept, size_bytes


def _parts(kept: Kept) -> list[Tensor]:
    return [part for part in kept.features if part is not None]
