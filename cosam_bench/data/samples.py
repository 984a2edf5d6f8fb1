"""Samples, splits and domains: what methods train on and are scored on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock
from typing import Protocol, overload

from torch import Tensor

from cosam_bench.core.errors import CosamError
from cosam_bench.core.hashing import sha256_json, sha256_text
from cosam_bench.data.cards import Part

DECODED_BYTES = 1 << 30  # of decoded samples that one split keeps: about a thousand at 512 x 512


@dataclass(frozen=True)
class Sample:
    """One image and the mask to be found in it.

    Attributes:
        key: unique in its split.
        image: uint8, ``(3, H, W)``, RGB, at the image's own size.
        mask: bool, ``(H, W)``, true on at least one pixel unless the domain's card keeps images with empty masks.
        ignored: bool, ``(H, W)``, pixels that count neither in losses nor in metrics, and are not in the mask; None
            if all count.
    """

    key: str
    image: Tensor
    mask: Tensor
    ignored: Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of all pixels."""
        return self.image.nbytes + self.mask.nbytes + (0 if self.ignored is None else self.ignored.nbytes)


@dataclass(frozen=True)
class Entry:
    """One sample in a manifest.

    Attributes:
        key: unique in its split.
        image_sha256: of the file's bytes, or of the pixels if drawn.
        mask_sha256: likewise.
        image_name: the image file's name; empty if drawn. Names do not enter the manifest's hash.
        mask_name: the mask file's name; empty if drawn.
        is_empty: whether the mask has no foreground, which its hash says, too.
        group: the images that the card keeps together with this one; empty if it names no groups. Like names of files,
            it does not enter the manifest's hash.
    """

    key: str
    image_sha256: str
    mask_sha256: str
    image_name: str = ""
    mask_name: str = ""
    is_empty: bool = field(default=False, kw_only=True)
    group: str = field(default="", kw_only=True)


@dataclass(frozen=True)
class Manifest:
    """The exact content of a split.

    Attributes:
        entries: one per sample, in order.
        rule: how masks are read from their files, as text; another rule makes another split.
        left_out: number of samples of the whole domain with less foreground than the card's ``min_pixels``.
        has_ignored: whether masks may hold ignored pixels; the rule says which.
    """

    entries: tuple[Entry, ...] = ()
    rule: str = ""
    left_out: int = 0
    has_ignored: bool = False

    @property
    def empty_count(self) -> int:
        """The number of samples whose mask has no foreground."""
        return sum(entry.is_empty for entry in self.entries)

    @property
    def digest(self) -> str:
        """sha256 over the rule and all entries, in order."""
        rows = [[entry.key, entry.image_sha256, entry.mask_sha256] for entry in self.entries]
        return sha256_json([self.rule, rows])


class PixelSource(Protocol):
    """Gives a split's pixels by position."""

    def image(self, index: int) -> Tensor:
        """uint8, ``(3, H, W)``."""
        ...

    def mask(self, index: int) -> Tensor:
        """bool, ``(H, W)``."""
        ...

    def ignored(self, index: int) -> Tensor | None:
        """bool, ``(H, W)``; None if all pixels count. Asked only if the manifest has ignored pixels."""
        ...


