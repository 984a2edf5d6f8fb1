"""Prompts against slow obvious versions, and their files against damage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from cosam_bench.core.errors import CosamError
from cosam_bench.data.prompt_settings import PromptSettings, TestPrompt
from cosam_bench.data.prompts import Prompts, draw_prompts, frozen_prompts, noisy_mask, random_points, tight_box
from cosam_bench.data.samples import Entry, Manifest, Pixels, Split, empty_split


@st.composite
def some_masks(draw: st.DrawFn) -> Tensor:
    height, width = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    mask = torch.zeros(height, width, dtype=torch.bool)
    places = st.tuples(st.integers(0, height - 1), st.integers(0, width - 1))
    for row, column in draw(st.lists(places, min_size=1, max_size=12)):
        mask[row, column] = True
    return mask


def split_of(masks: list[Tensor], *, domain: str = "d", names: str = "abcdefgh") -> Split:
    entries = tuple(Entry(names[i], f"image {i}", str(mask.tolist())) for i, mask in enumerate(masks))
    images = tuple(torch.zeros(3, *mask.shape, dtype=torch.uint8) for mask in masks)
    return Split(domain, part="train", manifest=Manifest(entries), source=Pixels(images, tuple(masks)))


def disc(side: int = 64, *, radius: float = 20) -> Tensor:
    return torch.from_numpy(np.hypot(*(np.mgrid[:side, :side] - side / 2)) < radius)


@given(mask=some_masks())
def test_box_is_tight(mask: Tensor) -> None:
    x0, y0, x1, y1 = (int(end) for end in tight_box(mask))
    inside = {(y, x) for y in range(y0, y1) for x in range(x0, x1)}
    foreground = {(int(y), int(x)) for y, x in mask.nonzero()}
    assert foreground <= inside
    for edge in ({y for y, _ in foreground}, {x for _, x in foreground}):
        assert edge & {y0, x0} or min(edge) in (y0, x0)
    assert (y0, y1) == (min(y for y, _ in foreground), max(y for y, _ in foreground) + 1)
    assert (x0, x1) == (min(x for _, x in foreground), max(x for _, x in foreground) + 1)


@given(mask=some_masks(), count=st.integers(1, 8), seed=st.integers(0, 99))
def test_points_lie_on_distinct_foreground_pixels(mask: Tensor, count: int, seed: int) -> None:
    points = random_points(mask, count=count, generator=np.random.default_rng(seed))
    assert points.shape == (count, 2)
    assert points.dtype == torch.float32
    pixels = [(float(x), float(y)) for x, y in points]
    assert all(x % 1 == 0.5 and y % 1 == 0.5 and mask[int(y), int(x)] for x, y in pixels)
    if mask.sum() >= count:
        assert len(set(pixels)) == count


def test_points_are_even_over_the_foreground() -> None:
    mask = torch.tensor([[True, False, True], [False, True, True]])
    generator = np.random.default_rng(0)
    drawn = torch.cat([random_points(mask, count=2, generator=generator) for _ in range(4000)])
    _, counts = drawn.unique(dim=0, return_counts=True)
    # 8000 draws over 4 pixels: 2000 each, deviation below 40.
    assert (counts - 2000).abs().max() < 160


def bilinear(image: np.ndarray, side: int) -> np.ndarray:
    """Sampling at pixel centres between the four neighbours, edges repeated: one loop a pixel."""
    height, width = image.shape
    out = np.zeros((side, side))
    for row in range(side):
        for column in range(side):
            y = min(max((row + 0.5) * height / side - 0.5, 0), height - 1)
            x = min(max((column + 0.5) * width / side - 0.5, 0), width - 1)
            y0, x0 = int(y), int(x)
            y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
            above = image[y0, x0] * (1 - (x - x0)) + image[y0, x1] * (x - x0)
            below = image[y1, x0] * (1 - (x - x0)) + image[y1, x1] * (x - x0)
            out[row, column] = above * (1 - (y - y0)) + below * (y - y0)
    return out


def test_noise_lies_only_where_the_mask_differs_from_its_coarse_self() -> None:
    mask = disc(60)[:, :50]
    fine = bilinear(mask.numpy().astype(float), 256)
    coarse = bilinear(bilinear(fine, 32), 256)
    is_quiet = np.abs(fine - coarse) < 0.0099
    is_noisy = np.abs(fine - coarse) > 0.0101
    noisy = noisy_mask(mask, generator=np.random.default_rng(0)).numpy()
    assert noisy.shape == (256, 256)
    assert (noisy[is_quiet] == (fine[is_quiet] >= 0.5)).all()
    # Standard normal noise turns a pixel of level f with probability P(N >= |f - 0.5|): 31 to 50 %.
    turned = (noisy != (fine >= 0.5))[is_noisy]
    assert is_noisy.sum() > 3000
    assert 0.28 < turned.mean() < 0.52


def test_prompts_of_a_split() -> None:
    masks = [disc(64), torch.ones(5, 9, dtype=torch.bool), disc(40, radius=3)]
    prompts = draw_prompts(split_of(masks), points=3, seed=0)
    assert len(prompts) == 3
    assert prompts.boxes.tolist()[1] == [0, 0, 9, 5]
    assert prompts.points.shape == (3, 3, 2)
    assert prompts.masks.shape == (3, 256, 256)
    assert prompts.masks.dtype == torch.bool
    assert prompts.masks[1].all()
    taken = prompts.take([2, 0])
    assert torch.equal(taken.boxes, prompts.boxes[[2, 0]])
    assert torch.equal(taken.points[1], prompts.points[0])
    assert torch.equal(taken.masks[0], prompts.masks[2])
    assert len(draw_prompts(empty_split("d", part="train"), points=2, seed=0)) == 0


def same(first: Prompts, second: Prompts, index: int, other: int) -> bool:
    is_same = torch.equal(first.points[index], second.points[other])
    assert is_same == torch.equal(first.masks[index], second.masks[other])
    return is_same


def test_each_sample_s_prompts_depend_on_itself_and_the_seed_alone() -> None:
    masks = [disc(64), disc(48), disc(32, radius=9)]
    prompts = draw_prompts(split_of(masks), points=3, seed=0)
    again = draw_prompts(split_of(masks), points=3, seed=0)
    assert again.digest == prompts.digest
    alone = draw_prompts(split_of(masks[1:2], names="b"), points=3, seed=0)
    assert same(prompts, alone, 1, 0)
    assert not same(prompts, draw_prompts(split_of(masks), points=3, seed=1), 1, 1)
    assert not same(prompts, draw_prompts(split_of(masks, domain="e"), points=3, seed=0), 1, 1)


def test_frozen_prompts_are_drawn_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = split_of([disc(64), disc(48)])
    folder = tmp_path / "prompts"
    first = frozen_prompts(split, points=3, seed=0, folder=folder)
    (path,) = folder.iterdir()
    assert path.name.startswith("d-train-seed0-points3-")
    assert path.stat().st_size < 20_000  # masks are stored as bits
    monkeypatch.setattr("cosam_bench.data.prompts.draw_prompts", None)
    second = frozen_prompts(split, points=3, seed=0, folder=folder)
    assert second.digest == first.digest
    for name in ("boxes", "points", "masks"):
        assert torch.equal(getattr(first, name), getattr(second, name))


def test_other_data_seeds_and_settings_have_other_files(tmp_path: Path) -> None:
    split = split_of([disc(64)])
    for points, seed, data in ((3, 0, split), (3, 1, split), (2, 0, split), (3, 0, split_of([disc(65)]))):
        frozen_prompts(data, points=points, seed=seed, folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 4


def test_damaged_prompt_files_are_refused(tmp_path: Path) -> None:
    split = split_of([disc(64)])
    frozen_prompts(split, points=3, seed=0, folder=tmp_path)
    (path,) = tmp_path.iterdir()
    sound = path.read_bytes()
    for damaged in (sound[:-1] + bytes([sound[-1] ^ 1]), sound[:-9], b"", b"\xff" * 40):
        path.write_bytes(damaged)
        with pytest.raises(CosamError, match=r"The prompt file .* Delete it to draw the prompts again"):
            frozen_prompts(split, points=3, seed=0, folder=tmp_path)
    path.unlink()
    frozen_prompts(split, points=3, seed=0, folder=tmp_path)
    assert path.read_bytes() == sound


def test_settings() -> None:
    assert PromptSettings() == PromptSettings(train="box", test="box", points=3)
    with pytest.raises(ValidationError):
        PromptSettings(points=0)


@pytest.mark.parametrize(
    ("settings", "right"),
    [
        ({"grid": 4}, {"test": "grid"}),
        ({"published": True}, {"test": "points"}),
        ({"published": True}, {"train": "mix"}),
        ({"masks": "raw", "test": "points"}, {"train": "mix"}),
        ({"masks": "raw"}, {"test": "mask"}),
    ],
)
def test_prompt_settings_without_effect_are_refused(settings: dict[str, object], right: dict[str, object]) -> None:
    assert PromptSettings.model_validate(settings).unused() != ""
    assert PromptSettings.model_validate(settings | right).unused() == ""


@pytest.mark.parametrize(
    ("settings", "kind"), [({"published": True}, "points"), ({"masks": "raw"}, "mask"), ({"grid": 4}, "grid")]
)
def test_further_prompts_use_settings_too(settings: dict[str, object], kind: TestPrompt) -> None:
    found = PromptSettings.model_validate(settings)
    assert found.unused([kind]) == ""
    assert "also_prompts" in found.unused(["image"])
