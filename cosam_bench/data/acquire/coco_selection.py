"""Natural images with one mask each, selected from COCO's instances by a rule of this project.

Neither paper says how its images and masks were chosen. Of each image the largest instance is taken, by the area that
the annotations state, among those that are drawn as polygons and are not crowds. ``hash`` takes the first images in
order of the sha256 of their file names, if their largest instance covers at least 1 % of the image; so 100 images are
among the 200. ``name`` takes the first by file name, however small their largest instance.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cosam_bench.core.errors import CosamError
from cosam_bench.core.files import CannotWrite
from cosam_bench.core.hashing import sha256_text
from cosam_bench.data.acquire.coco_annotations import LargestInstance, fill_polygons, read_largest_instances
from cosam_bench.data.acquire.extraction import link_or_copy
from cosam_bench.data.cards import Layout
from cosam_bench.data.faults import first_few
from cosam_bench.data.file_patterns import matching_images

SELECTED = "selected"  # the layout of what is written
LEAST_SHARE = 0.01  # of the image; a smaller object is not a fair test of forgetting

_FOLDERS = ("images", "masks")

Masked = tuple[LargestInstance, NDArray[np.uint8]]


def write_selection(layout: Layout, *, root: Path, into: Path) -> list[str]:
    """Select images as a layout says, and write them with their masks: ``into/images`` and ``into/masks``.

    Images get a second name, or are copied if the file system has no links. Masks are PNG, 0 and 255.

    Returns:
        One line for each image that could not be used although its turn had come.

    Raises:
        CosamError: the annotations cannot be read, images are missing or too few, or ``into`` holds something
            other than an earlier selection.
        CannotWrite: ``into`` cannot be written; its content is kept.
    """
    _check_replaceable(into)
    instances = rank(read_largest_instances(root / layout.annotations), by=layout.select_by)
    patterns = (layout.images,) if isinstance(layout.images, str) else layout.images or ()
    images = {path.name: path for pattern in patterns for path in matching_images(root, pattern)}
    skipped: list[str] = []
    chosen = _select(instances, images, count=layout.select, skipped=skipped)
    if len(chosen) < layout.select:
        raise CosamError(
            f"{root / layout.annotations} leads to {len(chosen)} images with something to segment, but "
            f"{layout.select} are wanted. Give COCO's complete val2017 with its annotations."
        )
    temporary = into.with_name(f".{into.name}.selecting")
    try:
        _write(chosen, images, temporary)
        _replace(into, temporary)
    except OSError as error:
        raise CannotWrite(f"{into} cannot be written: {error.strerror or error}. Free space there.") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return skipped


def _check_replaceable(into: Path) -> None:
    """Refuse to replace anything but an earlier selection."""
    other = sorted(path.name for path in into.iterdir() if path.name not in _FOLDERS) if into.is_dir() else []
    if other:
        raise CosamError(
            f"The selection is written to {into}, but that folder holds something else: {other[0]}. Nothing was "
            "changed. Move it elsewhere, and give its new path with --from."
        )


def rank(instances: Sequence[LargestInstance], *, by: Literal["hash", "name"]) -> list[LargestInstance]:
    """The images in the order in which they are taken."""
    if by == "name":
        return sorted(instances, key=lambda instance: instance.name)
    large = [instance for instance in instances if instance.area >= LEAST_SHARE * math.prod(instance.size)]
    return sorted(large, key=lambda instance: sha256_text(instance.name))


def _select(
    instances: Sequence[LargestInstance], images: dict[str, Path], *, count: int, skipped: list[str]
) -> list[Masked]:
    """The first usable images of the ranking, with their masks."""
    from cosam_bench.data.decoding import upright_size

    chosen: list[Masked] = []
    missing: list[str] = []
    for instance in instances:
        if len(chosen) + len(missing) == count:
            break
        if instance.name not in images:
            missing.append(instance.name)
            continue
        path = images[instance.name]
        size = upright_size(path.read_bytes(), name=str(path))
        if size != instance.size:  # COCO's polygons were drawn on the image as stored, which EXIF may turn
            skipped.append(f"{instance.name} is {size[1]} x {size[0]} pixels upright, not as annotated")
        elif not (mask := fill_polygons(instance.polygons, size=size)).any():
            skipped.append(f"{instance.name}: its largest instance covers no pixel")
        else:
            chosen.append((instance, mask))
    if missing:
        raise CosamError(
            f"{len(missing)} of the images to select are missing: {first_few(missing)}. "
            "Unpack COCO's complete images (val2017.zip) beside the annotations."
        )
    return chosen


def _write(chosen: Sequence[Masked], images: dict[str, Path], folder: Path) -> None:
    from PIL import Image

    shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed
    for kind in _FOLDERS:
        (folder / kind).mkdir(parents=True)
    for instance, mask in chosen:
        link_or_copy(images[instance.name], folder / "images" / instance.name)
        Image.fromarray(mask).save(folder / "masks" / f"{Path(instance.name).stem}.png")


def _replace(into: Path, by: Path) -> None:
    """Put a folder in place of another, which is removed only afterwards."""
    before = into.with_name(f".{into.name}.before")
    shutil.rmtree(before, ignore_errors=True)  # of a process that was killed
    if into.is_dir():
        into.rename(before)
    try:
        by.rename(into)
    except OSError:
        if before.is_dir():
            before.rename(into)
        raise
    shutil.rmtree(before, ignore_errors=True)
