"""Masks that are drawn from annotation files: labelme's, YOLO's and COCO's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from cosam_bench.core.errors import CosamError
from cosam_bench.data.cards import Card
from cosam_bench.data.coco_files import CocoFile, CocoImage, read_coco
from cosam_bench.data.instances import Instance, draw_instance, read_polygon, read_runs
from cosam_bench.data.labelme import (
    BACKGROUND,
    Shape,
    draw_ignored,
    draw_shapes,
    has_ignored,
    has_special_labels,
    is_foreground,
    read_shapes,
)
from cosam_bench.data.labelme import SUFFIX as LABELME
from cosam_bench.data.pairing import Pair
from cosam_bench.data.yolo import SUFFIX as YOLO
from cosam_bench.data.yolo import read_yolo


class AnnotatedMask(Protocol):
    """The mask of one image, drawn from an annotation file."""

    def numbers(self) -> list[int]:
        """The numbers of the foreground's objects, from 1, in the order of the file."""
        ...

    def labels(self) -> set[str]:
        """What the file calls its objects, whatever the card's labels are."""
        ...

    def draw(self, number: int = 0) -> Tensor:
        """The foreground of one object, or of all (0), bool ``(H, W)``."""
        ...

    def ignored(self) -> Tensor | None:
        """The pixels that are neither foreground nor background, bool ``(H, W)``; None if there are none."""
        ...

    def hashed(self) -> list[bytes]:
        """What the hash of the mask counts beside, or without, its file's bytes."""
        ...


class SizeMismatch(CosamError):
    """A mask does not have the size of its image."""


def is_annotated(pair: Pair) -> bool:
    """Whether the mask of a pair is drawn from an annotation file, not an image."""
    return bool(pair.listed_as) or pair.mask.suffix.lower() in (LABELME, YOLO)


def read_annotation(card: Card, pair: Pair, data: bytes, *, size: tuple[int, int]) -> AnnotatedMask:
    """The mask of a pair whose mask is drawn from an annotation file.

    Args:
        card: which labels are foreground.
        pair: the files.
        data: the bytes of the annotation file; unused for COCO's, which holds all images.
        size: height and width of the upright image.

    Raises:
        CosamError: the file is damaged, does not fit the image, or holds what has no area.
    """
    if card.ignore is not None:
        raise CosamError(f"{pair.mask.name} holds shapes, not levels or colours; leave ignore out of the card")
    if pair.listed_as:
        return _of_coco(card, read_coco(pair.mask), pair, size=size)
    if pair.mask.suffix.lower() == YOLO:
        return InstanceMask(read_yolo(data, name=str(pair.mask), size=size), card, size, pair.mask.name)
    return LabelmeMask(read_shapes(data, name=str(pair.mask), size=size), card.labels, size)


@dataclass(frozen=True)
class LabelmeMask:
    """The mask of a labelme file.

    Attributes:
        shapes: of the file.
        chosen: labels of the card.
        size: height and width.
    """

    shapes: list[Shape]
    chosen: tuple[str, ...]
    size: tuple[int, int]

    def numbers(self) -> list[int]:
        """The numbers of the shapes that are foreground."""
        return [n for n, shape in enumerate(self.shapes, start=1) if is_foreground(shape, self.chosen)]

    def labels(self) -> set[str]:
        """Of all shapes."""
        return {shape.label for shape in self.shapes}

    def draw(self, number: int = 0) -> Tensor:
        """One shape and the holes that were drawn after it, or all shapes."""
        shapes = self.shapes
        if number:
            shapes = [shapes[number - 1], *(shape for shape in shapes[number:] if shape.label == BACKGROUND)]
        return draw_shapes(shapes, size=self.size, labels=self.chosen)

    def ignored(self) -> Tensor | None:
        """The regions labelled ``__ignore__``, without the pixels of objects."""
        if not has_ignored(self.shapes, self.chosen):
            return None
        return draw_ignored(self.shapes, size=self.size) & ~self.draw()

    def hashed(self) -> list[bytes]:
        """Since holes are holes and ignored regions are ignored, a file that has some is another mask."""
        holes = [b"holes"] * (not self.chosen and has_special_labels(self.shapes))
        return holes + [b"ignored"] * has_ignored(self.shapes, self.chosen)


