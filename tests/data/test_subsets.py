"""Some samples of a split."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cosam_bench.data.samples import Entry, Manifest, Pixels, Split
from cosam_bench.data.subsets import at_most, image_count


@pytest.fixture
def split() -> Split:
    """Six images, each with two samples."""
    entries = tuple(Entry(f"{image}#{part}", f"sha {image}", f"{image} {part}") for image in range(6) for part in "ab")
    images: tuple[Tensor, ...] = tuple(torch.full((3, 4, 4), row, dtype=torch.uint8) for row in range(12))
    masks = tuple(torch.ones(4, 4, dtype=torch.bool) for _ in range(12))
    return Split("pill", part="train", manifest=Manifest(entries), source=Pixels(images, masks))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_whole_images_are_kept_in_the_splits_order(split: Split, count: int) -> None:
    cut = at_most(split, count)
    assert image_count(cut) == count
    assert len(cut) == 2 * count
    rows = [split.keys.index(key) for key in cut.keys]
    assert rows == sorted(rows)
    for place, row in enumerate(rows):
        assert torch.equal(cut[place].image, split[row].image)
    assert set(cut.keys) <= set(at_most(split, count + 1).keys)


def test_the_images_do_not_depend_on_their_order(split: Split) -> None:
    entries = split.manifest.entries[::-1]
    pixels = Pixels(tuple(split[row].image for row in range(11, -1, -1)), tuple(split.mask(row) for row in range(12)))
    turned = Split("pill", part="train", manifest=Manifest(entries), source=pixels)
    assert set(at_most(turned, 3).keys) == set(at_most(split, 3).keys)


def test_a_split_with_no_more_images_is_itself(split: Split) -> None:
    assert at_most(split, 6) is split
