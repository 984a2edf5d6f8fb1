"""Example images as pictures: the prompt, the true mask, and what was predicted before and after.

The colours are those of the report, chosen to be told apart with any kind of colour vision (Okabe and Ito's).
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cosam_bench.core.errors import CosamError
from cosam_bench.core.files import write_atomically
from cosam_bench.results.examples import Bools, Example, Prompt, decode_mask, read_examples
from cosam_bench.results.records import Record

if TYPE_CHECKING:
    from PIL.Image import Image

Colour = tuple[int, int, int, int]
"""Red, green, blue and opacity, 0 to 255."""

CORRECT: Colour = (0, 158, 115, 165)
MISSED: Colour = (230, 159, 0, 190)
WRONG: Colour = (204, 121, 167, 190)
TRUTH: Colour = (86, 180, 233, 165)

_PROMPT = (255, 65, 54)
_ENLARGED = 3  # pixels of a picture per pixel of a thumbnail
_GAP = 8  # between panels


def compared(predicted: Bools, truth: Bools) -> tuple[tuple[Bools, Colour], ...]:
    """What is right, missed and wrong, each with its colour; no pixel is in two of them."""
    return (predicted & truth, CORRECT), (truth & ~predicted, MISSED), (predicted & ~truth, WRONG)


def save_overlays(record: Record, folder: Path) -> list[Path]:
    """Write a picture per example image of a complete record: DOMAIN-PLACE-IMAGE.png, place by the final IoU.

    From left to right: the image with the true mask and the prompt; what was predicted right after its domain was
    learned, if that was kept; what the final model predicts. They are the record's thumbnails, three times as large.

    Raises:
        CosamError: the record has no example images.
        CannotWrite: the folder cannot be written.
    """
    found = read_examples(record)
    if found is None:
        raise CosamError(
            f"The record {record.folder} has no example images: it is not complete, or an older version made it. "
            "Run it again with --fresh."
        )
    paths = []
    for example in found.examples:
        data = io.BytesIO()
        picture_of(example).save(data, format="PNG")
        paths.append(folder / f"{_plain(example.domain)}-{example.place}-{_plain(example.key)[-80:]}.png")
        write_atomically(paths[-1], data.getvalue())
    return paths


def _plain(text: str) -> str:
    """A text as a part of a file's name, which no text in a record takes to another folder."""
    return re.sub(r"[^\w.@-]+", "_", text, flags=re.ASCII)


def picture_of(example: Example) -> Image:
    """The panels of one example side by side, RGB."""
    from PIL import Image

    image = Image.open(io.BytesIO(base64.b64decode(example.image))).convert("RGB")
    size = (_ENLARGED * example.width, _ENLARGED * example.height)
    image = image.resize(size, Image.Resampling.BICUBIC)
    truth = decode_mask(example.truth)
    panels = [_with_prompt(_tinted(image, [(truth, TRUTH)]), example.prompt)]
    predicted = [decode_mask(mask) for mask in (example.before, example.after) if mask is not None]
    panels += [_tinted(image, compared(mask, truth)) for mask in predicted]
    width, height = size
    whole = Image.new("RGB", (len(panels) * (width + _GAP) - _GAP, height), "white")
    for place, panel in enumerate(panels):
        whole.paste(panel, (place * (width + _GAP), 0))
    return whole


def _tinted(image: Image, layers: Sequence[tuple[Bools, Colour]]) -> Image:
    """The image with masks laid over it, each ``(H, W)`` at the thumbnail's size."""
    from PIL import Image

    pixels = np.asarray(image, dtype=np.float64).copy()
    for mask, (*colour, opacity) in layers:
        inside = mask.repeat(_ENLARGED, axis=0).repeat(_ENLARGED, axis=1)
        share = opacity / 255
        pixels[inside] = (1 - share) * pixels[inside] + share * np.array(colour)
    return Image.fromarray(pixels.round().astype(np.uint8))


def _with_prompt(image: Image, prompt: Prompt) -> Image:
    from PIL import ImageDraw

    draw = ImageDraw.Draw(image)
    if prompt.box is not None:
        x0, y0, x1, y1 = (_ENLARGED * part for part in prompt.box)
        # The thumbnail of a large image may hold less than a pixel of the box.
        draw.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline=_PROMPT, width=2)
    for x, y in prompt.points:
        x, y = _ENLARGED * x, _ENLARGED * y
        draw.ellipse((x - 4, y - 4, x + 4, y + 4), fill="white", outline=_PROMPT, width=2)
    if prompt.mask is None:
        return image
    return _tinted(image, [(decode_mask(prompt.mask), (*_PROMPT, 110))])
