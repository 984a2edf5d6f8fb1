"""From the names of images and masks to the patterns that pair them."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

_BRACES = frozenset("{}")
_LONGEST = 120  # characters of a name in which an image's stem is looked for


@dataclass(frozen=True)
class NamePattern:
    """How the names of masks follow from those of images.

    Attributes:
        images: glob of the images' names, perhaps with ``{id}``.
        masks: pattern of the masks' names.
        has_several: the pattern matches several masks of one image.
    """

    images: str
    masks: str
    has_several: bool = False


def name_patterns(images: Sequence[str], masks: Sequence[str], *, ending: str = ".*", same: bool) -> list[NamePattern]:
    """The patterns that may pair images and masks, the most usual first.

    Args:
        images: their names.
        masks: their names.
        ending: the end of the patterns for masks: ``.*`` for images, or a suffix.
        same: both are in one folder, so the glob of the images must not match the masks if it can be helped.
    """
    images, masks = ([name for name in names if not _BRACES & {*name}] for names in (images, masks))
    if not images or not masks:
        return []  # braces would be taken for placeholders, unless a pattern of the other names fits them
    found: list[NamePattern] = []
    every = _glob_of(images, masks) if same else "*"
    own_ending = _ending(masks, ending) if same else ending
    image_stems = dict.fromkeys(PurePath(name).stem for name in images)
    mask_stems = [PurePath(name).stem for name in masks]
    if len(set(images)) == len(set(masks)) == 1 and same:
        return [NamePattern(glob.escape(images[0]), glob.escape(masks[0]))]
    if image_stems.keys() & set(mask_stems):
        found.append(NamePattern(every, f"{{stem}}{own_ending}"))
    if set(images) & set(mask_stems):
        found.append(NamePattern(every, f"{{name}}{own_ending}"))
    votes = _affixes(list(image_stems), mask_stems)
    for (before, after), _ in votes.most_common(2):
        found.append(NamePattern(every, f"{glob.escape(before)}{{stem}}{glob.escape(after)}{own_ending}"))
    if several := _several(votes):
        found.append(NamePattern(every, f"{several}{own_ending}", has_several=True))
    return found + _by_id(images, masks, ending=own_ending)


def _glob_of(images: Sequence[str], masks: Sequence[str]) -> str:
    """A glob of the images by their suffix if no mask has it."""
    own = {PurePath(name).suffix.lower() for name in images}
    if len(own) == 1 and not own & {PurePath(name).suffix.lower() for name in masks}:
        return f"*{own.pop()}"
    return "*"


def _ending(masks: Sequence[str], ending: str) -> str:
    own = {PurePath(name).suffix.lower() for name in masks}
    return own.pop() if ending == ".*" and len(own) == 1 else ending


def _affixes(images: Sequence[str], masks: Sequence[str]) -> Counter[tuple[str, str]]:
    """What masks' stems have before and after that of an image, with the number of such masks."""
    known = set(images)
    votes: Counter[tuple[str, str]] = Counter()
    for mask in masks:
        stem = mask[:_LONGEST]
        spans = [(end - start, start, end) for start in range(len(stem)) for end in range(start + 1, len(stem) + 1)]
        for _, start, end in sorted(spans, reverse=True):
            if stem[start:end] in known and (start or end < len(stem)):
                votes[stem[:start], mask[end:]] += 1
                break
    return votes


def _several(votes: Counter[tuple[str, str]]) -> str:
    """The pattern, without its ending, of masks that differ in what follows the stem; empty if there is none."""
    befores, afters = {before for before, _ in votes}, [after for _, after in votes]
    if len(befores) != 1 or len(afters) < 2:
        return ""
    common = _common_head(afters).rstrip("0123456789")
    return f"{glob.escape(befores.pop())}{{stem}}{glob.escape(common)}*" if common else ""


def _by_id(images: Sequence[str], masks: Sequence[str], *, ending: str) -> list[NamePattern]:
    """Patterns of names that share a part in the place of ``{id}``."""
    parts = [_constant_parts([PurePath(name).stem for name in names]) for names in (images, masks)]
    (before, after), (mask_before, mask_after) = parts
    ids = [
        {PurePath(name).stem[len(head) : len(PurePath(name).stem) - len(tail)] for name in names}
        for names, (head, tail) in zip((images, masks), parts, strict=True)
    ]
    if not ids[0] & ids[1] or (before, after) == (mask_before, mask_after):
        return []
    suffixes = {PurePath(name).suffix.lower() for name in images}
    image_ending = suffixes.pop() if len(suffixes) == 1 else ".*"
    head, tail = glob.escape(before), glob.escape(after)
    mask_name = f"{glob.escape(mask_before)}{{id}}{glob.escape(mask_after)}{ending}"
    return [NamePattern(f"{head}{{id}}{tail}{image_ending}", mask_name)]


def _constant_parts(stems: Sequence[str]) -> tuple[str, str]:
    """What all stems begin and end with, cut where a number or a word would be cut.

    >>> _constant_parts(["frame_01", "frame_02"])
    ('frame_', '')
    """
    head = _common_head(stems)
    while head and not all(_is_border(stem, len(head)) for stem in stems):
        head = head[:-1]
    turned = [stem[len(head) :][::-1] for stem in stems]
    tail = _common_head(turned)
    while tail and (len(tail) >= min(map(len, turned)) or not all(_is_border(stem, len(tail)) for stem in turned)):
        tail = tail[:-1]
    return head, tail[::-1]


def _common_head(texts: Sequence[str]) -> str:
    """What all texts begin with."""
    first, last = min(texts), max(texts)
    same = (place for place, char in enumerate(first) if last[place : place + 1] != char)
    return first[: next(same, len(first))]


def _is_border(text: str, place: int) -> bool:
    """Whether a text may be cut here: between two kinds of characters, or after a separator."""
    if place >= len(text):
        return False
    before, after = text[place - 1], text[place]
    if not before.isalnum() or not after.isalnum():
        return True
    return before.isdigit() != after.isdigit()
