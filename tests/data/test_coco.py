from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.path import Path as Outline
from PIL import Image
from support.imitations import build, coco_name

from cosam_bench.core.errors import CosamError
from cosam_bench.core.files import CannotWrite
from cosam_bench.data.acquire.coco_annotations import LargestInstance, fill_polygons, read_largest_instances
from cosam_bench.data.acquire.coco_selection import LEAST_SHARE, rank, write_selection
from cosam_bench.data.cards import Layout

NAMES = [f"{coco_name(number)}.jpg" for number in range(10)]  # of the imitation's images with polygons


def layout(*, select: int, by: str = "hash") -> Layout:
    keys = {"images": "val2017/*.jpg", "annotations": "annotations/instances_val2017.json"}
    return Layout.model_validate({**keys, "select": select, "select_by": by})


def written(folder: Path) -> list[str]:
    names = sorted(path.name for path in (folder / "images").iterdir())
    assert [f"{Path(name).stem}.png" for name in names] == sorted(path.name for path in (folder / "masks").iterdir())
    return names


def changed(folder: Path, change: Any) -> Path:
    """The imitation with its annotations changed."""
    build("coco200@cosam", folder)
    path = folder / "annotations/instances_val2017.json"
    content = json.loads(path.read_text())
    new = change(content)
    path.write_text(json.dumps(content if new is None else new))
    return folder


def test_by_hash_takes_the_images_that_lead_the_ranking(tmp_path: Path) -> None:
    root = build("coco200@cosam", tmp_path / "coco")
    passed = write_selection(layout(select=4), root=root, into=tmp_path / "out")
    lowest = sorted(NAMES, key=lambda name: hashlib.sha256(name.encode()).hexdigest())[:4]
    assert written(tmp_path / "out") == sorted(lowest)
    assert passed == []
    write_selection(layout(select=7), root=root, into=tmp_path / "more")
    assert set(lowest) < set(written(tmp_path / "more"))


def test_by_name_takes_the_first_names_however_small_their_instances(tmp_path: Path) -> None:
    def shrink(content: dict[str, Any]) -> None:
        for annotation in content["annotations"]:
            annotation["area"] = 1.0

    root = changed(tmp_path / "coco", shrink)
    write_selection(layout(select=4, by="name"), root=root, into=tmp_path / "out")
    assert written(tmp_path / "out") == sorted(NAMES)[:4]
    with pytest.raises(CosamError, match=r"leads to 0 images with something to segment, but 4 are wanted"):
        write_selection(layout(select=4), root=root, into=tmp_path / "other")


def test_images_are_the_same_files_and_masks_are_0_and_255(tmp_path: Path) -> None:
    root = build("coco200@cosam", tmp_path / "coco")
    write_selection(layout(select=10), root=root, into=tmp_path / "out")
    for name in NAMES:
        assert (tmp_path / "out/images" / name).samefile(root / "val2017" / name)
        mask = np.asarray(Image.open(tmp_path / f"out/masks/{Path(name).stem}.png"))
        assert set(np.unique(mask)) == {0, 255}
        assert mask.shape == np.asarray(Image.open(root / "val2017" / name)).shape[:2]


def test_the_largest_instance_is_taken_without_crowds_and_small_instances(tmp_path: Path) -> None:
    square = [10.0, 10, 20, 10, 20, 20, 10, 20]
    sizes = {"id": 1, "file_name": "a.jpg", "width": 100, "height": 80}
    shared = {"image_id": 1, "category_id": 1, "iscrowd": 0}
    path = tmp_path / "a.json"

    def instances(*annotations: dict[str, Any]) -> list[LargestInstance]:
        path.write_text(json.dumps({"images": [sizes], "annotations": [shared | one for one in annotations]}))
        return read_largest_instances(path)

    large = {"id": 2, "area": 100, "segmentation": [square, square[::-1]]}
    crowd = {"id": 3, "area": 4000, "iscrowd": 1, "segmentation": [square]}
    counted = {"id": 4, "area": 5000, "segmentation": {"counts": [1], "size": [80, 100]}}
    (instance,) = instances({"id": 1, "area": 99, "segmentation": [[0, 0, 9, 0, 9, 11]]}, large, crowd, counted)
    assert instance == LargestInstance("a.jpg", (80, 100), 100.0, (tuple(square), tuple(map(float, square[::-1]))))
    assert instances(crowd, counted) == []
    least = LEAST_SHARE * 100 * 80
    assert len(rank(instances(large | {"area": least}), by="hash")) == 1
    assert rank(instances(large | {"area": least - 0.01}), by="hash") == []
    assert len(rank(instances(large | {"area": least - 0.01}), by="name")) == 1


