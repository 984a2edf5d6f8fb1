"""Unpacking archives that nobody vouches for: whole and within one folder, or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, NoReturn

from cosam_bench.core.downloads import sha256_of
from cosam_bench.core.errors import CosamError
from cosam_bench.core.files import CannotWrite, hold_alone
from cosam_bench.core.progress_bar import ByteBar, silent
from cosam_bench.data.acquire.archive_members import (
    SUFFIXES,
    BadArchive,
    Member,
    Opened,
    archive_format,
    check_plain,
    opened,
    shown,
)
from cosam_bench.data.locations import Archive

# Masks of one colour shrink by up to a thousand times, but lie beside images, which hardly shrink.
MOST_RATIO = 200  # unpacked bytes for each byte of the archive ...
FREE_RATIO_BYTES = 2**30  # ... beyond the first of these
MOST_MEMBERS = 500_000  # COCO's training images are 118,287
KEPT_FREE_BYTES = 2**28  # of the disk, for the rest of the system

_BLOCK_BYTES = 2**18
_BY_HAND = "If you trust it, unpack it by hand and give the folder in its place."


@dataclass(frozen=True)
class Part:
    """One archive, and the folder below the common one that it is unpacked into; empty: the common one.

    Attributes:
        path: of the archive.
        folder: below the common one.
        is_plain: it is another file, which is put there as it is.
    """

    path: Path
    folder: str = ""
    is_plain: bool = False


def is_archive_name(path: Path) -> bool:
    """Whether a file is called as archives are."""
    return path.name.lower().endswith(SUFFIXES)


def unpack(parts: Sequence[Part], *, into: Path) -> tuple[Path, tuple[Archive, ...]]:
    """The folder that archives are unpacked into, all into one, and what these archives are; plain files are copied.

    It lies in ``into`` and is called after the first archive and the sha256 of all. If it is there already it is
    taken as it is. What macOS adds of its own (``__MACOSX``, ``.DS_Store``) is left out. Links within the
    archive become the file that they point at.

    Raises:
        BadArchive: an archive must not be unpacked (paths or links that lead out, devices, names that differ in
            case alone, far more data than its size makes likely), or cannot be (damaged, encrypted, rar, 7z).
        CannotWrite: there is no room, or ``into`` cannot be written.
        CosamError: another process is unpacking the same.
        KeyboardInterrupt: Ctrl-C; what was unpacked is removed.
    """
    for part in parts:
        check_plain(part.path) if part.is_plain else archive_format(part.path)  # before long files are hashed
    archives = tuple(_described(part.path) for part in parts)
    target = into / _name(parts, archives)
    if target.is_dir():
        return target, archives
    try:
        into.mkdir(parents=True, exist_ok=True)
        with _alone(into / f".{target.name}.lock", target):
            if not target.is_dir():
                _unpack(parts, target, into / f".{target.name}.unpacking")
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            names = " and ".join(str(part.path) for part in parts)
            raise BadArchive(f"{names} was not unpacked: one of its names is too long for this disk.") from None
        raise CannotWrite(
            f"{target} cannot be written: {error.strerror or error}. Nothing was kept of it. Free space, or choose "
            "another data folder."
        ) from None
    except KeyboardInterrupt:
        raise KeyboardInterrupt("What was unpacked so far is removed; the same command unpacks it anew.") from None
    return target, archives


def _described(path: Path) -> Archive:
    size = path.stat().st_size
    with ByteBar(f"checking {path.name}", total_bytes=size) as bar:
        return Archive(file=path.name, sha256=sha256_of(path, on_block=bar.advance), size_bytes=size)


def _name(parts: Sequence[Part], archives: Sequence[Archive]) -> str:
    name = parts[0].path.name
    stem = next((name[: -len(end)] for end in sorted(SUFFIXES, key=len)[::-1] if name.lower().endswith(end)), name)
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "_", stem)[:60].strip(".") or "archive"
    text = "\n".join(f"{archive.sha256} {part.folder}" for part, archive in zip(parts, archives, strict=True))
    return f"{plain}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


@contextmanager
def _alone(lock: Path, target: Path) -> Iterator[None]:
    busy = CosamError(f"Another process is unpacking {target}. Wait for it, or stop it.")
    with lock.open("ab") as file:
        hold_alone(file, busy=busy, path=lock)
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _unpack(parts: Sequence[Part], target: Path, temporary: Path) -> None:
    shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed
    try:
        temporary.mkdir()
        writer = _Writer(temporary, room=_Room(parts, temporary))
        for part in parts:
            if part.is_plain:
                writer.put(part)
                continue
            with opened(part.path) as archive:
                writer.write(part, archive)
        temporary.rename(target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


class _Room:
    """How much may still be unpacked."""

    def __init__(self, parts: Sequence[Part], folder: Path) -> None:
        packed = sum(part.path.stat().st_size for part in parts)
        self._name = " and ".join(str(part.path) for part in parts)
        self._likely = max(FREE_RATIO_BYTES, MOST_RATIO * packed)
        self._free = max(shutil.disk_usage(folder).free - KEPT_FREE_BYTES, 0)
        self._folder = folder.parent
        self._bytes = 0
        self._members = 0

    def check(self, size_bytes: int) -> None:
        """See whether so much more would fit."""
        if self._bytes + size_bytes > self._likely:
            raise BadArchive(
                f"{self._name} was not unpacked: it holds more than {self._likely / 2**30:,.0f} GiB, far more than its "
                f"size makes likely. {_BY_HAND}"
            )
        if self._bytes + size_bytes > self._free:
            raise CannotWrite(
                f"{self._name} unpacks to more than the {self._free / 2**20:,.0f} MiB that are free in {self._folder}. "
                "Free space, or choose another data folder (COSAM_BENCH_DATA)."
            )

    def take(self, size_bytes: int) -> None:
        """Use some."""
        self.check(size_bytes)
        self._bytes += size_bytes

    def count(self) -> None:
        """Use one name."""
        self._members += 1
        if self._members > MOST_MEMBERS:
            raise BadArchive(f"{self._name} holds more than {MOST_MEMBERS:,} members, so it was not unpacked.")


class _Writer:
    """Writes members below one folder; it never writes over anything, nor through a link."""

    def __init__(self, folder: Path, *, room: _Room) -> None:
        self._folder = folder
        self._room = room
        self._files: dict[str, PurePosixPath] = {}  # by their name as file systems that ignore case see it
        self._folders: set[str] = set()

    def write(self, part: Part, archive: Opened) -> None:
        """Unpack one archive."""
        self._room.check(archive.stated_bytes or 0)
        links: list[tuple[PurePosixPath, PurePosixPath, Member]] = []
        with ByteBar(f"unpacking {part.path.name}", total_bytes=part.path.stat().st_size) as bar:
            for member in archive.members:
                self._room.count()
                place = _place(part, member.name)
                if place is None:
                    continue
                if member.kind == "other":
                    _refuse(part, f"{shown(member.name)} is a device or a pipe")
                elif member.kind == "folder":
                    self._claim_folder(part, place)
                    (self._folder / place).mkdir(parents=True, exist_ok=True)
                elif member.kind == "link":
                    links.append((place, _link_target(part, place, member), member))
                else:
                    self._file(part, place, member.open)
                bar.show(archive.position(), part.path.stat().st_size)
        for place, target, member in links:
            self._link(part, place, target, member)

    def put(self, part: Part) -> None:
        """Copy a file that is no archive."""
        self._file(part, PurePosixPath(part.folder, part.path.name), lambda: part.path.open("rb"))

    def _file(self, part: Part, place: PurePosixPath, content_of: Callable[[], IO[bytes]]) -> None:
        path = self._claim(part, place)
        with content_of() as content, path.open("xb") as file:
            while block := content.read(_BLOCK_BYTES):
                self._room.take(len(block))
                file.write(block)

    def _link(self, part: Part, place: PurePosixPath, target: PurePosixPath, member: Member) -> None:
        source = self._folder / target
        if self._files.get(_folded(target)) != target:
            _refuse(part, f"{shown(member.name)} is a link to {shown(member.target)}, which is no file in the archive")
        link_or_copy(source, self._claim(part, place), room=self._room.take)

    def _claim(self, part: Part, place: PurePosixPath) -> Path:
        """The path of a new file, its folder made."""
        key = _folded(place)
        if key in self._files or key in self._folders:
            _refuse(part, f"two of its members are called {shown(str(place))}, or differ in case alone")
        self._files[key] = place
        self._claim_folder(part, place.parent)
        path = self._folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _claim_folder(self, part: Part, place: PurePosixPath) -> None:
        for folder in (place, *place.parents):
            key = _folded(folder)
            if key in self._files:
                _refuse(part, f"{shown(str(folder))} is a file and a folder")
            if key in self._folders:
                return
            self._folders.add(key)


def link_or_copy(source: Path, target: Path, *, room: Callable[[int], None] = silent) -> None:
    """Give a file a second name, or copy it where the file system cannot; a copy's size is told to ``room``."""
    try:
        os.link(source, target)
    except OSError:
        room(source.stat().st_size)
        shutil.copyfile(source, target)


