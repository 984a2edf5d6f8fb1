"""The names in one folder, found by globs; also those that look the same and are not.

macOS and Linux write accents in different forms of Unicode.
"""

from __future__ import annotations

import fnmatch
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from functools import cached_property
from unicodedata import is_normalized, normalize


class FolderNames:
    """Finds names without looking at each of them for each glob.

    Args:
        names: of the files of one folder.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = sorted(names)

    @cached_property
    def _all(self) -> list[tuple[str, str]]:
        return sorted((normalize("NFC", name), name) for name in self._names)

    @cached_property
    def _otherwise(self) -> list[tuple[str, str]]:
        return [(form, name) for form, name in self._all if form != name]

    def matching(self, pattern: str, *, start: str) -> Iterator[str]:
        """The names that a glob matches; hidden ones only if it says so, as with :mod:`glob`.

        Args:
            pattern: a glob of names.
            start: what all names that it matches begin with, as long as possible; no glob.
        """
        fits = re.compile(fnmatch.translate(pattern))
        for name in self._names[bisect_left(self._names, start) :]:
            if not name.startswith(start):
                return
            if fits.match(name) and (pattern.startswith(".") or not name.startswith(".")):
                yield name

    def look_alikes(self, pattern: str, *, start: str) -> Iterator[str]:
        """The names that a glob would match if both had the form NFC, and does not match as they are.

        Args:
            pattern: a glob of names.
            start: as for ``matching``.
        """
        names = self._otherwise if is_normalized("NFC", pattern) else self._all
        start = normalize("NFC", start)
        first = bisect_left(names, (start, ""))
        if first == len(names) or not names[first][0].startswith(start):
            return
        looks_so, is_so = (re.compile(fnmatch.translate(text)) for text in (normalize("NFC", pattern), pattern))
        for form, name in names[first:]:
            if not form.startswith(start):
                return
            if looks_so.match(form) and not is_so.match(name):
                yield name