def test_a_drawn_polygon_holds_the_pixels_whose_centres_lie_in_it() -> None:
    generator = np.random.default_rng(0)
    for _ in range(40):
        angles = np.sort(generator.uniform(0, 2 * np.pi, 9))
        radii = generator.uniform(8, 30, 9)
        outline = np.stack([50 + radii * np.cos(angles), 40 + radii * np.sin(angles)], axis=1)
        drawn = fill_polygons([tuple(outline.flatten())], size=(80, 100))
        rows, columns = np.mgrid[0:80, 0:100]
        centres = np.stack([columns + 0.5, rows + 0.5], axis=-1).reshape(-1, 2)
        path = Outline(np.vstack([outline, outline[:1]]), closed=True)
        assert (drawn == 255 * path.contains_points(centres).reshape(80, 100)).all()


def test_rectangles_fill_what_they_cover() -> None:
    square = fill_polygons([(10, 10, 20, 10, 20, 15, 10, 15)], size=(30, 40))
    assert square.sum() == 50 * 255
    assert (square[10:15, 10:20] == 255).all()
    assert fill_polygons([(10.4, 10.4, 11.4, 10.4, 11.4, 11.4, 10.4, 11.4)], size=(30, 40)).sum() == 255
    assert fill_polygons([(10.6, 10.6, 11.4, 10.6, 11.4, 11.4, 10.6, 11.4)], size=(30, 40)).sum() == 0


def test_what_lies_outside_the_image_is_cut_off() -> None:
    assert (fill_polygons([(-9, -9, 99, -9, 99, 99, -9, 99)], size=(30, 40)) == 255).all()
    right = fill_polygons([(39, 0, 99, 0, 99, 30, 39, 30)], size=(30, 40))
    assert (right[:, 39] == 255).all()
    assert right.sum() == 30 * 255


def test_several_polygons_are_one_mask() -> None:
    one, other = (0, 0, 4, 0, 4, 4, 0, 4), (10, 10, 14, 10, 14, 14, 10, 14)
    both = fill_polygons([one, other], size=(20, 20))
    parts = [fill_polygons([part], size=(20, 20)) for part in (one, other)]
    assert (both == np.maximum(*parts)).all()


