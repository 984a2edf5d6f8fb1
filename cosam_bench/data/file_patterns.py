"""A card's patterns for image and mask files, and the files that they match."""

from __future__ import annotations

import fnmatch
import glob
import os
import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from cosam_bench.data.cards import Card, Globs, Part
from cosam_bench.data.folder_names import FolderNames

JPEG = (".jpg", ".jpeg", ".jpe", ".jfif", ".jp2")
SUFFIXES = (*JPEG, ".png", ".bmp", ".gif", ".pbm", ".pgm", ".pnm", ".ppm", ".tif", ".tiff", ".webp")
ANNOTATIONS = (".json", ".txt")  # labelme's and YOLO's
_MAGIC = re.compile(r"[*?[]")
_ID = "\ufdd0"  # in place of {id}: a character of no text, which translating a glob leaves alone


def image_globs(card: Card) -> dict[Part | None, tuple[str, ...]]:
    """The globs of a card's images by part, or all under None if the split is not by folders."""
    return {
        part: tuple(pattern.replace("{id}", "*") for pattern in patterns)
        for part, patterns in _image_patterns(card).items()
    }


def _image_patterns(card: Card) -> dict[Part | None, tuple[str, ...]]:
    if card.split.kind == "folders":
        return {"train": card.split.paths("train"), "test": card.split.paths("test")}
    return {None: _listed(card.images or "images/*")}


class ImageIds:
    """Finds what the names of a card's images have in the place of ``{id}``."""

    def __init__(self, card: Card) -> None:
        patterns = [pattern for found in _image_patterns(card).values() for pattern in found if "{id}" in pattern]
        names = dict.fromkeys(any_case(pattern.rpartition("/")[2].replace("{id}", _ID)) for pattern in patterns)
        self._names = [re.compile(fnmatch.translate(name).replace(_ID, "(?P<id>.+)")) for name in names]

    def of(self, image: Path) -> str:
        """The id of one image; empty if the card uses none."""
        found = (name.match(image.name) for name in self._names)
        return next((match["id"] for match in found if match), "")


def any_case(pattern: str) -> str:
    """The glob with a suffix of files that are read in capital or small letters: cameras write ``.JPG``."""
    head, dot, suffix = pattern.rpartition(".")
    if f".{suffix.lower()}" not in (*SUFFIXES, *ANNOTATIONS):
        return pattern
    letters = (f"[{one.lower()}{one.upper()}]" if one.isalpha() else one for one in suffix)
    return head + dot + "".join(letters)


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
    is_loop = cache(leads_back)  # of each folder once
    for name in glob.iglob(any_case(pattern), root_dir=root, recursive=True):  # noqa: PTH207
        if "**" not in pattern or not any(is_loop(root / folder) for folder in Path(name).parents):
            yield Path(os.path.normpath(root / name))


