"""From samples and prompts to batches of model input."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from cosam_bench.core.arithmetic import tf32
from cosam_bench.core.devices import to_device_async
from cosam_bench.core.hashing import sha256_bytes
from cosam_bench.core.precision_choices import Precision
from cosam_bench.data.prompt_settings import GRID_SIDE, TestPrompt
from cosam_bench.data.prompts import Prompts
from cosam_bench.data.samples import Sample
from cosam_bench.sam.frame_choices import Resampling, Resize
from cosam_bench.sam.frame_prompts import FramePrompts, prompts_in_frame
from cosam_bench.sam.frames import PIXEL_MEAN, PIXEL_STD, Frame, normalise, prepare_image
from cosam_bench.sam.mutation_check import MutationCheck

RAW_MASK_LEVELS = (0.0, 255.0)  # a mask as a grey image, as CoSAM's training gives it to SAM's mask encoder


@dataclass(frozen=True, eq=False)
class ModelInput:
    """One image, ready for the device; it must not be changed.

    Attributes:
        pixels: uint8, ``(3, S, S)``, from ``frames.prepare_image``, on the CPU.
        frame: its place, and the way back to the image's own size.
    """

    pixels: Tensor
    frame: Frame

    @cached_property
    def digest(self) -> str:
        """sha256 of all that decides the normalised input: equal digests mean equal input on one kind of device."""
        facts = [list(self.pixels.shape), self.frame.content, PIXEL_MEAN, PIXEL_STD]
        return sha256_bytes(json.dumps(facts).encode(), self.pixels.contiguous().numpy().data)


@dataclass(frozen=True, eq=False)
class BatchInputs:
    """What a batch's images were made from, for as long as they are those images.

    Attributes:
        rows: one input per row.
        check: tells the tensor that was made from them, unchanged, from any other.
    """

    rows: tuple[ModelInput, ...]
    check: MutationCheck

    @classmethod
    def of(cls, images: Tensor, rows: Sequence[ModelInput]) -> BatchInputs:
        """The inputs, bound to the tensor that has just been made from them."""
        return cls(tuple(rows), MutationCheck([images]))

    def digests_of(self, images: Tensor) -> tuple[str, ...] | None:
        """The digests of the rows; None if ``images`` is another tensor, or was changed in place since."""
        return tuple(row.digest for row in self.rows) if self.match(images) else None

    def match(self, images: Tensor) -> bool:
        """Whether ``images`` is the tensor that was made from the inputs, unchanged."""
        return self.check.passes([images])


@dataclass(frozen=True)
class View:
    """How samples become model input.

    Attributes:
        size: the model's input side, pixels.
        grid: the side of the decoder's logits.
        resize: ``pad`` keeps the aspect and pads right and below, ``squash`` does not.
        device: where batches are put.
        precision: the type the model computes in.
        resampling: ``pillow`` shrinks with antialiasing, ``torch`` without.
        mask_levels: input of SAM's mask encoder outside and inside a mask prompt, ``RAW_MASK_LEVELS`` or others;
            None: the logits that suit the model.
        grid_side: how many points a prompt of kind ``grid`` has along each side.
    """

    size: int
    grid: int
    resize: Resize
    device: torch.device
    precision: Precision = "fp32"
    resampling: Resampling = "pillow"
    mask_levels: tuple[float, float] | None = None
    grid_side: int = GRID_SIDE

    def frame(self, images: Sequence[Tensor]) -> tuple[Tensor, tuple[Frame, ...]]:
        """The model's input for images uint8 ``(3, H, W)`` of any sizes, and their frames.

        Returns:
            float32 ``(B, 3, S, S)``, normalised, on ``device``; and one frame per image.
        """
        inputs = [self.preprocess(image) for image in images]
        return self.stack(inputs), tuple(one.frame for one in inputs)

    def preprocess(self, image: Tensor) -> ModelInput:
        """An image uint8 ``(3, H, W)`` at the model's size: the host's part of preprocessing."""
        pixels, frame = prepare_image(image, size=self.size, resize=self.resize, resampling=self.resampling)
        return ModelInput(pixels, frame)

    def stack(self, inputs: Sequence[ModelInput]) -> Tensor:
        """The inputs as one float32 tensor ``(B, 3, S, S)``, normalised, on ``device``."""
        with _checkable():
            pixels = torch.stack([to_device_async(one.pixels, self.device) for one in inputs])
            return normalise(pixels, [one.frame for one in inputs])

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """The context in which the model computes in ``precision``: on a GPU, TF32 is used only if it says so."""
        autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")
        if self.device.type != "cuda":
            return autocast
        return _on_gpu(autocast, is_tf32=self.precision == "tf32")


@contextlib.contextmanager
def _on_gpu(autocast: contextlib.AbstractContextManager[object], *, is_tf32: bool) -> Iterator[None]:
    with tf32(is_tf32), autocast:
        yield


@dataclass(frozen=True)
class Batch:
    """What ``predict`` receives: images and prompts, never masks.

    Attributes:
        images: float, ``(B, 3, S, S)``, normalised as SAM expects, on the model's device.
        prompts: one prompt per row, in the model's frame.
        domains: the rows' domains, only for a method whose card has ``receives_domain``.
        inputs: what the images were made from, if known.
    """

    images: Tensor
    prompts: FramePrompts
    domains: tuple[str, ...] | None = None
    inputs: BatchInputs | None = field(default=None, repr=False, compare=False)

    def __len__(self) -> int:
        return self.images.shape[0]

    def select(self, rows: Sequence[int]) -> Batch:
        """The batch of these rows, in this order."""
        index = list(rows)
        domains = tuple(self.domains[row] for row in index) if self.domains is not None else None
        if self.inputs is None or not self.inputs.match(self.images) or self.images.requires_grad:
            return Batch(self.images[index], self.prompts.select(index), domains)
        with _checkable():
            images = self.images[index]
        inputs = BatchInputs.of(images, [self.inputs.rows[row] for row in index])
        return Batch(images, self.prompts.select(index), domains, inputs)


def chunks(rows: Sequence[int], *, size: int) -> Iterator[list[int]]:
    """The rows in order, ``size`` at a time; the last chunk may be shorter.

    >>> list(chunks(range(5), size=2))
    [[0, 1], [2, 3], [4]]
    """
    for first in range(0, len(rows), size):
        yield list(rows[first : first + size])


def collate(
    samples: Sequence[Sample],
    prompts: Prompts,
    *,
    kinds: Sequence[TestPrompt],
    view: View,
    domains: tuple[str, ...] | None = None,
) -> tuple[Batch, tuple[Frame, ...]]:
    """The batch of some samples, with the frames that lead back to their own sizes.

    Args:
        samples: any sizes.
        prompts: the same rows, in image pixels.
        kinds: which of its prompts each row uses.
        view: how samples become model input.
        domains: of the rows, for the batch.
    """
    inputs = [view.preprocess(sample.image) for sample in samples]
    return collate_inputs(inputs, prompts, kinds=kinds, view=view, domains=domains)


def collate_inputs(
    inputs: Sequence[ModelInput],
    prompts: Prompts,
    *,
    kinds: Sequence[TestPrompt],
    view: View,
    domains: tuple[str, ...] | None = None,
) -> tuple[Batch, tuple[Frame, ...]]:
    """As ``collate``, from images that are preprocessed already."""
    frames = tuple(one.frame for one in inputs)
    placed = prompts_in_frame(
        prompts,
        rows=range(len(inputs)),
        frames=frames,
        kinds=kinds,
        grid=view.grid,
        mask_levels=view.mask_levels,
        grid_side=view.grid_side,
    )
    images = view.stack(inputs)
    return Batch(images, placed.to(view.device), domains, BatchInputs.of(images, inputs)), frames


@contextlib.contextmanager
def _checkable() -> Iterator[None]:
    """Tensors made within can be checked for changes in place; those of inference mode cannot."""
    with torch.inference_mode(False), torch.no_grad():
        yield
