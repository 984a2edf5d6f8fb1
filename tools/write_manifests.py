"""Write the split manifests in ``datasets/manifests`` from the published data.

Usage: python tools/write_manifests.py CARD FOLDER, with the folder that the card's layout describes. Images are ranked
by a hash of their names, so the choice is anybody's to repeat: test images come first, and no group of images that
belong together is in both parts.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cosam_bench.core.hashing import sha256_file, sha256_text
from cosam_bench.data.cards import Card, Part, SplitRule
from cosam_bench.data.image_files import scan_pair
from cosam_bench.data.layouts import recognise
from cosam_bench.data.opened_images import OpenedImages
from cosam_bench.data.pairing import find_pairs
from cosam_bench.data.split_manifests import ListedImage, manifest_text
from cosam_bench.data.streams import load_card

# The list of cwfid/dataset in train_test_split.yaml; it has 28 in both parts.
_CWFID_TEST = "001 003 004 009 010 013 015 021 022 026 029 030 032 035 039 044 047 048 054 060"


@dataclass(frozen=True)
class Rule:
    """How the images of a card are divided.

    Attributes:
        test: pattern of the paths that may be tested on; empty: any.
        train: pattern of the paths that may be trained on; empty: any.
        group: pattern whose first group names what images have in common; empty: each is its own group.
        most: images that are taken of one group.
    """

    test: str = ""
    train: str = ""
    group: str = ""
    most: int = 1_000_000


RULES = {
    "bsdata@open": Rule(group=r"/01_\d+_([^/]+?)(?:_crop_\d+)?\.jpg$|/([^/]+?)(?:_crop_\d+)?\.jpg$", most=6),
    "magnetic_tile@open": Rule(),
    "neu_steel@open": Rule(test="/test/", train="/training/"),
    "masonry_crack@open": Rule(group=r"/([a-z]_\d+)_\d+\.png$"),
    "crop_weed@open": Rule(test=f"/({'|'.join(_CWFID_TEST.split())})_", train=f"/(?!{'|'.join(_CWFID_TEST.split())})"),
    "camvid_road@open": Rule(test="/test/Seq05VD_", train="/train/"),  # 0001TP is in both published parts
    "lung_xray@open": Rule(),
    "kvasir@open": Rule(),
    "pets@open": Rule(),
}


def choose(paths: Iterable[str], *, rule: Rule, wanted: dict[Part, int], seed: int = 0) -> dict[str, Part]:
    """The part of each chosen image by its path, test images first.

    Raises:
        ValueError: there are too few images for a part.
    """
    groups: dict[str, list[str]] = {}
    for path in sorted(paths, key=lambda path: sha256_text(f"{seed}/{path}")):
        groups.setdefault(_group(path, rule.group), []).append(path)
    ranked = sorted(groups, key=lambda group: sha256_text(f"{seed}/{group}"))
    chosen: dict[str, Part] = {}
    for part, count in sorted(wanted.items()):
        allowed = rule.test if part == "test" else rule.train
        for group in ranked:
            if chosen.keys().isdisjoint(groups[group]):
                fitting = [path for path in groups[group] if re.search(allowed, f"/{path}")]
                left = count - sum(one == part for one in chosen.values())
                chosen |= dict.fromkeys(fitting[: min(rule.most, left)], part)
        found = sum(one == part for one in chosen.values())
        if found < count:
            raise ValueError(f"there are {found} images for {part}, not {count}")
    return chosen


def _group(path: str, pattern: str) -> str:
    found = re.search(pattern, f"/{path}") if pattern else None
    return next(filter(None, found.groups()), path) if found else path


def listed(card: Card, folder: Path) -> list[ListedImage]:
    """The lines of a card's manifest, from the data in a folder."""
    rule, counts = RULES.get(card.name, Rule()), card.split.counts
    layout, root = recognise(card.model_copy(update={"split": SplitRule(test=1.0)}), folder)
    located = card.with_layout(layout, root=root).model_copy(update={"split": SplitRule(test=1.0)})
    opened = OpenedImages()
    pairs = {
        pair.image.relative_to(root).as_posix(): pair
        for pair in find_pairs(located)
        if scan_pair(located, pair, opened=opened).samples
    }
    parts = choose(pairs, rule=rule, wanted=counts)
    return [
        ListedImage(parts[path], path, sha256_file(pairs[path].image), sha256_file(pairs[path].mask))
        for path in sorted(parts, key=lambda path: (parts[path], path))
    ]


if __name__ == "__main__":
    name, source = sys.argv[1:]
    known = load_card(name)
    Path(known.split.file).write_text(manifest_text(listed(known, Path(source))), encoding="utf-8")