def leads_back(folder: Path) -> bool:
    """Whether a folder is a link to one that holds it, so that the same files are in it again, without an end."""
    if not folder.is_symlink() or not folder.is_dir():
        return False
    return folder.parent.resolve().is_relative_to(folder.resolve())


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
    """Whether a file may be a mask: an image, or an annotation file if the pattern asks for one by suffix."""
    suffix = path.suffix.lower()
    if suffix in ANNOTATIONS and pattern.lower().endswith(suffix):
        return path.is_file()
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
        ids: of the images.
    """

    def __init__(self, root: Path, patterns: Sequence[str], ids: ImageIds) -> None:
        self._root = root
        self._patterns = patterns
        self._ids = ids
        self._by_stem: dict[Path, dict[str, list[Path]]] = {}
        self._others: dict[Path, dict[str, list[Path]]] = {}
        self._names: dict[Path, FolderNames] = {}

    def masks_of(self, image: Path) -> list[Path]:
        """The files that the patterns name for one image, sorted, without the image itself."""
        return sorted({mask for pattern in self._patterns for mask in self._matches(pattern, image)} - {image})

    def within(self, folder: str) -> MaskLookup:
        """The same patterns in a folder of this name beside the masks."""
        places = [pattern.rpartition("/") for pattern in self._patterns]
        patterns = [f"{head}{slash}{glob.escape(folder)}/{name}" for head, slash, name in places]
        return MaskLookup(self._root, patterns, self._ids)

    def broken_masks_of(self, image: Path) -> list[Path]:
        """The links that the patterns name for one image and that lead nowhere, sorted."""
        return sorted({path for pattern in self._patterns for path in self._named(pattern, image) if is_broken(path)})

    def unread_masks_of(self, image: Path) -> list[Path]:
        """The files that the patterns name for one image and that are not read as masks, sorted."""
        named = {path for pattern in self._patterns for path in self._named(pattern, image)}
        return sorted(path for path in named - {image} if path.is_file() and not path.name.startswith("."))

    def composed_otherwise(self, image: Path) -> list[Path]:
        """The files that look as the patterns name them for one image, but in another form of Unicode, sorted."""
        return sorted({path for pattern in self._patterns for path in self._look_alikes(pattern, image)})

    def filled(self, image: Path) -> str:
        """The first pattern for one image."""
        return self._fill(self._patterns[0], image)

    def _fill(self, pattern: str, image: Path, *, is_glob: bool = False) -> str:
        return fill_pattern(pattern, image, self._root, image_id=self._ids.of(image), is_glob=is_glob)

    def _named(self, pattern: str, image: Path) -> list[Path]:
        plain = Path(os.path.normpath(self._root / self._fill(pattern, image)))
        if not glob.has_magic(pattern):
            return [plain]
        if pattern.endswith(".*") and not glob.has_magic(pattern.removesuffix(".*")):
            stem = plain.name.removesuffix(".*")
            self._stems(plain.parent)
            return self._others.get(plain.parent, {}).get(stem, [])
        return list(self._globbed(pattern, image))

    def _matches(self, pattern: str, image: Path) -> list[Path]:
        plain = self._fill(pattern, image)
        if not glob.has_magic(pattern):
            path = Path(os.path.normpath(self._root / plain))
            suffixes = dict.fromkeys((path.suffix, path.suffix.lower(), path.suffix.upper()))
            cases = [path.with_suffix(suffix) for suffix in suffixes] if path.suffix else [path]
            return [found for found in cases if is_mask(found, pattern)][:1]
        if pattern.endswith(".*") and not glob.has_magic(pattern.removesuffix(".*")):
            path = Path(os.path.normpath(self._root / plain.removesuffix(".*")))
            return self._stems(path.parent).get(path.name, [])
        return [path for path in self._globbed(pattern, image) if is_mask(path, pattern)]

    def _globbed(self, pattern: str, image: Path) -> Iterator[Path]:
        """All that a glob matches for one image, hidden files aside."""
        place, _, last = pattern.rpartition("/")
        if glob.has_magic(place) or last == "**":
            return matching_paths(self._root, self._fill(pattern, image, is_glob=True))
        folder, wanted, start = self._in_folder(pattern, image)
        return (folder / name for name in self._names[folder].matching(wanted, start=start))

    def _look_alikes(self, pattern: str, image: Path) -> Iterator[Path]:
        folder, wanted, start = self._in_folder(pattern, image)
        found = (folder / name for name in self._names[folder].look_alikes(wanted, start=start))
        return (path for path in found if is_mask(path, pattern))

    def _in_folder(self, pattern: str, image: Path) -> tuple[Path, str, str]:
        """The folder of one image's masks, whose names are then known, the glob of their names, and how these begin."""
        folder = Path(os.path.normpath(self._root / self._fill(pattern, image))).parent
        if folder not in self._names:
            # No names if there is no such folder, or it cannot be read.
            self._names[folder] = FolderNames(glob.glob("*", root_dir=folder, include_hidden=True))  # noqa: PTH207
        wanted = any_case(self._fill(pattern, image, is_glob=True).rpartition("/")[2])
        start = self._fill(_MAGIC.split(any_case(pattern))[0], image).rpartition("/")[2]
        return folder, wanted, start

    def _stems(self, folder: Path) -> dict[str, list[Path]]:
        if folder not in self._by_stem:
            stems = self._by_stem.setdefault(folder, {})
            others = self._others.setdefault(folder, {})
            for path in folder.iterdir() if folder.is_dir() else ():
                (stems if is_image(path) else others).setdefault(path.stem, []).append(path)
        return self._by_stem[folder]


def fill_pattern(pattern: str, image: Path, root: Path, *, image_id: str = "", is_glob: bool = False) -> str:
    """The mask pattern for one image; in a glob, the parts of the image's name are escaped."""
    words = {
        "stem": image.stem,
        "name": image.name,
        "parent": image.parent.name,
        "folder": relative(image.parent, root),
        "id": image_id,
    }
    return re.sub(
        r"\{(stem|name|parent|folder|id)\}",
        lambda word: glob.escape(words[word[1]]) if is_glob else words[word[1]],
        pattern,
    )
