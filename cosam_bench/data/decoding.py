"""Image and mask files as tensors: decoded correctly, or refused by name."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from cosam_bench.core.errors import CosamError
from cosam_bench.core.reading import is_git_lfs_pointer
from cosam_bench.data.foreground import Foreground, check_is_exact, choices, foreground_pixels
from cosam_bench.data.ignored import Ignored
from cosam_bench.data.lossy_masks import NEUTRAL, lossless_advice, middle_cuts, what_is_lost
from cosam_bench.data.mask_content import MaskContent, mask_content

Array = NDArray[Any]

ORIENTATION = 0x0112  # EXIF 2.3, section 4.6.4: tag of the image's orientation
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "PPM", "WEBP", "JPEG2000")
CHANNELS = ("red", "green", "blue", "alpha")


DEEPEST = 65535  # white of 16 bits
TWELVE_BITS = 4095  # white of 12, which are often stored in 16
_FOREGROUND_COLOURS = (
    "Say which colours are foreground, such as foreground = { colours = [[255, 0, 0]] }, or which channel, such as "
    '{ above = 127, channel = "red" }.'
)
_ALPHA = 'Say foreground = { above = 127, channel = "alpha" } if that is the mask.'
_IGNORED_COLOURS = "Say which colours are ignored, such as ignore = { colours = [[224, 224, 192]] }."


class OnlyAlpha(CosamError):
    """A mask is black wherever it is visible, so that it would be empty; its alpha channel may be what is meant."""


def decode_image(data: bytes, *, name: str, white: int = DEEPEST) -> Tensor:
    """An image file's pixels, uint8 RGB ``(3, H, W)``, turned upright by its EXIF orientation.

    Grey is repeated; 16 bit greys become shares of ``white``, rounded; CMYK is converted as PIL does (Adobe's inverted
    JPEGs too); alpha is dropped and colours stay as stored. Colour profiles are not applied.

    Args:
        data: the file's bytes.
        name: the file's name, for errors.
        white: the level of 16 bit greys that is white.

    Raises:
        CosamError: damaged, animated, too large, or of a pixel type whose range is not stated (floats).
    """
    image = _open(data, name=name)
    orientation = _orientation(image)
    return torch.from_numpy(_upright(_rgb(image, name=name, white=white), orientation)).permute(2, 0, 1).contiguous()


def check_image(data: bytes, *, name: str) -> int:
    """The largest level of an image file of 16 bit greys, 0 for all others; its pixels are decoded and dropped.

    Raises:
        CosamError: as for :func:`decode_image`.
    """
    image = _open(data, name=name)
    if _is_deep(image):
        return int(_deep(image, name=name).max(initial=0))
    _rgb(image, name=name)
    return 0


def decode_mask(
    data: bytes, *, name: str, foreground: Foreground, ignore: Ignored | None = None, orientation: int | None = None
) -> Tensor:
    """A mask file's foreground, bool ``(H, W)``, turned upright.

    Args:
        data: the file's bytes.
        name: the file's name, for errors.
        foreground: which pixels are foreground.
        ignore: which are neither foreground nor background; they are not in the mask, whatever ``foreground`` says.
        orientation: the EXIF orientation, 1 to 8, that turns the mask upright; None for its own.

    Raises:
        CosamError: as for :func:`decode_image`, or it is ambiguous or undecided which pixels are foreground.
    """
    image = _open(data, name=name)
    loss = what_is_lost(image, data)
    if foreground.rule == "undecided":
        content = mask_content(image)
        advice = _lossy_advice(image, loss) if loss else f"Write into the card {choices(content.foremost)}."
        raise CosamError(
            f"{name}: it is undecided which of its pixels are foreground ({content.described()}). {advice}"
        )
    if loss:
        check_is_exact(foreground, name=name, loss=loss, advice=lambda: _cut_advice(image, loss))
    orientation = orientation or _orientation(image)
    ignored = None if ignore is None else _ignored(image, loss, name=name, foreground=foreground, ignore=ignore)
    if foreground.rule == "colours":
        mask = _of_colours(image, name=name, rule=foreground)
    else:
        on_colours = (lambda: _lossy_advice(image, loss)) if loss else (lambda: _FOREGROUND_COLOURS)
        levels = _levels(image, name=name, foreground=foreground, ignored=ignored, advice=on_colours)
        mask = foreground_pixels(levels, rule=foreground, name=name, loss=loss, advice=lambda: _cut_advice(image, loss))
    return torch.from_numpy(_upright(mask if ignored is None else mask & ~ignored, orientation))


def holds_deep_greys(data: bytes, *, name: str) -> bool:
    """Whether an image file holds 16 bit greys, from its header alone."""
    return _is_deep(_open(data, name=name, is_header_enough=True))


def read_mask_content(data: bytes, *, name: str) -> MaskContent:
    """The values that a mask file stores, and how many pixels have each.

    Raises:
        CosamError: as for :func:`decode_image`.
    """
    image = _open(data, name=name)
    if not _is_deep(image):
        _check_range(image, name=name)
    return mask_content(image)


def is_lossy(data: bytes, *, name: str) -> bool:
    """Whether an image file's compression may change levels, from its header alone."""
    return bool(what_is_lost(_open(data, name=name, is_header_enough=True), data))


