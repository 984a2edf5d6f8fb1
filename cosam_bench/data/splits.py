"""Dividing a domain's images into training and test, so that no image is in both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cosam_bench.core.hashing import sha256_text
from cosam_bench.data.cards import Card, Part
from cosam_bench.data.faults import first_few, refuse
from cosam_bench.data.image_groups import groups_of
from cosam_bench.data.pairing import Pair
from cosam_bench.data.samples import Entry
from cosam_bench.data.split_lists import ImageNames, read_list

PARTS: tuple[Part, ...] = ("train", "test")


@dataclass(frozen=True)
class FileSample:
    """One sample on disk.

    Attributes:
        pair: its files.
        entry: its line in the manifest.
        component: number of its connected component or shape, from 1; 0 for the whole mask.
        has_ignored: an annotation file marks pixels of the image that are neither foreground nor background.
    """

    pair: Pair
    entry: Entry
    component: int = 0
    has_ignored: bool = False


def divide(card: Card, samples: Sequence[FileSample]) -> tuple[list[FileSample], list[FileSample]]:
    """The training and the test samples, each in the order of ``samples``.

    Raises:
        CosamError: there are too few samples, a listed image is missing, or an image is in both parts.
    """
    train, test = assign_parts(card, samples)
    if faults := shared_images(train, test):
        advice = "Remove one of each, give the split by lists, or add without_test = true to a split by folders."
        refuse(card, faults, advice=advice)
    return train, test


def assign_parts(card: Card, samples: Sequence[FileSample]) -> tuple[list[FileSample], list[FileSample]]:
    """The training and the test samples; an image with two names may still be in both.

    Raises:
        CosamError: there are too few samples, or a listed image is missing.
    """
    parts = _parts(card, samples)
    train = [sample for sample in samples if parts.get(sample.entry.key) == "train"]
    test = [sample for sample in samples if parts.get(sample.entry.key) == "test"]
    if card.split.without_test:
        tested = {sample.entry.image_sha256 for sample in test}
        train = [sample for sample in train if sample.entry.image_sha256 not in tested]
    return train, test


def shared_images(train: Sequence[FileSample], test: Sequence[FileSample]) -> list[str]:
    """One line per training image whose bytes are those of a test image."""
    tested = {sample.entry.image_sha256: sample.pair.key for sample in test}
    twins = {sample.pair.key: tested.get(sample.entry.image_sha256) for sample in train}
    return [f"{key} in training and {twin} in test are the same image" for key, twin in twins.items() if twin]


def _parts(card: Card, samples: Sequence[FileSample]) -> dict[str, Part | None]:
    """The part of each sample by its key; samples that neither part wants have none."""
    if card.split.kind == "undecided":
        refuse(
            card, ["it is undecided which of its images are for testing"], advice="Choose one of the splits offered."
        )
    if card.split.kind in ("folders", "manifest"):
        return {sample.entry.key: sample.pair.part for sample in samples}
    if card.split.kind == "lists":
        listed = _by_lists(card, [sample.pair for sample in samples])
        return {sample.entry.key: listed.get(sample.pair.key) for sample in samples}
    units = _units(card, samples)
    ranked = sorted(units, key=lambda unit: _rank(unit, seed=card.split.seed))
    if card.split.kind == "counts":
        return _by_counts(card, ranked, units)
    return _by_ratio(card, ranked, units)


@dataclass(frozen=True)
class _Unit:
    """Images that stay in one part: one, or those of a group.

    Attributes:
        images: their number.
        samples: the keys of their samples.
    """

    images: int
    samples: tuple[str, ...]


def _units(card: Card, samples: Sequence[FileSample]) -> dict[str, _Unit]:
    """What is divided, by the name that ranks it: an image's key, or the name of a group."""
    by_image: dict[str, list[str]] = {}
    for sample in samples:
        by_image.setdefault(sample.pair.key, []).append(sample.entry.key)
    if not card.group:
        return {image: _Unit(1, tuple(keys)) for image, keys in by_image.items()}
    groups, others = groups_of(card.group, list(by_image))
    if others:
        refuse(card, [f"group = {card.group!r} does not fit {len(others)} of its images: {first_few(others)}"])
    members: dict[str, list[str]] = {}
    for image, group in groups.items():
        members.setdefault(group, []).append(image)
    return {
        group: _Unit(len(images), tuple(key for image in images for key in by_image[image]))
        for group, images in members.items()
    }


