"""Which pixels of a domain's masks are foreground, or what somebody must choose between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from cosam_bench.core.errors import CosamError
from cosam_bench.data.decoding import OnlyAlpha, decode_mask, is_lossy, read_mask_content
from cosam_bench.data.foreground import CLASS_IDS, Colour, Foreground, share
from cosam_bench.data.guessing.image_headers import evenly
from cosam_bench.data.guessing.toml_text import toml_line
from cosam_bench.data.image_files import read_bytes
from cosam_bench.data.lossy_masks import MiddleCut, middle_cuts
from cosam_bench.data.mask_content import JoinedContents, MaskContent, Value, by_colour
from cosam_bench.data.pairing import Pair

LOOKED_AT = 2_000  # masks; a check reads all
CLASSES = 16  # masks of at most so many levels hold classes, not soft edges
_ALTERNATIVES = 12  # values that are written as a choice
_BLACK = (0, 0, 0)
_MOSTLY = 0.5  # of the pixels; objects seldom cover more


@dataclass
class MaskChoice:
    """What is known of a domain's masks.

    Attributes:
        keys: of the card: ``foreground``, if the default does not say it.
        comments: what was seen and which pixels are foreground.
        alternatives: lines of TOML to choose between, each with a note; empty if nothing is open.
        is_unread: no mask can be read.
    """

    keys: dict[str, Any] = field(default_factory=dict)
    comments: list[str] = field(default_factory=list)
    alternatives: list[tuple[str, str]] = field(default_factory=list)
    is_unread: bool = False


@dataclass
class _Seen:
    """What some masks hold: their values, what the default rule takes of them, and why it refuses some."""

    contents: list[MaskContent] = field(default_factory=list)
    taken: int = 0
    pixels: int = 0
    empty: int = 0
    lossy: int = 0
    only_alpha: int = 0
    read: int = 0
    refusal: str = ""
    unread: list[str] = field(default_factory=list)


def choose_foreground(pairs: Sequence[Pair]) -> MaskChoice:
    """Which pixels are foreground, from the masks of some pairs, evenly spaced among all."""
    looked_at = evenly(pairs, LOOKED_AT)
    seen = _look(looked_at)
    choice = MaskChoice()
    if not seen.contents:
        choice.comments.append(f"No mask can be read, such as: {seen.unread[0]}")
        choice.is_unread = True
        return choice
    counted = "" if len(looked_at) == len(pairs) else f" (in {len(looked_at)} of {len(pairs)} masks)"
    for content in seen.contents:
        choice.comments.append(f"Masks: {content.mode}, {content.described()} of the pixels{counted}.")
    if seen.unread:
        choice.comments.append(f"{_masks(len(seen.unread))} cannot be read, such as: {seen.unread[0]}")
    _decide(choice, seen, is_complete=len(looked_at) == len(pairs))
    return choice


def _masks(count: int) -> str:
    return f"{count} {'mask' if count == 1 else 'masks'}"


def _look(pairs: Sequence[Pair]) -> _Seen:
    seen, joined = _Seen(), JoinedContents()
    for pair in pairs:
        for path in pair.mask_files:
            try:
                data = read_bytes(path)
                content = read_mask_content(data, name=str(path))
            except CosamError as error:
                seen.unread.append(str(error))
                continue
            joined.add(content)
            seen.read += 1
            seen.lossy += is_lossy(data, name=str(path))
            try:
                mask = decode_mask(data, name=str(path), foreground=Foreground())
            except CosamError as error:
                seen.only_alpha += isinstance(error, OnlyAlpha)
                seen.refusal = seen.refusal or str(error)
                continue
            seen.taken, seen.pixels = seen.taken + int(mask.sum()), seen.pixels + mask.numel()
            seen.empty += not mask.any()
    seen.contents = joined.contents()
    return seen


def _decide(choice: MaskChoice, seen: _Seen, *, is_complete: bool) -> None:
    if (pair := _two_values(seen.contents)) and is_complete and not seen.lossy and seen.refusal:
        background, value = pair
        key = {"colours": [list(value)]} if isinstance(value, tuple) else {"values": [value]}
        choice.keys["foreground"] = key
        choice.comments.append(
            f"Foreground: {_named(value)}, since all masks hold only it and {_named(background)}, the background."
        )
        return
    if seen.only_alpha == seen.read and is_complete:
        choice.keys["foreground"] = {"above": 127, "channel": "alpha"}
        choice.comments.append("Foreground: the alpha channel, since all masks are black and only it shows anything.")
        return
    if reason := _open_reason(seen):
        choice.keys["foreground"] = "undecided"
        choice.comments.append(f"Foreground: not clear. {reason}")
        choice.alternatives = _cuts(seen.contents) if seen.lossy else _alternatives(seen.contents)
        return
    choice.comments.append(f"Foreground: {_rule_in_words(seen)} ({share(seen.taken, seen.pixels)} of the pixels).")
    if seen.lossy and not seen.taken:
        choice.comments.append(
            "Nothing is brighter than the noise of a lossy file. If there are objects, save masks as PNG."
        )
    if seen.empty:
        have = "mask has" if seen.empty == 1 else "masks have"
        choice.comments.append(f"{seen.empty} {have} no foreground; if that is meant, such as of good parts, say")
        choice.comments.append('empty = "drop", which leaves their images out.')
    if seen.taken > _MOSTLY * seen.pixels:
        choice.comments.append("That is more than half: look at a mask, to see whether it shows the background.")


def _two_values(contents: Sequence[MaskContent]) -> tuple[Value, Value] | None:
    """The background and the only other value of all masks, if there is exactly one and the background is black."""
    if len(contents) != 1 or "alpha" in contents[0].mode or contents[0].mode == "RGBA":
        return None
    (content,) = contents
    if content.unit == "indices":
        if len(content.palette) < len(content.counts):
            return None
        content = by_colour(content)
    values = set(content.counts)
    dark = [value for value in values if max(value if isinstance(value, tuple) else (value,)) == 0]
    others = sorted(value for value in values if value not in dark)
    return (dark[0], others[0]) if len(dark) == len(others) == 1 else None


def _named(value: Value) -> str:
    return f"the colour {list(value)}" if isinstance(value, tuple) else f"level {value}"


def _open_reason(seen: _Seen) -> str:
    """Why it is open which pixels are foreground; empty if the default rule says it."""
    if seen.refusal:
        return f"{_without_path(seen.refusal)}"
    for content in seen.contents:
        values = len(content.counts)
        if content.unit == "indices" and values > 2:
            return "A palette of several indices may hold classes, objects, or a border that does not count."
        if content.unit == "colours" and not seen.lossy and values > 2:
            palettes = "The palettes of the masks differ, and they" if content.mode == "palette" else "The masks"
            return f"{palettes} hold several colours."
        if content.unit == "levels" and not seen.lossy and 2 < values <= CLASSES:
            return "A few levels may be classes, objects, a trimap, or soft edges."
        if content.unit == "levels" and not seen.lossy and _between(content) > _MOSTLY:
            return "Most pixels that are not black are neither black nor white, as if levels were numbers of objects."
    return ""


def _between(content: MaskContent) -> float:
    """The share of the pixels above the smallest level that are below the largest."""
    values = content.values
    above = sum(content.counts[value] for value in values[1:])
    return 1 - content.counts[values[-1]] / above if above else 0.0


def _without_path(text: str) -> str:
    """A refusal whose file is named without its folders."""
    path, _, rest = text.partition(" ")
    return f"{path.rpartition('/')[2]} {rest}"


def _rule_in_words(seen: _Seen) -> str:
    units = {content.unit for content in seen.contents}
    levels = [value for content in seen.contents if content.unit == "levels" for value in content.counts]
    largest = max((level for level in levels if isinstance(level, int)), default=0)
    if units == {"indices"}:
        backgrounds = {content.palette.get(0, _BLACK) for content in seen.contents if 0 in content.counts}
        if backgrounds <= {_BLACK}:
            return "every index but 0, which is black"
        return "the indices whose grey is in the brighter half of the range"
    if not seen.taken:
        return "none, since all masks are black"
    if "colours" in units:
        return "the brighter half of the range, so soft edges are cut in the middle"
    if largest <= 1:
        return "level 1"
    if set(levels) <= {0, 1, largest}:
        return f"level {largest}"
    return f"level {128 if largest <= 255 else 32768} and above, so soft edges are cut in the middle"


def _cuts(contents: Sequence[MaskContent]) -> list[tuple[str, str]]:
    """The lines to choose between for files whose compression changes levels, each with what it takes."""
    return [(cut.text, _taken(cut)) for cut in middle_cuts(contents)]


def _taken(cut: MiddleCut) -> str:
    return f"{share(cut.pixels, cut.share_of)} of the pixels"


def _alternatives(contents: Sequence[MaskContent]) -> list[tuple[str, str]]:
    """The lines to choose between, each with what it takes."""
    has_black = any(0 in content.counts for content in contents)
    lines = [(toml_line("foreground", "nonzero"), "all but 0")] if has_black else []
    for content in contents:
        if content.unit == "colours":
            values = [value for value in content.values if isinstance(value, tuple) and any(value)]
            lines += [(_colours(value), f"{content.share(value)} of the pixels") for value in values[:_ALTERNATIVES]]
            continue
        for value in content.values[:_ALTERNATIVES]:
            if value == 0 and content.palette.get(0, _BLACK) == _BLACK:
                continue
            colour = content.palette.get(value) if isinstance(value, int) else None
            shown = "" if colour is None else f", colour {list(colour)}"
            lines.append((toml_line("foreground", {"values": [value]}), f"{content.share(value)} of the pixels{shown}"))
        if len(content.counts) > _ALTERNATIVES or _may_be_soft(content):
            cuts = [cut for cut in middle_cuts([content]) if not cut.channel]
            lines += [(cut.text, f"{_taken(cut)}, if the levels between are soft edges") for cut in cuts]
        for value in _void(content):
            lines.append((toml_line("ignore", value), "beside foreground, if it is void: a border, or unknown"))
    return lines


def _may_be_soft(content: MaskContent) -> bool:
    """Whether a few levels may be soft edges of one object: the brightest is too bright for a class."""
    return content.unit == "levels" and len(content.counts) > 2 and max(map(_level, content.counts)) > CLASS_IDS


def _level(value: Value) -> int:
    return value if isinstance(value, int) else 0


def _colours(value: Colour) -> str:
    return toml_line("foreground", {"colours": [list(value)]})


def _void(content: MaskContent) -> list[Value]:
    """The values that often do not count: 255 beside others, or the middle or last one of a trimap."""
    if content.unit == "levels" and len(content.counts) == 3:
        first, second, third = sorted(value for value in content.counts if isinstance(value, int))
        return [third if first == 1 or second < CLASSES else second]
    return [255] if 255 in content.counts and len(content.counts) > 2 else []
