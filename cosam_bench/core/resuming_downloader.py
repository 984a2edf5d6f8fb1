"""A downloader for pooch that resumes where a broken connection ended."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from cosam_bench.core.errors import CosamError
from cosam_bench.core.files import CannotWrite, hold_alone, write_atomically
from cosam_bench.core.http_responses import (
    Interrupted,
    Origin,
    Refused,
    Stale,
    check_whole,
    resumed_size,
    root_cause,
)
from cosam_bench.core.progress_bar import ByteBar
from cosam_bench.core.version import __version__

if TYPE_CHECKING:
    from requests import Response

SILENCE_SECONDS = 30  # a server that says nothing for this long is gone
WAITS_SECONDS = (1.0, 3.0, 10.0, 30.0)  # before the attempts after the first
FIRST_TRIES = 3  # attempts as long as nothing has come at all: the address may be wrong
LONGEST_WAIT_SECONDS = 120.0  # of those that a server may ask for

_BLOCK_BYTES = 2**18


class ResumingDownloader:
    """Fetches one address to the file that pooch names, through a part file that outlives a failure.

    Args:
        target: the file's final path; the part file beside it has ``.part`` appended to its name.
        is_hash_known: pooch will compare the whole file with a published hash, so a part may be continued even if
            the server cannot say whether it is still valid.
        by_hand: what else the user can do, for errors.
        say: told about each broken connection.
    """

    def __init__(self, target: Path, *, is_hash_known: bool, by_hand: str, say: Callable[[str], None]) -> None:
        self._part = target.with_name(f"{target.name}.part")
        self._note = target.with_name(f"{target.name}.part.json")
        self._label = target.name
        self._is_hash_known = is_hash_known
        self._by_hand = by_hand
        self._say = say
        self._bar = ByteBar(self._label)

    def __call__(self, url: str, output_file: str, pooch: object) -> None:
        """Put the file at ``url`` to ``output_file``.

        Raises:
            CosamError: the address does not answer or refuses.
            CannotWrite: the folder cannot be written, or the disk is full.
            KeyboardInterrupt: its message says what is kept.
        """
        with self._alone() as file, self._bar:
            try:
                self._fetch(url, file)
                os.fsync(file.fileno())
                self._part.replace(output_file)
                self._note.unlink(missing_ok=True)
            except OSError as error:
                raise CannotWrite(
                    f"{self._part} cannot be written: {error.strerror or error}. {self._kept(file)} Free space, or "
                    "choose another folder."
                ) from None
            except KeyboardInterrupt as stop:
                stop.args = (self._kept(file) or "Nothing was fetched yet.",)
                raise
            finally:
                if self._part.exists() and not _size(file):
                    self._part.unlink()
                    self._note.unlink(missing_ok=True)

    @contextmanager
    def _alone(self) -> Iterator[FileIO]:
        """The part file, opened for this process alone; a killed process holds no lock."""
        busy = CosamError(f"Another process is fetching {self._label} to {self._part}. Wait for it, or stop it.")
        try:
            file = self._part.open("ab", buffering=0)  # no second failure on closing a full disk
        except OSError as error:
            raise CannotWrite(f"{self._part} cannot be written: {error.strerror}. Choose another folder.") from None
        with file:
            hold_alone(file, busy=busy, path=self._part)
            yield file

    def _fetch(self, url: str, file: FileIO) -> None:
        """Try again and again until the part file is whole."""
        tries, furthest = 0, _size(file)
        is_fresh = True
        while True:
            try:
                return self._attempt(url, file)
            except Refused as refusal:
                self._give_up(url, str(refusal), file)
            except Stale:
                if not is_fresh:
                    self._give_up(url, "the server's answers contradict each other", file)
                is_fresh = False
                file.truncate(0)
            except Interrupted as interruption:
                tries = 0 if _size(file) >= furthest + _BLOCK_BYTES else tries + 1
                furthest = max(furthest, _size(file))
                if tries > len(WAITS_SECONDS) or (not furthest and tries >= FIRST_TRIES):
                    self._give_up(url, str(interruption), file)
                wait = max(WAITS_SECONDS[max(tries - 1, 0)], min(interruption.wait_seconds, LONGEST_WAIT_SECONDS))
                with self._bar.paused():
                    self._say(f"{self._label}: {interruption}; trying again in {wait:.0f} s.")
                time.sleep(wait)

    def _give_up(self, url: str, reason: str, file: FileIO) -> NoReturn:
        parts = [f"{url} could not be fetched: {reason}.", self._kept(file), self._by_hand]
        raise CosamError(" ".join(part for part in parts if part)) from None

    def _kept(self, file: FileIO) -> str:
        with suppress(OSError, ValueError):
            if size := _size(file):
                return f"{size / 2**20:,.1f} MiB are kept in {self._part}; run the same command to continue."
        return ""

    def _attempt(self, url: str, file: FileIO) -> None:
        """One request, starting at the end of the part file."""
        import requests
        import urllib3

        # "identity": an archive is wanted as it is on the server, and its length is that of its bytes.
        headers = {"Accept-Encoding": "identity", "User-Agent": f"cosam-bench/{__version__}"}
        origin = self._known_origin(url)
        if origin is None or not _size(file):
            origin = None
            file.truncate(0)
        else:
            headers["Range"] = f"bytes={_size(file)}-"
            if origin.validator:
                headers["If-Range"] = origin.validator
        try:
            with requests.get(url, headers=headers, stream=True, timeout=SILENCE_SECONDS) as response:
                total = self._accept(response, url, file, origin)
                if _size(file) != total:  # otherwise the part is whole already
                    self._receive(response, file, total)
        except (requests.ConnectionError, requests.Timeout) as error:
            if isinstance(error, requests.exceptions.SSLError):
                raise Refused(f"the connection is not safe ({root_cause(error)})") from None
            raise Interrupted(f"no connection ({root_cause(error)})") from None
        except requests.RequestException as error:  # not an address, or too many redirections
            raise Refused(str(error)) from None
        except urllib3.exceptions.HTTPError as error:
            reason = "" if isinstance(error, urllib3.exceptions.ProtocolError) else f" ({root_cause(error)})"
            raise Interrupted(f"the connection was cut after {_size(file) / 2**20:,.1f} MiB{reason}") from None

    def _known_origin(self, url: str) -> Origin | None:
        """The file that the part file belongs to; None if the part may not be continued."""
        try:
            origin = Origin(**json.loads(self._note.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None
        return origin if origin.url == url and (origin.validator or self._is_hash_known) else None

    def _accept(self, response: Response, url: str, file: FileIO, origin: Origin | None) -> int | None:
        """The whole file's size, if the server states it, after checking that the response fits the part file."""
        if origin is not None and response.status_code in (206, 416):
            return resumed_size(response, have=_size(file), origin=origin)
        check_whole(response, accepts_html=self._label.endswith((".html", ".htm")))
        file.truncate(0)  # the server does not support ranges, or has another version of the file
        found = Origin.of(response, url)
        write_atomically(self._note, json.dumps(asdict(found)))
        return found.size_bytes

    def _receive(self, response: Response, file: FileIO, total: int | None) -> None:
        have = _size(file)
        free = shutil.disk_usage(self._part.parent).free
        if total is not None and total - have > free:
            raise CannotWrite(
                f"{self._label} needs {(total - have) / 2**20:,.0f} MiB more, but {self._part.parent} has "
                f"{free / 2**20:,.0f} MiB free. Free space or choose another folder."
            )
        self._bar.show(have, total)
        for block in response.raw.stream(_BLOCK_BYTES, decode_content=False):
            write_whole(file, block)
            self._bar.advance(len(block))
        if total is not None and _size(file) < total:
            raise Interrupted(f"the connection was cut after {_size(file) / 2**20:,.1f} of {total / 2**20:,.1f} MiB")
        if total is not None and _size(file) > total:
            raise Stale


def write_whole(file: FileIO, block: bytes) -> None:
    """Write all of a block: an unbuffered file takes only as much as there is room for."""
    rest = memoryview(block)
    while rest:
        rest = rest[file.write(rest) :]


def _size(file: FileIO) -> int:
    return file.seek(0, os.SEEK_END)
