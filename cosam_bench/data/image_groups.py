"""Images that belong together, such as those of one patient: a split keeps them in one part."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_GROUP = "{group}"


@dataclass(frozen=True)
class GroupPattern:
    """Finds the group of an image by its path.

    Args:
        pattern: of the end of an image's path without suffix, in which ``{group}`` is the part that images of one
            group share, as short as possible, ``*`` anything and ``?`` one character, none of them beyond a ``/``.

    >>> GroupPattern("{group}_*").of("images/p07_slice3")
    'p07'
    >>> GroupPattern("{group}/*").of("scans/p07/slice3")
    'p07'
    """

    pattern: str

    def of(self, key: str) -> str | None:
        """The group of an image; None if the pattern does not fit it.

        Args:
            key: its path relative to the root, without suffix.
        """
        parts = key.split("/")
        end = "/".join(parts[-1 - self.pattern.count("/") :])
        found = re.fullmatch(self._expression(), end)
        return found["group"] if found else None

    def _expression(self) -> str:
        meanings = {_GROUP: "(?P<group>[^/]+?)", "*": "[^/]*", "?": "[^/]"}
        pieces = re.split(r"(\{group\}|\*|\?)", self.pattern)
        return "".join(meanings.get(piece, re.escape(piece)) for piece in pieces)


def group_fault(pattern: str) -> str:
    """What is wrong with a pattern; empty if it can be used."""
    if pattern.count(_GROUP) != 1 or {"{", "}"} & {*pattern.replace(_GROUP, "")}:
        return 'group needs {group} once and no other braces, such as "{group}_*" for p07_1.png, or "{group}/*"'
    return ""


def shared_groups(pattern: str, train: Sequence[str], test: Sequence[str]) -> list[str]:
    """The groups that have images in both parts, sorted.

    Args:
        pattern: of the groups.
        train: paths of images without suffix.
        test: likewise.
    """
    groups = GroupPattern(pattern)
    return sorted({group for key in train if (group := groups.of(key))} & {groups.of(key) or "" for key in test})


def groups_of(pattern: str, keys: Sequence[str]) -> tuple[Mapping[str, str], list[str]]:
    """The group of each image by its path, and the paths that the pattern does not fit."""
    groups = GroupPattern(pattern)
    found = {key: groups.of(key) for key in keys}
    return {key: group for key, group in found.items() if group}, [key for key, group in found.items() if not group]
