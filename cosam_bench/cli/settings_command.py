"""``cosam-bench settings``: every key that ``--set`` and a protocol file accept."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cosam_bench.core.console import results_console
from cosam_bench.core.errors import CosamError

if TYPE_CHECKING:
    from cosam_bench.core.setting_keys import SettingKey

_LISTED_ELSEWHERE = ("mode", "methods")  # --mode chooses the mode; a method's settings are a group of their own
_WHOLE_TABLE = "foreground"  # may be one word, so its keys are listed below it among the protocol's own

Prefix = Annotated[
    str | None, typer.Argument(metavar="[PREFIX]", help="Show the keys that begin with this: fit, or adapter.rank.")
]
ProtocolName = Annotated[
    str | None, typer.Option("--protocol", metavar="NAME", help="Show the values of this protocol, not the defaults.")
]
Mode = Annotated[str | None, typer.Option(metavar="NAME", help="The protocol's mode; default: clean.")]
Method = Annotated[str | None, typer.Option("--method", "-m", metavar="NAME", help="Show this method's settings too.")]


@dataclass(frozen=True)
class SettingGroup:
    """The keys of one table, under a title that says where to write them."""

    title: str
    keys: tuple[SettingKey, ...]


def settings(prefix: Prefix = None, *, protocol: ProtocolName = None, mode: Mode = None, method: Method = None) -> None:
    """List the settings: each key's value, type and meaning, and where its default comes from.

    `run --set KEY=VALUE` accepts every key. A protocol file accepts all but those of the run, fit.epochs as
    epochs in the table `fit`.
    """
    from cosam_bench.cli.settings_listing import print_settings

    if mode and not protocol:
        raise CosamError("--mode chooses a mode of a protocol. Give --protocol as well.")
    groups = setting_groups(method)
    chosen = _beginning_with(prefix, groups) if prefix else groups
    values = _values(groups, protocol, mode, method) if protocol else {}
    for group in chosen:
        print_settings(results_console(), group.title, group.keys, values=values)


def setting_groups(method: str | None = None) -> list[SettingGroup]:
    """All keys of a run and of a protocol, and those of one method."""
    from cosam_bench.core.setting_keys import setting_keys
    from cosam_bench.experiments.overrides import RUN_KEYS
    from cosam_bench.experiments.protocol import Protocol, RunConfig

    groups = [SettingGroup("Run (--set only)", tuple(key for key in setting_keys(RunConfig) if key.name in RUN_KEYS))]
    of_protocol = [key for key in setting_keys(Protocol) if key.name not in _LISTED_ELSEWHERE]
    for table, keys in groupby(of_protocol, key=_table):
        groups.append(SettingGroup(f"Protocol, table [{table}]" if table else "Protocol", tuple(keys)))
    if method:
        from cosam_bench.method.source_reading import describe

        of_method = tuple(setting_keys(describe(method).settings, prefix="method."))
        groups.append(SettingGroup(f"Method {method}; in a protocol file: table [methods.{method}]", of_method))
    return groups


def _table(key: SettingKey) -> str:
    table, dot, _ = key.name.partition(".")
    return table if dot and table != _WHOLE_TABLE else ""


def _beginning_with(prefix: str, groups: list[SettingGroup]) -> list[SettingGroup]:
    chosen = [
        SettingGroup(group.title, tuple(key for key in group.keys if key.name.startswith(prefix))) for group in groups
    ]
    if not any(group.keys for group in chosen):
        raise _no_key(prefix, [key.name for group in groups for key in group.keys])
    return [group for group in chosen if group.keys]


def _no_key(prefix: str, keys: list[str]) -> CosamError:
    """The error for a prefix that no key has, with the keys that are near it, by their last word or as a whole."""
    if prefix.startswith("method") and not any(key.startswith("method.") for key in keys):
        return CosamError(f"No setting begins with {prefix!r}. Give --method NAME to list a method's settings.")
    last_words = {key: key.rpartition(".")[2] for key in keys}
    close = difflib.get_close_matches(prefix.rpartition(".")[2], last_words.values())
    near = [key for key, word in last_words.items() if word in close] or difflib.get_close_matches(prefix, keys)
    tables = dict.fromkeys(key.partition(".")[0] for key in keys)
    hint = f"Did you mean {' or '.join(near)}?" if near else f"Known: {', '.join(tables)}."
    return CosamError(f"No setting begins with {prefix!r}. {hint}")


def _values(groups: list[SettingGroup], protocol: str, mode: str | None, method: str | None) -> dict[str, str]:
    """The keys' values under a protocol, as in TOML; keys that it leaves at None are left out."""
    from cosam_bench.core.setting_keys import in_toml
    from cosam_bench.data.protocol_files import CLEAN
    from cosam_bench.experiments.protocol import load_protocol

    tables: Any = load_protocol(protocol, mode=mode or CLEAN).model_dump(mode="json", exclude_none=True)
    tables["method"] = tables["methods"].get(method, {})
    values = {}
    for key in (key.name for group in groups for key in group.keys):
        found = tables
        for part in key.split("."):
            found = found.get(part) if isinstance(found, dict) else None
        if found is not None:
            values[key] = in_toml(found)
    return values
