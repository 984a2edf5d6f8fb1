"""The example images of the report: each image once on the page, masks laid over it by reference."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from cosam_bench.core.errors import CosamError
from cosam_bench.results.examples import Bools, Example, Prompt, decode_mask, read_examples
from cosam_bench.results.overlays import TRUTH, Colour, compared
from cosam_bench.results.report.boards import Board, Entry

PAGE_BYTES = 2_950_000
"""The size up to which a page is filled with images."""

# Okabe and Ito, "Color Universal Design", 2008; the last number is opacity out of 255.
_NOTHING = (0, 0, 0, 0)


@dataclass(frozen=True)
class Picture:
    """A test image with its truth, defined once on the page.

    Attributes:
        name: the id of the image on the page; that of its truth has ``-t`` at the end.
        truth: a PNG in base64, to be laid over the image.
        prompt_mask: likewise, if the prompt is a mask.
    """

    name: str
    width: int
    height: int
    image: str
    truth: str
    prompt: Prompt
    prompt_mask: str | None


@dataclass(frozen=True)
class Shown:
    """An example: a picture of the page with the masks of one method laid over it."""

    example: Example
    picture: Picture
    before: str | None
    after: str


@dataclass(frozen=True)
class Shelf:
    """The examples of one entry by domain, or the reason why there are none."""

    domains: tuple[tuple[str, tuple[Shown, ...]], ...] = ()
    record: str = ""
    reason: str = ""


@dataclass
class Gallery:
    """The pictures of the page, and for each entry, by its anchor, what is shown of them."""

    pictures: dict[tuple[str, ...], Picture] = field(default_factory=dict)
    shelves: dict[str, Shelf] = field(default_factory=dict)
    size_bytes: int = 0


def gallery_of(boards: Sequence[Board], *, budget_bytes: int) -> Gallery:
    """The examples of as many entries as fit into the budget, the best of each board first."""
    gallery = Gallery()
    for board in boards:
        for entry in board.entries:
            pictures, size_bytes = dict(gallery.pictures), gallery.size_bytes
            shelf = _shelf(entry, gallery)
            if gallery.size_bytes > budget_bytes:
                gallery.pictures, gallery.size_bytes = pictures, size_bytes
                shelf = Shelf(reason="Left out to keep the page below 3 MB. Report on one protocol, or fewer records.")
            gallery.shelves[entry.anchor] = shelf
    return gallery


def empty_gallery(boards: Sequence[Board]) -> Gallery:
    """The gallery of a page without images."""
    shelf = Shelf(reason="This report was made without images (--no-images).")
    return Gallery(shelves={entry.anchor: shelf for board in boards for entry in board.entries})


def _shelf(entry: Entry, gallery: Gallery) -> Shelf:
    """The examples of the first run that has some."""
    for run in entry.runs:
        try:
            found = read_examples(run.record)
        except CosamError as error:
            return Shelf(reason=str(error))
        if found is not None:
            shown = [_shown(example, gallery, data=run.info.conditions.data) for example in found.examples]
            return Shelf(_by_domain(shown, run.matrix.columns), run.record.name)
    return Shelf(
        reason="The record has no example images: it was made by an older version of cosam-bench, or its masks were "
        "lost while the run was stopped. Run it again with --fresh."
    )


def _by_domain(shown: Iterable[Shown], columns: Sequence[str]) -> tuple[tuple[str, tuple[Shown, ...]], ...]:
    found: dict[str, list[Shown]] = {name: [] for name in columns}
    for one in shown:
        found.setdefault(one.example.domain, []).append(one)
    return tuple((name, tuple(images)) for name, images in found.items() if images)


def _shown(example: Example, gallery: Gallery, *, data: dict[str, str]) -> Shown:
    truth = decode_mask(example.truth)
    identity = (example.domain, data.get(example.domain, ""), example.key, example.prompt.model_dump_json())
    picture = gallery.pictures.get(identity)
    if picture is None:
        mask = example.prompt.mask
        picture = Picture(
            name=f"i{len(gallery.pictures) + 1}",
            width=example.width,
            height=example.height,
            image=example.image,
            truth=overlay([truth], [TRUTH]),
            prompt=example.prompt,
            prompt_mask=overlay([decode_mask(mask)], [TRUTH]) if mask else None,
        )
        gallery.pictures[identity] = picture
        gallery.size_bytes += len(picture.image) + len(picture.truth) + len(picture.prompt_mask or "") + 300
    before = None if example.before is None else _errors(decode_mask(example.before), truth)
    shown = Shown(example, picture, before, _errors(decode_mask(example.after), truth))
    gallery.size_bytes += len(shown.before or "") + len(shown.after) + 1200  # with the markup around them
    return shown


def _errors(predicted: Bools, truth: Bools) -> str:
    """What is right, missed and wrong, as a picture to lay over the image."""
    masks, colours = zip(*compared(predicted, truth), strict=True)
    return overlay(masks, colours)


def overlay(masks: Sequence[Bools], colours: Sequence[Colour]) -> str:
    """Masks that exclude each other as one PNG in base64, see-through elsewhere.

    Args:
        masks: ``(H, W)`` each, up to three.
        colours: red, green, blue and opacity of each mask, 0 to 255.
    """
    from PIL import Image

    height, width = masks[0].shape[:2]
    indices = np.zeros((height, width), dtype=np.uint8)
    for index, mask in enumerate(masks, start=1):
        indices[mask] = index
    picture = Image.frombytes("P", (width, height), indices.tobytes())
    table = (_NOTHING, *colours)
    picture.putpalette([channel for colour in table for channel in colour[:3]])
    data = io.BytesIO()
    picture.save(data, format="PNG", optimize=True, bits=2, transparency=bytes(colour[3] for colour in table))
    return base64.b64encode(data.getvalue()).decode()
