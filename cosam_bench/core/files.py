"""Paths as users write them, files that are replaced as a whole, and locks between processes."""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from cosam_bench.core.errors import CosamError

_MOUNTS = Path("/proc/self/mountinfo")
_ESCAPED = re.compile(r"\\([0-7]{3})")  # a blank in a name that is listed there
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}")

# Of the name's bytes in a temporary one, which has ten more; file systems allow 255 bytes, and eCryptfs 143.
_KEPT_BYTES = 100


LOCK = ".lock"
"""The file in a folder that only its writer holds open and locked."""

ABANDONED_SECONDS = 3600
"""A temporary file this old was left by a process that was killed: writing one takes seconds."""


class CannotWrite(CosamError):
    """A file or folder cannot be written, or the disk is full."""


def write_atomically(path: Path, data: bytes | str) -> None:
    """Write under a temporary name in the same folder, then rename; text is UTF-8 with ``\\n`` line ends.

    Raises:
        CannotWrite: the folder cannot be written or the disk is full; ``path`` is then as it was before.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """An empty file in the same folder to write to, which replaces ``path`` afterwards.

    The bytes are on the disk before the new name is, so that a file is whole also after a power cut.

    Raises:
        CannotWrite: the path is a folder or another thing that is not a file, the folder cannot be written, or the disk
            is full; ``path`` is then as it was before.
    """
    check_is_file_name(path)
    temporary = path.with_name(f".{_shortened(path.name)}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.touch(exist_ok=False)
            rights = temporary.stat().st_mode
            yield temporary
            if temporary.stat().st_mode != rights:  # some mounts do not allow changing it
                temporary.chmod(rights)  # as the user wants them, whatever the writer has set
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)  # there only if something was raised, Ctrl-C included
    except OSError as error:
        raise CannotWrite(
            f"{path} cannot be written: {error.strerror or error}. Free space or choose another folder."
        ) from error


def _shortened(name: str) -> str:
    """The first characters of a name, of at most ``_KEPT_BYTES`` bytes."""
    name = name[:_KEPT_BYTES]
    while len(os.fsencode(name)) > _KEPT_BYTES:
        name = name[:-1]
    return name


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """An empty folder to write to, which becomes ``folder`` afterwards; that appears whole or not at all.

    Raises:
        CosamError: the folder exists already and has contents, or it is a symbolic link or a mount point.
        CannotWrite: it cannot be written or the disk is full.
    """
    try:
        check_is_new(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{_shortened(folder.name)}-") as name:
            temporary = Path(name) / "new"
            temporary.mkdir()
            yield temporary
            if folder.exists():
                folder.rmdir()
            temporary.replace(folder)
    except OSError as error:
        reason = error.strerror or error
        raise CannotWrite(f"{folder} cannot be written: {reason}. Free space, or choose another folder.") from None


def check_is_file_name(path: Path) -> None:
    """Refuse the path of a folder, or of anything else that a file cannot replace.

    Raises:
        CannotWrite: the path is one of these, or too long.
    """
    try:
        if path.is_dir():
            raise CannotWrite(f"{_is_folder(path)}. Give the name of a file.")
        if path.exists() and not path.is_file():
            raise CannotWrite(f"{path} is not a regular file. Give the name of a file.")
    except OSError as error:
        raise CannotWrite(f"{path} cannot be written: {error.strerror}. Choose another name.") from None


def check_file_to_write(path: Path) -> None:
    """Refuse a path that no file can be written to, before what is to be written is computed.

    Raises:
        CannotWrite: as for ``check_is_file_name``; or its folder cannot be made or written.
    """
    check_is_file_name(path)
    _check_is_writable(path.parent, path)


def check_folder_to_write(folder: Path) -> None:
    """Refuse a path that is not a folder, or in which no file can be written.

    Raises:
        CannotWrite: it is a file, or it cannot be made or written.
    """
    _check_is_writable(folder, folder)


def check_is_folder_name(folder: Path) -> None:
    """Refuse a path that is a file or within one; a folder that is there may be read-only.

    Raises:
        CannotWrite: it is one of these.
    """
    _nearest_folder(folder, folder)


def check_new_folder(folder: Path) -> None:
    """Refuse a path at which ``new_folder`` cannot make one.

    Raises:
        CosamError: as for ``check_is_new``.
        CannotWrite: it cannot be made.
    """
    check_is_new(folder)
    _check_is_writable(folder.parent, folder)


def check_is_new(folder: Path) -> None:
    """Refuse a path that is neither missing nor an empty folder, or that has no name or cannot be replaced.

    Raises:
        CosamError: it is one of these; a symbolic link and a mount point cannot be replaced by a folder.
        CannotWrite: its name is too long, or it cannot be listed.
    """
    if not folder.name:
        raise CosamError(f"{_is_folder(folder)}. Give the name of a new folder.")
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise CosamError(f"{folder} exists and is not an empty folder. Choose another folder.")
    except OSError as error:
        raise CannotWrite(f"{folder} cannot be written: {error.strerror}. Choose another name.") from None
    if folder.is_symlink():
        raise CosamError(f"{folder} is a symbolic link, which a folder cannot replace. Give the path that it leads to.")
    if _is_mount_point(folder):
        raise CosamError(f"{folder} is a mount point, which a folder cannot replace. Give a new folder within it.")


def _is_mount_point(folder: Path) -> bool:
    """Whether something is mounted there, from the same file system too, which ``ismount`` does not see."""
    if os.path.ismount(folder):
        return True
    try:
        listed = [line.split()[4] for line in _MOUNTS.read_text(errors="surrogateescape").splitlines()]
    except OSError:  # another system
        return False
    return str(folder.resolve()) in {_ESCAPED.sub(lambda code: chr(int(code[1], 8)), place) for place in listed}


def _check_is_writable(folder: Path, asked: Path) -> None:
    existing = _nearest_folder(folder, asked)
    if not os.access(existing, os.W_OK | os.X_OK):
        raise CannotWrite(f"{asked} cannot be written: {existing} is read-only. Choose another folder.")


def _nearest_folder(folder: Path, asked: Path) -> Path:
    """The folder, or if it is missing, the first one above it that is there."""
    try:
        existing = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    except OSError as error:
        raise CannotWrite(f"{asked} cannot be written: {error.strerror}. Choose another name.") from None
    if not existing.is_dir():
        raise CannotWrite(f"{asked} cannot be written: {existing} is a file. Choose another folder.")
    return existing


def _is_folder(path: Path) -> str:
    return "'.' is the current folder" if path == Path() else f"{path} is a folder"


def is_temporary(path: Path) -> bool:
    """Whether a file has the name of one that ``replacing`` writes, or was writing when its process was killed."""
    return _TEMPORARY.fullmatch(path.name) is not None


def expanded(path: Path | str) -> Path:
    """A path with ``~`` written out.

    Raises:
        CosamError: ``~name`` of a user without a home folder, or a null character, which no path may have.
    """
    if "\0" in str(path):
        raise CosamError(f"The path {str(path)!r} has a null character. Give another path.")
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise CosamError(f"{path}: there is no such home folder. Give the full path.") from None


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Wait until no other process is within this context for the same path; a killed process holds nothing.

    The lock file is removed at the end. On a file system without locks the context is entered at once.

    Raises:
        CannotWrite: the folder cannot be written.
    """
    with ExitStack() as stack:
        while True:
            file = stack.enter_context(_opened_lock(path))
            with suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
            if _is_still(file, path):
                break
            file.close()  # the last holder has removed this file; a newer one may be there
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _opened_lock(path: Path) -> IO[bytes]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("ab")
    except OSError as error:
        raise CannotWrite(f"{path} cannot be written: {error.strerror or error}. Choose another folder.") from None


