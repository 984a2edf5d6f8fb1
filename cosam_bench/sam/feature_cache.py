"""A cache of features: the output of the image encoder's blocks before the first adapted one, computed once.

No adapter and no update of the protocol reaches those blocks, so their output for an image is the same in every
row, epoch and method. Its key is the sha256 of everything that decides its bits: the model's input image and weights,
the depth, autocast's type, the arithmetic (processor, threads, precision flags) and the versions. Flips, sizes and
resizing are part of the image, and a changed image has another key. The image counts by the digest of its eight-bit
pixels if the batch knows what it was made from, and otherwise by the normalised numbers themselves.

A ``FeatureBackend`` stores it: files on the CPU, the GPU's and the host's memory on CUDA. On the CPU, images pass
these blocks one at a time, so that a cached entry and a fresh one have the same bits however images are batched and
whichever run came first. Compared with a batched pass without the cache, they differ in the last bits. On CUDA the
choice of kernels depends on the batch anyway, so the missing images of a batch are computed together; and what is
computed under autocast is rounded to bfloat16, kept or not, so that the memory holds twice as many images.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from cosam_bench.core.arithmetic import arithmetic
from cosam_bench.core.devices import synchronise, to_device_async
from cosam_bench.core.environment import versions
from cosam_bench.core.hashing import sha256_bytes
from cosam_bench.sam.cache_backends import FeatureBackend, Kept
from cosam_bench.sam.encoder_sections import encoder_sections, parts
from cosam_bench.sam.frame_prompts import FramePrompts
from cosam_bench.sam.inputs import BatchInputs
from cosam_bench.sam.mutation_check import MutationCheck
from cosam_bench.sam.sam import Features, Sam


class PrefixCache:
    """The cached features of one frozen model at one depth.

    Attributes:
        depth: the number of blocks that the features have passed, as in ``Sam.prefix``.
        backend: stores the features.
        spared_seconds: how long it took to compute, when they were computed, all features that were found.
    """

    def __init__(
        self, backend: FeatureBackend, *, sam: Sam, depth: int, is_batched: bool = False, keeps_bf16: bool = False
    ) -> None:
        """Cache features of ``sam`` as it is now.

        Args:
            backend: stores the features; several caches may share it.
            is_batched: compute the missing images of a batch together, not one at a time.
            keeps_bf16: round features to bfloat16 if they were computed under autocast to it.
        """
        self.depth = depth
        self.spared_seconds = 0.0
        self.backend = backend
        self._sam = sam
        self._is_batched = is_batched
        self._keeps_bf16 = keeps_bf16
        self._frozen = MutationCheck(_tensors(sam, depth))
        self._facts = {
            "model": sam.name,
            "weights": sam.digest,
            "early": sam.side is not None and sam.side.reads_early_map,
            "depth": depth,
            "arithmetic": arithmetic(sam.device),
            "versions": versions(),
        } | ({"kept": "bf16"} if keeps_bf16 else {})

    @classmethod
    def on_gpu(cls, backend: FeatureBackend, *, sam: Sam, depth: int) -> PrefixCache:
        """The cache that suits a GPU."""
        return cls(backend, sam=sam, depth=depth, is_batched=True, keeps_bf16=True)

    def open_domain(self) -> AbstractContextManager[None]:
        """Within the context, a domain is learned: the features of its images come first in a memory that is full."""
        return self.backend.open_domain()

    def serves(self, images: Tensor) -> bool:
        """Whether the model's first blocks are the frozen ones, without hooks, and not differentiated."""
        tensors = _tensors(self._sam, self.depth)
        return (
            not images.requires_grad
            and not any(tensor.requires_grad for tensor in tensors)
            and self._frozen.passes(tensors)
            and not _is_watched(self._sam, self.depth)
        )

    def features(self, images: Tensor, *, inputs: BatchInputs | None = None) -> Features:
        """The output of the first blocks for normalised images, without gradient, in the dtype it was computed in.

        With ``keeps_bf16`` its numbers are those of bfloat16 under autocast.

        Args:
            images: float, ``(B, 3, S, S)``, from ``frames.normalise``.
            inputs: what the images were made from, taken from their ``Batch``.

        Returns:
            As ``Sam.prefix``, on the images' device, contiguous, a copy of what is stored.
        """
        keys = self._keys(images, inputs)
        rows: dict[str, Kept] = {}
        missing = []
        for key in dict.fromkeys(keys):  # an image that occurs twice is looked up once
            kept = self.backend.read(key)
            if kept is None:
                missing.append(key)
            else:
                rows[key] = kept
        for key, kept in zip(missing, self._computed(images, [keys.index(key) for key in missing]), strict=True):
            self.backend.keep(key, kept)
            rows[key] = kept
        self.spared_seconds += sum(rows[key].seconds for key in keys) - sum(rows[key].seconds for key in missing)
        return _concatenated([rows[key] for key in keys], device=images.device)

    def _computed(self, images: Tensor, rows: list[int]) -> Iterator[Kept]:
        """The features of these rows, all at once or one after another."""
        for chosen in [rows] if self._is_batched and rows else [[row] for row in rows]:
            synchronise(images.device)
            began = time.perf_counter()
            with torch.no_grad():
                maps, early = self._sam.prefix(images[chosen], depth=self.depth)
            synchronise(images.device)
            seconds = (time.perf_counter() - began) / len(chosen)
            dtypes = (maps.dtype, maps.dtype if early is None else early.dtype)
            if self._rounds(images):
                maps, early = maps.bfloat16(), None if early is None else early.bfloat16()
            maps, early = maps.contiguous(), None if early is None else early.contiguous()
            for row in range(len(chosen)):
                alone = Features(maps[row : row + 1], None if early is None else early[row : row + 1])
                yield Kept(alone, seconds, dtypes)

    def _rounds(self, images: Tensor) -> bool:
        """Whether features computed here and now are rounded to bfloat16."""
        kind = images.device.type
        is_bf16 = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.bfloat16
        return self._keeps_bf16 and is_bf16

    def _keys(self, images: Tensor, inputs: BatchInputs | None) -> list[str]:
        """One key per row; only equal images have equal keys."""
        kind = images.device.type
        autocast = str(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else None
        digests = inputs.digests_of(images) if inputs else None
        contents: Iterable[bytes | memoryview]
        contents = map(_bytes, images.detach()) if digests is None else map(str.encode, digests)
        facts: dict[str, object] = {"autocast": autocast, "dtype": str(images.dtype), "shape": list(images.shape[1:])}
        if kind == "cuda":
            facts["products"] = [torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32]
        head = json.dumps(self._facts | facts, sort_keys=True).encode()
        return [sha256_bytes(head, content) for content in contents]


def encode(
    sam: Sam,
    images: Tensor,
    cache: PrefixCache | None,
    *,
    inputs: BatchInputs | None = None,
    prompts: FramePrompts | None = None,
) -> Features:
    """The embeddings of normalised images by the model as it is now, from cached features if they are valid.

    Gradients reach everything that is trained in either case. Cached features count as encoder passes, too.

    Args:
        cache: of the same ``sam``; bypassed if the first blocks are changed, trained or have hooks.
        inputs: what the images were made from, taken from their ``Batch``; if None, the images are hashed.
        prompts: as for ``Sam.encode``; no frozen block depends on them.
    """
    if cache is None or not cache.serves(images):
        return sam.encode(images, prompts)
    return sam.suffix(cache.features(images, inputs=inputs), depth=cache.depth, prompts=prompts)


def first_blocks(
    sam: Sam, images: Tensor, *, depth: int, cache: PrefixCache | None, inputs: BatchInputs | None = None
) -> Tensor:
    """The maps of ``sam.prefix(images, depth=depth)``, from cached features if they are valid and of that depth."""
    if cache is None or cache.depth != depth or not cache.serves(images):
        return sam.prefix(images, depth=depth).maps
    return cache.features(images, inputs=inputs).maps


def open_domain(cache: PrefixCache | None) -> AbstractContextManager[None]:
    """Within the context, a domain is learned, see ``PrefixCache.open_domain``."""
    return nullcontext() if cache is None else cache.open_domain()


def uncached_clock(cache: PrefixCache | None) -> float:
    """A clock, in seconds, that runs as if no features had been cached by this run or an earlier one."""
    return time.perf_counter() + (cache.spared_seconds if cache else 0.0)


def _bytes(image: Tensor) -> memoryview:
    return image.cpu().contiguous().view(-1).view(torch.uint8).numpy().data


def _concatenated(rows: list[Kept], *, device: torch.device) -> Features:
    """The rows as one batch. Even one row is copied: training cannot use tensors stored in inference mode."""
    of_maps, of_early = rows[0].dtypes or (None, None)
    maps = [row.features.maps for row in rows]
    early = [row.features.early for row in rows if row.features.early is not None]
    return Features(
        _joined(maps, device=device, dtype=of_maps), _joined(early, device=device, dtype=of_early) if early else None
    )


def _joined(parts: list[Tensor], *, device: torch.device, dtype: torch.dtype | None) -> Tensor:
    joined = torch.cat([to_device_async(part, device) for part in parts])
    return joined if dtype is None else joined.to(dtype)


def _tensors(sam: Sam, depth: int) -> list[Tensor]:
    """All parameters and buffers of the first blocks."""
    encoder = sam.image_encoder
    found: list[Tensor] = []
    for part in parts(encoder, encoder_sections(encoder)[: depth + 1]):
        found += [*part.parameters(), *part.buffers()] if isinstance(part, nn.Module) else [part]
    return found


def _is_watched(sam: Sam, depth: int) -> bool:
    """Whether the encoder has a hook that would be called less often if the first blocks were not run."""
    encoder = sam.image_encoder
    suffix = parts(encoder, encoder_sections(encoder)[depth + 1 :])
    runs = {module for part in suffix if isinstance(part, nn.Module) for module in part.modules()}
    return any(module not in runs for module in _hooked(encoder))


def _hooked(module: nn.Module) -> Iterator[nn.Module]:
    return (inner for inner in module.modules() if inner._forward_hooks or inner._forward_pre_hooks)
