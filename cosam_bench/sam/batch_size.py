"""How many images go through the model at once: a fixed number, or what fits into memory; fewer if it runs full."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Literal, TypeVar

import torch

from cosam_bench.core.devices import free_memory_bytes, machine_memory_bytes, release_unused
from cosam_bench.core.errors import CosamError, ran_out_of_memory
from cosam_bench.data.prompt_settings import PromptKind
from cosam_bench.sam.feature_cache import PrefixCache
from cosam_bench.sam.frame_prompts import FramePrompts
from cosam_bench.sam.inputs import View
from cosam_bench.sam.sam import Sam

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

MOST_IMAGES_CUDA = 64
MOST_IMAGES_CPU = 8  # beyond 8 images, larger batches do not speed up tiny SAM
# The widest of ViT-H's maps at 1024 pixels takes 84 MB, and there are several.
_BYTES_AN_IMAGE_CPU = 2 << 30
_SHARE_OF_FREE_MEMORY = 0.4  # cached features may take half of it, methods and metrics need some


class ImageDoesNotFit(CosamError):
    """The device has too little memory for the model's pass over one image."""


def unless_full(work: Callable[[], _Result]) -> _Result | None:
    """What ``work`` returns, or None if memory ran out. The error, and the memory it held, is released on return."""
    try:
        return work()
    except Exception as error:
        if not ran_out_of_memory(error):
            raise
    return None


def tried_again(
    attempt: Callable[[], _Result | None], prefixes: PrefixCache | None, *, note: Callable[[str], None]
) -> _Result | None:
    """What an attempt that ran out of memory returns without the features that are cached in a GPU's memory.

    If it succeeds, fewer features are cached there from now on.

    Args:
        attempt: returns None if memory runs out; not called if no features are cached there.
        prefixes: the cache, if there is one.
        note: tells the user that features were dropped.

    Returns:
        None if there was nothing to drop, or the memory ran out again.
    """
    if prefixes is None or not prefixes.backend.release():
        return None
    release_unused()
    result = attempt()
    if result is not None:
        prefixes.backend.keep_fewer()
        note("The device's memory was full: the image features cached in it were dropped, and it will hold fewer.")
    return result


class AdaptiveBatchSize:
    """The number of images per pass; it is halved whenever they do not fit into memory."""

    def __init__(
        self,
        images: int,
        *,
        prefixes: PrefixCache | None = None,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Begin with ``images``.

        Args:
            prefixes: cached features; images that do not fit are tried once more without those in a GPU's memory.
            note: tells the user about dropped features and a smaller number.
        """
        self.current = images
        self._prefixes = prefixes
        self._note = note

    def map(self, items: Iterator[_Item], work: Callable[[list[_Item]], _Result]) -> Iterator[_Result]:
        """Yield ``work`` of all items in their order, ``current`` items at a time.

        Raises:
            ImageDoesNotFit: ``work`` of a single item ran out of memory. Its other exceptions pass through.
        """
        waiting: list[_Item] = []
        while True:
            waiting += islice(items, max(0, self.current - len(waiting)))
            if not waiting:
                return
            chosen = waiting[: self.current]
            results = self._tried(partial(work, chosen))
            if results:
                del waiting[: len(chosen)]
                yield from results
            else:
                self._halve(len(chosen), act="predict")

    def until_it_fits(self, work: Callable[[int], _Result], *, most: int, act: str) -> _Result:
        """``work`` of the number of images per pass; again from its beginning, with half of them, if memory runs out.

        Args:
            work: goes through the model with at most so many images at once, and leaves nothing behind if it fails.
            most: as many as there are, at least 1.
            act: what it does with an image, for the message.

        Raises:
            ImageDoesNotFit: ``work`` with a single image per pass ran out of memory. Its other exceptions pass through.
        """
        while True:
            images = min(self.current, most)
            results = self._tried(partial(work, images))
            if results:
                return results[0]
            self._halve(images, act=act)

    def _tried(self, work: Callable[[], _Result]) -> list[_Result] | None:
        """The result in a list, or None if memory ran out, also without cached features."""
        attempt = partial(unless_full, lambda: [work()])
        return attempt() or tried_again(attempt, self._prefixes, note=self._note)

    def _halve(self, tried: int, *, act: str) -> None:
        if tried == 1:
            raise ImageDoesNotFit(
                f"The device has too little memory to {act} a single image. "
                "Use a smaller --model, --set score.precision=bf16, or a --device with more."
            )
        release_unused()
        self.current = tried // 2
        self._note(f"The device's memory does not hold {tried} images at once; continuing with {self.current}.")


def resolve_batch_size(asked: int | Literal["auto"], *, sam: Sam, view: View) -> int:
    """The images per pass that ``score.batch_size`` asks for.

    On a GPU, ``auto`` is what fits into 0.4 of the free memory, estimated from passes over one and two images, at
    most 64; on the CPU, one image per 2 GiB of the machine's memory, at most 8.
    """
    if asked != "auto":
        return asked
    if view.device.type != "cuda":
        return min(MOST_IMAGES_CPU, max(1, machine_memory_bytes() // _BYTES_AN_IMAGE_CPU))
    return largest_fitting_batch(
        lambda images: _peak_bytes_on_cuda(sam, view, images),
        limit_bytes=int(free_memory_bytes(view.device) * _SHARE_OF_FREE_MEMORY),
        most=MOST_IMAGES_CUDA,
    )


def largest_fitting_batch(peak_bytes: Callable[[int], int], *, limit_bytes: int, most: int) -> int:
    """The largest batch that stays within a limit, if each image adds as much as the second does; at least 1.

    Args:
        peak_bytes: the memory that a pass over a number of images takes; called with 1 and 2.
        limit_bytes: the memory that a pass may take.
        most: upper bound of the result.

    >>> largest_fitting_batch(lambda images: 100 + 50 * images, limit_bytes=420, most=64)
    6
    """
    try:
        one, two = peak_bytes(1), peak_bytes(2)
    except Exception as error:
        if not ran_out_of_memory(error):
            raise
        return 1
    each = max(two - one, 1)
    return min(most, max(1, 1 + (limit_bytes - one) // each))


def trial_pass(sam: Sam, view: View, images: int) -> None:
    """One prediction for black images, to measure its memory."""
    boxes = torch.tensor([[0.0, 0.0, view.size, view.size]] * images)
    masks = torch.zeros(images, 1, view.grid, view.grid)
    box: PromptKind = "box"
    prompts = FramePrompts((box,) * images, boxes, torch.zeros(images, 1, 2), masks).to(view.device)
    pixels = torch.zeros(images, 3, view.size, view.size, device=view.device)
    passes = sam.encoder_passes
    with torch.inference_mode(), view.autocast():
        sam.decode(sam.encode(pixels, prompts), prompts)
    sam.encoder_passes = passes


def _peak_bytes_on_cuda(sam: Sam, view: View, images: int) -> int:
    """The additional GPU memory that a trial pass takes."""
    trial_pass(sam, view, images)  # in the first pass libraries allocate memory that they keep
    torch.cuda.reset_peak_memory_stats(view.device)
    before = torch.cuda.memory_allocated(view.device)
    trial_pass(sam, view, images)
    peak = torch.cuda.max_memory_allocated(view.device) - before
    torch.cuda.empty_cache()  # so that it counts as free again
    return peak
