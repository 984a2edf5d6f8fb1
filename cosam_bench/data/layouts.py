"""Recognising in which of its published layouts a card's data lies in a folder; only names are looked at."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from cosam_bench.core.errors import CosamError
from cosam_bench.data.cards import Card, Globs, Layout
from cosam_bench.data.pairing import find_pairs, matching_images

DEPTH = 6  # levels of folders below the given one that may hold the layout's root; in CoSAM's bundle CAMO's is 4 or 5
FOLDERS = 20_000  # folders looked at before giving up; no published bundle comes near
SHOWN = 8


def recognise(card: Card, folder: Path) -> tuple[str, Path]:
    """The layout that a folder's content has, and the folder that the layout's paths start at.

    That folder may lie up to six levels below the one that is given; the shallowest counts, and of
    several layouts that fit there the card's first.

    Raises:
        CosamError: nothing fits, several folders do, or images and masks do not pair; it says what was found
            and what each layout looks like.
    """
    if not card.layouts:
        raise CosamError(f"The card {card.name!r} has no layouts: give its root in a stream instead.")
    if not folder.is_dir():
        raise CosamError(f"There is no folder {folder}. Give the folder that holds the data of {card.name}.")
    folder = folder.resolve()
    faults: list[str] = []
    for level in _levels(folder):
        fitting = [(root, layout) for root in level for layout in card.layouts if _looks_so(card, layout, root)]
        if not fitting:
            continue
        sound: dict[Path, str] = {}
        for root, layout in fitting:
            fault = _fault(card, layout, root)
            if fault:
                faults.append(f"{layout} in {root}: {fault}")
            else:
                sound.setdefault(root, layout)
        if len(sound) > 1:
            raise CosamError(_several(card, sound))
        for root, layout in sound.items():
            return layout, root
    raise CosamError(_nothing(card, folder, faults))


def _levels(folder: Path) -> Iterator[list[Path]]:
    """The folder, then the folders in it, and so on; links are not followed, hidden folders not entered.

    Raises:
        CosamError: there are too many to look at.
    """
    level, seen = [folder], 1
    for _ in range(DEPTH + 1):
        yield level
        below = [Path(entry) for parent in level for entry in _folders(parent)]
        seen += len(below)
        if seen > FOLDERS:
            raise CosamError(f"{folder} holds more than {FOLDERS:,} folders. Give the folder of the data itself.")
        if not below:
            return
        level = sorted(below)


def _folders(parent: Path) -> list[str]:
    try:
        with os.scandir(parent) as entries:
            return [e.path for e in entries if e.is_dir(follow_symlinks=False) and not e.name.startswith((".", "__"))]
    except OSError:
        return []  # not ours to read


def _looks_so(card: Card, name: str, root: Path) -> bool:
    """Whether each of the layout's globs of images matches something under ``root``."""
    layout = card.layouts[name]
    if layout.annotations and not (root / layout.annotations).is_file():
        return False
    return all(next(matching_images(root, pattern), None) is not None for pattern in image_globs(card, layout))


def image_globs(card: Card, layout: Layout) -> list[str]:
    """The globs of a layout's images, those for training first."""
    split = layout.split or card.split
    given: list[Globs] = [layout.images or card.images or "images/*"]
    if split.kind == "folders":
        given = [split.paths("train"), split.paths("test")]
    return [pattern for globs in given for pattern in ([globs] if isinstance(globs, str) else globs)]


def _fault(card: Card, layout: str, root: Path) -> str:
    """Why images and masks do not pair, or cannot be divided; empty if they do and can."""
    if card.layouts[layout].annotations:
        return ""
    split = card.layouts[layout].split or card.split
    lists = [*split.paths("train"), *split.paths("test")] if split.kind == "lists" else []
    if absent := [path for path in lists if not (root / path).is_file()]:
        return f"there is no list {', '.join(absent)}"
    try:
        find_pairs(card.laid_out(layout, root=root))
    except CosamError as error:
        return str(error)
    return ""


def _several(card: Card, sound: dict[Path, str]) -> str:
    listed = "; ".join(f"{layout} in {root}" for root, layout in sorted(sound.items()))
    return f"The data of {card.name} lies in several places: {listed}. Give one of these folders."


def _nothing(card: Card, folder: Path, faults: list[str]) -> str:
    try:
        entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    except OSError as error:
        raise CosamError(f"{folder} cannot be read: {error.strerror}. Give a folder that you may read.") from None
    found = sorted(entry.name + "/" * entry.is_dir() for entry in entries)
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    looks = "; ".join(f"{name} ({_looks(card, name)})" for name in card.layouts)
    head = f"{folder} does not hold the data of {card.name} in a layout that is known."
    if faults:
        return f"{head} Nearly: {'; '.join(fault.rstrip('.') for fault in faults[:3])}."
    held = f"It holds: {', '.join(found[:SHOWN]) or 'nothing'}{more}."
    return f"{head} {held} Looked for: {looks}. `cosam-bench domains {card.name}` tells more."


def _looks(card: Card, name: str) -> str:
    """The first place that a layout's images lie in."""
    return next(iter(image_globs(card, card.layouts[name])))


def describe(card: Card, name: str) -> str:
    """One line on how a layout's files lie."""
    layout = card.layouts[name]
    images = ", ".join(dict.fromkeys(image_globs(card, layout)))
    if layout.annotations:
        return f"images {images}; annotations {layout.annotations}"
    masks = layout.masks or card.masks
    return f"images {images}; masks {masks if isinstance(masks, str) else ', '.join(masks)}"
