"""The format of an archive, by its content, and the errors of archives."""

from __future__ import annotations

import reprlib
from pathlib import Path
from typing import Literal

from cosam_bench.core.errors import CosamError

Format = Literal["zip", "tar", "tar.gz", "tar.bz2", "tar.xz"]

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
    """An archive that cannot or must not be unpacked."""


class DamagedArchive(BadArchive):
    """An archive that is cut off or broken: fetching it again may help.

    Args:
        path: of the archive.
        reason: what is wrong with it.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} {reason.strip().rstrip('.')}. Fetch it again.")
        self.path = path


def quoted(name: str) -> str:
    """An untrusted name for a message: short, and without control characters."""
    return reprlib.repr(name)


def is_archive_name(path: Path) -> bool:
    """Whether a file has the suffix of an archive."""
    return path.name.lower().endswith(SUFFIXES)


def archive_format(path: Path) -> Format:
    """An archive's format, by its content.

    Raises:
        BadArchive: the format cannot be unpacked here; the message says what it is, and what to do.
        DamagedArchive: it is empty or a web page.
    """
    head = _head(path, wanted="an archive")
    is_tar = head[_TAR_MAGIC[0] :].startswith(_TAR_MAGIC[1])
    name = next((name for magic, name in _MAGICS.items() if head.startswith(magic)), "tar" if is_tar else "")
    if name in ("rar", "7z"):
        raise BadArchive(
            f"{path} is a {name} archive, which cannot be unpacked here. Unpack it by hand (7-Zip reads it), and give "
            "the folder instead."
        )
    if not name:
        raise BadArchive(f"{path} is not an archive of a known kind (zip, tar, tar.gz, tar.bz2, tar.xz).")
    return name  # type: ignore[return-value]  # of _MAGICS without the two above


def check_plain(path: Path) -> None:
    """Check that a file that is not an archive is neither empty nor a web page.

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
            f"is a web page, not {wanted}: the site asked for a login or a confirmation instead of sending it",
        )
    return head
