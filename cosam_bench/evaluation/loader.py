"""Test images made ready for the device: ahead of time in worker threads, and kept for the next row of the matrix.

Decoding and resizing leave Python's lock to other threads, so they go on while the model computes. What was made
ready once is kept, up to a number of bytes for all columns together; it is the same for every row and method. The
rest is made anew each time: a scan over a memory that throws out its oldest entries would never find any.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from cosam_bench.core.environment import machine_memory_bytes
from cosam_bench.core.prefetch import in_order
from cosam_bench.data.samples import Split
from cosam_bench.sam.inputs import ModelInput, View

_KEPT_BYTES_CPU = 1 << 30  # 250 images at 1024 pixels; there the model takes a hundred times as long as decoding
_KEPT_BYTES_CUDA = 8 << 30  # two thousand; CoSAM's nine columns hold 952; never more than an eighth of the machine's
_MOST_WORKERS = 8

_Name: TypeAlias = tuple[str, int, int, str, str]  # the split's digest, the row, and what decides the resizing


@dataclass(frozen=True)
class LoadedImage:
    """A test sample, ready for the device.

    Attributes:
        row: its place in its split.
        input: the image.
        mask: bool, ``(H, W)``, at the image's own size, on the CPU.
    """

    row: int
    input: ModelInput
    mask: Tensor

    @property
    def nbytes(self) -> int:
        """Bytes of image and mask."""
        return self.input.pixels.nbytes + self.mask.nbytes


class Loader:
    """Loads test images; all rows, and all methods of one protocol, may share it."""

    def __init__(self, *, workers: int, kept_bytes: int, with_digests: bool = False, is_pinned: bool = False) -> None:
        """A loader that has nothing yet.

        Args:
            workers: threads that load ahead; 0 loads each image when it is asked for.
            kept_bytes: how much of what was loaded is kept.
            with_digests: compute the images' digests ahead as well; a prefix cache will ask for them.
            is_pinned: load into memory from which a GPU copies while the program goes on.
        """
        self._workers = workers
        self._with_digests = with_digests
        self._is_pinned = is_pinned
        self._free_bytes = kept_bytes
        self._kept: dict[_Name, LoadedImage] = {}

    @classmethod
    def for_device(cls, device: torch.device, *, with_digests: bool) -> Loader:
        """The loader that suits a device: one thread on the CPU, whose cores compute; up to eight beside a GPU."""
        if device.type != "cuda":
            return cls(workers=1, kept_bytes=_KEPT_BYTES_CPU, with_digests=with_digests)
        workers = min(_MOST_WORKERS, max(1, (os.cpu_count() or 1) - 1))
        kept_bytes = min(_KEPT_BYTES_CUDA, (machine_memory_bytes() or _KEPT_BYTES_CUDA) // 8)
        return cls(workers=workers, kept_bytes=kept_bytes, with_digests=with_digests, is_pinned=True)

    def load(self, split: Split, *, view: View, depth: int) -> Generator[LoadedImage, None, None]:
        """The samples of a split in their order.

        Threads end when the last sample is taken or the iterator is closed. What loading a sample raises is
        raised where that sample would come.

        Args:
            view: how samples become model input.
            depth: how many are made ready ahead, at most.
        """
        names = [(split.digest, row, view.size, view.resize, view.resampling) for row in range(len(split))]

        def ready(row: int) -> LoadedImage:
            return self._kept.get(names[row]) or self._loaded(split, row, view)

        missing = sum(name not in self._kept for name in names)
        with closing(in_order(ready, range(len(split)), workers=min(self._workers, missing), depth=depth)) as images:
            for name, image in zip(names, images, strict=True):
                self._keep(name, image)
                yield image

    def _loaded(self, split: Split, row: int, view: View) -> LoadedImage:
        sample = split.read(row)
        image, mask = view.prepared(sample.image), sample.mask
        if self._is_pinned:
            image, mask = ModelInput(image.pixels.pin_memory(), image.frame), mask.pin_memory()
        if self._with_digests:
            _ = image.digest
        return LoadedImage(row, image, mask)

    def _keep(self, name: _Name, image: LoadedImage) -> None:
        # torch pins memory in pieces of a power of two.
        size_bytes = 1 << (image.nbytes - 1).bit_length() if self._is_pinned else image.nbytes
        if name not in self._kept and size_bytes <= self._free_bytes:
            self._free_bytes -= size_bytes
            self._kept[name] = image
