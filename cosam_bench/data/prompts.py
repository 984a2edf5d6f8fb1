"""Prompts drawn from the masks once, and frozen to a file so that every method sees the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cosam_bench.core.errors import CosamError
from cosam_bench.core.hashing import digest_tensors, sha256_text
from cosam_bench.core.seeds import derived_seed
from cosam_bench.core.tensor_files import CannotRead, read_tensors, write_tensors
from cosam_bench.data.samples import Split

MASK_SIZE = 256  # side of SAM's mask prompts, segment-anything's PromptEncoder at 1024 px
COARSER = 8  # noise is added where a mask differs from itself after shrinking by this (CoSAM's training)
DIFFERENCE = 0.01  # ... by at least this
VERSION = 1  # of the drawing below; other versions do not read the files of this one


@dataclass(frozen=True)
class Prompts:
    """All kinds of prompt for all samples of a split, in the images' own pixels.

    Attributes:
        boxes: float32, ``(N, 4)``, x0 y0 x1 y1 of the tight box, ends exclusive.
        points: float32, ``(N, k, 2)``, x y at pixel centres (``column + 0.5``), all on the foreground.
        masks: bool, ``(N, 256, 256)``, a noisy mask of the whole image, squashed to a square.
            A sample without foreground has zeros in all three: only prompts that are not drawn suit it.
        digest: sha256 of the three; a selection keeps the digest of the prompts that it was taken from.
    """

    boxes: Tensor
    points: Tensor
    masks: Tensor
    digest: str

    def __len__(self) -> int:
        """The number of samples."""
        return len(self.boxes)

    def take(self, indices: Sequence[int]) -> Prompts:
        """The prompts of these samples, in this order."""
        rows = torch.as_tensor(indices, dtype=torch.long)
        return Prompts(self.boxes[rows], self.points[rows], self.masks[rows], self.digest)


def blank_prompts(count: int, *, points: int) -> Prompts:
    """The prompts of samples without foreground: zeros."""
    boxes, drawn = torch.zeros(count, 4), torch.zeros(count, points, 2)
    masks = torch.zeros(count, MASK_SIZE, MASK_SIZE, dtype=torch.bool)
    return Prompts(boxes, drawn, masks, _digest(boxes, drawn, masks))


def draw_prompts(split: Split, *, points: int, seed: int) -> Prompts:
    """The prompts of a split, newly drawn; each sample's depend only on its own key and mask.

    Args:
        split: the samples.
        points: number of points per sample, at least 1. They are distinct pixels unless the mask has
            fewer.
        seed: the run's.
    """
    boxes = torch.zeros(len(split), 4)
    drawn = torch.zeros(len(split), points, 2)
    masks = torch.zeros(len(split), MASK_SIZE, MASK_SIZE, dtype=torch.bool)
    for index, key in enumerate(split.keys):
        mask = split.mask(index)
        if not mask.any():
            continue
        generator = np.random.default_rng(derived_seed(seed, "prompts", split.domain, split.part, key, points))
        boxes[index] = tight_box(mask)
        drawn[index] = random_points(mask, count=points, generator=generator)
        masks[index] = noisy_mask(mask, generator=generator)
    return Prompts(boxes, drawn, masks, _digest(boxes, drawn, masks))


def tight_box(mask: Tensor) -> Tensor:
    """The smallest box around the foreground, float32 ``(4,)``: x0 y0 x1 y1, ends exclusive.

    Args:
        mask: bool, ``(H, W)``, with at least one true pixel.

    >>> tight_box(torch.tensor([[0, 0, 0], [0, 1, 1]], dtype=torch.bool)).tolist()
    [1.0, 1.0, 3.0, 2.0]
    """
    rows = mask.any(dim=1).nonzero()
    columns = mask.any(dim=0).nonzero()
    corners = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    return torch.cat(corners).to(torch.float32)


def random_points(mask: Tensor, *, count: int, generator: np.random.Generator) -> Tensor:
    """Foreground pixels chosen uniformly, float32 ``(count, 2)``: x y of their centres.

    Args:
        mask: bool, ``(H, W)``, with at least one true pixel.
        count: number of pixels; distinct unless the mask has fewer.
        generator: is advanced.
    """
    pixels = mask.nonzero().flip(1)  # (n, 2), x y
    chosen = generator.choice(len(pixels), size=count, replace=len(pixels) < count)
    return pixels[torch.from_numpy(chosen)].to(torch.float32) + 0.5


def noisy_mask(mask: Tensor, *, generator: np.random.Generator) -> Tensor:
    """A mask as a careless annotator draws it, bool ``(256, 256)``: wrong only near edges and details.

    The mask is resized to the square bilinearly; where it differs from itself shrunk by eight and
    enlarged again, standard normal noise is added; foreground is what is then at least a half.

    Args:
        mask: bool, ``(H, W)``.
        generator: is advanced.

    Source: the noise of HQ-SAM's training ("Segment Anything in High Quality", NeurIPS 2023), which
    CoSAM's training uses. Here the mask is resized to 256 pixels directly, not via 1024.
    """
    whole = mask[None, None].to(torch.float32)
    fine = _resize(whole, MASK_SIZE)
    coarse = _resize(_resize(fine, MASK_SIZE // COARSER), MASK_SIZE)
    is_noisy = ((fine - coarse).abs() >= DIFFERENCE)[0, 0]
    noise = generator.standard_normal(int(is_noisy.sum()), dtype=np.float32)
    noisy = fine[0, 0].clone()
    noisy[is_noisy] += torch.from_numpy(noise)
    return noisy >= 0.5


def _resize(image: Tensor, side: int) -> Tensor:
    return functional.interpolate(image, size=(side, side), mode="bilinear", align_corners=False)


def frozen_prompts(split: Split, *, points: int, seed: int, folder: Path) -> Prompts:
    """The prompts of a split from their file in ``folder``; drawn and written if it is not there yet.

    The file's name holds domain, part, seed, points and a short hash of the data, so other data has
    another file.

    Raises:
        CosamError: the file is damaged.
    """
    identity = sha256_text(f"{VERSION}|{split.domain}|{split.digest}")
    path = folder / f"{split.domain}-{split.part}-seed{seed}-points{points}-{identity[:12]}.safetensors"
    if path.exists():
        return read_prompts(path, identity=identity)
    prompts = draw_prompts(split, points=points, seed=seed)
    write_prompts(path, prompts, identity=identity)
    return prompts


def joined(parts: Sequence[Prompts]) -> Prompts:
    """The prompts of several splits, one after another."""
    boxes, points = (torch.cat([getattr(part, name) for part in parts]) for name in ("boxes", "points"))
    masks = torch.cat([part.masks for part in parts])
    return Prompts(boxes, points, masks, _digest(boxes, points, masks))


def replace_points(prompts: Prompts, points: Tensor) -> Prompts:
    """The prompts with other points, float32 ``(N, k, 2)``, and a digest of their own."""
    return Prompts(prompts.boxes, points, prompts.masks, _digest(prompts.boxes, points, prompts.masks))


def write_prompts(path: Path, prompts: Prompts, *, identity: str) -> None:
    """Freeze prompts to a file; ``identity`` is the hash of the data that they belong to."""
    bits = torch.from_numpy(np.packbits(prompts.masks.numpy(), axis=-1))
    tensors = {"boxes": prompts.boxes, "points": prompts.points, "masks": bits}
    write_tensors(path, tensors, {"digest": f"{identity}-{prompts.digest}"})


def read_prompts(path: Path, *, identity: str) -> Prompts:
    """The prompts that ``write_prompts`` froze.

    Raises:
        CosamError: the file is damaged, or belongs to something else.
    """
    advice = "Delete it to draw the prompts again."
    tensors, metadata = read_tensors(path, what="The prompt file", advice=advice)
    try:
        boxes, points = tensors["boxes"], tensors["points"]
        masks = torch.from_numpy(np.unpackbits(tensors["masks"].numpy(), axis=-1).astype(bool))
        prompts = Prompts(boxes, points, masks, _digest(boxes, points, masks))
    except (KeyError, ValueError, TypeError) as error:
        raise CannotRead(f"The prompt file {path} cannot be read: {error}. {advice}") from None
    if metadata.get("digest") != f"{identity}-{prompts.digest}":
        raise CosamError(f"The prompt file {path} is damaged: its content does not match its hash. {advice}")
    return prompts


def _digest(boxes: Tensor, points: Tensor, masks: Tensor) -> str:
    return digest_tensors({"boxes": boxes, "points": points, "masks": masks})
