"""From an image's own pixels to the model's square input and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from cosam_bench.data.prompt_settings import PromptKind
from cosam_bench.sam.frame_choices import Resampling, Resize, Upsampling

if TYPE_CHECKING:
    from cosam_bench.data.prompts import Prompts


# SAM's own pixel statistics, RGB in 0..255 (segment-anything, build_sam).
PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class Frame:
    """Where an image lies inside the model's square input: top left.

    Attributes:
        original: height and width of the image.
        content: height and width it has inside the input.
        size: side S of the input.
    """

    original: tuple[int, int]
    content: tuple[int, int]
    size: int


@dataclass(frozen=True)
class FramePrompts:
    """One prompt an image, in the model's frame, ready for SAM's prompt encoder.

    Attributes:
        kinds: per row, which of the three is the prompt; the others are not looked at.
        boxes: float32, ``(B, 4)``, x0 y0 x1 y1 in pixels of the input.
        points: float32, ``(B, k, 2)``, x y in pixels of the input.
        masks: float32, ``(B, 1, g, g)``, on the decoder's grid, 1 inside to -1 outside.
        mask_levels: what -1 and 1 become on entering SAM's mask encoder; None: the logits that suit the model.
        labels: float32, ``(B, k)``, 1 for a point on the foreground, 0 on the background; None: all foreground.
    """

    kinds: tuple[PromptKind, ...]
    boxes: Tensor
    points: Tensor
    masks: Tensor
    mask_levels: tuple[float, float] | None = None
    labels: Tensor | None = None

    def __len__(self) -> int:
        """The number of images."""
        return len(self.kinds)

    def to(self, device: torch.device | str) -> FramePrompts:
        """The same prompts on a device."""
        boxes, points, masks = (to_device_async(part, device) for part in (self.boxes, self.points, self.masks))
        labels = None if self.labels is None else to_device_async(self.labels, device)
        return replace(self, boxes=boxes, points=points, masks=masks, labels=labels)

    def mask_input(self, *, mask_logit: float) -> Tensor:
        """What enters SAM's mask encoder, float32 ``(B, 1, g, g)``.

        Args:
            mask_logit: what 1 becomes where the prompts state no levels, and -1 its opposite.
        """
        if self.mask_levels is None:
            return mask_logit * self.masks
        outside, inside = self.mask_levels
        return (inside - outside) / 2 * self.masks + (inside + outside) / 2

    def select(self, rows: Sequence[int]) -> FramePrompts:
        """The prompts of these rows, in this order."""
        index = list(rows)
        kinds = tuple(self.kinds[row] for row in index)
        boxes, points, masks = (part[index] for part in (self.boxes, self.points, self.masks))
        labels = None if self.labels is None else self.labels[index]
        return replace(self, kinds=kinds, boxes=boxes, points=points, masks=masks, labels=labels)

    def point_labels(self) -> Tensor:
        """1 for each point on the foreground, 0 on the background: float32 ``(B, k)``."""
        return torch.ones(self.points.shape[:2], device=self.points.device) if self.labels is None else self.labels

    def groups(self) -> list[tuple[PromptKind, list[int]]]:
        """The rows of each kind, kinds in order of their first row."""
        rows: dict[PromptKind, list[int]] = {}
        for row, kind in enumerate(self.kinds):
            rows.setdefault(kind, []).append(row)
        return list(rows.items())


def to_device_async(tensor: Tensor, device: torch.device | str) -> Tensor:
    """The tensor on a device; where that is a GPU, the program does not wait until it is there."""
    if torch.device(device).type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


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
            code does, levels being rounded to whole numbers.

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
    """Images less SAM's pixel mean, over its deviation; the padding is 0 afterwards, as in SAM.

    Args:
        images: uint8, ``(B, 3, S, S)``, from ``prepare_image``.
        frames: one an image.

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
    """SAM's pixel mean and deviation, each ``(3, 1, 1)``; copied to a device once, since it waits for the copy."""
    with torch.inference_mode(False):
        mean, deviation = (torch.tensor(values, device=device).view(3, 1, 1) for values in (PIXEL_MEAN, PIXEL_STD))
    return mean, deviation


