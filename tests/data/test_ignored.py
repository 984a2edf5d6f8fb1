"""Pixels of masks that are neither foreground nor background: decoded, kept with samples, avoided by prompts."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from cosam_bench.core.errors import CosamError
from cosam_bench.data.cards import Card
from cosam_bench.data.decoding import ORIENTATION, decode_ignored, decode_mask
from cosam_bench.data.foreground import Foreground
from cosam_bench.data.held_out import hold_out
from cosam_bench.data.ignored import Ignored
from cosam_bench.data.opening import open_domain
from cosam_bench.data.prompts import draw_prompts
from cosam_bench.data.samples import union

INDICES = np.zeros((8, 10), dtype=np.uint8)
INDICES[1:7, 1:9] = 255  # a border of one pixel around each object, as in VOC's masks
INDICES[2:6, 2:5] = 1
INDICES[3:6, 6:8] = 2
VOC = np.zeros((256, 3), dtype=np.uint8)
VOC[[1, 2, 255]] = (128, 0, 0), (0, 128, 0), (224, 224, 192)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def voc_mask(indices: np.ndarray = INDICES) -> bytes:
    image = Image.fromarray(indices)
    image.putpalette(VOC.tobytes())
    return encoded(image)


def read(data: bytes, ignore: object, foreground: object = "auto") -> tuple[np.ndarray, np.ndarray]:
    rule, void = Foreground.model_validate(foreground), Ignored.model_validate(ignore)
    mask = decode_mask(data, name="x.png", foreground=rule, ignore=void)
    ignored = decode_ignored(data, name="x.png", foreground=rule, ignore=void)
    assert mask.dtype == ignored.dtype == torch.bool
    return mask.numpy(), ignored.numpy()


@pytest.mark.parametrize("ignore", [255, [255], {"values": [255]}, {"colours": [[224, 224, 192]]}])
@pytest.mark.parametrize(
    ("foreground", "indices"), [("auto", [1, 2]), ({"values": [2]}, [2]), ({"values": [1, 255]}, [1])]
)
def test_palettes(ignore: object, foreground: object, indices: list[int]) -> None:
    mask, ignored = read(voc_mask(), ignore, foreground)
    assert (mask == np.isin(INDICES, indices)).all()
    assert (ignored == (INDICES == 255)).all()


def test_without_ignore_a_palette_with_255_asks_for_the_key() -> None:
    with pytest.raises(CosamError, match=r"If 255 is void, write ignore = 255, .* values = \[1, 255\]"):
        decode_mask(voc_mask(), name="x.png", foreground=Foreground())


@pytest.mark.parametrize("kind", ["grey", "rgb", "channel"])
def test_levels(kind: str) -> None:
    foreground: object = "auto"
    image = Image.fromarray(np.where(INDICES == 2, 1, INDICES))
    if kind == "rgb":
        image = image.convert("RGB")
    if kind == "channel":
        image = Image.merge("RGB", (Image.new("L", image.size, 9), image, Image.new("L", image.size, 77)))
        foreground = {"channel": "green"}
    data = encoded(image)
    mask, ignored = read(data, 255, foreground)
    assert (mask == np.isin(INDICES, [1, 2])).all()
    assert (ignored == (INDICES == 255)).all()
    with pytest.raises(CosamError, match="whether ignore = 255 leaves level 255 out"):
        decode_mask(data, name="x.png", foreground=Foreground.model_validate(foreground))


def test_colours() -> None:
    data = encoded(Image.fromarray(VOC[INDICES]))
    rule = {"colours": [[128, 0, 0], [0, 128, 0]]}
    mask, ignored = read(data, {"colours": [[224, 224, 192]]}, rule)
    assert (mask == np.isin(INDICES, [1, 2])).all()
    assert (ignored == (INDICES == 255)).all()
    with pytest.raises(CosamError, match=r"x\.png is a coloured mask\. Say which colours are ignored"):
        read(data, 255, rule)


def test_a_mask_whose_only_colour_is_ignored_is_grey() -> None:
    levels = np.where(INDICES == 255, 0, 255 * (INDICES > 0)).astype(np.uint8)
    pixels = np.repeat(levels[..., None], 3, axis=2)
    pixels[INDICES == 255] = (224, 100, 192)
    mask, _ = read(encoded(Image.fromarray(pixels)), {"colours": [[224, 100, 192]]})
    assert (mask == np.isin(INDICES, [1, 2])).all()


def test_ignored_pixels_are_turned_with_the_mask() -> None:
    image = Image.fromarray(np.where(INDICES == 2, 1, INDICES))
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    mask, ignored = read(encoded(image, exif=exif.tobytes()), 255)
    assert (mask == np.rot90(np.isin(INDICES, [1, 2]), -1)).all()
    assert (ignored == np.rot90(INDICES == 255, -1)).all()


def test_a_jpeg_has_no_exact_levels() -> None:
    data = encoded(Image.fromarray(INDICES), "JPEG")
    with pytest.raises(CosamError, match=r"is a JPEG, whose compression changes levels.*Save masks as PNG"):
        read(data, 255)


@pytest.mark.parametrize("ignore", [{}, [], {"values": [1], "colours": [[1, 2, 3]]}, -1, True, "void", 65536])
def test_rules_that_say_nothing_are_refused(ignore: object) -> None:
    with pytest.raises(ValidationError):
        Ignored.model_validate(ignore)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for number in range(6):
        pixels = generator.integers(0, 256, (*INDICES.shape, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"images/{number}.png")
        (tmp_path / f"masks/{number}.png").write_bytes(voc_mask())
    return tmp_path


def card(root: Path, **keys: object) -> Card:
    keys = {"ignore": 255, "split": {"kind": "counts", "train": 4, "test": 2}} | keys
    return Card.model_validate({"name": "voc", "root": str(root), **keys})


def test_samples_and_what_is_made_of_splits_keep_their_ignored_pixels(root: Path) -> None:
    void = torch.from_numpy(INDICES == 255)
    domain = open_domain(card(root))
    for split in (domain.train, domain.test, *hold_out(domain.train), union([domain], "all")):
        assert len(split)
        for row, sample in enumerate(split):
            assert sample.ignored is not None
            assert torch.equal(sample.ignored, void)
            assert torch.equal(sample.mask, torch.from_numpy(np.isin(INDICES, [1, 2])))
            assert torch.equal(split.ignored(row), void)
            assert torch.equal(split.read(row).ignored, void)
            assert sample.nbytes == 5 * INDICES.size


def test_samples_of_components_and_classes(root: Path) -> None:
    parts = open_domain(card(root, samples="component")).test
    assert [int(sample.mask.sum()) for sample in parts] == [12, 6]
    (one, _) = open_domain(card(root, foreground={"values": [2]})).test
    assert int(one.mask.sum()) == 6


def test_prompts_keep_off_ignored_pixels(root: Path) -> None:
    split = open_domain(card(root)).train
    prompts = draw_prompts(split, points=18, seed=0)
    columns, rows = prompts.points.long().flatten(0, 1).T
    assert set(INDICES[rows.numpy(), columns.numpy()].tolist()) == {1, 2}
    assert prompts.boxes.tolist() == 4 * [[2, 2, 8, 6]]  # of the objects, not of the border around them


def test_the_rule_is_part_of_the_data_only_if_given(root: Path) -> None:
    values = {"foreground": {"values": [1, 2]}}
    with_key, without = open_domain(card(root, **values)), open_domain(card(root, ignore=None, **values))
    assert with_key.train.manifest.rule == without.train.manifest.rule + ' ignore={"values":[255]}'
    assert with_key.digest != without.digest
    assert without.train.ignored(0) is None
    assert without.train[0].ignored is None


def test_labelme_files_have_no_levels_to_ignore(root: Path) -> None:
    for path in (root / "masks").iterdir():
        path.with_suffix(".json").write_text(json.dumps({"shapes": []}))
        path.unlink()
    with pytest.raises(CosamError, match=r"0\.json holds shapes, not levels or colours; leave ignore out"):
        open_domain(card(root, masks=["masks/{stem}.json", "masks/{stem}.png"]))


def test_a_layout_may_have_its_own(root: Path) -> None:
    layouts = {"bordered": {"ignore": 255}}
    own = Card.model_validate({"name": "voc", "layouts": layouts}).with_layout("bordered", root=root)
    assert own.ignore == Ignored(values=(255,))
    assert open_domain(own).test[0].ignored is not None
