from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.web import serving
from typer.testing import CliRunner

from cosam_bench.cli.main import app
from cosam_bench.core import resuming_downloader as resuming
from cosam_bench.core.errors import CosamError
from cosam_bench.sam import models
from cosam_bench.sam.checkpoints import fetch_checkpoint

WEIGHTS = bytes(range(256)) * 20_000


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(resuming, "WAITS_SECONDS", (0.0,) * 4)
    with serving() as site:
        site.add("weights.pth", WEIGHTS)
        site.add("other", WEIGHTS)
        site.add("cut", WEIGHTS, cuts=[len(WEIGHTS) // 2] * 99, has_ranges=False)
        yield site.url


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


def test_a_wrong_file_leaves_nothing_behind(server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    offer(monkeypatch, f"{server}/other", content=b"something else")
    with pytest.raises(CosamError, match=f"{server}/other .*by hand to {tmp_path}"):
        fetch_checkpoint("vit_b", folder=tmp_path)
    assert [*tmp_path.iterdir()] == []


def test_a_cut_file_never_gets_its_name(server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    offer(monkeypatch, f"{server}/cut")
    with pytest.raises(CosamError, match=f"{server}/cut .* are kept in .*by hand to {tmp_path}"):
        fetch_checkpoint("vit_b", folder=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut.part", "cut.part.json"]


def test_the_command_says_why_it_waits(server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    offer(monkeypatch, f"{server}/cut")
    monkeypatch.setenv("COSAM_BENCH_CACHE", str(tmp_path))
    result = CliRunner().invoke(app, ["models", "--fetch", "vit_b"])
    assert result.exit_code == 2
    assert result.stderr.startswith(f"Note: Fetching {server}/cut\n")
    assert "Note: cut: the connection was cut after" in result.stderr
    assert "trying again in 0 s." in result.stderr


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
