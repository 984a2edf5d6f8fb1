"""The stream that ``data init`` guesses: it loads, gives the right pixels if it is decided, and asks if it is not."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.cases import case_folder

from cosam_bench.core.errors import CosamError
from cosam_bench.data.acquire.check import check_domain
from cosam_bench.data.decoding import ORIENTATION
from cosam_bench.data.guessing.stream_guess import StreamGuess, guess_stream, stream_text, write_stream
from cosam_bench.data.guessing.toml_text import toml_line
from cosam_bench.data.opening import open_domain
from cosam_bench.data.samples import Domain
from cosam_bench.data.streams import Stream, load_stream

COUNT, SIZE = 10, (24, 32)


def box(index: int) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the object of an image; the last two are not part of it."""
    return 2 + index, 3, 12 + index, 9 + index


def truth(index: int) -> np.ndarray:
    left, top, right, bottom = box(index)
    mask = np.zeros(SIZE, bool)
    mask[top:bottom, left:right] = True
    return mask


def save_image(path: Path, index: int, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((*SIZE, 3), 20 * index, np.uint8)
    pixels[truth(index)] = (255 - index, 40, 90)
    Image.fromarray(pixels).save(path, **options)


def save_mask(path: Path, index: int, *, levels: tuple[int, int] = (0, 255)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(levels, np.uint8)[truth(index).astype(int)]).save(path)


def pairs(root: Path, image: str, mask: str, *, first: int = 0, count: int = COUNT) -> None:
    """Images and masks by patterns with ``{}`` for the number."""
    for index in range(first, first + count):
        save_image(root / image.replace("{}", f"{index:02}"), index)
        save_mask(root / mask.replace("{}", f"{index:02}"), index)


def guessed(root: Path) -> tuple[StreamGuess, Stream]:
    guess = guess_stream(root)
    write_stream(guess, root / "mine.toml")
    return guess, load_stream(str(root / "mine.toml"))


def said_of(root: Path) -> str:
    """The file on one line, without the breaks of comments."""
    return " ".join((root / "mine.toml").read_text().replace("\n# ", " ").split())


def opened(root: Path, *, has_choices: bool = False) -> Domain:
    """The only domain of a folder, opened as it was guessed; every mask is the true one."""
    guess, stream = guessed(root)
    (name,) = guess.domains
    assert bool(guess.domains[name].choices) == has_choices, stream_text(guess, folder=root)
    domain = open_domain(stream.card(name))
    assert check_domain(stream.card(name)).fault_count == 0
    for sample in [*domain.train, *domain.test]:
        assert (sample.mask.numpy() == truth(index_of(sample.image.numpy()))).all(), sample.key
    return domain


def index_of(pixels: np.ndarray) -> int:
    """The number of an image, from the background of its last row, whatever JPEG has made of it."""
    return round(float(pixels[:, -1].mean()) / 20)


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("images/a{}.jpg", "masks/a{}.png"),
        ("img/a{}.png", "gt/a{}.png"),
        ("imgs/a{}.png", "labels/a{}.png"),
        ("JPEGImages/a{}.jpg", "SegmentationClass/a{}.png"),
        ("original/a{}.tif", "ground_truth/a{}.bmp"),
        ("photos/a{}.png", "annotations/a{}.png"),
        ("Input Images/a{}.png", "Ground Truth/a{}.png"),
        ("x-rays/a{}.png", "masks/a{}.png"),
        ("images/a{}.jpg", "masks/a{}_mask.png"),
        ("images/a{}.jpg", "masks/a{}.jpg.png"),
        ("images/img_{}.jpg", "masks/seg_{}.png"),
        ("images/frame{}.jpg", "masks/gt{}_x.png"),
        ("a{}.jpg", "a{}.png"),
        ("a{}.jpg", "a{}_mask.png"),
        ("a{}.png", "a{}_mask.png"),
        ("a{}.png", "a{}_m.png"),
        ("a{}.png", "mask_a{}.png"),
        ("frame_{}.jpg", "gt_{}.png"),
        ("frame_{}.png", "gt_{}.png"),
        ("case{}/image.jpg", "case{}/label.png"),
        ("cases/{}/image.png", "cases/{}/label.png"),
        ("cases/{}/p{}.png", "cases/{}/p{}_seg.png"),
        ("cases/{}/images/p{}.png", "cases/{}/masks/p{}.png"),
        ("deep/er/images/a{}.jpg", "deep/er/masks/a{}.png"),
        ("images/[a]{}.png", "masks/[a]{}_m.png"),
        ("images/IMG{}.JPG", "masks/IMG{}.PNG"),
    ],
)
def test_one_mask_per_image(image: str, mask: str, tmp_path: Path) -> None:
    pairs(tmp_path, image, mask)
    domain = opened(tmp_path)
    assert (len(domain.train), len(domain.test)) == (8, 2)


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("{part}/images/a{}.png", "{part}/masks/a{}.png"),
        ("images/{part}/a{}.png", "masks/{part}/a{}.png"),
        ("{part}_images/a{}.png", "{part}_masks/a{}.png"),
        ("{part}/a{}.jpg", "{part}/a{}.png"),
        ("{part}/a{}.png", "{part}/a{}_mask.png"),
        ("{part}/a{}.png", "masks/a{}.png"),
        ("set/{part}/images/a{}.png", "set/{part}/labels/a{}.png"),
    ],
)
@pytest.mark.parametrize("test", ["test", "val"])
def test_ready_made_parts_are_the_split(image: str, mask: str, test: str, tmp_path: Path) -> None:
    for part, first, count in (("train", 0, 7), (test, 7, 3)):
        pairs(tmp_path, image.replace("{part}", part), mask.replace("{part}", part), first=first, count=count)
    domain = opened(tmp_path)
    assert sorted(key[-2:] for key in (k.removesuffix("_mask") for k in domain.train.keys)) == [
        f"{index:02}" for index in range(7)
    ]
    assert len(domain.test) == 3


