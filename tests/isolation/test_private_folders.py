"""Which folders a worker must not see, wherever links lead."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import pytest

from cosam_bench.isolation.private_folders import OWN_CODE, PYTHON_PATH, TEMPORARY, exposed_folders, hidden_folders


def folders(root: Path, *names: str) -> list[Path]:
    for name in names:
        (root / name).mkdir(parents=True)
    return [root / name for name in names]


def hidden(*private: Path) -> list[Path]:
    return [Path(folder) for folder in hidden_folders(private, needed=[])]


def test_folders_that_a_worker_needs_are_not_hidden_and_it_is_said_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, work, library, temporary = folders(tmp_path, "data", "work", "library/own", "temporary/own")
    method = work / "mine.py"
    method.touch()
    monkeypatch.syspath_prepend(library)
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    private = [data, work, library.parent, temporary.parent, tmp_path / "none"]
    assert hidden_folders(private, needed=[method]) == [str(data)]
    assert exposed_folders(private, needed=[method]) == {
        str(work): [OWN_CODE],
        str(library.parent): [PYTHON_PATH],
        str(temporary.parent): [TEMPORARY],
    }


def test_folders_to_which_links_lead_are_hidden_as_well(tmp_path: Path) -> None:
    data, elsewhere, whole = folders(tmp_path, "data/images", "elsewhere", "whole")
    (elsewhere / "0.png").touch()
    (data / "0.png").symlink_to(elsewhere / "0.png")
    (data / "more").symlink_to(whole)
    (data / "gone.png").symlink_to(tmp_path / "nothing")
    (data / "self").symlink_to(data)
    (data / "one").symlink_to(data / "other")
    (data / "other").symlink_to(data / "one")
    assert hidden(tmp_path / "data") == [tmp_path / "data", elsewhere, whole]


def test_links_in_linked_folders_are_followed_through_circles_and_chains(tmp_path: Path) -> None:
    data, far, other, last = folders(tmp_path, "data", "far/deep", "other", "last/files")
    (data / "linked").symlink_to("../far")
    (far / "0.png").symlink_to(other / "0.png")
    (other / "0.png").touch()
    (far / "back").symlink_to(data)
    (far / "1.png").symlink_to(tmp_path / "chain")
    (tmp_path / "chain").symlink_to(last / "1.png")
    (last / "1.png").touch()
    (far / "folder").symlink_to(f"{last.parent}/")  # the folder of a linked file is in it
    assert hidden(data) == [data, tmp_path / "far", last.parent, other]


def test_a_folder_is_walked_though_a_linked_file_has_named_it_before(tmp_path: Path) -> None:
    data, far, other = folders(tmp_path, "data", "far", "other")
    for number in range(3):
        (far / f"{number}.png").touch()
        (data / f"{number}.png").symlink_to(far / f"{number}.png")
        (data / f"{number}").symlink_to(far)
    (far / "more").symlink_to(other)
    assert hidden(data) == [data, far, other]


def test_a_linked_folder_that_cannot_be_hidden_as_python_is_in_it_is_not_walked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, library, other = folders(tmp_path, "data", "home/library", "other")
    (data / "home").symlink_to(library.parent)
    (library.parent / "other").symlink_to(other)
    assert hidden(data) == [data, library.parent, other]
    monkeypatch.syspath_prepend(library)
    assert hidden(data) == [data]
    assert list(exposed_folders([data], needed=[])) == [str(library.parent)]


def test_a_hidden_folder_in_an_exposed_one_is_hidden(tmp_path: Path) -> None:
    work, data = folders(tmp_path, "work", "work/data")
    method = work / "mine.py"
    method.touch()
    assert hidden_folders([work, data], needed=[method]) == [str(data)]


def test_a_virtual_environment_among_the_data_hides_no_interpreter(tmp_path: Path) -> None:
    (environment,) = folders(tmp_path, "data/.venv/bin")
    (environment / "python").symlink_to(os.path.realpath(sys.executable))
    (environment / "env").symlink_to("/usr/bin/env")
    (environment.parent / "lib64").symlink_to("/usr/lib")
    assert hidden(tmp_path / "data") == [tmp_path / "data"]


def test_places_that_cannot_be_looked_at_do_not_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, closed = folders(tmp_path, "data", "closed")
    (data / "long").symlink_to("x" * 300)
    (data / "closed.png").symlink_to(closed / "0.png")
    monkeypatch.syspath_prepend("x" * 300)
    looks = os.lstat

    def lstat(path: str) -> os.stat_result:
        if str(path).endswith("closed/0.png"):  # as another user's would
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return looks(path)

    monkeypatch.setattr(os, "lstat", lstat)
    assert hidden(data, Path("y" * 300)) == [data]