def decode_ignored(
    data: bytes, *, name: str, foreground: Foreground, ignore: Ignored, orientation: int | None = None
) -> Tensor:
    """The pixels of a mask file that are neither foreground nor background, bool ``(H, W)``, turned upright.

    Args:
        data: the file's bytes.
        name: the file's name, for errors.
        foreground: its channel is the one whose levels count.
        ignore: which pixels they are.
        orientation: as for :func:`decode_mask`.

    Raises:
        CosamError: as for :func:`decode_image`, or the file cannot hold such levels or colours exactly.
    """
    image = _open(data, name=name)
    orientation = orientation or _orientation(image)
    ignored = _ignored(image, what_is_lost(image, data), name=name, foreground=foreground, ignore=ignore)
    return torch.from_numpy(_upright(ignored, orientation))


def _ignored(image: Image.Image, loss: str, *, name: str, foreground: Foreground, ignore: Ignored) -> Array:
    if loss:
        raise CosamError(
            f"{name} is {loss}, so no level or colour of it can be ignored. {lossless_advice(loss)}, or leave ignore "
            "out."
        )
    rule = ignore.as_foreground(foreground)
    if rule.rule == "colours":
        return _of_colours(image, name=name, rule=rule)
    levels = _levels(image, name=name, foreground=rule, advice=lambda: _IGNORED_COLOURS)
    return foreground_pixels(levels, rule=rule, name=name)


def _lossy_advice(image: Image.Image, loss: str) -> str:
    return f"It is {loss}. {_cut_advice(image, loss)}"


def _cut_advice(image: Image.Image, loss: str) -> str:
    """What to do with a lossy mask: the rules of exact levels and colours are refused."""
    cuts = middle_cuts([mask_content(image)])
    cut = f", or cut in the middle: {cuts[0].text}" if cuts else ""
    return f"{lossless_advice(loss)}{cut}."


def _of_colours(image: Image.Image, *, name: str, rule: Foreground) -> Array:
    pixels = _rgb(image, name=name)
    mask = np.zeros(pixels.shape[:2], dtype=bool)
    for colour in rule.colours:
        mask |= (pixels == np.array(colour)).all(axis=-1)
    return mask


def upright_size(data: bytes, *, name: str) -> tuple[int, int]:
    """An image file's height and width after its EXIF orientation, from its header alone."""
    image = _open(data, name=name, is_header_enough=True)
    width, height = image.size
    # PIL's size of a TIFF is upright already, from Pillow 11 on.
    is_turned = image.format != "TIFF" and _orientation(image) >= 5
    return (width, height) if is_turned else (height, width)


def exif_orientation(data: bytes, *, name: str) -> int:
    """An image file's EXIF orientation, 1 to 8, from its header alone; 1 (upright) if it states none."""
    return _orientation(_open(data, name=name, is_header_enough=True))


