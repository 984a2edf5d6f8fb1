"""Which pixels ``data init`` takes for foreground, and where it asks instead."""

from __future__ import annotations

import io
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.guessed_folders import (
    COUNT,
    SIZE,
    guessed,
    index_of,
    opened,
    pairs,
    said_of,
    save_image,
    truth,
)

from cosam_bench.core.errors import CosamError
from cosam_bench.data.acquire.check import check_domain
from cosam_bench.data.cards import Card
from cosam_bench.data.foreground import Foreground
from cosam_bench.data.guessing.toml_text import toml_line
from cosam_bench.data.opening import open_domain
from cosam_bench.data.streams import load_stream


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


def test_of_coloured_jpegs_a_channel_is_offered(tmp_path: Path) -> None:
    def save(path: Path, mask: np.ndarray, index: int) -> None:
        red = np.zeros((*mask.shape, 3), dtype=np.uint8)
        red[mask > 0] = (254, 0, 0)
        Image.fromarray(red).save(path.with_suffix(".jpg"), quality=85)

    write_masks(tmp_path, save)
    assert guessed(tmp_path)[0].undecided
    written = said_of(tmp_path)
    assert 'foreground = { above = 127, channel = "red" }' in written.partition("Choose, and replace")[2]
    assert "colours = [[25" not in written.partition("Choose, and replace")[2]


@pytest.mark.parametrize("colour", [(100,), (110, 0, 0), (0, 200, 90)], ids=str)
@pytest.mark.parametrize("has_empty", [False, True])
def test_lossy_masks_are_cut_at_half_of_their_largest_level(
    colour: tuple[int, ...], has_empty: bool, tmp_path: Path
) -> None:
    def save(path: Path, mask: np.ndarray, index: int) -> None:
        pixels = (mask & (index > 0 or not has_empty))[..., None] * np.array(colour, np.uint8)
        image = Image.fromarray(pixels[..., 0] if len(colour) == 1 else pixels)
        image.save(path.with_suffix(".jpg"), quality=95)

    write_masks(tmp_path, save)
    assert guessed(tmp_path)[0].undecided
    written = (tmp_path / "mine.toml").read_text()
    for word in ("values =", "colours =", "nonzero", "above = 127"):
        assert word not in written
    offered = re.findall(r"^# (foreground = \{.*\}) *# (\S+) % of the pixels$", written, re.MULTILINE)
    largest = max(int(np.asarray(Image.open(path)).max()) for path in (tmp_path / "masks").iterdir())
    assert offered[0][0].startswith(f"foreground = {{ above = {largest // 2}")
    assert len(offered) == np.count_nonzero(colour)
    for line, percent in offered:
        assert 10 < float(percent) < 14  # 13.7 % are foreground, or nine tenths of it
        card = load_stream(str(tmp_path / "mine.toml")).cards[0]
        table = card.model_dump(exclude_unset=True) | tomllib.loads(line) | {"empty": "keep"}
        domain = open_domain(Card.model_validate(table))
        for sample in domain.test:
            assert (sample.mask.numpy() == truth(index_of(sample.image.numpy()))).mean() > 0.98


