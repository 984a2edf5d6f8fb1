"""A part of a training split that is not trained on, to choose by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from cosam_bench.core.errors import CosamError
from cosam_bench.core.hashing import sha256_text
from cosam_bench.data.samples import Entry, Split
from cosam_bench.data.subsets import subset

SHARE = 0.1


def hold_out(split: Split, *, share: float = SHARE) -> tuple[Split, Split]:
    """The samples that are trained on, and those that are held out, both in the split's order.

    Whole images are held out, all their samples together, and whole groups of images if the card names groups. Hashes
    of the images or of the groups' names alone decide which, so every seed, order and machine holds out the same.
    Images without foreground are not held out; those of a group that is held out are in neither part.

    Args:
        split: with at least two images with foreground, which are not all in one group.
        share: of the images, rounded, but at least one; groups are held out until there are as many, one group is left.

    Raises:
        CosamError: the split has fewer than two images, or one group of them.
    """
    units = _units(split.manifest.entries)
    images = dict.fromkeys(entry.image_sha256 for entry in split.manifest.entries if not entry.is_empty)
    sizes = Counter(units[image] for image in images)
    if len(sizes) < 2:
        raise _too_few(split, len(images))
    ranked = sorted(sizes, key=lambda unit: sha256_text(f"held out/{unit}"))
    missing, held = max(1, round(share * len(images))), set[str]()
    for unit in ranked[:-1]:
        if missing <= 0:
            break
        held.add(unit)
        missing -= sizes[unit]
    kept: list[int] = []
    out: list[int] = []
    for index, entry in enumerate(split.manifest.entries):
        if units[entry.image_sha256] not in held:
            kept.append(index)
        elif not entry.is_empty:
            out.append(index)
    return subset(split, kept), subset(split, out)


def _units(entries: Sequence[Entry]) -> dict[str, str]:
    """By the hash of an image, the name of what it is held out with: its group, or the hash if it has none.

    Groups that share an image are one.
    """
    if not any(entry.group for entry in entries):
        return {entry.image_sha256: entry.image_sha256 for entry in entries}
    from scipy.cluster.hierarchy import DisjointSet

    joined = DisjointSet()
    for entry in entries:
        image = ("image", entry.image_sha256)
        joined.add(image)
        if entry.group:
            joined.add(("group", entry.group))
            joined.merge(image, ("group", entry.group))
    names: dict[str, str] = {}
    for members in joined.subsets():
        _, name = min(members)  # "group" is before "image"
        names |= {text: name for kind, text in members if kind == "image"}
    return names


def _too_few(split: Split, images: int) -> CosamError:
    part = f"The training part of {split.domain!r}"
    if images < 2:
        return CosamError(f"{part} has {images} image, so none can be held out to choose by. Add images to it.")
    return CosamError(
        f"{part} has {images} images of one group, which is not divided, so none can be held out to choose by. Add "
        "images of another group to it."
    )
