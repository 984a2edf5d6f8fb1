"""Settings as a list for people: each key with its value, type, default, meaning and source."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from rich.padding import Padding
from rich.text import Text

if TYPE_CHECKING:
    from rich.console import Console

    from cosam_bench.core.setting_keys import SettingKey


_INDENT = (0, 0, 0, 4)


def print_settings(
    console: Console,
    title: str,
    keys: Iterable[SettingKey],
    *,
    values: Mapping[str, str] = MappingProxyType({}),
    shows_search: bool = False,
) -> None:
    """Print a title and, below it, the keys.

    Args:
        values: by the key's name, its value as in TOML, if that is not the default.
        shows_search: say in which range `tune` searches each key.
    """
    console.print(f"\n{title}", style="bold")
    for key in keys:
        value = values.get(key.name, key.default)
        facts = [f"default {key.default}"] if value != key.default else []
        console.print()
        console.print(Text.assemble((key.name, "bold"), f" = {value}", (f"  ({'; '.join([*facts, key.type])})", "dim")))
        console.print(Padding(key.meaning, _INDENT))
        if key.source:
            console.print(Padding(f"default from: {key.source}", _INDENT, style="dim"))
        if shows_search:
            console.print(Padding(f"tuned in: {key.search}" if key.search else "not tuned", _INDENT, style="dim"))
