"""Protocol files: the built-in ones, a user's own, and the modes within one file."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from cosam_bench.core.errors import CosamError, unknown_name
from cosam_bench.core.files import expanded
from cosam_bench.core.settings import read_toml

CLEAN = "clean"
"""The mode of a protocol unless another is chosen: its tables as they are."""

SECTIONS = ("model", "adapter", "prompts", "fit", "score")
"""The tables that a mode changes key by key; it replaces everything else as a whole."""

_FIXED = ("name", "version", "mode", "modes")


def built_in_protocols() -> dict[str, Path]:
    """The files of the built-in protocols, by name."""
    folder = Path(str(files("cosam_bench.experiments") / "protocols"))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def read_protocol(asked: str) -> tuple[dict[str, dict[str, Any]], Path]:
    """The tables of a protocol in each of its modes, ``clean`` first, and the folder where relative paths start.

    Args:
        asked: a built-in protocol's name, or the path of a TOML file.

    Raises:
        CosamError: the protocol does not exist, or its modes are not tables of settings.
    """
    known = built_in_protocols()
    path = known.get(asked) or expanded(asked)
    if asked not in known and path.suffix != ".toml":
        raise unknown_name("protocol", asked, known)
    data = read_toml(path)
    if "mode" in data:
        raise CosamError(
            f"{path}: 'mode' is not a key of a protocol file. Describe a mode as [modes.NAME], and choose it by --mode."
        )
    modes = data.pop("modes", {})
    if not isinstance(modes, dict) or not all(isinstance(table, dict) for table in modes.values()):
        raise CosamError(f"{path}: 'modes' must have one table per mode. Write, for example, [modes.faithful.fit].")
    if CLEAN in modes:
        raise CosamError(f"{path}: {CLEAN!r} is the protocol itself. Give [modes.{CLEAN}] another name.")
    return {CLEAN: data} | {name: _in_mode(data, name, table, path) for name, table in modes.items()}, path.parent


def _in_mode(data: dict[str, Any], mode: str, changes: Mapping[str, Any], path: Path) -> dict[str, Any]:
    fixed = [key for key in _FIXED if key in changes]
    if fixed:
        raise CosamError(f"{path}: a mode cannot change {fixed[0]!r}. Remove it from [modes.{mode}].")
    changed = dict(data)
    for key, value in changes.items():
        changed[key] = _laid_over(data.get(key), value) if key in SECTIONS else value
    if "methods" in changes:
        changed["methods"] = _laid_over(data.get("methods"), changes["methods"], depth=2)
    return changed | {"name": f"{data.get('name', '')}-{mode}", "mode": mode}


def _laid_over(base: object, changes: object, *, depth: int = 1) -> Any:
    """``base`` with the keys of ``changes``, down to ``depth`` tables; anything that is not a table is replaced."""
    if not depth or not isinstance(base, dict) or not isinstance(changes, dict):
        return changes
    inner = {key: _laid_over(base.get(key), value, depth=depth - 1) for key, value in changes.items()}
    return base | inner
