"""A downloader for pooch that goes on where a cut connection ended (RFC 9110, sections 13.1.5 and 14)."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from cosam_bench.core.errors import CosamError
from cosam_bench.core.files import CannotWrite, hold_alone, write_atomically
from cosam_bench.core.progress_bar import ByteBar
from cosam_bench.core.version import __version__

if TYPE_CHECKING:
    from requests import Response

SILENCE_SECONDS = 30  # a server that says nothing for so long is gone
WAITS_SECONDS = (1.0, 3.0, 10.0, 30.0)  # before the attempts after the first
FIRST_TRIES = 3  # attempts as long as nothing has come at all: the address may be wrong
LONGEST_WAIT_SECONDS = 120.0  # of those that a server may ask for

_BLOCK_BYTES = 2**18
_PASSING = (408, 425, 429, 500, 502, 503, 504)  # answers after which the same request may succeed
_REASONS = {
    401: "it asks for a login",
    403: "the server refuses it, so perhaps a login is needed, or the address holds for a short time only",
    404: "it is not there; it may have moved",
    410: "it was taken away",
}


class _Cut(Exception):
    """This attempt ended early, and another one may succeed; ``wait_seconds`` as far as the server asks."""

    def __init__(self, reason: str, *, wait_seconds: float = 0.0) -> None:
        super().__init__(reason)
        self.wait_seconds = wait_seconds


class _Stale(Exception):
    """What is kept is no beginning of what the server has now."""


@dataclass(frozen=True)
class _Origin:
    """What the kept part is a part of: the address, and how the server told this version from others."""

    url: str
    etag: str = ""
    last_modified: str = ""
    size_bytes: int | None = None

    @property
    def validator(self) -> str:
        """For If-Range, which takes strong validators alone."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.last_modified


