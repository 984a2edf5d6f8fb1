"""Labelme's files: the pixels of each shape, and what is refused by name."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.imitations import build

from cosam_bench.core.errors import CosamError
from cosam_bench.data.cards import Card
from cosam_bench.data.image_files import components
from cosam_bench.data.labelme import POINTS, SHAPES, Shape, draw_shapes, read_shapes
from cosam_bench.data.opening import open_domain
from cosam_bench.data.streams import load_card

SIZE = (20, 30)
TRIANGLE = [[1.0, 1.0], [9.5, 2.0], [4.0, 12.25]]


def file_of(*shapes: object, **keys: object) -> bytes:
    return json.dumps({"shapes": shapes, "imageHeight": SIZE[0], "imageWidth": SIZE[1]} | keys).encode()


def polygon(points: object = TRIANGLE, **keys: object) -> dict[str, object]:
    return {"label": "x", "points": points, "shape_type": "polygon"} | keys


def drawn(kind: str, *points: tuple[float, float], size: tuple[int, int] = SIZE) -> set[tuple[int, int]]:
    """The x, y of the pixels of one shape."""
    mask = draw_shapes([Shape(kind, points)], size=size)
    assert mask.shape == size
    assert mask.dtype == torch.bool
    return {(x, y) for y, x in mask.nonzero().tolist()}


def block(columns: range, rows: range) -> set[tuple[int, int]]:
    return {(x, y) for x in columns for y in rows}


def test_pixels_worked_by_hand() -> None:
    square = drawn("polygon", (2, 3), (6, 3), (6, 8), (2, 8))
    assert square == block(range(2, 7), range(3, 9))  # the outline belongs to it
    assert drawn("rectangle", (6, 8), (2, 3)) == square
    assert drawn("circle", (10, 10), (13, 14)) == drawn("circle", (10, 10), (10, 5))
    round_one = drawn("circle", (10, 10), (10, 5))
    assert {(10, 5), (15, 10), (10, 15), (5, 10), (13, 13)} <= round_one
    assert (14, 14) not in round_one
    assert abs(len(round_one) - math.pi * 5.5**2) < 8


def test_what_lies_outside_the_image_is_cut_off() -> None:
    assert drawn("polygon", (-1000, -50), (3, -50), (3, 4), (-1000, 4)) == block(range(4), range(5))
    assert drawn("polygon", (25, 15), (9e4, 15), (9e4, 9e4), (25, 9e4)) == block(range(25, 30), range(15, 20))
    assert drawn("polygon", (100, 100), (110, 100), (110, 110)) == set()


def is_inside(x: float, y: float, outline: list[tuple[float, float]]) -> bool:
    """Even-odd rule for a point, side by side."""
    inside = False
    for (x0, y0), (x1, y1) in zip(outline, outline[1:] + outline[:1], strict=True):
        if (y0 > y) != (y1 > y) and x < x0 + (y - y0) / (y1 - y0) * (x1 - x0):
            inside = not inside
    return inside


def distance(x: float, y: float, outline: list[tuple[float, float]]) -> float:
    """Of a point to the nearest side."""
    sides = []
    for (x0, y0), (x1, y1) in zip(outline, outline[1:] + outline[:1], strict=True):
        length = (x1 - x0) ** 2 + (y1 - y0) ** 2
        along = min(max(((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / length, 0), 1) if length else 0
        sides.append(math.hypot(x - x0 - along * (x1 - x0), y - y0 - along * (y1 - y0)))
    return min(sides)


@given(st.lists(st.tuples(st.floats(-5, 35), st.floats(-5, 25)), min_size=3, max_size=6))
def test_polygons_against_the_even_odd_rule(outline: list[tuple[float, float]]) -> None:
    pixels = drawn("polygon", *outline)
    for x, y in block(range(SIZE[1]), range(SIZE[0])):
        if distance(x, y, outline) > 2.5:  # PIL cuts corners down to whole pixels, and draws the outline too
            assert ((x, y) in pixels) == is_inside(x, y, outline)


def test_shapes_are_read_in_order_whatever_their_labels() -> None:
    old = {"label": "b", "points": TRIANGLE}  # labelme 3 has no type
    box = {"label": "c", "points": [[1, 2], [3, 4]], "shape_type": "rectangle"}
    shapes = read_shapes(file_of(polygon(), old, box), name="a.json", size=SIZE)
    assert [shape.kind for shape in shapes] == ["polygon", "polygon", "rectangle"]
    assert shapes[2].points == ((1.0, 2.0), (3.0, 4.0))
    assert read_shapes(json.dumps({"shapes": []}).encode(), name="a.json", size=SIZE) == []


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\xff\xfe\x00", "is not a labelme file"),
        (b"{", "is not a labelme file"),
        (b"[" * 100_000, "is not a labelme file"),
        (b"9" * 5000, "is not a labelme file"),
        (b"[]", "it does not hold a table"),
        (b"{}", "has no list of shapes"),
        (b'{"shapes": {}}', "has no list of shapes"),
        (file_of(polygon(), imageHeight=21), "was drawn on an image of 30 x 21 pixels, but its image has 30 x 20"),
        (file_of(polygon(), imageHeight="x" * 10_000), r"on an image of 30 x 'x+\.\.\.x+' pixels"),
        (file_of(polygon(), imageHeight=None), "on an image of 30 x None"),
        (file_of("shape"), "shape 1 of a.json is of the kind None"),
        (
            file_of(polygon(), polygon(shape_type="linestrip")),
            "shape 2 of a.json is of the kind 'linestrip'; known",
        ),
        (file_of(polygon(shape_type=["polygon"])), "is of the kind"),
        (file_of(polygon("here")), "has no list of points"),
        (file_of(polygon([[1, 2], [3, 4], [5]])), "has no list of points"),
        (file_of(polygon([[1, 2], [3, 4], [5, "6"]])), "has no list of points"),
        (file_of(polygon([[1, 2], [3, 4], [5, True]])), "has no list of points"),
        (file_of(polygon([[1, 2], [3, 4], [5, float("nan")]])), "has no list of points"),
        (file_of(polygon([[1, 2], [3, 4], [5, float("-inf")]])), "has no list of points"),
        (file_of(polygon([[1, 2], [3, 4], [5, 10**400]])), "has no list of points"),
        (file_of(polygon([[0, 0]] * (POINTS + 1))), "has no list of points"),
        (file_of(polygon(TRIANGLE[:2])), "is a polygon with 2 points"),
        (file_of(polygon(shape_type="circle")), "is a circle with 3 points"),
        (file_of(*[polygon()] * (SHAPES + 1)), "holds 2001 shapes"),
    ],
)
def test_what_is_no_labelme_file_is_refused(data: bytes, said: str) -> None:
    with pytest.raises(CosamError, match=said) as error:
        read_shapes(data, name="a.json", size=SIZE)
    assert len(str(error.value)) < 300


def test_a_file_of_enormous_size_is_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cosam_bench.data.labelme.SIZE_BYTES", 50)
    with pytest.raises(CosamError, match="of more than 50 are not read"):
        read_shapes(file_of(polygon()), name="a.json", size=SIZE)


def overlapping(folder: Path) -> Path:
    """One BSData image with two squares that overlap, and a sliver of nothing far outside."""
    root = build("bsdata@cosam", folder) / "BSData-main"
    for path in sorted((root / "label").iterdir())[1:]:
        path.unlink()
    (label,) = (root / "label").iterdir()
    content = json.loads(label.read_text())
    squares = [[[10, 10], [30, 10], [30, 30], [10, 30]], [[25, 25], [45, 25], [45, 45], [25, 45]], [[-9, -9]] * 3]
    label.write_text(json.dumps(content | {"shapes": [polygon(square) for square in squares]}))
    return root


def bsdata(root: Path, **keys: object) -> Card:
    card = load_card("bsdata@cosam").with_layout("source", root=root)
    return card.model_copy(update={"split": card.split.model_copy(update={"test": 1.0})} | keys)


def test_one_sample_a_polygon_though_they_overlap(tmp_path: Path) -> None:
    root = overlapping(tmp_path)
    test = open_domain(bsdata(root), is_retention=True).test
    assert [key.rpartition("#")[2] for key in test.keys] == ["1", "2"]
    assert [int(sample.mask.sum()) for sample in test] == [21 * 21, 21 * 21]
    assert test.manifest.left_out == 1
    assert (test[0].mask & test[1].mask).sum() == 36
    assert {entry.mask_name for entry in test.manifest.entries} == {f"{Path(test[0].key).name.partition('#')[0]}.json"}
    for samples in ("union", "component"):
        (both,) = open_domain(bsdata(root, samples=samples), is_retention=True).test
        assert torch.equal(both.mask, test[0].mask | test[1].mask)
        assert int(components(both.mask).max()) == 1


def test_components_of_labelme_shapes_apart(tmp_path: Path) -> None:
    root = build("bsdata@cosam", tmp_path) / "BSData-main"
    by_part = open_domain(bsdata(root, samples="component"), is_retention=True).test
    by_shape = open_domain(bsdata(root), is_retention=True).test
    assert by_part.keys == by_shape.keys
    # Components are numbered by their first pixel, shapes by their place in the file.
    assert sorted(int(s.mask.sum()) for s in by_part) == sorted(int(s.mask.sum()) for s in by_shape)


def test_images_without_a_labelme_file_are_no_part_of_bsdata(tmp_path: Path) -> None:
    root = build("bsdata@cosam", tmp_path) / "BSData-main"
    assert len(list((root / "data").iterdir())) == 12
    assert len(open_domain(bsdata(root, samples="union"), is_retention=True).test) == 10
    with pytest.raises(CosamError, match=r"crop_1\.jpg has no mask label/.*crop_1\.json"):
        open_domain(bsdata(root, unlabelled="refuse"), is_retention=True)
    for path in (root / "label").iterdir():
        path.unlink()
    with pytest.raises(CosamError, match=r"has no mask label/.*and 7 more"):
        open_domain(bsdata(root), is_retention=True)


def test_polygons_need_labelme_files(tmp_path: Path) -> None:
    root = build("camo@cosam", tmp_path) / "CAMO-COCO-V.1.0-CVIU2019/Camouflage"
    card = load_card("camo@cosam").with_layout("source", root=root).model_copy(update={"samples": "polygon"})
    with pytest.raises(CosamError, match=r"00001\.png is an image; samples = \"polygon\" needs labelme files"):
        open_domain(card)


def test_a_labelme_file_of_another_image_is_refused_by_name(tmp_path: Path) -> None:
    root = build("bsdata@cosam", tmp_path) / "BSData-main"
    path = sorted((root / "label").iterdir())[3]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"imageWidth": 95}))
    with pytest.raises(CosamError, match=rf"{path.name} was drawn on an image of 95 x 80 pixels, .* has 96 x 80"):
        open_domain(bsdata(root), is_retention=True)


def test_the_union_is_what_numpy_says(tmp_path: Path) -> None:
    root = build("bsdata@cosam", tmp_path) / "BSData-main"
    union = open_domain(bsdata(root, samples="union"), is_retention=True).test
    polygons = open_domain(bsdata(root), is_retention=True).test
    for whole in union:
        parts = [sample.mask.numpy() for sample in polygons if sample.key.partition("#")[0] == whole.key]
        assert (np.logical_or.reduce(parts) == whole.mask.numpy()).all()
        bright = whole.image.to(torch.float32).mean(dim=0)
        assert bright[whole.mask].mean() > bright[~whole.mask].mean() + 60


def test_labels_that_no_shape_has_are_refused(tmp_path: Path) -> None:
    root = overlapping(tmp_path)
    with pytest.raises(CosamError, match=r"labels has 'pitt', but its annotation files hold '.*'; correct labels"):
        open_domain(bsdata(root, labels=["pitt"]))