@pytest.mark.parametrize(("dtype", "largest"), [(np.uint8, 100), (np.uint16, 60_000)])
def test_many_exact_levels_may_be_cut_in_their_middle(dtype: type, largest: int, tmp_path: Path) -> None:
    def save(path: Path, mask: np.ndarray, index: int) -> None:
        edges = np.where(mask, 0, np.arange(mask.size).reshape(mask.shape) % 20 * largest // 50)
        Image.fromarray(np.where(mask, largest, edges).astype(dtype)).save(path.with_suffix(".png"))

    write_masks(tmp_path, save)
    assert guessed(tmp_path)[0].undecided
    line = f"foreground = {{ above = {largest // 2} }} # 13.7 % of the pixels, if the levels between are soft edges"
    assert line in said_of(tmp_path)


def test_numbers_of_classes_in_a_jpeg_are_called_too_dark(tmp_path: Path) -> None:
    write_masks(tmp_path, as_levels(0, 3, kind=".jpg"))
    guessed(tmp_path)
    assert "Nothing is brighter than the noise of a lossy file" in said_of(tmp_path)


def test_lossless_webp_masks_are_decided_by_their_levels(tmp_path: Path) -> None:
    def save(path: Path, mask: np.ndarray, index: int) -> None:
        Image.fromarray(mask * np.uint8(38)).save(path.with_suffix(".webp"), lossless=True)

    write_masks(tmp_path, save)
    opened(tmp_path)
    assert "foreground = { values = [38] }" in said_of(tmp_path)


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


@pytest.mark.parametrize("background", [(0, 0, 0), (255, 255, 255)])
def test_the_alpha_channel_of_black_masks_is_the_mask(tmp_path: Path, background: tuple[int, int, int]) -> None:
    def save(path: Path, mask: np.ndarray, index: int) -> None:
        colours = np.where(mask[..., None], np.zeros(3, np.uint8), np.array(background, np.uint8))
        Image.fromarray(np.dstack([colours, mask * np.uint8(255)])).save(path.with_suffix(".png"))

    write_masks(tmp_path, save)
    opened(tmp_path)
    assert guessed(tmp_path)[1].cards[0].foreground == Foreground(rule="above", above=127, channel="alpha")
    assert "Foreground: the alpha channel, since all masks are black" in said_of(tmp_path)


def test_masks_of_floats_are_said_to_be_unreadable(tmp_path: Path) -> None:
    write_masks(tmp_path, lambda path, mask, _: Image.fromarray(mask.astype(np.float32)).save(path.with_suffix(".tif")))
    guess, stream = guessed(tmp_path)
    (domain,) = guess.domains.values()
    assert domain.unread == "masks"
    assert stream.cards[0].foreground == Foreground()
    assert "No mask can be read, such as:" in said_of(tmp_path)
    assert "a00.tif has pixels of type 'F', whose range is not known" in said_of(tmp_path)


def test_a_palette_of_greys_is_not_said_to_have_a_black_index_0(tmp_path: Path) -> None:
    def save(path: Path, mask: np.ndarray, index: int) -> None:
        image = Image.fromarray((~mask).astype(np.uint8), "P")
        image.putpalette([255, 255, 255, 0, 0, 0])
        image.save(path.with_suffix(".png"))

    write_masks(tmp_path, save)
    opened(tmp_path)
    assert "which is black" not in said_of(tmp_path)
    assert "Foreground: the indices whose grey is in the brighter half of the range" in said_of(tmp_path)


def test_black_masks_are_not_said_to_have_a_level_of_foreground(tmp_path: Path) -> None:
    write_masks(tmp_path, lambda path, mask, _: Image.new("L", mask.shape[::-1]).save(path.with_suffix(".png")))
    guessed(tmp_path)
    assert "Foreground: none, since all masks are black (0.0 % of the pixels)" in said_of(tmp_path)


def test_a_few_levels_may_be_soft_edges_and_are_offered_as_such(tmp_path: Path) -> None:
    write_masks(tmp_path, as_levels(0, 140, 255))
    guessed(tmp_path)
    assert re.search(
        r"foreground = \{ above = 127 \} +# [0-9.]+ % of the pixels, if the levels between", said_of(tmp_path)
    )


def test_grey_masks_in_a_lossy_webp_are_cut_in_the_middle(tmp_path: Path) -> None:
    def save(path: Path, mask: np.ndarray, index: int) -> None:
        Image.fromarray(mask * np.uint8(255)).save(path.with_suffix(".webp"), quality=60)

    write_masks(tmp_path, save)
    guess, stream = guessed(tmp_path)
    assert guess.undecided == []
    assert "Foreground: the brighter half of the range, so soft edges are cut in the middle" in said_of(tmp_path)
    assert check_domain(stream.cards[0]).fault_count == 0