@contextmanager
def only_writer(folder: Path, *, busy: CosamError) -> Iterator[None]:
    """Be the only writer of a folder, which is made if need be, within the context; a killed process leaves no lock.

    Args:
        folder: gets the file ``LOCK``.
        busy: raised if another process is the writer.

    Raises:
        CannotWrite: the folder cannot be created.
    """
    path = folder / LOCK
    with ExitStack() as stack:
        while True:
            file = stack.enter_context(_opened_lock(path))
            hold_alone(file, busy=busy)
            if _is_still(file, path):
                break
            file.close()  # the last writer has removed this file; a newer one may be there
        yield


def _is_still(file: IO[Any], path: Path) -> bool:
    """Whether the path leads to the open file."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock, or whether that cannot be told."""
    try:
        with path.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return False
    except OSError:
        return True


def remove_free_lock(path: Path) -> None:
    """Remove a lock's file, unless it is gone or a process holds it.

    Raises:
        OSError: the folder cannot be written.
    """
    try:
        file = path.open("r+b")
    except FileNotFoundError:
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return
        if _is_still(file, path):
            path.unlink()


def mark_used(path: Path) -> None:
    """Set a file's time of writing to now, as the time of its last use, which file systems rarely record."""
    with suppress(OSError):  # another process may have removed it, or own it
        os.utime(path)


def hold_alone(file: IO[Any], *, busy: CosamError, path: Path | None = None) -> None:
    """Lock an open file for this process until it is closed; a killed process holds no lock.

    On a file system without locks this does nothing.

    Args:
        file: opened for writing.
        busy: raised if another process holds the lock.
        path: the file's path, given if the holder of the lock may remove or rename it: ``busy`` is also raised if
            the path no longer leads to that file.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise busy from None
    except OSError:
        pass
    if path is not None and not _is_still(file, path):
        raise busy
