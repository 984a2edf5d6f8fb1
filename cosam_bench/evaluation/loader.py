"""Test images prepared for the device: prefetched by worker threads, and cached for the next row of the matrix.

Decoding and resizing release Python's lock, so they continue while the model computes. Prepared images are cached
up to a number of bytes for all columns together; they are the same for every row and method. The rest is prepared
again each time: a scan over a cache that evicts its oldest entries would never hit.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from cosam_bench.core.devices import loading_threads, machine_memory_bytes, pinned_bytes
from cosam_bench.core.prefetch import prefetch_map
from cosam_bench.data.samples import Split
from cosam_bench.sam.inputs import ModelInput, View

_CACHE_BYTES_CPU = 1 << 30  # 250 images at 1024 pixels; on a CPU the model takes a hundred times as long as decoding
_CACHE_BYTES_CUDA = 8 << 30  # 2,000 images (CoSAM's nine columns have 952), at most an eighth of the machine's memory

_Key: TypeAlias = tuple[str, int, int, str, str]  # the split's digest, the row, and the parameters of resizing


@dataclass(frozen=True)
class LoadedImage:
    """A test sample, prepared for the device.

    Attributes:
        row: its index in its split.
        input: the image.
        mask: bool, ``(H, W)``, at the image's own size, on the CPU.
        ignored: bool, as the mask, pixels that do not count; None if all do.
    """

    row: int
    input: ModelInput
    mask: Tensor
    ignored: Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of image and mask."""
        return self.input.pixels.nbytes + self.mask.nbytes + (0 if self.ignored is None else self.ignored.nbytes)


class Loader:
    """Loads test images; all rows and all methods of one protocol may share it."""

    def __init__(self, *, workers: int, cache_bytes: int, with_digests: bool = False, is_pinned: bool = False) -> None:
        """A loader with an empty cache.

        Args:
            workers: threads that prefetch; 0 loads each image when it is requested.
            cache_bytes: the capacity of the cache.
            with_digests: compute the images' digests in the workers as well, for a feature cache.
            is_pinned: load into pinned memory, from which a GPU copies asynchronously.
        """
        self._workers = workers
        self._with_digests = with_digests
        self._is_pinned = is_pinned
        self._free_bytes = cache_bytes
        self._cached: dict[_Key, LoadedImage] = {}

    @classmethod
    def for_device(cls, device: torch.device, *, with_digests: bool) -> Loader:
        """The loader that suits a device: one thread on the CPU, whose cores are busy; up to eight for a GPU."""
        if device.type != "cuda":
            return cls(workers=1, cache_bytes=_CACHE_BYTES_CPU, with_digests=with_digests)
        cache_bytes = min(_CACHE_BYTES_CUDA, (machine_memory_bytes() or _CACHE_BYTES_CUDA) // 8)
        return cls(workers=loading_threads(), cache_bytes=cache_bytes, with_digests=with_digests, is_pinned=True)

    def load(self, split: Split, *, view: View, depth: int) -> Generator[LoadedImage, None, None]:
        """The samples of a split in order.

        Threads end when the last sample is taken or the iterator is closed. An error in loading a sample is raised
        when that sample's turn comes.

        Args:
            view: how samples become model input.
            depth: the largest number of prefetched samples.
        """
        keys = [(split.digest, row, view.size, view.resize, view.resampling) for row in range(len(split))]

        def cached_or_loaded(row: int) -> LoadedImage:
            return self._cached.get(keys[row]) or self._loaded(split, row, view)

        missing = sum(key not in self._cached for key in keys)
        workers = min(self._workers, missing)
        with closing(prefetch_map(cached_or_loaded, range(len(split)), workers=workers, depth=depth)) as images:
            for key, image in zip(keys, images, strict=True):
                self._cache(key, image)
                yield image

    def _loaded(self, split: Split, row: int, view: View) -> LoadedImage:
        sample = split.read(row)
        image, mask, ignored = view.preprocess(sample.image), sample.mask, sample.ignored
        if self._is_pinned:
            image, mask = ModelInput(image.pixels.pin_memory(), image.frame), mask.pin_memory()
            ignored = None if ignored is None else ignored.pin_memory()
        if self._with_digests:
            _ = image.digest
        return LoadedImage(row, image, mask, ignored)

    def _cache(self, key: _Key, image: LoadedImage) -> None:
        size_bytes = pinned_bytes(image.nbytes) if self._is_pinned else image.nbytes
        if key not in self._cached and size_bytes <= self._free_bytes:
            self._free_bytes -= size_bytes
            self._cached[key] = image
