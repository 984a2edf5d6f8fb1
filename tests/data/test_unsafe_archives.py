"""Archives that would write outside their folder, fill the disk or clash with each other's names."""

from __future__ import annotations

import errno
import gzip
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.made_archives import TREE, refused, special, tarred, unpacked, zipped

from cosam_bench.core.files import CannotWrite
from cosam_bench.data.acquire import extraction
from cosam_bench.data.acquire.archive_formats import BadArchive, DamagedArchive
from cosam_bench.data.acquire.archives import unpack
from cosam_bench.data.acquire.extraction import DataFile

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


def test_names_with_control_characters_do_not_reach_the_terminal(tmp_path: Path) -> None:
    path = tarred(tmp_path / "data.tar", {"../\x1b[31mred\udcff" + "x" * 500: b""})
    with pytest.raises(BadArchive) as caught:
        unpack([DataFile(path)], into=tmp_path / "into")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400 + len(str(path))
