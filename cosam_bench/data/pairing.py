"""The image and mask files of a card, paired; only names are looked at, no file is opened."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn

from cosam_bench.core.errors import CosamError
from cosam_bench.data.cards import Card

JPEG = (".jpg", ".jpeg", ".jpe", ".jfif", ".jp2")
SUFFIXES = (*JPEG, ".png", ".bmp", ".gif", ".pbm", ".pgm", ".pnm", ".ppm", ".tif", ".tiff", ".webp")
SHAPES = ".json"  # labelme's
FAULTS_SHOWN = 5
NOT_HERE = "its data is not here"

Given = Literal["train", "test"] | None


@dataclass(frozen=True)
class Pair:
    """One image file and its mask file.

    Attributes:
        key: the image's path relative to the root, without suffix.
        image: absolute path.
        mask: absolute path; an image, or a labelme file.
        part: where the card gives the split by folders, the part the image lies in.
    """

    key: str
    image: Path
    mask: Path
    part: Given = None


def find_pairs(card: Card) -> list[Pair]:
    """All pairs of a card of kind ``files``, in order of the images' paths.

    Raises:
        CosamError: the folder is missing, a glob matches nothing, or images and masks do not pair.
    """
    root = _root(card)
    found = [(path, part) for part, globs in image_globs(card).items() for path in _matches(card, root, globs)]
    images = without_tested(card, found)
    if card.pairing == "sorted":
        return _by_position(card, root, images)
    return _by_name(card, root, images)


def image_globs(card: Card) -> dict[Given, tuple[str, ...]]:
    """The globs of a card's images by part, or all under None where the split is not by folders."""
    if card.split.kind == "folders":
        return {"train": card.split.paths("train"), "test": card.split.paths("test")}
    images = card.images or "images/*"
    return {None: (images,) if isinstance(images, str) else images}


def without_tested(card: Card, images: list[tuple[Path, Given]]) -> list[tuple[Path, Given]]:
    """Images with their parts, less those for training that ``without_test`` leaves out by name."""
    if not card.split.without_test:
        return images
    tested = {path.stem for path, part in images if part == "test"}
    return [(path, part) for path, part in images if part == "test" or path.stem not in tested]


def refuse(card: Card, faults: Sequence[str], *, advice: str = "") -> NoReturn:
    """Raise one error for all faults of a domain: the first five, how many more, and what to do."""
    more = len(faults) - FAULTS_SHOWN
    shown = [*faults[:FAULTS_SHOWN], *([f"and {more} more like these"] if more > 0 else [])]
    told = "; ".join(fault.rstrip(".") for fault in shown)
    raise CosamError(f"Domain {card.name!r}: {told}.{' ' if advice else ''}{advice}")


def why_missing(card: Card) -> str:
    """Why a card's folder is not there and what to do, as half a sentence; empty if it is."""
    if unset := re.findall(r"\$\{?(\w+)", card.root):
        return f"its root is {card.root}, but the variable {unset[0]} is not set; set it to a folder"
    if card.layout and card.layouts[card.layout].annotations:
        return f"its layout {card.layout!r} must be converted first: cosam-bench data prepare {card.name} --from FOLDER"
    if card.root and Path(card.root).is_dir():
        return ""
    if not card.layouts:
        return f"there is no folder {card.root}; get the data{_from(card)} or correct root"
    gone = f"there is no folder {card.root} any more" if card.root else NOT_HERE
    return f"{gone}: {next_step(card)}"


def next_step(card: Card) -> str:
    """The command that brings the data of a card with layouts into place, and where the data is."""
    if card.downloads:
        return f"cosam-bench data fetch {card.name} --accept-licence (from {card.source})"
    return f"cosam-bench data prepare {card.name} --from PATH (get it from {card.source})"


def _root(card: Card) -> Path:
    if fault := why_missing(card):
        refuse(card, [fault])
    return Path(card.root)


def _from(card: Card) -> str:
    return f" from {card.source}" if card.source else ""


def _matches(card: Card, root: Path, patterns: Sequence[str]) -> list[Path]:
    """The image files that the globs match, sorted by path, each once."""
    found: set[Path] = set()
    for pattern in patterns:
        matched = set(matching_images(root, pattern))
        if not matched:
            refuse(card, [f"no image matches {pattern!r} in {root}; {_there(root, pattern)}"])
        found |= matched
    return sorted(found, key=lambda path: path.as_posix())


def matching_images(root: Path, pattern: str) -> Iterator[Path]:
    """The image files that a glob relative to ``root`` matches, in no order."""
    # Unlike Path.glob this takes ".." and absolute patterns.
    for name in glob.iglob(pattern, root_dir=root, recursive=True):  # noqa: PTH207
        path = Path(os.path.normpath(root / name))
        if is_image(path):
            yield path


def is_image(path: Path) -> bool:
    """Whether a path is a file that is called as images are, and is not hidden."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def is_mask(path: Path, pattern: str) -> bool:
    """Whether a file may be a mask: an image, or a labelme file where the pattern asks for one by suffix."""
    if pattern.endswith(SHAPES):
        return path.suffix == SHAPES and path.is_file()
    return is_image(path)


def _there(root: Path, pattern: str) -> str:
    """What lies where the pattern looks: the usual fault is another suffix or another folder."""
    folder = root / pattern.split("*")[0].rpartition("/")[0]
    if not folder.is_dir():
        return f"there is no folder {folder}"
    kinds = Counter(path.suffix or "without suffix" for path in folder.iterdir() if path.is_file())
    listed = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(4))
    return f"that folder holds {listed or 'no files'}"


def pair_key(image: Path, root: Path) -> str:
    """An image's path relative to the root, without suffix."""
    return Path(os.path.relpath(image, root)).with_suffix("").as_posix()