class ResumingDownloader:
    """Fetches one address to the file that pooch names, by way of a part file that outlives a failure.

    Args:
        target: the file's final path; the part file beside it is called so, with ``.part`` behind.
        is_hash_known: pooch will compare the whole file with a published hash, so parts of which the server
            cannot say whether they still hold may be gone on with.
        by_hand: what else the user can do, for errors.
        say: told of each cut connection.
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
            KeyboardInterrupt: with what is kept as its message.
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
            except KeyboardInterrupt:
                raise KeyboardInterrupt(self._kept(file) or "Nothing was fetched yet.") from None
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
        """Attempt after attempt until the part file is whole."""
        tries, furthest = 0, _size(file)
        is_fresh = True
        while True:
            try:
                return self._attempt(url, file)
            except _Stale:
                if not is_fresh:
                    self._give_up(url, "the server's answers contradict each other", file)
                is_fresh = False
                file.truncate(0)
            except _Cut as cut:
                tries = 0 if _size(file) >= furthest + _BLOCK_BYTES else tries + 1
                furthest = max(furthest, _size(file))
                if tries > len(WAITS_SECONDS) or (not furthest and tries >= FIRST_TRIES):
                    self._give_up(url, str(cut), file)
                wait = max(WAITS_SECONDS[max(tries - 1, 0)], min(cut.wait_seconds, LONGEST_WAIT_SECONDS))
                with self._bar.paused():
                    self._say(f"{self._label}: {cut}; going on in {wait:.0f} s.")
                time.sleep(wait)

    def _give_up(self, url: str, reason: str, file: FileIO) -> NoReturn:
        parts = [f"{url} could not be fetched: {reason}.", self._kept(file), self._by_hand]
        raise CosamError(" ".join(part for part in parts if part))

    def _kept(self, file: FileIO) -> str:
        with suppress(OSError, ValueError):
            if size := _size(file):
                return f"{size / 2**20:,.1f} MiB are kept in {self._part}; the same command goes on there."
        return ""

    def _attempt(self, url: str, file: FileIO) -> None:
        """One request, from the end of the part file on."""
        import requests
        import urllib3

        # "identity": an archive is wanted as it lies on the server, and its length is that of its bytes.
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
                if _size(file) != total:  # else the part is whole already
                    self._receive(response, file, total)
        except (requests.ConnectionError, requests.Timeout) as error:
            if isinstance(error, requests.exceptions.SSLError):
                self._give_up(url, f"the connection is not safe ({_root(error)})", file)
            raise _Cut(f"no connection ({_root(error)})") from None
        except requests.RequestException as error:  # no address at all, too many redirections
            self._give_up(url, str(error), file)
        except urllib3.exceptions.HTTPError as error:
            reason = "" if isinstance(error, urllib3.exceptions.ProtocolError) else f" ({_root(error)})"
            raise _Cut(f"the connection was cut after {_size(file) / 2**20:,.1f} MiB{reason}") from None

    def _known_origin(self, url: str) -> _Origin | None:
        """What the part file is a part of, where it may be gone on with."""
        try:
            origin = _Origin(**json.loads(self._note.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None
        return origin if origin.url == url and (origin.validator or self._is_hash_known) else None

    def _accept(self, response: Response, url: str, file: FileIO, origin: _Origin | None) -> int | None:
        """The whole file's size as far as the server says, once its answer is known to fit the part file."""
        code, have = response.status_code, _size(file)
        if code == 206 and origin is not None:
            return _rest(response, have, origin)
        if code == 416 and origin is not None:
            total = response.headers.get("Content-Range", "").removeprefix("bytes */")
            if total == str(have) and origin.size_bytes in (None, have):
                return have
            raise _Stale
        if code in _PASSING:
            raise _Cut(f"the server answers {code} {response.reason}", wait_seconds=_asked_seconds(response))
        if code != 200:
            self._give_up(url, f"{_REASONS.get(code, 'an unexpected answer')} ({code} {response.reason})", file)
        if "text/html" in response.headers.get("Content-Type", "") and not self._label.endswith((".html", ".htm")):
            self._give_up(url, "the server sends a web page in place of the file", file)
        file.truncate(0)  # the server has no ranges, or another version of the file
        length = response.headers.get("Content-Length", "")
        found = _Origin(
            url,
            etag=response.headers.get("ETag", ""),
            last_modified=response.headers.get("Last-Modified", ""),
            size_bytes=int(length) if length.isdigit() else None,
        )
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
            raise _Cut(f"the connection was cut after {_size(file) / 2**20:,.1f} of {total / 2**20:,.1f} MiB")
        if total is not None and _size(file) > total:
            raise _Stale


def _rest(response: Response, have: int, origin: _Origin) -> int | None:
    """The whole file's size, after a look whether this is the rest of what is kept."""
    given = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", response.headers.get("Content-Range", "").strip())
    etag = response.headers.get("ETag", origin.etag)
    if given is None or int(given[1]) != have or etag != origin.etag:
        raise _Stale
    total = None if given[3] == "*" else int(given[3])
    if total is not None and origin.size_bytes not in (None, total):
        raise _Stale
    return origin.size_bytes if total is None else total


def _asked_seconds(response: Response) -> float:
    """How long the server asks to wait; a date in place of seconds is passed over."""
    asked = response.headers.get("Retry-After", "")
    return float(asked) if asked.isdecimal() else 0.0


def write_whole(file: FileIO, block: bytes) -> None:
    """Write all of a block: an unbuffered file takes as much as there is room for."""
    rest = memoryview(block)
    while rest:
        rest = rest[file.write(rest) :]


def _size(file: FileIO) -> int:
    return file.seek(0, os.SEEK_END)


def _root(error: BaseException) -> str:
    """What is behind an error of requests or urllib3, in one line."""
    while True:
        inner = getattr(error, "reason", None) or next((arg for arg in error.args if isinstance(arg, Exception)), None)
        if not isinstance(inner, Exception):
            break
        error = inner
    text = re.sub(r"\[Errno -?\d+\] |^(<.*?>|HTTPS?Connection(Pool)?\(.*?\)): ", "", str(error).strip())
    return (text or type(error).__name__).splitlines()[0].rstrip(".")
