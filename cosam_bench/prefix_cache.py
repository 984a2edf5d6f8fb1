"""What the image encoder's blocks before the first adapted one make of an image: computed once, kept on disk.

No adapter and no update of the protocol reaches those blocks, so their output for an image is the same in every
row, epoch and method. An entry is one file, named by the sha256 of all that decides its bits: the normalised
image itself, the model's weights, the depth, autocast's type, the kind of processor, the threads and the versions.
Flips, sizes and resizing are part of the image, and no key can outlive a change of it. Hashing takes 7 ms at 1024
pixels, where MobileSAM's prefix takes 500.

Images pass the prefix one at a time, so that a kept entry and a fresh one have the same bits however images are
batched and whichever run came first. Against a pass without the cache, in batches, they differ in the last bits.

Entries are read by mapping the file, so the system's page cache is the cache in memory. Several processes may
share the folder: files appear whole, and one that is removed while it is read stays readable.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from cosam_bench.environment import synchronise, versions
from cosam_bench.files import CannotWrite, write_atomically
from cosam_bench.sam.frames import FramePrompts
from cosam_bench.sam.sam import Features, Sam
from cosam_bench.sam.sections import encoder_sections, parts

_ENDING = ".safetensors"
_STALE_SECONDS = 3600  # a temporary file this old was left by a process that was killed


class PrefixCache:
    """The kept features of one frozen model at one depth.

    Attributes:
        depth: blocks that the features have passed, as in ``Sam.prefix``.
        spared_seconds: what computing all features that were found would have taken, as it was measured when
            they were computed.
    """

    def __init__(self, folder: Path, *, sam: Sam, depth: int, limit_bytes: int) -> None:
        """Features of ``sam`` as it is now, in a folder that others may share.

        Args:
            limit_bytes: the files' total, above which the least recently used go. Each further process that
                writes at the same time may exceed it by a sixteenth.
        """
        self.depth = depth
        self.spared_seconds = 0.0
        self._folder = folder
        self._sam = sam
        self._frozen = _tensors(sam, depth)
        self._base = [(tensor, tensor._version) for tensor in self._frozen]
        self._limit_bytes = limit_bytes
        self._unseen_bytes = limit_bytes  # written since the folder was last looked through
        self._is_writable = True
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
            and len(tensors) == len(self._base)
            and all(
                tensor is own and tensor._version == version and not tensor.requires_grad
                for tensor, (own, version) in zip(tensors, self._base, strict=True)
            )
            and not _is_watched(self._sam, self.depth)
        )

    def features(self, images: Tensor) -> Features:
        """The prefix's output for normalised images, without gradient, in the dtype in which it was computed.

        Args:
            images: float, ``(B, 3, S, S)``, from ``frames.normalise``.

        Returns:
            As ``Sam.prefix``, on the images' device, contiguous.
        """
        rows = [self._one(images[row : row + 1]) for row in range(len(images))]
        early = [row.early for row in rows if row.early is not None]
        return Features(torch.cat([row.maps for row in rows]), torch.cat(early) if early else None)

    def _one(self, image: Tensor) -> Features:
        path = self._folder / f"{self._key(image)}{_ENDING}"
        kept = _read(path)
        if kept is not None:
            features, seconds = kept
            self.spared_seconds += seconds
            return features.to(image.device)
        began = time.perf_counter()
        with torch.no_grad():
            maps, early = self._sam.prefix(image, depth=self.depth)
            features = Features(maps.contiguous(), None if early is None else early.contiguous())
        synchronise(image.device)
        self._keep(path, features, seconds=time.perf_counter() - began)
        return features

    def _key(self, image: Tensor) -> str:
        kind = image.device.type
        autocast = str(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else None
        facts = self._facts | {"autocast": autocast, "dtype": str(image.dtype), "shape": list(image.shape)}
        state = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
        state.update(image.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        return state.hexdigest()

    def _keep(self, path: Path, features: Features, *, seconds: float) -> None:
        """Write an entry; where that fails the cache goes on with those that it has, being a help and no result."""
        if not self._is_writable:
            return
        tensors = {name: part.cpu() for name, part in features._asdict().items() if part is not None}
        content = save(tensors, metadata={"seconds": repr(seconds)})
        try:
            write_atomically(path, content)
        except CannotWrite:
            self._is_writable = False
        self._unseen_bytes += len(content)
        if self._unseen_bytes > self._limit_bytes // 16:
            self._unseen_bytes = 0
            _evict(self._folder, limit_bytes=self._limit_bytes)


def encode(sam: Sam, images: Tensor, cache: PrefixCache | None, *, prompts: FramePrompts | None = None) -> Features:
    """The embeddings of normalised images by the model as it is now, with kept features where they hold.

    Gradients reach whatever is trained, in either way. Kept features count as encoder passes like others.

    Args:
        cache: made of the same ``sam``; passed over where the first blocks are changed, trained or watched.
        prompts: as for ``Sam.encode``; no frozen block depends on them.
    """
    if cache is None or not cache.serves(images):
        return sam.encode(images, prompts)
    return sam.suffix(cache.features(images), depth=cache.depth, prompts=prompts)


def first_blocks(sam: Sam, images: Tensor, *, depth: int, cache: PrefixCache | None) -> Tensor:
    """The maps of ``sam.prefix(images, depth=depth)``, with kept features where they hold and are of that depth."""
    if cache is None or cache.depth != depth or not cache.serves(images):
        return sam.prefix(images, depth=depth).maps
    return cache.features(images).maps


def clock(cache: PrefixCache | None) -> float:
    """Seconds, for differences, that pass as if nothing had been kept: no cost depends on what ran before."""
    return time.perf_counter() + (cache.spared_seconds if cache else 0.0)


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


def _read(path: Path) -> tuple[Features, float] | None:
    """The features and the seconds they took; None where there is no such file, or none that can be read."""
    try:
        with safe_open(path, framework="pt") as file:
            early = file.get_tensor("early") if "early" in file.keys() else None  # noqa: SIM118 (no container)
            features, seconds = Features(file.get_tensor("maps"), early), float(file.metadata()["seconds"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None
    with suppress(OSError):  # another process may have removed it, or own it
        os.utime(path)  # the time of last use, which file systems rarely note
    return features, seconds


def _evict(folder: Path, *, limit_bytes: int) -> None:
    """Remove what was left half written; and, from fifteen sixteenths on, the least recently used to seven eighths."""
    entries = []
    for path in folder.iterdir() if folder.is_dir() else ():
        with suppress(OSError):  # another process may have removed it
            facts = path.stat()
            if path.suffix == _ENDING:
                entries.append((facts.st_mtime_ns, facts.st_size, path))
            elif time.time() - facts.st_mtime > _STALE_SECONDS:
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