@dataclass(frozen=True)
class InstanceMask:
    """The mask of a list of objects.

    Attributes:
        instances: in the order of the file.
        card: which labels are foreground, and what holes are.
        size: height and width.
        where: the file, or the image in it, for errors.
        content: what the mask's hash counts; empty if that is the file's bytes alone.
    """

    instances: list[Instance]
    card: Card
    size: tuple[int, int]
    where: str
    content: bytes = b""

    def numbers(self) -> list[int]:
        """The numbers of the objects of the card's labels that are no crowds."""
        return [number for number, instance in self._chosen().items() if not instance.is_crowd]

    def labels(self) -> set[str]:
        """Of all objects."""
        return {instance.label for instance in self.instances}

    def draw(self, number: int = 0) -> Tensor:
        """One object, or all together."""
        return self._union([number] if number else self.numbers())

    def ignored(self) -> Tensor | None:
        """Crowds of the card's labels, without the pixels of objects."""
        crowds = [number for number, instance in self._chosen().items() if instance.is_crowd]
        return self._union(crowds) & ~self.draw() if crowds else None

    def hashed(self) -> list[bytes]:
        """The objects of this image."""
        return [self.content] * bool(self.content)

    def _chosen(self) -> Mapping[int, Instance]:
        labels = self.card.labels
        numbered = enumerate(self.instances, start=1)
        return {number: instance for number, instance in numbered if not labels or instance.label in labels}

    def _union(self, numbers: list[int]) -> Tensor:
        mask = np.zeros(self.size, dtype=bool)
        for number in numbers:
            where = f"object {number} of {self.where}"
            mask |= draw_instance(self.instances[number - 1], size=self.size, holes=self.card.holes, where=where)
        return torch.from_numpy(mask)


def _of_coco(card: Card, file: CocoFile, pair: Pair, *, size: tuple[int, int]) -> InstanceMask:
    image = file.images.get(pair.listed_as)
    if image is None:
        raise CosamError(f"{file.path} no longer lists {pair.listed_as}. Was it changed?")
    where = f"{image.name} in {file.path.name}"
    if image.size not in (None, size):
        stated_height, stated_width = image.size or ()
        raise SizeMismatch(
            f"{pair.image.name} is {size[1]} x {size[0]} pixels upright, but {file.path.name} was drawn on "
            f"{stated_width!r} x {stated_height!r}"
        )
    instances = [
        _coco_instance(file, row, where=f"object {number} of {where}", size=size)
        for number, row in enumerate(image.annotations, start=1)
    ]
    return InstanceMask(instances, card, size, where, _content(file, image))


def _content(file: CocoFile, image: CocoImage) -> bytes:
    """Categories by name, since their ids may change."""
    return "\n".join(map(file.label, image.annotations)).encode() + b"\n" + image.canonical()


def _coco_instance(file: CocoFile, row: dict[str, Any], *, where: str, size: tuple[int, int]) -> Instance:
    shape, label, is_crowd = row.get("segmentation"), file.label(row), bool(row.get("iscrowd"))
    if isinstance(shape, dict):
        if shape.get("size") != list(size):
            raise CosamError(f"{where} has runs of another size than {size[1]} x {size[0]}. Export it again.")
        return Instance(label, runs=read_runs(shape.get("counts"), size=size, where=where), is_crowd=is_crowd)
    if not isinstance(shape, list) or not shape:
        raise CosamError(f"{where} has a box and no segmentation. Export segments, or remove it.")
    return Instance(label, tuple(read_polygon(part, where=where) for part in shape), is_crowd=is_crowd)


def annotation_name(pair: Pair) -> str:
    """The mask of a pair, for people: the file, and the image's name in it if it holds several."""
    return f"{pair.listed_as} in {pair.mask}" if pair.listed_as else str(pair.mask)
