"""A web server for tests, which can misbehave in every way that a download has to survive."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread


@dataclass
class Page:
    """One address of the server.

    Attributes:
        content: what it serves.
        cuts: after how many bytes of an answer the connection breaks, one answer after another; then no more.
        has_ranges: whether a part can be asked for.
        etag: of this content; None: its hash; empty: none is sent.
        last_modified: as sent; empty: none is sent.
        statuses: the codes of the first answers, one after another; then 200.
        headers: further ones of every answer.
        has_length: whether Content-Length is sent; without it the body ends with the connection.
        wait_seconds: between the answer's head and its body.
        asked: the Range header of each request so far.
    """

    content: bytes
    cuts: list[int] = field(default_factory=list)
    has_ranges: bool = True
    etag: str | None = None
    last_modified: str = ""
    statuses: list[int] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    has_length: bool = True
    wait_seconds: float = 0.0
    asked: list[str | None] = field(default_factory=list)

    @property
    def tag(self) -> str:
        return f'"{hashlib.sha256(self.content).hexdigest()[:16]}"' if self.etag is None else self.etag


@dataclass
class Site:
    """A running server: its address, and its pages by their path."""

    url: str
    pages: dict[str, Page] = field(default_factory=dict)

    def add(self, path: str, content: bytes, **how: object) -> Page:
        self.pages[path] = page = Page(content, **how)  # type: ignore[arg-type]
        return page


@contextmanager
def serving() -> Iterator[Site]:
    """A server on this machine, for the time of a test."""

    class Serves(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self, site.pages.get(self.path.lstrip("/")))

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Serves) as running:
        site = Site(f"http://127.0.0.1:{running.server_port}")
        running.daemon_threads = True
        running.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that went away
        thread = Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield site
        finally:  # pytest would wait for the thread for ever
            running.shutdown()
            thread.join()


def answer(request: BaseHTTPRequestHandler, page: Page | None) -> None:
    if page is None:
        return request.send_error(404)
    asked = request.headers.get("Range")
    page.asked.append(asked)
    status = page.statuses.pop(0) if page.statuses else 200
    body, headers = page.content, dict(page.headers)
    if status != 200:
        body = b""
    elif (start := _start(request, page)) is not None:
        if start >= len(page.content):
            status, body = 416, b""
            headers.setdefault("Content-Range", f"bytes */{len(page.content)}")
        else:
            status, body = 206, page.content[start:]
            headers.setdefault("Content-Range", f"bytes {start}-{len(page.content) - 1}/{len(page.content)}")
    if page.tag:
        headers.setdefault("ETag", page.tag)
    if page.last_modified:
        headers.setdefault("Last-Modified", page.last_modified)
    if page.has_length:
        headers.setdefault("Content-Length", str(len(body)))
    request.send_response(status)
    for name, value in headers.items():
        request.send_header(name, value)
    request.end_headers()
    if page.wait_seconds:
        Event().wait(page.wait_seconds)  # time.sleep is what tests take away
    is_cut = bool(body and page.cuts)
    request.wfile.write(body[: page.cuts.pop(0)] if is_cut else body)
    return None


def _start(request: BaseHTTPRequestHandler, page: Page) -> int | None:
    """Where the part that is asked for begins, if the server is willing and the file is still the same."""
    asked = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
    if asked is None or not page.has_ranges:
        return None
    condition = request.headers.get("If-Range")
    return int(asked[1]) if condition in (None, page.tag, page.last_modified or None) else None
