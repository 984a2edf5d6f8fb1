"""From an image's own pixels to the model's square input and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from cosam_bench.sam.frame_choices import Resampling, Resize, Upsampling

# SAM's own pixel statistics, RGB in 0..255 (segment-anything, build_sam).
PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class Frame:
    """An image's place in the model's square input: the top left corner.

    Attributes:
        original: height and width of the image.
        content: its height and width within the input.
        size: side S of the input.
    """

    original: tuple[int, int]
    content: tuple[int, int]
    size: int


def fit_frame(original: tuple[int, int], *, size: int, resize: Resize) -> Frame:
    """The frame of an image of height and width ``original``.

    ``pad`` brings the longest side to ``size`` and rounds the other half up, as segment-anything's
    ``ResizeLongestSide`` does; ``squash`` fills the square and does not keep the aspect.

    >>> fit_frame((333, 512), size=1024, resize="pad").content
    (666, 1024)
    """
    if resize == "squash":
        return Frame(original, (size, size), size)
    scale = size / max(original)
    # At least one pixel: a strip thinner than that would vanish.
    height, width = (max(1, int(side * scale + 0.5)) for side in original)
    return Frame(original, (height, width), size)


def prepare_image(
    image: Tensor, *, size: int, resize: Resize, resampling: Resampling = "pillow"
) -> tuple[Tensor, Frame]:
    """The image at the model's size, padded right and below with zeros, and its frame.

    Args:
        image: uint8, ``(3, H, W)``, RGB.
        size: side S of the model's input.
        resize: ``pad`` keeps the aspect, ``squash`` does not.
        resampling: ``pillow`` is Pillow's bilinear filter with antialiasing, which SAM's predictor uses;
            ``torch`` interpolates between the four nearest pixels however much an image shrinks, as CoSAM's
            code does, and rounds levels to whole numbers.

    Returns:
        uint8 ``(3, S, S)``, and the frame.
    """
    frame = fit_frame((image.shape[1], image.shape[2]), size=size, resize=resize)
    height, width = frame.content
    padded = torch.zeros(3, size, size, dtype=torch.uint8)
    if resampling == "torch":
        padded[:, :height, :width] = resize_bilinear(image, (height, width)).round().to(torch.uint8)
    else:
        picture = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
        resized = np.array(picture.resize((width, height), Image.Resampling.BILINEAR))
        padded[:, :height, :width] = torch.from_numpy(resized).permute(2, 0, 1)
    return padded, frame


def resize_bilinear(image: Tensor, shape: tuple[int, int]) -> Tensor:
    """The image ``(C, H, W)`` bilinearly at another height and width, without antialiasing, as float32."""
    return functional.interpolate(image[None].float(), shape, mode="bilinear", align_corners=False)[0]


def normalise(images: Tensor, frames: Sequence[Frame]) -> Tensor:
    """Images minus SAM's pixel mean, divided by its deviation; the padding becomes 0, as in SAM.

    Args:
        images: uint8, ``(B, 3, S, S)``, from ``prepare_image``.
        frames: one per image.

    Returns:
        float32 ``(B, 3, S, S)`` on the images' device.
    """
    mean, deviation = _statistics(images.device)
    normal = (images - mean) / deviation
    for row, frame in enumerate(frames):
        height, width = frame.content
        normal[row, :, height:] = 0
        normal[row, :, :, width:] = 0
    return normal


@cache
def _statistics(device: torch.device) -> tuple[Tensor, Tensor]:
    """SAM's pixel mean and deviation, each ``(3, 1, 1)``; copied to a device once, because the copy is waited for."""
    with torch.inference_mode(False):
        mean, deviation = (torch.tensor(values, device=device).view(3, 1, 1) for values in (PIXEL_MEAN, PIXEL_STD))
    return mean, deviation


def to_original(logits: Tensor, frame: Frame, *, upsampling: Upsampling = "bilinear") -> Tensor:
    """The decoder's logits at the image's own size: enlarged to S, without padding, then resized to the image.

    The two bilinear steps and their order are those of segment-anything's ``postprocess_masks``.

    Args:
        logits: float, ``(h, w)``, on the decoder's grid; or ``(N, h, w)``, of images that share a frame.
        frame: the image's.
        upsampling: of both steps; ``direct`` takes one bilinear step from the grid to the image.

    Returns:
        float32 ``(H, W)``, or ``(N, H, W)``.

    Raises:
        ValueError: ``direct`` and a padded image, whose content ends within a cell of the grid.
    """
    if upsampling != "direct":
        return _enlarged(to_content(logits, frame, upsampling=upsampling), frame.original, upsampling=upsampling)
    if frame.content != (frame.size, frame.size):
        raise ValueError(f"an image of {frame.original} was padded: upsampling='direct' cannot cut off its padding")
    return _enlarged(logits.float(), frame.original, upsampling="bilinear")


def to_content(logits: Tensor, frame: Frame, *, upsampling: Upsampling = "bilinear") -> Tensor:
    """The decoder's logits at the image's size within the model's input, float32.

    Args:
        logits: float, ``(h, w)``, on the decoder's grid; or ``(N, h, w)``, of images that share a frame.
        frame: the image's.
        upsampling: ``bilinear`` or ``nearest``.
    """
    full = _enlarged(logits.float(), (frame.size, frame.size), upsampling=upsampling)
    return full[..., : frame.content[0], : frame.content[1]]


def _enlarged(logits: Tensor, shape: tuple[int, int], *, upsampling: Upsampling) -> Tensor:
    if upsampling == "nearest":
        return resize_nearest(logits, shape)
    masks = logits.unsqueeze(-3) if logits.ndim == 3 else logits[None, None]
    enlarged = functional.interpolate(masks, shape, mode="bilinear", align_corners=False)
    return enlarged.view(*logits.shape[:-2], *shape)


def shrunk_masks(masks: Tensor, shape: tuple[int, int]) -> Tensor:
    """True masks ``(N, H, W)`` at another height and width, by nearest neighbour; none of them loses its object.

    If no pixel of a mask's object is the nearest to a new pixel's centre, each new pixel that holds a part of the
    object belongs to it, so that a prediction of nothing never agrees with a mask that was not empty.

    Args:
        masks: bool.
        shape: the new height and width.
    """
    shrunk = resize_nearest(masks, shape)
    if shape[0] >= masks.shape[-2] and shape[1] >= masks.shape[-1]:
        return shrunk  # each old pixel holds a new centre
    has_vanished = masks.flatten(1).any(dim=1) & ~shrunk.flatten(1).any(dim=1)
    if masks.device.type == "cpu" and not has_vanished.any():  # on CUDA, asking would wait
        return shrunk
    touched = functional.adaptive_max_pool2d(masks[:, None].float(), shape)[:, 0] > 0
    return torch.where(has_vanished[:, None, None], touched, shrunk)


def resize_nearest(image: Tensor, shape: tuple[int, int]) -> Tensor:
    """``(..., H, W)`` at another height and width: each new pixel takes the old one that contains its centre."""
    rows, columns = (
        torch.div((2 * torch.arange(new, device=image.device) + 1) * old, 2 * new, rounding_mode="floor")
        for old, new in zip(image.shape[-2:], shape, strict=True)
    )
    return image[..., rows[:, None], columns]
