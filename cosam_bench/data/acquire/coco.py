"""Natural images with one mask each, selected from COCO's instances by a rule that is this project's own.

Neither paper says how its images and masks were chosen. Of each image the largest instance is taken, by the area that
the annotations state, among those that are drawn as polygons and are no crowd. ``hash`` takes the images that come
first when their file names are ranked by sha256, of those whose largest instance covers at least 1 % of the image;
so 100 images are among the 200. ``name`` takes the first by file name, however small their largest instance.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
from numpy.typing import NDArray

from cosam_bench.core.errors import CosamError
from cosam_bench.core.files import CannotWrite
from cosam_bench.data.acquire.archives import link_or_copy
from cosam_bench.data.cards import Layout
from cosam_bench.data.pairing import FAULTS_SHOWN, matching_images

SELECTED = "selected"  # the layout of what is written
LEAST_SHARE = 0.01  # of the image that is covered; a smaller thing is no fair test of forgetting
MOST_BYTES = 2**30  # of an annotation file; COCO's largest has 450 MB
MOST_SIDE = 65_500  # pixels; JPEG's own limit is 65,535

_FOLDERS = ("images", "masks")

Polygon = tuple[float, ...]


@dataclass(frozen=True)
class Thing:
    """One image of COCO and its largest instance.

    Attributes:
        name: the image's file name.
        size: height and width.
        area: of the instance in pixels, as stated.
        polygons: its parts; x and y in turn, in pixels from the image's upper left corner.
    """

    name: str
    size: tuple[int, int]
    area: float
    polygons: tuple[Polygon, ...]


Chosen = tuple[Thing, NDArray[np.uint8]]


def write_selection(layout: Layout, *, root: Path, into: Path) -> list[str]:
    """Select images as a layout says, and write them with their masks: ``into/images`` and ``into/masks``.

    Images get a second name, or are copied where the file system cannot do that. Masks are PNG, 0 and 255.

    Returns:
        One line for each image that was passed over although its turn had come.

    Raises:
        CosamError: the annotations cannot be read, images are missing, there are too few of them, or ``into``
            holds something else than an earlier selection.
        CannotWrite: ``into`` cannot be written; what was there is kept.
    """
    _check_replaceable(into)
    things = ranked(read_things(root / layout.annotations), by=layout.select_by)
    patterns = (layout.images,) if isinstance(layout.images, str) else layout.images or ()
    images = {path.name: path for pattern in patterns for path in matching_images(root, pattern)}
    passed: list[str] = []
    chosen = _take(things, images, count=layout.select, passed=passed)
    if len(chosen) < layout.select:
        raise CosamError(
            f"{root / layout.annotations} leads to {len(chosen)} images with something to segment, but "
            f"{layout.select} are wanted. Give COCO's own val2017 with its annotations, whole."
        )
    temporary = into.with_name(f".{into.name}.selecting")
    try:
        _write(chosen, images, temporary)
        _replace(into, temporary)
    except OSError as error:
        raise CannotWrite(f"{into} cannot be written: {error.strerror or error}. Free space there.") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return passed


def _check_replaceable(into: Path) -> None:
    """See that nothing but an earlier selection would be replaced."""
    other = sorted(path.name for path in into.iterdir() if path.name not in _FOLDERS) if into.is_dir() else []
    if other:
        raise CosamError(
            f"The selection is written to {into}, but that folder holds something else: {other[0]}. It was left as it "
            "is. Move it out of there, and give its new place with --from."
        )


def _replace(into: Path, by: Path) -> None:
    """Put a folder in the place of another, which is removed only then."""
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


def _take(things: Sequence[Thing], images: dict[str, Path], *, count: int, passed: list[str]) -> list[Chosen]:
    """The first images of the ranking that will do, with their masks."""
    from cosam_bench.data.decoding import upright_size

    chosen: list[Chosen] = []
    missing: list[str] = []
    for thing in things:
        if len(chosen) + len(missing) == count:
            break
        if thing.name not in images:
            missing.append(thing.name)
            continue
        size = upright_size(images[thing.name].read_bytes(), name=str(images[thing.name]))
        if size != thing.size:  # COCO's polygons were drawn on the picture as stored, which EXIF may turn
            passed.append(f"{thing.name} is {size[1]} x {size[0]} pixels upright, not as annotated")
        elif not (mask := draw(thing.polygons, size=size)).any():
            passed.append(f"{thing.name}: its largest instance covers no pixel")
        else:
            chosen.append((thing, mask))
    if missing:
        more = f" and {len(missing) - FAULTS_SHOWN} more" if len(missing) > FAULTS_SHOWN else ""
        raise CosamError(
            f"{len(missing)} of the images to be selected are not there: {', '.join(missing[:FAULTS_SHOWN])}{more}. "
            "Unpack COCO's images (val2017.zip) beside the annotations, whole."
        )
    return chosen


def _write(chosen: Sequence[Chosen], images: dict[str, Path], folder: Path) -> None:
    from PIL import Image

    shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed
    for kind in _FOLDERS:
        (folder / kind).mkdir(parents=True)
    for thing, mask in chosen:
        link_or_copy(images[thing.name], folder / "images" / thing.name)
        Image.fromarray(mask).save(folder / "masks" / f"{Path(thing.name).stem}.png")


def ranked(things: Sequence[Thing], *, by: Literal["hash", "name"]) -> list[Thing]:
    """The images in the order in which they are taken."""
    if by == "name":
        return sorted(things, key=lambda thing: thing.name)
    large = [thing for thing in things if thing.area >= LEAST_SHARE * math.prod(thing.size)]
    return sorted(large, key=lambda thing: hashlib.sha256(thing.name.encode()).hexdigest())


def draw(polygons: Sequence[Polygon], *, size: tuple[int, int]) -> NDArray[np.uint8]:
    """The pixels whose centres lie in one of the polygons: 255 there, else 0, uint8 ``(H, W)``.

    A polygon that crosses itself is filled by the even-odd rule. PIL's own polygons are no use here: they include
    their outlines, which makes a thing of 40 pixels 6 % larger.

    Args:
        polygons: x and y in turn, in pixels from the upper left corner of the image.
        size: height and width.
    """
    mask = np.zeros(size, dtype=np.uint8)
    for polygon in polygons:
        starts = np.array(polygon, dtype=np.float64).reshape(-1, 2)
        ends = np.roll(starts, -1, axis=0)
        rows = range(max(math.floor(starts[:, 1].min()), 0), min(math.ceil(starts[:, 1].max()), size[0]))
        for row in rows:
            _fill_row(mask[row], starts, ends, y=row + 0.5)
    return mask


def _fill_row(row: NDArray[np.uint8], starts: NDArray[np.float64], ends: NDArray[np.float64], *, y: float) -> None:
    crosses = (starts[:, 1] <= y) != (ends[:, 1] <= y)
    (x, y_from), (x_to, y_to) = starts[crosses].T, ends[crosses].T
    places = np.sort(x + (y - y_from) * (x_to - x) / (y_to - y_from))
    first = np.clip(np.ceil(places - 0.5), 0, len(row)).astype(int)  # the first pixel whose centre lies beyond
    for left, right in zip(first[::2], first[1::2], strict=True):
        row[left:right] = 255


def read_things(path: Path) -> list[Thing]:
    """Each annotated image's largest instance, in the file's order of images.

    Raises:
        CosamError: it is no COCO file of instances, or holds what no such file holds.
    """
    content = _parsed(path)
    images = {image["id"]: image for image in _rows(path, content, "images", {"id": int, "file_name": str})}
    largest: dict[int, tuple[float, tuple[Polygon, ...]]] = {}
    keys = {"image_id": int, "area": (int, float)}
    for annotation in _rows(path, content, "annotations", keys):
        shape = annotation.get("segmentation")
        if annotation.get("iscrowd") or not isinstance(shape, list) or not shape:
            continue
        area, image = float(annotation["area"]), annotation["image_id"]
        if image not in images or not math.isfinite(area):
            _refuse(path, f"the annotation {annotation.get('id')!r} belongs to no image or has no area")
        if area > largest.get(image, (0.0, ()))[0]:
            largest[image] = area, tuple(_polygons(path, shape))
    return [_thing(path, image, *largest[number]) for number, image in images.items() if number in largest]


def _parsed(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MOST_BYTES:
            _refuse(path, f"it has more than {MOST_BYTES >> 20} MiB")
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise CosamError(f"{path} cannot be read: {error.strerror or error}.") from None
    except (ValueError, RecursionError) as error:  # a wrong encoding is a ValueError too
        _refuse(path, f"it is damaged ({str(error)[:80]})")
    return content if isinstance(content, dict) else _refuse(path, "it has no images")


def _rows(path: Path, content: dict[str, Any], name: str, keys: dict[str, Any]) -> Iterator[dict[str, Any]]:
    rows = content.get(name)
    if not isinstance(rows, list):
        _refuse(path, f"it has no {name}")
    for row in rows:
        if not isinstance(row, dict) or not all(
            isinstance(row.get(key), kind) and not isinstance(row[key], bool) for key, kind in keys.items()
        ):
            _refuse(path, f"one of its {name} lacks {' or '.join(keys)}")
        yield row


def _polygons(path: Path, shape: list[Any]) -> Iterator[Polygon]:
    for polygon in shape:
        is_sound = isinstance(polygon, list) and len(polygon) >= 6 and len(polygon) % 2 == 0
        if not is_sound or not all(type(place) in (int, float) and abs(place) <= MOST_SIDE for place in polygon):
            _refuse(path, "one of its polygons is none")
        yield tuple(float(place) for place in polygon)


def _thing(path: Path, image: dict[str, Any], area: float, polygons: tuple[Polygon, ...]) -> Thing:
    name, size = image["file_name"], (image.get("height"), image.get("width"))
    if Path(name).name != name or "\\" in name or name in ("", ".", ".."):
        _refuse(path, f"the image name {name[:80]!r} is a path")
    if not all(type(side) is int and 0 < side <= MOST_SIDE for side in size):
        _refuse(path, f"the image {name[:80]!r} has no size")
    return Thing(name, size, area, polygons)  # type: ignore[arg-type]  # whole numbers, as was seen


def _refuse(path: Path, reason: str) -> NoReturn:
    raise CosamError(f"{path} is no file of COCO's instances: {reason}. Fetch COCO's annotations anew.")
