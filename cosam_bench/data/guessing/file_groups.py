"""Folders of one kind: those of both parts, or of all cases, whose names differ in one place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cosam_bench.data.file_patterns import has_image_name
from cosam_bench.data.guessing.folder_listing import Folder, FolderListing
from cosam_bench.data.guessing.folder_words import (
    Division,
    Role,
    division_of,
    folder_division,
    folder_role,
    role_of,
    without_division,
)

ANY, PART = "*", "{part}"  # in the place of a component that differs


@dataclass(frozen=True)
class FileGroup:
    """Folders whose paths are the same except in one component.

    Attributes:
        template: the common path; ``*`` or ``{part}`` in the place of what differs.
        role: what the path says.
        folders: the names of the files in each folder.
    """

    template: Folder
    role: Role | None
    folders: Mapping[Folder, list[str]]

    @property
    def names(self) -> list[str]:
        """All different names of files, sorted."""
        return sorted({name for names in self.folders.values() for name in names})

    @property
    def count(self) -> int:
        """The number of files."""
        return sum(map(len, self.folders.values()))

    @property
    def is_by_case(self) -> bool:
        """Whether each case has a folder of its own."""
        return ANY in self.template

    def divisions(self) -> dict[Division, list[Folder]]:
        """The folders of each part that their paths name."""
        found: dict[Division, list[Folder]] = {}
        for folder in sorted(self.folders):
            if part := folder_division(folder):
                found.setdefault(part, []).append(folder)
        return found

    def varying(self) -> list[int]:
        """The positions of the components that differ."""
        return [place for place, name in enumerate(self.template) if name == ANY or PART in name]


def file_groups(listing: FolderListing, takes: Callable[[str], bool]) -> list[FileGroup]:
    """The folders with files of one kind, grouped; those that hold most files first.

    Args:
        listing: of the data.
        takes: whether a file of this name is of the kind.
    """
    cases = case_parents(listing)
    groups: dict[tuple[Folder, Role | None], dict[Folder, list[str]]] = {}
    for folder, names in listing.files.items():
        if kept := [name for name in names if takes(name)]:
            role = folder_role(folder)
            groups.setdefault((_template(folder, cases), role), {})[folder] = kept
    found = [FileGroup(template, role, folders) for (template, role), folders in groups.items()]
    return sorted(found, key=lambda group: (-group.count, group.template))


def _template(folder: Folder, cases: set[Folder]) -> Folder:
    names = [without_division(name, PART) for name in folder]
    for place in range(len(folder)):
        is_case = folder[:place] in cases
        is_class = (
            place == len(folder) - 1 and folder_role(folder[:place]) is not None and role_of(folder[place]) is None
        )
        if names[place] == folder[place] and (is_case or is_class):
            names[place] = ANY
            break
    return tuple(names)


def case_parents(listing: FolderListing) -> set[Folder]:
    """The folders in which each folder is one case: it holds one image beside its masks.

    A folder of many images is a domain or a class of images, not a case.
    """
    images: dict[Folder, dict[str, int]] = {}
    for folder, names in listing.files.items():
        is_mask_folder = folder_role(folder) == "mask"
        kept = [name for name in names if has_image_name(Path(name))]
        count = 0 if is_mask_folder else len([name for name in kept if role_of(_stem(name)) != "mask"])
        if len(kept) == 2 and count == 2:
            count = 1  # neither name says which is the mask
        for depth in range(len(folder)):
            below = images.setdefault(folder[:depth], {})
            below[folder[depth]] = below.get(folder[depth], 0) + count
    return {
        parent
        for parent, counts in images.items()
        if len(counts) > 1
        and set(counts.values()) == {1}
        and not any(role_of(name) or division_of(name) for name in counts)
    }


def _stem(name: str) -> str:
    return name.rpartition(".")[0]