def test_a_missing_image_is_named_not_replaced(tmp_path: Path) -> None:
    root = build("coco200@cosam", tmp_path / "coco")
    for name in NAMES[:8]:
        (root / "val2017" / name).unlink()
    with pytest.raises(CosamError, match=r"8 of the images to select are missing: .* and 3 more\. Unpack"):
        write_selection(layout(select=10), root=root, into=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_image_that_is_not_as_annotated_is_passed_over_and_told(tmp_path: Path) -> None:
    root = build("coco200@cosam", tmp_path / "coco")
    first = sorted(NAMES)[0]
    with Image.open(root / "val2017" / first) as image:
        turned = image.transpose(Image.Transpose.ROTATE_90)
    turned.save(root / "val2017" / first)
    passed = write_selection(layout(select=3, by="name"), root=root, into=tmp_path / "out")
    assert written(tmp_path / "out") == sorted(NAMES)[1:4]
    assert passed == [f"{first} is {turned.width} x {turned.height} pixels upright, not as annotated"]


def test_an_instance_without_a_pixel_is_passed_over(tmp_path: Path) -> None:
    def empty(content: dict[str, Any]) -> None:
        content["annotations"][0] |= {"segmentation": [[-9, -9, -5, -9, -5, -5]], "area": 7000.0}

    root = changed(tmp_path / "coco", empty)
    passed = write_selection(layout(select=3, by="name"), root=root, into=tmp_path / "out")
    assert passed == [f"{NAMES[0]}: its largest instance covers no pixel"]
    assert len(written(tmp_path / "out")) == 3


def test_a_second_selection_replaces_the_first(tmp_path: Path) -> None:
    root = build("coco200@cosam", tmp_path / "coco")
    write_selection(layout(select=7), root=root, into=tmp_path / "out")
    write_selection(layout(select=2), root=root, into=tmp_path / "out")
    assert len(written(tmp_path / "out")) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["coco", "out"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    root = build("coco200@cosam", tmp_path / "coco")
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotWrite, match="out cannot be written"):
        write_selection(layout(select=2), root=root, into=tmp_path / "file/out")


def first_image(key: str, value: Any) -> Any:
    return lambda content: content["images"][0].update({key: value})


def first_annotation(key: str, value: Any) -> Any:
    return lambda content: content["annotations"][0].update({key: value})


HOSTILE = {
    "a list": lambda content: [content],
    "no images": lambda content: {"annotations": []},
    "images is a number": lambda content: content.update(images=3),
    "an image is a text": lambda content: content["images"].append("x"),
    "no id": lambda content: content["images"].append({"file_name": "x.jpg"}),
    "true for an id": first_image("id", True),
    "a path": first_image("file_name", "../../etc/passwd"),
    "a Windows path": first_image("file_name", "..\\x.jpg"),
    "an empty name": first_image("file_name", ""),
    "no size": first_image("width", None),
    "a size of nothing": first_image("height", 0),
    "a huge size": first_image("height", 10**9),
    "a text for an area": first_annotation("area", "9"),
    "no number for an area": first_annotation("area", float("nan")),
    "an image that is not there": first_annotation("image_id", 123456789),
    "half a point": first_annotation("segmentation", [[1, 2, 3, 4, 5, 6, 7]]),
    "two points": first_annotation("segmentation", [[1, 2, 3, 4]]),
    "texts for places": first_annotation("segmentation", [["1"] * 6]),
    "no numbers for places": first_annotation("segmentation", [[float("nan")] * 6]),
    "places far off": first_annotation("segmentation", [[1e300] * 6]),
    "a number for a polygon": first_annotation("segmentation", [7]),
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_file_that_is_no_file_of_instances_gets_one_clear_error(tmp_path: Path, change: Any) -> None:
    def enlarge(content: dict[str, Any]) -> Any:
        content["annotations"][0]["area"] = 1e6  # so that it is the largest of its image
        return change(content)

    root = changed(tmp_path / "coco", enlarge)
    with pytest.raises(CosamError, match=r"instances_val2017\.json is not a file of COCO's instances: .*again\.$"):
        write_selection(layout(select=2), root=root, into=tmp_path / "out")


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "\xff", "null"])
def test_what_is_no_json_gets_one_clear_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(CosamError, match=r"a\.json is not a file of COCO's instances"):
        read_largest_instances(tmp_path / "a.json")


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cosam_bench.data.coco_files.MOST_BYTES", 3)
    (tmp_path / "a.json").write_text("null")
    with pytest.raises(CosamError, match="more than 3 bytes"):
        read_largest_instances(tmp_path / "a.json")
    with pytest.raises(CosamError, match=r"b\.json cannot be read"):
        read_largest_instances(tmp_path / "b.json")


def test_what_is_no_selection_is_not_replaced(tmp_path: Path) -> None:
    root = build("coco200@cosam", tmp_path / "out")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(
        CosamError, match=r"out, but that folder holds something else: annotations\. Nothing was changed"
    ):
        write_selection(layout(select=2), root=root, into=tmp_path / "out")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_selection_that_cannot_be_replaced_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = build("coco200@cosam", tmp_path / "coco")
    write_selection(layout(select=3), root=root, into=tmp_path / "out")
    rename = Path.rename

    def breaks(self: Path, target: Path) -> Path:
        if self.name.endswith(".selecting"):
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", breaks)
    with pytest.raises(CannotWrite, match="out cannot be written: Input/output error"):
        write_selection(layout(select=2), root=root, into=tmp_path / "out")
    assert len(written(tmp_path / "out")) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["coco", "out"]
