"""Fetching published weights into the user's cache, checked by their sha256."""

from __future__ import annotations

import sys
from pathlib import Path

import pooch
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from cosam_bench.errors import CosamError
from cosam_bench.sam.models import cache_folder, model_spec

_WAIT_SECONDS = 30


def fetch_checkpoint(name: str, *, folder: Path | None = None) -> Path:
    """The path of a model's published weights, fetched first if they are not there yet.

    A file whose sha256 is wrong never reaches the folder. Progress is shown where the standard error is a
    terminal.

    Args:
        name: one of ``MODELS``.
        folder: where to put the file; none: the cache, see ``models.cache_folder``.

    Raises:
        CosamError: no such model, nothing to fetch for it, the address does not answer, or it serves
            something else.
    """
    spec = model_spec(name)
    if spec.url is None or spec.file_name is None:
        raise CosamError(f"The weights of {name} are part of the package: there is nothing to fetch.")
    target = folder or cache_folder()
    pooch.get_logger().setLevel("WARNING")  # its notices would stand among our own output
    by_hand = f"Fetch it by hand to {target / spec.file_name}, or give its path as the checkpoint."
    try:
        with _Bar(spec.file_name) as bar:
            found = pooch.retrieve(
                spec.url,
                known_hash=f"sha256:{spec.sha256}",
                fname=spec.file_name,
                path=target,
                downloader=pooch.HTTPDownloader(progressbar=bar, chunk_size=2**20, timeout=_WAIT_SECONDS),
            )
    except OSError as error:  # requests' own errors are among them
        raise CosamError(f"{spec.url} could not be fetched: {error}. {by_hand}") from None
    except ValueError:  # pooch's word for a wrong hash
        raise CosamError(
            f"{spec.url} does not serve the published file: its sha256 is not {spec.sha256}. "
            f"Nothing was kept. {by_hand}"
        ) from None
    return Path(found)


class _Bar:
    """A rich bar with the four members that pooch drives: total, update, reset, close."""

    def __init__(self, label: str) -> None:
        self.total = 0
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, disable=not sys.stderr.isatty())
        self._task = self._progress.add_task(label, total=None)

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def update(self, size_bytes: int) -> None:
        self._progress.update(self._task, total=self.total or None, advance=size_bytes)

    def reset(self) -> None:
        self._progress.reset(self._task)

    def close(self) -> None:
        self._progress.refresh()
