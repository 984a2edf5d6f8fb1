"""Settings that are given as ``KEY=VALUE``, over the tables of a run."""

from __future__ import annotations

import reprlib
import tomllib
from typing import Any

from cosam_bench.core.errors import CosamError
from cosam_bench.core.settings import BeyondLimits, parse_toml
from cosam_bench.data.file_patterns import is_utf8

RUN_KEYS = (
    "seed",
    "order",
    "device",
    "deterministic",
    "prefix_cache_gib",
    "experts",
    "scales",
    "also_prompts",
    "limit",
)
"""The keys of ``--set`` that belong to the run, not to the protocol or the method."""

_OWN_NAMES = {"method": "settings", "settings": "settings", "protocol": "protocol"}


def override_path(override: str) -> tuple[str, ...]:
    """Where in the tables of a run the key of a ``KEY=VALUE`` text is, however it is written.

    Raises:
        CosamError: it has no key or no ``=``.

    >>> override_path("model.name=tiny"), override_path("protocol.model.name=tiny"), override_path("seed=3")
    (('protocol', 'model', 'name'), ('protocol', 'model', 'name'), ('seed',))
    """
    key, separator, _ = override.partition("=")
    parts = key.strip().split(".")
    if not separator or not all(parts):
        raise CosamError(f"--set {override!r} is not KEY=VALUE. Write, for example, --set adapter.rank=4.")
    if len(parts) > 1 and parts[0] in _OWN_NAMES:
        return (_OWN_NAMES[parts[0]], *parts[1:])
    return tuple(parts) if parts[0] in RUN_KEYS else ("protocol", *parts)


def apply_override(data: dict[str, Any], override: str) -> None:
    """Set one key in the tables of a run.

    Args:
        data: the tables, which are changed.
        override: ``KEY=VALUE``; the value is read as TOML, or else as text.

    Raises:
        CosamError: it is not of this form, not valid UTF-8, or chooses the method or the mode; or a table that it
            names is a value.
    """
    if not is_utf8(override):
        raise CosamError(f"--set {reprlib.repr(override)} is not valid UTF-8, so it cannot be recorded. Correct it.")
    path = override_path(override)
    if path == ("protocol", "method"):
        raise CosamError(
            f"--set {override!r} cannot choose the method. Give --method NAME, and its settings as method.KEY=VALUE."
        )
    if path == ("protocol", "mode"):
        raise CosamError(f"--set {override!r} cannot choose the mode. Give --mode NAME.")
    table = data
    for part in path[:-1]:
        inner = table.setdefault(part, {})
        if not isinstance(inner, dict):
            raise CosamError(f"--set {override!r}: {part!r} is a value, not a table of settings.")
        table = inner
    table[path[-1]] = _typed(override.partition("=")[2].strip(), override)


def _typed(text: str, override: str) -> Any:
    try:
        tables = parse_toml(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    except BeyondLimits as error:
        raise CosamError(f"--set {reprlib.repr(override)}: {error}. Write a plain value.") from None
    return tables["value"] if len(tables) == 1 else text  # a line break may begin a second key
