"""Where tasks' files are: the interface, and a folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cosam_bench.core.errors import CosamError
from cosam_bench.core.files import write_atomically
from cosam_bench.core.reading import read_text


class TaskFiles(Protocol):
    """Small texts by name. Who reads one sees it whole or not at all, whoever writes at the same time."""

    def names(self) -> set[str]:
        """All names, as they are now."""
        ...

    def read(self, name: str, *, limit_bytes: int) -> str:
        """One text.

        Raises:
            CosamError: it is missing, larger than the limit, or cannot be read.
        """
        ...

    def read_all(self, names: Iterable[str], *, limit_bytes: int) -> dict[str, str]:
        """Several texts by name; what cannot be read is left out."""
        ...

    def write_all(self, texts: Mapping[str, str]) -> None:
        """Write texts by name.

        Raises:
            CosamError: they cannot be written.
        """
        ...

    def remove(self, names: Iterable[str]) -> None:
        """Remove texts; one that is gone already is no error."""
        ...

    def where(self, name: str) -> str:
        """The place of a text, for people."""
        ...


@dataclass(frozen=True)
class FolderFiles:
    """Texts in a folder.

    Attributes:
        folder: need not exist.
    """

    folder: Path

    def names(self) -> set[str]:
        """The names of all files."""
        try:
            return {path.name for path in self.folder.iterdir()}
        except OSError:
            return set()

    def read(self, name: str, *, limit_bytes: int) -> str:
        """The text of a file.

        Raises:
            CosamError: it cannot be read.
        """
        path = self.folder / name
        try:
            return read_text(path, limit_bytes=limit_bytes)
        except (OSError, ValueError) as error:
            raise CosamError(f"{path} cannot be read: {error}. Remove it, and give the same command again.") from None

    def read_all(self, names: Iterable[str], *, limit_bytes: int) -> dict[str, str]:
        """The texts of files."""
        found = {}
        for name in names:
            try:
                found[name] = self.read(name, limit_bytes=limit_bytes)
            except CosamError:
                continue
        return found

    def write_all(self, texts: Mapping[str, str]) -> None:
        """Replace files, except those that have the same text already.

        Raises:
            CannotWrite: the folder cannot be written.
        """
        for name, text in texts.items():
            path = self.folder / name
            if not path.is_file() or path.read_bytes() != text.encode():
                write_atomically(path, text)

    def remove(self, names: Iterable[str]) -> None:
        """Remove files."""
        for name in names:
            (self.folder / name).unlink(missing_ok=True)

    def where(self, name: str) -> str:
        """The path of a file."""
        return str(self.folder / name)
