from __future__ import annotations

import errno
import fcntl
import gc
import gzip
import hashlib
import io
import os
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from cosam_bench.core.errors import CosamError
from cosam_bench.core.files import CannotWrite
from cosam_bench.data.acquire import archive_members as members
from cosam_bench.data.acquire import extraction
from cosam_bench.data.acquire.archive_formats import BadArchive, DamagedArchive
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


OUT = [
    ("../evil", "leads out"),
    ("a/../../evil", "leads out"),
    ("a\\..\\..\\evil", "leads out"),
    ("/evil", "absolute"),
    ("\\\\host\\evil", "absolute"),
    ("C:\\evil", "absolute"),
    ("c:evil", "absolute"),
]


@pytest.mark.parametrize(("name", "reason"), OUT)
@pytest.mark.parametrize("suffix", [".zip", ".tar.gz"])
def test_a_path_that_leads_out_refuses_the_archive(tmp_path: Path, suffix: str, name: str, reason: str) -> None:
    make: Callable[..., Path] = zipped if suffix == ".zip" else tarred
    (tmp_path / "deep").mkdir()
    path = make(tmp_path / f"deep/data{suffix}", {"good": b"", name: b"evil"})
    refused(path, tmp_path / "deep" / "into", reason)
    assert not list(tmp_path.rglob("*evil*"))


LINKS = {
    "absolute": special("link", tarfile.SYMTYPE, target="/etc/passwd"),
    "upwards": special("a/link", tarfile.SYMTYPE, target="../../x"),
    "hard": special("link", tarfile.LNKTYPE, target="../x"),
    "hard and absolute": special("link", tarfile.LNKTYPE, target="/etc/passwd"),
}


@pytest.mark.parametrize("link", LINKS.values(), ids=LINKS.keys())
def test_a_link_that_leads_out_refuses_the_archive(tmp_path: Path, link: tarfile.TarInfo) -> None:
    path = tarred(tmp_path / "data.tar", {"good": b"", "l": link, "l2": special("a/good", tarfile.REGTYPE)})
    refused(path, tmp_path / "into", r"link that leads out")


def test_a_link_to_a_folder_or_to_nothing_refuses_the_archive(tmp_path: Path) -> None:
    for target in ("set", "nothing"):
        path = tarred(tmp_path / "data.tar", {**TREE, "l": special("l", tarfile.SYMTYPE, target=target)})
        refused(path, tmp_path / "into", f"'l' is a link to '{target}', which is not a file in the archive")


def test_a_link_into_another_archives_folder_is_refused(tmp_path: Path) -> None:
    one = zipped(tmp_path / "one.zip", {"a": b"1"})
    two = tarred(tmp_path / "two.tar", {"l": special("l", tarfile.SYMTYPE, target="../a")})
    with pytest.raises(BadArchive, match=r"two\.tar was not unpacked: 'l' is a link that leads out, to '\.\./a'"):
        unpack([DataFile(one), DataFile(two, "deep")], into=tmp_path / "into")


def test_writing_through_a_link_is_not_possible(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    tree = {"l": special("l", tarfile.SYMTYPE, target=str(outside)), "l/evil": b"evil"}
    refused(tarred(tmp_path / "data.tar", dict(tree)), tmp_path / "into", "link that leads out")
    tree = {"l": special("l", tarfile.SYMTYPE, target="real"), "l/evil": b"evil", "real/x": b""}
    refused(tarred(tmp_path / "data.tar", dict(tree)), tmp_path / "into", "link to 'real'")
    assert list(outside.iterdir()) == []


def test_a_link_within_the_archive_becomes_the_file(tmp_path: Path) -> None:
    tree: dict[str, bytes | tarfile.TarInfo] = {
        "s": special("set/masks/soft.png", tarfile.SYMTYPE, target="../images/a.jpg"),
        **TREE,
        "h": special("hard.jpg", tarfile.LNKTYPE, target="set/images/a.jpg"),
    }
    found = unpacked(tarred(tmp_path / "data.tar.gz", tree), tmp_path / "into")
    image = TREE["set/images/a.jpg"]
    assert found == {**TREE, "set/masks/soft.png": image, "hard.jpg": image}
    assert not any(path.is_symlink() for path in (tmp_path / "into").rglob("*"))


def test_a_link_is_copied_where_the_file_system_has_no_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(extraction.os, "link", no_links)
    tree = {"a": b"1", "h": special("b", tarfile.LNKTYPE, target="a")}
    assert unpacked(tarred(tmp_path / "data.tar", dict(tree)), tmp_path / "into") == {"a": b"1", "b": b"1"}


def unix_zip(path: Path, name: str, mode: int, content: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        entry = zipfile.ZipInfo(name)
        entry.create_system, entry.external_attr = 3, mode << 16
        archive.writestr(entry, content)
        archive.writestr("good", b"good")
    return path


def test_links_in_a_zip_are_links(tmp_path: Path) -> None:
    path = unix_zip(tmp_path / "data.zip", "l", stat.S_IFLNK | 0o777, b"../../etc/passwd")
    refused(path, tmp_path / "into", "leads out, to '../../etc/passwd'")
    path = unix_zip(tmp_path / "data.zip", "l", stat.S_IFLNK | 0o777, b"good")
    assert unpacked(path, tmp_path / "into") == {"l": b"good", "good": b"good"}


DEVICES = [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]


@pytest.mark.parametrize("kind", DEVICES)
def test_a_device_refuses_the_archive(tmp_path: Path, kind: bytes) -> None:
    path = tarred(tmp_path / "data.tar", {"good": b"", "d": special("dev", kind)})
    refused(path, tmp_path / "into", "'dev' is a device or a pipe")
    refused(unix_zip(tmp_path / "p.zip", "dev", stat.S_IFIFO, b""), tmp_path / "into", "'dev' is a device or a pipe")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("a.jpg", "a.jpg"),
        ("a.jpg", "A.JPG"),
        ("ü/x", "u\u0308/X"),
        ("a", "a/b"),
        ("a/b", "a"),
        ("a/b", "A"),
        ("ẞ", "ss"),
    ],
)
def test_names_that_some_file_system_takes_for_one_are_refused(tmp_path: Path, first: str, second: str) -> None:
    with tarfile.open(tmp_path / "data.tar", "w") as archive:
        for name in (first, second):
            archive.addfile(tarfile.TarInfo(name))
    refused(tmp_path / "data.tar", tmp_path / "into", "differ only in case|is both a file and a folder")


