"""Masks that may mean several things: trimaps, undecided ones, ignored regions of labelme, masks of stored pixels."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from support.cases import case_folder

from cosam_bench.core.errors import CosamError
from cosam_bench.core.hashing import sha256_bytes
from cosam_bench.data.acquire.check import check_domain
from cosam_bench.data.cards import Card
from cosam_bench.data.decoding import ORIENTATION, decode_mask
from cosam_bench.data.foreground import Foreground
from cosam_bench.data.ignored import Ignored
from cosam_bench.data.opening import open_domain
from cosam_bench.data.streams import load_stream

TRIMAP = np.zeros((20, 30), np.uint8)
TRIMAP[4:14, 5:15] = 1  # a band of one pixel, which has no area
TRIMAP[5:13, 6:14] = 2


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def mask_of(pixels: np.ndarray, foreground: object = "auto", ignore: object = None) -> np.ndarray:
    rule = Foreground.model_validate(foreground)
    void = None if ignore is None else Ignored.model_validate(ignore)
    return decode_mask(encoded(Image.fromarray(pixels)), name="x", foreground=rule, ignore=void).numpy()


@pytest.mark.parametrize(
    ("levels", "said"),
    [
        ((0, 127, 255), r"trimap \(levels 0: 83.3 %, 127: 6.0 %, 255: 10.7 %\).*values = \[255\].*ignore = 127"),
        ((0, 128, 255), "looks like a trimap"),
        ((1, 2, 3), r"class ids \(levels 1: 83.3 %, 2: 6.0 %, 3: 10.7 %\).*values = \[1\] \}, or \"nonzero\""),
        ((0, 1, 2), "class ids"),
    ],
)
def test_trimaps_are_refused_with_their_levels_and_shares(levels: tuple[int, ...], said: str) -> None:
    pixels = np.array(levels, np.uint8)[TRIMAP]
    with pytest.raises(CosamError, match=said):
        mask_of(pixels)
    assert (mask_of(pixels, {"values": [levels[2]]}) == (TRIMAP == 2)).all()
    assert (mask_of(pixels, {"values": [levels[2]]}, levels[1]) == (TRIMAP == 2)).all()


def test_a_trimap_whose_band_is_ignored_is_clear() -> None:
    assert (mask_of(np.array([0, 127, 255], np.uint8)[TRIMAP], "auto", 127) == (TRIMAP == 2)).all()


def test_a_few_grey_pixels_are_no_trimap() -> None:
    pixels = np.where(TRIMAP == 2, 255, 0).astype(np.uint8)
    pixels[5, 6:9] = 128
    assert (mask_of(pixels) == (pixels >= 128)).all()


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (Image.fromarray(TRIMAP), r"levels 0: 83.3 %, 1: 6.0 %, 2: 10.7 %\). .* values = \[2\]"),
        (
            Image.fromarray(np.array([[9, 9, 9], [9, 9, 9], [255, 0, 0]], np.uint8)[TRIMAP]),
            r"colours \[9, 9, 9\]: 89.3 %.* colours = \[\[9, 9, 9\]\]",
        ),
        (
            Image.fromarray(np.array([0, 7, 65535], np.uint16)[TRIMAP]),
            r"levels 0: 83.3 %, 7: 6.0 %, 65535.* values = \[65535\]",
        ),
    ],
)
def test_an_undecided_mask_is_refused_with_what_it_holds(image: Image.Image, said: str) -> None:
    with pytest.raises(CosamError, match=f"x: it is undecided which of its pixels are foreground \\({said}"):
        decode_mask(encoded(image), name="x", foreground=Foreground.model_validate("undecided"))


def test_undecided_has_no_channel() -> None:
    with pytest.raises(ValidationError, match="leave channel out"):
        Foreground.model_validate({"rule": "undecided", "channel": "red"})


# labelme's __ignore__


def square(label: str, left: int, top: int, right: int, bottom: int) -> dict[str, object]:
    points = [[left, top], [right, top], [right, bottom], [left, bottom]]
    return {"label": label, "shape_type": "polygon", "points": points}


def labelme_root(folder: Path, *shapes: dict[str, object]) -> Path:
    for name in ("images", "labels"):
        (folder / name).mkdir()
    for index in range(5):
        Image.fromarray(np.full((40, 60, 3), index, np.uint8)).save(folder / f"images/{index}.png")
        content = {"shapes": shapes, "imageHeight": 40, "imageWidth": 60}
        (folder / f"labels/{index}.json").write_text(json.dumps(content))
    return folder


def labelme_card(root: Path, **keys: object) -> Card:
    return Card.model_validate({"name": "g", "root": str(root), "masks": "labels/{stem}.json"} | keys)


IGNORED = square("__ignore__", 10, 5, 29, 24)
CRACK = square("crack", 15, 10, 19, 14)


@pytest.mark.parametrize("shapes", [(CRACK, IGNORED), (IGNORED, CRACK)])
@pytest.mark.parametrize("keys", [{}, {"samples": "polygon"}, {"samples": "component"}, {"labels": ["crack"]}])
def test_regions_labelled_ignore_are_ignored_pixels(
    shapes: tuple[dict[str, object], ...], keys: dict[str, object], tmp_path: Path
) -> None:
    for sample in open_domain(labelme_card(labelme_root(tmp_path, *shapes), **keys)).test:
        assert int(sample.mask.sum()) == 25
        assert sample.ignored is not None
        expected = torch.zeros(40, 60, dtype=torch.bool)
        expected[5:25, 10:30] = True
        expected[10:15, 15:20] = False
        assert torch.equal(sample.ignored, expected)


def test_a_hole_in_an_ignored_region_counts(tmp_path: Path) -> None:
    hole = square("_background_", 10, 5, 29, 14)
    sample = open_domain(labelme_card(labelme_root(tmp_path, IGNORED, hole, square("crack", 40, 10, 44, 14)))).test[0]
    assert sample.ignored is not None
    assert int(sample.ignored.sum()) == 200


def test_files_without_ignored_regions_and_chosen_ones_have_none(tmp_path: Path) -> None:
    domain = open_domain(labelme_card(labelme_root(tmp_path, CRACK, IGNORED), labels=["__ignore__"]))
    assert not domain.test.manifest.has_ignored
    assert int(domain.test[0].mask.sum()) == 400
    assert domain.test[0].ignored is None


def test_ignored_regions_are_part_of_the_datas_hash(tmp_path: Path) -> None:
    root = labelme_root(tmp_path, CRACK, IGNORED)
    entry = open_domain(labelme_card(root, labels=["crack"])).test.manifest.entries[0]
    file = (root / f"labels/{Path(entry.key).name}.json").read_bytes()
    assert entry.mask_sha256 == sha256_bytes(file, b"ignored") != sha256_bytes(file)


# The cases that others have reported


@pytest.mark.parametrize(
    ("case", "keys", "pixels", "ignored"),
    [
        ("palette_index0/quant", {"foreground": {"values": [0]}}, 336, None),
        ("palette_index0/quant", {"foreground": {"colours": [[255, 0, 0]]}}, 336, None),
        ("voc_255_border/voc255", {"ignore": 255}, 336, 152),
        ("voc_255_border/voc255", {"foreground": {"values": [15]}}, 336, None),
        ("dense_8bit_instances/dense", {"foreground": "nonzero"}, 5040, None),
        ("labelme_labels_ignored/lm_hole", {}, 1140, None),
        ("labelme_labels_ignored/lm_ignore", {}, 336, 41 * 36 - 336),
    ],
)
def test_reported_masks_have_their_right_pixels(
    case: str, keys: dict[str, object], pixels: int, ignored: int | None
) -> None:
    card = load_stream(str(case_folder(case) / "stream.toml")).cards[0]
    table = card.model_dump(exclude_unset=True) | keys
    sample = open_domain(Card.model_validate(table)).test[0]
    assert int(sample.mask.sum()) == pixels
    assert (None if sample.ignored is None else int(sample.ignored.sum())) == ignored


# Masks of stored pixels


def turned_root(
    folder: Path, orientation: int, *, size: tuple[int, int], stored: bool, kind: str = "jpg"
) -> np.ndarray:
    """Five images with an EXIF orientation, and their masks; returns the upright mask."""
    for name in ("images", "masks"):
        (folder / name).mkdir()
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    mask = np.zeros(size, np.uint8)
    mask[2:9, 3:16] = 255  # as stored
    upright = decode_mask(encoded(Image.fromarray(mask), exif=exif.tobytes()), name="x", foreground=Foreground())
    for index in range(5):
        image = Image.fromarray(np.full((*size, 3), 20 * index, np.uint8))
        image.save(folder / f"images/{index}.{kind}", exif=exif.tobytes())
        shown = mask if stored else (upright.numpy() * np.uint8(255))
        Image.fromarray(shown).save(folder / f"masks/{index}.png")
    return upright.numpy()


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("stored", [True, False])
def test_masks_of_stored_pixels_are_turned_with_their_images(orientation: int, stored: bool, tmp_path: Path) -> None:
    upright = turned_root(tmp_path, orientation, size=(20, 30), stored=stored)
    keys = {"orientation": "stored", "ignore": 7} if stored else {"ignore": 7}
    sample = open_domain(Card.model_validate({"name": "g", "root": str(tmp_path), **keys})).test[0]
    assert (sample.mask.numpy() == upright).all()
    assert sample.ignored is not None
    assert sample.ignored.shape == sample.mask.shape == sample.image.shape[1:]


def test_a_mask_of_stored_pixels_is_refused_with_the_key(tmp_path: Path) -> None:
    turned_root(tmp_path, 6, size=(20, 30), stored=True)
    with pytest.raises(CosamError, match=r"before its EXIF orientation 6 turns them; .* orientation = \"stored\""):
        open_domain(Card.model_validate({"name": "g", "root": str(tmp_path)}))


@pytest.mark.parametrize(("orientation", "size"), [(3, (20, 30)), (6, (20, 20))])
def test_a_size_that_fits_both_ways_is_noted(orientation: int, size: tuple[int, int], tmp_path: Path) -> None:
    turned_root(tmp_path, orientation, size=size, stored=False)
    keys = {"name": "g", "root": str(tmp_path)}
    (note,) = check_domain(Card.model_validate(keys)).notes
    assert "an EXIF orientation turns their images and the sizes fit both ways: 5 (0.png, 1.png, and 3 more)" in note
    for said in ("upright", "stored"):
        report = check_domain(Card.model_validate(keys | {"orientation": said}))
        assert (report.notes, report.fault_count) == ([], 0)


def test_the_orientation_of_masks_is_part_of_the_data_only_if_they_are_stored(tmp_path: Path) -> None:
    turned_root(tmp_path, 3, size=(20, 30), stored=False)
    keys = {"name": "g", "root": str(tmp_path)}
    plain, upright, stored = (
        open_domain(Card.model_validate(keys | more)).digest
        for more in ({}, {"orientation": "upright"}, {"orientation": "stored"})
    )
    assert plain == upright != stored


def test_masks_without_foreground_are_refused_with_what_they_hold(tmp_path: Path) -> None:
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for number in range(3):
        (tmp_path / f"images/{number}.png").write_bytes(encoded(Image.new("RGB", (8, 6), (number, 1, 2))))
        (tmp_path / f"masks/{number}.png").write_bytes(encoded(Image.fromarray(np.eye(6, 8, dtype=np.uint8) * 255)))
    card = Card.model_validate({"name": "a", "root": str(tmp_path), "foreground": {"values": [7]}})
    said = "all 3 masks are empty (0.png has levels 0: 87.5 %, 255: 12.5 %); check which pixels are foreground"
    with pytest.raises(CosamError, match=re.escape(said)):
        open_domain(card)
    report = check_domain(card)
    assert len(report.faults["empty"]) == 3
    assert said in report.notes
