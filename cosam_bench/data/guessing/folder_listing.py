"""The files below a folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cosam_bench.core.errors import CosamError
from cosam_bench.data.file_patterns import leads_back

DEPTH = 6  # levels of folders below the given one; published sets have at most five
FILES = 1_000_000

Folder = tuple[str, ...]  # the components of a path relative to the root


@dataclass(frozen=True)
class FolderListing:
    """The files of a folder and of those below it.

    Attributes:
        root: the folder.
        files: sorted names by folder, for folders that hold files.
    """

    root: Path
    files: Mapping[Folder, list[str]]

    def below(self, folder: Folder) -> FolderListing:
        """The part of the listing that is in one of the folders."""
        depth = len(folder)
        files = {path[depth:]: names for path, names in self.files.items() if path[:depth] == folder}
        return FolderListing(self.root.joinpath(*folder), files)

    def children(self) -> list[str]:
        """The folders directly in the root that hold files, at any depth, sorted."""
        return sorted({path[0] for path in self.files if path})

    def paths(self, *suffixes: str) -> list[Path]:
        """The files whose names end so, sorted by folder and name."""
        return [
            self.root.joinpath(*folder, name)
            for folder, names in sorted(self.files.items())
            for name in names
            if name.lower().endswith(suffixes)
        ]


def list_folder(root: Path) -> FolderListing:
    """The files below a folder; hidden ones and what is more than six levels down are left out.

    So are links to a folder that holds them, since they show the same files again.

    Raises:
        CosamError: there is no such folder, it is the root of the file system, it cannot be read, or it holds more than
            a million files.
    """
    if not root.is_dir():
        raise CosamError(f"There is no folder {root}. Give the folder that holds your images and masks.")
    if root.resolve() == Path(root.resolve().anchor):
        raise CosamError(f"{root} is the whole file system. Give the folder that holds your images and masks.")
    files: dict[Folder, list[str]] = {}
    count = 0

    def refuse(error: OSError) -> None:
        if isinstance(error, FileNotFoundError):
            return  # it was removed in the meantime
        raise CosamError(f"{error.filename} cannot be read: {error.strerror}. Give a folder that you may read.")

    for path, folders, names in os.walk(root, followlinks=True, onerror=refuse):
        folder = () if Path(path) == root else Path(path).relative_to(root).parts
        kept = [name for name in folders if not name.startswith((".", "__"))]
        kept = [name for name in kept if not leads_back(Path(path, name))]
        folders[:] = sorted(kept) if len(folder) < DEPTH else []
        seen = sorted(name for name in names if not name.startswith("."))
        count += len(seen)
        if count > FILES:
            raise CosamError(f"{root} holds more than {FILES:,} files. Give the folder of the data itself.")
        if seen:
            files[folder] = seen
    return FolderListing(root, files)