def test_validation_beside_test_is_named(tmp_path: Path) -> None:
    for part, first, count in (("train", 0, 6), ("val", 6, 2), ("test", 8, 2)):
        pairs(tmp_path, f"{part}/images/a{{}}.png", f"{part}/masks/a{{}}.png", first=first, count=count)
    domain = opened(tmp_path)
    assert (len(domain.train), len(domain.test)) == (6, 2)
    assert "2 images for validation (val/images/*) are in neither part" in said_of(tmp_path)


def test_lists_of_names_are_the_split(tmp_path: Path) -> None:
    pairs(tmp_path, "JPEGImages/a{}.jpg", "SegmentationClass/a{}.png")
    lists = tmp_path / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("".join(f"a{index:02}\n" for index in range(6)))
    (lists / "val.txt").write_text("".join(f"a{index:02}\n" for index in range(6, 9)))
    domain = opened(tmp_path)
    assert (len(domain.train), len(domain.test)) == (6, 3)


def test_several_masks_of_one_image_are_joined(tmp_path: Path) -> None:
    for index in range(COUNT):
        save_image(tmp_path / f"images/a{index:02}.png", index)
        rows = np.arange(SIZE[0])[:, None]
        (tmp_path / "masks").mkdir(exist_ok=True)
        for part, half in enumerate((rows < 5, rows >= 5)):
            Image.fromarray((truth(index) & half) * np.uint8(255)).save(tmp_path / f"masks/a{index:02}_{part}.png")
    domain = opened(tmp_path)
    assert "several mask images (20 in all)" in said_of(tmp_path)
    assert domain.test.manifest.rule.endswith("several=union")


def test_several_masks_in_the_folder_of_a_case(tmp_path: Path) -> None:
    for index in range(COUNT):
        save_image(tmp_path / f"case{index}/images/whole.png", index)
        rows = np.arange(SIZE[0])[:, None]
        (tmp_path / f"case{index}/masks").mkdir()
        for name, half in (("left", rows < 5), ("b77", rows >= 5)):
            Image.fromarray((truth(index) & half) * np.uint8(255)).save(tmp_path / f"case{index}/masks/{name}.png")
    opened(tmp_path)


# Annotation files


def polygon(index: int) -> list[float]:
    left, top, right, bottom = box(index)
    return [left, top, right, top, right, bottom, left, bottom]


