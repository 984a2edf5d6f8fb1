"""Example images of a record: per domain the best, the median and the worst test image of the final model.

``examples.json`` holds thumbnails, so it is small, and one file has all that a picture needs: the image, the prompt,
the truth, and the predicted masks right after the domain was learned and after the whole stream.
"""

from __future__ import annotations

import base64
import io
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from cosam_bench.core.errors import CosamError
from cosam_bench.core.files import write_atomically
from cosam_bench.core.settings import Settings, validate

if TYPE_CHECKING:
    from PIL.Image import Image

    from cosam_bench.results.records import Record

FILE = "examples.json"
SIDE = 160  # the longest side of a thumbnail, in pixels: about 10 kB per example with its masks
_JPEG_QUALITY = 75  # Pillow's default

Bools = NDArray[np.bool_]
Base64 = Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]+={0,2}$")]
Place = Literal["best", "median", "worst"]


class Prompt(Settings):
    """The prompt that the model was given, in pixels of the thumbnail.

    Attributes:
        kind: which of the three it is.
        points: x and y, on the foreground.
        box: x0, y0, x1, y1, ends exclusive.
        mask: a PNG of 1 bit per pixel.
    """

    kind: Literal["box", "points", "mask"]
    points: tuple[tuple[float, float], ...] = ()
    box: tuple[float, float, float, float] | None = None
    mask: Base64 | None = None


class Example(Settings):
    """One test image with its masks; pictures are in base64, all of one size.

    Attributes:
        domain: the one that it belongs to.
        key: of the image, as in ``scores.csv``.
        place: by its final score among the domain's test images.
        width: of the thumbnail, in pixels.
        height: of the thumbnail, in pixels.
        image: a JPEG.
        truth: a PNG of 1 bit per pixel, as are the next two.
        prompt: the one that the model was given.
        before: the mask predicted right after the domain was learned; None for retention domains, for training on all
            domains at once, and if it was not kept.
        after: the mask predicted after the whole stream.
        score_before: the score of ``before``.
        score_after: the score of ``after``.
    """

    domain: str
    key: str
    place: Place
    width: int = Field(ge=1, le=SIDE)
    height: int = Field(ge=1, le=SIDE)
    image: Base64
    truth: Base64
    prompt: Prompt
    before: Base64 | None
    after: Base64
    score_before: float | None
    score_after: float

    @model_validator(mode="after")
    def _pictures_are_what_they_should_be(self) -> Self:
        size = (self.width, self.height)
        if _opened(self.image, "JPEG").size != size:
            raise ValueError(f"the image of {self.key!r} is no JPEG of {self.width} x {self.height} pixels")
        for name, mask in (("truth", self.truth), ("before", self.before), ("after", self.after)):
            if mask is not None and _opened(mask, "PNG").size != size:
                raise ValueError(f"the mask {name!r} of {self.key!r} is no PNG of {self.width} x {self.height} pixels")
        return self


class Examples(Settings):
    """The whole of ``examples.json``.

    Attributes:
        schema_version: of this file's form.
        metric: by which images were chosen and ``score_before`` and ``score_after`` measured.
        examples: up to three per domain.
    """

    schema_version: Literal[1] = 1
    metric: str
    examples: tuple[Example, ...]


def write_examples(folder: Path, examples: Examples) -> None:
    """Write ``examples.json`` into a record's folder.

    Raises:
        CannotWrite: the folder cannot be written.
    """
    write_atomically(folder / FILE, examples.model_dump_json() + "\n")


def read_examples(record: Record) -> Examples | None:
    """A record's examples, every picture checked; None if there are none.

    Raises:
        CosamError: the file is damaged, was changed since the run, or has images of a domain that the run has not.
    """
    path = record.checked_file(FILE)
    if not path.exists():
        return None
    try:
        data: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CosamError(f"{path} cannot be read: {error}. Delete it to report without images.") from None
    examples = validate(Examples, data, source=str(path))
    domains = (*record.info.order, *record.info.retention)
    if foreign := [example.domain for example in examples.examples if example.domain not in domains]:
        raise CosamError(f"{path} has images of {foreign[0]!r}, which is no domain of this run. Delete it.")
    return examples


def thumbnail_size(height: int, width: int) -> tuple[int, int]:
    """Height and width of an image's thumbnail; small images keep their size.

    >>> thumbnail_size(1200, 900), thumbnail_size(64, 128)
    ((160, 120), (64, 128))
    """
    scale = min(1.0, SIDE / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def choose(scores: list[float], *, is_higher_better: bool) -> dict[Place, int]:
    """The positions of the best, the median and the worst score; fewer with fewer than three scores.

    Of equal scores the earlier counts as the worse one. With an even number the median is the lower middle one.

    >>> choose([0.5, 0.9, 0.1, 0.7], is_higher_better=True)
    {'best': 1, 'median': 0, 'worst': 2}
    """
    sign = 1.0 if is_higher_better else -1.0
    known = [place for place, score in enumerate(scores) if not math.isnan(score)]
    ranked = sorted(known, key=lambda place: (sign * scores[place], place))
    if not ranked:
        return {}
    found: dict[Place, int] = {"best": ranked[-1], "median": ranked[(len(ranked) - 1) // 2], "worst": ranked[0]}
    if len(ranked) < 3:
        found.pop("median")
    if len(ranked) < 2:
        found.pop("worst")
    return found


def encode_image(image: NDArray[np.uint8]) -> str:
    """A thumbnail as JPEG in base64.

    Args:
        image: ``(H, W, 3)``, RGB, at the image's own size.
    """
    from PIL import Image

    height, width = thumbnail_size(*image.shape[:2])
    picture = Image.fromarray(image).resize((width, height), Image.Resampling.BOX)
    return _base64(picture, "JPEG", quality=_JPEG_QUALITY)


def encode_mask(mask: Bools) -> str:
    """A mask ``(H, W)`` as PNG of 1 bit per pixel in base64."""
    from PIL import Image

    return _base64(Image.fromarray(mask), "PNG", optimize=True)


def decode_mask(text: str) -> Bools:
    """The mask ``(H, W)`` that ``encode_mask`` wrote."""
    return np.asarray(_opened(text, "PNG").convert("1"), dtype=np.bool_)


def _base64(picture: Image, form: str, *, quality: int | None = None, optimize: bool = False) -> str:
    data = io.BytesIO()
    settings = {"quality": quality} if quality else {}
    picture.save(data, format=form, optimize=optimize, **settings)
    return base64.b64encode(data.getvalue()).decode()


def _opened(text: str, form: str) -> Image:
    """The picture, decoded only if its head states the form and a thumbnail's size."""
    from PIL import Image

    try:
        picture = Image.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=[form])
        if max(picture.size) <= SIDE:
            picture.load()
            return picture
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"a picture cannot be decoded: {error}") from None
    raise ValueError(f"a picture has {picture.width} x {picture.height} pixels, a thumbnail has at most {SIDE}")
