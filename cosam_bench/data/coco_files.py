"""COCO's annotation files of instances: which objects they list for which image file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

from cosam_bench.core.errors import CosamError
from cosam_bench.core.reading import read_file
from cosam_bench.data.cards import Card
from cosam_bench.data.file_patterns import matching_paths

MOST_BYTES = 2**30  # of an annotation file; COCO's largest has 450 MB
_KEPT = 4  # annotation files in memory at once: those of one domain's parts


@dataclass(frozen=True)
class CocoImage:
    """What an annotation file says of one image.

    Attributes:
        name: the image's file name as listed; it may hold folders.
        size: height and width, if stated.
        annotations: the rows of its objects, in the file's order.
    """

    name: str
    size: tuple[object, object] | None = None
    annotations: tuple[dict[str, Any], ...] = ()

    def canonical(self) -> bytes:
        """The same bytes for the same objects, whatever else the file holds; without their categories."""
        rows = [{key: row.get(key) for key in _READ} for row in self.annotations]
        return json.dumps([self.size, rows], sort_keys=True).encode()


_READ = ("segmentation", "iscrowd")


@dataclass(frozen=True)
class CocoFile:
    """One annotation file.

    Attributes:
        path: of the file.
        images: by their names as listed.
        categories: names by id.
    """

    path: Path
    images: dict[str, CocoImage] = field(repr=False)
    categories: dict[int, str]

    def label(self, row: dict[str, Any]) -> str:
        """The name of an object's category; its id if the file does not name it."""
        number = row["category_id"]
        return self.categories.get(number, str(number))


def read_coco(path: Path) -> CocoFile:
    """An annotation file; the last few are kept in memory until they change.

    Raises:
        CosamError: it cannot be read, is not a COCO file of instances, or has impossible content.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise CosamError(f"{path} cannot be read: {error.strerror or error}.") from None
    return _read(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=_KEPT)
def _read(path: Path, changed_ns: int, size_bytes: int) -> CocoFile:  # noqa: ARG001 - a changed file is read again
    content = parse_json(path)
    names: dict[int, str] = {}
    stated: dict[str, tuple[object, object] | None] = {}
    for image in rows(path, content, "images", {"id": int, "file_name": str}):
        name = image["file_name"]
        if name in stated or image["id"] in names:
            refuse_coco(path, f"it lists the image {name[:80]!r}, or its id, twice")
        names[image["id"]] = name
        stated[name] = (image["height"], image["width"]) if "height" in image and "width" in image else None
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in stated}
    for row in rows(path, content, "annotations", {"image_id": int, "category_id": int}):
        if row["image_id"] not in names:
            refuse_coco(path, f"the annotation {row.get('id')!r} belongs to no image")
        found[names[row["image_id"]]].append(row)
    images = {name: CocoImage(name, stated[name], tuple(found[name])) for name in stated}
    given = rows(path, content, "categories", {"id": int, "name": str}) if "categories" in content else ()
    return CocoFile(path, images, {row["id"]: row["name"] for row in given})


def parse_json(path: Path) -> dict[str, Any]:
    """The content of an annotation file.

    Raises:
        CosamError: it cannot be read, or is not an object in JSON.
    """
    try:
        content = json.loads(read_file(path, limit_bytes=MOST_BYTES))
    except OSError as error:
        raise CosamError(f"{path} cannot be read: {error.strerror or error}.") from None
    except (ValueError, RecursionError) as error:  # a wrong encoding is a ValueError too
        refuse_coco(path, f"it is damaged ({str(error)[:80]})")
    return content if isinstance(content, dict) else refuse_coco(path, "it has no images")


def rows(path: Path, content: dict[str, Any], name: str, keys: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The rows of one of the file's lists.

    Args:
        path: of the file, for errors.
        content: of the file.
        name: of the list.
        keys: what each row must have, with its types.

    Raises:
        CosamError: there is no such list, or one of its rows lacks a key.
    """
    found = content.get(name)
    if not isinstance(found, list):
        refuse_coco(path, f"it has no {name}")
    for row in found:
        if not isinstance(row, dict) or not all(
            isinstance(row.get(key), kind) and not isinstance(row[key], bool) for key, kind in keys.items()
        ):
            refuse_coco(path, f"one of its {name} lacks {' or '.join(keys)}")
        yield row


def refuse_coco(path: Path, reason: str) -> NoReturn:
    """Raise the error of a file that is not one of COCO's instances."""
    raise CosamError(f"{path} is not a file of COCO's instances: {reason}. Correct it or get it again.")


def annotation_files(card: Card, root: Path) -> list[CocoFile]:
    """The annotation files of a card, sorted by path.

    Raises:
        CosamError: a glob matches none, one is no COCO file, or none has a category that the card's labels name.
    """
    globs = (card.annotations,) if isinstance(card.annotations, str) else card.annotations
    paths: set[Path] = set()
    for pattern in globs:
        matched = [path for path in matching_paths(root, pattern) if path.is_file()]
        if not matched:
            raise CosamError(f"no file matches annotations = {pattern!r} in {root}.")
        paths.update(matched)
    files = [read_coco(path) for path in sorted(paths)]
    known = sorted({name for file in files for name in file.categories.values()})
    if unknown := [label for label in card.labels if label not in known]:
        raise CosamError(
            f"labels has {', '.join(map(repr, unknown))}, but the categories of {', '.join(map(repr, globs))} are "
            f"{', '.join(map(repr, known)) or 'without names'}."
        )
    return files


class CocoIndex:
    """Finds what annotation files list for an image file.

    Args:
        root: the folder of the card's data.
        files: the annotation files.
    """

    def __init__(self, root: Path, files: Sequence[CocoFile]) -> None:
        self._root = root
        self._by_base: dict[str, list[tuple[CocoFile, str]]] = {}
        for file in files:
            for name in file.images:
                self._by_base.setdefault(_posix(name).name, []).append((file, name))

    def listings(self, image: Path) -> list[tuple[CocoFile, str]]:
        """The files that list an image, each with the name that it has there.

        A name that leads to the image from its file's folder or from the root comes before one that ends as the
        image's path does, and that before one of the same last part, since tools write their own folders.
        """
        named = self._by_base.get(image.name, [])
        exact = [(file, name) for file, name in named if image in self.places(file, name)]
        ends = [(file, name) for file, name in named if image.parts[-len(_posix(name).parts) :] == _posix(name).parts]
        return exact or ends or named

    def places(self, file: CocoFile, name: str) -> tuple[Path, Path]:
        """Where an image of this name may be: beside the file or under the root."""
        below_file, below_root = (os.path.normpath(folder / _posix(name)) for folder in (file.path.parent, self._root))
        return Path(below_file), Path(below_root)


def _posix(name: str) -> PurePosixPath:
    return PurePosixPath(name.replace("\\", "/"))