def coco(names: dict[int, str], categories: tuple[str, ...] = ("pit",)) -> str:
    return json.dumps(
        {
            "images": [
                {"id": index, "file_name": name, "height": SIZE[0], "width": SIZE[1]} for index, name in names.items()
            ],
            "annotations": [
                {
                    "id": index,
                    "image_id": index,
                    "category_id": 1 + index % len(categories),
                    "segmentation": [polygon(index)],
                    "iscrowd": 0,
                }
                for index in names
            ],
            "categories": [{"id": number, "name": name} for number, name in enumerate(categories, start=1)],
        }
    )


@pytest.mark.parametrize(
    ("image", "listed", "file"),
    [
        ("images/a{}.png", "a{}.png", "annotations.json"),
        ("images/a{}.png", "images/a{}.png", "annotations/instances.json"),
        ("a{}.png", "a{}.png", "_annotations.coco.json"),
        ("images/a{}.png", "C:\\work\\a{}.png", "coco.json"),
    ],
)
def test_coco(image: str, listed: str, file: str, tmp_path: Path) -> None:
    for index in range(COUNT):
        save_image(tmp_path / image.replace("{}", f"{index:02}"), index)
    (tmp_path / file).parent.mkdir(exist_ok=True)
    names = {index: listed.replace("{}", f"{index:02}") for index in range(COUNT)}
    (tmp_path / file).write_text(coco(names, ("pit", "scratch")))
    assert len(opened(tmp_path).test) == 2
    written = said_of(tmp_path)
    assert "Objects by their categories: pit (5), scratch (5)." in written
    assert 'labels = ["pit"]' in written


@pytest.mark.parametrize("layout", ["roboflow", "official"])
def test_coco_in_ready_made_parts(layout: str, tmp_path: Path) -> None:
    for part, first, last in (("train", 0, 7), ("val", 7, 10)):
        folder, file = {
            "roboflow": (part, f"{part}/_annotations.coco.json"),
            "official": (f"{part}2017", f"annotations/instances_{part}2017.json"),
        }[layout]
        for index in range(first, last):
            save_image(tmp_path / folder / f"a{index:02}.png", index)
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(coco({index: f"a{index:02}.png" for index in range(first, last)}))
    domain = opened(tmp_path)
    assert (len(domain.train), len(domain.test)) == (7, 3)


def test_parts_of_coco_that_share_a_folder_are_not_kept_and_said_so(tmp_path: Path) -> None:
    for index in range(COUNT):
        save_image(tmp_path / f"images/a{index:02}.png", index)
    (tmp_path / "train.json").write_text(coco({index: f"a{index:02}.png" for index in range(7)}))
    (tmp_path / "test.json").write_text(coco({index: f"a{index:02}.png" for index in range(7, 10)}))
    assert len(opened(tmp_path).test) == 2
    assert "so their division is not kept" in said_of(tmp_path)


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("images/a{}.png", "labels/a{}.txt"),
        ("a{}.png", "a{}.txt"),
        ("images/train/a{}.png", "labels/train/a{}.txt"),
    ],
)
def test_yolo(image: str, label: str, tmp_path: Path) -> None:
    for index in range(COUNT):
        save_image(tmp_path / image.replace("{}", f"{index:02}"), index)
        path = tmp_path / label.replace("{}", f"{index:02}")
        path.parent.mkdir(parents=True, exist_ok=True)
        shares = [number / SIZE[1 - place % 2] for place, number in enumerate(polygon(index))]
        path.write_text(f"0 {' '.join(map(str, shares))}\n")
    assert len(opened(tmp_path).test) == 2
    assert "Objects by their classes: 0 (10)." in said_of(tmp_path)


def test_yolo_in_ready_made_parts(tmp_path: Path) -> None:
    for index in range(COUNT):
        part = "train" if index < 7 else "val"
        save_image(tmp_path / f"images/{part}/a{index:02}.png", index)
        path = tmp_path / f"labels/{part}/a{index:02}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        shares = [number / SIZE[1 - place % 2] for place, number in enumerate(polygon(index))]
        path.write_text(f"3 {' '.join(map(str, shares))}\n")
    domain = opened(tmp_path)
    assert (len(domain.train), len(domain.test)) == (7, 3)


