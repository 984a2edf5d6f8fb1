"""Which file or folder is the expert of which domain: by its name in a folder, or by a table in a TOML file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from cosam_bench.core.errors import CosamError
from cosam_bench.core.files import expanded
from cosam_bench.core.settings import read_toml
from cosam_bench.data.faults import first_few

ENDINGS = (".safetensors", ".pth", ".pt")
"""What a file that holds one expert may end in."""


def expert_sources(place: Path, domains: Sequence[str]) -> dict[str, Path]:
    """By the domain's name, the file or folder of its expert.

    Args:
        place: a folder with a folder or a file per domain, of the domain's name; or a TOML file with a table
            ``[experts]``, domain to path, such as the stream's own file; ``~`` and variables of paths are expanded.
        domains: those that need an expert.

    Raises:
        CosamError: the place is missing, or a domain has no expert or several.
    """
    if place.suffix == ".toml":
        return _from_table(place, domains)
    if not place.is_dir():
        raise CosamError(
            f"{place} is not a folder of experts. Give a folder with one expert per domain, named after it, or a TOML "
            "file with a table [experts]."
        )
    found = {name: _candidates(place, name) for name in domains}
    missing = [name for name, paths in found.items() if not paths]
    if missing:
        raise CosamError(
            f"{place} has no expert for {first_few(missing)}. It holds {_listing(place)}. Name a folder, or a file "
            f"that ends in {', '.join(ENDINGS)}, after each domain of the stream."
        )
    several = [paths for paths in found.values() if len(paths) > 1]
    if several:
        raise CosamError(f"{several[0][0]} and {several[0][1]} are both an expert of one domain. Remove one of them.")
    return {name: paths[0] for name, paths in found.items()}


def unused_experts(place: Path, domains: Sequence[str]) -> list[str]:
    """What the place names as an expert, as ``expert_sources`` reads it, though no domain has the name; sorted."""
    if place.suffix == ".toml":
        return sorted(set(read_toml(place)["experts"]) - set(domains))
    found = (path for path in place.iterdir() if not path.name.startswith("."))
    experts = (path for path in found if path.is_dir() or path.suffix in ENDINGS)
    used = {path for name in domains for path in _candidates(place, name)}
    return sorted(path.name for path in experts if path not in used)


def expert_folders(paths: Iterable[Path]) -> list[Path]:
    """The folders that hold these experts, which an isolated method has no reason to read."""
    return list(dict.fromkeys(path if path.is_dir() else path.absolute().parent for path in paths))


def _candidates(folder: Path, domain: str) -> list[Path]:
    paths = [folder / domain, *(folder / f"{domain}{ending}" for ending in ENDINGS)]
    return [path for path in paths if path.exists()]


def _listing(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    return first_few(names) if names else "nothing"


def _from_table(file: Path, domains: Sequence[str]) -> dict[str, Path]:
    table = read_toml(file).get("experts")
    example = "Write, say, polyp = 'adapters/polyp'."
    if not isinstance(table, dict):
        raise CosamError(f"{file} has no table [experts] of domains and paths. {example}")
    for name, path in table.items():
        if not isinstance(path, str) or not path:
            raise CosamError(f"{name} = {path!r} in [experts] of {file} is no path. {example}")
    missing = [name for name in domains if name not in table]
    if missing:
        named = first_few(list(table)) if table else "none"
        raise CosamError(
            f"[experts] in {file} names no expert for {first_few(missing)}. It names {named}. Add a line for each "
            "domain."
        )
    paths = {name: file.absolute().parent / os.path.expandvars(expanded(table[name])) for name in domains}
    absent = [path for path in paths.values() if not path.exists()]
    if absent:
        raise CosamError(f"{absent[0]}, which [experts] in {file} names, does not exist. Correct the path.")
    return paths
