"""A part of a training split that is not trained on, to choose by."""

from __future__ import annotations

from cosam_bench.core.errors import CosamError
from cosam_bench.core.hashing import sha256_text
from cosam_bench.data.samples import Split
from cosam_bench.data.subsets import subset

SHARE = 0.1


def hold_out(split: Split, *, share: float = SHARE) -> tuple[Split, Split]:
    """The samples that are trained on, and those that are held out, both in the split's order.

    Whole images are held out, all their samples together. Their hashes alone decide which, so every seed, order and
    machine holds out the same.

    Args:
        split: with at least two images with foreground; others are not held out.
        share: of the images, rounded, but at least one.

    Raises:
        CosamError: the split has fewer than two images.
    """
    images = dict.fromkeys(entry.image_sha256 for entry in split.manifest.entries if not entry.is_empty)
    if len(images) < 2:
        raise CosamError(
            f"The training part of {split.domain!r} has {len(images)} image, so none can be held out to choose by. "
            "Add images to it."
        )
    ranked = sorted(images, key=lambda image: sha256_text(f"held out/{image}"))
    held = set(ranked[: max(1, round(share * len(ranked)))])
    places: tuple[list[int], list[int]] = ([], [])
    for index, entry in enumerate(split.manifest.entries):
        places[entry.image_sha256 in held].append(index)
    kept, out = (subset(split, part) for part in places)
    return kept, out
