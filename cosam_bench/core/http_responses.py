"""What a server's answer says about a file of which a part is already there (RFC 9110, sections 13.1.5 and 14)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from requests import Response

_TEMPORARY = (408, 425, 429, 500, 502, 503, 504)  # statuses after which the same request may succeed
_REASONS = {
    401: "it requires a login",
    403: "the server refuses it; a login may be needed, or the address may have expired",
    404: "it is not there; it may have moved",
    410: "it was taken away",
}


class Interrupted(Exception):
    """This attempt ended early, and another one may succeed; ``wait_seconds`` is the delay the server asks for."""

    def __init__(self, reason: str, *, wait_seconds: float = 0.0) -> None:
        super().__init__(reason)
        self.wait_seconds = wait_seconds


class Stale(Exception):
    """The part that is kept is not the beginning of the file that the server has now."""


class Refused(Exception):
    """No further attempt can succeed."""


@dataclass(frozen=True)
class Origin:
    """The file that a kept part belongs to: its address, and what the server tells this version from others by."""

    url: str
    etag: str = ""
    last_modified: str = ""
    size_bytes: int | None = None

    @classmethod
    def of(cls, response: Response, url: str) -> Origin:
        """The file that a response brings as a whole."""
        headers = response.headers
        length = headers.get("Content-Length", "")
        size_bytes = int(length) if length.isdigit() else None
        return cls(url, headers.get("ETag", ""), headers.get("Last-Modified", ""), size_bytes)

    @property
    def validator(self) -> str:
        """For If-Range, which takes only strong validators."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.last_modified


def check_whole(response: Response, *, accepts_html: bool) -> None:
    """See that a response brings a whole file.

    Raises:
        Interrupted: the server asks to come back later.
        Refused: it answers with an error, or with a web page instead of the file.
    """
    code = response.status_code
    if code in _TEMPORARY:
        asked = response.headers.get("Retry-After", "")  # a date instead of seconds is ignored
        wait_seconds = float(asked) if asked.isdecimal() else 0.0
        raise Interrupted(f"the server answers {code} {response.reason}", wait_seconds=wait_seconds)
    if code != 200:
        raise Refused(f"{_REASONS.get(code, 'an unexpected answer')} ({code} {response.reason})")
    if "text/html" in response.headers.get("Content-Type", "") and not accepts_html:
        raise Refused("the server sends a web page in place of the file")


def resumed_size(response: Response, *, have: int, origin: Origin) -> int | None:
    """The whole file's size, as far as the server states it, from its answer 206 or 416 to a request for the rest.

    Args:
        have: bytes of the kept part.
        origin: the file that the part belongs to.

    Raises:
        Stale: the answer does not continue that part.
    """
    stated = response.headers.get("Content-Range", "").strip()
    if response.status_code == 416:  # nothing is left to send if the part is whole
        if stated.removeprefix("bytes */") == str(have) and origin.size_bytes in (None, have):
            return have
        raise Stale
    given = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", stated)
    if given is None or int(given[1]) != have or response.headers.get("ETag", origin.etag) != origin.etag:
        raise Stale
    total = None if given[3] == "*" else int(given[3])
    if total is not None and origin.size_bytes not in (None, total):
        raise Stale
    return origin.size_bytes if total is None else total


def root_cause(error: BaseException) -> str:
    """The innermost cause of an error of requests or urllib3, in one line."""
    while True:
        inner = getattr(error, "reason", None) or next((arg for arg in error.args if isinstance(arg, Exception)), None)
        if not isinstance(inner, Exception):
            break
        error = inner
    text = re.sub(r"\[Errno -?\d+\] |^(<.*?>|HTTPS?Connection(Pool)?\(.*?\)): ", "", str(error).strip())
    return (text or type(error).__name__).splitlines()[0].rstrip(".")
