"""Archives of every format, and what is left when unpacking is damaged, interrupted or shared."""

from __future__ import annotations

import errno
import fcntl
import gc
import hashlib
import os
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from support.made_archives import MODES, TREE, files, refused, special, tarred, unpacked, zipped

from cosam_bench.core.errors import CosamError
from cosam_bench.core.files import CannotWrite
from cosam_bench.data.acquire import archive_members as members
from cosam_bench.data.acquire import extraction
from cosam_bench.data.acquire.archive_formats import BadArchive
from cosam_bench.data.acquire.archives import unpack
from cosam_bench.data.acquire.extraction import DataFile


@pytest.mark.parametrize("suffix", [".zip", *MODES])
def test_every_format_gives_the_same_files(tmp_path: Path, suffix: str) -> None:
    make = zipped if suffix == ".zip" else tarred
    path = make(tmp_path / f"data{suffix}", TREE)
    folder, (record,) = unpack([DataFile(path)], into=tmp_path / "into")
    assert files(folder) == TREE
    assert folder.parent == tmp_path / "into"
    assert folder.name.startswith("data-")
    assert (record.file, record.size_bytes) == (path.name, path.stat().st_size)
    assert record.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert [entry.name for entry in (tmp_path / "into").iterdir()] == [folder.name]


def test_a_known_archive_is_not_unpacked_twice_and_another_of_that_name_is(tmp_path: Path) -> None:
    path = zipped(tmp_path / "data.zip", TREE)
    first, _ = unpack([DataFile(path)], into=tmp_path / "into")
    (first / "mark").write_text("")
    again, _ = unpack([DataFile(path)], into=tmp_path / "into")
    assert again == first
    assert (first / "mark").exists()
    zipped(path, {"b": b""})
    other, _ = unpack([DataFile(path)], into=tmp_path / "into")
    assert other != first
    assert files(other) == {"b": b""}


def test_several_archives_make_one_folder_each_where_it_belongs(tmp_path: Path) -> None:
    one = zipped(tmp_path / "one.zip", {"images/a": b"1"})
    two = tarred(tmp_path / "two.tar", {"a": b"2"})
    folder, records = unpack([DataFile(one), DataFile(two, "masks")], into=tmp_path / "into")
    assert files(folder) == {"images/a": b"1", "masks/a": b"2"}
    assert [record.file for record in records] == ["one.zip", "two.tar"]
    assert unpack([DataFile(one), DataFile(two, "images2")], into=tmp_path / "into")[0] != folder
    with pytest.raises(BadArchive, match=r"two\.tar was not unpacked: two of its members are called 'images/a'"):
        unpack([DataFile(one), DataFile(two, "images")], into=tmp_path / "into")


def test_what_macos_adds_and_odd_spellings_of_paths_do_not_matter(tmp_path: Path) -> None:
    tree = {"./a/./b.jpg": b"1", "__MACOSX/a/._b.jpg": b"x", "a/.DS_Store": b"x", "a/._b.jpg": b"x", "a//c.jpg": b"2"}
    assert unpacked(tarred(tmp_path / "data.tar", dict(tree)), tmp_path / "into") == {"a/b.jpg": b"1", "a/c.jpg": b"2"}


def test_windows_own_separators_make_folders(tmp_path: Path) -> None:
    path = zipped(tmp_path / "data.zip", {"set\\images\\a.jpg": b"1"})
    assert unpacked(path, tmp_path / "into") == {"set/images/a.jpg": b"1"}


def test_empty_folders_are_kept_and_modes_are_not(tmp_path: Path) -> None:
    folder = special("only", tarfile.DIRTYPE)
    folder.mode = 0
    script = tarfile.TarInfo("only/script")
    script.mode = 0o4777
    path, _ = unpack([DataFile(tarred(tmp_path / "data.tar", {"1": folder, "2": script}))], into=tmp_path / "into")
    assert (path / "only").is_dir()
    assert stat.S_IMODE((path / "only/script").stat().st_mode) & 0o7111 == 0


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "data.zip", {"a": b"1"})
    data = bytearray(path.read_bytes())
    for magic, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(magic) + offset] |= 1
    path.write_bytes(data)
    refused(path, tmp_path / "into", "is encrypted. Unpack it by hand")