def parts_by_name(card: Card, pairs: Sequence[Pair]) -> dict[str, Part]:
    """The part of each image by its key, as far as that is known before any file is read.

    Nothing is known of splits by numbers or shares, which count only images whose masks hold enough foreground, nor
    with ``without_test``, which compares the bytes of images.
    """
    if card.split.without_test:
        return {}
    if card.split.kind == "lists":
        return _by_lists(card, pairs)
    return {pair.key: pair.part for pair in pairs if pair.part is not None}


def _rank(image: str, *, seed: int) -> str:
    return sha256_text(f"{seed}/{image}")


def _by_ratio(card: Card, ranked: Sequence[str], units: Mapping[str, _Unit]) -> dict[str, Part | None]:
    """Whole units go to test until it has its share of the images; at least one is left for training."""
    share, images = card.split.test, sum(unit.images for unit in units.values())
    wanted, most = images, len(ranked)
    if isinstance(share, float | int) and share < 1:
        if len(ranked) < 2:
            what = "group of images" if card.group else "image"
            refuse(card, [f"{len(ranked)} {what} cannot be divided into training and test; add images"])
        wanted, most = max(round(share * images), 1), len(ranked) - 1
    parts: dict[str, Part | None] = {}
    tested = 0
    for rank, name in enumerate(ranked):
        part: Part = "test" if tested < wanted and rank < most else "train"
        tested += units[name].images if part == "test" else 0
        parts |= dict.fromkeys(units[name].samples, part)
    return parts


def _by_counts(card: Card, ranked: Sequence[str], units: Mapping[str, _Unit]) -> dict[str, Part | None]:
    """Whole units go to test until it is full, then to training; the rest is left out."""
    names = iter(ranked)
    parts: dict[str, Part | None] = {}
    for part, wanted in card.split.counts.items():
        chosen: list[str] = []
        while len(chosen) < wanted and (name := next(names, None)) is not None:
            chosen += units[name].samples
        if len(chosen) < wanted:
            refuse(card, [_too_few(card, units)])
        parts |= dict.fromkeys(chosen[:wanted], part)
    return parts


def _too_few(card: Card, units: Mapping[str, _Unit]) -> str:
    images, total = sum(unit.images for unit in units.values()), sum(len(unit.samples) for unit in units.values())
    asked = f"{card.split.train} training and {card.split.test} test samples"
    groups = f" in {len(units)} groups, of which each stays in one part," if card.group else ""
    return f"its split asks for {asked}, but {images} images{groups} hold {total}; ask for fewer"


def _by_lists(card: Card, pairs: Sequence[Pair]) -> dict[str, Part]:
    """The part of each listed image by its key."""
    names = ImageNames(pairs)
    parts: dict[str, Part] = {}
    faults: list[str] = []
    lists = [(part, path) for part in PARTS for path in card.split.paths(part)]
    lines = [(part, path, line) for part, path in lists for line in _lines(card, path)]
    for part, path, line in lines:
        keys = names.keys(line)
        if len(keys) != 1:
            faults.append(f"{path} lists {line}, which is the name of {len(keys)} images")
        elif parts.setdefault(key := next(iter(keys)), part) != part:
            faults.append(f"{key} is listed for training and for test")
    if faults:
        refuse(card, faults)
    return parts


def _lines(card: Card, path: str) -> list[str]:
    try:
        return read_list(Path(card.root) / path)
    except (OSError, ValueError, TypeError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        refuse(card, [f"its list {Path(card.root) / path} cannot be read: {reason}"])
