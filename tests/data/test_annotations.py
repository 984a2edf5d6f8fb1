"""Masks from COCO's and YOLO's annotation files: their pixels, their samples, and what is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco
from pydantic import ValidationError

from cosam_bench.core.errors import CosamError
from cosam_bench.data.acquire.check import check_domain
from cosam_bench.data.cards import Card
from cosam_bench.data.instances import Instance, draw_instance, read_runs
from cosam_bench.data.opening import open_domain
from cosam_bench.data.overview import domain_row
from cosam_bench.data.samples import Domain, Sample
from cosam_bench.data.streams import load_card

HEIGHT, WIDTH = SIZE = (24, 32)
CATEGORIES = [{"id": 3, "name": "pit"}, {"id": 7, "name": "scratch"}]


def box(x: int, y: int, x1: int, y1: int) -> list[int]:
    """A rectangle's polygon; COCO's tools fill columns x to x1 - 1 and rows y to y1 - 1."""
    return [x, y, x1, y, x1, y1, x, y1]


def pixels(*blocks: tuple[int, int, int, int]) -> np.ndarray:
    mask = np.zeros(SIZE, dtype=bool)
    for x, y, x1, y1 in blocks:
        mask[y:y1, x:x1] = True
    return mask


def compressed(mask: np.ndarray) -> dict[str, Any]:
    runs = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(SIZE), "counts": runs["counts"].decode()}


def uncompressed(mask: np.ndarray) -> dict[str, Any]:
    flat = np.concatenate(([0], mask.ravel(order="F"), [2])).astype(int)
    starts = np.flatnonzero(np.diff(flat))
    counts = np.diff(np.concatenate(([0], starts))).tolist()
    return {"size": list(SIZE), "counts": counts}


HOLED = pixels((2, 2, 14, 14)) & ~pixels((5, 5, 9, 9))
BRIDGE = [2, 2, 14, 2, 14, 14, 2, 14, 2, 2, 5, 5, 5, 9, 9, 9, 9, 5, 5, 5]
# The objects of each of six images: a segmentation, its category, and whether it is a crowd.
OBJECTS: list[list[tuple[Any, int, int]]] = [
    [([box(2, 2, 8, 9)], 3, 0), ([box(20, 4, 30, 6)], 7, 0)],
    [([box(1, 1, 4, 4), box(10, 10, 20, 12)], 3, 0)],  # one object of two parts
    [(compressed(HOLED), 3, 0)],
    [(uncompressed(HOLED), 7, 0)],
    [([box(2, 2, 8, 9)], 3, 0), (uncompressed(pixels((6, 2, 16, 9))), 3, 1)],
    [([box(4, 4, 40, 40)], 3, 0)],  # beyond the image
]
MASKS = [
    pixels((2, 2, 8, 9), (20, 4, 30, 6)),
    pixels((1, 1, 4, 4), (10, 10, 20, 12)),
    HOLED,
    HOLED,
    pixels((2, 2, 8, 9)),
    pixels((4, 4, 32, 24)),
]


def write_images(root: Path, *names: str) -> None:
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((*SIZE, 3), 20 + 30 * number, dtype=np.uint8)).save(path)


def content(objects: list[list[tuple[Any, int, int]]], names: list[str]) -> dict[str, Any]:
    return {
        "images": [{"id": 10 + n, "file_name": name, "height": HEIGHT, "width": WIDTH} for n, name in enumerate(names)],
        "annotations": [
            {"id": 100 * n + m, "image_id": 10 + n, "category_id": category, "segmentation": shape, "iscrowd": crowd}
            for n, found in enumerate(objects)
            for m, (shape, category, crowd) in enumerate(found)
        ],
        "categories": CATEGORIES,
    }


NAMES = [f"p{number}.png" for number in range(6)]


def lay_out(root: Path, objects: list[list[tuple[Any, int, int]]] = OBJECTS, **changes: object) -> Path:
    write_images(root, *(f"images/{name}" for name in NAMES[: len(objects)]))
    (root / "coco.json").write_text(json.dumps(content(objects, NAMES[: len(objects)]) | changes))
    return root


def card(root: Path, **keys: object) -> Card:
    return Card.model_validate({"name": "a", "root": str(root), "annotations": "coco.json"} | keys)


def samples(domain: Domain) -> dict[str, Sample]:
    return {sample.key.removeprefix("images/"): sample for split in (domain.train, domain.test) for sample in split}


def refusal(found: Card) -> str:
    with pytest.raises(CosamError) as caught:
        open_domain(found)
    assert check_domain(found).fault_count > 0
    return str(caught.value)


def test_polygons_parts_runs_and_crowds(tmp_path: Path) -> None:
    found = samples(open_domain(card(lay_out(tmp_path))))
    assert sorted(found) == [f"p{number}" for number in range(6)]
    for number, mask in enumerate(MASKS):
        assert (found[f"p{number}"].mask.numpy() == mask).all(), number
    ignored = found["p4"].ignored
    assert ignored is not None
    assert (ignored.numpy() == pixels((8, 2, 16, 9))).all()  # where the crowd is no object
    assert found["p0"].ignored is None
    report = check_domain(card(tmp_path))
    assert (report.fault_count, report.train + report.test, report.samples) == (0, 6, 6)


def test_one_sample_for_each_object_and_labels(tmp_path: Path) -> None:
    lay_out(tmp_path)
    found = samples(open_domain(card(tmp_path, samples="instance")))
    assert sorted(found) == ["p0#1", "p0#2", "p1#1", "p2#1", "p3#1", "p4#1", "p5#1"]
    assert (found["p0#2"].mask.numpy() == pixels((20, 4, 30, 6))).all()
    assert (found["p1#1"].mask.numpy() == MASKS[1]).all()
    parts = samples(open_domain(card(tmp_path, samples="component")))
    assert {"p1#1", "p1#2", "p0#2"} <= set(parts)
    scratches = samples(open_domain(card(tmp_path, labels=["scratch"])))
    assert sorted(scratches) == ["p0", "p3"]
    assert (scratches["p0"].mask.numpy() == pixels((20, 4, 30, 6))).all()
    assert "labels has 'scrach', but the categories of 'coco.json' are 'pit', 'scratch'" in refusal(
        card(tmp_path, labels=["scrach"])
    )


def test_the_digest_follows_the_objects_of_its_images_alone(tmp_path: Path) -> None:
    lay_out(tmp_path)
    digest = open_domain(card(tmp_path)).digest
    other = content(OBJECTS, NAMES)
    other["images"].append({"id": 99, "file_name": "elsewhere.png", "height": 5, "width": 5})
    for row in other["annotations"]:
        row["id"] += 1000
        row["category_id"] += 40
    other["categories"] = [{"id": row["id"] + 40, "name": row["name"]} for row in CATEGORIES]
    (tmp_path / "coco.json").write_text(json.dumps(other))
    assert open_domain(card(tmp_path)).digest == digest
    assert check_domain(card(tmp_path)).faults["no image"] == ["elsewhere.png in coco.json"]
    other["annotations"][0]["segmentation"] = [box(2, 2, 8, 10)]
    (tmp_path / "coco.json").write_text(json.dumps(other))
    assert open_domain(card(tmp_path)).digest != digest


def test_a_polygon_inside_another_asks_what_it_is(tmp_path: Path) -> None:
    nested = [[([box(2, 2, 22, 22), box(4, 4, 20, 20), box(6, 6, 10, 10)], 3, 0)], OBJECTS[0]]
    lay_out(tmp_path, nested)
    assert "object 1 of p0.png in coco.json has a polygon inside another one of it." in refusal(card(tmp_path))
    for holes, mask in (
        ("fill", pixels((2, 2, 22, 22))),
        ("cut", pixels((2, 2, 22, 22)) & ~pixels((4, 4, 20, 20)) | pixels((6, 6, 10, 10))),
    ):
        assert (samples(open_domain(card(tmp_path, holes=holes)))["p0"].mask.numpy() == mask).all()
    bridged = draw_instance(Instance("x", polygons=(tuple(map(float, BRIDGE)),)), size=SIZE, holes=None, where="x")
    assert (bridged == HOLED).all()


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_runs_are_those_that_cocos_tools_write(data: st.DataObject) -> None:
    bits = data.draw(st.lists(st.booleans(), min_size=HEIGHT * WIDTH, max_size=HEIGHT * WIDTH))
    repeats = data.draw(st.integers(1, 40))
    mask = np.resize(np.repeat(bits, repeats), SIZE)
    for runs in (compressed(mask), uncompressed(mask)):
        instance = Instance("x", runs=read_runs(runs["counts"], size=SIZE, where="x"))
        assert (draw_instance(instance, size=SIZE, holes=None, where="x") == mask).all()


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools with NumPy 2
@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.floats(-9, 40), min_size=6, max_size=12), min_size=1, max_size=4))
def test_polygons_are_those_that_cocos_tools_fill(found: list[list[float]]) -> None:
    polygons = [polygon[: len(polygon) // 2 * 2] for polygon in found]
    instance = Instance("x", polygons=tuple(map(tuple, polygons)))
    wanted = coco.decode(coco.merge(coco.frPyObjects(polygons, *SIZE))).astype(bool)
    assert (draw_instance(instance, size=SIZE, holes="fill", where="x") == wanted).all()


@pytest.mark.parametrize("counts", ["0", "", "P", "52", "ooooooooo0", "\u00e9", [1, 2], [-1, 769], [768.0], None, 3])
def test_damaged_runs_are_refused(counts: object) -> None:
    with pytest.raises(CosamError, match="x has damaged runs: they do not fill 32 x 24 pixels"):
        read_runs(counts, size=SIZE, where="x")


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ([], "object 1 of p0.png in coco.json has a box and no segmentation"),
        (None, "has a box and no segmentation"),
        ([[1, 2, 3, 4]], "has a polygon that is not a list of three or more points"),
        ([[1, 2, 3, 4, 5]], "has a polygon that is not a list of three or more points"),
        ([[1, 2, 3, 4, 5, float("nan")]], "has a polygon that is not a list of three or more points"),
        ({"size": [5, 5], "counts": [25]}, "has runs of another size than 32 x 24"),
    ],
)
def test_damaged_objects_are_refused(tmp_path: Path, shape: object, message: str) -> None:
    lay_out(tmp_path, [[(shape, 3, 0)], *OBJECTS[1:]])
    assert message in refusal(card(tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"annotations": 3}, "coco.json is not a file of COCO's instances: it has no annotations"),
        ({"images": [{"id": 1}]}, "one of its images lacks id or file_name"),
        ({"images": [{"id": 1, "file_name": "p0.png"}] * 2}, "it lists the image 'p0.png', or its id, twice"),
        ({"images": []}, "belongs to no image"),
        ({"categories": [3]}, "one of its categories lacks id or name"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    lay_out(tmp_path, **changes)
    assert message in refusal(card(tmp_path))
    assert message in domain_row(card(tmp_path)).fault


def test_missing_files_unlisted_images_and_other_sizes(tmp_path: Path) -> None:
    lay_out(tmp_path)
    assert "no file matches annotations = 'train/*.json'" in refusal(card(tmp_path, annotations="train/*.json"))
    write_images(tmp_path, "images/q.png")
    assert "images/q.png is not listed in coco.json. Complete the data or correct annotations" in refusal(
        card(tmp_path)
    )
    assert len(samples(open_domain(card(tmp_path, unlabelled="skip")))) == 6
    Image.new("RGB", (9, 9)).save(tmp_path / "images/p0.png")
    report = check_domain(card(tmp_path, unlabelled="skip"))
    assert report.faults["size"] == ["p0.png is 9 x 9 pixels upright, but coco.json was drawn on 32 x 24"]


def test_a_file_in_each_part_as_roboflow_writes_them(tmp_path: Path) -> None:
    """Names are relative to their file's folder, and the same name may be in both parts."""
    for part, numbers in (("train", [0, 1]), ("valid", [2, 3])):
        write_images(tmp_path, *(f"{part}/p{number}.png" for number in (0, 1)))
        Image.fromarray(np.full((*SIZE, 3), 200 + numbers[0], dtype=np.uint8)).save(tmp_path / part / "p0.png")
        Image.fromarray(np.full((*SIZE, 3), 210 + numbers[0], dtype=np.uint8)).save(tmp_path / part / "p1.png")
        text = json.dumps(content([OBJECTS[number] for number in numbers], ["p0.png", "p1.png"]))
        (tmp_path / part / "_annotations.coco.json").write_text(text)
    split = {"kind": "folders", "train": "train/*.png", "test": "valid/*.png"}
    domain = open_domain(card(tmp_path, annotations="*/_annotations.coco.json", split=split))
    for split_found, numbers in ((domain.train, [0, 1]), (domain.test, [2, 3])):
        for sample, number in zip(split_found, numbers, strict=True):
            assert (sample.mask.numpy() == MASKS[number]).all()


