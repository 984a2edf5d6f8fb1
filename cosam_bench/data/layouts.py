"""Recognising the published layout of a card's data in a folder; only names are read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from cosam_bench.core.errors import CosamError
from cosam_bench.data.cards import Card
from cosam_bench.data.faults import first_few
from cosam_bench.data.file_patterns import image_globs, mask_patterns, matching_images
from cosam_bench.data.pairing import pair_files, pairing_error

DEPTH = 6  # levels of folders below the given one that may hold the layout's root; CAMO's is 4 or 5 in CoSAM's bundle
FOLDERS = 20_000  # folders searched before giving up; published bundles have far fewer
SHOWN = 8


def recognise(card: Card, folder: Path) -> tuple[str, Path]:
    """The layout of a folder's content, and the folder that the layout's paths are relative to.

    That folder may be up to six levels below ``folder``; the shallowest counts, and if several layouts fit
    there, the card's first.

    Raises:
        CosamError: nothing fits, several folders do, or images and masks do not pair; the message names what was
            found and what was expected.
    """
    if not card.layouts:
        raise CosamError(f"The card {card.name!r} has no layouts. Give its root in a stream instead.")
    if not folder.is_dir():
        raise CosamError(f"There is no folder {folder}. Give the folder that holds the data of {card.name}.")
    folder = folder.resolve()
    cards = {name: card.with_layout(name, root=folder) for name in card.layouts}
    faults: list[str] = []
    for level in _levels(folder):
        complete: dict[Path, str] = {}
        for root, name in ((root, name) for root in level for name in cards if _has_images(cards[name], root)):
            if fault := _fault(cards[name], root):
                faults.append(f"{name} in {root}: {fault}")
            else:
                complete.setdefault(root, name)
        if len(complete) > 1:
            listed = "; ".join(f"{name} in {root}" for root, name in sorted(complete.items()))
            raise CosamError(f"The data of {card.name} is in several folders: {listed}. Give one of these folders.")
        for root, name in complete.items():
            return name, root
    raise CosamError(_not_recognised(card, folder, faults))


def _levels(folder: Path) -> Iterator[list[Path]]:
    """The folder, then the folders in it, and so on; links and hidden folders are ignored.

    Raises:
        CosamError: there are too many.
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
            folders = [entry for entry in entries if entry.is_dir(follow_symlinks=False)]
            return [entry.path for entry in folders if not entry.name.startswith((".", "__"))]
    except OSError:
        return []  # no permission


def _has_images(card: Card, root: Path) -> bool:
    """Whether each of the globs of images matches something under ``root``."""
    annotations = card.layouts[card.layout].annotations
    if annotations and not (root / annotations).is_file():
        return False
    return all(next(matching_images(root, pattern), None) is not None for pattern in _image_patterns(card))


def _image_patterns(card: Card) -> list[str]:
    """The globs of a card's images, those for training first."""
    return [pattern for patterns in image_globs(card).values() for pattern in patterns]


def _fault(card: Card, root: Path) -> str:
    """Why images and masks do not pair or cannot be divided; empty if they do and can."""
    if card.layouts[card.layout].annotations:
        return ""
    lists = [*card.split.paths("train"), *card.split.paths("test")] if card.split.kind == "lists" else []
    if absent := [path for path in lists if not (root / path).is_file()]:
        return f"there is no list {', '.join(absent)}"
    card = card.model_copy(update={"root": str(root)})
    error = pairing_error(card, pair_files(card))
    return str(error or "").removeprefix(f"Domain {card.name!r}: ")


def _not_recognised(card: Card, folder: Path, faults: list[str]) -> str:
    try:
        entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    except OSError as error:
        raise CosamError(f"{folder} cannot be read: {error.strerror}. Give a folder that you may read.") from None
    head = f"{folder} does not hold the data of {card.name} in a known layout."
    if faults:
        return f"{head} Nearly: {'; '.join(fault.rstrip('.') for fault in faults[:3])}."
    found = first_few(sorted(entry.name + "/" * entry.is_dir() for entry in entries), shown=SHOWN)
    wanted = "; ".join(f"{name} ({_image_patterns(card.with_layout(name, root=folder))[0]})" for name in card.layouts)
    hint = f"Run `cosam-bench domains {card.name}` for details."
    return f"{head} It holds: {found or 'nothing'}. Expected: {wanted}. {hint}"


def describe(card: Card, name: str) -> str:
    """One line on the files of a layout."""
    card = card.with_layout(name, root="")
    images = ", ".join(dict.fromkeys(_image_patterns(card)))
    if annotations := card.layouts[name].annotations:
        return f"images {images}; annotations {annotations}"
    return f"images {images}; masks {', '.join(mask_patterns(card))}"
