"""Where ``data init`` finds images, masks, annotations and parts: it loads, and gives the right pixels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.guessed_folders import (
    COUNT,
    SIZE,
    box,
    guessed,
    opened,
    pairs,
    said_of,
    save_image,
    truth,
)

from cosam_bench.core.errors import CosamError
from cosam_bench.data.acquire.check import check_domain
from cosam_bench.data.opening import open_domain
from cosam_bench.data.streams import load_stream


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


def write_lists(root: Path, line: str, *, suffix: str = ".txt", train: str = "train", test: str = "test") -> None:
    """Six images for training and four for testing, one line each with ``{}`` for the number."""
    for name, numbers in ((train, range(6)), (test, range(6, COUNT))):
        (root / f"{name}{suffix}").write_text("".join(f"{line.replace('{}', f'{index:02}')}\n" for index in numbers))


@pytest.mark.parametrize("line", ["images/a{}.png", "images/a{}", "a{}.png", "a{}", "# {}\na{}"])
@pytest.mark.parametrize("suffix", [".txt", ".csv"])
def test_lists_are_the_split_if_the_reader_of_splits_takes_them(line: str, suffix: str, tmp_path: Path) -> None:
    pairs(tmp_path, "images/a{}.png", "masks/a{}.png")
    write_lists(tmp_path, line, suffix=suffix)
    guess, _ = guessed(tmp_path)
    [domain] = guess.domains.values()
    assert (domain.choices, domain.unused_lists) == ([], [])
    found = opened(tmp_path)
    assert [key[-2:] for key in found.test.keys] == ["06", "07", "08", "09"]
    assert len(found.train) == 6


def test_lists_of_json_keys_are_the_split(tmp_path: Path) -> None:
    pairs(tmp_path, "images/a{}.png", "masks/a{}.png")
    for part, numbers in (("train", range(6)), ("test", range(6, COUNT))):
        (tmp_path / f"{part}.json").write_text(json.dumps({f"a{index:02}.png": [1, 2] for index in numbers}))
    assert (len(opened(tmp_path).train), len(opened(tmp_path).test)) == (6, 4)


@pytest.mark.parametrize(
    ("line", "suffix", "shown"),
    [
        ("images/a{}.png masks/a{}.png", ".txt", "'images/a00.png masks/a00.png' does not"),
        ("a{}.png,leaf", ".csv", "'a00.png,leaf' does not"),
        ("/home/me/images/a{}.png", ".txt", "'/home/me/images/a00.png' does not"),
    ],
)
def test_lists_that_are_not_taken_are_named_and_the_split_is_to_be_chosen(
    line: str, suffix: str, shown: str, tmp_path: Path
) -> None:
    pairs(tmp_path, "images/a{}.png", "masks/a{}.png")
    write_lists(tmp_path, line, suffix=suffix)
    guess, _ = guessed(tmp_path)
    [domain] = guess.domains.values()
    assert domain.unused_lists == [f"test{suffix}", f"train{suffix}"]
    assert {text.partition(" ")[0] for text, _ in domain.choices} == {"split"}
    said = said_of(tmp_path)
    assert f"train{suffix} (0 of its 6 lines name one image each; {shown})" in said
    chosen = f'split = {{ kind = "lists", train = "train{suffix}", test = "test{suffix}" }}'
    assert f"# {chosen}" in (tmp_path / "mine.toml").read_text()
    undecided = 'split = { kind = "undecided" }\n'
    [card] = load_stream(str(tmp_path / "mine.toml")).cards
    assert card.split.kind == "undecided"
    faults = [fault for found in check_domain(card).faults.values() for fault in found]
    assert any("it is undecided which of its images are for testing" in fault for fault in faults), faults
    with pytest.raises(CosamError, match="Choose one of the splits offered"):
        open_domain(card)
    write_lists(tmp_path, "a{}", suffix=suffix)  # what the comment asks for
    text = (tmp_path / "mine.toml").read_text()
    (tmp_path / "mine.toml").write_text(text.replace(undecided, "").replace(f"# {chosen}", chosen))
    assert len(open_domain(load_stream(str(tmp_path / "mine.toml")).cards[0]).test) == 4


def test_a_list_without_the_other_part_is_named(tmp_path: Path) -> None:
    pairs(tmp_path, "images/a{}.png", "masks/a{}.png")
    (tmp_path / "test.txt").write_text("a01\na02\n")
    guess, _ = guessed(tmp_path)
    assert guess.undecided
    assert "not used: test.txt (no list of the other part can be used)." in said_of(tmp_path)


def test_lists_beside_another_split_are_named(tmp_path: Path) -> None:
    for part, first, count in (("train", 0, 7), ("test", 7, 3)):
        pairs(tmp_path, f"{part}/images/a{{}}.png", f"{part}/masks/a{{}}.png", first=first, count=count)
    write_lists(tmp_path, "a{}", train="train_names", test="val")
    guess, _ = guessed(tmp_path)
    assert not guess.undecided
    assert "train_names.txt (something else is the split)" in said_of(tmp_path)


def test_a_second_list_of_a_part_is_named(tmp_path: Path) -> None:
    pairs(tmp_path, "images/a{}.png", "masks/a{}.png")
    write_lists(tmp_path, "a{}")
    (tmp_path / "val.txt").write_text("a05\n")
    guess, _ = guessed(tmp_path)
    assert not guess.undecided
    assert "not used: val.txt (the split is that of train.txt)." in said_of(tmp_path)


def test_lists_beside_the_folder_of_a_domain_are_named(tmp_path: Path) -> None:
    pairs(tmp_path, "kvasir/images/a{}.png", "kvasir/masks/a{}.png")
    write_lists(tmp_path, "a{}")
    guess, _ = guessed(tmp_path)
    assert list(guess.left_out) == ["test.txt", "train.txt"]
    assert "train.txt is not a domain: it is called like a list of a split" in said_of(tmp_path)


def test_annotations_of_images_are_not_lists(tmp_path: Path) -> None:
    pairs(tmp_path, "images/train_{}.png", "masks/train_{}.png")
    for index in range(COUNT):
        (tmp_path / f"images/train_{index:02}.txt").write_text("a note on one image\n")
    guess, _ = guessed(tmp_path)
    assert [domain.unused_lists for domain in guess.domains.values()] == [[]]


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


def test_braces_in_one_name_hide_no_other(tmp_path: Path) -> None:
    pairs(tmp_path, "images/a{}.png", "masks/a{}.png")
    for folder in ("images", "masks"):
        (tmp_path / folder / "a03.png").rename(tmp_path / folder / "d{stem}.png")
    assert len(opened(tmp_path).train) + len(opened(tmp_path).test) == COUNT


@pytest.mark.parametrize("target", ["..", "../..", "."])
def test_a_link_to_a_folder_that_holds_it_is_left_out(tmp_path: Path, target: str) -> None:
    root = tmp_path / "mine"
    pairs(root, "images/a{}.png", "masks/a{}.png")
    (root / "images/loop").symlink_to(target)
    opened(root)
    _, stream = guessed(root)
    assert [card.name for card in stream.cards] == ["mine"]
    assert stream.cards[0].masks == "masks/{stem}.*"


def test_a_link_to_another_folder_is_followed(tmp_path: Path) -> None:
    pairs(tmp_path / "elsewhere", "a{}.png", "../mine/masks/a{}.png")
    (tmp_path / "mine/images").symlink_to("../elsewhere")
    opened(tmp_path / "mine")


def reason(root: Path) -> str:
    """Why nothing of a folder can be a domain."""
    with pytest.raises(CosamError) as raised:
        guessed(root)
    return str(raised.value)


def test_files_of_kinds_that_are_not_read_are_named(tmp_path: Path) -> None:
    pairs(tmp_path, "images/a{}.png", "masks/a{}.png")
    for index in range(COUNT):
        (tmp_path / f"masks/a{index:02}.png").rename(tmp_path / f"masks/a{index:02}.npy")
    assert "masks holds 10 .npy files, which are not read; convert them to PNG." in reason(tmp_path)
    for index in range(COUNT):
        (tmp_path / f"images/a{index:02}.png").rename(tmp_path / f"images/a{index:02}.heic")
        (tmp_path / f"masks/a{index:02}.npy").rename(tmp_path / f"masks/a{index:02}.png")
    assert "images holds 10 .heic files, which are not read; convert them to PNG." in reason(tmp_path)


def test_images_and_masks_that_share_names_are_named(tmp_path: Path) -> None:
    pairs(tmp_path, "images/a{}.png", "masks/a{}.png")
    for index in range(COUNT):
        save_image(tmp_path / f"images/a{index:02}.jpg", index)
    assert "images/a00.jpg shares its name with another image; " in reason(tmp_path)
    for index in range(COUNT):
        (tmp_path / f"images/a{index:02}.jpg").rename(tmp_path / f"masks/a{index:02}.jpg")
    assert "images/a00.png has several masks (a00.jpg, a00.png); " in reason(tmp_path)
