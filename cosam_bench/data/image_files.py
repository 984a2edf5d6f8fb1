"""Domains of files: images and masks are found, hashed, compared and divided into samples."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from cosam_bench.core.errors import CosamError
from cosam_bench.core.hashing import sha256_bytes
from cosam_bench.data.cards import Card, Part
from cosam_bench.data.decoding import decode_image, decode_mask, upright_size
from cosam_bench.data.faults import refuse
from cosam_bench.data.labelme import SUFFIX, draw_shapes, read_shapes
from cosam_bench.data.pairing import Pair, find_pairs
from cosam_bench.data.samples import Entry, Manifest, Split
from cosam_bench.data.splits import FileSample, divide


class SizeMismatch(CosamError):
    """A mask does not have the size of its image."""


def open_files(card: Card) -> tuple[Split, Split]:
    """The training and the test part of a domain of files.

    Raises:
        CosamError: files are missing or damaged, or images and masks do not fit.
    """
    pairs = find_pairs(card)
    samples: list[FileSample] = []
    faults: list[str] = []
    left_out = 0
    for pair in pairs:
        try:
            found = scan_pair(card, pair)
        except CosamError as error:
            faults.append(str(error))
        else:
            samples += found.samples
            left_out += found.left_out
    if faults:
        refuse(card, faults)
    if not samples:
        refuse(card, [no_samples(card, len(pairs))])
    train, test = divide(card, samples)
    return make_split(card, "train", train, left_out), make_split(card, "test", test, left_out)


def no_samples(card: Card, count: int) -> str:
    """The fault of a domain whose masks have too little foreground."""
    little = "are empty" if card.min_pixels == 1 else f"have fewer than {card.min_pixels} foreground pixels"
    return f"all {count} masks {little}; check which pixels are foreground"


def components(mask: Tensor) -> Tensor:
    """Connected components (8 neighbours), int64 ``(H, W)``: 0 is background, the first component 1.

    Args:
        mask: bool, ``(H, W)``. Components are numbered in the order of their first pixels, row by row.
    """
    labels, _ = ndimage.label(mask.numpy(), structure=np.ones((3, 3)))
    return torch.from_numpy(labels.astype(np.int64))


@dataclass(frozen=True)
class FilePixels:
    """Decodes the files of samples."""

    card: Card
    samples: tuple[FileSample, ...]

    def image(self, index: int) -> Tensor:
        """uint8, ``(3, H, W)``."""
        path = self.samples[index].pair.image
        return decode_image(read_bytes(path), name=str(path))

    def mask(self, index: int) -> Tensor:
        """bool, ``(H, W)``."""
        sample = self.samples[index]
        path = sample.pair.mask
        if path.suffix != SUFFIX:
            mask = decode_mask(read_bytes(path), name=str(path), foreground=self.card.foreground)
            return components(mask) == sample.component if sample.component else mask
        size = upright_size(read_bytes(sample.pair.image), name=str(sample.pair.image))
        shapes = read_shapes(read_bytes(path), name=str(path), size=size)
        if self.card.samples == "polygon":
            return draw_shapes(shapes[sample.component - 1 : sample.component], size=size)
        mask = draw_shapes(shapes, size=size)
        return components(mask) == sample.component if sample.component else mask


def read_bytes(path: Path) -> bytes:
    """A file's bytes.

    Raises:
        CosamError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise CosamError(f"{path} cannot be read: {error.strerror}. Is it still there?") from None


@dataclass(frozen=True)
class PairScan:
    """The samples of one pair.

    Attributes:
        samples: those with enough foreground.
        left_out: the number of the others, at least one if there are no samples.
        is_empty: the mask has no foreground at all.
    """

    samples: tuple[FileSample, ...]
    left_out: int
    is_empty: bool


def scan_pair(card: Card, pair: Pair) -> PairScan:
    """Hash both files of a pair, and find its samples; the image is not decoded.

    Raises:
        SizeMismatch: the mask does not have the image's size.
        CosamError: a file cannot be read, or the mask is not what the card says.
    """
    image, mask = read_bytes(pair.image), read_bytes(pair.mask)
    size = upright_size(image, name=str(pair.image))
    sizes = _sample_sizes(card, pair, mask, size=size)
    hashes = sha256_bytes(image), sha256_bytes(mask)
    found = []
    for number, pixels in sizes.items():
        key = f"{pair.key}#{number}" if number else pair.key
        if pixels >= card.min_pixels:
            found.append(FileSample(pair, Entry(key, *hashes, pair.image.name, pair.mask.name), number))
    return PairScan(tuple(found), max(len(sizes), 1) - len(found), is_empty=not any(sizes.values()))


def _sample_sizes(card: Card, pair: Pair, data: bytes, *, size: tuple[int, int]) -> dict[int, int]:
    """The pixels of each sample by its number; 0 is the number of a whole mask.

    Args:
        card: says how masks are read and divided.
        pair: the files.
        data: the mask file's bytes.
        size: height and width of the upright image.
    """
    if pair.mask.suffix == SUFFIX:
        shapes = read_shapes(data, name=str(pair.mask), size=size)
        if card.samples == "polygon":
            return {n: int(draw_shapes([shape], size=size).sum()) for n, shape in enumerate(shapes, start=1)}
        mask = draw_shapes(shapes, size=size)
    else:
        if card.samples == "polygon":
            raise CosamError(f'{pair.mask.name} is an image; samples = "polygon" needs labelme files (.json)')
        mask = decode_mask(data, name=str(pair.mask), foreground=card.foreground)
        if size != tuple(mask.shape):
            raise SizeMismatch(
                f"{pair.image.name} is {size[1]} x {size[0]} pixels upright, "
                f"but its mask {pair.mask.name} is {mask.shape[1]} x {mask.shape[0]}"
            )
    if card.samples == "component":
        return dict(enumerate(components(mask).flatten().bincount()[1:].tolist(), start=1))
    return {0: int(mask.sum())}


def make_split(card: Card, part: Part, samples: Sequence[FileSample], left_out: int) -> Split:
    """One part of a card's domain.

    Args:
        card: says how masks are read.
        part: which part.
        samples: its samples.
        left_out: number of samples of the whole domain that were too small.

    Raises:
        CosamError: there are several files of published points for this part.
    """
    rule = f"{card.foreground.model_dump_json(exclude_defaults=True)} {card.samples}"
    manifest = Manifest(tuple(sample.entry for sample in samples), rule, left_out)
    source = FilePixels(card, tuple(samples))
    return Split(card.name, part=part, manifest=manifest, source=source, points_file=_points_file(card, part))


def _points_file(card: Card, part: Part) -> Path | None:
    """The published points of one part; None if the card names no file or the file is missing."""
    if not card.points:
        return None
    root = Path(card.root)
    names = sorted(glob.glob(card.points.replace("{part}", part), root_dir=root))  # noqa: PTH207, as for images
    found = [root / name for name in names if (root / name).is_file()]
    if len(found) > 1:
        refuse(card, [f"there are several files of published points: {', '.join(map(str, found))}; keep one"])
    return found[0] if found else None