def _by_position(card: Card, root: Path, images: list[tuple[Path, Given]]) -> list[Pair]:
    pairs: list[Pair] = []
    for part, patterns in mask_globs(card).items():
        own = [found for found in images if part in (None, found[1])]
        masks = _matches(card, root, patterns)
        if len(masks) != len(own):
            among = f" for {part}" if part else ""
            refuse(card, [f"{len(own)} images but {len(masks)} masks{among}; sorted pairing needs as many"])
        own.sort(key=lambda found: found[0].as_posix())
        together = zip(own, masks, strict=True)
        pairs += [Pair(pair_key(image, root), image, mask, place) for (image, place), mask in together]
    return _checked(card, pairs)


def mask_globs(card: Card) -> dict[Given, tuple[str, ...]]:
    """The globs of the masks by part, or all under None where they do not name ``{part}``."""
    patterns = mask_patterns(card)
    if not any("{part}" in pattern for pattern in patterns):
        return {None: patterns}
    parts: tuple[Given, ...] = ("train", "test")
    return {part: tuple(pattern.replace("{part}", str(part)) for pattern in patterns) for part in parts}


def mask_patterns(card: Card) -> tuple[str, ...]:
    """A card's patterns of masks."""
    return (card.masks,) if isinstance(card.masks, str) else card.masks


def _by_name(card: Card, root: Path, images: list[tuple[Path, Given]]) -> list[Pair]:
    patterns = mask_patterns(card)
    lookup = MaskLookup(root)
    pairs: list[Pair] = []
    faults: list[str] = []
    without: list[str] = []
    for image, part in images:
        found = sorted({mask for pattern in patterns for mask in lookup.masks(pattern, image)} - {image})
        if len(found) == 1:
            pairs.append(Pair(pair_key(image, root), image, found[0], part))
        elif found:
            faults.append(f"{image.name} has several masks ({', '.join(mask.name for mask in found)})")
        else:
            without.append(f"{image.name} has no mask {filled_pattern(patterns[0], image, root)}")
    if card.unlabelled == "refuse" or not pairs:
        faults += without
    if faults:
        # Where a published layout was recognised, its patterns are not the user's to correct.
        advice = "Complete the data." if card.layout else f"Complete the data or correct masks = {card.masks!r}."
        refuse(card, faults, advice=advice)
    return _checked(card, pairs)


class MaskLookup:
    """Finds masks by pattern; each folder is listed once, as ``{stem}.*`` is the usual pattern.

    Args:
        root: the folder that patterns start at.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._by_stem: dict[Path, dict[str, list[Path]]] = {}

    def masks(self, pattern: str, image: Path) -> list[Path]:
        """The files that the pattern means for one image."""
        plain = filled_pattern(pattern, image, self._root)
        if not glob.has_magic(pattern):
            path = Path(os.path.normpath(self._root / plain))
            return [path] if is_mask(path, pattern) else []
        if pattern.endswith(".*") and not glob.has_magic(pattern.removesuffix(".*")):
            path = Path(os.path.normpath(self._root / plain.removesuffix(".*")))
            return self._stems(path.parent).get(path.name, [])
        return list(matching_images(self._root, filled_pattern(pattern, image, self._root, is_glob=True)))

    def _stems(self, folder: Path) -> dict[str, list[Path]]:
        if folder not in self._by_stem:
            stems = self._by_stem.setdefault(folder, {})
            for path in folder.iterdir() if folder.is_dir() else ():
                if is_image(path):
                    stems.setdefault(path.stem, []).append(path)
        return self._by_stem[folder]


def filled_pattern(pattern: str, image: Path, root: Path, *, is_glob: bool = False) -> str:
    """The mask pattern for one image; in a glob, what comes from the image's name is taken literally."""
    folder = Path(os.path.relpath(image.parent, root)).as_posix()
    words = {"stem": image.stem, "name": image.name, "parent": image.parent.name, "folder": folder}
    return re.sub(
        r"\{(stem|name|parent|folder)\}",
        lambda word: glob.escape(words[word[1]]) if is_glob else words[word[1]],
        pattern,
    )


def is_utf8(key: str) -> bool:
    """Whether a name can be written down: Linux allows names that are no text."""
    try:
        key.encode()
    except UnicodeEncodeError:
        return False
    return True


def _checked(card: Card, pairs: list[Pair]) -> list[Pair]:
    """The pairs, if no two share a key or a mask, and all can be hashed."""
    faults = []
    keys = Counter(pair.key for pair in pairs)
    masks = Counter(pair.mask for pair in pairs)
    for pair in pairs:
        if not is_utf8(pair.key):
            faults.append(f"the path {pair.key!r} is not UTF-8; rename it")
        elif keys[pair.key] > 1:
            faults.append(f"{pair.image.name} shares its name with another image")
        elif masks[pair.mask] > 1:
            faults.append(f"{pair.image.name} shares its mask {pair.mask.name} with another image")
    if faults:
        refuse(card, faults)
    return pairs
