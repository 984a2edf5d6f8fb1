"""Domains of files: images and masks found, hashed, checked against each other and cut into samples."""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from cosam_bench.core.errors import CosamError
from cosam_bench.data.cards import Card
from cosam_bench.data.decoding import decode_image, decode_mask, upright_size
from cosam_bench.data.labelme import SUFFIX, draw_shapes, read_shapes
from cosam_bench.data.pairing import Pair, find_pairs, refuse
from cosam_bench.data.samples import Entry, Manifest, Part, Split
from cosam_bench.data.splits import Item, divide


def open_files(card: Card) -> tuple[Split, Split]:
    """The training and the test part of a domain of files.

    Raises:
        CosamError: files are missing or damaged, or images and masks do not go together.
    """
    pairs = find_pairs(card)
    items: list[Item] = []
    faults: list[str] = []
    left_out = 0
    for pair in pairs:
        try:
            found, too_small = scan_pair(card, pair)
        except CosamError as error:
            faults.append(str(error))
        else:
            items += found
            left_out += too_small
    if faults:
        refuse(card, faults)
    if not items:
        refuse(card, [f"all {len(pairs)} masks are empty; check which pixels are foreground"])
    train, test = divide(card, items)
    return make_split(card, "train", train, left_out), make_split(card, "test", test, left_out)


def components(mask: Tensor) -> Tensor:
    """Connected components (8 neighbours), int64 ``(H, W)``: 0 is background, the first component 1.

    Args:
        mask: bool, ``(H, W)``. Components are numbered in the order of their first pixels, row by row.
    """
    labels, _ = ndimage.label(mask.numpy(), structure=np.ones((3, 3)))
    return torch.from_numpy(labels.astype(np.int64))


@dataclass(frozen=True)
class Files:
    """A source that decodes files."""

    card: Card
    items: tuple[Item, ...]

    def image(self, index: int) -> Tensor:
        """uint8, ``(3, H, W)``."""
        path = self.items[index].pair.image
        return decode_image(read_bytes(path), name=str(path))

    def mask(self, index: int) -> Tensor:
        """bool, ``(H, W)``."""
        item = self.items[index]
        path = item.pair.mask
        if path.suffix != SUFFIX:
            mask = decode_mask(read_bytes(path), name=str(path), foreground=self.card.foreground)
            return components(mask) == item.component if item.component else mask
        size = upright_size(read_bytes(item.pair.image), name=str(item.pair.image))
        shapes = read_shapes(read_bytes(path), name=str(path), size=size)
        if self.card.samples == "polygon":
            return draw_shapes(shapes[item.component - 1 : item.component], size=size)
        mask = draw_shapes(shapes, size=size)
        return components(mask) == item.component if item.component else mask


def read_bytes(path: Path) -> bytes:
    """A file's bytes.

    Raises:
        CosamError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise CosamError(f"{path} cannot be read: {error.strerror}. Is it still there?") from None


def scan_pair(card: Card, pair: Pair) -> tuple[list[Item], int]:
    """The samples of one pair, and how many were left out as too small.

    Raises:
        CosamError: a file cannot be read, or image and mask do not go together.
    """
    image, mask = read_bytes(pair.image), read_bytes(pair.mask)
    size = upright_size(image, name=str(pair.image))
    sizes = sample_sizes(card, pair, mask, size=size)
    hashes = hashlib.sha256(image).hexdigest(), hashlib.sha256(mask).hexdigest()
    found = []
    for number, pixels in sizes.items():
        key = f"{pair.key}#{number}" if number else pair.key
        if pixels >= card.min_pixels:
            found.append(Item(pair, Entry(key, *hashes, pair.image.name, pair.mask.name), number))
    return found, max(len(sizes), 1) - len(found)


def sample_sizes(card: Card, pair: Pair, data: bytes, *, size: tuple[int, int]) -> dict[int, int]:
    """The pixels of each sample by its number; 0 is the number of a whole mask.

    Args:
        card: says how masks are read and cut.
        pair: the files.
        data: the mask file's bytes.
        size: height and width of the upright image.

    Raises:
        CosamError: the mask cannot be read, or does not go with the image.
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
            raise CosamError(
                f"{pair.image.name} is {size[1]} x {size[0]} pixels upright, "
                f"but its mask {pair.mask.name} is {mask.shape[1]} x {mask.shape[0]}"
            )
    if card.samples == "component":
        return dict(enumerate(components(mask).flatten().bincount()[1:].tolist(), start=1))
    return {0: int(mask.sum())}


def make_split(card: Card, part: Part, items: Sequence[Item], left_out: int) -> Split:
    """One part of a card's domain.

    Args:
        card: says how masks are read.
        part: which part.
        items: its samples.
        left_out: samples of the whole domain that were too small.
    """
    rule = f"{card.foreground.model_dump_json(exclude_defaults=True)} {card.samples}"
    manifest = Manifest(tuple(item.entry for item in items), rule, left_out)
    source = Files(card, tuple(items))
    return Split(card.name, part=part, manifest=manifest, source=source, points_file=_points_file(card, part))


def _points_file(card: Card, part: Part) -> Path | None:
    """The published points of one part; None where the card names no file or it is not there."""
    if not card.points:
        return None
    root = Path(card.root)
    names = sorted(glob.glob(card.points.replace("{part}", part), root_dir=root))  # noqa: PTH207, as for images
    found = [root / name for name in names if (root / name).is_file()]
    if len(found) > 1:
        refuse(card, [f"there are several files of published points: {', '.join(map(str, found))}; leave one"])
    return found[0] if found else None
