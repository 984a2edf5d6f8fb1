"""Archives made for tests, and what comes of unpacking them."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from cosam_bench.core.errors import CosamError
from cosam_bench.data.acquire.archive_formats import BadArchive
from cosam_bench.data.acquire.archives import unpack
from cosam_bench.data.acquire.extraction import DataFile

TREE = {"set/images/a.jpg": b"image" * 900, "set/masks/a.png": b"mask", "set/empty.txt": b""}


MODES = {".tar": "w", ".tar.gz": "w:gz", ".tgz": "w:gz", ".tar.xz": "w:xz", ".tar.bz2": "w:bz2"}


def zipped(path: Path, tree: dict[str, bytes], *, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in tree.items():
            entry = zipfile.ZipInfo(name)
            entry.filename = name  # as given, without zipfile's corrections
            entry.compress_type = method
            entry.create_system = 0
            archive.writestr(entry, content)
    return path


def tarred(path: Path, tree: dict[str, bytes | tarfile.TarInfo]) -> Path:
    with tarfile.open(path, MODES["".join(path.suffixes)]) as archive:
        for name, content in tree.items():
            if isinstance(content, tarfile.TarInfo):
                archive.addfile(content)
            else:
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    return path


def special(name: str, kind: bytes, *, target: str = "") -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, target
    return entry


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def unpacked(path: Path, into: Path) -> dict[str, bytes]:
    return files(unpack([DataFile(path)], into=into)[0])


def refused(path: Path, into: Path, match: str, *, kind: type[CosamError] = BadArchive) -> None:
    with pytest.raises(kind, match=match) as caught:
        unpack([DataFile(path)], into=into)
    assert str(path) in str(caught.value)
    assert not into.exists() or list(into.iterdir()) == []