def test_folders_that_differ_in_case_do_no_harm(tmp_path: Path) -> None:
    tree = {"Train/a": b"1", "train/b": b"2"}
    assert unpacked(zipped(tmp_path / "data.zip", tree), tmp_path / "into") == tree


@pytest.mark.parametrize("suffix", [".zip", ".tar.xz"])
def test_a_bomb_is_stopped_by_its_ratio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    monkeypatch.setattr(extraction, "FREE_RATIO_BYTES", 2**20)
    make: Callable[..., Path] = zipped if suffix == ".zip" else tarred
    path = make(tmp_path / f"bomb{suffix}", {"a": b"", "zeros": bytes(30 * 2**20)})
    assert path.stat().st_size * 200 < 30 * 2**20
    refused(path, tmp_path / "into", "far more than its size suggests")
    fair = make(tmp_path / f"fair{suffix}", {"zeros": bytes(2**20 // 2)})
    assert len(unpacked(fair, tmp_path / "into")["zeros"]) == 2**20 // 2


def test_a_zip_that_states_too_little_does_not_get_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = zipped(tmp_path / "data.zip", {"zeros": bytes(2**20)})
    data = path.read_bytes()
    path.write_bytes(data.replace(struct.pack("<L", 2**20), struct.pack("<L", 10)))
    refused(path, tmp_path / "into", "is damaged or cut off: Bad CRC", kind=DamagedArchive)


def test_what_does_not_fit_the_disk_is_refused_before_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = extraction.KEPT_FREE_BYTES + 1000
    monkeypatch.setattr(extraction.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    path = zipped(tmp_path / "data.zip", {"a": b"x" * 600, "b": b"x" * 600})
    with monkeypatch.context() as patch:
        patch.setattr(extraction.MemberWriter, "_write_file", lambda *_: pytest.fail("something was written"))
        refused(path, tmp_path / "into", r"more than the 0 MiB that are free", kind=CannotWrite)
    plain = tarred(tmp_path / "data.tar", {"a": b"x" * 600, "b": b"x" * 600})  # which states no sum
    refused(plain, tmp_path / "into", r"more than the 0 MiB that are free", kind=CannotWrite)
    assert unpacked(zipped(path, {"a": b"x" * 900}), tmp_path / "into") == {"a": b"x" * 900}


def test_too_many_members_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extraction, "MOST_MEMBERS", 3)
    path = tarred(tmp_path / "data.tar", {str(number): b"" for number in range(4)})
    refused(path, tmp_path / "into", "more than 3 members")


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


def header(name: bytes, size: bytes, kind: bytes) -> bytes:
    """A tar header by hand, with any size field."""
    block = bytearray(tarfile.TarInfo("x").tobuf(tarfile.GNU_FORMAT))
    block[0:100] = name.ljust(100, b"\0")
    block[124:136] = size
    block[156:157] = kind
    block[148:156] = b" " * 8
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    return bytes(block)


def test_headers_that_lie_about_sizes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.tar"
    negative = b"\xff" * 12
    huge = b"\x80" + b"\0" * 6 + b"\xff" * 5
    for size in (negative, huge):
        for kind in (b"0", b"x", b"L"):
            path.write_bytes(header(b"a", size, kind) + bytes(2048))
            refused(path, tmp_path / "into", "is damaged or cut off", kind=DamagedArchive)


def test_a_chain_of_headers_without_end_is_refused(tmp_path: Path) -> None:
    link = header(b"a", b"00000000000\0", b"x")
    (tmp_path / "data.tar.gz").write_bytes(gzip.compress(link * 5000 + bytes(1024)))
    refused(tmp_path / "data.tar.gz", tmp_path / "into", "is damaged or cut off", kind=DamagedArchive)


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


def test_names_with_control_characters_do_not_reach_the_terminal(tmp_path: Path) -> None:
    path = tarred(tmp_path / "data.tar", {"../\x1b[31mred\udcff" + "x" * 500: b""})
    with pytest.raises(BadArchive) as caught:
        unpack([DataFile(path)], into=tmp_path / "into")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400 + len(str(path))


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
