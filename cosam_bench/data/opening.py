"""Opening streams and domains: files found, hashed, checked and divided, or images drawn."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cosam_bench.core.errors import CosamError, unknown_name
from cosam_bench.core.seeds import derived_seed
from cosam_bench.data.cards import Card
from cosam_bench.data.foreground import Foreground
from cosam_bench.data.image_files import open_files
from cosam_bench.data.leakage import check_leaks
from cosam_bench.data.pairing import NOT_HERE, refuse, why_missing
from cosam_bench.data.samples import Domain, Entry, Manifest, Part, Pixels, Split, empty_split
from cosam_bench.data.streams import Stream


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


def open_stream(stream: Stream, *, foreground: Foreground | None = None) -> OpenedStream:
    """The stream with its data: files are found, hashed and checked, synthetic images are drawn.

    No seed of a run enters: data and splits are fixed by the cards, so every run sees the same.

    Args:
        stream: the stream.
        foreground: a protocol's own rule for all masks that are images; none: each card's.

    Raises:
        CosamError: data is missing (all domains at once, each with the next step), does not fit, or one
            domain trains on an image that another is tested on.
    """
    cards = [stream.card(name) for name in (*stream.order, *stream.retention)]
    _check_all_here(stream, cards)
    if foreground is not None:
        cards = [card.model_copy(update={"foreground": foreground}) for card in cards]
    opened = [(card, open_domain(card, is_retention=card.name in stream.retention)) for card in cards]
    check_leaks(opened, stream=stream.name)
    domains = tuple(domain for _, domain in opened)
    learned = len(stream.order)
    return OpenedStream(stream.name, domains=domains[:learned], retention=domains[learned:])


def _check_all_here(stream: Stream, cards: Sequence[Card]) -> None:
    missing = [(card, fault) for card in cards if card.kind == "files" and (fault := why_missing(card))]
    if len(missing) == 1:
        refuse(missing[0][0], [missing[0][1]])
    if missing:
        lines = [f"  {card.name}: {fault.removeprefix(f'{NOT_HERE}: ')}" for card, fault in missing]
        head = f"Stream {stream.name!r}: the data of {len(missing)} of its {len(cards)} domains is missing."
        head += " `cosam-bench domains NAME` tells more of each."
        raise CosamError("\n".join([head, *lines]))


def open_domain(card: Card, *, is_retention: bool = False) -> Domain:
    """The domain that a card describes, its data checked.

    Args:
        card: the card.
        is_retention: open the test part alone.

    Raises:
        CosamError: what is missing or does not fit.
    """
    train, test = _synthetic(card) if card.kind == "synthetic" else open_files(card)
    if is_retention:
        train = empty_split(card.name, part="train")
    elif not len(train):
        refuse(card, ["its split leaves nothing to train on; correct it or list the domain as retention"])
    if not len(test):
        refuse(card, ["its split leaves nothing to test on; correct it"])
    return Domain(card.name, card.full_title, train, test)


def _synthetic(card: Card) -> tuple[Split, Split]:
    from cosam_bench.data.synthetic import GENERATORS

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
    from cosam_bench.data.synthetic import GENERATORS

    draw = GENERATORS[card.generator]
    for index in range(card.split.counts[part]):
        seed = derived_seed(card.split.seed, "synthetic", card.generator, part, index)
        image, mask = draw(np.random.default_rng(seed), card.size)
        if not mask.any():
            raise CosamError(f"The generator {card.generator!r} drew an empty mask ({part}, {index}).")
        yield torch.from_numpy(image).permute(2, 0, 1).contiguous(), torch.from_numpy(mask)