def _folded(place: PurePosixPath) -> str:
    """A name as the least discerning file systems see it, which tell neither case nor ways of writing accents."""
    return unicodedata.normalize("NFC", str(place)).casefold()


def _place(part: Part, name: str) -> PurePosixPath | None:
    """Where a member belongs, relative to the folder; None for what is left out."""
    plain = name.replace("\\", "/")  # as Windows' own packers write
    if plain.startswith("/") or re.match(r"[A-Za-z]:", plain):
        _refuse(part, f"{shown(name)} is an absolute path")
    steps = [step for step in plain.split("/") if step not in ("", ".")]
    if ".." in steps or "\0" in plain:
        _refuse(part, f"{shown(name)} leads out of the folder")
    if not steps or "__MACOSX" in steps or steps[-1] == ".DS_Store" or steps[-1].startswith("._"):
        return None
    return PurePosixPath(part.folder, *steps)


def _link_target(part: Part, place: PurePosixPath, member: Member) -> PurePosixPath:
    """The place that a link points at, which must lie in the same archive."""
    start = PurePosixPath(part.folder) if member.is_hard_link else place.parent
    target = PurePosixPath(os.path.normpath(start / member.target.replace("\\", "/")))
    top = PurePosixPath(part.folder)
    if target.is_absolute() or ".." in target.parts or not target.is_relative_to(top) or "\0" in member.target:
        _refuse(part, f"{shown(member.name)} is a link that leads out, to {shown(member.target)}")
    return target


def _refuse(part: Part, reason: str) -> NoReturn:
    raise BadArchive(f"{part.path} was not unpacked: {reason}. Nothing was kept of it. {_BY_HAND}")
