"""The methods that installed packages offer, as entry points."""

from __future__ import annotations

import sys
from functools import lru_cache
from importlib.metadata import EntryPoints, entry_points
from pathlib import Path

GROUP = "cosam_bench.methods"


def offered_methods() -> EntryPoints:
    """The entry points of all methods; nothing is imported.

    Each installed package has a file to read for this, which takes tens of milliseconds in all, so they are read again
    only after a folder on ``sys.path`` has changed.
    """
    return _read(tuple((place, _state(place)) for place in sys.path))


@lru_cache(maxsize=1)
def _read(_places: tuple[tuple[str, tuple[int, ...]], ...]) -> EntryPoints:
    return entry_points(group=GROUP)


def _state(place: str) -> tuple[int, ...]:
    """What changes when a package is installed in a folder or removed from it."""
    try:
        found = Path(place).stat()  # an empty one is the current folder
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_mtime_ns
