"""COCO's, labelme's and YOLO's files below a folder, and what they list."""

from __future__ import annotations

import glob
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cosam_bench.core.errors import CosamError
from cosam_bench.core.reading import read_file
from cosam_bench.data.coco_files import MOST_BYTES, CocoFile, CocoIndex, read_coco
from cosam_bench.data.file_patterns import has_image_name, relative
from cosam_bench.data.guessing.candidates import Candidate
from cosam_bench.data.guessing.folder_listing import FolderListing
from cosam_bench.data.guessing.folder_words import Division, folder_division

_PER_FOLDER = 20  # files of a folder that are read to tell their kind; the others are like them
_SMALL_BYTES = 1 << 27  # as labelme's
_BOX = 5  # numbers of a line that is a box

TextKind = Literal["segments", "boxes"]


@dataclass(frozen=True)
class AnnotationFiles:
    """The annotation files of a folder by their tools.

    Attributes:
        coco: the files that list many images.
        labelme: files of shapes, one per image.
        yolo: text files of segments, one per image.
        boxes: text files of boxes, which are not masks.
        damaged: what is wrong with files that cannot be read.
    """

    coco: tuple[CocoFile, ...] = ()
    labelme: tuple[Path, ...] = ()
    yolo: tuple[Path, ...] = ()
    boxes: tuple[Path, ...] = ()
    damaged: tuple[str, ...] = ()


def find_annotations(listing: FolderListing) -> AnnotationFiles:
    """The annotation files below a folder; of many in one folder, the first are read and the others are like them."""
    coco: list[CocoFile] = []
    damaged: list[str] = []
    labelme: list[Path] = []
    texts: dict[TextKind, list[Path]] = {"segments": [], "boxes": []}
    for folder, names in listing.files.items():
        paths = [listing.root.joinpath(*folder, name) for name in names]
        jsons = [path for path in paths if path.suffix.lower() == ".json"]
        shapes = {path: _json_kind(path, coco, damaged) for path in jsons[:_PER_FOLDER]}
        read = [path for path, is_labelme in shapes.items() if is_labelme]
        labelme += [*read, *(jsons[_PER_FOLDER:] if read else [])]
        lines = [path for path in paths if path.suffix.lower() == ".txt"]
        kinds = Counter(kind for path in lines[:_PER_FOLDER] if (kind := _text_kind(path)))
        if kinds:
            texts[max(kinds, key=lambda kind: kinds[kind])] += [path for path in lines if _is_numbers(path)]
    return AnnotationFiles(tuple(coco), tuple(labelme), tuple(texts["segments"]), tuple(texts["boxes"]), tuple(damaged))


def is_coco(path: Path) -> bool:
    """Whether a file lists images and annotations as COCO's do."""
    coco: list[CocoFile] = []
    _json_kind(path, coco, [])
    return bool(coco)


def _json_kind(path: Path, coco: list[CocoFile], damaged: list[str]) -> bool:
    """Whether a file is labelme's; if it is COCO's, it is added to those."""
    try:
        content = json.loads(read_file(path, limit_bytes=MOST_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        damaged.append(f"{path.name} is no JSON ({str(error)[:60]})")
        return False
    if not isinstance(content, dict):
        return False
    if {"images", "annotations"} <= content.keys():
        try:
            coco.append(read_coco(path))
        except CosamError as error:
            damaged.append(str(error))
    return isinstance(content.get("shapes"), list)


def _text_kind(path: Path) -> TextKind | None:
    """What the first line of a text file holds; None if it is neither."""
    words = _first_words(path)
    if len(words) < _BOX or not words[0].isdecimal() or not _is_shares(words[1:]):
        return None
    return "boxes" if len(words) == _BOX else "segments" if len(words) % 2 else None


def _first_words(path: Path) -> list[str]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            return file.readline(1 << 20).split()
    except (OSError, UnicodeDecodeError):
        return []


def _is_shares(words: Sequence[str]) -> bool:
    try:
        return all(-0.1 <= float(word) <= 1.1 for word in words)
    except ValueError:
        return False


def _is_numbers(path: Path) -> bool:
    """Whether a text file is empty, as of an image without objects, or begins with a class and shares."""
    return not _first_words(path) or _text_kind(path) is not None


def coco_candidate(listing: FolderListing, files: Sequence[CocoFile]) -> Candidate | None:
    """The card of the images that COCO's files list; None if none of these images is below the folder."""
    root = listing.root
    index = CocoIndex(root, files)
    folders: dict[Path, set[str]] = {}
    by_part: dict[Division | None, set[str]] = {}
    for folder, names in sorted(listing.files.items()):
        for name in filter(lambda name: has_image_name(Path(name)), names):
            for file, _ in index.listings(root.joinpath(*folder, name)):
                pattern = "/".join([*map(glob.escape, folder), "*"])
                folders.setdefault(file.path, set()).add(pattern)
                by_part.setdefault(_part_of(file.path, root), set()).add(pattern)
    if not folders:
        return None
    used = [glob.escape(relative(file.path, root)) for file in files if file.path in folders]
    keys: dict[str, Any] = {}
    notes = _add_coco_images(keys, by_part)
    keys["annotations"] = used[0] if len(used) == 1 else used
    return Candidate("coco", keys, tuple(notes))


def _part_of(path: Path, root: Path) -> Division | None:
    parts = Path(relative(path, root)).parts
    return folder_division((*parts[:-1], path.stem))


def _add_coco_images(keys: dict[str, Any], by_part: dict[Division | None, set[str]]) -> list[str]:
    train = by_part.get("train", set())
    test = by_part.get("test") or by_part.get("validation") or set()
    if train and test and not train & test:
        keys["split"] = {"kind": "folders", "train": _one_or_list(train), "test": _one_or_list(test)}
        if "test" not in by_part:
            return ["The files for validation give the test part, since there are none for test."]
        unused = by_part.get("validation", set()) - train - test
        return [f"Images for validation ({', '.join(sorted(unused))}) are in neither part."] if unused else []
    keys["images"] = _one_or_list(set().union(*by_part.values()))
    if train and test:
        return [
            "The files for training and test list images of the same folder, so their division is not kept; name the "
            'images of each part in text files for split = { kind = "lists", train = "train.txt", test = "test.txt" }.'
        ]
    return []


def _one_or_list(globs: set[str]) -> str | list[str]:
    return sorted(globs) if len(globs) > 1 else next(iter(globs))


def coco_categories(files: Sequence[CocoFile]) -> tuple[Counter[str], int]:
    """The number of objects by their category, and how many have no segmentation."""
    rows = [(file, row) for file in files for image in file.images.values() for row in image.annotations]
    return Counter(file.label(row) for file, row in rows), sum(not row.get("segmentation") for _, row in rows)


def labelme_labels(paths: Sequence[Path]) -> Counter[str]:
    """The number of shapes by their label; damaged files, which a check names, are left out."""
    counts: Counter[str] = Counter()
    for path in paths:
        try:
            shapes = json.loads(read_file(path, limit_bytes=_SMALL_BYTES)).get("shapes", [])
            counts.update(str(shape.get("label", "")) for shape in shapes)
        except (OSError, ValueError, TypeError, AttributeError, RecursionError):
            continue
    return counts


def yolo_classes(paths: Sequence[Path]) -> Counter[str]:
    """The number of objects by their class."""
    counts: Counter[str] = Counter()
    for path in paths:
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError):
            continue
        counts.update(line.split()[0] for line in lines if line.strip())
    return counts
