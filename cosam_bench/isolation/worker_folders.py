"""A worker's own folder, below one that all workers of a user share: hiding that one hides those of all others."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

_PREFIX = "cosam-bench-isolated-"
_ATTEMPTS = 100  # the shared folder goes with the last worker in it, perhaps just before the next one is made


def new_worker_folder() -> Path:
    """An empty folder of its own for a worker, with all links resolved.

    Raises:
        OSError: it cannot be made.
    """
    shared = Path(tempfile.gettempdir(), f"{_PREFIX}{os.getuid()}")
    for _ in range(_ATTEMPTS):
        with suppress(FileNotFoundError, FileExistsError):
            shared.mkdir(mode=0o700, exist_ok=True)
            if not _is_own(shared):
                break
            return Path(tempfile.mkdtemp(dir=shared)).resolve()
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX), "worker").resolve()  # another user has taken the name
    folder.mkdir(mode=0o700)
    return folder


def remove_worker_folder(folder: Path) -> None:
    """Remove a worker's folder, and the shared one if it was the last in it."""
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):
        folder.parent.rmdir()


def _is_own(folder: Path) -> bool:
    """Whether a path is a folder, not a link, that only this user can change."""
    facts = folder.lstat()
    return stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.getuid() and not facts.st_mode & 0o022
