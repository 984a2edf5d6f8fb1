"""Writing the members of untrusted archives below one folder, within limits."""

from __future__ import annotations

import os
import re
import shutil
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, NoReturn

from cosam_bench.core.files import CannotWrite
from cosam_bench.core.progress_bar import ByteBar, no_progress
from cosam_bench.data.acquire.archive_formats import BadArchive, quoted
from cosam_bench.data.acquire.archive_members import Member, Opened

# Masks of one colour compress up to a thousand times, but come with images, which hardly compress.
MOST_RATIO = 200  # unpacked bytes per byte of the archive ...
FREE_RATIO_BYTES = 2**30  # ... beyond this many
MOST_MEMBERS = 500_000  # COCO's training images are 118,287
KEPT_FREE_BYTES = 2**28  # left on the disk for other programs

_BLOCK_BYTES = 2**18
_BY_HAND = "If you trust it, unpack it by hand and give the folder instead."


@dataclass(frozen=True)
class DataFile:
    """An archive to unpack, or another file to copy.

    Attributes:
        path: of the file.
        folder: where its content goes, below the common folder; empty for the common folder itself.
        is_archive: it is unpacked, not copied.
    """

    path: Path
    folder: str = ""
    is_archive: bool = True


def paths_of(files: Sequence[DataFile]) -> str:
    """The files' paths, for messages."""
    return " and ".join(str(file.path) for file in files)


class Quota:
    """How much may still be unpacked."""

    def __init__(self, files: Sequence[DataFile], folder: Path) -> None:
        packed = sum(file.path.stat().st_size for file in files)
        self._name = paths_of(files)
        self._likely = max(FREE_RATIO_BYTES, MOST_RATIO * packed)
        self._free = max(shutil.disk_usage(folder).free - KEPT_FREE_BYTES, 0)
        self._folder = folder.parent
        self._bytes = 0
        self._members = 0

    def check(self, size_bytes: int) -> None:
        """Refuse if so many more bytes would be too many."""
        if self._bytes + size_bytes > self._likely:
            raise BadArchive(
                f"{self._name} was not unpacked: it holds more than {self._likely / 2**30:,.0f} GiB, far more than its "
                f"size suggests. {_BY_HAND}"
            )
        if self._bytes + size_bytes > self._free:
            raise CannotWrite(
                f"{self._name} unpacks to more than the {self._free / 2**20:,.0f} MiB that are free in {self._folder}. "
                "Free space, or choose another data folder (COSAM_BENCH_DATA)."
            )

    def take(self, size_bytes: int) -> None:
        """Count bytes."""
        self.check(size_bytes)
        self._bytes += size_bytes

    def take_member(self) -> None:
        """Count one member."""
        self._members += 1
        if self._members > MOST_MEMBERS:
            raise BadArchive(f"{self._name} holds more than {MOST_MEMBERS:,} members, so it was not unpacked.")