def _open(data: bytes, *, name: str, is_header_enough: bool = False) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        limit = Image.MAX_IMAGE_PIXELS
        if limit and image.width * image.height > limit:
            raise Image.DecompressionBombError
        if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:  # an MPO's first frame is the image
            raise CosamError(f"{name} holds {getattr(image, 'n_frames', 1)} frames. Give one image per file.")
        if not is_header_enough:
            image.load()
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise CosamError(
            f"{name} has more than {Image.MAX_IMAGE_PIXELS} pixels, PIL's limit against decompression "
            "bombs. Make it smaller or split it into tiles."
        ) from None
    except UnidentifiedImageError:
        if is_git_lfs_pointer(data):
            raise CosamError(f"{name} is a pointer of Git LFS, and no image yet. Fetch it: git lfs pull.") from None
        raise CosamError(
            f"{name} is not an image in one of the formats {', '.join(FORMATS)}. Replace it or leave it out."
        ) from None
    except (OSError, SyntaxError, ValueError, TypeError, EOFError, IndexError, struct.error) as error:
        raise CosamError(f"{name} is damaged: {error}. Replace it or leave it out.") from None
    return image


def _orientation(image: Image.Image) -> int:
    """1 to 8 as in EXIF; 1 if it is missing or invalid. PIL turns TIFFs while loading."""
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except (OSError, SyntaxError, ValueError, struct.error):
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _upright(pixels: Array, orientation: int) -> Array:
    """The image turned upright; ``pixels`` are ``(H, W)`` or ``(H, W, channels)``."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels.copy()  # torch does not take negative strides


def _rgb(image: Image.Image, *, name: str, white: int = DEEPEST) -> Array:
    """uint8 ``(H, W, 3)``, a copy."""
    _check_inks(image, name=name)
    if _is_deep(image):
        levels = _deep(image, name=name)
        if levels.max(initial=0) > white:
            raise CosamError(f"{name} holds the level {levels.max()}, but the card says levels = {white}. Correct it.")
        grey = ((levels * 255 + white // 2) // white).astype(np.uint8)  # rounded to nearest
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode in ("L", "RGB"):
        return np.array(image.convert("RGB"))
    return np.array(_rgba(image, name=name))[..., :3]


def _check_range(image: Image.Image, *, name: str) -> None:
    if image.mode not in ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr"):
        raise CosamError(
            f"{name} has pixels of type {image.mode!r}, whose range is not known. Save it with 8 or 16 bits."
        )


def _rgba(image: Image.Image, *, name: str) -> Image.Image:
    _check_range(image, name=name)
    if image.mode == "La":
        image = image.convert("LA")
    if image.mode in ("CMYK", "YCbCr", "RGBX"):
        image = image.convert("RGB")
    return image.convert("RGBA")


def _check_inks(image: Image.Image, *, name: str) -> None:
    """PIL takes every CMYK JPEG for Adobe's inverted kind; without Adobe's marker this is a guess."""
    if image.mode == "CMYK" and image.format == "JPEG" and "adobe" not in image.info:
        raise CosamError(f"{name} is a CMYK JPEG that does not say whether it is inverted. Save it as RGB.")


def _is_deep(image: Image.Image) -> bool:
    # PIL reads 16 bit PGM files as 32 bit integers with the range of 16.
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PPM", "PNG"))


def _deep(image: Image.Image, *, name: str) -> Array:
    levels = np.asarray(image).astype(np.int64)
    if levels.size and not 0 <= levels.min() <= levels.max() <= 65535:
        raise CosamError(f"{name} holds levels beyond 16 bits. Save it with 8 or 16 bits.")
    return levels


def _levels(
    image: Image.Image,
    *,
    name: str,
    foreground: Foreground,
    ignored: Array | None = None,
    advice: Callable[[], str],
) -> Array:
    """One whole number per pixel, ``(H, W)``, in the file's own range; ignored pixels are 0, as background is."""
    levels = _stored_levels(image, name=name, foreground=foreground, ignored=ignored, advice=advice)
    return levels if ignored is None else np.where(ignored, np.zeros((), dtype=levels.dtype), levels)


