"""Files that a card's patterns match and that are not read: named, so that none is left out in silence."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from cosam_bench.data.faults import first_few
from cosam_bench.data.file_patterns import ANNOTATIONS, MaskLookup, has_image_name, is_image, relative

_TEXTS = (".csv", ".html", ".json", ".log", ".md", ".txt", ".xml", ".yaml", ".yml")


def no_files(paths: Iterable[Path], root: Path) -> list[str]:
    """One line for each path that is called as an image and is no ordinary file."""
    return [f"{relative(path, root)} is {_kind(path)}" for path in paths if has_image_name(path)]


def _kind(path: Path) -> str:
    if path.is_symlink():
        try:
            path.stat()
        except OSError as error:
            target = os.readlink(path)  # noqa: PTH115 - as it is written
            is_loop = error.errno == errno.ELOOP
            return "a link to itself" if is_loop else f"a link to {target}, which is not there; fetch the data"
    if path.is_dir():
        return "a folder, not an image"
    return "a pipe or a device, not an ordinary file"


def unread_images(others: Iterable[Path], root: Path, lookup: MaskLookup, used: set[Path]) -> Iterator[str]:
    """One line for each file of an unknown kind, and for each folder, to which masks belong that no image uses.

    Args:
        others: what the globs of images match beside images.
        root: of the card.
        lookup: finds an image's masks.
        used: the masks of the images that are read.
    """
    for path in sorted(others):
        if path.is_dir():
            below = lookup.within(path.name)
            images = [image for image in sorted(path.iterdir()) if is_image(image)]
            lost = [image for image in images if {*lookup.masks_of(image), *below.masks_of(image)} - used]
            if lost:
                named = first_few([relative(image, root) for image in lost])
                yield f"{relative(path, root)} is a folder of images with masks ({named}), and images leaves it out"
        elif _may_be_image(path) and (masks := sorted(set(lookup.masks_of(path)) - used)):
            kind = path.suffix or "a file without suffix"
            yield f"{relative(path, root)} has the mask {relative(masks[0], root)}, but {kind} is not read; convert it"


def _may_be_image(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(".") and path.suffix.lower() not in _TEXTS


def unread_masks(image: Path, root: Path, lookup: MaskLookup, *, is_skipped: bool) -> Iterator[str]:
    """One line for each file that is called as an image's mask but is of a kind that is not read as one.

    Args:
        image: that has no mask.
        root: of the card.
        lookup: finds an image's masks.
        is_skipped: the card skips images without a mask, and text beside them is no mask.
    """
    for path in lookup.unread_masks_of(image):
        suffix = path.suffix.lower()
        if is_skipped and suffix in _TEXTS:
            continue
        advice = f"{suffix or 'a file without suffix'} is not read as a mask; convert it to PNG"
        if suffix in ANNOTATIONS:
            kinds = {".json": "labelme's file of this image", ".txt": "YOLO's segments"}
            advice = f"masks does not end in {suffix}; if it holds {kinds[suffix]}, say so by that ending"
        yield f"{relative(image, root)} has the mask {relative(path, root)}, but {advice}"
