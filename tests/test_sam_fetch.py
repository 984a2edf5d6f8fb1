from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from cosam_bench.errors import CosamError
from cosam_bench.sam import models
from cosam_bench.sam.fetch import fetch_checkpoint

WEIGHTS = bytes(range(256)) * 20_000


class Serves(BaseHTTPRequestHandler):
    """``/cut`` stops half way, ``/gone`` is not there, all else is the file."""

    def do_GET(self) -> None:
        self.send_response(404 if self.path == "/gone" else 200)
        self.send_header("Content-Length", str(len(WEIGHTS)))
        self.end_headers()
        if self.path != "/gone":
            self.wfile.write(WEIGHTS[: len(WEIGHTS) // 2] if self.path == "/cut" else WEIGHTS)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Serves) as running:
        thread = Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def offer(monkeypatch: pytest.MonkeyPatch, url: str, *, content: bytes = WEIGHTS) -> None:
    spec = replace(models.MODELS["vit_b"], url=url, sha256=hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(models, "MODELS", {"vit_b": spec})


def test_the_right_file_arrives_once(server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    offer(monkeypatch, f"{server}/weights.pth")
    monkeypatch.setenv("COSAM_BENCH_CACHE", str(tmp_path / "cache"))
    path = fetch_checkpoint("vit_b")
    assert path == tmp_path / "cache" / "weights.pth"
    assert path.read_bytes() == WEIGHTS
    offer(monkeypatch, "http://127.0.0.1:9/weights.pth")
    assert fetch_checkpoint("vit_b") == path


@pytest.mark.parametrize("page", ["other", "cut"])
def test_a_wrong_or_cut_file_leaves_nothing_behind(
    server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, page: str
) -> None:
    offer(monkeypatch, f"{server}/{page}", content=b"something else" if page == "other" else WEIGHTS)
    with pytest.raises(CosamError, match=f"{server}/{page} .*by hand to {tmp_path}"):
        fetch_checkpoint("vit_b", folder=tmp_path)
    assert [*tmp_path.iterdir()] == []


def test_a_server_that_lacks_it_is_named(server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    offer(monkeypatch, f"{server}/gone")
    with pytest.raises(CosamError, match=r"/gone could not be fetched.*404.*by hand"):
        fetch_checkpoint("vit_b", folder=tmp_path)
    assert [*tmp_path.iterdir()] == []


def test_a_server_that_is_not_there_is_named(server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    offer(monkeypatch, "http://127.0.0.1:9/weights.pth")
    with pytest.raises(CosamError, match=r"127\.0\.0\.1:9/weights\.pth could not be fetched"):
        fetch_checkpoint("vit_b", folder=tmp_path)


def test_the_embedded_model_needs_no_fetching() -> None:
    with pytest.raises(CosamError, match="part of the package"):
        fetch_checkpoint("tiny")