def labelme(index: int) -> str:
    left, top, right, bottom = box(index)
    points = [[left, top], [right - 1, top], [right - 1, bottom - 1], [left, bottom - 1]]
    shapes = [{"label": "crack", "points": points, "shape_type": "polygon"}]
    shapes += [{"label": "__ignore__", "points": [[0, 20], [9, 20], [9, 22]], "shape_type": "polygon"}] * (index == 3)
    return json.dumps({"shapes": shapes, "imageHeight": SIZE[0], "imageWidth": SIZE[1]})


@pytest.mark.parametrize(
    ("image", "label"),
    [("a{}.png", "a{}.json"), ("images/a{}.png", "labels/a{}.json"), ("images/a{}.png", "images/a{}.json")],
)
def test_labelme(image: str, label: str, tmp_path: Path) -> None:
    for index in range(COUNT):
        save_image(tmp_path / image.replace("{}", f"{index:02}"), index)
        path = tmp_path / label.replace("{}", f"{index:02}")
        path.parent.mkdir(exist_ok=True)
        path.write_text(labelme(index))
    assert len(opened(tmp_path).test) == 2
    written = said_of(tmp_path)
    assert "Objects by their labels: crack (10), __ignore__ (1)." in written


# Which pixels are foreground


def write_masks(root: Path, save: Callable[[Path, np.ndarray, int], None]) -> None:
    (root / "masks").mkdir()
    for index in range(COUNT):
        save_image(root / f"images/a{index:02}.png", index)
        save(root / f"masks/a{index:02}", truth(index), index)


def as_levels(*levels: int, kind: str = ".png", dtype: type = np.uint8) -> Callable[[Path, np.ndarray, int], None]:
    """Masks of the levels of background, a band around the object's upper side if three are given, and foreground."""

    def save(path: Path, mask: np.ndarray, index: int) -> None:
        classes = mask.astype(int)
        if len(levels) > 2:
            classes[mask] = 2
            classes[1:3, 2 + index : 12 + index] = 1
        Image.fromarray(np.array(levels, dtype)[classes]).save(path.with_suffix(kind))

    return save


def as_palette(*colours: tuple[int, int, int], swap: bool = False) -> Callable[[Path, np.ndarray, int], None]:
    def save(path: Path, mask: np.ndarray, index: int) -> None:
        classes = mask.astype(np.uint8)
        order = list(colours)
        if len(colours) > 2:
            classes[1:3, 2 + index : 12 + index] = 2
        if swap and index % 2:
            classes, order = 1 - classes, order[::-1]
        image = Image.fromarray(classes)
        image.putpalette(np.array(order, np.uint8).tobytes())
        image.save(path.with_suffix(".png"))

    return save


def as_colours(*colours: tuple[int, int, int]) -> Callable[[Path, np.ndarray, int], None]:
    def save(path: Path, mask: np.ndarray, index: int) -> None:
        classes = mask.astype(int)
        if len(colours) > 2:
            classes[1:3, 2 + index : 12 + index] = 2
        Image.fromarray(np.array(colours, np.uint8)[classes]).save(path.with_suffix(".png"))

    return save


def as_one_bit(path: Path, mask: np.ndarray, index: int) -> None:
    Image.fromarray(mask).save(path.with_suffix(".png"))


def as_alpha(path: Path, mask: np.ndarray, index: int) -> None:
    white = np.full((*SIZE, 3), 255, np.uint8)
    Image.fromarray(np.concatenate([white, mask[..., None] * np.uint8(255)], axis=-1)).save(path.with_suffix(".png"))


@pytest.mark.parametrize(
    ("save", "said"),
    [
        (as_levels(0, 255), "Foreground: level 255"),
        (as_levels(0, 1), "Foreground: level 1 "),
        (as_levels(0, 1, dtype=np.uint16), "16 bit grey"),
        (as_levels(0, 65535, dtype=np.uint16), "Foreground: level 65535"),
        (as_levels(0, 38), "level 38, since all masks hold only it and level 0, the background"),
        (as_levels(0, 128), "Foreground: level 128"),
        (as_one_bit, "Masks: 1 bit, levels 0: 86.3 %, 1: 13.7 %"),
        (as_alpha, "RGBA"),
        (as_palette((0, 0, 0), (128, 0, 0)), "every index but 0, which is black"),
        (as_colours((0, 0, 0), (255, 0, 0)), "the colour [255, 0, 0], since all masks hold only it"),
        (as_colours((0, 0, 0), (255, 255, 255)), "Foreground: level 255"),
    ],
)
def test_clear_masks_are_decided(save: Callable[..., None], said: str, tmp_path: Path) -> None:
    write_masks(tmp_path, save)
    opened(tmp_path)
    assert said in said_of(tmp_path)