def _stored_levels(
    image: Image.Image, *, name: str, foreground: Foreground, ignored: Array | None, advice: Callable[[], str]
) -> Array:
    _check_inks(image, name=name)
    if foreground.channel:
        _check_has_channel(image, foreground.channel, name=name)
        return np.asarray(_rgba(image, name=name))[..., CHANNELS.index(foreground.channel)]
    if image.mode == "P":
        return _palette_levels(image, name=name, foreground=foreground, ignored=ignored)
    if image.mode in ("1", "L"):
        return np.asarray(image).astype(np.uint8)
    if _is_deep(image):
        return _deep(image, name=name)
    rgba = np.asarray(_rgba(image, name=name)).astype(np.int64)
    is_visible = rgba[..., 3] > 0
    is_partly_visible = is_visible.any() and not is_visible.all()
    if foreground.rule == "auto" and is_partly_visible and not rgba[is_visible][:, :3].any():
        raise OnlyAlpha(f"{name} is black, and only its alpha channel shows anything. {_ALPHA}")
    if not _is_neutral(rgba[..., :3][is_visible if ignored is None else is_visible & ~ignored]):
        raise CosamError(f"{name} is a coloured mask. {advice()}")
    return rgba[..., 0] * rgba[..., 3] // 255


def _check_has_channel(image: Image.Image, channel: str, *, name: str) -> None:
    """PIL makes up an alpha channel that is opaque everywhere, so all pixels would be foreground."""
    if channel == "alpha" and not image.has_transparency_data:
        raise CosamError(f"{name} has no alpha channel, which foreground reads. Leave channel out, or name another.")


def _palette_levels(image: Image.Image, *, name: str, foreground: Foreground, ignored: Array | None) -> Array:
    indices = np.asarray(image)
    if foreground.rule in ("values", "nonzero"):
        return indices
    colours = np.array(image.getpalette("RGB"), dtype=np.int64).reshape(-1, 3)
    counted = indices.ravel() if ignored is None else indices[~ignored]
    used = np.flatnonzero(np.bincount(counted))
    if used.max(initial=0) >= len(colours):
        raise CosamError(f"{name} uses colours that are not in its palette. Replace it or leave it out.")
    if _is_neutral(colours[used]):
        grey: Array = colours[np.minimum(indices, len(colours) - 1)][..., 0]  # ignored indices may have no colour
        return grey
    if foreground.rule == "above":
        raise CosamError(f"{name} has a coloured palette, which has no levels. Give foreground as values or colours.")
    if unclear := _unclear_palette(colours, used):
        shares = mask_content(image).described()
        raise CosamError(f"{name} has a coloured palette {unclear} ({shares}). {_advice(used)}")
    return np.asarray(indices != 0).astype(np.uint8)


def _unclear_palette(colours: Array, used: Array) -> str:
    """Why it is unclear which indices are foreground, as half a sentence; empty if index 0 is the background."""
    if colours[0].max() >= NEUTRAL:
        return f"whose index 0 is not black but {tuple(colours[0].tolist())}"
    return "with index 255, often a border to be ignored, beside others" if 255 in used and len(used) > 2 else ""


def _advice(used: Array) -> str:
    """What to write into the card."""
    first = used[used > 0].min(initial=255)
    if 255 in used and len(used) > 2:
        return (
            "If 255 is void, write ignore = 255, which leaves it out of loss and metrics; otherwise say which indices "
            f"are foreground, such as foreground = {{ values = [{first}, 255] }}."
        )
    return f"Say which indices are foreground, such as foreground = {{ values = [{first}] }}, or which colours."


def _is_neutral(colours: Array) -> bool:
    spread = colours.max(axis=-1, initial=0) - colours.min(axis=-1, initial=255)
    return bool((spread < NEUTRAL).all())
