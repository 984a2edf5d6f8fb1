"""Some samples of a split, as a split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from cosam_bench.core.hashing import sha256_text
from cosam_bench.data.samples import Split


def image_count(split: Split) -> int:
    """The number of different images; one may have several samples."""
    return len({entry.image_sha256 for entry in split.manifest.entries})


def at_most(split: Split, count: int) -> Split:
    """All samples of so many images, in the split's order; the split itself if it has no more.

    The images' hashes alone decide which, so every seed, order and machine takes the same.
    """
    if image_count(split) <= count:
        return split
    images = {entry.image_sha256 for entry in split.manifest.entries}
    kept = set(sorted(images, key=lambda image: sha256_text(f"at most/{image}"))[:count])
    return subset(split, [row for row, entry in enumerate(split.manifest.entries) if entry.image_sha256 in kept])


def subset(split: Split, rows: Sequence[int]) -> Split:
    """Some samples of a split, in this order; the whole split keeps what is decoded."""
    entries = tuple(split.manifest.entries[row] for row in rows)
    return Split(
        split.domain,
        part=split.part,
        manifest=replace(split.manifest, entries=entries),
        source=_Rows(split, tuple(rows)),
        decoded_bytes=0,
        points_file=split.points_file,
    )


@dataclass(frozen=True)
class _Rows:
    """The pixels of some samples of a split."""

    split: Split
    rows: tuple[int, ...]

    def image(self, index: int) -> Tensor:
        return self.split[self.rows[index]].image

    def mask(self, index: int) -> Tensor:
        return self.split.mask(self.rows[index])

    def ignored(self, index: int) -> Tensor | None:
        return self.split.ignored(self.rows[index])
