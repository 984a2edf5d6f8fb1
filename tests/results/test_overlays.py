"""Pictures of example images: each pixel's colour is that of the image, or of what was right, missed and wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.recorded import record

from cosam_bench.core.errors import CosamError
from cosam_bench.results.examples import FILE, Example, Prompt, decode_mask, encode_image, encode_mask, read_examples
from cosam_bench.results.overlays import CORRECT, MISSED, TRUTH, WRONG, Colour, compared, picture_of, save_overlays
from cosam_bench.results.records import Record

GREY = 100
TRUE = np.zeros((8, 10), dtype=np.bool_)
TRUE[2:5, 3:7] = True
EARLY = np.roll(TRUE, 1, axis=1)


def example(prompt: Prompt, *, before: bool = True) -> Example:
    return Example(
        domain="a",
        key="k",
        place="best",
        width=10,
        height=8,
        image=encode_image(np.full((8, 10, 3), GREY, dtype=np.uint8)),
        truth=encode_mask(TRUE),
        prompt=prompt,
        before=encode_mask(EARLY) if before else None,
        after=encode_mask(TRUE),
        score_before=0.5 if before else None,
        score_after=1.0,
    )


def over_grey(colour: Colour) -> list[int]:
    *parts, opacity = colour
    return [round((1 - opacity / 255) * GREY + opacity / 255 * part) for part in parts]


def test_the_panels_show_truth_errors_and_the_final_mask() -> None:
    pixels = np.asarray(picture_of(example(Prompt(kind="points", points=((9.0, 7.0),)))))
    assert pixels.shape == (24, 3 * 30 + 2 * 8, 3)
    middle = pixels[1::3]  # one row of pixels per row of the thumbnail
    truth, early, final = middle[:, 1:30:3], middle[:, 39:68:3], middle[:, 77:106:3]
    for panel, layers in (
        (truth[:6, :8], [(TRUE, TRUTH)]),
        (early, [(TRUE & EARLY, CORRECT), (TRUE & ~EARLY, MISSED), (EARLY & ~TRUE, WRONG)]),
        (final, [(TRUE, CORRECT)]),
    ):
        expected = np.full((8, 10, 3), GREY)
        for mask, colour in layers:
            expected[mask] = over_grey(colour)
        assert np.abs(panel - expected[: panel.shape[0], : panel.shape[1]]).max() <= 2  # JPEG


@pytest.mark.parametrize(
    ("prompt", "place", "is_marked"),
    [
        (Prompt(kind="box", box=(3, 2, 7, 5)), (6, 9), True),
        (Prompt(kind="box", box=(3, 2, 7, 5)), (10, 14), False),
        (Prompt(kind="points", points=((1.5, 1.5),)), (4, 4), True),
        (Prompt(kind="mask", mask=encode_mask(~TRUE)), (1, 1), True),
    ],
)
def test_the_prompt_is_drawn_on_the_first_panel_alone(prompt: Prompt, place: tuple[int, int], is_marked: bool) -> None:
    plain = np.asarray(picture_of(example(Prompt(kind="points"), before=False))).astype(int)
    drawn = np.asarray(picture_of(example(prompt, before=False))).astype(int)
    assert (np.abs(drawn[place] - plain[place]).max() > 20) == is_marked
    assert np.array_equal(drawn[:, 30:], plain[:, 30:])


@pytest.mark.parametrize("box", [(3.0, 2.0, 3.1, 5.0), (3.0, 2.0, 7.0, 2.2), (9.9, 7.9, 10.0, 8.0)])
def test_a_box_of_less_than_a_pixel_is_drawn(box: tuple[float, float, float, float]) -> None:
    """As a small object's in a large image's thumbnail."""
    plain = np.asarray(picture_of(example(Prompt(kind="points"), before=False))).astype(int)
    drawn = np.asarray(picture_of(example(Prompt(kind="box", box=box), before=False))).astype(int)
    y, x = int(3 * box[1]), int(3 * box[0])
    assert np.abs(drawn[y, x] - plain[y, x]).max() > 20
    assert np.array_equal(drawn[:, 30:], plain[:, 30:])


def test_no_pixel_is_in_two_of_right_missed_and_wrong() -> None:
    masks = np.stack([mask for mask, _ in compared(EARLY, TRUE)])
    assert masks.sum(axis=0).max() == 1
    assert np.array_equal(masks.any(axis=0), TRUE | EARLY)


def test_a_record_gives_a_picture_per_example(tmp_path: Path) -> None:
    made = record(tmp_path, method="regcl", side=16)
    saved = save_overlays(made, tmp_path / "images")
    found = read_examples(made)
    assert found is not None
    assert len(saved) == len(set(saved)) == len(found.examples)
    for path, one in zip(saved, found.examples, strict=True):
        assert path.name.startswith(f"{one.domain}-{one.place}-")
        with Image.open(path) as picture:
            assert picture.size == ((2 + (one.before is not None)) * (3 * one.width + 8) - 8, 3 * one.height)
        assert decode_mask(one.truth).shape == (one.height, one.width)


def test_a_record_without_images_says_so(tmp_path: Path) -> None:
    with pytest.raises(CosamError, match="has no example images"):
        save_overlays(record(tmp_path, method="old"), tmp_path / "images")


def test_no_name_in_a_record_takes_a_picture_to_another_folder(tmp_path: Path) -> None:
    made = record(tmp_path, method="regcl", side=16)
    path, name = made.folder / FILE, "../../elsewhere/x"
    data = json.loads(path.read_text())
    data["examples"][0]["domain"] = name
    path.write_text(json.dumps(data))
    forged = Record(made.folder, made.info.model_copy(update={"order": (*made.order, name)}))
    saved = save_overlays(forged, tmp_path / "images")
    assert {one.resolve().parent for one in saved} == {tmp_path / "images"}
