"""Unpacking untrusted archives: completely and within one folder, or not at all."""

from __future__ import annotations

import errno
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cosam_bench.core.errors import CosamError
from cosam_bench.core.files import CannotWrite, hold_alone
from cosam_bench.core.hashing import sha256_file, sha256_text
from cosam_bench.core.progress_bar import ByteBar
from cosam_bench.data.acquire.archive_formats import SUFFIXES, BadArchive, archive_format, check_plain
from cosam_bench.data.acquire.archive_members import opened
from cosam_bench.data.acquire.extraction import DataFile, MemberWriter, Quota, paths_of
from cosam_bench.data.locations import Archive


def unpack(files: Sequence[DataFile], *, into: Path) -> tuple[Path, tuple[Archive, ...]]:
    """Unpack archives into one new folder in ``into``; returns the folder, and a description of each file.

    The folder is named after the first file and the sha256 of all; if it exists, it is used as it is. Files that macOS
    adds (``__MACOSX``, ``.DS_Store``) are left out. Links within an archive become the file that they point at.

    Raises:
        BadArchive: an archive must not be unpacked (paths or links that lead out, devices, names that differ only in
            case, far more data than its size suggests), or cannot be (damaged, encrypted, rar, 7z).
        CannotWrite: the disk is full, or ``into`` cannot be written.
        CosamError: another process is unpacking the same.
        KeyboardInterrupt: Ctrl-C; what was unpacked is removed.
    """
    for file in files:  # before long files are hashed
        archive_format(file.path) if file.is_archive else check_plain(file.path)
    archives = tuple(_describe(file.path) for file in files)
    target = into / _folder_name(files, archives)
    if target.is_dir():
        return target, archives
    try:
        into.mkdir(parents=True, exist_ok=True)
        with _locked(into / f".{target.name}.lock", target):
            if not target.is_dir():
                _unpack(files, target, into / f".{target.name}.unpacking")
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise BadArchive(f"{paths_of(files)} was not unpacked: a name in it is too long for this disk.") from None
        raise CannotWrite(
            f"{target} cannot be written: {error.strerror or error}. Nothing was kept. Free space, or choose another "
            "data folder."
        ) from None
    except KeyboardInterrupt as stop:
        stop.args = ("The unpacked files are removed; run the same command to unpack again.",)
        raise
    return target, archives


def _describe(path: Path) -> Archive:
    size = path.stat().st_size
    with ByteBar(f"checking {path.name}", total_bytes=size) as bar:
        return Archive(file=path.name, sha256=sha256_file(path, on_block=bar.advance), size_bytes=size)


def _folder_name(files: Sequence[DataFile], archives: Sequence[Archive]) -> str:
    name = files[0].path.name
    stem = next((name[: -len(end)] for end in sorted(SUFFIXES, key=len)[::-1] if name.lower().endswith(end)), name)
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "_", stem)[:60].strip(".") or "archive"
    text = "\n".join(f"{archive.sha256} {file.folder}" for file, archive in zip(files, archives, strict=True))
    return f"{plain}-{sha256_text(text)[:12]}"


@contextmanager
def _locked(lock: Path, target: Path) -> Iterator[None]:
    busy = CosamError(f"Another process is unpacking {target}. Wait until it ends, or stop it.")
    with lock.open("ab") as file:
        hold_alone(file, busy=busy, path=lock)
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _unpack(files: Sequence[DataFile], target: Path, temporary: Path) -> None:
    shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed
    try:
        temporary.mkdir()
        writer = MemberWriter(temporary, quota=Quota(files, temporary))
        for file in files:
            if file.is_archive:
                with opened(file.path) as archive:
                    writer.write(file, archive)
            else:
                writer.copy(file)
        temporary.rename(target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
