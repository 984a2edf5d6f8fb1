"""The members of an archive of any format; nothing is written here."""

from __future__ import annotations

import bz2
import gzip
import lzma
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

from cosam_bench.data.acquire.archive_formats import BadArchive, DamagedArchive, Format, archive_format

HEADER_BYTES = 2**20  # limit of one header in a tar file; file names are far shorter
LINK_BYTES = 4096  # limit of a link's target in a zip file: Linux's longest path

Kind = Literal["file", "folder", "link", "other"]


@dataclass(frozen=True)
class Member:
    """One entry of an archive.

    Attributes:
        name: as stated, untrusted.
        kind: of entry; devices and pipes are ``other``.
        target: of a link, as stated: relative to the link, or for a hard link to the archive's top.
        is_hard_link: a hard link of tar.
        open: opens the content, which must be read before the next member is taken.
    """

    name: str
    kind: Kind
    open: Callable[[], IO[bytes]]
    target: str = ""
    is_hard_link: bool = False


@dataclass(frozen=True)
class Opened:
    """An archive while it is read.

    Attributes:
        members: in the archive's order.
        position: the number of the archive's own bytes that have been read.
        stated_bytes: the unpacked size of all members, as stated; None if the archive has no list.
    """

    members: Iterator[Member]
    position: Callable[[], int]
    stated_bytes: int | None


@contextmanager
def opened(path: Path) -> Iterator[Opened]:
    """An archive, opened to be read once from beginning to end.

    Raises:
        DamagedArchive: it is cut off or broken; also raised while the members are read.
        BadArchive: it is encrypted, or its format or compression cannot be read here.
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
    except NotImplementedError as error:  # zipfile does not know the compression
        raise BadArchive(
            f"{path} cannot be unpacked here: {error}. Unpack it by hand (7-Zip reads most compressions), and give the "
            "folder instead."
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
        raise BadArchive(f"{path} is encrypted. Unpack it by hand with its password, and give the folder instead.")
    for entry in entries:
        mode = entry.external_attr >> 16 if entry.create_system == 3 else 0  # 3 is Unix; other systems have no modes
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
            archive.members.clear()  # or they would accumulate in memory
            found: Kind = "file" if entry.isreg() else "folder" if entry.isdir() else "other"
            if entry.issym() or entry.islnk():
                found = "link"
            if entry.size < 0:  # tarfile would go back and read the same forever
                _damaged(path, f"a member of {entry.size} bytes")
            yield Member(
                entry.name,
                found,
                _reader(archive, entry),
                target=entry.linkname,
                is_hard_link=entry.islnk(),
            )
        plain.seek(archive.offset)
        # tarfile accepts a file that ends between two members or continues with garbage.
        if plain.read(tarfile.BLOCKSIZE).strip(b"\0") or plain.tell() < archive.offset + tarfile.BLOCKSIZE:
            _damaged(path, "its end is missing")
        while plain.read(tarfile.BLOCKSIZE * 16):
            pass  # to the checksum of the compressed stream


def _reader(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> Callable[[], IO[bytes]]:
    return lambda: cast("IO[bytes]", archive.extractfile(entry))  # None only for what is not a file, which nobody opens


def _decompressed(file: IO[bytes], kind: Format) -> IO[bytes]:
    if kind == "tar.gz":
        return gzip.GzipFile(fileobj=file)  # type: ignore[return-value]  # it reads, seeks and tells
    if kind == "tar.bz2":
        return bz2.BZ2File(file)
    return lzma.LZMAFile(file) if kind == "tar.xz" else file


class _Capped:
    """A file whose reads are limited to the size of a header, since tarfile trusts the sizes in headers."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self._path = path
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= HEADER_BYTES:
            _damaged(self._path, f"a header of {size} bytes")
        try:
            return self._file.read(size)
        except OSError as error:  # bz2 raises this for a broken stream
            if error.errno is None:
                _damaged(self._path, str(error))
            raise