class MemberWriter:
    """Writes members below one folder; it never overwrites a file, and never writes through a link."""

    def __init__(self, folder: Path, *, quota: Quota) -> None:
        self._folder = folder
        self._quota = quota
        self._files: dict[str, PurePosixPath] = {}  # by their name on file systems that ignore case
        self._folders: set[str] = set()

    def write(self, source: DataFile, archive: Opened) -> None:
        """Unpack one archive."""
        self._quota.check(archive.stated_bytes or 0)
        links: list[tuple[PurePosixPath, PurePosixPath, Member]] = []
        size = source.path.stat().st_size
        with ByteBar(f"unpacking {source.path.name}", total_bytes=size) as bar:
            for member in archive.members:
                self._quota.take_member()
                path = _member_path(source, member.name)
                if path is None:
                    continue
                if member.kind == "other":
                    _refuse(source, f"{quoted(member.name)} is a device or a pipe")
                elif member.kind == "folder":
                    self._claim_folder(source, path)
                    (self._folder / path).mkdir(parents=True, exist_ok=True)
                elif member.kind == "link":
                    links.append((path, _link_target(source, path, member), member))
                else:
                    self._write_file(source, path, member.open)
                bar.show(archive.position(), size)
        for path, target, member in links:
            self._link(source, path, target, member)

    def copy(self, source: DataFile) -> None:
        """Copy a file that is not an archive."""
        self._write_file(source, PurePosixPath(source.folder, source.path.name), lambda: source.path.open("rb"))

    def _write_file(self, source: DataFile, path: PurePosixPath, open_content: Callable[[], IO[bytes]]) -> None:
        new = self._claim(source, path)
        with open_content() as content, new.open("xb") as file:
            while block := content.read(_BLOCK_BYTES):
                self._quota.take(len(block))
                file.write(block)

    def _link(self, source: DataFile, path: PurePosixPath, target: PurePosixPath, member: Member) -> None:
        if self._files.get(_folded(target)) != target:
            _refuse(
                source,
                f"{quoted(member.name)} is a link to {quoted(member.target)}, which is not a file in the archive",
            )
        link_or_copy(self._folder / target, self._claim(source, path), on_copy=self._quota.take)

    def _claim(self, source: DataFile, path: PurePosixPath) -> Path:
        """The path of a new file, its folder made."""
        key = _folded(path)
        if key in self._files or key in self._folders:
            _refuse(source, f"two of its members are called {quoted(str(path))}, or differ only in case")
        self._files[key] = path
        self._claim_folder(source, path.parent)
        new = self._folder / path
        new.parent.mkdir(parents=True, exist_ok=True)
        return new

    def _claim_folder(self, source: DataFile, path: PurePosixPath) -> None:
        for folder in (path, *path.parents):
            key = _folded(folder)
            if key in self._files:
                _refuse(source, f"{quoted(str(folder))} is both a file and a folder")
            if key in self._folders:
                return
            self._folders.add(key)


def link_or_copy(source: Path, target: Path, *, on_copy: Callable[[int], None] = no_progress) -> None:
    """Give a file a second name, or copy it if the file system has no links; ``on_copy`` is told the size first."""
    try:
        os.link(source, target)
    except OSError:
        on_copy(source.stat().st_size)
        shutil.copyfile(source, target)


def _folded(path: PurePosixPath) -> str:
    """A name on file systems that ignore case and the composition of accents."""
    return unicodedata.normalize("NFC", str(path)).casefold()


def _member_path(source: DataFile, name: str) -> PurePosixPath | None:
    """Where a member belongs, relative to the folder; None if it is left out."""
    plain = name.replace("\\", "/")  # as written by packers on Windows
    if plain.startswith("/") or re.match(r"[A-Za-z]:", plain):
        _refuse(source, f"{quoted(name)} is an absolute path")
    components = [one for one in plain.split("/") if one not in ("", ".")]
    if ".." in components or "\0" in plain:
        _refuse(source, f"{quoted(name)} leads out of the folder")
    if not components or "__MACOSX" in components or components[-1] == ".DS_Store" or components[-1].startswith("._"):
        return None
    return PurePosixPath(source.folder, *components)


def _link_target(source: DataFile, path: PurePosixPath, member: Member) -> PurePosixPath:
    """The path that a link points at, which must be in the same archive."""
    start = PurePosixPath(source.folder) if member.is_hard_link else path.parent
    target = PurePosixPath(os.path.normpath(start / member.target.replace("\\", "/")))
    top = PurePosixPath(source.folder)
    if target.is_absolute() or ".." in target.parts or not target.is_relative_to(top) or "\0" in member.target:
        _refuse(source, f"{quoted(member.name)} is a link that leads out, to {quoted(member.target)}")
    return target


def _refuse(source: DataFile, reason: str) -> NoReturn:
    raise BadArchive(f"{source.path} was not unpacked: {reason}. Nothing was kept. {_BY_HAND}")
