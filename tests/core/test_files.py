"""Paths that are refused before anything is written to them."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Any

import pytest

from cosam_bench.core import files
from cosam_bench.core.errors import CosamError
from cosam_bench.core.files import (
    LOCK,
    CannotWrite,
    check_file_to_write,
    check_folder_to_write,
    check_is_folder_name,
    check_new_folder,
    expanded,
    is_temporary,
    new_folder,
    only_writer,
    remove_free_lock,
    replacing,
    write_atomically,
)


class Busy(CosamError):
    pass


def test_who_opened_a_lock_before_it_was_removed_takes_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = fcntl.flock

    def removed_meanwhile(file: Any, how: int) -> None:
        locked(file, how)
        if not seen:
            (tmp_path / LOCK).unlink()  # as the last writer does, at its end
        seen.append(how)

    seen: list[int] = []
    monkeypatch.setattr("cosam_bench.core.files.fcntl.flock", removed_meanwhile)
    with only_writer(tmp_path, busy=Busy()):
        assert len(seen) == 2
        with pytest.raises(Busy), only_writer(tmp_path, busy=Busy()):
            pass


def test_a_lock_is_removed_only_if_nobody_holds_it(tmp_path: Path) -> None:
    remove_free_lock(tmp_path / LOCK)
    assert not (tmp_path / LOCK).exists()
    with only_writer(tmp_path, busy=Busy()):
        remove_free_lock(tmp_path / LOCK)
        assert (tmp_path / LOCK).exists()
    remove_free_lock(tmp_path / LOCK)
    assert not (tmp_path / LOCK).exists()


def test_what_is_no_path_is_told() -> None:
    assert expanded("~/a") == Path.home() / "a"
    with pytest.raises(CosamError, match=r"The path 'a\\x00b' has a null character"):
        expanded("a\0b")
    with pytest.raises(CosamError, match="there is no such home folder"):
        expanded("~nobody.at.all/a")


@pytest.mark.parametrize("path", ["", ".", "/", "..", "folder"])
def test_a_folder_is_no_file_and_stays(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    for write in (check_file_to_write, lambda one: write_atomically(one, "text")):
        with pytest.raises(CannotWrite, match=r"is (a|the current) folder. Give the name of a file."):
            write(Path(path))
    assert [one.name for one in tmp_path.iterdir()] == ["folder"]


def test_a_pipe_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CannotWrite, match="is not a regular file"):
        write_atomically(tmp_path / "pipe", "text")
    assert (tmp_path / "pipe").is_fifo()


def test_what_can_be_written_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nothing")
    (tmp_path / "empty").mkdir()
    for path in ("file", "link", "new", "new/deep/file", tmp_path / "new"):
        check_file_to_write(Path(path))
    for path in ("", "empty", "new/deep", tmp_path):
        check_folder_to_write(Path(path))
        check_is_folder_name(Path(path))
    for path in ("empty", "new/deep"):
        check_new_folder(Path(path))


def test_a_folder_without_the_right_to_write_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    for check in (check_file_to_write, check_folder_to_write, check_new_folder):
        with pytest.raises(CannotWrite, match=f"{tmp_path}/a/b cannot be written: {tmp_path} is read-only"):
            check(tmp_path / "a/b")
    check_is_folder_name(tmp_path / "a/b")  # what is asked for may be there


@pytest.mark.parametrize("path", ["", ".", "/"])
def test_a_new_folder_has_a_name(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CosamError, match="Give the name of a new folder"), new_folder(Path(path)):
        pass


@pytest.mark.parametrize("name", ["a" * 255, "é" * 127, "\U0001f642" * 63 + "abc"])
def test_a_name_may_be_as_long_as_the_file_system_allows(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    check_file_to_write(path)
    with replacing(path) as temporary:
        assert is_temporary(temporary)
        str(temporary).encode()  # whole characters
        temporary.write_text("text")
    assert path.read_text() == "text"
    path.unlink()
    check_new_folder(path)
    with new_folder(path) as temporary:
        (temporary / "file").touch()
    assert [one.name for one in path.iterdir()] == ["file"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_longer_name_is_refused_before_the_work(tmp_path: Path) -> None:
    for check in (check_file_to_write, check_folder_to_write, check_new_folder):
        with pytest.raises(CannotWrite, match=r"File name too long\. Choose another name\."):
            check(tmp_path / ("a" * 256))


def test_a_link_and_a_mount_point_are_no_new_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path, said: str) -> None:
        with pytest.raises(CosamError, match=said):
            check_new_folder(path)
        with pytest.raises(CosamError, match=said), new_folder(path):
            worked.append(path)

    worked: list[Path] = []
    (tmp_path / "empty").mkdir()
    for name, target in (("link", "empty"), ("dangling", "nothing"), ("loop", "loop")):
        (tmp_path / name).symlink_to(target)
        refused(tmp_path / name, f"{name} is a symbolic link, .* Give the path that it leads to")
    with new_folder(tmp_path / "link" / "inner"):
        pass
    assert (tmp_path / "empty" / "inner").is_dir()
    (tmp_path / "mount").mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path).name == "mount")
    refused(tmp_path / "mount", "mount is a mount point, .* Give a new folder within it")
    monkeypatch.undo()
    bound, listed = tmp_path / "bound here", tmp_path / "mountinfo"
    bound.mkdir()
    listed.write_text(f"36 35 98:0 /mnt1 {str(bound).replace(' ', chr(92) + '040')} rw - ext3 /dev/root rw\n")
    with new_folder(tmp_path / "bound"):
        pass
    monkeypatch.setattr(files, "_MOUNTS", listed)
    refused(bound, "bound here is a mount point, .* Give a new folder within it")
    monkeypatch.setattr(files, "_MOUNTS", tmp_path / "none")
    check_new_folder(bound)
    assert not worked
