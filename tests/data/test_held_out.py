"""Training images that are not trained on."""

from __future__ import annotations

import pytest
import torch

from cosam_bench.core.errors import CosamError
from cosam_bench.data.held_out import hold_out
from cosam_bench.data.prompts import draw_prompts
from cosam_bench.data.samples import Entry, Manifest, Pixels, Split


def split(images: int, *, samples: int = 1) -> Split:
    """A split with several samples of each image, whose pixels say which one they are."""
    entries, pictures, masks = [], [], []
    for number in range(images * samples):
        entries.append(Entry(f"s{number}", f"image {number // samples}", f"mask {number}"))
        pictures.append(torch.full((3, 8, 8), number, dtype=torch.uint8))
        mask = torch.zeros(8, 8, dtype=torch.bool)
        mask[number % 8] = True
        masks.append(mask)
    source = Pixels(tuple(pictures), tuple(masks))
    return Split("made", part="train", manifest=Manifest(tuple(entries), "rule"), source=source)


@pytest.mark.parametrize(("images", "held"), [(2, 1), (9, 1), (14, 1), (16, 2), (40, 4)])
def test_a_tenth_of_the_images_but_at_least_one_is_held_out(images: int, held: int) -> None:
    whole = split(images, samples=3)
    kept, out = hold_out(whole)
    assert (len(kept), len(out)) == (3 * (images - held), 3 * held)
    assert sorted((*kept.keys, *out.keys)) == sorted(whole.keys)
    hashes = [{entry.image_sha256 for entry in part.manifest.entries} for part in (kept, out)]
    assert not hashes[0] & hashes[1]  # all samples of an image are on one side
    assert list(kept.keys) == [key for key in whole.keys if key in kept.keys]


def test_both_parts_have_the_pixels_of_their_samples_and_digests_of_their_own() -> None:
    whole = split(12)
    parts = hold_out(whole)
    for part in parts:
        for row, key in enumerate(part.keys):
            place = whole.keys.index(key)
            assert torch.equal(part[row].image, whole[place].image)
            assert torch.equal(part.mask(row), whole.mask(place))
    assert len({whole.digest, *(part.digest for part in parts)}) == 3
    assert len(draw_prompts(parts[1], points=2, seed=0)) == 1


def test_which_images_are_held_out_does_not_depend_on_their_order() -> None:
    whole = split(20)
    turned = Split(
        "made",
        part="train",
        manifest=Manifest(tuple(reversed(whole.manifest.entries)), "rule"),
        source=Pixels(),
    )
    assert set(hold_out(whole)[1].keys) == set(hold_out(turned)[1].keys)


def test_one_image_cannot_be_divided() -> None:
    with pytest.raises(CosamError, match=r"of 'made' has 1 image, so none can be held out.*Add images"):
        hold_out(split(1, samples=3))