def frame_prompts(
    prompts: Prompts,
    *,
    rows: Sequence[int],
    frames: Sequence[Frame],
    kinds: Sequence[PromptKind],
    grid: int,
    mask_levels: tuple[float, float] | None = None,
) -> FramePrompts:
    """The prompts of some images in the model's frame.

    Boxes and points are scaled as segment-anything's ``apply_boxes`` and ``apply_coords`` do, so that the
    same numbers given to its predictor mean the same. A cell of a mask lies between -1 and 1 by the share of
    its area that is covered; the padding is outside.

    A box is that of the mask at the image's own size, scaled. The published codes take it of the mask resized
    to the model's input, which can differ by about a pixel of the input, and by more where the image shrinks so
    far that parts of the mask vanish.

    Args:
        prompts: of a whole split, in pixels of the original images.
        rows: which of the split's images.
        frames: one a row.
        kinds: one a row.
        grid: side of the decoder's grid, ``Sam.logits_size``.
        mask_levels: as in ``FramePrompts``.
    """
    index = torch.as_tensor(list(rows), dtype=torch.long)
    scale = torch.tensor([[f.content[1] / f.original[1], f.content[0] / f.original[0]] for f in frames]).view(-1, 1, 2)
    boxes = (prompts.boxes[index].view(-1, 2, 2) * scale).view(-1, 4)
    masks = torch.zeros(len(frames), 1, grid, grid)
    for row, (kind, frame) in enumerate(zip(kinds, frames, strict=True)):
        if kind == "mask":
            masks[row, 0] = 2 * mask_to_grid(prompts.masks[rows[row]], frame, size=grid) - 1
    return FramePrompts(tuple(kinds), boxes, prompts.points[index] * scale, masks, mask_levels)


def to_original(logits: Tensor, frame: Frame, *, upsampling: Upsampling = "bilinear") -> Tensor:
    """The decoder's logits at the original size: up to S, padding cut off, then to the image.

    The two bilinear steps and their order are those of segment-anything's ``postprocess_masks``.

    Args:
        logits: float, ``(h, w)``, on the decoder's grid; or ``(N, h, w)``, of images with one frame.
        frame: the image's.
        upsampling: of both steps; ``direct`` takes one bilinear step from the grid to the image.

    Returns:
        float32 ``(H, W)``, or ``(N, H, W)``.

    Raises:
        ValueError: ``direct`` is asked for a padded image, whose content ends within a cell of the grid.
    """
    if upsampling != "direct":
        return _enlarged(to_content(logits, frame, upsampling=upsampling), frame.original, upsampling=upsampling)
    if frame.content != (frame.size, frame.size):
        raise ValueError(f"no single step leads from the grid to an image of {frame.original} that was padded")
    return _enlarged(logits.float(), frame.original, upsampling="bilinear")


def to_content(logits: Tensor, frame: Frame, *, upsampling: Upsampling = "bilinear") -> Tensor:
    """The decoder's logits at the size that the image has in the model's input, float32.

    Args:
        logits: float, ``(h, w)``, on the decoder's grid; or ``(N, h, w)``, of images with one frame.
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


def resize_nearest(image: Tensor, shape: tuple[int, int]) -> Tensor:
    """``(..., H, W)`` at another height and width: each new pixel is the old one that its centre lies in."""
    rows, columns = (
        torch.div((2 * torch.arange(new, device=image.device) + 1) * old, 2 * new, rounding_mode="floor")
        for old, new in zip(image.shape[-2:], shape, strict=True)
    )
    return image[..., rows[:, None], columns]


def mask_to_grid(mask: Tensor, frame: Frame, *, size: int) -> Tensor:
    """The share of each cell of the decoder's grid that the mask covers; the padding counts as outside.

    Args:
        mask: bool, ``(H, W)``, over the whole image, at any resolution.
        frame: the image's.
        size: side of the grid, ``Sam.logits_size``.

    Returns:
        float32 ``(size, size)`` in [0, 1].
    """
    rows = _overlap(mask.shape[0], frame.content[0] / frame.size, size)
    columns = _overlap(mask.shape[1], frame.content[1] / frame.size, size)
    return (rows @ mask.double() @ columns.T).float()


def _overlap(pixels: int, share: float, cells: int) -> Tensor:
    """``(cells, pixels)``: what a pixel fills of a cell, where all pixels fill ``share`` of the cells."""
    edges = torch.arange(pixels + 1, dtype=torch.float64) * (share * cells / pixels)
    starts = torch.arange(cells, dtype=torch.float64).unsqueeze(1)
    return (edges[1:].minimum(starts + 1) - edges[:-1].maximum(starts)).clamp_min(0)
