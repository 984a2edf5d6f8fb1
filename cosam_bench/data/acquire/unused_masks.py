"""Masks without an image: they do not keep a domain from being opened, but data is probably missing."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator
from pathlib import Path

from cosam_bench.core.errors import CosamError
from cosam_bench.data.cards import Card
from cosam_bench.data.coco_files import CocoIndex, annotation_files
from cosam_bench.data.file_patterns import (
    ImageIds,
    fill_pattern,
    image_globs,
    is_image,
    is_mask,
    mask_globs,
    mask_patterns,
    matching_images,
    relative,
)
from cosam_bench.data.pairing import Pairing
from cosam_bench.data.yolo import CLASS_NAMES


def unused_masks(card: Card, pairing: Pairing) -> list[str]:
    """The masks that belong to no image, relative to the root, sorted; none if a manifest says what belongs."""
    if card.split.kind == "manifest":
        return []
    root = Path(card.root)
    if card.annotations:
        return _listed_only(card, root, pairing)
    found = _by_position(card, root, pairing) if card.pairing == "sorted" else _by_name(card, root, pairing)
    used = {mask for pair in pairing.pairs for mask in pair.mask_files} | {image.path for image in pairing.images}
    return [relative(path, root) for path in sorted(set(found) - used)]


def _listed_only(card: Card, root: Path, pairing: Pairing) -> list[str]:
    """The images that annotation files list and that are nowhere to be found."""
    try:
        files = annotation_files(card, root)
    except CosamError:
        return []  # a fault of the pairing
    index = CocoIndex(root, files)
    found = {image.path.name for image in pairing.images}
    names = ((file, name) for file in files for name in file.images)
    return [
        f"{name} in {relative(file.path, root)}"
        for file, name in names
        if not any(path.name in found or path.exists() for path in index.places(file, name))
    ]


def _by_position(card: Card, root: Path, pairing: Pairing) -> Iterator[Path]:
    """The masks whose stem no image has, in parts that do not have as many masks as images."""
    for part, patterns in mask_globs(card).items():
        stems = [image.path.stem for image in pairing.images if part in (None, image.part)]
        masks = {mask for pattern in patterns for mask in matching_images(root, pattern)}
        if len(masks) != len(stems):
            yield from (mask for mask in masks if mask.stem not in stems)


def _by_name(card: Card, root: Path, pairing: Pairing) -> Iterator[Path]:
    """The masks beside those of the images, except masks of images that the card leaves out.

    A mask belongs to an image that the card leaves out if a file of its stem is among the images.
    """
    image_folders = {image.path.parent for image in pairing.images} | _image_folders(card, root)
    ids = ImageIds(card)
    for pattern in mask_patterns(card):
        sources: dict[Path, list[Path]] = {}  # folders of images by the folder of their masks
        for folder in sorted(image_folders):
            masks = fill_pattern(os.path.dirname(pattern), folder / "x", root)  # noqa: PTH120, not a path
            sources.setdefault(Path(os.path.normpath(root / masks)), []).append(folder)
        names = _name_expression(os.path.basename(pattern))  # noqa: PTH119
        for mask_folder, folders in sources.items():
            others = [path for folder in folders if folder != mask_folder for path in folder.iterdir()]
            images = [path for path in others if is_image(path)]
            images += [image.path for image in pairing.images if image.path.parent == mask_folder]
            stems = {ids.of(image) if "{id}" in pattern else image.stem for image in images}
            if "stem" not in names.groupindex and images:
                continue  # the folder's name alone leads to the mask, and it has an image
            for path in mask_folder.iterdir() if mask_folder.is_dir() else ():
                name = names.fullmatch(path.name)
                if path.name == CLASS_NAMES:
                    continue
                if name and is_mask(path, pattern) and name.groupdict().get("stem") not in stems:
                    yield path


def _image_folders(card: Card, root: Path) -> set[Path]:
    """The folders that the globs of images look into, including those without images."""
    patterns = [pattern for globs in image_globs(card).values() for pattern in globs]
    folders = {os.path.dirname(pattern) for pattern in patterns}  # noqa: PTH120, a pattern is not a path
    found = {name for folder in folders for name in glob.glob(folder or ".", root_dir=root)}  # noqa: PTH207
    return {path for name in found if (path := Path(os.path.normpath(root / name))).is_dir()}


def _name_expression(pattern: str) -> re.Pattern[str]:
    """The names that the last component of a mask pattern can have, with the image's stem as a group."""
    components = re.split(r"(\{stem\}|\{name\}|\{id\}|\*)", pattern)
    meanings = {"{stem}": "(?P<stem>.+)", "{id}": "(?P<stem>.+)", "{name}": r"(?P<stem>.+)\.[^.]+", "*": ".*"}
    return re.compile("".join(meanings.get(one, re.escape(one)) for one in components))
