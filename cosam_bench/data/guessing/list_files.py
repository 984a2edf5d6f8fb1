"""Lists of images below a folder, such as ``train.txt`` and ``test.txt``, as the split of a domain."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cosam_bench.data.faults import first_few
from cosam_bench.data.file_patterns import relative
from cosam_bench.data.guessing.folder_listing import FolderListing
from cosam_bench.data.guessing.folder_words import Division, division_of
from cosam_bench.data.pairing import Pair
from cosam_bench.data.split_lists import ImageNames, read_list

SUFFIXES = (".txt", ".csv")
_OF_NAMES = 0.9  # of the lines of a list must each name one image
_SHOWN = 3  # files whose reason is given
_LINE = 60  # characters of a line that are shown


@dataclass(frozen=True)
class ListFile:
    """A file that is called like a list of one part, and has lines.

    Attributes:
        name: its path relative to the folder.
        part: what it is called.
        lines: their number.
        named: how many of them name one image each.
        other: the first line that does not; empty if all do.
    """

    name: str
    part: Division
    lines: int
    named: int
    other: str

    @property
    def is_list(self) -> bool:
        """Whether nearly all lines name an image; ``data check`` then names the others."""
        return self.named >= _OF_NAMES * self.lines


@dataclass(frozen=True)
class SplitLists:
    """The lists of a folder.

    Attributes:
        train: the list of training images; None if none is used.
        test: that of test images, likewise.
        unused: files that are called like lists and are not used.
    """

    train: ListFile | None
    test: ListFile | None
    unused: tuple[ListFile, ...]

    def reasons(self, *, has_split: bool) -> str:
        """Why the first of the files are not used.

        Args:
            has_split: something else is the split already.
        """
        texts = [f"{one.name} ({self._reason(one, has_split=has_split)})" for one in self.unused]
        return first_few(texts, shown=_SHOWN, separator="; ")

    def _reason(self, one: ListFile, *, has_split: bool) -> str:
        if not one.is_list:
            return f"{one.named} of its {one.lines} lines name one image each; {one.other[:_LINE]!r} does not"
        if self.train is not None:
            return f"the split is that of {self.train.name}"
        return "something else is the split" if has_split else "no list of the other part can be used"


def find_lists(
    listing: FolderListing, pairs: Sequence[Pair], *, annotations: Collection[Path], has_split: bool
) -> SplitLists:
    """The lists that are called ``train``, ``test`` or ``validation`` and name a domain's images.

    Args:
        listing: of the domain's folder.
        pairs: its images and masks.
        annotations: files that hold the annotations of images.
        has_split: something else is the split already.
    """
    found = list(_list_files(listing, pairs, annotations))
    train, test, validation = (
        next((one for one in found if one.part == part and one.is_list), None)
        for part in ("train", "test", "validation")
    )
    test = test or validation
    if has_split or train is None or test is None:
        train = test = None
    unused = (one for one in found if one not in (train, test) and not one.name.endswith(".json"))
    return SplitLists(train, test, tuple(unused))


def _list_files(listing: FolderListing, pairs: Sequence[Pair], annotations: Collection[Path]) -> Iterator[ListFile]:
    names, stems = ImageNames(pairs), {pair.image.stem for pair in pairs}
    for path in sorted(listing.paths(*SUFFIXES, ".json"), key=lambda path: path.suffix.lower() != ".txt"):
        part = division_of(path.stem)
        if part is None or path.stem in stems or path in annotations:
            continue
        if lines := _lines(path):
            others = [line for line in lines if len(names.keys(line)) != 1]
            named = len(lines) - len(others)
            yield ListFile(relative(path, listing.root), part, len(lines), named, next(iter(others), ""))


def _lines(path: Path) -> list[str]:
    try:
        return read_list(path)
    except (OSError, ValueError, TypeError, RecursionError):
        return []
