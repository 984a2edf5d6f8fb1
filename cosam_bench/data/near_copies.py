"""Images that look the same though their bytes differ: saved again, at another size or with other brightness."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import fft
from torch import Tensor

Array = NDArray[Any]

SIDE = 32  # of the small grey picture, in pixels
LOW = 8  # lowest frequencies in each direction, so a hash has 64 bits
MOST_BITS = 6  # that may differ
ALIKE = 0.98  # correlation of the small pictures; images of one kind often agree in their lowest frequencies alone
_CHUNK = 256  # test images that are compared at once


@dataclass(frozen=True)
class ImagePrint:
    """What is compared of an image.

    Attributes:
        bits: perceptual hash of 64 bits.
        picture: float32 ``(1024,)``, the small grey picture with mean 0 and length 1; 0 if it is of one grey.
    """

    bits: int
    picture: Array


def image_print(pixels: Tensor) -> ImagePrint:
    """The print of an image.

    The hash says which of the lowest frequencies of the small picture's cosine transform are above their median
    (pHash; Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010).

    Args:
        pixels: uint8 RGB, ``(3, H, W)``.
    """
    image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    small = np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS), dtype=np.float64)
    low = fft.dctn(small)[:LOW, :LOW].ravel()
    packed = np.packbits(low > np.median(low))
    picture = (small - small.mean()).ravel()
    length = float(np.linalg.norm(picture))
    return ImagePrint(int.from_bytes(packed.tobytes()), (picture / length if length else picture).astype(np.float32))


def near_copies(train: Mapping[str, ImagePrint], test: Mapping[str, ImagePrint]) -> list[tuple[str, str]]:
    """The names of training and test images that look the same: each such test image with one of its copies.

    Two images do if at most 6 bits of their hashes differ and their small pictures correlate by 0.98 or more. Mirrored,
    turned and cropped copies are not found.

    Args:
        train: prints by name.
        test: likewise.
    """
    if not train or not test:
        return []
    names, tested = list(train), list(test)
    bits = np.array([one.bits for one in train.values()], dtype=np.uint64)
    pictures = np.stack([one.picture for one in train.values()])
    found: list[tuple[str, str]] = []
    for start in range(0, len(tested), _CHUNK):
        chunk = [test[name] for name in tested[start : start + _CHUNK]]
        other = np.array([one.bits for one in chunk], dtype=np.uint64)
        differing = np.bitwise_count(other[:, None] ^ bits[None])
        alike = np.stack([one.picture for one in chunk]) @ pictures.T
        alike[differing > MOST_BITS] = -1
        best = alike.argmax(axis=1)
        rows = np.flatnonzero(alike.max(axis=1) >= ALIKE)
        found += [(names[best[row]], tested[start + row]) for row in rows.tolist()]
    return found
