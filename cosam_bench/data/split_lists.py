"""Lists of images by name, of which a split may be made: how they are read, and which image a line names."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from cosam_bench.core.reading import read_text
from cosam_bench.data.pairing import Pair

_LIST_BYTES = 1 << 28  # a million names of 256 bytes


class ImageNames:
    """Finds images by what a line of a list may call them: path, with or without suffix, file name or stem."""

    def __init__(self, pairs: Sequence[Pair]) -> None:
        names: dict[str, set[str]] = {}
        for pair in pairs:
            whole = f"{pair.key}{pair.image.suffix}"
            for name in {pair.key, whole, pair.image.name, pair.image.stem}:
                names.setdefault(name, set()).add(pair.key)
        self._names: Mapping[str, set[str]] = names

    def keys(self, line: str) -> set[str]:
        """The keys of the images that a line names; it can be used if that is one."""
        return self._names.get(line, set())


def read_list(path: Path) -> list[str]:
    """The names in a list: one per line in a text file, the keys of the object in a JSON file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not text in UTF-8, or no JSON.
        TypeError: it holds JSON, but no object.
        RecursionError: it holds JSON that is nested too deeply.
    """
    text = read_text(path, limit_bytes=_LIST_BYTES)
    if path.suffix == ".json":
        return _keys(json.loads(text))
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def _keys(content: object) -> list[str]:
    if not isinstance(content, dict):
        raise TypeError("it does not hold an object whose keys are names")
    return list(content)
