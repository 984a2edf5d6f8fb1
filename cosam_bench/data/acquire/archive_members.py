"""What lies in an archive, member by member, whatever its format; nothing is written here."""

from __future__ import annotations

import bz2
import gzip
import lzma
import reprlib
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, NoReturn, cast

from cosam_bench.core.errors import CosamError

HEADER_BYTES = 2**20  # of one header in a tar file: a longer one is no file name
LINK_BYTES = 4096  # of one link's target in a zip file: Linux's longest path

Format = Literal["zip", "tar", "tar.gz", "tar.bz2", "tar.xz"]
Kind = Literal["file", "folder", "link", "other"]

_MAGICS: dict[bytes, str] = {
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",  # an empty one
    b"\x1f\x8b": "tar.gz",
    b"BZh": "tar.bz2",
    b"\xfd7zXZ\x00": "tar.xz",
    b"Rar!\x1a\x07": "rar",
    b"7z\xbc\xaf\x27\x1c": "7z",
}
_TAR_MAGIC = (257, b"ustar")
_PAGES = (b"<!doctype html", b"<html")
SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2", ".tbz", ".rar", ".7z")


class BadArchive(CosamError):
    """An archive cannot be unpacked, or must not be."""


class DamagedArchive(BadArchive):
    """An archive is cut off or broken: fetching it again may help.

    Args:
        path: of the archive.
        reason: what is wrong with it.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} {reason.strip().rstrip('.')}. Fetch it again.")
        self.path = path


@dataclass(frozen=True)
class Member:
    """One entry of an archive.

    Attributes:
        name: as it stands there, untrusted.
        kind: of entry; devices and pipes are ``other``.
        target: of a link, as it stands there: from a hard link's name, from the archive's top.
        is_hard_link: the link is one of tar's hard links.
        open: the content, to be read before the next member is asked for.
    """

    name: str
    kind: Kind
    open: Callable[[], IO[bytes]]
    target: str = ""
    is_hard_link: bool = False


def shown(name: str) -> str:
    """A foreign name as it may stand in a message: short, and without control characters."""
    return reprlib.repr(name)


def archive_format(path: Path) -> Format:
    """An archive's format, by its content.

    Raises:
        BadArchive: it is none that can be unpacked here; what it is, and what to do.
        DamagedArchive: it is empty or a web page.
    """
    head = _head(path, wanted="an archive")
    is_tar = head[_TAR_MAGIC[0] :].startswith(_TAR_MAGIC[1])
    name = next((name for magic, name in _MAGICS.items() if head.startswith(magic)), "tar" if is_tar else "")
    if name in ("rar", "7z"):
        raise BadArchive(
            f"{path} is a {name} archive, which cannot be unpacked here. Unpack it by hand (7-Zip reads it), and give "
            "the folder in its place."
        )
    if not name:
        raise BadArchive(f"{path} is no archive of a known kind (zip, tar, tar.gz, tar.bz2, tar.xz).")
    return name  # type: ignore[return-value]  # of _MAGICS without the two above


def check_plain(path: Path) -> None:
    """See that a file that is no archive holds something, and no web page.

    Raises:
        BadArchive: it cannot be read.
        DamagedArchive: it is empty or a web page.
    """
    _head(path, wanted="the file")


def _head(path: Path, *, wanted: str) -> bytes:
    """The first bytes of a file that is neither empty nor a web page."""
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise BadArchive(f"{path} cannot be read: {error.strerror or error}.") from None
    if not head:
        raise DamagedArchive(path, "is empty")
    if head.lstrip().lower().startswith(_PAGES):
        raise DamagedArchive(
            path,
            f"is a web page, not {wanted}: the site asked for a login or a confirmation in place of sending it",
        )
    return head


@dataclass(frozen=True)
class Opened:
    """An archive while it is read.

    Attributes:
        members: in the archive's order.
        position: how many of the archive's own bytes lie behind the member just read.
        stated_bytes: of all members together, unpacked, as the archive states; None where it has no list.
    """

    members: Iterator[Member]
    position: Callable[[], int]
    stated_bytes: int | None


@contextmanager
def opened(path: Path) -> Iterator[Opened]:
    """An archive, opened to be read once from its beginning to its end.

    Raises:
        DamagedArchive: it is cut off or broken; also while the members are gone through.
        BadArchive: it is encrypted, or in a format or with a compression that cannot be read here.
    """
    kind = archive_format(path)
    try:
        with path.open("rb") as file:
            if kind == "zip":
                with zipfile.ZipFile(file) as archive:
                    stated = sum(entry.file_size for entry in archive.infolist())
                    yield Opened(_zip(path, archive), file.tell, stated)
            else:
                yield Opened(_tar(path, file, kind), file.tell, None)
    except NotImplementedError as error:  # zipfile's word for a compression it does not know
        raise BadArchive(
            f"{path} cannot be unpacked here: {error}. Unpack it by hand (7-Zip reads most compressions), and give the "
            "folder in its place."
        ) from None
    except (
        zipfile.BadZipFile,
        tarfile.TarError,
        gzip.BadGzipFile,
        lzma.LZMAError,
        zlib.error,
        EOFError,
        struct.error,
        ValueError,
        OverflowError,
        RecursionError,
    ) as error:
        _damaged(path, str(error) or type(error).__name__)


def _damaged(path: Path, reason: str) -> NoReturn:
    raise DamagedArchive(path, f"is damaged or cut off: {reason.strip().splitlines()[0]}")


def _zip(path: Path, archive: zipfile.ZipFile) -> Iterator[Member]:
    entries = archive.infolist()
    if any(entry.flag_bits & 0x1 for entry in entries):
        raise BadArchive(f"{path} is encrypted. Unpack it by hand with its password, and give the folder in its place.")
    for entry in entries:
        mode = entry.external_attr >> 16 if entry.create_system == 3 else 0  # 3: Unix, which alone has modes
        kind: Kind = "folder" if entry.is_dir() else "file"
        if stat.S_ISLNK(mode):
            kind = "link"
        elif stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
            kind = "other"
        target = ""
        if kind == "link":
            with archive.open(entry) as content:
                target = content.read(LINK_BYTES).decode(errors="replace")
        yield Member(entry.filename, kind, _opener(archive, entry), target)


def _opener(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Callable[[], IO[bytes]]:
    return lambda: archive.open(entry)


def _tar(path: Path, file: IO[bytes], kind: Format) -> Iterator[Member]:
    plain = _Capped(path, _decompressed(file, kind))
    with tarfile.open(fileobj=plain, mode="r:") as archive:  # type: ignore[call-overload]  # it reads, seeks and tells
        while (entry := archive.next()) is not None:
            archive.members.clear()  # else they pile up in memory
            found: Kind = "file" if entry.isreg() else "folder" if entry.isdir() else "other"
            if entry.issym() or entry.islnk():
                found = "link"
            if entry.size < 0:  # tarfile would go back and read the same for ever
                _damaged(path, f"a member of {entry.size} bytes")
            yield Member(
                entry.name,
                found,
                _reader(archive, entry),
                target=entry.linkname,
                is_hard_link=entry.islnk(),
            )
        plain.seek(archive.offset)
        # tarfile takes a file that ends between two members, or goes on with rubbish, for a whole one.
        if plain.read(tarfile.BLOCKSIZE).strip(b"\0") or plain.tell() < archive.offset + tarfile.BLOCKSIZE:
            _damaged(path, "its end is missing")
        while plain.read(tarfile.BLOCKSIZE * 16):
            pass  # to the checksum of the compressed stream


def _reader(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> Callable[[], IO[bytes]]:
    return lambda: cast("IO[bytes]", archive.extractfile(entry))  # None of what is no file, which nobody opens


def _decompressed(file: IO[bytes], kind: Format) -> IO[bytes]:
    if kind == "tar.gz":
        return gzip.GzipFile(fileobj=file)  # type: ignore[return-value]  # it reads, seeks and tells
    if kind == "tar.bz2":
        return bz2.BZ2File(file)
    return lzma.LZMAFile(file) if kind == "tar.xz" else file


class _Capped:
    """A file of which no more is read at once than a header may have: tarfile trusts what headers say."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self._path = path
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= HEADER_BYTES:
            _damaged(self._path, f"a header of {size} bytes")
        try:
            return self._file.read(size)
        except OSError as error:  # bz2's word for a broken stream
            if error.errno is None:
                _damaged(self._path, str(error))
            raise