def test_a_compression_that_python_lacks_is_named(tmp_path: Path) -> None:
    path = zipped(tmp_path / "data.zip", {"a": b"1"})
    data = bytearray(path.read_bytes())
    for magic, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        data[data.index(magic) + offset] = 9  # Deflate64, as Windows writes for files above 2 GiB
    path.write_bytes(data)
    refused(path, tmp_path / "into", "cannot be unpacked here: .*compression method.*7-Zip")


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz", ".tar.xz", ".tar.bz2"])
def test_every_truncation_is_noticed(tmp_path: Path, suffix: str) -> None:
    make: Callable[..., Path] = zipped if suffix == ".zip" else tarred
    whole = make(tmp_path / f"whole{suffix}", {name: os.urandom(700) for name in ("a", "b", "c")}).read_bytes()
    path = tmp_path / f"data{suffix}"
    # Of a plain tar's 10 KiB end only the first block is an end mark.
    last = 3 * 1536 + 511 if suffix == ".tar" else len(whole) - 1
    for size in {0, 1, 100, 512, 1536, 3072, 4608, *range(0, last, 97), last} & set(range(last + 1)):
        path.write_bytes(whole[:size])
        with pytest.raises(BadArchive):
            unpack([DataFile(path)], into=tmp_path / "into")
    assert not list((tmp_path / "into").glob("*"))


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz", ".tar.xz", ".tar.bz2"])
def test_a_broken_byte_gives_one_clear_error_or_the_files(tmp_path: Path, suffix: str) -> None:
    make: Callable[..., Path] = zipped if suffix == ".zip" else tarred
    tree = {name: (name * 50).encode() for name in ("a", "b", "c")}
    whole = make(tmp_path / f"whole{suffix}", tree).read_bytes()
    path = tmp_path / f"data{suffix}"
    for position in range(0, len(whole), max(1, len(whole) // 150)):
        broken = bytearray(whole)
        broken[position] ^= 0xFF
        path.write_bytes(broken)
        try:
            folder, _ = unpack([DataFile(path)], into=tmp_path / "into")
        except CosamError:
            continue
        if suffix != ".tar":  # which has no checksum of what lies in it
            assert set(files(folder).values()) <= set(tree.values())


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"Rar!\x1a\x07\x01\x00rest", "is a rar archive.*by hand.*give the folder"),
        (b"7z\xbc\xaf\x27\x1crest", "is a 7z archive.*by hand"),
        (b"", "is empty. Fetch it again"),
        (b"\n<!DOCTYPE html><html>Google Drive", "is a web page, not an archive"),
        (b"\x89PNG", "is not an archive of a known kind"),
        (b"PK\x03\x04" + bytes(100), "is damaged or cut off"),
    ],
)
def test_what_is_no_archive_is_told_by_its_content(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "data.zip").write_bytes(content)
    refused(tmp_path / "data.zip", tmp_path / "into", reason)


def test_an_archive_is_told_by_its_content_not_its_name(tmp_path: Path) -> None:
    path = tarred(tmp_path / "data.tar.gz", dict(TREE)).rename(tmp_path / "data.zip")
    assert unpacked(path, tmp_path / "into") == TREE
    # A plain tar whose last member is a zip ends as a zip does.
    inner = zipped(tmp_path / "inner.zip", {"x": b""}).read_bytes()
    assert unpacked(tarred(tmp_path / "outer.tar", {"inner.zip": inner}), tmp_path / "into") == {"inner.zip": inner}


def test_a_missing_archive_is_named(tmp_path: Path) -> None:
    with pytest.raises(CosamError, match=r"nothing\.zip cannot be read: No such file"):
        unpack([DataFile(tmp_path / "nothing.zip")], into=tmp_path)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_an_interrupted_unpacking_leaves_nothing_and_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    path = zipped(tmp_path / "data.zip", TREE)
    real = extraction.Quota.take

    def stop(*_: object) -> None:
        raise error

    monkeypatch.setattr(extraction.Quota, "take", stop)
    told = "removed; run the same command" if isinstance(error, KeyboardInterrupt) else "No space left.*Free space"
    with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else CannotWrite, match=told):
        unpack([DataFile(path)], into=tmp_path / "into")
    assert list((tmp_path / "into").iterdir()) == []
    monkeypatch.setattr(extraction.Quota, "take", real)
    assert unpacked(path, tmp_path / "into") == TREE


def test_what_a_killed_process_left_is_replaced(tmp_path: Path) -> None:
    path = zipped(tmp_path / "data.zip", TREE)
    folder, _ = unpack([DataFile(path)], into=tmp_path / "into")
    folder.rename(folder.with_name(f".{folder.name}.unpacking"))
    (folder.with_name(f".{folder.name}.unpacking") / "half").write_text("")
    assert unpacked(path, tmp_path / "into") == TREE


def test_two_processes_do_not_unpack_the_same_at_once(tmp_path: Path) -> None:
    path = zipped(tmp_path / "data.zip", TREE)
    folder, _ = unpack([DataFile(path)], into=tmp_path / "into")
    folder.rename(tmp_path / "away")
    with folder.with_name(f".{folder.name}.lock").open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(CosamError, match="Another process is unpacking"):
            unpack([DataFile(path)], into=tmp_path / "into")


def test_a_tar_of_many_members_does_not_pile_up_in_memory(tmp_path: Path) -> None:
    path = tarred(tmp_path / "data.tar", {str(number): b"" for number in range(50)})

    def alive() -> int:
        return sum(type(thing) is tarfile.TarInfo for thing in gc.get_objects())

    gc.collect()
    before = alive()
    with members.opened(path) as archive:
        for _ in archive.members:
            assert alive() - before < 5


def test_a_lock_that_was_removed_meanwhile_is_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = zipped(tmp_path / "data.zip", {"a.txt": b"a"})

    def other_finishes(*_: object) -> None:
        (lock,) = (tmp_path / "into").glob("*.lock")
        lock.unlink()

    monkeypatch.setattr(fcntl, "flock", other_finishes)
    with pytest.raises(CosamError, match="Another process is unpacking"):
        unpack([DataFile(path)], into=tmp_path / "into")


def test_a_name_that_is_too_long_is_no_full_disk(tmp_path: Path) -> None:
    path = zipped(tmp_path / "data.zip", {f"folder/{'n' * 300}": b"a"})
    with pytest.raises(BadArchive, match=r"data\.zip was not unpacked: a name in it is too long"):
        unpack([DataFile(path)], into=tmp_path / "into")
    assert not list((tmp_path / "into").iterdir())