def test_names_with_folders_of_another_machine(tmp_path: Path) -> None:
    lay_out(tmp_path)
    names = ["images/p0.png", r"C:\work\p1.png", "/home/x/p2.png", "../up/p3.png", "p4.png", "deep/images/p5.png"]
    (tmp_path / "coco.json").write_text(json.dumps(content(OBJECTS, names)))
    found = samples(open_domain(card(tmp_path)))
    assert all((found[f"p{number}"].mask.numpy() == mask).all() for number, mask in enumerate(MASKS))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"masks": "coco.json", "annotations": ()}, 'if it is a COCO file, say annotations = "coco.json" instead'),
        ({"masks": "masks/{stem}.png"}, "so leave out masks"),
        ({"foreground": "nonzero", "ignore": 255}, "so leave out ignore and foreground"),
        ({"holes": "cut", "annotations": ()}, "holes is about polygons of COCO, so it needs annotations"),
        ({"samples": "polygon"}, 'with annotations say "instance"'),
        ({"samples": "instance", "annotations": ()}, 'samples = "instance" needs annotations'),
        ({"split": {"kind": "manifest", "file": "a.csv", "train": 1, "test": 1}}, "cannot be used with annotations"),
    ],
)
def test_keys_that_contradict_annotations(tmp_path: Path, keys: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        card(tmp_path, **keys)
    assert message in str(caught.value)


def test_a_coco_file_in_the_place_of_masks_is_recognised(tmp_path: Path) -> None:
    lay_out(tmp_path)
    path = tmp_path / "card.toml"
    path.write_text('name = "a"\nroot = "."\nmasks = "coco.json"\n')
    with pytest.raises(
        CosamError, match=r"card\.toml, domain a: masks names one file for all images; if it is a COCO file, say"
    ):
        load_card(str(path))
    shared = Card.model_validate({"name": "a", "root": str(tmp_path), "masks": "{folder}/../coco.json"})
    assert "shares its mask coco.json with another image; if that is a COCO file, say annotations" in refusal(shared)
    for number in range(6):
        (tmp_path / f"p{number}.json").write_text((tmp_path / "coco.json").read_text())
    each = Card.model_validate({"name": "a", "root": str(tmp_path), "masks": "{stem}.json"})
    assert "p0.json is a COCO file, not labelme's. Say annotations in the card instead of masks" in refusal(each)


# YOLO


def shares(*polygons: list[int], label: str = "0") -> str:
    def line(polygon: list[int]) -> str:
        scaled = (value / (HEIGHT if place % 2 else WIDTH) for place, value in enumerate(polygon))
        return " ".join([label, *(f"{value:.6f}" for value in scaled)])

    return "".join(line(polygon) + "\n" for polygon in polygons)


def lay_out_yolo(root: Path, *texts: str) -> Path:
    write_images(root, *(f"images/{name}" for name in NAMES[: len(texts)]))
    (root / "labels").mkdir()
    for name, text in zip(NAMES, texts, strict=False):
        (root / "labels" / name).with_suffix(".txt").write_text(text)
    return root


def yolo(root: Path, **keys: object) -> Card:
    return Card.model_validate({"name": "a", "root": str(root), "masks": "labels/{stem}.txt"} | keys)


def test_yolo_segments(tmp_path: Path) -> None:
    both = shares(box(2, 2, 8, 9)) + "\n" + shares(box(20, 4, 30, 6), label="12")
    lay_out_yolo(tmp_path, both, shares(box(0, 0, 32, 24)), shares(BRIDGE), "\ufeff" + shares(box(1, 1, 4, 4)))
    found = samples(open_domain(yolo(tmp_path)))
    wanted = [MASKS[0], pixels((0, 0, 32, 24)), HOLED, pixels((1, 1, 4, 4))]
    assert all((found[f"p{number}"].mask.numpy() == mask).all() for number, mask in enumerate(wanted))
    alone = samples(open_domain(yolo(tmp_path, samples="instance")))
    assert sorted(alone) == ["p0#1", "p0#2", "p1#1", "p2#1", "p3#1"]
    assert (alone["p0#2"].mask.numpy() == pixels((20, 4, 30, 6))).all()
    chosen = samples(open_domain(yolo(tmp_path, labels=["0"], split={"kind": "ratio", "test": 0.5})))
    assert (chosen["p0"].mask.numpy() == pixels((2, 2, 8, 9))).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 0.5 0.5 0.2 0.2\n", "p0.txt is a box, not a polygon"),
        ("0 0.1 0.1 0.9 0.1 0.5\n", "has 5 numbers after its class, which are not three or more points x, y"),
        ("0 10 10 20 10 20 20\n", "has coordinates outside 0 to 1"),
        ("0 nan 0.1 0.9 0.1 0.5 0.9\n", "has coordinates outside 0 to 1"),
        ("hello\n", "is not a class and the points of a polygon"),
        ("pit 0.1 0.1 0.9 0.1 0.5 0.9\n", "is not a class and the points of a polygon"),
    ],
)
def test_damaged_lines_are_refused(tmp_path: Path, text: str, message: str) -> None:
    lay_out_yolo(tmp_path, text, shares(box(1, 1, 9, 9)))
    found = refusal(yolo(tmp_path))
    assert message in found
    assert "line 1 of " in found


