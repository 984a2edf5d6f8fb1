"""Reading files that somebody else has made: ordinary files only, and only up to a stated size."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}

_POINTER_BYTES = 1024  # of a pointer of Git LFS at most, by its specification


def read_file(path: Path, *, limit_bytes: int) -> bytes:
    """A file's bytes; a pipe or a device, which may never end, is refused at once.

    Args:
        path: the file; links are followed.
        limit_bytes: the largest size that is read.

    Raises:
        OSError: the file cannot be read, is not an ordinary file, or is larger; ``strerror`` says so.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # opening a pipe must not wait for a writer
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
            raise OSError(errno.EINVAL, f"it is {kind}, not an ordinary file")
        with open(handle, "rb", closefd=False) as file:
            data = b"" if status.st_size > limit_bytes else file.read(limit_bytes + 1)
    finally:
        os.close(handle)
    if max(status.st_size, len(data)) > limit_bytes:
        raise OSError(errno.EFBIG, f"it has more than {limit_bytes:,} bytes, the most that is read")
    return data


def is_git_lfs_pointer(data: bytes) -> bool:
    """Whether a file begins as the text that Git LFS puts in the place of one that it has not fetched."""
    return data.startswith(b"version https://git-lfs.github.com/spec/")


def is_pointer_file(path: Path) -> bool:
    """Whether there is such a text, see :func:`is_git_lfs_pointer`; False if the file cannot be read."""
    try:
        return is_git_lfs_pointer(read_file(path, limit_bytes=_POINTER_BYTES))
    except OSError:
        return False


def read_text(path: Path, *, limit_bytes: int) -> str:
    """A file's text in UTF-8, without a byte order mark.

    Raises:
        OSError: as for :func:`read_file`.
        UnicodeDecodeError: it is not UTF-8.
    """
    return read_file(path, limit_bytes=limit_bytes).decode("utf-8-sig")
