"""Lines of a method's own code, for messages about it."""

from __future__ import annotations

import inspect
import re
import sys
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_HARNESS = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Place:
    """A line of a file.

    Attributes:
        file: its path; empty if unknown.
        line: counted from 1.
    """

    file: str = ""
    line: int = 0

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}" if self.file else ""

    @property
    def is_own(self) -> bool:
        """Whether the file is neither the harness's nor an installed package's; built-in methods count as own."""
        path = Path(self.file)
        is_foreign = "site-packages" in path.parts or str(path).startswith((sys.base_prefix, "<"))
        is_harness = _HARNESS in path.parents and path.parent.name != "methods"
        return bool(self.file) and not is_foreign and not is_harness


def place_of(function: object) -> Place:
    """The file and the first line of a function or class; an empty place if they are unknown."""
    code = getattr(inspect.unwrap(function) if callable(function) else function, "__code__", None)
    if code is not None:
        return Place(code.co_filename, code.co_firstlineno)
    try:
        if isinstance(function, type):
            return Place(inspect.getsourcefile(function) or "", inspect.getsourcelines(function)[1])
    except (OSError, TypeError):
        pass
    return Place()


def first_own_place(functions: Iterable[object]) -> Place:
    """The place of the first of these functions or classes that a method's author wrote; an empty one if none is."""
    return next((place for place in map(place_of, functions) if place.is_own), Place())


def innermost_place(error: BaseException) -> Place:
    """The innermost line of a traceback that a method's author wrote; an empty place if none is."""
    found = Place()
    for frame in traceback.extract_tb(error.__traceback__):
        place = Place(frame.filename, frame.lineno or 0)
        if place.is_own:
            found = place
    return found


def assignment_place(owner: type, attribute: str, entry: str = "") -> Place:
    """The first line of a class that assigns to ``self.ATTRIBUTE``; of those that name the entry, if any does.

    Args:
        owner: the class.
        attribute: the attribute's name.
        entry: the name of an entry, if the attribute is a dict.
    """
    try:
        lines, first = inspect.getsourcelines(owner)
    except (OSError, TypeError):
        return Place()
    assigns = re.compile(rf"self\.{re.escape(attribute)}\b[^=]*=(?!=)")
    found = [number for number, line in enumerate(lines, first) if assigns.search(line)]
    naming = [number for number in found if f'"{entry}"' in lines[number - first].replace("'", '"')]
    chosen = naming or found
    return Place(inspect.getsourcefile(owner) or "", chosen[0]) if chosen else Place()
