"""The range in which a setting is tuned: as it was declared, or as the setting's type and bounds say."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

Declared: TypeAlias = "tuple[float, float] | tuple[float, float, Literal['log']] | None"
"""How ``setting(search=...)`` declares a range: the lowest and the highest value, ``log`` for a search by order of
magnitude; None for a setting that is not tuned."""

_INSET = 0.01  # of the range, by which a search stays away from a bound that the setting excludes


@dataclass(frozen=True)
class SearchRange:
    """The values among which a setting is tuned: ``choices``, or the numbers from ``low`` to ``high``.

    Attributes:
        choices: all of them; empty for numbers.
        low: the lowest number.
        high: the highest number.
        is_log: search by order of magnitude.
        is_whole: only whole numbers.
    """

    choices: tuple[bool | int | float | str, ...] = ()
    low: float = 0.0
    high: float = 0.0
    is_log: bool = False
    is_whole: bool = False

    def __contains__(self, value: object) -> bool:
        """Whether the search can try a value."""
        if self.choices:
            return any(value == choice and type(value) is type(choice) for choice in self.choices)
        return _is_number(value) and self.low <= value <= self.high  # type: ignore[operator]  # it is a number

    def __str__(self) -> str:
        """In words.

        >>> str(SearchRange(low=1e-9, high=1.0, is_log=True)), str(SearchRange(choices=("sum", "mean")))
        ('1e-09 to 1, log', 'sum, mean')
        """
        if self.choices:
            return ", ".join(
                str(choice).lower() if isinstance(choice, bool) else str(choice) for choice in self.choices
            )
        return f"{self.low:g} to {self.high:g}{', log' if self.is_log else ''}"

    def as_table(self) -> dict[str, Any]:
        """As TOML has it; ``range_from`` reads it."""
        if self.choices:
            return {"choices": list(self.choices)}
        table = {"low": self.low, "high": self.high, "log": self.is_log}
        return table if self.is_whole == _are_whole(self.low, self.high) else table | {"whole": self.is_whole}


def range_from(table: object) -> SearchRange:
    """The range that a table gives, with ``choices``, or with ``low``, ``high`` and, by default false, ``log``.

    Numbers are whole if ``whole`` says so; without it, if both ends are.

    Raises:
        ValueError: the table is not a range; the message says why.

    >>> range_from({"low": 0.1, "high": 10, "log": True})
    SearchRange(choices=(), low=0.1, high=10, is_log=True, is_whole=False)
    """
    if not isinstance(table, Mapping) or not table:
        raise ValueError("write choices = [...], or low and high")
    if set(table) == {"choices"}:
        choices = table["choices"]
        if (
            not isinstance(choices, list)
            or not choices
            or not all(isinstance(one, str | int | float) for one in choices)
        ):
            raise ValueError("choices must be a list of texts, numbers or truth values, at least one")
        return SearchRange(choices=tuple(choices))
    if not {"low", "high"} <= set(table) <= {"low", "high", "log", "whole"}:
        raise ValueError(f"it has the keys {', '.join(map(str, table))}; write choices = [...], or low and high")
    low, high, is_log = table["low"], table["high"], table.get("log", False)
    if not all(map(_is_number, (low, high))) or not isinstance(is_log, bool):
        raise ValueError("low and high must be numbers, and log true or false")
    is_whole = table.get("whole", _are_whole(low, high))
    if not isinstance(is_whole, bool):
        raise ValueError("whole must be true or false")
    if not low < high or (is_log and low <= 0):
        raise ValueError(f"low = {low} must be below high = {high}{', and above 0 for log' if is_log else ''}")
    return SearchRange(low=low, high=high, is_log=is_log, is_whole=is_whole)


def _are_whole(low: object, high: object) -> bool:
    return isinstance(low, int) and isinstance(high, int)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def search_ranges(model: type[BaseModel]) -> dict[str, SearchRange]:
    """By the setting's name, the range in which it is tuned; settings without one are left out.

    What is not declared follows from the type: all choices, true and false, or the numbers between two bounds. A bound
    that the setting excludes is left by a hundredth of the range, or by 1 for whole numbers. None is never a choice:
    a file of tuned settings is TOML, which cannot say it.
    """
    found = {name: search_range(field) for name, field in model.model_fields.items()}
    return {name: one for name, one in found.items() if one is not None}


def search_range(field: FieldInfo) -> SearchRange | None:
    """The range of one setting; None if it is not tuned."""
    extra = field.json_schema_extra
    if isinstance(extra, dict) and "search" in extra:
        declared = extra["search"]
        return _declared(declared, is_whole=is_whole(field)) if isinstance(declared, list) else None
    plain = _plain(field.annotation)
    if plain is bool:
        return SearchRange(choices=(False, True))
    if get_origin(plain) is Literal:
        choices = tuple(choice for choice in get_args(plain) if choice is not None)
        return SearchRange(choices=choices) if len(choices) > 1 else None
    return _bounded(field, is_whole=plain is int) if plain in (int, float) else None


def is_whole(field: FieldInfo) -> bool:
    """Whether the numbers that a setting takes are whole."""
    kinds = _kinds(field.annotation)
    return int in kinds and float not in kinds


def _kinds(annotation: Any) -> set[Any]:
    plain = _plain(annotation)
    parts = () if get_origin(plain) is Literal else get_args(plain)
    return set().union(*map(_kinds, parts)) if parts else {plain}


def _plain(annotation: Any) -> Any:
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def _declared(declared: Sequence[Any], *, is_whole: bool) -> SearchRange:
    low, high, *log = declared
    return SearchRange(low=low, high=high, is_log=bool(log), is_whole=is_whole)


def _bounded(field: FieldInfo, *, is_whole: bool) -> SearchRange | None:
    bounds = {
        name: getattr(constraint, name)
        for constraint in field.metadata
        for name in ("ge", "gt", "le", "lt")
        if getattr(constraint, name, None) is not None
    }
    lows, highs = ([bounds[name] for name in names if name in bounds] for names in (("ge", "gt"), ("le", "lt")))
    if not lows or not highs:
        return None
    low, high = max(lows), min(highs)
    inset = 1 if is_whole else _INSET * (high - low)
    low, high = low + inset * (low == bounds.get("gt")), high - inset * (high == bounds.get("lt"))
    return SearchRange(low=low, high=high, is_whole=is_whole) if low < high else None
