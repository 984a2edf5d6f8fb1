"""Which of the files that runs share may be read."""

from __future__ import annotations


class Reusable:
    """All names, or, in a fresh run, only those that were added to this object.

    >>> names = Reusable(fresh=True)
    >>> "a" in names, names.add("a"), "a" in names
    (False, None, True)
    """

    def __init__(self, *, fresh: bool = False) -> None:
        """Nothing is added yet."""
        self._is_fresh = fresh
        self._own: set[str] = set()

    def add(self, name: str) -> None:
        """Remember what this run has written itself."""
        self._own.add(name)

    def __contains__(self, name: str) -> bool:
        return not self._is_fresh or name in self._own
