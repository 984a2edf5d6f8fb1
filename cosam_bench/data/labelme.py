"""Labelme's annotation files (``.json``): the shapes drawn on an image, and their pixels."""

from __future__ import annotations

import json
import math
import reprlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from cosam_bench.core.errors import CosamError

SUFFIX = ".json"
SIZE_BYTES = 1 << 27  # the image is often embedded, which makes the file a third larger than the image
SHAPES = 2_000
POINTS = 100_000  # of one shape
REACH = 1e5  # pixels from the corner; beyond it a file is damaged, and drawing is slow
ALLOWED = ("polygon", "rectangle", "circle")
BACKGROUND, IGNORED = "_background_", "__ignore__"  # the first two lines of labelme's own lists of labels


@dataclass(frozen=True)
class Shape:
    """One shape of a labelme file.

    Attributes:
        kind: ``polygon``; ``rectangle``, two opposite corners; ``circle``, its centre and a point on it.
        points: x, y in pixels of the upright image; they may be outside it.
        label: what it shows.
    """

    kind: str
    points: tuple[tuple[float, float], ...]
    label: str = ""


def read_shapes(data: bytes, *, name: str, size: tuple[int, int]) -> list[Shape]:
    """The shapes of a labelme file with their labels, in the order of the file.

    Args:
        data: the file's bytes.
        name: the file's name, for errors.
        size: height and width of the upright image, which the file must match.

    Raises:
        CosamError: it is not a labelme file, was drawn on an image of another size, or holds shapes without an
            area (lines, points) or of an unknown kind.
    """
    content = _parsed(data, name=name)
    stated = content.get("imageHeight"), content.get("imageWidth")
    if stated not in ((None, None), size):
        drawn_on = " x ".join(reprlib.repr(side) for side in reversed(stated))
        raise CosamError(
            f"{name} was drawn on an image of {drawn_on} pixels, but its image has {size[1]} x {size[0]}. "
            "Give the image that it was drawn on."
        )
    shapes = content.get("shapes")
    if not isinstance(shapes, list) and {"images", "annotations"} <= content.keys():
        raise CosamError(f"{name} is a COCO file, not labelme's. Say annotations in the card instead of masks.")
    if not isinstance(shapes, list):
        raise CosamError(f"{name} is not a labelme file: it has no list of shapes. Replace it or leave it out.")
    if len(shapes) > SHAPES:
        raise CosamError(
            f"{name} holds {len(shapes)} shapes, but at most {SHAPES} are read. Split the image or merge shapes."
        )
    return [_shape(shape, name=name, number=number) for number, shape in enumerate(shapes, start=1)]


def is_foreground(shape: Shape, labels: tuple[str, ...]) -> bool:
    """Whether a shape is of one of the labels; without any, all but labelme's two special ones are."""
    return shape.label in labels if labels else shape.label not in (BACKGROUND, IGNORED)


def has_special_labels(shapes: list[Shape]) -> bool:
    """Whether a file has holes or ignored regions, which are no foreground."""
    return any(shape.label in (BACKGROUND, IGNORED) for shape in shapes)


def has_ignored(shapes: list[Shape], labels: tuple[str, ...]) -> bool:
    """Whether a file has regions labelled ``__ignore__``, unless that label is chosen as foreground."""
    return IGNORED not in labels and any(shape.label == IGNORED for shape in shapes)


def draw_ignored(shapes: list[Shape], *, size: tuple[int, int]) -> Tensor:
    """The regions labelled ``__ignore__``, bool ``(H, W)``, whatever else is drawn there."""
    return draw_shapes(shapes, size=size, labels=(IGNORED,))


def draw_shapes(shapes: list[Shape], *, size: tuple[int, int], labels: tuple[str, ...] = ()) -> Tensor:
    """The foreground of all the shapes together, bool ``(H, W)``; what is outside the image is cut off.

    Outlines belong to the shapes, as in labelme's own ``shape_to_mask``. Shapes are drawn in their order, and one of
    the label ``_background_`` is a hole in those before it, as in the class masks that labelme's examples export.

    Args:
        shapes: of one file.
        size: height and width of the image.
        labels: which are foreground; none: all but ``_background_`` and ``__ignore__``.
    """
    canvas = Image.new("L", (size[1], size[0]))
    draw = ImageDraw.Draw(canvas)
    for shape in shapes:
        value = int(is_foreground(shape, labels))
        if not value and shape.label != BACKGROUND:
            continue
        if shape.kind == "polygon":
            draw.polygon(list(shape.points), outline=value, fill=value)
            continue
        (x, y), (x1, y1) = shape.points
        if shape.kind == "rectangle":
            draw.rectangle((min(x, x1), min(y, y1), max(x, x1), max(y, y1)), outline=value, fill=value)
        else:
            radius = math.hypot(x1 - x, y1 - y)
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=value, fill=value)
    return torch.from_numpy(np.array(canvas) > 0)


def _parsed(data: bytes, *, name: str) -> dict[str, Any]:
    if len(data) > SIZE_BYTES:
        what = f"{name} has {len(data)} bytes; labelme files of more than {SIZE_BYTES} are not read"
        raise CosamError(f"{what}. Save it without the image.")
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:  # a bad encoding is a ValueError too
        raise CosamError(f"{name} is not a labelme file: {error}. Replace it or leave it out.") from None
    if not isinstance(content, dict):
        raise CosamError(f"{name} is not a labelme file: it does not hold a table. Replace it or leave it out.")
    return content


def _shape(shape: object, *, name: str, number: int) -> Shape:
    where = f"shape {number} of {name}"
    kind = (shape.get("shape_type") or "polygon") if isinstance(shape, dict) else None  # missing in old files
    if not isinstance(shape, dict) or not isinstance(kind, str) or kind not in ALLOWED:
        raise CosamError(
            f"{where} is of the kind {reprlib.repr(kind)}; known kinds are {', '.join(ALLOWED)}. Remove or redraw it."
        )
    points = shape.get("points")
    if not isinstance(points, list) or len(points) > POINTS or not all(_is_point(point) for point in points):
        raise CosamError(f"{where} has no list of points (pairs of numbers within {REACH:.0f} pixels). Redraw it.")
    wanted = 3 if kind == "polygon" else 2
    if len(points) < wanted or (kind != "polygon" and len(points) > wanted):
        raise CosamError(f"{where} is a {kind} with {len(points)} points. Remove or redraw it.")
    label = shape.get("label")
    return Shape(kind, tuple((float(x), float(y)) for x, y in points), label if isinstance(label, str) else "")


def _is_point(point: object) -> bool:
    return (
        isinstance(point, list)
        and len(point) == 2
        and all(isinstance(number, int | float) and not isinstance(number, bool) for number in point)
        and all(abs(number) <= REACH for number in point)  # false for nan, too
    )
