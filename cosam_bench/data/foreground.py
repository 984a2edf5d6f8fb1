"""Which pixels of a mask file are foreground."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from cosam_bench.core.errors import CosamError
from cosam_bench.core.settings import Settings, setting

Array = NDArray[Any]

CLASS_IDS = 32  # a mask with levels below this and 255 holds class ids and an ignored one
AREA_SHARE = 0.02  # of the pixels that are not black; soft edges have hardly four equal neighbours
TRIMAP_SHARE = 0.05  # likewise, of the only level between black and the largest
JPEG_NOISE = 16  # the noise of a black JPEG stays below this


Level = Annotated[int, Field(ge=0, le=65535)]
Channel = Annotated[int, Field(ge=0, le=255)]
Colour = tuple[Channel, Channel, Channel]
_OURS = "this project"


class Foreground(Settings):
    """Which pixels of a mask file are foreground.

    In TOML one of ``"auto"``, ``"nonzero"``, ``{ above = 127 }``, ``{ values = [255] }``,
    ``{ colours = [[255, 0, 0]] }``; the first three may name a ``channel`` as well. ``"undecided"`` refuses every mask:
    ``cosam-bench data init`` writes it if somebody must choose.

    ``auto`` reads 1 bit masks as they are, values 0 and 1 as ids, and all other greys as foreground
    from the middle of the range on (128 of 255), so the soft edges of a JPEG are cut in the middle.
    Neutral RGB counts as grey, alpha is laid over black, and in a coloured palette whose index 0 is black every
    other index is foreground. Refused, since they may mean several things: masks of class ids (a largest value from
    2 to 127, ids below 32 beside 255, whole areas of middle levels, as dense ids have, or a single middle level, as
    trimaps have), a coloured palette with another index 0 or with 255 beside other indices, and coloured masks. Say
    which values or colours are meant.
    """

    rule: Literal["auto", "nonzero", "above", "values", "colours", "undecided"] = setting(
        "auto", "which rule applies; follows from the key that is given", source=_OURS
    )
    above: int | None = setting(
        None, "foreground is every level above this, in the file's own range", source=_OURS, ge=0, le=65534
    )
    values: tuple[Level, ...] = setting(
        (), "foreground is each of these levels; in a palette image they are indices", source=_OURS
    )
    colours: tuple[Colour, ...] = setting((), "foreground is each of these RGB colours (0 to 255 each)", source=_OURS)
    channel: Literal["red", "green", "blue", "alpha"] | None = setting(
        None, "use this channel of a colour mask alone", source=_OURS
    )

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, data: Any) -> Any:
        if isinstance(data, str):
            return {"rule": data}
        if isinstance(data, dict) and "rule" not in data:
            given = [key for key in ("above", "values", "colours") if key in data]
            if len(given) > 1:
                raise ValueError(f"give only one of {', '.join(given)}")
            return data | {"rule": given[0] if given else "auto"}
        if isinstance(data, int | float | list):
            raise ValueError(
                'write "auto", "nonzero", { values = [255] }, { above = 127 } or { colours = [[255, 0, 0]] }'
            )
        return data

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        given = {"above": self.above is not None, "values": bool(self.values), "colours": bool(self.colours)}
        if any(is_given != (key == self.rule) for key, is_given in given.items()):
            if self.rule in ("values", "colours") and not given[self.rule]:
                raise ValueError(f"{self.rule} is empty, so no pixel would be foreground; list at least one")
            raise ValueError(f"the rule {self.rule!r} contradicts the other keys of this table")
        if self.channel and self.rule == "undecided":
            raise ValueError('"undecided" names no pixels, so leave channel out')
        if self.channel and self.rule == "colours":
            raise ValueError("colours use all channels, so leave channel out")
        return self


class ProtocolForeground(Foreground):
    """A built-in protocol's rule for all masks: it holds for lossy files, too, as a paper's code read them."""


def check_is_exact(rule: Foreground, *, name: str, loss: str, advice: Callable[[], str]) -> None:
    """Refuse a rule of exact levels or colours for a mask file whose compression may change them.

    Args:
        rule: which pixels are foreground.
        name: the file's name.
        loss: what the file is, as half a sentence.
        advice: what to do.

    Raises:
        CosamError: the rule may take a part of each object alone, or some of the background.
    """
    is_low = rule.above is not None and rule.above < JPEG_NOISE
    if isinstance(rule, ProtocolForeground) or not (is_low or rule.rule in ("nonzero", "values", "colours")):
        return
    raise CosamError(
        f"{name} is {loss}, so this rule may take a part of an object alone, or what is beside it. {advice()}"
    )


def foreground_pixels(
    levels: Array, *, rule: Foreground, name: str, loss: str = "", advice: Callable[[], str] = str
) -> Array:
    """Which pixels of a mask are foreground, bool ``(H, W)``.

    Args:
        levels: whole numbers, ``(H, W)``, in the mask file's own range.
        rule: which of them are foreground.
        name: the file's name, for errors.
        loss: what the file is, as half a sentence, if its compression may change levels, so that unusual ones mean
            nothing; empty if they are exact.
        advice: what to do with a lossy file.

    Raises:
        CosamError: the rule is ``auto`` and the levels look like class ids, or the file is lossy and no level reaches
            the middle of the range.
    """
    if rule.rule == "nonzero":
        return np.asarray(levels != 0)
    if rule.above is not None:
        return np.asarray(levels > rule.above)
    if rule.rule == "values":
        return np.isin(levels, rule.values)
    return _lossy(levels, name=name, loss=loss, advice=advice) if loss else _auto(levels, name=name)


def _lossy(levels: Array, *, name: str, loss: str, advice: Callable[[], str]) -> Array:
    largest = int(levels.max(initial=0))
    half = 128 if largest <= 255 else 32768
    if JPEG_NOISE <= largest < half:
        raise CosamError(
            f"{name} is {loss}, and its largest level, {largest}, is below the middle of the range. {advice()}"
        )
    return np.asarray(levels >= half)


def _auto(levels: Array, *, name: str) -> Array:
    largest = int(levels.max(initial=0))
    if largest <= 1:
        return np.asarray(levels == 1)
    half = 128 if largest <= 255 else 32768
    if largest >= half and _has_one_middle_level(levels, unit=half // 8):
        middle = int(np.unique(levels)[1])
        raise CosamError(
            f"{name} looks like a trimap ({listed_levels(levels)}). Say which are foreground, such as "
            f"foreground = {{ values = [{largest}] }}, and whether ignore = {middle} leaves level {middle} out of loss "
            "and metrics."
        )
    is_ids_and_ignored = largest == 255 and _has_low_ids(levels)
    if largest < half or is_ids_and_ignored or _has_middle_areas(levels, largest, unit=half // 8):
        first = int(levels[levels > 0].min())
        raise CosamError(
            f"{name} looks like a mask of class ids ({listed_levels(levels)}). "
            f"Say which are foreground, such as {choices(first)}{_or_ignored(is_ids_and_ignored)}."
        )
    return np.asarray(levels >= half)


def choices(value: int | Colour) -> str:
    """The lines of TOML that a mask leaves to choose from, as half a sentence.

    Args:
        value: a level, index or colour of the mask that is not its background.

    >>> choices(1000)
    'foreground = { values = [1000] }, or "nonzero" for all but 0'
    >>> choices((255, 0, 0))
    'foreground = { colours = [[255, 0, 0]] }'
    """
    if isinstance(value, tuple):
        return f"foreground = {{ colours = [{list(value)}] }}"
    return f'foreground = {{ values = [{value}] }}, or "nonzero" for all but 0'


def _or_ignored(is_usual: bool) -> str:
    return ", and whether ignore = 255 leaves level 255 out of loss and metrics" if is_usual else ""


def _has_one_middle_level(levels: Array, *, unit: int) -> bool:
    """Whether there are three levels, as in a trimap; soft edges have more, or few pixels."""
    found, counts = np.unique(levels, return_counts=True)
    if len(found) != 3 or found[0] != 0:
        return False
    is_middle = unit <= found[1] <= found[2] - unit
    return bool(is_middle and counts[1] > TRIMAP_SHARE * counts[1:].sum())


def _has_low_ids(levels: Array) -> bool:
    found = np.flatnonzero(np.bincount(levels.ravel(), minlength=256))
    others = found[(found != 0) & (found != 255)]
    return len(others) > 0 and int(others.max()) < CLASS_IDS


def _has_middle_areas(levels: Array, largest: int, *, unit: int) -> bool:
    """Whether some level between black and the largest covers areas; soft edges change from pixel to pixel."""
    middle = (levels >= unit) & (levels <= largest - unit)
    if not middle.any():
        return False
    corner = levels[:-1, :-1]
    flat = middle[:-1, :-1] & (corner == levels[1:, :-1]) & (corner == levels[:-1, 1:]) & (corner == levels[1:, 1:])
    return bool(flat.sum() > AREA_SHARE * (levels > 0).sum())


def listed_levels(levels: Array) -> str:
    """The levels of a mask with their shares of its pixels; of many the first six, and how many there are.

    >>> listed_levels(np.array([[0, 0, 0, 7]]))
    'levels 0: 75.0 %, 7: 25.0 %'
    """
    found, counts = np.unique(levels, return_counts=True)
    shares = [f"{level}: {share(count, levels.size)}" for level, count in zip(found[:6], counts[:6], strict=True)]
    more = [f"... ({len(found)} in all)"] if len(found) > 6 else []
    return f"levels {', '.join([*shares, *more])}"


def share(count: int, total: int) -> str:
    """A share in per cent, one decimal.

    >>> share(1, 3), share(1, 100000)
    ('33.3 %', 'under 0.1 %')
    """
    percent = 100 * count / max(total, 1)
    return "under 0.1 %" if 0 < percent < 0.1 else f"{percent:.1f} %"
