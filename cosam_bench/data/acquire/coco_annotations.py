"""COCO's annotation files of instances: the largest instance of each image, and its pixels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosam_bench.data.coco_files import parse_json, refuse_coco, rows

MOST_SIDE = 65_500  # pixels; JPEG's own limit is 65,535

Polygon = tuple[float, ...]


@dataclass(frozen=True)
class LargestInstance:
    """The largest instance of one image of COCO.

    Attributes:
        name: the image's file name.
        size: the image's height and width.
        area: in pixels, as stated.
        polygons: its parts; alternately x and y, in pixels from the image's upper left corner.
    """

    name: str
    size: tuple[int, int]
    area: float
    polygons: tuple[Polygon, ...]


def read_largest_instances(path: Path) -> list[LargestInstance]:
    """Each annotated image's largest instance drawn as polygons, in the file's order of images.

    Raises:
        CosamError: it is not a COCO file of instances, or it has impossible content.
    """
    content = parse_json(path)
    images = {image["id"]: image for image in rows(path, content, "images", {"id": int, "file_name": str})}
    largest: dict[int, tuple[float, tuple[Polygon, ...]]] = {}
    keys = {"image_id": int, "area": (int, float)}
    for annotation in rows(path, content, "annotations", keys):
        shape = annotation.get("segmentation")
        if annotation.get("iscrowd") or not isinstance(shape, list) or not shape:
            continue
        area, image = float(annotation["area"]), annotation["image_id"]
        if image not in images or not math.isfinite(area):
            refuse_coco(path, f"the annotation {annotation.get('id')!r} belongs to no image or has no area")
        if area > largest.get(image, (0.0, ()))[0]:
            largest[image] = area, tuple(_polygons(path, shape))
    return [_instance(path, image, *largest[number]) for number, image in images.items() if number in largest]


def _polygons(path: Path, shape: list[Any]) -> Iterator[Polygon]:
    for polygon in shape:
        is_list = isinstance(polygon, list) and len(polygon) >= 6 and len(polygon) % 2 == 0
        if not is_list or not all(type(number) in (int, float) and abs(number) <= MOST_SIDE for number in polygon):
            refuse_coco(path, "one of its polygons is invalid")
        yield tuple(float(number) for number in polygon)


def _instance(path: Path, image: dict[str, Any], area: float, polygons: tuple[Polygon, ...]) -> LargestInstance:
    name, size = image["file_name"], (image.get("height"), image.get("width"))
    if Path(name).name != name or "\\" in name or name in ("", ".", ".."):
        refuse_coco(path, f"the image name {name[:80]!r} is a path")
    if not all(type(side) is int and 0 < side <= MOST_SIDE for side in size):
        refuse_coco(path, f"the image {name[:80]!r} has no size")
    return LargestInstance(name, size, area, polygons)  # type: ignore[arg-type]  # whole numbers, as just checked


def fill_polygons(polygons: Sequence[Polygon], *, size: tuple[int, int]) -> NDArray[np.uint8]:
    """The pixels whose centres are in one of the polygons: 255 there, else 0, uint8 ``(H, W)``.

    A polygon that crosses itself is filled by the even-odd rule. PIL's polygons are unsuitable: they include their
    outlines, which makes an instance of 40 pixels 6 % larger.

    Args:
        polygons: alternately x and y, in pixels from the upper left corner of the image.
        size: height and width.
    """
    mask = np.zeros(size, dtype=np.uint8)
    for polygon in polygons:
        starts = np.array(polygon, dtype=np.float64).reshape(-1, 2)
        ends = np.roll(starts, -1, axis=0)
        lines = range(max(math.floor(starts[:, 1].min()), 0), min(math.ceil(starts[:, 1].max()), size[0]))
        for row in lines:
            _fill_row(mask[row], starts, ends, y=row + 0.5)
    return mask


def _fill_row(row: NDArray[np.uint8], starts: NDArray[np.float64], ends: NDArray[np.float64], *, y: float) -> None:
    crosses = (starts[:, 1] <= y) != (ends[:, 1] <= y)
    (x, y_from), (x_to, y_to) = starts[crosses].T, ends[crosses].T
    crossings = np.sort(x + (y - y_from) * (x_to - x) / (y_to - y_from))
    first = np.clip(np.ceil(crossings - 0.5), 0, len(row)).astype(int)  # the first pixel centre beyond each
    for left, right in zip(first[::2], first[1::2], strict=True):
        row[left:right] = 255
