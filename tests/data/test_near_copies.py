"""Images that look the same: found whatever they were saved as, and reported by ``data check`` without being faults."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from cosam_bench.cli.main import app
from cosam_bench.data.acquire.check import check_domain, find_near_copies
from cosam_bench.data.cards import Card
from cosam_bench.data.decoding import decode_image
from cosam_bench.data.near_copies import image_print, near_copies

REAL = os.environ.get("COSAM_BENCH_REAL", "")


def scene(seed: int, *, size: tuple[int, int] = (90, 120)) -> Image.Image:
    """A picture of soft spots."""
    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return coarse.resize(size[::-1], Image.Resampling.BICUBIC)


def pixels(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def as_jpeg(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=40)
    return Image.open(file)


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "nothing": lambda image: image,
    "compressed": as_jpeg,
    "smaller": lambda image: image.resize((55, 41)),
    "brighter": lambda image: image.point(lambda level: min(255, int(level * 0.7 + 40))),
    "grey": lambda image: image.convert("L"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_copy_is_found_among_others(change: str) -> None:
    train = {f"t{seed}": image_print(pixels(scene(seed))) for seed in range(300)}
    test = {"copy": image_print(pixels(CHANGES[change](scene(7)))), "other": image_print(pixels(scene(1000)))}
    assert near_copies(train, test) == [("t7", "copy")]
    assert near_copies({}, test) == near_copies(train, {}) == []


def test_more_test_images_than_are_compared_at_once() -> None:
    prints = {f"t{seed}": image_print(pixels(scene(seed))) for seed in range(600)}
    assert near_copies({name: prints[name] for name in ("t3", "t590")}, prints) == [("t3", "t3"), ("t590", "t590")]


def test_the_hash_is_that_of_another_library() -> None:
    imagehash = pytest.importorskip("imagehash")
    for seed in range(20):
        theirs = imagehash.phash(scene(seed)).hash
        ours = np.array([int(bit) for bit in f"{image_print(pixels(scene(seed))).bits:064b}"]).reshape(8, 8) > 0
        assert (theirs != ours).sum() <= 1  # a coefficient that is the median itself


def test_pictures_of_one_grey_are_no_copies() -> None:
    flat = {f"{level}": image_print(torch.full((3, 40, 60), level, dtype=torch.uint8)) for level in (10, 200)}
    assert near_copies(flat, flat) == []


@pytest.mark.skipif(not REAL, reason="COSAM_BENCH_REAL names no folder of real images")
@pytest.mark.parametrize(("domain", "count"), [("kvasir_polyp", 0), ("human_photo", 0), ("camvid_road", 3)])
def test_real_images_of_one_kind_are_not_taken_for_copies(domain: str, count: int) -> None:
    """CamVid's three are frames of a car that stands still."""
    paths = sorted((Path(REAL) / domain / "images").iterdir())
    prints = {path.stem: image_print(decode_image(path.read_bytes(), name=path.name)) for path in paths}
    found = {
        frozenset(pair)
        for name, one in prints.items()
        for pair in near_copies({name: one}, {other: two for other, two in prints.items() if other != name})
    }
    assert len(found) == count


# What `data check` says


def write(root: Path, seeds: dict[str, int], *, suffix: str = "png") -> Path:
    """Images of scenes by name, with a mask each."""
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name, seed in seeds.items():
        scene(seed).save(root / f"images/{name}.{suffix}")
        mask = np.zeros((90, 120), np.uint8)
        mask[10:30, 20:50] = 255
        Image.fromarray(mask).save(root / f"masks/{name}.png")
    return root


def lists(root: Path, train: list[str], test: list[str]) -> dict[str, str]:
    for name, names in (("train.txt", train), ("test.txt", test)):
        (root / name).write_text("\n".join(names))
    return {"kind": "lists", "train": "train.txt", "test": "test.txt"}


def test_a_near_copy_within_a_domain_is_a_note(tmp_path: Path) -> None:
    write(tmp_path, {"a": 1, "b": 2, "c": 3})
    write(tmp_path, {"d": 2, "e": 5}, suffix="jpg")
    split = lists(tmp_path, ["a", "b", "c"], ["d", "e"])
    report = check_domain(Card.model_validate({"name": "g", "root": str(tmp_path), "split": split}))
    assert report.fault_count == 0
    assert report.notes == ["test images that look like one in training: 1 (images/b and images/d)"]


def test_near_copies_between_domains_are_notes_and_exact_ones_faults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"n{seed}" for seed in range(5)]
    write(tmp_path / "one", {name: seed for seed, name in enumerate(names)})
    write(tmp_path / "two", {name: seed + 10 for seed, name in enumerate(names)})
    write(tmp_path / "two", {"copy": 2}, suffix="jpg")
    splits = {
        domain: lists(tmp_path / domain, names[:3], [*names[3:], *(["copy"] if domain == "two" else [])])
        for domain in ("one", "two")
    }
    table = 'kind = "lists", train = "train.txt", test = "test.txt"'
    domains = "".join(f'[[domain]]\nname = "{name}"\nroot = "{name}"\nsplit = {{ {table} }}\n' for name in splits)
    (tmp_path / "s.toml").write_text(f'name = "s"\n{domains}')
    monkeypatch.setenv("COLUMNS", "200")
    checked = CliRunner().invoke(app, ["data", "check", str(tmp_path / "s.toml")])
    assert checked.exit_code == 0, checked.output
    note = "between domains: 1 test images of two look like one that one trains on (images/n2 and images/copy)"
    assert note in checked.stdout
    (tmp_path / "two/images/copy.jpg").unlink()
    (tmp_path / "two/images/copy.png").write_bytes((tmp_path / "one/images/n2.png").read_bytes())
    checked = CliRunner().invoke(app, ["data", "check", str(tmp_path / "s.toml")])
    assert checked.exit_code == 1
    assert "'one' trains on 1 of the images that 'two' is tested on" in checked.stdout
    assert "look like" not in checked.stdout


def test_a_domain_that_is_only_tested_is_compared_with_what_others_train_on(tmp_path: Path) -> None:
    learned = write(tmp_path / "learned", {"a": 1, "b": 2, "c": 3})
    street = write(tmp_path / "street", {"x": 1, "y": 9}, suffix="jpg")
    split = lists(learned, ["a", "b"], ["c"])
    every = {"kind": "ratio", "test": 1.0}
    reports = [
        check_domain(
            Card.model_validate({"name": "learned", "root": str(learned), "split": split}), is_retention=False
        ),
        check_domain(Card.model_validate({"name": "street", "root": str(street), "split": every}), is_retention=True),
    ]
    assert find_near_copies(reports) == [
        "1 test images of street look like one that learned trains on (images/a and images/x)"
    ]
