"""Which images and masks of a card go together, and all that do not: unlike opening a domain, nothing is raised."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cosam_bench.data.cards import Card
from cosam_bench.data.pairing import (
    Given,
    MaskLookup,
    Pair,
    filled_pattern,
    image_globs,
    is_image,
    is_mask,
    is_utf8,
    mask_globs,
    mask_patterns,
    matching_images,
    pair_key,
    without_tested,
)


@dataclass(frozen=True)
class Paired:
    """A card's files by what they go with.

    Attributes:
        pairs: images with exactly one mask, which is no other image's.
        without_mask: images.
        without_image: masks.
        confused: images with several masks, or that share their name or their mask, a line each.
        unmatched: globs of images that match nothing.
    """

    pairs: tuple[Pair, ...]
    without_mask: tuple[str, ...]
    without_image: tuple[str, ...]
    confused: tuple[str, ...]
    unmatched: tuple[str, ...]


def pair_all(card: Card) -> Paired:
    """All pairs of a card of kind ``files`` whose folder is there, and all files that make none; names in order."""
    root = Path(card.root)
    images, unmatched = _images(card, root)
    confused: list[str] = []
    if card.pairing == "sorted":
        found = _by_position(card, root, images)
    else:
        found, confused = _by_name(card, root, images)
    used = {pair.mask for pair in found if isinstance(pair, Pair)} | {path for path, _ in images}
    pairs = [pair for pair in found if isinstance(pair, Pair)]
    masks = _masks_by_position(card, root) if card.pairing == "sorted" else _masks_by_name(card, root, images)
    keys, shared = Counter(pair.key for pair in pairs), Counter(pair.mask for pair in pairs)
    confused += [f"{_told(p.image, root)} shares its name with another image" for p in pairs if keys[p.key] > 1]
    confused += [f"{_told(p.image, root)} shares its mask with another image" for p in pairs if shared[p.mask] > 1]
    confused += [f"the path {pair.key!r} is not UTF-8; rename it" for pair in pairs if not is_utf8(pair.key)]
    return Paired(
        pairs=tuple(pair for pair in pairs if keys[pair.key] == shared[pair.mask] == 1 and is_utf8(pair.key)),
        without_mask=tuple(_told(path, root) for path in found if isinstance(path, Path)),
        without_image=tuple(_told(path, root) for path in sorted(set(masks) - used)),
        confused=tuple(confused),
        unmatched=tuple(unmatched),
    )


def _told(path: Path, root: Path) -> str:
    return Path(os.path.relpath(path, root)).as_posix()


def _images(card: Card, root: Path) -> tuple[list[tuple[Path, Given]], list[str]]:
    """The images with their part where the card gives it by folders, and the globs that match none."""
    found: dict[tuple[str, Given], Path] = {}
    unmatched = []
    for part, patterns in image_globs(card).items():
        for pattern in patterns:
            matched = list(matching_images(root, pattern))
            found |= {(path.as_posix(), part): path for path in matched}
            unmatched += [] if matched else [pattern]
    images = [(path, part) for (_, part), path in sorted(found.items(), key=lambda item: item[0][0])]
    return without_tested(card, images), unmatched


def _image_folders(card: Card, root: Path) -> set[Path]:
    """The folders that the globs of images look into, also where no image is left."""
    patterns = [pattern for globs in image_globs(card).values() for pattern in globs]
    places = {os.path.dirname(pattern) for pattern in patterns}  # noqa: PTH120, a pattern is no path
    found = {name for place in places for name in glob.glob(place or ".", root_dir=root)}  # noqa: PTH207, as for images
    return {path for name in found if (path := Path(os.path.normpath(root / name))).is_dir()}


def _by_name(card: Card, root: Path, images: Sequence[tuple[Path, Given]]) -> tuple[list[Pair | Path], list[str]]:
    """A pair for each image with one mask, the image itself where it has none; and those that have several."""
    lookup, patterns = MaskLookup(root), mask_patterns(card)
    found: list[Pair | Path] = []
    several = []
    for image, part in images:
        masks = sorted({mask for pattern in patterns for mask in lookup.masks(pattern, image)} - {image})
        if len(masks) > 1:
            several.append(f"{_told(image, root)} has several masks ({', '.join(mask.name for mask in masks)})")
        else:
            found.append(Pair(pair_key(image, root), image, masks[0], part) if masks else image)
    return found, several


def _by_position(card: Card, root: Path, images: Sequence[tuple[Path, Given]]) -> list[Pair | Path]:
    """Pairs by position where there are as many masks as images, else by their stems."""
    found: list[Pair | Path] = []
    for part, patterns in mask_globs(card).items():
        own = [(image, given) for image, given in images if part in (None, given)]
        masks = sorted({mask for pattern in patterns for mask in matching_images(root, pattern)})
        masks.sort(key=lambda mask: mask.as_posix())
        if len(own) == len(masks):
            found += [
                Pair(pair_key(image, root), image, mask, at) for (image, at), mask in zip(own, masks, strict=True)
            ]
            continue
        by_stem = {mask.stem: mask for mask in masks}
        for image, at in own:
            mask = by_stem.get(image.stem)
            found.append(Pair(pair_key(image, root), image, mask, at) if mask else image)
    return found


def _masks_by_position(card: Card, root: Path) -> Iterator[Path]:
    for patterns in mask_globs(card).values():
        for pattern in patterns:
            yield from matching_images(root, pattern)


def _masks_by_name(card: Card, root: Path, images: Sequence[tuple[Path, Given]]) -> Iterator[Path]:
    """The masks beside those of the images, but for masks of images that the card leaves out.

    A mask belongs to an image that the card leaves out if a file of its stem lies among the images.
    """
    places = {image.parent for image, _ in images} | _image_folders(card, root)
    for pattern in mask_patterns(card):
        sources: dict[Path, list[Path]] = {}  # folders of images by the folder of their masks
        for folder in sorted(places):
            place = filled_pattern(os.path.dirname(pattern), folder / "x", root)  # noqa: PTH120, a pattern is no path
            sources.setdefault(Path(os.path.normpath(root / place)), []).append(folder)
        names = _names(os.path.basename(pattern))  # noqa: PTH119
        for masks, folders in sources.items():
            stems = {path.stem for folder in folders if folder != masks for path in folder.iterdir() if is_image(path)}
            stems |= {image.stem for image, _ in images if image.parent == masks}
            for path in masks.iterdir() if masks.is_dir() else ():
                fits = names.fullmatch(path.name)
                if fits and is_mask(path, pattern) and fits["stem"] not in stems:
                    yield path


def _names(pattern: str) -> re.Pattern[str]:
    """The names that the last step of a pattern of masks can have, with the image's stem as a group."""
    steps = re.split(r"(\{stem\}|\{name\}|\*)", pattern)
    meanings = {"{stem}": "(?P<stem>.+)", "{name}": r"(?P<stem>.+)\.[^.]+", "*": ".*"}
    return re.compile("".join(meanings.get(step, re.escape(step)) for step in steps))
