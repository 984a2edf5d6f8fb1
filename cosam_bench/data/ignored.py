"""Which pixels of a mask file are neither foreground nor background."""

from __future__ import annotations

from typing import Any, Self

from pydantic import model_validator

from cosam_bench.core.settings import Settings, setting
from cosam_bench.data.foreground import Colour, Foreground, Level

_OURS = "this project"


class Ignored(Settings):
    """Which pixels of a mask file are left out of training losses and of all metrics, such as VOC's borders.

    In TOML a level, ``255``, several, ``[254, 255]``, or one of ``{ values = [255] }`` and
    ``{ colours = [[224, 224, 192]] }``. Levels of a palette image are its indices; if ``foreground`` names a channel,
    levels are those of this channel.
    """

    values: tuple[Level, ...] = setting((), "each of these levels; in a palette image they are indices", source=_OURS)
    colours: tuple[Colour, ...] = setting((), "each of these RGB colours (0 to 255 each)", source=_OURS)

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, data: Any) -> Any:
        if isinstance(data, int) and not isinstance(data, bool):
            return {"values": (data,)}
        if isinstance(data, str | float):
            raise ValueError("give a level, such as 255, a list of levels, or { colours = [[224, 224, 192]] }")
        return {"values": data} if isinstance(data, list | tuple) else data

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if bool(self.values) == bool(self.colours):
            raise ValueError("give either values or colours, such as ignore = 255")
        return self

    def as_foreground(self, foreground: Foreground) -> Foreground:
        """The rule whose foreground are the ignored pixels of a mask that is read by ``foreground``."""
        if self.colours:
            return Foreground(rule="colours", colours=self.colours)
        return Foreground(rule="values", values=self.values, channel=foreground.channel)
