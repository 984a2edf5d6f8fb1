"""Dividing a domain's images into training and test, so that no image is in both."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cosam_bench.core.hashing import sha256_text
from cosam_bench.core.reading import read_text
from cosam_bench.data.cards import Card, Part
from cosam_bench.data.faults import refuse
from cosam_bench.data.pairing import Pair
from cosam_bench.data.samples import Entry

_LIST_BYTES = 1 << 28  # a million names of 256 bytes
PARTS: tuple[Part, ...] = ("train", "test")


@dataclass(frozen=True)
class FileSample:
    """One sample on disk.

    Attributes:
        pair: its files.
        entry: its line in the manifest.
        component: number of its connected component or shape, from 1; 0 for the whole mask.
    """

    pair: Pair
    entry: Entry
    component: int = 0


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
    if card.split.kind in ("folders", "manifest"):
        return {sample.entry.key: sample.pair.part for sample in samples}
    if card.split.kind == "lists":
        listed = _by_lists(card, [sample.pair for sample in samples])
        return {sample.entry.key: listed.get(sample.pair.key) for sample in samples}
    by_image: dict[str, list[str]] = {}
    for sample in samples:
        by_image.setdefault(sample.pair.key, []).append(sample.entry.key)
    ranked = sorted(by_image, key=lambda image: _rank(image, seed=card.split.seed))
    if card.split.kind == "counts":
        return _by_counts(card, ranked, by_image)
    return _by_ratio(card, ranked, by_image)


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


def _by_ratio(card: Card, ranked: Sequence[str], by_image: Mapping[str, Sequence[str]]) -> dict[str, Part | None]:
    share = card.split.test
    count = len(ranked)
    if isinstance(share, float | int) and share < 1:
        if len(ranked) < 2:
            refuse(card, [f"{len(ranked)} image cannot be divided into training and test; add images"])
        count = min(max(round(share * len(ranked)), 1), len(ranked) - 1)
    parts: dict[str, Part] = {image: "test" if rank < count else "train" for rank, image in enumerate(ranked)}
    return {sample: parts[image] for image in ranked for sample in by_image[image]}


def _by_counts(card: Card, ranked: Sequence[str], by_image: Mapping[str, Sequence[str]]) -> dict[str, Part | None]:
    """Whole images go to test until it is full, then to training; the rest is left out."""
    images = iter(ranked)
    parts: dict[str, Part | None] = {}
    for part, wanted in card.split.counts.items():
        chosen: list[str] = []
        while len(chosen) < wanted and (image := next(images, None)) is not None:
            chosen += by_image[image]
        if len(chosen) < wanted:
            total = sum(map(len, by_image.values()))
            asked = f"{card.split.train} training and {card.split.test} test samples"
            refuse(card, [f"its split asks for {asked}, but {len(ranked)} images hold {total}; ask for fewer"])
        parts |= dict.fromkeys(chosen[:wanted], part)
    return parts


def _by_lists(card: Card, pairs: Sequence[Pair]) -> dict[str, Part]:
    """The part of each listed image by its key."""
    names: dict[str, set[str]] = {}
    for pair in pairs:
        whole = f"{pair.key}{pair.image.suffix}"
        for name in {pair.key, whole, pair.image.name, pair.image.stem}:
            names.setdefault(name, set()).add(pair.key)
    parts: dict[str, Part] = {}
    faults: list[str] = []
    lists = [(part, path) for part in PARTS for path in card.split.paths(part)]
    lines = [(part, path, line) for part, path in lists for line in _lines(card, path)]
    for part, path, line in lines:
        keys = names.get(line, set())
        if len(keys) != 1:
            faults.append(f"{path} lists {line}, which is the name of {len(keys)} images")
        elif parts.setdefault(key := next(iter(keys)), part) != part:
            faults.append(f"{key} is listed for training and for test")
    if faults:
        refuse(card, faults)
    return parts


def _lines(card: Card, path: str) -> list[str]:
    """The names in a list: one per line in a text file, the keys of the object in a JSON file."""
    try:
        text = read_text(Path(card.root) / path, limit_bytes=_LIST_BYTES)
        if path.endswith(".json"):
            return _keys(json.loads(text))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        refuse(card, [f"its list {path} cannot be read: {error}"])
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def _keys(content: object) -> list[str]:
    if not isinstance(content, dict):
        raise TypeError("it does not hold an object whose keys are names")
    return list(content)