def test_labels_that_no_line_has_are_refused(tmp_path: Path) -> None:
    lay_out_yolo(tmp_path, shares(box(2, 2, 8, 9)), shares(box(1, 1, 9, 9), label="12"), "", shares(BRIDGE))
    said = "labels has '2', but its annotation files hold '0', '12'; correct labels"
    assert said in refusal(yolo(tmp_path, labels=["12", "2"]))
    assert said in check_domain(yolo(tmp_path, labels=["12", "2"])).faults["other"]
    both = yolo(tmp_path, labels=["0", "12"], empty="drop")
    assert check_domain(both).fault_count == 0
    assert len(samples(open_domain(both))) == 3


def test_labels_of_test_images_are_not_missed_while_training(tmp_path: Path) -> None:
    lay_out_yolo(tmp_path, shares(box(2, 2, 8, 9)), shares(box(2, 2, 8, 9), label="12"))
    split = {"kind": "folders", "train": "images/p0.*", "test": "images/p1.*"}
    card = yolo(tmp_path, labels=["0", "12"], split=split)
    assert len(open_domain(card, is_training_only=True).train) == 1


def test_the_names_of_yolos_classes_are_no_mask(tmp_path: Path) -> None:
    lay_out_yolo(tmp_path, shares(box(2, 2, 8, 9)), shares(box(1, 1, 9, 9)))
    (tmp_path / "labels/classes.txt").write_text("pit\nscratch\n")
    assert check_domain(yolo(tmp_path)).fault_count == 0
    (tmp_path / "labels/p9.txt").write_text("")
    assert check_domain(yolo(tmp_path)).faults["no image"] == ["labels/p9.txt"]
