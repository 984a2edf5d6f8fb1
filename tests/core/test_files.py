"""Paths that are refused before anything is written to them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cosam_bench.core.errors import CosamError
from cosam_bench.core.files import (
    CannotWrite,
    check_file_to_write,
    check_folder_to_write,
    check_is_folder_name,
    check_new_folder,
    expanded,
    new_folder,
    write_atomically,
)


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
