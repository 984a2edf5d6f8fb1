"""What killed processes left in a folder of results, and what runs share there: found, and removed."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cosam_bench.core.errors import CosamError
from cosam_bench.core.files import (
    ABANDONED_SECONDS,
    LOCK,
    CannotWrite,
    is_locked,
    is_temporary,
    only_writer,
    remove_free_lock,
)
from cosam_bench.results.records import BOARD, SHARED, STATES, STEPS, TRIALS, TUNED, is_record_name
from cosam_bench.results.run_info import read_run_info

CACHES = ("experts", "image_scores", "prefix", "rows", "tasks")
"""The folders in ``_shared`` whose files are computed again if they are missing; prompts are kept."""


@dataclass(frozen=True)
class Removable:
    """A file or folder that can be removed without losing a result.

    Attributes:
        path: of the file or folder.
        size_bytes: of the file, or of all files in the folder.
        used: the time of its last use, in seconds since 1970.
    """

    path: Path
    size_bytes: int
    used: float

    def remove(self) -> bool:
        """Remove it, and return whether it is gone; a process may have begun to use it again.

        Raises:
            CannotWrite: the folder cannot be written.
        """
        try:
            if self.path.suffix == LOCK or self.path.name == LOCK:
                remove_free_lock(self.path)
            elif self.path.is_dir():
                _remove_folder(self.path)
            else:
                self.path.unlink(missing_ok=True)
        except FileNotFoundError:
            return True
        except OSError as error:
            text = f"{self.path} cannot be removed: {error.strerror or error}. Check who owns it."
            raise CannotWrite(text) from None
        return not self.path.exists()


def leftovers(results: Path) -> list[Removable]:
    """Half-written files, locks that no process holds, states of trials, and the steps of records that are complete.

    Only in the places that runs write to: whatever else lies in the folder is not this package's. Steps of other
    records are kept: the same run continues from them.

    Raises:
        CosamError: the folder does not exist.
    """
    if not results.is_dir():
        raise CosamError(f"No folder {results}. Give the folder of results.")
    found = []
    for path in sorted(_written_by_runs(results)):
        if path.is_symlink():
            continue
        if path.is_dir():
            if _is_leftover(path) and not (_is_states(path) and _is_held(path.parent)):
                found.append(path)
        elif is_temporary(path):
            found += [path] if time.time() - _used(path) > ABANDONED_SECONDS else []
        elif path.name == LOCK or (path.suffix == LOCK and path.parent.name in CACHES):
            found += [] if is_locked(path) else [path]
    return [_removable(path) for path in found]


def _written_by_runs(results: Path) -> Iterator[Path]:
    """All that is in the records, in what they share and in trials of tuning; and the leaderboard being written."""
    records = (path for path in results.glob("[!_.]*/*/*") if is_record_name(path.name) or _has_info(path))
    for folder in (results / SHARED, results / TUNED, *records):
        yield from folder.rglob("*")
    yield from results.glob(f".{BOARD}.*")


def _has_info(folder: Path) -> bool:
    return (folder / "run.json").is_file()


def cached(results: Path) -> list[Removable]:
    """The files that runs share to save time, the one that was written or read longest ago first."""
    folders = [results / SHARED / name for name in CACHES]
    paths = [path for folder in folders if folder.is_dir() for path in folder.iterdir() if path.is_file()]
    kept = [_removable(path) for path in paths if not is_temporary(path) and path.suffix != ".lock"]
    return sorted(kept, key=lambda one: (one.used, one.path))


def to_free(
    files: Sequence[Removable], *, older_than_days: float | None = None, limit_bytes: int | None = None
) -> list[Removable]:
    """Which of the files, as ``cached`` sorts them, are too old, or too many for a limit of their total size.

    Args:
        files: the oldest first.
        older_than_days: free what was not used for so long; None: do not look at the age.
        limit_bytes: then free the oldest until the rest has at most this size; None: no limit.
    """
    oldest = -float("inf") if older_than_days is None else time.time() - older_than_days * 86_400
    left = sum(one.size_bytes for one in files)
    chosen = []
    for one in files:
        if one.used < oldest or (limit_bytes is not None and left > limit_bytes):
            chosen.append(one)
            left -= one.size_bytes
    return chosen


def _remove_folder(folder: Path) -> None:
    """Remove a folder that is still a leftover, unless a process writes the record or tunes the method."""
    with suppress(_Busy), only_writer(folder.parent, busy=_Busy()):
        if _is_leftover(folder):
            shutil.rmtree(folder)
            (folder.parent / LOCK).unlink(missing_ok=True)


def _is_leftover(folder: Path) -> bool:
    """Whether a folder has the steps of a complete record, or a trial's states."""
    return _is_states(folder) or (folder.name == STEPS and _is_complete(folder.parent))


def _is_states(folder: Path) -> bool:
    return folder.name.startswith(STATES) and (folder.parent / TRIALS).is_file()


def _is_held(folder: Path) -> bool:
    """Whether a process is the writer of a folder."""
    return (folder / LOCK).exists() and is_locked(folder / LOCK)


class _Busy(CosamError):
    """A process writes the record again, or tunes the method."""


def _is_complete(folder: Path) -> bool:
    with suppress(CosamError):
        return read_run_info(folder / "run.json").status == "complete"
    return False


def _removable(path: Path) -> Removable:
    files = _files(path) if path.is_dir() else iter([path])
    return Removable(path, sum(_size(file) for file in files), _used(path))


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def _size(path: Path) -> int:
    with suppress(OSError):  # another process may have removed it
        return path.stat().st_size
    return 0


def _used(path: Path) -> float:
    with suppress(OSError):
        return path.stat().st_mtime
    return time.time()
