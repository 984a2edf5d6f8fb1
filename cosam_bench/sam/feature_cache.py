"""What the image encoder's blocks before the first adapted one make of an image: computed once, and kept.

No adapter and no update of the protocol reaches those blocks, so their output for an image is the same in every
row, epoch and method. It is kept under the sha256 of all that decides its bits: the image as the model takes it in,
the model's weights, the depth, autocast's type, the kind of processor, the threads and the versions. Flips, sizes and
resizing are part of the image, and no key can outlive a change of it. The image enters as the digest of its eight-bit
pixels where the batch knows what it was made of, and else as the normalised numbers themselves.

A ``FeatureBackend`` stores it: files on the CPU, the GPU's own memory on CUDA. On the CPU, images pass the prefix one
at a time, so that a kept entry and a fresh one have the same bits however images are batched and whichever run came
first. Against a pass without the cache, in batches, they differ in the last bits. On CUDA, where the kernels' choice
depends on the batch in any case, those of a batch that are missing pass it together.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from cosam_bench.core.devices import synchronise
from cosam_bench.core.environment import versions
from cosam_bench.core.hashing import sha256_bytes
from cosam_bench.sam.cache_backends import FeatureBackend, Kept
from cosam_bench.sam.encoder_sections import encoder_sections, parts
from cosam_bench.sam.frame_prompts import FramePrompts
from cosam_bench.sam.inputs import BatchInputs
from cosam_bench.sam.mutation_check import MutationCheck
from cosam_bench.sam.sam import Features, Sam


class PrefixCache:
    """The kept features of one frozen model at one depth.

    Attributes:
        depth: blocks that the features have passed, as in ``Sam.prefix``.
        spared_seconds: what computing all features that were found would have taken, as it was measured when
            they were computed.
    """

    def __init__(self, backend: FeatureBackend, *, sam: Sam, depth: int, is_batched: bool = False) -> None:
        """Features of ``sam`` as it is now.

        Args:
            backend: where they are kept; others may share it.
            is_batched: let those of a batch that are missing pass the prefix together, not one at a time.
        """
        self.depth = depth
        self.spared_seconds = 0.0
        self._backend = backend
        self._sam = sam
        self._is_batched = is_batched
        self._frozen = MutationCheck(_tensors(sam, depth))
        self._facts = {
            "model": sam.name,
            "weights": sam.digest,
            "early": sam.side is not None and sam.side.reads_early_map,
            "depth": depth,
            "processor": processor(sam.device),
            "threads": torch.get_num_threads(),
            "versions": versions(),
        }

    def serves(self, images: Tensor) -> bool:
        """Whether the model's first blocks are the frozen ones, and nobody watches or differentiates them."""
        tensors = _tensors(self._sam, self.depth)
        return (
            not images.requires_grad
            and not any(tensor.requires_grad for tensor in tensors)
            and self._frozen.passes(tensors)
            and not _is_watched(self._sam, self.depth)
        )

    def features(self, images: Tensor, *, inputs: BatchInputs | None = None) -> Features:
        """The prefix's output for normalised images, without gradient, in the dtype in which it was computed.

        Args:
            images: float, ``(B, 3, S, S)``, from ``frames.normalise``.
            inputs: what they were made of, from their ``Batch``.

        Returns:
            As ``Sam.prefix``, on the images' device, contiguous, a copy of what is kept.
        """
        keys = self._keys(images, inputs)
        rows: dict[str, Kept] = {}
        missing = []
        for key in dict.fromkeys(keys):  # an image that comes twice is looked for once
            kept = self._backend.read(key)
            if kept is None:
                missing.append(key)
            else:
                rows[key] = kept
        for key, kept in zip(missing, self._computed(images, [keys.index(key) for key in missing]), strict=True):
            self._backend.keep(key, kept)
            rows[key] = kept
        self.spared_seconds += sum(rows[key].seconds for key in keys) - sum(rows[key].seconds for key in missing)
        return _joined([rows[key].features for key in keys], device=images.device)

    def _computed(self, images: Tensor, rows: list[int]) -> Iterator[Kept]:
        """The features of these rows, all at once or one after another."""
        for chosen in [rows] if self._is_batched and rows else [[row] for row in rows]:
            synchronise(images.device)
            began = time.perf_counter()
            with torch.no_grad():
                maps, early = self._sam.prefix(images[chosen], depth=self.depth)
            synchronise(images.device)
            seconds = (time.perf_counter() - began) / len(chosen)
            maps, early = maps.contiguous(), None if early is None else early.contiguous()
            for row in range(len(chosen)):
                alone = Features(maps[row : row + 1], None if early is None else early[row : row + 1])
                yield Kept(alone, seconds)

    def _keys(self, images: Tensor, inputs: BatchInputs | None) -> list[str]:
        """One a row; equal ones for the same image only."""
        kind = images.device.type
        autocast = str(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else None
        digests = inputs.digests_of(images) if inputs else None
        contents: Iterable[bytes | memoryview]
        contents = map(_bytes, images.detach()) if digests is None else map(str.encode, digests)
        facts = {"autocast": autocast, "dtype": str(images.dtype), "shape": list(images.shape[1:])}
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
    """The embeddings of normalised images by the model as it is now, with kept features where they hold.

    Gradients reach whatever is trained, in either way. Kept features count as encoder passes like others.

    Args:
        cache: made of the same ``sam``; passed over where the first blocks are changed, trained or watched.
        inputs: what the images were made of, from their ``Batch``; without it they are hashed as they are.
        prompts: as for ``Sam.encode``; no frozen block depends on them.
    """
    if cache is None or not cache.serves(images):
        return sam.encode(images, prompts)
    return sam.suffix(cache.features(images, inputs=inputs), depth=cache.depth, prompts=prompts)


def first_blocks(
    sam: Sam, images: Tensor, *, depth: int, cache: PrefixCache | None, inputs: BatchInputs | None = None
) -> Tensor:
    """The maps of ``sam.prefix(images, depth=depth)``, with kept features where they hold and are of that depth."""
    if cache is None or cache.depth != depth or not cache.serves(images):
        return sam.prefix(images, depth=depth).maps
    return cache.features(images, inputs=inputs).maps


def uncached_clock(cache: PrefixCache | None) -> float:
    """Seconds, for differences, that pass as if no features had been kept, whoever ran before."""
    return time.perf_counter() + (cache.spared_seconds if cache else 0.0)


def _bytes(image: Tensor) -> memoryview:
    return image.cpu().contiguous().view(-1).view(torch.uint8).numpy().data


def _joined(rows: list[Features], *, device: torch.device) -> Features:
    """The rows as one batch: new tensors also of one row, which training may use where scoring made what is kept."""
    early = [row.early.to(device) for row in rows if row.early is not None]
    return Features(torch.cat([row.maps.to(device) for row in rows]), torch.cat(early) if early else None)


def _tensors(sam: Sam, depth: int) -> list[Tensor]:
    """All parameters and buffers that a prefix reads."""
    encoder = sam.image_encoder
    found: list[Tensor] = []
    for part in parts(encoder, encoder_sections(encoder)[: depth + 1]):
        found += [*part.parameters(), *part.buffers()] if isinstance(part, nn.Module) else [part]
    return found


def _is_watched(sam: Sam, depth: int) -> bool:
    """Whether a hook of the encoder would not be called as often, or not by all, if the prefix were not run."""
    encoder = sam.image_encoder
    suffix = parts(encoder, encoder_sections(encoder)[depth + 1 :])
    runs = {module for part in suffix if isinstance(part, nn.Module) for module in part.modules()}
    return any(module not in runs for module in _hooked(encoder))


def _hooked(module: nn.Module) -> Iterator[nn.Module]:
    return (inner for inner in module.modules() if inner._forward_hooks or inner._forward_pre_hooks)


def processor(device: torch.device) -> str:
    """What decides, beside the libraries, how a sum is rounded."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
