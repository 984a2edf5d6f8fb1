"""Training images that are not trained on."""

from __future__ import annotations

import pytest
import torch

from cosam_bench.core.errors import CosamError
from cosam_bench.data.held_out import hold_out
from cosam_bench.data.prompts import draw_prompts
from cosam_bench.data.samples import Entry, Manifest, Pixels, Split


def split(images: int, *, samples: int = 1, groups: tuple[str, ...] = ("",)) -> Split:
    """A split with several samples of each image, whose pixels say which one they are; groups go round the images."""
    entries, pictures, masks = [], [], []
    for number in range(images * samples):
        image = number // samples
        entries.append(Entry(f"s{number}", f"image {image}", f"mask {number}", group=groups[image % len(groups)]))
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


@pytest.mark.parametrize(("share", "held"), [(0.1, ["s5", "s15"]), (0.25, ["s5", "s8", "s10", "s15"])])
def test_images_without_a_group_are_those_that_earlier_versions_held_out(share: float, held: list[str]) -> None:
    assert list(hold_out(split(16), share=share)[1].keys) == held


def groups_in(part: Split) -> list[str]:
    return sorted({entry.group for entry in part.manifest.entries})


@pytest.mark.parametrize(("share", "held"), [(0.1, 1), (0.25, 1), (0.3, 2), (0.5, 2), (0.9, 3)])
def test_whole_groups_are_held_out_until_there_are_enough_images(share: float, held: int) -> None:
    whole = split(16, samples=2, groups=("p0", "p1", "p2", "p3"))
    kept, out = hold_out(whole, share=share)
    assert (len(groups_in(out)), len(out)) == (held, held * 4 * 2)
    assert sorted(groups_in(kept) + groups_in(out)) == ["p0", "p1", "p2", "p3"]
    assert sorted((*kept.keys, *out.keys)) == sorted(whole.keys)


def test_groups_that_share_an_image_are_held_out_together() -> None:
    whole = split(16, groups=("p0", "p1", "p2", "p3"))
    for first, second in (("p0", "p1"), ("p1", "p2"), ("p2", "p3"), ("p0", "p3")):
        twins = (Entry("a", "twin", "mask a", group=first), Entry("b", "twin", "mask b", group=second))
        manifest = Manifest((*whole.manifest.entries, *twins), "rule")
        parts = hold_out(Split("made", part="train", manifest=manifest, source=Pixels()), share=0.5)
        assert sorted(part.keys[-2:] == ("a", "b") for part in parts) == [False, True]
        assert not set(groups_in(parts[0])) & set(groups_in(parts[1]))


def test_images_without_foreground_of_a_group_that_is_held_out_are_not_trained_on() -> None:
    whole = split(8, groups=("p0", "p1"))
    empty = tuple(Entry(f"e{one}", f"empty {one}", "none", is_empty=True, group=one) for one in ("p0", "p1", ""))
    manifest = Manifest((*whole.manifest.entries, *empty), "rule")
    kept, out = hold_out(Split("made", part="train", manifest=manifest, source=Pixels()))
    [group] = set(groups_in(kept)) - {""}
    assert list(kept.keys[-2:]) == [f"e{group}", "e"]
    assert (len(out), groups_in(out)) == (4, ["p1" if group == "p0" else "p0"])


def test_one_group_cannot_be_divided() -> None:
    with pytest.raises(CosamError, match=r"of 'made' has 4 images of one group, .*Add images of another group"):
        hold_out(split(4, groups=("p0",)))


def test_a_group_leaves_the_digest_of_a_split_as_it_is() -> None:
    assert split(4, groups=("p0", "p1")).digest == split(4).digest
