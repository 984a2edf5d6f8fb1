"""Where the data of each card is on this machine: one small file per card; the data itself stays in place."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import field_validator

from cosam_bench.core.errors import CosamError
from cosam_bench.core.files import expanded, write_atomically
from cosam_bench.core.settings import Settings, read_toml, validate
from cosam_bench.data.cards import Key, Sha256
from cosam_bench.data.file_patterns import is_utf8


class Archive(Settings):
    """An archive that a card's data was unpacked from.

    Attributes:
        file: its name.
        sha256: of its bytes.
        size_bytes: their number.
    """

    file: str
    sha256: Sha256
    size_bytes: int = 0


class Location(Settings):
    """Where one card's data is.

    Attributes:
        layout: the card's layout that was recognised.
        root: the folder that the layout's paths are relative to, absolute.
        archives: what the data was unpacked from, if known.
    """

    layout: Key
    root: Path
    archives: tuple[Archive, ...] = ()

    @field_validator("root")
    @classmethod
    def _is_absolute(cls, root: Path) -> Path:
        if not root.is_absolute():
            raise ValueError("the root must be an absolute path")
        return root


def data_folder() -> Path:
    """The folder of locations and fetched data: ``COSAM_BENCH_DATA``, else ``data`` in the cache folder.

    Raises:
        CosamError: the path begins with ``~name``, and that user has no home folder here.
    """
    if chosen := os.environ.get("COSAM_BENCH_DATA"):
        return expanded(chosen).absolute()
    cache = os.environ.get("COSAM_BENCH_CACHE") or "~/.cache/cosam-bench"  # as for weights
    return (expanded(cache) / "data").absolute()


def location_path(name: str) -> Path:
    """The file that holds the location of the data of the card ``name``."""
    return data_folder() / f"{name}.toml"


def read_location(name: str) -> Location | None:
    """Where the data of a card is; None if it has not been prepared.

    Raises:
        CosamError: the file is damaged.
    """
    path = location_path(name)
    if not path.exists():
        return None
    return validate(Location, read_toml(path), source=f"{path} (delete it and run `cosam-bench data prepare {name}`)")


def write_location(name: str, location: Location) -> Path:
    """Write where a card's data is; returns the path of the file.

    Raises:
        CosamError: the data folder cannot be written, or a path is not UTF-8.
    """
    import tomli_w

    for text in (str(location.root), *(archive.file for archive in location.archives)):
        if not is_utf8(text):
            raise CosamError(f"The path {text!r} is not UTF-8, so it cannot be recorded. Rename it.")
    path = location_path(name)
    write_atomically(path, tomli_w.dumps(location.model_dump() | {"root": str(location.root)}))
    return path
