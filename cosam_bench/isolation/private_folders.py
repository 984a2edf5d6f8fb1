"""Which folders of the parent a worker must not see, and which it sees because something that it needs is in them."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from tempfile import gettempdir

from cosam_bench.isolation.server_handle import import_path

_PROGRAMS = ("bin", "sbin", "lib", "lib32", "lib64", "libexec", "include")


def hidden_folders(folders: Sequence[Path], *, needed: Sequence[Path]) -> list[str]:
    """Those folders of the parent that a worker must not see, as far as nothing that it needs is in them.

    Folders to which links in them lead are among them; one in another hidden one is not named.
    """
    kept = [path for path, _ in _needed(needed)]
    hidden = {folder for folder in _with_targets(folders) if not any(_is_in(path, folder) for path in kept)}
    return sorted(folder for folder in hidden if not any(str(outer) in hidden for outer in Path(folder).parents))


def exposed_folders(folders: Sequence[Path], *, needed: Sequence[Path]) -> dict[str, list[str]]:
    """The other ones, each with what of a worker's is in it: a worker sees them."""
    kept = _needed(needed)
    found = {
        folder: list(dict.fromkeys(what for path, what in kept if _is_in(path, folder)))
        for folder in _with_targets(folders)
    }
    return {folder: reasons for folder, reasons in found.items() if reasons}


OWN_CODE, PYTHON_PATH, TEMPORARY = "its own code", "a folder of Python's path", "the folder of temporary files"


def _needed(own: Sequence[Path]) -> list[tuple[str, str]]:
    """What a worker needs, and what it is in words."""
    places = [(path, OWN_CODE) for path in own]
    places += [(Path(path), PYTHON_PATH) for path in import_path()]
    places.append((Path(gettempdir()), TEMPORARY))  # a worker's own folder is made there
    return [(os.path.realpath(path), what) for path, what in places if _mode(path)]


def _is_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def _mode(path: str | Path) -> int:
    """The kind of a file in the form of ``stat``; 0 if it is missing or cannot be reached."""
    with suppress(OSError, ValueError):
        return os.stat(path).st_mode  # noqa: PTH116 (paths are texts here, for 100,000 links)
    return 0


def _with_targets(folders: Sequence[Path]) -> list[str]:
    """The folders that there are, and those of the files and folders to which links in them lead, and so on.

    Links in linked folders are followed as well; links beside a linked file are not, nor those in a linked folder such
    as the root or a home, in which Python or the folder of temporary files is: it cannot be hidden, and is large.
    """
    common = [path for path, _ in _needed(())]
    walk, waiting = _Walk(), [os.path.realpath(folder) for folder in folders if stat.S_ISDIR(_mode(folder))]
    found = dict.fromkeys(waiting)
    while waiting:
        for target, is_folder in walk.targets(waiting.pop()):
            found[target] = None
            if is_folder and not any(_is_in(path, target) for path in common):
                waiting.append(target)  # even if a link to a file in it has named it before
    return list(found)


class _Walk:
    """A walk through folders, each once, that asks the system little about each of 100,000 links."""

    def __init__(self) -> None:
        self._walked: set[str] = set()
        self._real = cache(os.path.realpath)
        self._programs = _programs()
        self._is_program = cache(lambda folder: any(_is_in(folder, one) for one in self._programs))

    def targets(self, folder: str) -> Iterator[tuple[str, bool]]:
        """The folders to which links in a folder and in those in it lead, with True; those of linked files, with False.

        Programs are left out, and so is what was walked before.
        """
        waiting = [folder]
        while waiting:
            here = waiting.pop()
            if here in self._walked or here in self._programs:
                continue
            self._walked.add(here)
            with suppress(OSError), os.scandir(here) as entries:
                for entry in entries:
                    if not entry.is_symlink():
                        if entry.is_dir():
                            waiting.append(entry.path)
                    elif (found := self._target(here, entry.path)) and not self._is_program(found[0]):
                        yield found

    def _target(self, folder: str, link: str) -> tuple[str, bool] | None:
        with suppress(OSError, ValueError):
            above, name = os.path.split(os.path.join(folder, os.readlink(link)))  # noqa: PTH115, PTH118 (as above)
            above = self._real(above)
            path = os.path.join(above, name)  # noqa: PTH118 (as above)
            mode = os.lstat(path).st_mode
            if not stat.S_ISREG(mode):  # then what is usual is not the case
                path = os.path.realpath(path)  # which goes through circles of links as well
                mode, above = os.stat(path).st_mode, os.path.dirname(path)  # noqa: PTH116, PTH120 (as above)
            if stat.S_ISREG(mode):
                return above, False
            if stat.S_ISDIR(mode):
                return path, True
        return None


def _programs() -> frozenset[str]:
    """Folders of programs and libraries, such as those to which a virtual environment links; they hold no data."""
    roots = (sys.prefix, sys.base_prefix, sys.exec_prefix, "/usr/local", "/usr", "/")
    places = [os.path.join(root, name) for root in roots for name in _PROGRAMS]  # noqa: PTH118 (as above)
    return frozenset(os.path.realpath(place) for place in (*places, "/proc", "/sys"))
