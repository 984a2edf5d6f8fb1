"""Fetching the files of cards with direct addresses.

A file without a published hash must stay as first fetched, unless a manifest lists the hashes of what it holds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cosam_bench.core.downloads import Say, download, no_message
from cosam_bench.core.errors import CosamError
from cosam_bench.core.files import write_atomically
from cosam_bench.core.settings import read_toml
from cosam_bench.data.acquire.archive_formats import is_archive_name
from cosam_bench.data.acquire.extraction import DataFile
from cosam_bench.data.cards import Card, Download
from cosam_bench.data.locations import data_folder

HASHES = "hashes.toml"


def archives_folder() -> Path:
    """The folder of fetched files."""
    return data_folder() / "_archives"


def fetch_files(card: Card, *, say: Say = no_message) -> list[DataFile]:
    """A card's files, fetched unless they are there already.

    Raises:
        CosamError: an address does not answer, or serves another file than the card states or than was first fetched.
        CannotWrite: the data folder cannot be written.
        KeyboardInterrupt: Ctrl-C; what was fetched is kept.
    """
    return [_fetch(card, wanted, say=say) for wanted in card.downloads]


def _fetch(card: Card, wanted: Download, *, say: Say) -> DataFile:
    path = archives_folder() / wanted.file
    known = known_hashes().get(wanted.file, {})
    first = known.get("sha256", "") if known.get("url") == wanted.url else ""
    if card.split.kind == "manifest":
        first = ""  # its files are checked one by one, and archives of a commit need not stay the same bytes
    by_hand = f"Or fetch it by hand to {path}, and run the same command again."
    if first and not wanted.sha256:
        by_hand += (
            f" That sha256 is of the first download from there. If you trust the new file, remove "
            f'["{wanted.file}"] from {archives_folder() / HASHES}.'
        )
    if not path.is_file():
        say(f"Fetching {wanted.url}")
    download(wanted.url, to=path, sha256=wanted.sha256 or first, by_hand=by_hand, say=say)
    size = path.stat().st_size
    if wanted.size_bytes not in (0, size):
        say(f"{wanted.file} has {size:,} bytes, but the card of {card.name} states {wanted.size_bytes:,}.")
    return DataFile(path, wanted.folder, is_archive=is_archive_name(path))


def record_hashes(card: Card, sha256: dict[str, str]) -> None:
    """Record the hashes of files that could be unpacked, so that a later download must be the same.

    Args:
        card: whose files they are.
        sha256: by file name.

    Raises:
        CannotWrite: the data folder cannot be written.
    """
    import tomli_w

    known = known_hashes()
    new = {one.file: {"url": one.url, "sha256": sha256[one.file]} for one in card.downloads}
    if known | new != known:
        write_atomically(archives_folder() / HASHES, tomli_w.dumps(dict(sorted((known | new).items()))))


def discard_damaged(card: Card, path: Path) -> bool:
    """Remove a fetched file that turned out to be damaged, unless its hash shows that it is as published.

    Returns:
        Whether it was removed.
    """
    wanted = next((one for one in card.downloads if archives_folder() / one.file == path), None)
    if wanted is None or wanted.sha256 or wanted.file in known_hashes():
        return False
    path.unlink(missing_ok=True)
    return True


def known_hashes() -> dict[str, dict[str, Any]]:
    """Address and sha256 of the files fetched so far, by file name.

    Raises:
        CosamError: the file that records them is damaged.
    """
    path = archives_folder() / HASHES
    if not path.exists():
        return {}
    known = read_toml(path)
    if not all(isinstance(entry, dict) for entry in known.values()):
        raise CosamError(f"{path} is damaged. Delete it; the fetched files are then trusted as they are.")
    return known
