"""Downloads over HTTP that resume after a broken connection; a file with the wrong hash never gets its name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cosam_bench.core.errors import CosamError
from cosam_bench.core.files import CannotWrite
from cosam_bench.core.hashing import sha256_file

Say = Callable[[str], None]


def no_message(_: str) -> None:
    """Ignore the message."""


def download(url: str, *, to: Path, sha256: str = "", by_hand: str = "", say: Say = no_message) -> str:
    """The sha256 of the file at ``to``, fetched from ``url`` first if it is not there yet.

    While it is fetched it is called ``to`` with ``.part`` appended; the next call continues where that file ends,
    if the server still has the same file and can send the rest. A bar is shown if the standard error is a
    terminal.

    Args:
        url: address, ``http`` or ``https``.
        to: path of the file; its folder is made.
        sha256: the file's expected hash; empty: accept what the server sends, or what is there already.
        by_hand: a sentence that says what else the user can do, for errors.
        say: told about what takes long or goes wrong on the way.

    Raises:
        CosamError: the address does not answer, refuses, or serves something else.
        CannotWrite: the folder cannot be written, or the disk is full; what has arrived is kept.
        KeyboardInterrupt: Ctrl-C; its message says what is kept.
    """
    import pooch

    from cosam_bench.core.resuming_downloader import ResumingDownloader

    if to.is_file():
        found = sha256_file(to)
        if sha256 in ("", found):
            return found
        say(f"{to} is not the expected file (sha256 {found}, not {sha256}); fetching it again.")
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CannotWrite(f"{to.parent} cannot be made: {error.strerror}. Choose another folder.") from None
    pooch.get_logger().setLevel("WARNING")  # its notices would mix with our own output
    known = f"sha256:{sha256}" if sha256 else None
    downloader = ResumingDownloader(to, is_hash_known=bool(sha256), by_hand=by_hand, say=say)
    try:
        pooch.retrieve(url, known_hash=known, fname=to.name, path=to.parent, downloader=downloader)
    except ValueError:  # how pooch reports a wrong hash
        raise CosamError(
            f"{url} does not serve the expected file: its sha256 is not {sha256}. Nothing was kept. Try once more; "
            f"if this repeats, the publisher has changed the file. {by_hand}"
        ) from None
    except OSError as error:  # of pooch's own file beside ours; those of the connection are told apart already
        raise CannotWrite(f"{to} cannot be written: {error.strerror or error}. Choose another folder.") from None
    return sha256 or sha256_file(to)