@pytest.mark.parametrize(
    ("save", "choices", "keys"),
    [
        (
            as_levels(0, 127, 255),
            ["ignore = 127", "foreground = { values = [255] }"],
            {"foreground": {"values": [255]}},
        ),
        (as_levels(1, 3, 2), ["ignore = 3", "foreground = { values = [2] }"], {"foreground": {"values": [2]}}),
        (as_levels(0, 255, 7), ["ignore = 255", "foreground = { values = [7] }"], {"foreground": {"values": [7]}}),
        (
            as_palette((0, 0, 0), (128, 0, 0), (0, 128, 0)),
            ["foreground = { values = [2] }", 'foreground = "nonzero"'],
            {"foreground": {"values": [1]}},
        ),
        (
            as_colours((0, 0, 0), (128, 0, 0), (0, 128, 0)),
            ["foreground = { colours = [[128, 0, 0]] }"],
            {"foreground": {"colours": [[128, 0, 0]]}},
        ),
    ],
)
def test_unclear_masks_are_left_open(
    save: Callable[..., None], choices: list[str], keys: dict[str, Any], tmp_path: Path
) -> None:
    write_masks(tmp_path, save)
    guess, stream = guessed(tmp_path)
    written = (tmp_path / "mine.toml").read_text()
    assert guess.undecided == [tmp_path.name]
    for choice in choices:
        assert f"# {choice}" in written
    card = stream.cards[0]
    assert "undecided" in str(check_domain(card).faults["broken"])
    with pytest.raises(CosamError, match="it is undecided which of its pixels are foreground"):
        open_domain(card)
    (tmp_path / "mine.toml").write_text(chosen(written, keys))
    for sample in open_domain(load_stream(str(tmp_path / "mine.toml")).cards[0]).test:
        assert (sample.mask.numpy() == truth(index_of(sample.image.numpy()))).all()


def chosen(text: str, keys: dict[str, Any]) -> str:
    """The file after somebody has replaced the undecided line by one of those offered."""
    (line,) = (toml_line(key, value) for key, value in keys.items())
    offered = [row for row in text.splitlines() if row.startswith(f"# {line} ")]
    assert len(offered) == 1
    return text.replace('foreground = "undecided"\n', "").replace(offered[0], offered[0].removeprefix("# "))


def test_instance_ids_are_left_open(tmp_path: Path) -> None:
    def save(path: Path, mask: np.ndarray, index: int) -> None:
        ids = np.where(mask, 110 + np.arange(mask.size).reshape(mask.shape) % 30, 0).astype(np.uint8)
        Image.fromarray(ids).save(path.with_suffix(".png"))

    write_masks(tmp_path, save)
    guess, _ = guessed(tmp_path)
    assert guess.undecided
    written = said_of(tmp_path)
    assert "(31 in all) of the pixels" in written
    assert "as if levels were numbers of objects" in written


