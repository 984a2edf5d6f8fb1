"""One image and its prompt, as a user gives them, checked and made tensors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from cosam_bench.core.argument_checks import found_value, is_truth_value
from cosam_bench.core.errors import CosamError, ran_out_of_memory
from cosam_bench.core.files import expanded
from cosam_bench.data.decoding import DEEPEST, TWELVE_BITS, check_image, decode_image, holds_deep_greys
from cosam_bench.data.image_files import read_bytes
from cosam_bench.data.prompt_settings import TestPrompt
from cosam_bench.data.prompts import Prompts

ImageLike: TypeAlias = str | Path | Image.Image | NDArray[np.uint8]
Point: TypeAlias = tuple[float, float]
Box: TypeAlias = tuple[float, float, float, float]
Labels: TypeAlias = Sequence[int]

_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")  # PIL's, of at most 8 bits per channel


def image_pixels(image: ImageLike, *, levels: int | None = None) -> Tensor:
    """uint8 RGB ``(3, H, W)``.

    Args:
        image: a file, which is turned upright by its EXIF orientation; a PIL image; or uint8 RGB ``(H, W, 3)``.
        levels: of a file of 16 bits, the level that is white, as a card's ``levels``; None: 65535.

    Raises:
        CosamError: it is none of these, or it cannot be read; its 16 bits hold 12 and ``levels`` is None; or ``levels``
            is given for anything but a file of 16 bits, or is below one of its levels.
    """
    if isinstance(image, str | Path):
        path = expanded(image)
        return _file_pixels(read_bytes(path), name=str(path), levels=levels)
    if levels is not None:
        raise CosamError("levels is of image files of 16 bits. Leave it out, or give the image as a path.")
    if isinstance(image, Image.Image):
        image = _pillow_pixels(image)
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        found = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise CosamError(f"The image is {found}. Give a path, a PIL image or a uint8 array of shape (H, W, 3).")
    if not image.size:
        raise CosamError(f"The image has no pixels: its shape is {image.shape}.")
    return torch.from_numpy(image.copy()).permute(2, 0, 1).contiguous()  # torch does not take negative strides


def _pillow_pixels(image: Image.Image) -> NDArray[np.uint8]:
    """The pixels of a PIL image as RGB, ``(H, W, 3)``; its file may be read only now."""
    if image.mode not in _MODES:
        if image.mode.startswith(("I", "F")):
            why = "of which PIL's own conversion cuts bright levels off. Give its path"
        else:
            why = "which is not known here. Convert it to RGB"
        raise CosamError(f"The image has PIL's mode {image.mode!r}, {why}, or give a uint8 array (H, W, 3).")
    try:
        return np.array(image.convert("RGB"))
    except Exception as error:  # PIL raises many kinds for damaged files, and an AssertionError for a closed one
        if ran_out_of_memory(error):
            raise
        reason = str(error) or "its file is closed"
        raise CosamError(f"The PIL image cannot be read: {reason}. Give one that is whole and open.") from error


def _file_pixels(data: bytes, *, name: str, levels: int | None) -> Tensor:
    if levels is not None and not 1 <= levels <= DEEPEST:
        raise CosamError(f"levels is {levels}. Give the level that is white, from 1 to {DEEPEST}.")
    if levels is not None and not holds_deep_greys(data, name=name):
        raise CosamError(f"levels is of image files of 16 bit greys, and {name} is not one. Leave it out.")
    found = check_image(data, name=name)
    if levels is not None and found > levels:
        raise CosamError(f"{name} holds the level {found}, above levels = {levels}. Give the level that is white.")
    if levels is None and 0 < found <= TWELVE_BITS:
        raise CosamError(
            f"{name} has 16 bits and levels up to {found}, as if it had 12. Say which level is white, as the card of "
            f"its domain does: levels = {TWELVE_BITS}, or {DEEPEST} if it is meant to be that dark."
        )
    return decode_image(data, name=name, white=levels or DEEPEST)


def image_prompt(
    size: tuple[int, int],
    *,
    box: Sequence[float] | None,
    points: Sequence[Point] | None,
    mask: NDArray[Any] | None,
    otherwise: TestPrompt | None = None,
) -> tuple[TestPrompt, Prompts]:
    """The prompt of one image, of which exactly one kind is given.

    Args:
        size: height and width of the image.
        box: x0, y0, x1, y1 in pixels of the image.
        points: x, y each.
        mask: of the whole image, non-zero inside, of any height and width.
        otherwise: the kind if none is given, one that is not drawn; None: one must be given.

    Raises:
        CosamError: not one kind is given, or it does not fit the image.
    """
    given = sum(prompt is not None for prompt in (box, points, mask))
    boxes, places, masks = torch.zeros(1, 4), torch.zeros(1, 1, 2), torch.zeros(1, 1, 1, dtype=torch.bool)
    if not given and otherwise is not None:
        return otherwise, Prompts(boxes, places, masks, digest="")
    if given != 1:
        raise CosamError("Give one prompt for the image: a box, points or a mask.")
    kind: TestPrompt = "box" if box is not None else "points" if points is not None else "mask"
    if box is not None:
        boxes = _numbers(box, "The box", shape=(4,), means="x0, y0, x1, y1")[None]
        if not (boxes[0, :2] < boxes[0, 2:]).all():
            raise CosamError(f"The box {_listed(boxes[0])} is empty: x0 must be below x1, and y0 below y1.")
        _check_inside(boxes.view(2, 2), size, f"The box {_listed(boxes[0])}")
    elif points is not None:
        places = _numbers(points, "The points", shape=(None, 2), means="x, y each")[None]
        for point in places[0]:
            _check_inside(point[None], size, f"The point {_listed(point)}")
    else:
        masks = _inside(mask)[None]
        if masks.ndim != 3 or not masks.any():
            raise CosamError(f"The mask of shape {tuple(masks.shape[1:])} should be (H, W), with some pixels inside.")
    return kind, Prompts(boxes, places, masks, digest="")


def _numbers(values: object, name: str, *, shape: tuple[int | None, ...], means: str) -> Tensor:
    """Finite numbers, float32, in a shape whose None is any length but 0."""
    numbers = torch.tensor(_number_array(values), dtype=torch.float32)
    has_shape = len(numbers.shape) == len(shape) and all(
        asked in (None, found) for asked, found in zip(shape, numbers.shape, strict=True)
    )
    if not has_shape or not numbers.isfinite().all() or not numbers.numel():
        raise CosamError(f"{name} should be finite numbers, {means}; found {found_value(values)}.")
    return numbers


def _number_array(values: object) -> NDArray[np.float64]:
    """The values as float64; one NaN for what holds other things than numbers, such as text and truth values."""
    array, single = _array(values), _array(values, dtype=object)
    if array.dtype.kind not in "iufO" or any(isinstance(one, str) or is_truth_value(one) for one in single.flat):
        return np.array(np.nan)
    try:
        return np.array(array, dtype=np.float64)  # a copy: torch does not take negative strides
    except (TypeError, ValueError, OverflowError):  # other objects, or a number beyond all floats
        return np.array(np.nan)


def _array(values: object, dtype: type | None = None) -> NDArray[Any]:
    """The values as an array; an array of objects without any for what cannot be one, such as uneven rows."""
    try:
        return np.asarray(values, dtype=dtype)
    except (TypeError, ValueError, RuntimeError):  # the last: a tensor that needs gradients
        return np.empty(0, dtype=object)


def _inside(mask: object) -> Tensor:
    """Where a mask is not zero."""
    array = _array(mask)
    if array.dtype.kind not in "biuf":
        raise CosamError(f"The mask is {found_value(mask)}. Give an array (H, W) of numbers or truth values.")
    if not np.isfinite(array).all():
        raise CosamError("The mask has values that are not finite. Give 0 outside of the object and 1 inside.")
    return torch.tensor(array != 0)


def _check_inside(corners: Tensor, size: tuple[int, int], name: str) -> None:
    height, width = size
    if (corners < 0).any() or (corners > torch.tensor([width, height])).any():
        raise CosamError(f"{name} is not inside the image, which is {width} pixels wide and {height} high.")


def _listed(numbers: Tensor) -> str:
    return ",".join(f"{number:g}" for number in numbers.tolist())


def point_labels(labels: Sequence[int], *, count: int) -> Tensor:
    """The labels of ``count`` points, float32 ``(1, count)``: 1 on the object, 0 on the background.

    Raises:
        CosamError: another number of labels, or another label.
    """
    array = _array(labels)
    if not count or array.shape != (count,) or array.dtype.kind not in "biuf" or not np.isin(array, (0, 1)).all():
        raise CosamError(
            f"Labels are one per point, 1 on the object or 0 on the background; found {found_value(labels)}."
        )
    return torch.from_numpy(array[None].astype(np.float32))  # a copy: torch does not take negative strides
