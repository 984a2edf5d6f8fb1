"""Point prompts as SAMCL publishes them: a JSON file beside the masks, the same for every run and method."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any, NoReturn

import torch
from torch import Tensor

from cosam_bench.core.errors import CosamError
from cosam_bench.core.hashing import sha256_bytes, sha256_text
from cosam_bench.data.prompts import Prompts, frozen_prompts, read_prompts, replace_points, write_prompts
from cosam_bench.data.samples import Split

SIDE = 1024  # of the squashed image whose pixels the file's points refer to, SAMCL
LARGEST_BYTES = 64 * 2**20  # the largest published file, of 3,040 masks, has a third of a megabyte
VERSION = 1  # of the conversion below; another version never reads this one's files
_SHOWN = 3


@dataclass(frozen=True)
class PublishedPoints:
    """The content of one file.

    Attributes:
        path: the file.
        sha256: of its bytes.
        entries: the unchecked content, by the mask file's name.
    """

    path: Path
    sha256: str
    entries: dict[str, Any]

    def key_of(self, mask: str, *, image: str = "") -> str | None:
        """The key of a mask's entry: its name, else the only key with the stem of the mask or the image.

        The bundles' masks are JPEGs but those of the sources are PNGs, and ISIC's have other names.

        Args:
            mask: the mask file's name.
            image: the image file's name.
        """
        if mask in self.entries:
            return mask
        stems = (PurePath(mask).stem, PurePath(image).stem)
        return next((keys[0] for stem in stems if len(keys := self._by_stem.get(stem, [])) == 1), None)

    @cached_property
    def _by_stem(self) -> dict[str, list[str]]:
        stems: dict[str, list[str]] = {}
        for key in self.entries:
            stems.setdefault(PurePath(key).stem, []).append(key)
        return stems

    def points_of(self, name: str, *, count: int) -> list[tuple[float, float]]:
        """The points of a mask, x y in pixels of the image squashed to 1024 x 1024.

        Raises:
            CosamError: there are not ``count`` of them, one is outside the image, or the entry is not a list of points.
        """
        entry = self.entries[name]
        if not (isinstance(entry, list) and len(entry) == 2 and all(isinstance(part, list) for part in entry)):
            self._refuse(name, "is not [[[x, y], ...], [1, ...]]")
        points, labels = entry
        if not all(isinstance(point, list) and len(point) == 2 and all(map(_is_coordinate, point)) for point in points):
            self._refuse(name, f"has a point that is not [x, y] with numbers from 0 to below {SIDE}")
        if len(labels) != len(points) or not all(type(label) in (int, float) and label == 1 for label in labels):
            self._refuse(name, "does not mark each point with 1, foreground")
        if len(points) != count:
            raise CosamError(
                f"{self.path} has {len(points)} points for {name!r}, but prompts.points is {count}. "
                f"Set prompts.points = {len(points)}."
            )
        return [(float(x), float(y)) for x, y in points]

    def _refuse(self, name: str, fault: str) -> NoReturn:
        raise CosamError(
            f"{self.path}: the entry of {name!r} {fault}. Fetch the file again, or set prompts.published = false."
        )


def _is_coordinate(value: object) -> bool:
    return type(value) in (int, float) and 0 <= value < SIDE  # type: ignore[operator]  # a number, as just checked


def read_published(path: Path) -> PublishedPoints:
    """The file's entries.

    Raises:
        CosamError: it is missing, too large, not a JSON object, or names a mask twice.
    """
    try:
        if not path.is_file():
            raise CosamError(f"There is no file of published points {path}. If the data was moved, prepare it again.")
        with path.open("rb") as file:
            content = file.read(LARGEST_BYTES + 1)
        if len(content) > LARGEST_BYTES:
            raise CosamError(
                f"{path} is larger than {LARGEST_BYTES // 2**20} MiB, so it is not a file of point prompts."
            )
        entries = json.loads(content, object_pairs_hook=_table, parse_constant=_no_number)
    except (OSError, ValueError, RecursionError) as error:
        raise CosamError(
            f"The published points {path} cannot be read: {error or type(error).__name__}. "
            "Fetch the file again, or set prompts.published = false."
        ) from None
    if not isinstance(entries, dict):
        raise CosamError(f"The published points {path} are not an object from names of mask files to points.")
    return PublishedPoints(path, sha256_bytes(content), entries)


def _table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for name, value in pairs:
        if name in table:
            raise ValueError(f"it has {reprlib.repr(name)} twice")
        table[name] = value
    return table


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is not a number of JSON")


def published_points(
    published: PublishedPoints, names: Sequence[str], shapes: Sequence[tuple[int, int]], *, count: int
) -> Tensor:
    """The points of some masks in their images' own pixels, float32 ``(N, count, 2)``, x y.

    Points are scaled such that in an image squashed to 1024 x 1024 the model gets the file's own numbers.

    Args:
        names: the masks' keys in the file.
        shapes: height and width of each image.
        count: points per mask.

    Raises:
        CosamError: a mask has no entry, or an entry is invalid.
    """
    missing = [name for name in names if name not in published.entries]
    if missing:
        shown = ", ".join(map(repr, missing[:_SHOWN])) + (" ..." if len(missing) > _SHOWN else "")
        raise CosamError(
            f"{published.path} has no points for {len(missing)} of {len(names)} masks: {shown}. "
            "Give the file that belongs to these masks, or set prompts.published = false."
        )
    points = torch.tensor([published.points_of(name, count=count) for name in names], dtype=torch.float64)
    scale = torch.tensor([[width / SIDE, height / SIDE] for height, width in shapes], dtype=torch.float64)
    return (points.view(len(names), count, 2) * scale.view(-1, 1, 2)).float()


def published_prompts(split: Split, *, points: int, seed: int, folder: Path) -> Prompts:
    """The prompts of a split with the points of its published file; boxes and noisy masks are drawn as usual.

    Like those of ``frozen_prompts`` they are frozen to a file, one per file of points.

    Args:
        split: of one domain; its entries name the mask files.
        points: number that the file must have for each mask.
        seed: of boxes and noisy masks.
        folder: of frozen prompts.

    Raises:
        CosamError: the split has no such file, or the file does not fit the split.
    """
    if not len(split):
        return frozen_prompts(split, points=points, seed=seed, folder=folder)
    if split.points_file is None:
        raise CosamError(
            f"prompts.published asks for published points, but the data of {split.domain!r} on this machine has none. "
            "Get a bundle that has them, or set prompts.published = false."
        )
    published = read_published(split.points_file)
    entries = split.manifest.entries
    names = [published.key_of(entry.mask_name, image=entry.image_name) or entry.mask_name for entry in entries]
    if len(set(names)) < len(names):
        raise CosamError(
            f"prompts.published needs one sample per mask file, each with its own points, but the {len(names)} samples "
            f"of {split.domain!r} share {len(set(names))} of {split.points_file}. Set prompts.published = false, or "
            "samples = 'union' on its card."
        )
    identity = sha256_text(f"{VERSION}|{split.domain}|{split.digest}|{published.sha256}")
    path = folder / f"{split.domain}-{split.part}-seed{seed}-published{points}-{identity[:12]}.safetensors"
    if path.exists():
        return read_prompts(path, identity=identity)
    drawn = frozen_prompts(split, points=points, seed=seed, folder=folder)
    shapes = [(mask.shape[0], mask.shape[1]) for mask in (split.mask(index) for index in range(len(split)))]
    prompts = replace_points(drawn, published_points(published, names, shapes, count=points))
    write_prompts(path, prompts, identity=identity)
    return prompts
