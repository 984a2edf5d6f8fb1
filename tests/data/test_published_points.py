"""Published point prompts: what the file says reaches the model, and a file that is not right is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cosam_bench.core.errors import CosamError
from cosam_bench.data import published_points as module
from cosam_bench.data.acquire.check import check_domain
from cosam_bench.data.cards import Card
from cosam_bench.data.prompts import frozen_prompts
from cosam_bench.data.published_points import (
    PublishedPoints,
    published_points,
    published_prompts,
    read_published,
)
from cosam_bench.data.samples import Entry, Manifest, Pixels, Split, empty_split
from cosam_bench.sam.frame_prompts import prompts_in_frame
from cosam_bench.sam.frames import fit_frame

POINTS = {"a.jpg": [[100, 200], [0, 0], [1023, 1023]], "b.jpg": [[512, 256], [512, 256], [3, 1000]]}


def entry(*points: list[float]) -> list[Any]:
    return [list(points), [1] * len(points)]


def file_of(folder: Path, table: object = None) -> Path:
    path = folder / "points.json"
    path.write_text(json.dumps({name: entry(*points) for name, points in POINTS.items()} if table is None else table))
    return path


def split_of(points_file: Path | None, *, names: tuple[str, ...] = ("b.jpg", "a.jpg"), changed: str = "") -> Split:
    """Masks of 30 x 40 pixels; ``names`` are those of their files."""
    masks = [torch.zeros(30, 40, dtype=torch.bool) for _ in names]
    for row, mask in enumerate(masks):
        mask[5 : 20 + row, 8:30] = True
    images = tuple(torch.zeros(3, 30, 40, dtype=torch.uint8) for _ in names)
    entries = tuple(Entry(f"{n}", f"image {n}", f"mask {n}{changed}", mask_name=name) for n, name in enumerate(names))
    source = Pixels(images, tuple(masks))
    return Split("polyp", part="train", manifest=Manifest(entries), source=source, points_file=points_file)


@given(st.integers(1, 5000), st.integers(1, 5000), st.lists(st.integers(0, 1023), min_size=6, max_size=6))
def test_a_squashed_image_is_prompted_with_the_files_own_numbers(height: int, width: int, numbers: list[int]) -> None:
    points = [numbers[:2], numbers[2:4], numbers[4:]]
    published = PublishedPoints(Path("points.json"), "", {"a": entry(*points)})
    found = published_points(published, ["a"], [(height, width)], count=3)
    prompts = frozen_like(found)
    frame = fit_frame((height, width), size=1024, resize="squash")
    placed = prompts_in_frame(prompts, rows=[0], frames=[frame], kinds=["points"], grid=256)
    assert torch.allclose(placed.points[0], torch.tensor(points).float(), rtol=1e-6, atol=1e-4)


def frozen_like(points: torch.Tensor) -> Any:
    from cosam_bench.data.prompts import Prompts

    return Prompts(torch.zeros(1, 4), points, torch.zeros(1, 256, 256) > 0, digest="")


def test_the_split_gets_its_masks_points_and_its_own_boxes(tmp_path: Path) -> None:
    split = split_of(file_of(tmp_path))
    prompts = published_prompts(split, points=3, seed=0, folder=tmp_path / "prompts")
    # 512 of 1024 columns is column 20 of 40; 256 of 1024 rows is row 7.5 of 30.
    assert prompts.points[0].tolist() == [[20, 7.5], [20, 7.5], [3 / 1024 * 40, pytest.approx(1000 / 1024 * 30)]]
    assert prompts.points[1, 0].tolist() == [pytest.approx(100 / 1024 * 40), pytest.approx(200 / 1024 * 30)]
    drawn = frozen_prompts(split, points=3, seed=0, folder=tmp_path / "prompts")
    assert torch.equal(prompts.boxes, drawn.boxes)
    assert torch.equal(prompts.masks, drawn.masks)
    assert prompts.digest != drawn.digest


def test_they_are_frozen_and_other_files_data_and_seeds_have_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, folder = file_of(tmp_path), tmp_path / "prompts"
    first = published_prompts(split_of(path), points=3, seed=0, folder=folder)
    with monkeypatch.context() as patched:
        patched.setattr(module, "published_points", None)
        again = published_prompts(split_of(path), points=3, seed=0, folder=folder)
    assert again.digest == first.digest
    assert torch.equal(again.points, first.points)
    digests = {first.digest}
    digests.add(published_prompts(split_of(path), points=3, seed=1, folder=folder).digest)
    file_of(tmp_path, {"a.jpg": entry(*POINTS["a.jpg"]), "b.jpg": entry([1, 2], [3, 4], [5, 6])})
    digests.add(published_prompts(split_of(path), points=3, seed=0, folder=folder).digest)
    assert len(digests) == 3
    published_prompts(split_of(path, changed="!"), points=3, seed=0, folder=folder)
    assert len(list(folder.glob("*-published3-*"))) == 4


def test_a_damaged_frozen_file_is_refused(tmp_path: Path) -> None:
    split = split_of(file_of(tmp_path))
    published_prompts(split, points=3, seed=0, folder=tmp_path)
    (frozen,) = tmp_path.glob("polyp-train-seed0-published3-*")
    frozen.write_bytes(frozen.read_bytes()[:-1] + b"?")
    with pytest.raises(CosamError, match=r"The prompt file .* Delete it"):
        published_prompts(split, points=3, seed=0, folder=tmp_path)


def test_a_domain_without_a_file_is_refused_unless_it_has_no_samples(tmp_path: Path) -> None:
    with pytest.raises(CosamError, match=r"the data of 'polyp' on this machine has none.*prompts\.published = false"):
        published_prompts(split_of(None), points=3, seed=0, folder=tmp_path)
    assert len(published_prompts(empty_split("polyp", part="train"), points=3, seed=0, folder=tmp_path)) == 0


def test_several_samples_in_one_mask_file_are_refused(tmp_path: Path) -> None:
    split = split_of(file_of(tmp_path), names=("a.jpg", "a.jpg", "b.jpg"))
    with pytest.raises(CosamError, match="the 3 samples of 'polyp' share 2 of"):
        published_prompts(split, points=3, seed=0, folder=tmp_path)


def test_entries_are_found_by_name_then_by_the_stem_of_mask_or_image(tmp_path: Path) -> None:
    table = {name: entry([1, 2], [3, 4], [5, 6]) for name in ("a.jpg", "a.png", "b.jpg", "c.jpg", "c.bmp")}
    published = read_published(file_of(tmp_path, table))
    assert published.key_of("a.png") == "a.png"
    assert published.key_of("b.png") == "b.jpg"
    assert published.key_of("b_Segmentation.png", image="b.tif") == "b.jpg"
    assert published.key_of("c.png", image="c.tif") is None, "two are called so"
    assert published.key_of("d.png") is None
    assert published.key_of("") is None


def test_points_of_masks_with_another_suffix_are_the_same(tmp_path: Path) -> None:
    path = file_of(tmp_path)
    asked = {"points": 3, "seed": 0, "folder": tmp_path}
    exact = published_prompts(split_of(path), **asked)  # type: ignore[arg-type]
    other = published_prompts(split_of(path, names=("b.png", "a.png"), changed="!"), **asked)  # type: ignore[arg-type]
    assert torch.equal(exact.points, other.points)
    with pytest.raises(CosamError, match="the 2 samples of 'polyp' share 1 of"):
        published_prompts(split_of(path, names=("a.png", "a.jpg")), **asked)  # type: ignore[arg-type]


def test_masks_without_points_are_named_and_others_in_the_file_do_not_matter(tmp_path: Path) -> None:
    path = file_of(tmp_path)
    assert len(published_prompts(split_of(path, names=("a.jpg",)), points=3, seed=0, folder=tmp_path)) == 1
    names = ("a.jpg", "c.jpg", "d.jpg", "e.jpg", "f.jpg")
    with pytest.raises(CosamError, match=r"no points for 4 of 5 masks: 'c\.jpg', 'd\.jpg', 'e\.jpg' \.\.\.\."):
        published_prompts(split_of(path, names=names), points=3, seed=0, folder=tmp_path)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (entry([1, 2], [3, 4]), r"has 2 points for 'a\.jpg', but prompts\.points is 3\. Set prompts\.points = 2"),
        (entry([1, 2], [3, 4], [1024, 0]), "numbers from 0 to below 1024"),
        (entry([1, 2], [3, 4], [5, -1]), "numbers from 0 to below 1024"),
        (entry([1, 2], [3, 4], [5, 1e400]), "cannot be read"),
        (entry([1, 2], [3, 4], [5, "6"]), "numbers from 0"),  # type: ignore[list-item]
        (entry([1, 2], [3, 4], [True, False]), "numbers from 0"),
        (entry([1, 2], [3, 4], [5]), "numbers from 0"),
        (entry([1, 2], [3, 4], [5, 10**400]), "numbers from 0"),
        ([[[1, 2], [3, 4], [5, 6]], [1, 1, 0]], "does not mark each point with 1"),
        ([[[1, 2], [3, 4], [5, 6]], [1, 1]], "does not mark each point with 1"),
        ([[[1, 2], [3, 4], [5, 6]], [True, True, True]], "does not mark each point with 1"),
        ([[[1, 2], [3, 4], [5, 6]]], r"is not \[\[\[x, y\]"),
        ({"points": []}, r"is not \[\[\[x, y\]"),
        (None, r"is not \[\[\[x, y\]"),
        ("points", r"is not \[\[\[x, y\]"),
    ],
)
def test_a_wrong_entry_is_refused(tmp_path: Path, wrong: object, message: str) -> None:
    path = file_of(tmp_path, {"a.jpg": wrong})
    with pytest.raises(CosamError, match=message):
        published_prompts(split_of(path, names=("a.jpg",)), points=3, seed=0, folder=tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read"),
        (b"{", "cannot be read"),
        (b"[]", "are not an object"),
        (b"3", "are not an object"),
        (b"\xff\xfe\xff", "cannot be read"),
        (b'{"a": NaN}', "NaN is not a number of JSON"),
        (b'{"a": 1, "b": 0, "a": 2}', "it has 'a' twice"),
        (b'{"%s": 1, "%s": 2}' % (b"a" * 9999, b"a" * 9999), r"it has .*\.\.\..* twice"),
        (b"[" * 200_000, "cannot be read"),
        (b'{"a": ' + b"9" * 5000 + b"}", "cannot be read"),
    ],
)
def test_what_is_no_file_of_points_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "points.json"
    path.write_bytes(content)
    with pytest.raises(CosamError, match=message) as caught:
        read_published(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 500 + len(str(path))


def test_a_file_that_is_missing_too_large_or_no_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "none.json", tmp_path, tmp_path / "pipe"):
        with pytest.raises(CosamError, match="There is no file of published points"):
            read_published(path)
    monkeypatch.setattr(module, "LARGEST_BYTES", 20)
    with pytest.raises(CosamError, match="larger than"):
        read_published(file_of(tmp_path))


def test_a_missing_file_of_ones_own_data_is_noted_by_a_check(tmp_path: Path) -> None:
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
        for number in range(3):
            Image.new("L", (8, 6), 255 if name == "masks" else number).save(tmp_path / name / f"{number}.png")
    card = Card.model_validate({"name": "a", "root": str(tmp_path), "points": "{part}-points.json"})
    said = "there is no file {part}-points.json, which prompts.published = true needs"
    assert check_domain(card).notes == [said]
    (tmp_path / "train-points.json").write_text("{}")
    assert said in check_domain(card).notes
    (tmp_path / "test-points.json").write_text("{}")
    assert said not in check_domain(card).notes