class Split(Sequence[Sample]):
    """The training or the test part of a domain; images are decoded on access.

    Decoded samples are kept until they fill ``decoded_bytes``; the others are decoded again each time. Several threads
    may read at the same time.
    """

    def __init__(
        self,
        domain: str,
        *,
        part: Part,
        manifest: Manifest,
        source: PixelSource,
        decoded_bytes: int = DECODED_BYTES,
        points_file: Path | None = None,
    ) -> None:
        """A split of ``domain`` with the samples of ``manifest``, whose pixels ``source`` gives.

        Args:
            domain: the domain's name.
            part: which part of it this is.
            manifest: the samples.
            source: gives the pixels.
            decoded_bytes: limit of the decoded samples to keep.
            points_file: the file of point prompts that was published with the data, if any; its keys are
                names of mask files, see ``manifest.entries``, or names with their stems.
        """
        self.domain = domain
        self.part: Part = part
        self.manifest = manifest
        self.keys = tuple(entry.key for entry in manifest.entries)
        self.digest = manifest.digest
        self.points_file = points_file
        self._source = source
        self._kept: dict[int, Sample] = {}
        self._free_bytes = decoded_bytes
        self._keeping = Lock()

    def __len__(self) -> int:
        """The number of samples."""
        return len(self.keys)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...

    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        """The sample at a position, or the samples of a slice."""
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        position = range(len(self))[index]
        sample = self.read(position)
        with self._keeping:
            if position not in self._kept and sample.nbytes <= self._free_bytes:
                self._free_bytes -= sample.nbytes
                self._kept[position] = sample
        return sample

    def read(self, index: int) -> Sample:
        """The sample at a position, without keeping it."""
        position = range(len(self))[index]
        if kept := self._kept.get(position):
            return kept
        image, mask = self._source.image(position), self._source.mask(position)
        return Sample(self.keys[position], image, mask, self.ignored(position))

    def mask(self, index: int) -> Tensor:
        """The mask alone, bool ``(H, W)``, without decoding the image."""
        position = range(len(self))[index]
        kept = self._kept.get(position)
        return self._source.mask(position) if kept is None else kept.mask

    def ignored(self, index: int) -> Tensor | None:
        """The pixels that count neither in losses nor in metrics, bool ``(H, W)``; None if all count."""
        if not self.manifest.has_ignored:
            return None
        position = range(len(self))[index]
        kept = self._kept.get(position)
        return self._source.ignored(position) if kept is None else kept.ignored

    def __repr__(self) -> str:
        """Domain, part and size."""
        return f"Split({self.domain!r}, part={self.part!r}, samples={len(self)})"


@dataclass(frozen=True)
class Domain:
    """One domain of a stream.

    Attributes:
        name: as on its card.
        title: one line for people.
        train: empty for a retention domain.
        test: never empty; all its masks have foreground.
        negatives: test samples whose masks have none; None unless the card keeps such images and there are some.
    """

    name: str
    title: str
    train: Split
    test: Split
    negatives: Split | None = None

    @property
    def digest(self) -> str:
        """sha256 over all splits: equal digests mean equal data, divided equally."""
        splits = (self.train, self.test) if self.negatives is None else (self.train, self.test, self.negatives)
        return sha256_text("|".join(split.digest for split in splits))


@dataclass(frozen=True)
class Pixels:
    """A source in memory."""

    images: tuple[Tensor, ...] = ()
    masks: tuple[Tensor, ...] = ()

    def image(self, index: int) -> Tensor:
        """uint8, ``(3, H, W)``."""
        return self.images[index]

    def mask(self, index: int) -> Tensor:
        """bool, ``(H, W)``."""
        return self.masks[index]

    def ignored(self, index: int) -> None:
        """All pixels of images in memory count."""


def empty_split(domain: str, *, part: Part) -> Split:
    """A split without samples."""
    return Split(domain, part=part, manifest=Manifest(), source=Pixels())


def union(domains: Iterable[Domain], name: str) -> Split:
    """All training splits as one; keys get the name of their domain as a prefix.

    Raises:
        CosamError: none of them has a training sample.
    """
    splits = tuple(domain.train for domain in domains)
    entries = tuple(
        replace(entry, key=f"{split.domain}/{entry.key}") for split in splits for entry in split.manifest.entries
    )
    if not entries:
        raise CosamError(f"The union {name!r} has no training samples. Give domains that are trained on.")
    rule = json.dumps([split.manifest.rule for split in splits])
    left_out = sum(split.manifest.left_out for split in splits)
    manifest = Manifest(entries, rule, left_out, any(split.manifest.has_ignored for split in splits))
    # The parts keep what they decode; a second copy here would be useless.
    return Split(name, part="train", manifest=manifest, source=_Joined(splits), decoded_bytes=0)


@dataclass(frozen=True)
class _Joined:
    splits: tuple[Split, ...]

    def image(self, index: int) -> Tensor:
        split, position = self._locate(index)
        return split[position].image

    def mask(self, index: int) -> Tensor:
        split, position = self._locate(index)
        return split.mask(position)

    def ignored(self, index: int) -> Tensor | None:
        split, position = self._locate(index)
        return split.ignored(position)

    def _locate(self, index: int) -> tuple[Split, int]:
        for split in self.splits:
            if index < len(split):
                return split, index
            index -= len(split)
        raise IndexError(index)
