"""Opening streams and domains: files found, hashed, checked and divided, or images drawn."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from cosam_bench.domains.cards import Card, Stream
from cosam_bench.domains.decode import decode_image, decode_mask, upright_size
from cosam_bench.domains.pairs import Pair, find_pairs, refuse
from cosam_bench.domains.samples import Domain, Entry, Manifest, Part, Pixels, Split, empty_split
from cosam_bench.domains.splits import Item, divide
from cosam_bench.errors import CosamError, unknown_name
from cosam_bench.randomness import derived_seed


@dataclass(frozen=True)
class OpenedStream:
    """A stream whose data has been found, hashed and divided.

    Attributes:
        name: the stream's.
        domains: in the order of learning.
        retention: only ever tested; their training splits are empty.
    """

    name: str
    domains: tuple[Domain, ...]
    retention: tuple[Domain, ...]


def open_stream(stream: Stream) -> OpenedStream:
    """The stream with its data: files are found, hashed and checked, synthetic images are drawn.

    No seed of a run enters: data and splits are fixed by the cards, so every run sees the same.

    Raises:
        CosamError: what is missing or does not fit, domain by domain.
    """
    return OpenedStream(
        stream.name,
        domains=tuple(open_domain(stream.card(name)) for name in stream.order),
        retention=tuple(open_domain(stream.card(name), is_retention=True) for name in stream.retention),
    )


def open_domain(card: Card, *, is_retention: bool = False) -> Domain:
    """The domain that a card describes, its data checked.

    Args:
        card: the card.
        is_retention: open the test part alone.

    Raises:
        CosamError: what is missing or does not fit.
    """
    train, test = _synthetic(card) if card.kind == "synthetic" else _files(card)
    if is_retention:
        train = empty_split(card.name, part="train")
    elif not len(train):
        refuse(card, ["its split leaves nothing to train on; correct it or list the domain as retention"])
    if not len(test):
        refuse(card, ["its split leaves nothing to test on; correct it"])
    return Domain(card.name, card.title or card.name, train, test)


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
        return decode_image(_bytes(path), name=str(path))

    def mask(self, index: int) -> Tensor:
        """bool, ``(H, W)``."""
        item = self.items[index]
        path = item.pair.mask
        mask = decode_mask(_bytes(path), name=str(path), foreground=self.card.foreground)
        return components(mask) == item.component if item.component else mask


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CosamError(f"{path} cannot be read: {error.strerror}. Is it still there?") from None


def _files(card: Card) -> tuple[Split, Split]:
    pairs = find_pairs(card)
    items: list[Item] = []
    faults: list[str] = []
    left_out = 0
    for pair in pairs:
        try:
            found, empty = _scan(card, pair)
        except CosamError as error:
            faults.append(str(error))
        else:
            items += found
            left_out += empty
    if faults:
        refuse(card, faults)
    if not items:
        refuse(card, [f"all {len(pairs)} masks are empty; check which pixels are foreground"])
    train, test = divide(card, items)
    return _file_split(card, "train", train, left_out), _file_split(card, "test", test, left_out)


def _scan(card: Card, pair: Pair) -> tuple[list[Item], int]:
    """The samples of one pair, and how many were left out as too small."""
    image, mask_file = _bytes(pair.image), _bytes(pair.mask)
    mask = decode_mask(mask_file, name=str(pair.mask), foreground=card.foreground)
    size = upright_size(image, name=str(pair.image))
    if size != tuple(mask.shape):
        raise CosamError(
            f"{pair.image.name} is {size[1]} x {size[0]} pixels upright, "
            f"but its mask {pair.mask.name} is {mask.shape[1]} x {mask.shape[0]}"
        )
    hashes = hashlib.sha256(image).hexdigest(), hashlib.sha256(mask_file).hexdigest()
    if card.samples == "component":
        sizes = components(mask).flatten().bincount()[1:]
        large = ((sizes >= card.min_pixels).nonzero().flatten() + 1).tolist()
        found = [Item(pair, Entry(f"{pair.key}#{number}", *hashes), number) for number in large]
        return found, max(len(sizes), 1) - len(found)
    if int(mask.sum()) < card.min_pixels:
        return [], 1
    return [Item(pair, Entry(pair.key, *hashes))], 0


def _file_split(card: Card, part: Part, items: Sequence[Item], left_out: int) -> Split:
    rule = f"{card.foreground.model_dump_json(exclude_defaults=True)} {card.samples}"
    manifest = Manifest(tuple(item.entry for item in items), rule, left_out)
    return Split(card.name, part=part, manifest=manifest, source=Files(card, tuple(items)))


def _synthetic(card: Card) -> tuple[Split, Split]:
    from cosam_bench.domains.synthetic import GENERATORS

    if card.generator not in GENERATORS:
        raise unknown_name("generator of synthetic images", card.generator, GENERATORS)
    return _drawn(card, "train"), _drawn(card, "test")


def _drawn(card: Card, part: Part) -> Split:
    pairs = list(_draw(card, part))
    entries = []
    for index, (image, mask) in enumerate(pairs):
        hashes = (hashlib.sha256(pixels.numpy().tobytes()).hexdigest() for pixels in (image, mask))
        entries.append(Entry(f"{part}-{index:04d}", *hashes))
    source = Pixels(tuple(image for image, _ in pairs), tuple(mask for _, mask in pairs))
    # The pixels lie in memory already.
    return Split(card.name, part=part, manifest=Manifest(tuple(entries)), source=source, decoded_bytes=0)


def _draw(card: Card, part: Part) -> Iterator[tuple[Tensor, Tensor]]:
    """Image and mask by image and mask; each depends on generator, part, index and the card's seed alone."""
    from cosam_bench.domains.synthetic import GENERATORS

    draw = GENERATORS[card.generator]
    for index in range(card.split.counts[part]):
        seed = derived_seed(card.split.seed, "synthetic", card.generator, part, index)
        image, mask = draw(np.random.default_rng(seed), card.size)
        if not mask.any():
            raise CosamError(f"The generator {card.generator!r} drew an empty mask ({part}, {index}).")
        yield torch.from_numpy(image).permute(2, 0, 1).contiguous(), torch.from_numpy(mask)