def test_soft_edges_are_cut_in_the_middle(tmp_path: Path) -> None:
    def save(path: Path, mask: np.ndarray, index: int) -> None:
        noise = np.random.default_rng(index).integers(-20, 20, mask.shape)
        file = io.BytesIO()
        Image.fromarray(np.clip(mask * 255 + noise, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=95)
        path.with_suffix(".jpg").write_bytes(file.getvalue())

    write_masks(tmp_path, save)
    opened(tmp_path)
    assert "level 128 and above, so soft edges are cut in the middle" in said_of(tmp_path)


def test_the_palette_may_differ_from_mask_to_mask(tmp_path: Path) -> None:
    """Red and black in either order, as tools that reduce colours write them."""
    write_masks(tmp_path, as_palette((0, 0, 0), (255, 0, 0), swap=True))
    opened(tmp_path)
    assert "foreground = { colours = [[255, 0, 0]] }" in said_of(tmp_path)


def test_palettes_that_differ_hide_no_colour(tmp_path: Path) -> None:
    """The object is red in some masks and blue in others, under the same index."""

    def save(path: Path, mask: np.ndarray, index: int) -> None:
        as_palette((200, 0, 0) if index % 2 else (0, 0, 200), (0, 0, 0))(path, ~mask, index)

    write_masks(tmp_path, save)
    guess, _ = guessed(tmp_path)
    assert guess.undecided
    said = said_of(tmp_path)
    assert "foreground = { colours = [[0, 0, 200]] }" in said
    assert "foreground = { colours = [[200, 0, 0]] }" in said


def test_a_photograph_is_no_mask(tmp_path: Path) -> None:
    def save(path: Path, mask: np.ndarray, index: int) -> None:
        pixels = np.random.default_rng(index).integers(0, 256, (*mask.shape, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path.with_suffix(".png"))

    write_masks(tmp_path, save)
    guess, _ = guessed(tmp_path)
    assert guess.undecided


def test_twelve_bits_in_sixteen_are_left_open(tmp_path: Path) -> None:
    pairs(tmp_path, "images/a{}.png", "masks/a{}.png")
    for path in (tmp_path / "images").iterdir():
        Image.fromarray(np.full(SIZE, 100 * int(path.stem[1:]) + 1000, np.uint16)).save(path)
    guess, stream = guessed(tmp_path)
    assert [line for line, _ in guess.domains[tmp_path.name].choices] == ["levels = 4095", "levels = 65535"]
    assert "as if they had 12" in str(check_domain(stream.cards[0]).faults["other"])


@pytest.mark.parametrize("stored", [True, False])
def test_images_that_are_turned(stored: bool, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    for index in range(COUNT):
        save_image(tmp_path / f"images/a{index:02}.jpg", index, exif=exif.tobytes())
        mask = truth(index) if stored else np.rot90(truth(index), -1)
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(mask * np.uint8(255)).save(tmp_path / f"masks/a{index:02}.png")
    _, stream = guessed(tmp_path)
    card = stream.cards[0]
    assert card.orientation == ("stored" if stored else None)
    assert check_domain(card).fault_count == 0
    for sample in open_domain(card).test:
        number = int(sample.key[-2:])
        assert (sample.mask.numpy() == np.rot90(truth(number), -1)).all()


# What does not fit


def test_images_without_a_mask_are_counted_and_offered_to_be_skipped(tmp_path: Path) -> None:
    pairs(tmp_path, "images/a{}.jpg", "masks/a{}.png")
    for index in range(5):
        save_image(tmp_path / f"images/b{index}.jpg", index)
        save_mask(tmp_path / f"masks/c{index}.png", index)
    guess, _ = guessed(tmp_path)
    written = said_of(tmp_path)
    assert "5 images have no mask: images/b0.jpg, images/b1.jpg, images/b2.jpg, and 2 more." in written
    assert "5 masks have no image: masks/c0.png" in written
    assert guess.undecided
    assert 'unlabelled = "skip" # leaves images without a mask out' in written


def test_other_folders_of_images_are_named(tmp_path: Path) -> None:
    pairs(tmp_path, "images/a{}.jpg", "masks/a{}.png")
    save_image(tmp_path / "previews/x.jpg", 1)
    opened(tmp_path)
    assert "1 other images are not used: previews/x.jpg." in said_of(tmp_path)


def test_one_domain_per_folder_and_the_reason_why_another_is_none(tmp_path: Path) -> None:
    pairs(tmp_path, "Leaves 1/images/a{}.jpg", "Leaves 1/masks/a{}.png")
    pairs(tmp_path, "human_photo/images/b{}.jpg", "human_photo/gt/b{}.png")
    for index in range(3):
        save_image(tmp_path / f"alone/{index}.jpg", index)
    boxes = tmp_path / "boxes"
    save_image(boxes / "images/x.jpg", 1)
    (boxes / "labels").mkdir()
    (boxes / "labels/x.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/readme.md").write_text("x")
    (tmp_path / "meta.json").write_text('{"version": 1}')
    save_image(tmp_path / "preview.jpg", 1)
    guess, stream = guessed(tmp_path)
    roots = {card.name: card.root for card in stream.cards}
    assert roots == {"leaves_1": str(tmp_path / "Leaves 1"), "human_photo": str(tmp_path / "human_photo")}
    assert "none is called as the mask of another" in guess.left_out["alone"]
    assert "1 text files of boxes, which are not masks" in guess.left_out["boxes"]
    assert guess.left_out["notes"] == "there are no images in it"
    assert guess.left_out["."] == "its images are beside the folders of domains"
    assert "notes is not a domain" in said_of(tmp_path)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ((), "is empty"),
        (("notes.md",), "There are no images in .*only files of these kinds: .md"),
        (("images/a.jpg", "images/b.jpg"), "No masks were found.*none is called as the mask of another"),
    ],
)
def test_a_folder_without_images_or_masks_is_refused(files: tuple[str, ...], said: str, tmp_path: Path) -> None:
    for number, name in enumerate(files):
        if name.endswith(".md"):
            (tmp_path / name).write_text("x")
        else:
            save_image(tmp_path / name, number)
    with pytest.raises(CosamError, match=said):
        guess_stream(tmp_path)
    with pytest.raises(CosamError, match="There is no folder"):
        guess_stream(tmp_path / "nowhere")


# Inputs that others have reported, and real images


@pytest.mark.parametrize(
    ("case", "open_keys", "pixels", "ignored"),
    [
        ("palette_index0/quant", set(), 336, None),
        ("voc_255_border/voc255", {"foreground", "ignore"}, None, None),
        ("dense_8bit_instances/dense", {"foreground"}, None, None),
        ("twelve_bit_in_sixteen/bit12", {"levels"}, None, None),
        ("twelve_bit_in_sixteen/bit8", set(), None, None),
        ("sorted_pairing_lexical/sorted_trap", {"unlabelled"}, None, None),
        ("labelme_labels_ignored/lm_hole", set(), 1140, None),
        ("labelme_labels_ignored/lm_ignore", set(), 336, 41 * 36 - 336),
        ("object_vanishes_at_model_size/tinyd", set(), 9, None),
    ],
)
def test_reported_inputs(
    case: str, open_keys: set[str], pixels: int | None, ignored: int | None, tmp_path: Path
) -> None:
    guess = guess_stream(case_folder(case))
    write_stream(guess, tmp_path / "mine.toml")
    (domain,) = guess.domains.values()
    assert {line.partition(" ")[0] for line, _ in domain.choices} == open_keys
    card = load_stream(str(tmp_path / "mine.toml")).cards[0]
    assert (check_domain(card).fault_count == 0) == (not open_keys)
    if pixels is not None:
        sample = open_domain(card).test[0]
        assert int(sample.mask.sum()) == pixels
        assert (None if sample.ignored is None else int(sample.ignored.sum())) == ignored


def test_numbers_of_other_digits_are_the_reason(tmp_path: Path) -> None:
    """img1 to img11 with img01 to img11, which the order of names pairs wrongly."""
    for index in range(1, COUNT + 1):
        save_image(tmp_path / f"images/img{index}.png", index)
        save_mask(tmp_path / f"masks/img{index:02}.png", index)
    guessed(tmp_path)
    said = said_of(tmp_path)
    assert "9 of these images and masks have the same number with other digits" in said
    assert "images/img1.png and masks/img01.png; write all numbers with the same digits" in said


REAL = os.environ.get("COSAM_BENCH_REAL", "")


@pytest.mark.skipif(not REAL, reason="COSAM_BENCH_REAL names no folder of real images")
def test_real_images_are_guessed_and_accepted(tmp_path: Path) -> None:
    guess = guess_stream(Path(REAL))
    write_stream(guess, tmp_path / "mine.toml")
    assert guess.undecided == []
    assert len(guess.domains) == 9
    for card in load_stream(str(tmp_path / "mine.toml")).cards:
        report = check_domain(card)
        assert (report.fault_count, report.train, report.test) == (0, 48, 12), report.faults
