"""Dividing a domain's images into training and test, so that no image lies in both."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cosam_bench.data.cards import Card
from cosam_bench.data.pairing import Pair, refuse
from cosam_bench.data.samples import Entry, Part

PARTS: tuple[Part, ...] = ("train", "test")


@dataclass(frozen=True)
class Item:
    """One sample on disk.

    Attributes:
        pair: its files.
        entry: its line in the manifest.
        component: number of the connected component that it is, from 1; 0 for the whole mask.
    """

    pair: Pair
    entry: Entry
    component: int = 0


def divide(card: Card, items: Sequence[Item]) -> tuple[list[Item], list[Item]]:
    """The training and the test samples, each in the order of ``items``.

    Raises:
        CosamError: there are too few samples, a listed image is not there, or an image lies in both parts.
    """
    parts = _parts(card, items)
    train = [item for item in items if parts.get(item.entry.key) == "train"]
    test = [item for item in items if parts.get(item.entry.key) == "test"]
    if card.split.without_test:
        tested = {item.entry.image_sha256 for item in test}
        train = [item for item in train if item.entry.image_sha256 not in tested]
    _check_apart(card, train, test)
    return train, test


def _parts(card: Card, items: Sequence[Item]) -> dict[str, str]:
    """``train`` or ``test`` by sample key; samples that neither part wants are missing."""
    if card.split.kind == "folders":
        return {item.entry.key: item.pair.part or "" for item in items}
    if card.split.kind == "lists":
        listed = _listed(card, [item.pair for item in items])
        return {item.entry.key: listed.get(item.pair.key, "") for item in items}
    by_image: dict[str, list[str]] = {}
    for item in items:
        by_image.setdefault(item.pair.key, []).append(item.entry.key)
    ranked = sorted(by_image, key=lambda image: _rank(image, seed=card.split.seed))
    if card.split.kind == "counts":
        return _by_counts(card, ranked, by_image)
    return _by_ratio(card, ranked, by_image)


def _rank(image: str, *, seed: int) -> str:
    return hashlib.sha256(f"{seed}/{image}".encode()).hexdigest()


def _by_ratio(card: Card, ranked: Sequence[str], by_image: Mapping[str, Sequence[str]]) -> dict[str, str]:
    share = card.split.test
    count = len(ranked)
    if isinstance(share, float | int) and share < 1:
        if len(ranked) < 2:
            refuse(card, [f"{len(ranked)} image cannot be divided into training and test"])
        count = min(max(round(share * len(ranked)), 1), len(ranked) - 1)
    parts = {image: "test" if rank < count else "train" for rank, image in enumerate(ranked)}
    return {sample: parts[image] for image in ranked for sample in by_image[image]}


def _by_counts(card: Card, ranked: Sequence[str], by_image: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Whole images go to test until it is full, then to training; what is too many is left out."""
    images = iter(ranked)
    parts: dict[str, str] = {}
    for part, wanted in card.split.counts.items():
        chosen: list[str] = []
        while len(chosen) < wanted and (image := next(images, None)) is not None:
            chosen += by_image[image]
        if len(chosen) < wanted:
            total = sum(len(samples) for samples in by_image.values())
            asked = f"{card.split.train} training and {card.split.test} test samples"
            refuse(card, [f"its split asks for {asked}, but {len(ranked)} images hold {total}; ask for fewer"])
        parts |= dict.fromkeys(chosen[:wanted], part)
    return parts


def _listed(card: Card, pairs: Sequence[Pair]) -> dict[str, str]:
    """``train`` or ``test`` by image key, from the card's two lists."""
    names: dict[str, set[str]] = {}
    for pair in pairs:
        whole = f"{pair.key}{pair.image.suffix}"
        for name in {pair.key, whole, pair.image.name, pair.image.stem}:
            names.setdefault(name, set()).add(pair.key)
    parts: dict[str, str] = {}
    faults: list[str] = []
    lists = [(part, path) for part in PARTS for path in card.split.paths(part)]
    lines = [(part, path, line) for part, path in lists for line in _lines(card, path)]
    for part, path, line in lines:
        keys = names.get(line, set())
        if len(keys) != 1:
            faults.append(f"{path} lists {line}, and {len(keys)} images are called so")
        elif parts.setdefault(key := next(iter(keys)), part) != part:
            faults.append(f"{key} is listed for training and for test")
    if faults:
        refuse(card, faults)
    return parts


def _lines(card: Card, path: str) -> list[str]:
    """The names in a list: a line each in a text file, the keys of the object in a JSON file."""
    try:
        text = (Path(card.root) / path).read_text(encoding="utf-8-sig")
        if path.endswith(".json"):
            return _keys(json.loads(text))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        refuse(card, [f"its list {path} cannot be read: {error}"])
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def _keys(content: object) -> list[str]:
    if not isinstance(content, dict):
        raise TypeError("it holds no object whose keys are names")
    return list(content)


def _check_apart(card: Card, train: Sequence[Item], test: Sequence[Item]) -> None:
    in_train = {item.entry.image_sha256: item.pair for item in train}
    faults = []
    for item in test:
        twin = in_train.pop(item.entry.image_sha256, None)
        if twin is not None:
            faults.append(f"{twin.key} in training and {item.pair.key} in test are the same image")
    if faults:
        advice = "Remove one of each, give the split by lists, or add without_test = true to a split by folders."
        refuse(card, faults, advice=advice)
