"""What is searched of a method's settings: the ranges that they declare, and those that a user gives."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from cosam_bench.core.errors import CosamError, unknown_name
from cosam_bench.core.search_ranges import SearchRange, range_from, search_ranges
from cosam_bench.core.settings import read_toml
from cosam_bench.experiments.chosen_method import chosen_method
from cosam_bench.experiments.protocol import RunConfig
from cosam_bench.isolation.descriptions import MethodFacts
from cosam_bench.method.registry import short_name

Space: TypeAlias = dict[str, SearchRange]
"""By the setting's name, the values to try."""

Ranges: TypeAlias = Mapping[str, Mapping[str, Any]]
"""By the method's name and the setting's, a table as ``range_from`` takes it."""


def read_ranges(path: Path) -> Ranges:
    """The tables ``[METHOD.SETTING]`` of a TOML file.

    Raises:
        CosamError: the file cannot be read, or has something else.
    """
    tables = read_toml(path)
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise CosamError(f"{path}: {name!r} is not a table. Write [METHOD.SETTING], and low and high below it.")
    return tables


def check_methods(ranges: Ranges, methods: Collection[str]) -> None:
    """Refuse ranges of a method that is not tuned.

    Raises:
        CosamError: there are such.
    """
    for name in ranges:
        if name not in methods:
            raise unknown_name("method that is tuned, as the ranges have it,", name, sorted(methods))


def space_of(
    config: RunConfig,
    *,
    isolated: bool | None,
    results: Path | None = None,
    ranges: Ranges | None = None,
    fixed: Collection[str] = (),
) -> Space:
    """The settings of a method that are tuned, in the order of their definition; empty if there are none.

    Args:
        config: the method's run.
        isolated: as for ``chosen_method``.
        results: as for ``chosen_method``.
        ranges: those of the user, which replace the declared ones.
        fixed: settings that the user has given a value, which are not tuned.

    Raises:
        CosamError: a range is of no setting or none that the setting allows, or its setting has a given value.
    """
    method, _ = chosen_method(config, isolated, results=results)
    if isinstance(method, MethodFacts):
        names, space = list(method.settings), dict(method.ranges)
    else:
        names, space = list(method.Settings.model_fields), search_ranges(method.Settings)
    for name, table in (ranges or {}).get(short_name(config.method), {}).items():
        if name not in names:
            raise unknown_name(f"setting of {short_name(config.method)!r}", name, names)
        if name in fixed:
            raise CosamError(f"method.{name} has a given value and a range to tune it in. Leave out one of them.")
        space[name] = _checked(config, name, table, isolated=isolated, results=results)
    return {name: space[name] for name in names if name in space and name not in fixed}


def _checked(
    config: RunConfig, name: str, table: object, *, isolated: bool | None, results: Path | None
) -> SearchRange:
    try:
        found = range_from(table)
    except ValueError as error:
        raise CosamError(f"The range of {short_name(config.method)}.{name}: {error}.") from None
    for value in found.choices or (found.low, found.high):
        chosen_method(with_settings(config, {name: value}), isolated, results=results)
    return found


def with_settings(config: RunConfig, settings: Mapping[str, Any]) -> RunConfig:
    """The same run with other settings of its method."""
    return config.model_copy(update={"settings": config.settings | dict(settings)})
