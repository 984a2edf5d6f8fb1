"""Opening streams and domains: files are found, hashed, checked and divided; synthetic images are drawn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cosam_bench.core.errors import CosamError, unknown_name
from cosam_bench.core.hashing import sha256_bytes
from cosam_bench.data.availability import NOT_HERE, fetching_all, missing_reason
from cosam_bench.data.cards import Card, Part
from cosam_bench.data.faults import refuse
from cosam_bench.data.foreground import Foreground, ProtocolForeground
from cosam_bench.data.image_files import open_files
from cosam_bench.data.leakage import check_leaks
from cosam_bench.data.protocol_files import built_in_protocols, read_protocol
from cosam_bench.data.samples import Domain, Entry, Manifest, Pixels, Split, empty_split
from cosam_bench.data.streams import Stream


@dataclass(frozen=True)
class OpenedStream:
    """A stream whose data has been found, hashed and divided.

    Attributes:
        name: the stream's.
        domains: in the order of learning.
        retention: only tested; their training splits are empty.
    """

    name: str
    domains: tuple[Domain, ...]
    retention: tuple[Domain, ...]


def open_stream(
    stream: Stream, *, foreground: Foreground | None = None, is_training_only: bool = False
) -> OpenedStream:
    """The stream with its data.

    Cards alone determine data and splits, so every run sees the same, whatever its seed.

    Args:
        stream: the stream.
        foreground: a protocol's rule for all masks that are images; None for each card's own. Lossy masks are refused
            under a rule of exact levels or colours, unless a built-in protocol publishes that rule.
        is_training_only: open the training parts alone, and no retention domain; see ``open_domain``.

    Raises:
        CosamError: data is missing (all domains are named, each with the next step) or faulty, or one
            domain trains on an image that another is tested on.
    """
    retention = () if is_training_only else stream.retention
    cards = [stream.card(name) for name in (*stream.order, *retention)]
    _check_none_missing(stream, cards)
    if foreground is not None:
        rule = _as_published(foreground)
        cards = [card.model_copy(update={"foreground": rule}) for card in cards]
    opened = [
        (card, open_domain(card, is_retention=card.name in retention, is_training_only=is_training_only))
        for card in cards
    ]
    check_leaks(opened, stream=stream.name)
    domains = tuple(domain for _, domain in opened)
    learned = len(stream.order)
    return OpenedStream(stream.name, domains=domains[:learned], retention=domains[learned:])


def _as_published(rule: Foreground) -> Foreground:
    """The rule, marked if a built-in protocol has it in one of its modes: then it holds for lossy masks, too."""
    modes = (tables for name in built_in_protocols() for tables in read_protocol(name)[0].values())
    published = [Foreground.model_validate(tables["foreground"]) for tables in modes if "foreground" in tables]
    return ProtocolForeground.model_validate(rule.model_dump()) if rule in published else rule


def _check_none_missing(stream: Stream, cards: Sequence[Card]) -> None:
    missing = [(card, fault) for card in cards if card.kind == "files" and (fault := missing_reason(card))]
    if len(missing) == 1:
        refuse(missing[0][0], [missing[0][1]])
    if missing:
        lines = [f"  {card.name}: {fault.removeprefix(f'{NOT_HERE}: ')}" for card, fault in missing]
        head = f"Stream {stream.name!r}: the data of {len(missing)} of its {len(cards)} domains is missing."
        head += " Run `cosam-bench domains NAME` for details of each."
        if command := fetching_all(stream, [card for card, _ in missing]):
            head += f" To get all: {command}"
        raise CosamError("\n".join([head, *lines]))


def open_domain(card: Card, *, is_retention: bool = False, is_training_only: bool = False) -> Domain:
    """The domain that a card describes, its data checked.

    Args:
        card: the card.
        is_retention: open the test part alone.
        is_training_only: open the training part alone; the test part is then empty. No file of a test image is read
            unless only the contents of all files tell which images are for testing, see ``parts_by_name``.

    Raises:
        CosamError: data is missing or faulty.
    """
    negatives = None
    if is_training_only:
        train, test = _training_part(card), empty_split(card.name, part="test")
    elif card.kind == "synthetic":
        train, test = _synthetic(card)
    else:
        train, test, negatives = open_files(card)
    if faults := empty_parts(len(train), len(test), is_retention=is_retention, is_training_only=is_training_only):
        refuse(card, faults)
    trained = empty_split(card.name, part="train") if is_retention else train
    return Domain(card.name, card.full_title, trained, test, negatives)


def _training_part(card: Card) -> Split:
    if card.kind == "synthetic":
        return _drawn(_with_generator(card), "train")
    return open_files(card, is_training_only=True)[0]


def empty_parts(train: int, test: int, *, is_retention: bool, is_training_only: bool = False) -> list[str]:
    """The faults of a split with these numbers of samples."""
    faults = []
    if not train and not is_retention:
        faults.append("its split leaves nothing to train on; correct it or list the domain as retention")
    if not test and not is_training_only:
        faults.append("its split leaves nothing with foreground to test on; correct it")
    return faults


def _synthetic(card: Card) -> tuple[Split, Split]:
    return _drawn(_with_generator(card), "train"), _drawn(card, "test")


def _with_generator(card: Card) -> Card:
    from cosam_bench.data.synthetic import GENERATORS

    if card.generator not in GENERATORS:
        raise unknown_name("generator of synthetic images", card.generator, GENERATORS)
    return card


def _drawn(card: Card, part: Part) -> Split:
    pairs = list(_draw(card, part))
    entries = []
    for index, (image, mask) in enumerate(pairs):
        image_sha256, mask_sha256 = (sha256_bytes(pixels.numpy().tobytes()) for pixels in (image, mask))
        entries.append(Entry(f"{part}-{index:04d}", image_sha256, mask_sha256))
    source = Pixels(tuple(image for image, _ in pairs), tuple(mask for _, mask in pairs))
    # The pixels are in memory already.
    return Split(card.name, part=part, manifest=Manifest(tuple(entries)), source=source, decoded_bytes=0)


def _draw(card: Card, part: Part) -> Iterator[tuple[Tensor, Tensor]]:
    """Images with their masks; each depends only on generator, part, index and the card's seed."""
    from cosam_bench.data.synthetic import draw_sample

    for index in range(card.split.counts[part]):
        image, mask = draw_sample(card.generator, size=card.size, seed=card.split.seed, part=part, index=index)
        if not mask.any():
            raise CosamError(f"The generator {card.generator!r} drew an empty mask ({part}, {index}).")
        yield torch.from_numpy(image).permute(2, 0, 1).contiguous(), torch.from_numpy(mask)
