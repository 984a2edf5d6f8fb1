"""Where the data of the cards lies on this machine: one small record a card, the data itself stays in place."""

from __future__ import annotations

import json
import os
from pathlib import Path

from pydantic import field_validator

from cosam_bench.core.errors import CosamError
from cosam_bench.core.files import expanded, write_atomically
from cosam_bench.core.settings import Settings, read_toml, validate
from cosam_bench.data.cards import Key, Sha256


class Archive(Settings):
    """An archive that placed data was unpacked from.

    Attributes:
        file: its name.
        sha256: of its bytes.
        size_bytes: their number.
    """

    file: str
    sha256: Sha256
    size_bytes: int = 0


class Placed(Settings):
    """Where one card's data lies.

    Attributes:
        layout: the card's layout that was recognised.
        root: the folder that the layout's paths start at, absolute.
        archives: what the data was unpacked from, where that is known.
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
    """Where records and fetched data lie: ``COSAM_BENCH_DATA``, else ``data`` in the cache folder.

    Raises:
        CosamError: the folder begins with ``~name`` for somebody who has no home here.
    """
    if chosen := os.environ.get("COSAM_BENCH_DATA"):
        return expanded(chosen).absolute()
    cache = os.environ.get("COSAM_BENCH_CACHE") or "~/.cache/cosam-bench"  # as for weights
    return (expanded(cache) / "data").absolute()


def record_path(name: str) -> Path:
    """The file that says where the data of the card called ``name`` lies."""
    return data_folder() / f"{name}.toml"


def read_placed(name: str) -> Placed | None:
    """Where the data of a card lies; None where it has not been placed.

    Raises:
        CosamError: the record is damaged.
    """
    path = record_path(name)
    if not path.exists():
        return None
    return validate(Placed, read_toml(path), source=f"{path} (delete it and run `cosam-bench data prepare {name}`)")


def write_placed(name: str, placed: Placed) -> Path:
    """Record where a card's data lies; returns the record's path.

    Raises:
        CosamError: the data folder cannot be written, or a path cannot be put into TOML.
    """
    lines = [f"layout = {_quoted(placed.layout)}", f"root = {_quoted(str(placed.root))}"]
    for archive in placed.archives:
        lines += ["", "[[archives]]", f"file = {_quoted(archive.file)}"]
        lines += [f"sha256 = {_quoted(archive.sha256)}", f"size_bytes = {archive.size_bytes}"]
    path = record_path(name)
    write_atomically(path, "\n".join(lines) + "\n")
    return path


def _quoted(text: str) -> str:
    """A TOML basic string, whose escapes are JSON's but for one character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise CosamError(f"The path {text!r} is not UTF-8, so it cannot be recorded. Rename the folder.") from None
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
