"""A card's patterns for image and mask files, and the files that they match."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from cosam_bench.data.cards import Card, Globs, Part

JPEG = (".jpg", ".jpeg", ".jpe", ".jfif", ".jp2")
SUFFIXES = (*JPEG, ".png", ".bmp", ".gif", ".pbm", ".pgm", ".pnm", ".ppm", ".tif", ".tiff", ".webp")
LABELME = ".json"


def image_globs(card: Card) -> dict[Part | None, tuple[str, ...]]:
    """The globs of a card's images by part, or all under None if the split is not by folders."""
    if card.split.kind == "folders":
        return {"train": card.split.paths("train"), "test": card.split.paths("test")}
    return {None: _listed(card.images or "images/*")}


def mask_globs(card: Card) -> dict[Part | None, tuple[str, ...]]:
    """The globs of the masks by part, or all under None if they do not contain ``{part}``."""
    patterns = mask_patterns(card)
    if not any("{part}" in pattern for pattern in patterns):
        return {None: patterns}
    parts: tuple[Part, ...] = ("train", "test")
    return {part: tuple(pattern.replace("{part}", part) for pattern in patterns) for part in parts}


def mask_patterns(card: Card) -> tuple[str, ...]:
    """A card's patterns for masks."""
    return _listed(card.masks)


def _listed(globs: Globs) -> tuple[str, ...]:
    return (globs,) if isinstance(globs, str) else globs


def matching_images(root: Path, pattern: str) -> Iterator[Path]:
    """The image files that a glob relative to ``root`` matches, in no particular order."""
    return filter(is_image, matching_paths(root, pattern))


def matching_paths(root: Path, pattern: str) -> Iterator[Path]:
    """All that a glob relative to ``root`` matches, in no particular order; broken links too."""
    # Unlike Path.glob this takes ".." and absolute patterns.
    for name in glob.iglob(pattern, root_dir=root, recursive=True):  # noqa: PTH207
        yield Path(os.path.normpath(root / name))


def is_image(path: Path) -> bool:
    """Whether a path is a file with an image suffix that is not hidden."""
    return has_image_name(path) and path.is_file()


def has_image_name(path: Path) -> bool:
    """Whether a path has an image suffix and is not hidden, whatever is there."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def is_broken(path: Path) -> bool:
    """Whether a path is a link that leads nowhere, as the files of git-annex or DVC before they are fetched."""
    return path.is_symlink() and not path.exists()


def is_mask(path: Path, pattern: str) -> bool:
    """Whether a file may be a mask: an image, or a labelme file if the pattern asks for one by suffix."""
    if pattern.endswith(LABELME):
        return path.suffix == LABELME and path.is_file()
    return is_image(path)


def is_utf8(text: str) -> bool:
    """Whether a file name is valid UTF-8; Linux allows others."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def relative(path: Path, root: Path) -> str:
    """A path relative to the root, with forward slashes."""
    return Path(os.path.relpath(path, root)).as_posix()


class MaskLookup:
    """Finds the masks of an image by name; each folder is listed once, since ``{stem}.*`` is the usual pattern.

    Args:
        root: the folder that patterns are relative to.
        patterns: of masks.
    """

    def __init__(self, root: Path, patterns: Sequence[str]) -> None:
        self._root = root
        self._patterns = patterns
        self._by_stem: dict[Path, dict[str, list[Path]]] = {}
        self._broken: dict[Path, dict[str, list[Path]]] = {}

    def masks_of(self, image: Path) -> list[Path]:
        """The files that the patterns name for one image, sorted, without the image itself."""
        return sorted({mask for pattern in self._patterns for mask in self._matches(pattern, image)} - {image})

    def within(self, folder: str) -> MaskLookup:
        """The same patterns in a folder of this name beside the masks."""
        places = [pattern.rpartition("/") for pattern in self._patterns]
        return MaskLookup(self._root, [f"{head}{slash}{glob.escape(folder)}/{name}" for head, slash, name in places])

    def broken_masks_of(self, image: Path) -> list[Path]:
        """The links that the patterns name for one image and that lead nowhere, sorted."""
        return sorted({path for pattern in self._patterns for path in self._named(pattern, image) if is_broken(path)})

    def _named(self, pattern: str, image: Path) -> list[Path]:
        plain = Path(os.path.normpath(self._root / fill_pattern(pattern, image, self._root)))
        if not glob.has_magic(pattern):
            return [plain]
        if pattern.endswith(".*") and not glob.has_magic(pattern.removesuffix(".*")):
            self._stems(plain.parent)
            return self._broken.get(plain.parent, {}).get(plain.stem, [])
        return list(matching_paths(self._root, fill_pattern(pattern, image, self._root, is_glob=True)))

    def _matches(self, pattern: str, image: Path) -> list[Path]:
        plain = fill_pattern(pattern, image, self._root)
        if not glob.has_magic(pattern):
            path = Path(os.path.normpath(self._root / plain))
            return [path] if is_mask(path, pattern) else []
        if pattern.endswith(".*") and not glob.has_magic(pattern.removesuffix(".*")):
            path = Path(os.path.normpath(self._root / plain.removesuffix(".*")))
            return self._stems(path.parent).get(path.name, [])
        return list(matching_images(self._root, fill_pattern(pattern, image, self._root, is_glob=True)))

    def _stems(self, folder: Path) -> dict[str, list[Path]]:
        if folder not in self._by_stem:
            stems = self._by_stem.setdefault(folder, {})
            for path in folder.iterdir() if folder.is_dir() else ():
                if is_image(path):
                    stems.setdefault(path.stem, []).append(path)
                elif is_broken(path):
                    self._broken.setdefault(folder, {}).setdefault(path.stem, []).append(path)
        return self._by_stem[folder]


def fill_pattern(pattern: str, image: Path, root: Path, *, is_glob: bool = False) -> str:
    """The mask pattern for one image; in a glob, the parts of the image's name are escaped."""
    words = {
        "stem": image.stem,
        "name": image.name,
        "parent": image.parent.name,
        "folder": relative(image.parent, root),
    }
    return re.sub(
        r"\{(stem|name|parent|folder)\}",
        lambda word: glob.escape(words[word[1]]) if is_glob else words[word[1]],
        pattern,
    )
