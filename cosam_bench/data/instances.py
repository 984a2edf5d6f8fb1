"""Objects drawn as polygons or run lengths, and their pixels as COCO's own tools draw them."""

from __future__ import annotations

import itertools
import re
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosam_bench.core.errors import CosamError
from cosam_bench.data.cards import Holes

REACH = 1e5  # pixels from the corner; beyond it a file is damaged, and drawing is slow
POINTS = 100_000  # of one polygon

Mask = NDArray[np.bool_]
Polygon = tuple[float, ...]  # alternately x and y, in pixels from the upper left corner
# Characters of compressed runs (maskApi.c, rleToString): six bits from "0" on, of which the highest says "goes on".
_COMPRESSED = re.compile(r"(?:[P-o]{0,6}[0-O])+")


@dataclass(frozen=True)
class Instance:
    """One object of an annotation file.

    Attributes:
        label: what it shows.
        polygons: its parts; empty if it is given as runs.
        runs: lengths of alternate runs of background and foreground, column by column; empty for polygons.
        is_crowd: a region of objects that nobody has told apart, which counts neither as object nor as background.
    """

    label: str
    polygons: tuple[Polygon, ...] = ()
    runs: tuple[int, ...] = ()
    is_crowd: bool = False


def read_polygon(numbers: object, *, where: str) -> Polygon:
    """A polygon of at least three points.

    Args:
        numbers: a list, alternately x and y.
        where: the object's place, for errors.

    Raises:
        CosamError: it is something else.
    """
    is_list = isinstance(numbers, list) and 6 <= len(numbers) <= 2 * POINTS and len(numbers) % 2 == 0
    if not isinstance(numbers, list) or not is_list or not all(map(_is_near, numbers)):
        raise CosamError(
            f"{where} has a polygon that is not a list of three or more points x, y within {REACH:.0f} pixels: "
            f"{reprlib.repr(numbers)}. Correct or remove it."
        )
    return tuple(float(number) for number in numbers)


def _is_near(number: object) -> bool:
    return isinstance(number, int | float) and not isinstance(number, bool) and abs(number) <= REACH  # false for nan


def read_runs(counts: object, *, size: tuple[int, int], where: str) -> tuple[int, ...]:
    """The run lengths of a mask, compressed as text or not.

    Args:
        counts: a list of lengths, or COCO's compressed text.
        size: height and width, whose product the runs must fill.
        where: the object's place, for errors.

    Raises:
        CosamError: they are damaged.
    """
    lengths = _decompressed(counts) if isinstance(counts, str) else counts
    is_whole = isinstance(lengths, list) and all(type(length) is int and length >= 0 for length in lengths)
    if not isinstance(lengths, list) or not is_whole or sum(lengths) != size[0] * size[1]:
        raise CosamError(
            f"{where} has damaged runs: they do not fill {size[1]} x {size[0]} pixels. Export it again or remove it."
        )
    return tuple(lengths)


def _decompressed(text: str) -> list[int] | None:
    """The run lengths of COCO's text, as ``rleFrString`` of its maskApi.c reads them; None if it is damaged."""
    if not _COMPRESSED.fullmatch(text):
        return None
    lengths: list[int] = []
    number = shift = 0
    for code in text.encode("ascii"):
        bits = code - 48
        number |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        number -= (bits & 16) << (shift - 4)  # the highest bit is the sign
        lengths.append(number + (lengths[-2] if len(lengths) > 2 else 0))
        number = shift = 0
    return lengths


def draw_instance(instance: Instance, *, size: tuple[int, int], holes: Holes | None, where: str) -> Mask:
    """The pixels of one object, bool ``(H, W)``; what is outside the image is cut off.

    Args:
        instance: the object.
        size: height and width of the image.
        holes: what a polygon inside another one of the same object is.
        where: the object's place, for errors.

    Raises:
        CosamError: there is such a polygon, and ``holes`` is None.
    """
    from pycocotools import mask as coco

    if instance.runs:
        return _pixels(instance.runs, size=size)
    parts = coco.frPyObjects([list(polygon) for polygon in instance.polygons], *size)
    depths = [0] if len(parts) == 1 else _depths(parts)
    if not any(depths) or holes == "fill":
        return _joined(parts, size=size)
    if holes is None:
        raise CosamError(
            f"{where} has a polygon inside another one of it. COCO's tools fill it, other tools write holes like "
            'this. Say holes = "cut" or holes = "fill" in the card.'
        )
    mask = np.zeros(size, dtype=bool)
    for depth in sorted(set(depths)):
        layer = _joined([part for part, own in zip(parts, depths, strict=True) if own == depth], size=size)
        mask = mask & ~layer if depth % 2 else mask | layer
    return mask


def _joined(parts: Sequence[Any], *, size: tuple[int, int]) -> Mask:
    """The pixels of pycocotools' run lengths together; its own ``decode`` warns with NumPy 2."""
    from pycocotools import mask as coco

    return _pixels(_decompressed(coco.merge(parts)["counts"].decode("ascii")) or (), size=size)


def _pixels(runs: Sequence[int], *, size: tuple[int, int]) -> Mask:
    values = np.arange(len(runs)) % 2 == 1
    return np.ascontiguousarray(np.repeat(values, runs).reshape(size, order="F"))


def _depths(parts: Sequence[Any]) -> list[int]:
    """In how many of the others each part lies; of two equal parts the second lies in the first."""
    from pycocotools import mask as coco

    areas = coco.area(parts).tolist()
    boxes = coco.toBbox(parts)
    starts, ends = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    depths = [0] * len(parts)
    for inner, outer in itertools.permutations(range(len(parts)), 2):
        is_smaller = (areas[inner], -inner) < (areas[outer], -outer)
        is_within = (starts[inner] >= starts[outer]).all() and (ends[inner] <= ends[outer]).all()
        if areas[inner] and is_smaller and is_within:
            shared = float(coco.area(coco.merge([parts[inner], parts[outer]], intersect=True)))
            depths[inner] += shared == areas[inner]
    return depths
