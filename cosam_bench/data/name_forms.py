"""Names of files that look the same and are not: macOS and Linux write accents in different forms of Unicode."""

from __future__ import annotations

import fnmatch
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from unicodedata import is_normalized, normalize


class NameForms:
    """Finds names that differ from a wanted one in their form of Unicode alone, without looking at each of them.

    Args:
        names: of the files of one folder.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._all = sorted((normalize("NFC", name), name) for name in names)
        self._otherwise = [(form, name) for form, name in self._all if form != name]

    def look_alikes(self, pattern: str, *, start: str) -> Iterator[str]:
        """The names that a glob would match if both had the form NFC, and does not match as they are.

        Args:
            pattern: a glob of names.
            start: what all names that it matches begin with, as long as possible; no glob.
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
